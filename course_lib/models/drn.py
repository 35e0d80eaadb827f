"""Dilated residual networks DRN-A, B, C and D: a ResNet that keeps its resolution, and degridding.

F. Yu, V. Koltun, T. Funkhouser, "Dilated Residual Networks", CVPR 2017: sections 2 (strides become
dilation) and 4 (degridding), figure 5 (A, B and C). The letter counts the steps taken, the number the
layers of the classification network::

    A   a ResNet whose last two groups are dilated by 2 and 4 instead of strided
    B   step 1, convolutions instead of the max-pooling; step 2, layers with dilation 2, then 1, at the end
    C   and step 3, no skip connections in the layers added at the end
    D   C with plain convolutions, fewer of them, in place of the residual blocks at both ends

Departures from the paper

* Of DRN-A's two dilated groups, the convolution that lost its stride keeps the dilation of the group
  before, as the paper derives it; the released code leaves that whole first block undilated. B, C and D
  dilate their groups throughout, as the released code does.
* C-58: the released code computes a 1x1 shortcut (2048 to 512 channels) where the added layers begin, and
  throws it away, having no skip there. It is left out: 1,049,600 parameters fewer than the paper's 41.6 M.
* The released head puts cell 0 of the scores at pixel 3.5; here it is half a pixel from pixel 0, its place.
* `width` makes networks that train from scratch on a laptop, and `stem` gives such a narrow one enough maps
  in its first levels. The defaults are the paper's.
* B1-22 is ours: a B after step 1 alone, which tells the two steps of B apart.
"""

from torch import Tensor, nn

from course_lib.models.blocks import BilinearUpsampling, conv_norm_relu
from course_lib.models.imagenet import imagenet_weights
from course_lib.models.resnet import RESNETS, BasicBlock, resnet_initialisation

ARCHS = {
    "A-18": 18,
    "A-34": 34,
    "A-50": 50,
    "B1-22": 18,
    "B-26": 18,
    "C-26": 18,
    "C-42": 34,
    "C-58": 50,
    "D-22": 18,
    "D-38": 34,
    "D-54": 50,
    "D-105": 101,
}
"""The networks, and the ResNet whose four groups of residual blocks each has in its middle."""


class DRN(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W), from scores at stride 8.

    Scores become logits by fixed bilinear upsampling, a transposed convolution as in FCN.

    Args:
        arch: Letter and layers, one of `ARCHS`.
        width: Channels of the first level (16 in the paper); a quarter of a ResNet's first 64.
        stem: The same for the levels before the residual groups alone; by default `width`.
        imagenet: Start from torchvision's ResNet (DRN-A at full width only: the others are no ResNets).
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        arch: str = "D-22",
        width: int = 16,
        stem: int | None = None,
        imagenet: bool = False,
    ):
        super().__init__()
        self.levels, channels = drn_levels(arch, width, stem)
        self.score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.upsample = BilinearUpsampling(num_classes, 8, learned=False)
        resnet_initialisation(self.levels)
        resnet_initialisation(self.score)
        if imagenet:
            self._load_resnet(arch, width)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features after each level, at strides 4, 4, 8, 8, 8 (A) or 1, 2, 4, 8, 8, 8, 8, 8 (others)."""
        features, levels = images, []
        for level in self.levels:
            features = level(features)
            levels.append(features)
        return levels

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the scores of the last features, enlarged: (N, classes, at least H, at least W), still uncropped."""
        scores = self.score(features[-1])  # (N, classes, H/8, W/8)
        return self.upsample(scores)[..., 7:, 7:]  # the kernel of 16 has its middle at 7.5

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        features = self.levels(images)  # (N, channels, H/8, W/8)
        logits = self.decode([features])
        return logits[..., :height, :width]

    def _load_resnet(self, arch: str, width: int) -> None:
        if arch[0] != "A" or width != 16:
            raise ValueError(
                f"ImageNet weights are there for A-18, A-34 and A-50 of width 16, not for {arch} of width {width}"
            )
        weights = imagenet_weights(f"resnet{ARCHS[arch]}")
        if weights is not None:
            load_resnet(self.levels, weights)


