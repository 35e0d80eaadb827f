"""Two explorers of how a decoder enlarges: transposed convolution (FCN) and unpooling by indices (SegNet).

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
section 3.3; V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet", PAMI 2017, figure 3.
"""

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.data.scenes import Street
from course_lib.models.blocks import bilinear_kernel
from course_lib.models.pooling_indices import pool, unpool
from course_lib.widgets.explorer import Choice, Explorer, Panel, Slider, View, standing
from course_lib.widgets.pixels import cells, enlarged, heat, outlined, tables

VALUES = torch.tensor([[1.0, 3, 2, 1], [2, 1, 3, 2], [3, 2, 1, 3], [1, 2, 2, 1]])
"""The small map that is enlarged."""
STAMPS = ("ones", "bilinear")
SIDE, PANEL = 270, 176
"""Pixels that a panel of the first and of the second explorer is wide, at most."""


def stamp_of(shape: str, kernel: int) -> Tensor:
    """Return (kernel, kernel): all ones, or bilinear interpolation's weights."""
    if shape not in STAMPS:
        raise ValueError(f"a stamp is one of {', '.join(STAMPS)}, not {shape!r}")
    return torch.ones(kernel, kernel) if shape == "ones" else bilinear_kernel(kernel)


def transposed_view(*, kernel: int, stride: int, row: int, column: int, stamp: str = "ones") -> View:
    """Show a 4x4 map that goes through a transposed convolution without padding.

    Every cell stamps the kernel, scaled by its value, at `stride` times its place, and where stamps overlap they
    add up. Panels: the map, how many stamps meet in each cell of the output, the output. The stamp of the cell
    (`row`, `column`), counted from 0, is framed; `stamp` is "ones" or "bilinear".

    Raises:
        ValueError: For a kernel or stride below 1 and a cell outside the map.
    """
    if kernel < 1 or stride < 1:
        raise ValueError(f"kernel and stride are 1 or more, not {kernel} and {stride}")
    height, width = VALUES.shape
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"the map has rows 0 to {height - 1} and columns 0 to {width - 1}: no cell ({row}, {column})")
    weights = stamp_of(stamp, kernel)[None, None]
    output = functional.conv_transpose2d(VALUES[None, None], weights, stride=stride)[0, 0]
    flat = torch.ones(1, 1, kernel, kernel)
    meeting = functional.conv_transpose2d(torch.ones_like(VALUES)[None, None], flat, stride=stride)[0, 0]
    top, left = row * stride, column * stride
    large, small = SIDE // len(output), SIDE // height
    frame = (top * large, left * large, (top + kernel) * large, (left + kernel) * large)
    chosen = (row * small, column * small, (row + 1) * small, (column + 1) * small)
    size = f"{len(output)}x{len(output)}"
    return View(
        [
            Panel(
                f"map, {height}x{width}",
                outlined(cells(VALUES, small, low=0, high=4), [chosen]),
                f"cell ({row}, {column}), with the value {VALUES[row, column]:g}, is framed",
            ),
            Panel(
                f"stamps that meet, {size}",
                outlined(cells(meeting, large, low=0, high=float(meeting.max()), name="viridis"), [frame]),
                f"counts from {meeting.min():g} to {meeting.max():g}; the framed stamp covers rows {top} to "
                f"{top + kernel - 1} and columns {left} to {left + kernel - 1}",
            ),
            Panel(
                f"output, {size}",
                outlined(cells(output, large, low=0, high=float(output.max()), style="{:.3g}"), [frame]),
                f"values from {output.min():.3g} to {output.max():.3g}",
            ),
        ],
        f"({height} - 1) x {stride} + {kernel} = {len(output)} cells each way. Cell ({row}, {column}) writes on "
        f"rows {top} to {top + kernel - 1}, columns {left} to {left + kernel - 1}. {_meetings(meeting, kernel, stride)}",
    )


def _meetings(meeting: Tensor, kernel: int, stride: int) -> str:
    """Return a sentence on how many stamps meet in the cells away from the rim."""
    inside = meeting[kernel - 1 : len(meeting) - kernel + 1, kernel - 1 : len(meeting) - kernel + 1]
    if kernel < stride:
        return "Between the stamps cells stay empty: the kernel is smaller than the stride."
    if kernel % stride == 0:
        return (
            f"The stride divides the kernel, so away from the rim {int((kernel // stride) ** 2)} stamps "
            "meet in every cell: an even ground."
        )
    counts = f" ({', '.join(f'{int(n)}' for n in inside.unique().tolist())})" if len(inside) else ""
    return (
        f"The stride does not divide the kernel: unequal numbers of stamps{counts} meet in neighbours, "
        "which draws a chequered pattern."
    )


