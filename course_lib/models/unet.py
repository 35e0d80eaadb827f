"""U-Net: an encoder, a decoder of the same shape, and a copied feature map between each pair of levels.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015: figure 1 (the network), figure 2 (overlap-tile), section 3.1 (dropout, initialisation).

Departures from the paper
* `forward` answers for every pixel of a picture of any size, as all networks of the course do: it mirrors
  the picture at its border and crops. The paper's network, smaller output than input, is `forward_valid`.
* Three input channels by default; the paper's pictures are grey (`in_channels=1`).
* The paper gives no rate for its dropout "at the end of the contracting path": 0.5, on the two deepest levels.
* `padding="same"`, `norm`, `skips`, `width` and `depth` make variants; the defaults are the paper's.
* Tiles overlap by a few pixels in `predict_tiles`, so that their pooling grids coincide.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.data.transforms import normalise
from course_lib.models.blocks import mirror
from course_lib.plumbing.progress import progress_bar


class UNet(nn.Module):
    """images (N, 3, H, W) -> logits (N, classes, H, W).

    width    channels of the first level; each further level has twice as many
    depth    levels: five halve the picture four times
    padding  "valid" (no convolution sees past the border, so maps shrink) or "same" (zeros around maps)
    norm     batch normalisation after each 3x3 convolution
    dropout  rate on the features of the two deepest levels
    skips    how the decoder takes up the encoder's maps: "concat" (the paper), "sum" (as FCN sums
             scores), or "none"

    border   pixels that a valid output is smaller on each side: 92 for five levels, so 572 -> 388
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
        self.border = 6 * self.stride - 4 if padding == "valid" else 0
        channels = [width * 2**level for level in range(depth)]

        self.contracting = nn.ModuleList(
            two_convolutions(before, after, padding, norm)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        deepest_first = list(reversed(channels))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(deep, fine, kernel_size=2, stride=2) for deep, fine in pairwise(deepest_first)
        )
        self.expanding = nn.ModuleList(
            two_convolutions(2 * fine if skips == "concat" else fine, fine, padding, norm) for fine in deepest_first[1:]
        )
        self.score = nn.Conv2d(width, num_classes, kernel_size=1)
        self.apply(he_initialisation)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features of each level, from fine to coarse, of the picture mirrored at its border."""
        height, width = images.shape[-2:]
        below, right = (self.fitting(side) - side for side in (height, width))
        border = self.border
        return self.contract(mirror(images, border, border + below, border, border + right))

    def contract(self, images: Tensor) -> list[Tensor]:
        """Features of each level, from fine to coarse; nothing is mirrored."""
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
        """Logits (N, classes, H or a little more, W or a little more) from the features of each level."""
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
        """The paper's network: (N, 3, H, W) -> (N, classes, H - 2 border, W - 2 border), nothing mirrored.

        Raises ValueError for sides that do not halve evenly at each level.
        """
        for side in images.shape[-2:]:
            fits = self.fitting(max(side - 2 * self.border, 1)) + 2 * self.border
            if side != fits:
                raise ValueError(f"an input side of {side} does not halve evenly at each level; {fits} does")
        return self.decode(self.contract(images))

    def fitting(self, side: int) -> int:
        """The smallest side of an output that is at least `side` and whose input halves evenly."""
        # an input of the deepest level of b cells gives an output of stride * (b - 8) + 4 pixels
        rest = 4 % self.stride if self.padding == "valid" else 0
        return self.stride * math.ceil(max(side - rest, 0) / self.stride) + rest


def two_convolutions(before: int, after: int, padding: str, norm: bool) -> nn.Sequential:
    """The module of the encoder and the decoder: twice a 3x3 convolution with ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, kernel_size=3, padding=int(padding == "same"), bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def he_initialisation(layer: nn.Module) -> None:
    """Weights from a Gaussian of standard deviation sqrt(2 / N), N the values that one output sums up."""
    if isinstance(layer, nn.Conv2d):
        inputs = layer.in_channels * math.prod(layer.kernel_size)
    elif isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels  # stride 2, kernel 2: each output lies under one stamp
    else:
        return
    nn.init.normal_(layer.weight, 0, math.sqrt(2 / inputs))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def crop_middle(features: Tensor, like: Tensor) -> Tensor:
    """The middle of (N, C, H, W), as high and wide as `like`."""
    height, width = like.shape[-2:]
    top, left = (features.shape[-2] - height) // 2, (features.shape[-1] - width) // 2
    return features[..., top : top + height, left : left + width]


@torch.no_grad()
def predict_tiles(model: UNet, image: Tensor, *, tile: int = 388, show_progress: bool = True) -> Tensor:
    """Logits (classes, H, W) of a picture of any size, tile by tile: figure 2, the overlap-tile strategy.

    model  a U-Net with padding "valid"
    image  (3, H, W) uint8; the missing context at its border is mirrored
    tile   side of a tile of the output; it decides the memory that is needed, not the result

    Every pixel sees all the context that it would see in one pass, so there are no seams. Tiles start
    at multiples of the network's stride, where their pooling grids coincide: the result is that of one
    pass, number for number. Raises ValueError for a padded network and for tiles that do not fit.
    """
    if model.padding != "valid":
        raise ValueError('tiles of a network with padding "same" have seams: use padding "valid"')
    step = tile - tile % model.stride
    if tile < model.stride or model.fitting(tile) != tile:
        raise ValueError(f"a tile of {tile} does not fit the network; {model.fitting(tile)} does")
    model.eval()
    device = next(model.parameters()).device
    _, height, width = image.shape
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    last_top, last_left = corners[-1]
    border, side = model.border, tile + 2 * model.border
    padded = mirror(
        normalise(image)[None], border, last_top + tile + border - height, border, last_left + tile + border - width
    )
    logits = torch.zeros(model.num_classes, last_top + tile, last_left + tile)
    for top, left in progress_bar(corners, "tiles", show=show_progress, delay=2):
        part = padded[..., top : top + side, left : left + side].to(device)
        logits[:, top : top + tile, left : left + tile] = model.forward_valid(part)[0].float().cpu()
    return logits[:, :height, :width]
