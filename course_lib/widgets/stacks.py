"""Stacks of layers for the receptive-field explorer: rows, presets, and the numbers of one unit.

A stack is a list of rows, dictionaries with these keys (`conv`, `pool` and `up` make them)::

    kind      "conv", "pool", or "up": each cell copied `stride` times, or a transposed convolution that wide
    times     how often the layer is repeated
    kernel, stride, dilation, padding    of the layer; padding None keeps the map's size
    channels  output maps of a convolution, for the count of parameters
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.plumbing.suggest import did_you_mean
from course_lib.receptive_field import FieldError, Layer, Upsampling, map_lengths, path_counts

Row = dict
"""One row of a stack."""


def conv(
    kernel: int, channels: int = 64, *, stride: int = 1, dilation: int = 1, padding: int | None = None, times: int = 1
) -> Row:
    """Return a row of `times` convolutions; padding None keeps the size of the map where the stride is 1."""
    return {
        "kind": "conv",
        "times": times,
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "channels": channels,
    }


def pool(kernel: int = 2, stride: int = 2, padding: int | None = 0) -> Row:
    """Return a row of one pooling."""
    return {**conv(kernel, stride=stride, padding=padding), "kind": "pool"}


def up(factor: int = 2, channels: int = 64) -> Row:
    """Return a row of one upsampling by a transposed convolution whose kernel is as wide as its stride."""
    return {**conv(factor, channels, stride=factor, padding=0), "kind": "up"}


VGG16 = [
    row
    for channels, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for row in (conv(3, channels, times=times), pool())
]
"""Up to pool5."""


def _preset(title: str, about: str, *, layers: list[Row], inputs: int = 3) -> dict:
    return {"title": title, "about": about, "inputs": inputs, "layers": layers}


PRESETS: dict[str, dict] = {
    "context": _preset(
        "Context module, basic (Yu and Koltun)",
        "Dilations 1, 1, 2, 4, 8, 16, 1 and a 1x1, on 21 maps: an exponential reach, and no hole.",
        inputs=21,
        layers=[conv(3, 21, times=2), *(conv(3, 21, dilation=dilation) for dilation in (2, 4, 8, 16, 1)), conv(1, 21)],
    ),
    "gridding": _preset(
        "Gridding: dilations 2, 2, 2, 2",
        "Equal dilations leave holes: of each 2 x 2 pixels one is read. Set one dilation to 1 and they close.",
        layers=[conv(3, dilation=2) for _ in range(4)],
    ),
    "hybrid": _preset(
        "Hybrid dilations 1, 2, 5",
        "Dilations without a common factor (hybrid dilated convolution): as few layers, no hole.",
        layers=[conv(3, dilation=dilation) for dilation in (1, 2, 5)],
    ),
    "plain": _preset(
        "Eight plain 3x3 layers",
        "The field grows by 2 pixels a layer; the part that counts grows with the square root.",
        layers=[conv(3, times=8)],
    ),
    "alexnet": _preset(
        "AlexNet up to pool5",
        "As torchvision has it; a stride in the first layer makes all later kernels four times as wide.",
        layers=[
            conv(11, 64, stride=4, padding=2),
            pool(3),
            conv(5, 192),
            pool(3),
            conv(3, 384),
            conv(3, 256, times=2),
            pool(3),
        ],
    ),
    "vgg16": _preset("VGG16 up to pool5", "Thirteen convolutions and five poolings.", layers=VGG16),
    "resnet50": _preset(
        "ResNet-50, its 3x3 layers",
        (
            "Its 1x1 layers and shortcuts see nothing more and are left out, from the parameters too. "
            "The stride is in the first block of a group, as in torchvision."
        ),
        layers=[
            conv(7, 64, stride=2),
            pool(3, padding=1),
            conv(3, 64, times=3),
            conv(3, 128, stride=2),
            conv(3, 128, times=3),
            conv(3, 256, stride=2),
            conv(3, 256, times=5),
            conv(3, 512, stride=2),
            conv(3, 512, times=2),
        ],
    ),
    "unet": _preset(
        "U-Net, its longest way",
        (
            "Down four times and up again, maps padded. The copied maps see less and are left out, from the "
            "parameters too. Behind an upsampling the units differ: the field is the largest."
        ),
        layers=[
            *itertools.chain.from_iterable((conv(3, channels, times=2), pool()) for channels in (64, 128, 256, 512)),
            conv(3, 1024, times=2),
            *itertools.chain.from_iterable(
                (up(2, channels), conv(3, channels, times=2)) for channels in (512, 256, 128, 64)
            ),
            conv(1, 2),
        ],
    ),
    "drn_a18": _preset(
        "DRN-A-18, dilated without a cure",
        "A ResNet-18 whose last two groups are dilated instead of strided; shortcuts left out.",
        layers=[
            conv(7, 64, stride=2),
            pool(3, padding=1),
            conv(3, 64, times=4),
            conv(3, 128, stride=2),
            conv(3, 128, times=3),
            conv(3, 256),
            conv(3, 256, dilation=2, times=3),
            conv(3, 512, dilation=2),
            conv(3, 512, dilation=4, times=3),
        ],
    ),
    "drn_c26": _preset(
        "DRN-C-26, degridded",
        "Ends with dilations 2 and 1 and begins without pooling, against the grid; shortcuts left out.",
        layers=[
            conv(7, 16),
            conv(3, 16, times=2),
            conv(3, 32, stride=2),
            conv(3, 32),
            conv(3, 64, stride=2),
            conv(3, 64, times=3),
            conv(3, 128, stride=2),
            conv(3, 128, times=3),
            conv(3, 256, dilation=2, times=4),
            conv(3, 512, dilation=4, times=4),
            conv(3, 512, dilation=2, times=2),
            conv(3, 512, times=2),
        ],
    ),
}
"""The stacks that the explorer offers: {name: title, a sentence, input maps, rows}."""


def preset_named(name: str) -> dict:
    """Return one of `PRESETS`.

    Raises:
        ValueError: For another name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}{did_you_mean(name, PRESETS)}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def flatten(rows: Sequence[Row]) -> list[Layer | Upsampling]:
    """Return one layer after another, as `path_counts` takes them.

    Raises:
        FieldError: For an impossible row.
    """
    if not rows:
        raise FieldError("the stack is empty: add a layer")
    layers: list[Layer | Upsampling] = []
    for number, row in enumerate(rows, start=1):
        kernel, stride, dilation = row["kernel"], row["stride"], row["dilation"]
        padding = dilation * (kernel - 1) // 2 if row["padding"] is None else row["padding"]
        if min(kernel, stride, dilation, row["times"], row["channels"]) < 1 or padding < 0:
            raise FieldError(
                f"row {number} is {row}: times, kernel, stride, dilation and channels are at least 1, padding "
                "is not negative"
            )
        layer = Upsampling(stride) if row["kind"] == "up" else Layer(kernel, stride, padding, dilation)
        layers += [layer] * row["times"]
    return layers


