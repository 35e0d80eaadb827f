"""U-Net: an encoder, a decoder of the same shape, and a copied feature map between each pair of levels.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015: figure 1 (the network), section 3.1 (dropout, initialisation).

Departures from the paper

* `forward` answers for every pixel of an image of any size, as all networks of the course do: it mirrors
  the image at its border and crops. The paper's network, smaller output than input, is `forward_valid`.
* Three input channels by default; the paper's images are grey (`in_channels=1`).
* The paper gives no rate for its dropout "at the end of the contracting path": 0.5, on the two deepest levels.
* `padding="same"`, `norm`, `skips`, `width` and `depth` make variants; the defaults are the paper's.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, mirror


class Level(nn.Sequential):
    """Twice a 3x3 convolution with ReLU: what the encoder and the decoder consist of.

    (N, before, h, w) -> (N, after, h - 4, w - 4) with padding "valid", (N, after, h, w) with "same".
    """

    def __init__(self, before: int, after: int, padding: Literal["valid", "same"], norm: bool):
        super().__init__(
            *conv_norm_relu(before, after, padding=padding, norm=norm),
            *conv_norm_relu(after, after, padding=padding, norm=norm),
        )


class UNet(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W).

    Args:
        in_channels: Channels of the images.
        width: Channels of the first level; each further level has twice as many.
        depth: Levels: five halve the image four times.
        padding: "valid" (no convolution sees past the border, so maps shrink) or "same" (zeros around maps).
        norm: Batch normalisation after each 3x3 convolution.
        dropout: Rate on the features of the two deepest levels.
        skips: How the decoder takes up the encoder's maps: "concat" (the paper), "sum" (as FCN sums scores),
            or "none".

    Attributes:
        stride: Pixels from one cell of the deepest level to the next.
        border: Pixels that a valid output is smaller on each side: 92 for five levels, so 572 -> 388. A level
            takes 2 of its cells from each side, and a cell of level l is 2^l pixels wide; all levels do so on
            the way down, all but the deepest again on the way up.

    Raises:
        ValueError: For another padding or other skips, and for less than two levels.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        in_channels: int = 3,
        width: int = 64,
        depth: int = 5,
        padding: Literal["valid", "same"] = "valid",
        norm: bool = False,
        dropout: float = 0.5,
        skips: Literal["concat", "sum", "none"] = "concat",
    ):
        super().__init__()
        if padding not in ("valid", "same"):
            raise ValueError(f'padding is "valid" or "same", not {padding!r}')
        if skips not in ("concat", "sum", "none"):
            raise ValueError(f'skips are "concat", "sum" or "none", not {skips!r}')
        if depth < 2:
            raise ValueError(f"a U-Net has at least 2 levels, not {depth}")
        self.num_classes, self.padding, self.skips = num_classes, padding, skips
        self.stride = 2 ** (depth - 1)  # of the deepest level
        down_and_up = [*range(depth), *range(depth - 1)]
        self.border = sum(2 * 2**level for level in down_and_up) if padding == "valid" else 0
        channels = [width * 2**level for level in range(depth)]

        self.contracting = nn.ModuleList(
            Level(before, after, padding, norm) for before, after in pairwise([in_channels, *channels])
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up, self.expanding = nn.ModuleList(), nn.ModuleList()
        for deep, fine in pairwise(reversed(channels)):
            self.up.append(nn.ConvTranspose2d(deep, fine, kernel_size=2, stride=2))
            joined = 2 * fine if skips == "concat" else fine
            self.expanding.append(Level(joined, fine, padding, norm))
        self.score = nn.Conv2d(width, num_classes, kernel_size=1)
        self.apply(gaussian_initialisation)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of each level, from fine to coarse, of the image mirrored at its border."""
        height, width = images.shape[-2:]
        below, right = (self.fitting(side) - side for side in (height, width))
        border = self.border
        return self.contract(mirror(images, border, border + below, border, border + right))

    def contract(self, images: Tensor) -> list[Tensor]:
        """Return the features of each level, from fine to coarse; nothing is mirrored."""
        features, levels = images, []
        for level, block in enumerate(self.contracting):
            if level > 0:
                features = self.pool(features)  # (N, C, H/2, W/2)
            features = block(features)  # (N, 2C, H/2 - 4, W/2 - 4)
            if level >= len(self.contracting) - 2:
                features = self.dropout(features)
            levels.append(features)
        return levels

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the logits (N, classes, H or a little more, W or a little more) of each level's features."""
        *finer, decoded = features
        for up, block, skip in zip(self.up, self.expanding, reversed(finer), strict=True):
            decoded = up(decoded)  # (N, C/2, 2h, 2w)
            if self.skips == "concat":
                decoded = torch.cat([crop_middle(skip, decoded), decoded], dim=1)  # (N, C, 2h, 2w)
            elif self.skips == "sum":
                decoded = crop_middle(skip, decoded) + decoded
            decoded = block(decoded)  # (N, C/2, 2h - 4, 2w - 4)
        return self.score(decoded)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        logits = self.decode(self.encode(images))
        return logits[..., :height, :width]

    def forward_valid(self, images: Tensor) -> Tensor:
        """Run the paper's network: (N, 3, H, W) -> (N, classes, H - 2 border, W - 2 border), nothing mirrored.

        Raises:
            ValueError: For sides that do not halve evenly at each level.
        """
        for side in images.shape[-2:]:
            fits = self.fitting(max(side - 2 * self.border, 1)) + 2 * self.border
            if side != fits:
                raise ValueError(f"an input side of {side} does not halve evenly at each level; {fits} does")
        return self.decode(self.contract(images))

    def fitting(self, side: int) -> int:
        """Return the smallest side of an output that is at least `side` and whose input halves evenly."""
        # A step up makes 2n - 4 cells of n, so that n - 4 is doubled: of m cells at the deepest level
        # stride * (m - 4) + 4 pixels are left, 4 more than a multiple of the stride.
        rest = 4 % self.stride if self.padding == "valid" else 0
        return self.stride * math.ceil(max(side - rest, 0) / self.stride) + rest


def gaussian_initialisation(layer: nn.Module) -> None:
    """Draw a convolution's weights from a Gaussian of deviation sqrt(2 / N), N the values that an output sums up."""
    if isinstance(layer, nn.Conv2d):
        inputs = layer.in_channels * math.prod(layer.kernel_size)
    elif isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels  # stride 2, kernel 2: each output is under one stamp
    else:
        return
    nn.init.normal_(layer.weight, 0, math.sqrt(2 / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def crop_middle(features: Tensor, like: Tensor) -> Tensor:
    """Return the middle of (N, C, H, W), as high and wide as `like`."""
    height, width = like.shape[-2:]
    top, left = (features.shape[-2] - height) // 2, (features.shape[-1] - width) // 2
    return features[..., top : top + height, left : left + width]