def transposed_explorer() -> Explorer:
    """Return `transposed_view` with sliders."""
    return Explorer(
        standing(transposed_view),
        [
            Slider("kernel", "kernel", range(1, 7), 3),
            Slider("stride", "stride", range(1, 5), 2),
            Slider("row", "row", range(4), 1),
            Slider("column", "column", range(4), 1),
            Choice("stamp", "stamp", STAMPS, "ones"),
        ],
        title="Transposed convolution: stamps that overlap",
        module="transposed",
        data={"map": VALUES.tolist(), **tables("cividis", "viridis")},
    )


def street_patch(seed: int = 0) -> Tensor:
    """Return a 48x48 piece of a generated street in grey, 0 to 1: poles, windows, the border of the road."""
    image = Street(8, (96, 128), seed=seed)[4].image.as_subclass(Tensor).float() / 255
    return image.mean(0)[24:72, 40:88]


def unpooling_view(picture: Tensor, *, poolings: int, row: int, column: int) -> View:
    """Show maxima of 2^poolings x 2^poolings pixels, and three ways back to the image's size.

    Panels: the image; its maxima; unpooled by indices; nearest; bilinear.

    Args:
        picture: (H, W), values 0 to 1, with H and W multiples of 2^poolings.
        poolings: How often the image is pooled 2x2.
        row: Of the pooled cell that is followed, like `column` as a part of the map, 0 to 1.

    Raises:
        ValueError: For sizes that do not divide and a place outside the map.
    """
    height, width = picture.shape
    factor = 2**poolings
    if poolings < 1 or height % factor or width % factor:
        raise ValueError(f"{poolings} poolings do not divide an image of {height}x{width} pixels")
    if not (0 <= row <= 1 and 0 <= column <= 1):
        raise ValueError(f"row and column are parts of the map, 0 to 1, not {row} and {column}")
    maps, memory = picture[None, None], []
    for _ in range(poolings):
        size = tuple(maps.shape[-2:])
        maps, indices = pool(maps)
        memory.append((indices, size))
    pooled, size = maps[0, 0], (height, width)
    ways = {
        "nearest": functional.interpolate(maps, size, mode="nearest")[0, 0],
        "bilinear": functional.interpolate(maps, size, mode="bilinear")[0, 0],
    }
    for indices, before in reversed(memory):
        maps = unpool(maps, indices, before)
    ways = {"by indices": maps[0, 0], **ways}
    r, c = (min(round(part * (n - 1)), n - 1) for part, n in zip((row, column), pooled.shape, strict=True))
    block = (slice(r * factor, (r + 1) * factor), slice(c * factor, (c + 1) * factor))
    place = int(picture[block].argmax())
    y, x = r * factor + place // factor, c * factor + place % factor
    side = max(1, PANEL // width)
    frame = tuple(side * n for n in (r * factor, c * factor, (r + 1) * factor, (c + 1) * factor))
    whole = side * factor
    cell = (r * whole, c * whole, (r + 1) * whole, (c + 1) * whole)

    def panel(caption: str, values: Tensor, factor: int, box: tuple, words: str) -> Panel:
        return Panel(caption, outlined(enlarged(heat(values, 0, 1, "gray"), factor), [box]), words)

    value = float(pooled[r, c])
    panels = [
        panel("image", picture, side, frame, f"the maximum of the framed block is at ({y}, {x})"),
        panel(f"maxima of {factor}x{factor}", pooled, whole, cell, f"the framed cell holds {value:.2f}"),
    ]
    for name, values in ways.items():
        caption = f"unpooled {name}" if name == "by indices" else name
        words = f"{values[y, x]:.2f} at ({y}, {x}), mean {values[block].mean():.2f} in the frame"
        panels.append(panel(caption, values, side, frame, words))
    return View(
        panels,
        f"The framed cell holds {value:.2f}, found at row {y}, column {x}. By its index it returns exactly there, "
        f"and the other {factor**2 - 1} pixels of the block stay 0 for a convolution to fill. Nearest writes it on "
        f"all {factor**2}; bilinear mixes it with its neighbours, to {ways['bilinear'][y, x]:.2f} at that pixel.",
    )


def unpooling_explorer(picture: Tensor | None = None) -> Explorer:
    """Return `unpooling_view` with sliders; image (H, W) in 0..1, by default a piece of a generated street."""
    picture = street_patch() if picture is None else picture
    parts = [number / 20 for number in range(21)]
    return Explorer(
        standing(lambda **values: unpooling_view(picture, **values)),
        [
            Slider("poolings", "poolings", range(1, 4), 2),
            Slider("row", "row (0 to 1)", parts, 0.4),
            Slider("column", "column (0 to 1)", parts, 0.6),
        ],
        title="Unpooling by indices, and plain upsampling",
        module="unpooling",
        data={"picture": picture.contiguous().numpy().tobytes(), "size": list(picture.shape), **tables("gray")},
    )
