"""Fast-SCNN: two resolutions share their first layers.

R. P. K. Poudel, S. Liwicki, R. Cipolla, "Fast-SCNN: Fast Semantic Segmentation Network", BMVC 2019, arXiv 1902.04502:
table 1 (the layers), table 2 (the inverted residual), table 3 (the fusion), section 4.2 (the skip set to zero).

Departures from the paper

* No auxiliary losses: what we could read does not give the form of their heads.
* The rate of the only dropout is not known to us; 0.1 is that of the ports.
* The first convolution is padded, and the deep maps are resized to the skip's size: any size goes in.
"""

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.pspnet import PyramidPooling


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each map alone, then a 1x1 over the maps: (N, in, h, w) -> (N, out, h/stride, w/stride).

    Both are normalised; there is no non-linearity between them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1):
        super().__init__(
            *conv_norm_relu(in_channels, in_channels, stride=stride, groups=in_channels)[:-1],
            *conv_norm_relu(in_channels, out_channels, 1),
        )


class InvertedResidual(nn.Module):
    """Six times as many maps, a 3x3 convolution of each alone, and back: (N, in, h, w) -> (N, out, h/stride, w/stride).

    The input is added where the shape stays. Source: MobileNetV2 (CVPR 2018).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        wide = 6 * in_channels
        self.layers = nn.Sequential(
            *conv_norm_relu(in_channels, wide, 1),
            *conv_norm_relu(wide, wide, stride=stride, groups=wide),
            *conv_norm_relu(wide, out_channels, 1)[:-1],
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def _inverted_residuals(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    """Return the three blocks of one row of table 1; the first has the stride."""
    more = [InvertedResidual(out_channels, out_channels, 1) for _ in range(2)]
    return [InvertedResidual(in_channels, out_channels, stride), *more]


class FastSCNN(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        width: Maps of the first convolution, even; the others keep their ratio to it.
        skip: Add the maps at an eighth of the size to the deep ones. The attribute of a trained network may be set to
            False, which is the paper's ablation.
        dropout: Rate before the last convolution.
    """

    def __init__(self, num_classes: int = 19, *, width: int = 32, skip: bool = True, dropout: float = 0.1):
        super().__init__()
        middle, deep = 2 * width, 4 * width
        self.skip = skip
        self.learning_to_downsample = nn.Sequential(
            conv_norm_relu(3, width, stride=2),
            SeparableConv(width, width * 3 // 2, stride=2),
            SeparableConv(width * 3 // 2, middle, stride=2),
        )
        pyramid = PyramidPooling(deep)
        self.global_features = nn.Sequential(
            *_inverted_residuals(middle, middle, 2),
            *_inverted_residuals(middle, 3 * width, 2),
            *_inverted_residuals(3 * width, deep, 1),
            pyramid,
            *conv_norm_relu(pyramid.out_channels, deep, 1),
        )
        self.fuse_deep = nn.Sequential(
            *conv_norm_relu(deep, deep, dilation=4, groups=deep), *conv_norm_relu(deep, deep, 1)[:-1]
        )
        if skip:
            self.fuse_skip = conv_norm_relu(middle, deep, 1)[:-1]
        self.classifier = nn.Sequential(
            SeparableConv(deep, deep),
            SeparableConv(deep, deep),
            nn.Dropout2d(dropout),
            nn.Conv2d(deep, num_classes, kernel_size=1),
        )

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the shared maps, (N, 64, H/8, W/8), and the deep ones, (N, 128, H/32, W/32)."""
        fine = self.learning_to_downsample(images)
        return [fine, self.global_features(fine)]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/8, W/8)."""
        fine, deep = features
        x = self.fuse_deep(resize_to(deep, fine.shape[-2:]))  # (N, 128, H/8, W/8)
        if self.skip:
            x = x + self.fuse_skip(fine)
        return self.classifier(torch.relu(x))

    def forward(self, images: Tensor) -> Tensor:
        scores = self.decode(self.encode(images))
        return resize_to(scores, images.shape[-2:])
