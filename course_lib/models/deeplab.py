"""DeepLabV3+: dilated convolutions of several rates side by side, then a small decoder that finds the borders.

L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam, "Encoder-Decoder with Atrous Separable Convolution
for Semantic Image Segmentation", ECCV 2018, arXiv 1802.02611: figure 2 (encoder and decoder), section 3.1.

Departures from the paper

* The encoder is a ResNet as torchvision has it, or EfficientNet-Lite0, not the modified Xception.
* The image-pooling branch is normalised with its running statistics where it has one number a channel
  (a single image), as in `course_lib.models.pspnet`.
* `channels`, `low_channels` and `width` make networks that train on a laptop; 256, 48 and 64 are the paper's
  and ResNet's.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.efficientnet import EfficientNetLite0
from course_lib.models.pspnet import PyramidNorm
from course_lib.models.resnet import dilated_resnet

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""The dilations of the three 3x3 branches, by output stride."""


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each channel alone, then a 1x1 over the channels, both normalised and rectified.

    (N, in_channels, h, w) -> (N, out_channels, h, w); the paper's "atrous separable convolution".
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1):
        super().__init__(
            *conv_norm_relu(in_channels, in_channels, dilation=dilation, groups=in_channels),
            *conv_norm_relu(in_channels, out_channels, 1),
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three dilated 3x3 and the mean of the whole map, side by side.

    (N, in_channels, h, w) -> (N, channels, h, w).
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...], dropout: float):
        super().__init__()
        self.conv1x1 = conv_norm_relu(in_channels, channels, 1)
        self.dilated = nn.ModuleList(SeparableConv(in_channels, channels, dilation=rate) for rate in rates)
        self.image_pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),  # (N, in_channels, 1, 1)
            nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
            PyramidNorm(channels),
            nn.ReLU(inplace=True),
        )
        self.project = conv_norm_relu((2 + len(rates)) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        branches = [self.conv1x1(features)]
        branches += [branch(features) for branch in self.dilated]
        branches.append(resize_to(self.image_pooling(features), features.shape[-2:]))
        x = self.project(torch.cat(branches, dim=1))  # (N, channels, h, w)
        return self.dropout(x)


class DeepLabV3Plus(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        backbone: "resnet", which has a `depth` and a `width` (`dilated_resnet`), or "efficientnet_lite0".
        imagenet: Start the backbone from ImageNet weights.
        frozen: Keep an EfficientNet as it starts, and train the rest alone.
        output_stride: 16 (the paper's choice for training) or 8.
        channels: Of the ASPP and the decoder.
        low_channels: Of the features at stride 4, once reduced.
        dropout: Rate after the ASPP.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        backbone: Literal["resnet", "efficientnet_lite0"] = "resnet",
        depth: int = 101,
        width: int = 64,
        output_stride: Literal[16, 8] = 16,
        channels: int = 256,
        low_channels: int = 48,
        dropout: float = 0.1,
        imagenet: bool = False,
        frozen: bool = False,
    ):
        super().__init__()
        if output_stride not in RATES:
            raise ValueError(f"DeepLabV3+ has output stride 16 or 8, not {output_stride}")
        self.num_classes = num_classes
        if backbone == "efficientnet_lite0":
            self.backbone = EfficientNetLite0(output_stride=output_stride, imagenet=imagenet, frozen=frozen)
        elif backbone == "resnet" and not frozen:
            self.backbone = dilated_resnet(depth, width=width, output_stride=output_stride, imagenet=imagenet)
        else:
            raise ValueError(f"backbone {backbone!r}: it is resnet, or efficientnet_lite0, which alone can be frozen")
        low, *_, deep = self.backbone.channels
        self.aspp = ASPP(deep, channels, RATES[output_stride], dropout)
        self.reduce_low = conv_norm_relu(low, low_channels, 1)
        self.refine = nn.Sequential(SeparableConv(channels + low_channels, channels), SeparableConv(channels, channels))
        self.score = nn.Conv2d(channels, num_classes, kernel_size=1)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features at stride 4 that find borders, and those of the ASPP at the output stride."""
        low, *_, deep = self.backbone(images)
        return [low, self.aspp(deep)]  # (N, C, H/4, W/4), (N, channels, H/16, W/16)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/4, W/4)."""
        low, deep = features
        low = self.reduce_low(low)  # (N, low_channels, H/4, W/4)
        deep = resize_to(deep, low.shape[-2:])  # (N, channels, H/4, W/4)
        x = self.refine(torch.cat([deep, low], dim=1))
        return self.score(x)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.decode(self.encode(images))
        return resize_to(scores, images.shape[-2:])
