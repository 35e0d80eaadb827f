"""Classification networks that segmentation networks grow out of, and their ImageNet weights.

Weights are data: `python -m data_scripts.weights vgg16` (or `course data get weights`) puts torchvision's
files into `data/weights`. Where they are absent a network trains from scratch, and says so.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.models.blocks import PointwiseConv
from course_lib.plumbing.paths import data_root

log = logging.getLogger(__name__)

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG16's 13 convolutions; a 2x2 max-pooling ends each stage."""


def vgg_stages(width: int = 64, norm: bool = False, padding: int = 1) -> nn.ModuleList:
    """The five convolutional stages of VGG16, each ending in its pooling: strides 2, 4, 8, 16, 32.

    width    channels of the first stage; 64 is VGG16, the others keep their ratio to it
    norm     batch normalisation after each convolution (torchvision's vgg16_bn)
    padding  of the very first convolution; FCN pads the picture by 100 there

    Pooling rounds up (Caffe's rule), so that no border pixel is dropped at odd sizes.
    """
    stages, channels = nn.ModuleList(), 3
    for stage, plan in enumerate(VGG16_STAGES):
        layers: list[nn.Module] = []
        for index, planned in enumerate(plan):
            out = planned * width // 64
            border = padding if stage == index == 0 else 1
            layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=border, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.ReLU(inplace=True))
            channels = out
        layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        stages.append(nn.Sequential(*layers))
    return stages


def weights_file(name: str) -> Path | None:
    """The file of torchvision's weights for `name` in data/weights, or None where it was not fetched."""
    found = sorted((data_root() / "weights").glob(f"{name}-*.pth"))
    return found[-1] if found else None


def imagenet_weights(name: str) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights for `name` ("vgg16"), or None, with a log line, where absent."""
    file = weights_file(name)
    if file is None:
        log.warning(
            "no ImageNet weights for %s in %s: training from scratch "
            '(get them with "python -m data_scripts.weights %s")',
            name,
            data_root() / "weights",
            name,
        )
        return None
    return torch.load(file, map_location="cpu", weights_only=True)


@torch.no_grad()
def copy_vgg16(weights: dict[str, Tensor], stages: nn.ModuleList, fc6: nn.Conv2d, fc7: nn.Conv2d) -> None:
    """Copy torchvision's VGG16: its fully connected layers become convolutions, number for number."""
    layers = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d)]
    names = [name for name in weights if name.startswith("features") and name.endswith("weight")]
    for layer, name in zip(layers, names, strict=True):
        layer.weight.copy_(weights[name])
        layer.bias.copy_(weights[name.replace("weight", "bias")])
    for layer, name in ((fc6, "classifier.0"), (fc7, "classifier.3")):
        layer.weight.copy_(weights[f"{name}.weight"].view_as(layer.weight))
        layer.bias.copy_(weights[f"{name}.bias"])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet-18 and 34): (N, in, h, w) -> (N, channels, h/stride, w/stride).

    before  dilation of the convolution that may have a stride; those after it have `dilation`
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, before: int, dilation: int):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride, before)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, channels, 1, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 beside a shortcut (ResNet-50 and 101): (N, in, h, w) -> (N, 4 channels, h/stride, w/stride).

    before  dilation of the only 3x3 convolution; `dilation` is there for the blocks to look alike
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, before: int, dilation: int):
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride, before)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


RESNETS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
"""Block and number of blocks in each of the four groups, by depth."""


class DilatedResNet(nn.Module):
    """A ResNet without its classifier, its last groups dilated instead of strided: see `dilated_resnet`.

    images (N, 3, H, W) -> the features of the four groups: strides 4, 8, then at most `output_stride`.
    Names and shapes of the weights are torchvision's, without "fc". `channels` lists the groups' channels.
    """

    def __init__(self, depth: int, width: int, output_stride: int):
        super().__init__()
        block, blocks = RESNETS[depth]
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels, stride, dilation = width, 4, 1
        self.channels: list[int] = []
        for group, count in enumerate(blocks):
            step, before = (1 if group == 0 else 2), dilation
            if stride * step > output_stride:  # what is not strided is dilated
                dilation, step = dilation * step, 1
            stride *= step
            layers = nn.Sequential()
            for _ in range(count):
                layers.append(block(channels, width * 2**group, step, before, dilation))
                channels, step, before = width * 2**group * block.expansion, 1, dilation
            self.add_module(f"layer{group + 1}", layers)
            self.channels.append(channels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(images)))  # (N, width, H/2, W/2)
        x = self.maxpool(x)  # (N, width, H/4, W/4)
        features = []
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = group(x)  # (N, channels[i], H/s, W/s), s = 4, 8, 16, 32 but at most output_stride
            features.append(x)
        return features


def dilated_resnet(depth: int, *, width: int = 64, output_stride: int = 8, imagenet: bool = False) -> DilatedResNet:
    """ResNet-18, 34, 50 or 101 for dense prediction, its last strides turned into dilation.

    K. He et al., CVPR 2016; strides sit on the 3x3 convolutions, as in torchvision. Dilation as in DRN-A
    and PSPNet: at output stride 8 the third group is dilated by 2 and the fourth by 4.

    width          channels of the first convolution; 64 is the paper's, the others keep their ratio to it
    output_stride  of the last features: 32 (no dilation), 16 or 8
    imagenet       start from torchvision's weights (only at width 64); they fit any output stride

    Raises ValueError for a depth or an output stride that is not listed, and for imagenet at another width.
    """
    if depth not in RESNETS:
        raise ValueError(f"a ResNet has depth {', '.join(map(str, RESNETS))}, not {depth}")
    if output_stride not in (32, 16, 8):
        raise ValueError(f"a dilated ResNet has output stride 32, 16 or 8, not {output_stride}")
    if imagenet and width != 64:
        raise ValueError(f"ImageNet weights fit width 64 only, not {width}")
    network = DilatedResNet(depth, width, output_stride)
    weights = imagenet_weights(f"resnet{depth}") if imagenet else None
    if weights is not None:
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    return network


def _conv3x3(in_channels: int, channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, channels, kernel_size=3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


def _projection(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut where the shape changes."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(PointwiseConv(in_channels, channels, stride=stride), nn.BatchNorm2d(channels))
