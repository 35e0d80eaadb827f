"""ERFNet: a residual block whose 3x3 convolutions are pairs of 3x1 and 1x3.

E. Romera, J. M. Alvarez, L. M. Bergasa, R. Arroyo, "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
Semantic Segmentation", IEEE T-ITS 19(1), 2018: the three residual blocks, and the network of 23 layers.

Departures from the authors' PyTorch code (in their Lua code 1x3 comes first, and two downsamplers have dropout)

* Strides and poolings round up, so that any size goes in.
* The authors train the encoder alone first, with a classifier of its own (from ImageNet for their best numbers); here
  it is trained end to end.
* The channels of the blocks stay where `block` is "bottleneck"; the paper compares it at four times as many.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Block = Literal["non_bottleneck_1d", "non_bottleneck", "bottleneck"]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    padding = tuple(dilation * (side // 2) for side in kernel)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation)


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def _pair(channels: int, dilation: int = 1) -> list[nn.Module]:
    """Return a 3x1 and a 1x3 convolution, a ReLU between them."""
    return [_conv(channels, channels, (3, 1), dilation), _relu(), _conv(channels, channels, (1, 3), dilation)]


def _bottleneck(channels: int, dilation: int) -> list[nn.Module]:
    """Return 1x1 to a quarter of the channels, 3x3, 1x1."""
    inner = max(channels // 4, 1)
    narrow = [_conv(channels, inner, (1, 1)), _norm(inner), _relu()]
    middle = [_conv(inner, inner, (3, 3), dilation), _norm(inner), _relu()]
    return [*narrow, *middle, _conv(inner, channels, (1, 1))]


def _branch(block: Block, channels: int, dilation: int) -> list[nn.Module]:
    between = [_norm(channels), _relu()]
    if block == "non_bottleneck_1d":
        return [*_pair(channels), *between, *_pair(channels, dilation)]
    if block == "non_bottleneck":
        return [_conv(channels, channels, (3, 3)), *between, _conv(channels, channels, (3, 3), dilation)]
    if block == "bottleneck":
        return _bottleneck(channels, dilation)
    raise ValueError(f"block {block!r} is none of {', '.join(get_args(Block))}")


@torch.no_grad()
def factorised(convolution: nn.Conv2d, rank: int) -> nn.Sequential:
    """Return a 3x1 convolution to `rank` maps and a 1x3 one that together come closest to a trained 3x3 convolution.

    Its weights (out, in, 3, 3) as a matrix of (in, row) by (column, out) are cut to their first `rank` singular values.
    3 * min(in, out) of them are exact; as many as maps come out are the shape of ERFNet's pair.
    """
    out, inputs, rows, columns = convolution.weight.shape
    matrix = convolution.weight.permute(1, 2, 3, 0).reshape(inputs * rows, columns * out)
    left, values, right = torch.linalg.svd(matrix.float(), full_matrices=False)
    roots = values[:rank].sqrt()
    (dilation, _), rank = convolution.dilation, len(roots)
    pair = nn.Sequential(_conv(inputs, rank, (3, 1), dilation), _conv(rank, out, (1, 3), dilation))
    pair[0].weight.copy_((left[:, :rank] * roots).T.reshape(rank, inputs, rows, 1))
    pair[0].bias.zero_()
    pair[1].weight.copy_((roots[:, None] * right[:rank]).reshape(rank, 1, columns, out).permute(3, 0, 1, 2))
    pair[1].bias.copy_(convolution.bias)
    return pair


class Residual(nn.Module):
    """Convolutions beside the identity: (N, channels, h, w) -> the same shape.

    Args:
        channels: Of the maps.
        dilation: Of the second half of the block (of a bottleneck's only 3x3 convolution).
        dropout: Rate at which whole maps are dropped before the sum.
        block: "non_bottleneck_1d" (two pairs of 3x1 and 1x3), "non_bottleneck" (two 3x3) or "bottleneck" (1x1 to a
            quarter of the channels, 3x3, 1x1).

    Raises:
        ValueError: For another `block`.
    """

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0, block: Block = "non_bottleneck_1d"):
        super().__init__()
        self.branch = nn.Sequential(*_branch(block, channels, dilation), _norm(channels), nn.Dropout2d(dropout))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.branch(x))


class Downsampler(nn.Module):
    """A strided convolution beside a max-pooling: (N, channels, h, w) -> (N, out, h/2, w/2), rounded up."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out - channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.norm = nn.Sequential(_norm(out), _relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.conv(x), self.pool(x)], dim=1))


class Upsampler(nn.Module):
    """A transposed convolution that doubles the maps: (N, channels, h, w) -> `(N, out, *size)`."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.deconvolution = nn.ConvTranspose2d(channels, out, 3, stride=2, padding=1)
        self.norm = nn.Sequential(_norm(out), _relu())

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.norm(self.deconvolution(x, output_size=size))


class ERFNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        width: Maps at half the size; the encoder goes on with 4 and 8 times as many.
        block: Of all residual blocks: see `Residual`.
        dilated: With dilations 2, 4, 8, 16, 2, 4, 8, 16 at an eighth of the size; without, they are all 1.
        dropout: Rate at an eighth of the size; a tenth of it at a quarter, none in the decoder.
    """

    def __init__(
        self,
        num_classes: int = 11,
        *,
        width: int = 16,
        block: Block = "non_bottleneck_1d",
        dilated: bool = True,
        dropout: float = 0.3,
    ):
        super().__init__()
        fine, deep = 4 * width, 8 * width
        self.down1 = Downsampler(3, width)
        self.down2 = Downsampler(width, fine)
        self.stage2 = nn.Sequential(*(Residual(fine, dropout=dropout / 10, block=block) for _ in range(5)))
        self.down3 = Downsampler(fine, deep)
        dilations = (2, 4, 8, 16, 2, 4, 8, 16) if dilated else (1,) * 8
        self.stage3 = nn.Sequential(*(Residual(deep, dilation=d, dropout=dropout, block=block) for d in dilations))
        self.up4 = Upsampler(deep, fine)
        self.stage4 = nn.Sequential(*(Residual(fine, block=block) for _ in range(2)))
        self.up5 = Upsampler(fine, width)
        self.stage5 = nn.Sequential(*(Residual(width, block=block) for _ in range(2)))
        self.classifier = nn.ConvTranspose2d(width, num_classes, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        half = self.down1(images)  # (N, 16, H/2, W/2)
        quarter = self.down2(half)
        quarter = self.stage2(quarter)  # (N, 64, H/4, W/4)
        x = self.down3(quarter)
        x = self.stage3(x)  # (N, 128, H/8, W/8)
        x = self.up4(x, quarter.shape[-2:])
        x = self.stage4(x)  # (N, 64, H/4, W/4)
        x = self.up5(x, half.shape[-2:])
        x = self.stage5(x)  # (N, 16, H/2, W/2)
        x = self.classifier(x)  # (N, classes, H, W), a row or column more at odd sizes
        return x[..., : images.shape[-2], : images.shape[-1]]
