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


def tables(*names: str) -> dict[str, bytes]:
    """Return the colours of these maps as the explorers' modules take them: 256 times red, green and blue."""
    return {name: colours(name).numpy().tobytes() for name in names}


def bytes_of(values: Tensor) -> bytes:
    """Return labels or colours, 0 to 255, as bytes in their order."""
    return values.as_subclass(Tensor).to(torch.uint8).contiguous().numpy().tobytes()


def halves(values: Tensor) -> bytes:
    """Return numbers in half precision, two bytes each."""
    return values.detach().cpu().half().contiguous().numpy().tobytes()


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


def headed(grid: Tensor, palette: Tensor, side: int, head: int) -> Tensor:
    """Return a matrix of `cells` with the colour of its class before each row and above each column, `head` pixels thick."""
    shown = grid.new_full((3, grid.shape[1] + head, grid.shape[2] + head), 255)
    shown[:, head:, head:] = grid
    for index, colour in enumerate(palette):
        along = slice(head + index * side + 2, head + (index + 1) * side - 1)
        shown[:, along, 2 : head - 2] = shown[:, 2 : head - 2, along] = colour[:, None, None]
    return shown


def paint(region: Tensor, points: Sequence[tuple[float, float]], radius: float) -> Tensor:
    """Return `region` (H, W) bool with discs of `radius` pixels around `points` (row, column) added, as a new tensor.

    Points outside the picture are passed over.

    Raises:
        ValueError: Where all of them are.
    """
    height, width = region.shape
    inside = [(row, column) for row, column in points if 0 <= row < height and 0 <= column < width]
    if not inside:
        row, column = points[0]
        raise ValueError(
            f"The brush is outside the image, at row {row:.0f}, column {column:.0f} of {height}x{width} pixels: "
            "nothing is painted there."
        )
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    painted = region.clone()
    for row, column in inside:
        painted |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return painted


def hexes(palette: Tensor) -> list[str]:
    """Return colours (n, 3) uint8 as "#rrggbb"."""
    return ["#" + bytes(colour.tolist()).hex() for colour in palette]
