"""ResNets whose last strides can be dilation: the encoders of ParseNet, PSPNet and DeepLabV3+; DRN takes the blocks.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.
"""

from torch import Tensor, nn

from course_lib.models.blocks import PointwiseConv
from course_lib.models.imagenet import imagenet_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet-18 and 34): (N, in, h, w) -> (N, channels, h/stride, w/stride).

    Args:
        before: Dilation of the convolution that may have a stride; those after it have `dilation`.
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

    Args:
        before: Dilation of the only 3x3 convolution; `dilation` is there for the blocks to look alike.
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
        resnet_initialisation(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(images)))  # (N, width, H/2, W/2)
        x = self.maxpool(x)  # (N, width, H/4, W/4)
        features = []
        for group in range(len(self.channels)):
            # (N, channels[group], H/s, W/s), s = 4, 8, 16, 32 but at most output_stride
            x = self.get_submodule(f"layer{group + 1}")(x)
            features.append(x)
        return features

    def shorten(self, groups: int, *, aux: bool = False) -> None:
        """Drop the groups after the first `groups`: a smaller receptive field, fewer features.

        Raises:
            ValueError: For `groups` outside 1 to 4; with an auxiliary head (`aux`), which reads the third, outside 3 to 4.
        """
        if not 1 <= groups <= len(self.channels) or (aux and groups < 3):
            raise ValueError(f"groups is 1 to 4, and at least 3 with an auxiliary head (aux), not {groups}")
        for group in range(groups, len(self.channels)):
            delattr(self, f"layer{group + 1}")
        del self.channels[groups:]


def resnet_initialisation(module: nn.Module) -> None:
    """Give every convolution in `module` He's normal weights over its outputs, and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def dilated_resnet(depth: int, *, width: int = 64, output_stride: int = 8, imagenet: bool = False) -> DilatedResNet:
    """Return ResNet-18, 34, 50 or 101 for dense prediction, its last strides turned into dilation.

    Strides sit on the 3x3 convolutions, as in torchvision. Dilation as in DRN-A and PSPNet: at output stride
    8 the third group is dilated by 2 and the fourth by 4.

    Args:
        depth: One of `RESNETS`.
        width: Channels of the first convolution; 64 is the paper's, the others keep their ratio to it.
        output_stride: Of the last features: 32 (no dilation), 16 or 8.
        imagenet: Start from torchvision's weights (only at width 64); they fit any output stride.

    Raises:
        ValueError: For a depth or an output stride that is not listed, and for imagenet at another width.
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
    """Return the shortcut where the shape changes."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(PointwiseConv(in_channels, channels, stride=stride), nn.BatchNorm2d(channels))