def classifier(arch: str = "D-22", num_classes: int = 1000, *, width: int = 16) -> nn.Sequential:
    """Return the classification network that the paper counts and pretrains: (N, 3, H, W) -> (N, classes)."""
    levels, channels = drn_levels(arch, width)
    resnet_initialisation(levels)
    return nn.Sequential(levels, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def drn_levels(arch: str, width: int = 16, stem: int | None = None) -> tuple[nn.Sequential, int]:
    """Return the levels of a DRN, (N, 3, H, W) -> (N, channels, H/8, W/8), and the channels of its last one.

    Raises:
        ValueError: For an unknown `arch`.
    """
    if arch not in ARCHS:
        raise ValueError(f"arch is one of {', '.join(ARCHS)}, not {arch!r}")
    letter = arch[0]
    levels, channels = first_levels(letter, stem or width)
    block, depths = RESNETS[ARCHS[arch]]
    plan = [(4, 2, 1), (8, 2, 1), (16, 1, 2), (32, 1, 4)]  # channels / width, stride, dilation
    for (factor, stride, dilation), depth in zip(plan, depths, strict=True):
        before = dilation  # of the convolution that has the stride, or has lost it
        if letter == "A":
            stride = 1 if factor == 4 else stride  # the max-pooling has done it
            before = max(dilation // 2, 1)
        group = nn.Sequential()
        for _ in range(depth):
            group.append(block(channels, factor * width, stride, before, dilation))
            channels, stride, before = factor * width * block.expansion, 1, dilation
        levels.append(group)
    if letter != "A" and not arch.startswith("B1"):
        levels.extend(degridding_levels(letter, channels, 32 * width))
        channels = 32 * width
    return levels, channels


def first_levels(letter: str, width: int) -> tuple[nn.Sequential, int]:
    """Return what comes before ResNet's first group, to stride 4 (A) or 2, and its channels."""
    if letter == "A":
        stem = conv_norm_relu(3, 4 * width, 7, stride=2)  # (N, 64, H/2, W/2)
        pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # (N, 64, H/4, W/4)
        return nn.Sequential(stem.append(pool)), 4 * width
    # degridding, step 1: convolutions do the work of the max-pooling
    full = conv_norm_relu(3, width, 7)  # (N, 16, H, W)
    if letter == "D":
        full.extend(conv_norm_relu(width, width))
        half = conv_norm_relu(width, 2 * width, stride=2)  # (N, 32, H/2, W/2)
    else:
        full.append(BasicBlock(width, width, 1, 1, 1))
        half = nn.Sequential(BasicBlock(width, 2 * width, 2, 1, 1))
    return nn.Sequential(full, half), 2 * width


def degridding_levels(letter: str, channels: int, out: int) -> nn.Sequential:
    """Return degridding's step 2, layers with dilation 2, then 1. In step 3 C's blocks lose their skips."""
    levels = nn.Sequential()
    for dilation in (2, 1):
        if letter == "B":
            level = nn.Sequential(BasicBlock(channels, out, 1, dilation, dilation))
        else:
            level = conv_norm_relu(channels, out, dilation=dilation)
        if letter == "C":  # a residual block without its skip is two convolutions
            level.extend(conv_norm_relu(out, out, dilation=dilation))
        levels.append(level)
        channels = out
    return levels


def load_resnet(levels: nn.Sequential, weights: dict[str, Tensor]) -> None:
    """Copy a ResNet of torchvision, less its last layer, into the levels of the DRN-A of its depth.

    Both name their layers in one order.

    Raises:
        ValueError: Where the number of layers differs.
        RuntimeError: Where a shape does.
    """
    values = [value for name, value in weights.items() if not name.startswith("fc.")]
    levels.load_state_dict(dict(zip(levels.state_dict(), values, strict=True)))
