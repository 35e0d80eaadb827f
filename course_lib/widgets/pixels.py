"""Pictures as raw pixels, (3, H, W) uint8: maps in colour, grids of cells with digits, outlines."""

from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

VERMILION = (213, 94, 0)
Box = tuple[int, int, int, int]
"""top, left, bottom, right; the last two just outside."""


@cache
def colours(name: str) -> Tensor:
    """Return the 256 colours of one of matplotlib's maps, (256, 3) uint8."""
    return torch.from_numpy(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3].copy())


def heat(values: Tensor, low: float, high: float, name: str = "cividis") -> Tensor:
    """Return numbers (H, W) in colours from `low` to `high`, (3, H, W) uint8."""
    span = max(high - low, 1e-12)
    index = ((values - low) / span * 255).round().clamp(0, 255).long()
    return colours(name)[index].permute(2, 0, 1)


def enlarged(picture: Tensor, factor: int) -> Tensor:
    """Return each pixel `factor` x `factor` times: (3, H, W) -> (3, factor H, factor W)."""
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def as_image(picture: Tensor) -> Image.Image:
    """Return (3, H, W) uint8 as a PIL image."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def as_picture(image: Image.Image) -> Tensor:
    """Return a PIL image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def outlined(picture: Tensor, boxes: Sequence[Box], colour: tuple[int, int, int] = VERMILION, width: int = 2) -> Tensor:
    """Return the picture with frames of `width` pixels inside `boxes`, within a thin white line."""
    image = as_image(picture)
    pen = ImageDraw.Draw(image)
    for top, left, bottom, right in boxes:
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)
        inner = (left + width, top + width, right - 1 - width, bottom - 1 - width)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            pen.rectangle(inner, outline=(255, 255, 255))
    return as_picture(image)


def cells(values: Tensor, side: int, *, low: float, high: float, style: str = "{:g}", name: str = "cividis") -> Tensor:
    """Return a matrix (H, W) as coloured cells of `side` pixels with thin gaps and, where all have room, its numbers."""
    coloured = heat(values, low, high, name)
    picture = enlarged(coloured, side)
    picture[:, ::side] = 255
    picture[:, :, ::side] = 255
    image = as_image(picture)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(8, round(0.55 * side)))
    texts = [[style.format(value) for value in row] for row in values.tolist()]
    if side < 12 or max(pen.textlength(text, font) for row in texts for text in row) > side - 2:
        return as_picture(image)
    for row, column in np.ndindex(*values.shape):
        bright = coloured[:, row, column].float() @ torch.tensor([0.3, 0.6, 0.1]) > 128
        at = ((column + 0.5) * side, (row + 0.5) * side)
        pen.text(at, texts[row][column], fill="black" if bright else "white", font=font, anchor="mm")
    return as_picture(image)


def hexes(palette: Tensor) -> list[str]:
    """Return colours (n, 3) uint8 as "#rrggbb"."""
    return ["#" + bytes(colour.tolist()).hex() for colour in palette]
