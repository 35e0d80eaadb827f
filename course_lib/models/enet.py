"""ENet: compute where there are few pixels.

A. Paszke, A. Chaurasia, S. Kim, E. Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time Semantic
Segmentation", arXiv 1606.02147: table 1 (the stages), figure 2 (initial block and bottleneck), section 4 (why). Where
the paper leaves something open, the authors' code decides (e-lab/ENet-training).

Departures from the authors' code

* Strides and poolings round up, so that any size goes in: the code fails where a side is not a multiple of 8.
* 5x1 before 1x5, as the paper says; the code has them the other way round. No parameter changes.
* The authors train the encoder alone first, with a classifier of its own; here it is trained end to end.
* The paper has PReLU everywhere and dropout of 0.1 in the decoder too; the code has ReLU and no dropout there, as here.
  `decoder_prelu` has the paper's activations.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.pooling_indices import Size, pool, unpool

DILATIONS = (1, 2, None, 4, 1, 8, None, 16)
"""Of the eight bottlenecks in stages 2 and 3; None is the asymmetric pair."""


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Bottleneck(nn.Module):
    """A narrow branch beside the identity: (N, channels, h, w) -> the same shape.

    Args:
        channels: Of the maps; the branch has a quarter of them.
        dilation: Of the 3x3 convolution in the middle; None puts 5x1 and 1x5 there, nothing between them.
        dropout: Rate at which whole maps of the branch are dropped before the sum.
        activation: The activation of a number of channels: `nn.PReLU`, with a slope for each, or a ReLU.
    """

    def __init__(self, channels: int, *, dilation: int | None = 1, dropout: float = 0.0, activation=nn.PReLU):
        super().__init__()
        inner = max(channels // 4, 1)
        if dilation is None:
            middle = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2)),
            ]
        else:
            middle = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation)]
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            _norm(inner),
            activation(inner),
            *middle,
            _norm(inner),
            activation(inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            _norm(channels),
            nn.Dropout2d(dropout),
        )
        self.activation = activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.branch(x))


class Downsampling(nn.Module):
    """Halve the maps: (N, channels, h, w) -> (N, out, h/2, w/2), rounded up, and the positions of the maxima.

    The branch begins with a 2x2 convolution of stride 2, which reads every pixel; a strided 1x1 would read a quarter.
    """

    def __init__(self, channels: int, out: int, dropout: float):
        super().__init__()
        inner = max(out // 4, 1)
        self.more = out - channels
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 2, stride=2, bias=False),
            _norm(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, padding=1),
            _norm(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, out, 1, bias=False),
            _norm(out),
            nn.Dropout2d(dropout),
        )
        self.activation = nn.PReLU(out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        main, positions = pool(x)  # (N, channels, h/2, w/2)
        main = functional.pad(main, (0, 0, 0, 0, 0, self.more))  # (N, out, h/2, w/2), the new maps are zero
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, width % 2, 0, height % 2))
        return self.activation(main + self.branch(x)), positions


class Upsampling(nn.Module):
    """Double the maps: (N, channels, h, w) -> `(N, out, *size)`, the main branch unpooled by position."""

    def __init__(self, channels: int, out: int, activation=nn.PReLU):
        super().__init__()
        inner = max(out // 4, 1)
        self.main = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), _norm(out))
        self.reduce = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), _norm(inner), activation(inner))
        self.deconvolution = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1)
        self.expand = nn.Sequential(_norm(inner), activation(inner), nn.Conv2d(inner, out, 1, bias=False), _norm(out))
        self.activation = activation(out)

    def forward(self, x: Tensor, positions: Tensor, size: Size) -> Tensor:
        main = unpool(self.main(x), positions, size)  # (N, out, 2h, 2w), three of four values are zero
        branch = self.deconvolution(self.reduce(x), output_size=size)  # (N, out/4, 2h, 2w)
        return self.activation(main + self.expand(branch))


class ENet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        width: Maps of the initial block; the encoder's stages have 4 and 8 times as many.
        dilated: With the dilations of `DILATIONS`; without, they are all 1.
        decoder_prelu: Learn the slopes of the decoder's activations too.
        dropout: Rate in stages 2 and 3; a tenth of it in stage 1, none in the decoder.
    """

    def __init__(
        self,
        num_classes: int = 11,
        *,
        width: int = 16,
        dilated: bool = True,
        decoder_prelu: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        fine, deep = 4 * width, 8 * width
        decoding = nn.PReLU if decoder_prelu else lambda channels: nn.ReLU(inplace=True)
        self.initial = nn.Conv2d(3, width - 3, 3, stride=2, padding=1)
        self.initial_pool = nn.MaxPool2d(2, ceil_mode=True)
        self.initial_norm = nn.Sequential(_norm(width), nn.PReLU(width))
        self.down1 = Downsampling(width, fine, dropout / 10)
        self.stage1 = nn.Sequential(*(Bottleneck(fine, dropout=dropout / 10) for _ in range(4)))
        self.down2 = Downsampling(fine, deep, dropout)
        dilations = [d if dilated or d is None else 1 for d in DILATIONS]
        self.stage2 = nn.Sequential(*(Bottleneck(deep, dilation=d, dropout=dropout) for d in dilations))
        self.stage3 = nn.Sequential(*(Bottleneck(deep, dilation=d, dropout=dropout) for d in dilations))
        self.up4 = Upsampling(deep, fine, decoding)
        self.stage4 = nn.Sequential(*(Bottleneck(fine, activation=decoding) for _ in range(2)))
        self.up5 = Upsampling(fine, width, decoding)
        self.stage5 = Bottleneck(width, activation=decoding)
        self.classifier = nn.ConvTranspose2d(width, num_classes, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        half = torch.cat([self.initial(images), self.initial_pool(images)], dim=1)
        half = self.initial_norm(half)  # (N, 16, H/2, W/2)
        quarter, fine = self.down1(half)
        quarter = self.stage1(quarter)  # (N, 64, H/4, W/4)
        x, coarse = self.down2(quarter)
        x = self.stage2(x)  # (N, 128, H/8, W/8)
        x = self.stage3(x)
        x = self.up4(x, coarse, quarter.shape[-2:])
        x = self.stage4(x)  # (N, 64, H/4, W/4)
        x = self.up5(x, fine, half.shape[-2:])
        x = self.stage5(x)  # (N, 16, H/2, W/2)
        x = self.classifier(x)  # (N, classes, H, W), a row or column more at odd sizes
        return x[..., : images.shape[-2], : images.shape[-1]]