def count_parameters(rows: Sequence[Row], inputs: int = 3) -> int:
    """Return weights and biases of all convolutions, transposed ones included."""
    total, before = 0, inputs
    for row in rows:
        if row["kind"] == "pool":
            continue
        side = row["stride"] if row["kind"] == "up" else row["kernel"]
        for _ in range(row["times"]):
            total += before * row["channels"] * side**2 + row["channels"]
            before = row["channels"]
    return total


@dataclass(frozen=True)
class Description:
    """The numbers of a stack on an image, for one unit of its last map.

    Attributes:
        size: Of the theoretical field in pixels; the largest where units differ behind an upsampling.
        jump: Pixels between neighbouring units.
        start: Middle of unit 0's field, in pixels.
        parameters: Weights and biases.
        map: (rows, columns) of units.
        cell: (row, column) of the unit.
        spans: Its first and last pixel along the rows and along the columns, inside the image or not.
        counts: Paths from the rows and from the columns of the image; pixel (y, x) has their product.
        read_share: Of the field's pixels that at least one path reaches, 0 to 1, as if the image had no
            border.
        deviation: Standard deviation of the paths along the columns, in pixels, without borders.
    """

    size: int
    jump: float
    start: float
    parameters: int
    map: tuple[int, int]
    cell: tuple[int, int]
    spans: tuple[tuple[int, int], tuple[int, int]]
    counts: tuple[list[int], list[int]]
    read_share: float
    deviation: float


def describe(
    rows: Sequence[Row], size: tuple[int, int], cell: Sequence[int] | None = None, *, inputs: int = 3
) -> Description:
    """Return all numbers that the explorer shows of `rows` on an image of `size` (H, W).

    Args:
        cell: (row, column) of the unit, moved into the map where it is outside; None is the middle one.
        inputs: Maps below the stack.

    Raises:
        FieldError: For an impossible row, an empty stack or one that the image is too small for.
    """
    layers = flatten(rows)
    cells = tuple(map_lengths(layers, side)[-1] for side in size)
    wanted = [side // 2 for side in cells] if cell is None or not len(cell) else cell
    unit = tuple(min(max(int(place), 0), side - 1) for place, side in zip(wanted, cells, strict=True))
    free = [path_counts(layers, place) for place in unit]
    counts = [path_counts(layers, place, side)[1] for place, side in zip(unit, size, strict=True)]
    factors = [layer.factor for layer in layers if isinstance(layer, Upsampling)]
    strides = [layer.stride for layer in layers if isinstance(layer, Layer)]
    first = [path_counts(layers, place) for place in range(math.prod(factors))]
    shares = [sum(paths > 0 for paths in axis) / len(axis) for _, axis in free]
    weights = np.array([float(paths) for paths in free[1][1]])
    places = np.arange(len(weights))
    mean = (weights * places).sum() / weights.sum()
    return Description(
        size=max(len(paths) for _, paths in first),
        jump=math.prod(strides) / math.prod(factors),
        start=first[0][0] + (len(first[0][1]) - 1) / 2,
        parameters=count_parameters(rows, inputs),
        map=cells,
        cell=unit,
        spans=tuple((begin, begin + len(paths) - 1) for begin, paths in free),
        counts=tuple(counts),
        read_share=shares[0] * shares[1],
        deviation=float(np.sqrt((weights * (places - mean) ** 2).sum() / weights.sum())),
    )
