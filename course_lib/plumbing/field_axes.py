"""Which pixels the cells of a map read, one axis at a time: what convolutions, poolings and sums make of it.

The arithmetic of `field_tracing`, in numpy. Every function gets the axis of an operation's input and the number of
`cells` of its output, and returns the axis of the output.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

WHOLE = "whole"
"""Stands for the axis of a tensor that depends on the whole image."""


class Unknown(Exception):
    """No field is known, and why."""


class TooNarrow(Exception):
    """The image was not continued far enough beyond its borders."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The pixels that each cell of a map reads, along one axis of the image.

    Cells are counted on beyond both ends of the map: those are what its padding stands for. After a 3-tap
    convolution with padding 1 and stride 2, for example::

        cell        -1  0  1  2
        low pixel   -3 -1  1  3
        high pixel  -1  1  3  5       first = -1, jump = 2

    Attributes:
        low: The first pixel of each cell.
        high: The last pixel of each cell; a dilated kernel skips some in between.
        first: The cell that the first entry of `low` and `high` belongs to.
        jump: The mean distance of neighbouring cells in pixels.
        misalignment: The largest distance so far between the middles of two branches that met, in pixels.
    """

    low: np.ndarray
    high: np.ndarray
    first: int
    jump: Fraction
    misalignment: float = 0.0

    @property
    def stop(self) -> int:
        return self.first + len(self.low)

    def at(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.low[cells - self.first], self.high[cells - self.first]

    def same(self, other: "Axis") -> bool:
        return self is other or (
            self.first == other.first
            and self.jump == other.jump
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )


Part = tuple[int, int | None]
"""A length, and the image's axis (0 rows, 1 columns) that it counts cells of, or None."""


@dataclass(frozen=True, eq=False)
class Traced:
    """What is known of a tensor.

    Attributes:
        axes: The field of the cells along the rows and along the columns of the image.
        dims: For each dimension its parts (several where a view has merged dimensions).
        pooling: (kernel, stride, padding) of a max-pooling whose indices these are.
    """

    axes: tuple[Axis | str, Axis | str]
    dims: tuple[tuple[Part, ...], ...]
    pooling: tuple[list[int], list[int], list[int]] | None = None

    def tag(self, dim: int) -> int | None:
        """Return the image's axis that dimension `dim` counts cells of."""
        tags = [tag for length, tag in self.dims[dim] if tag is not None]
        if not tags:
            return None
        if len(self.dims[dim]) > 1:
            raise Unknown("cells of several axes or channels share a dimension")
        return tags[0]

    def cells(self, axis: int) -> int:
        """Return how many cells there are along an axis (1 where it was reduced)."""
        return math.prod(length for parts in self.dims for length, tag in parts if tag == axis)

    def with_axis(self, tag: int, axis: Axis | str) -> "Traced":
        return replace(self, axes=tuple(axis if i == tag else a for i, a in enumerate(self.axes)))


def plain(length: int) -> tuple[Part, ...]:
    """Return the parts of a dimension without cells."""
    return () if length == 1 else ((length, None),)


def _gather(axis: Axis, first: int, last: int, taps: Callable, scale: Fraction, cells: int) -> Axis:
    """Return the axis of a map whose cell o reads the old cells `taps(o)` ((n, taps) with a mask)."""
    if last < first or first > 0 or last < cells - 1:
        raise TooNarrow
    # Beyond the map's ends cells are needed as well, for paddings still to come; where the continued image
    # does not reach that far, the trace starts again with a wider margin.
    new = np.arange(first, last + 1)
    old, used = taps(new[:, None])
    if not used.any(axis=1).all():
        raise Unknown("a kernel smaller than its stride leaves cells that read nothing")
    low, high = axis.at(np.where(used, old, axis.first))
    low = np.where(used, low, np.iinfo(np.int64).max).min(axis=1)
    high = np.where(used, high, np.iinfo(np.int64).min).max(axis=1)
    return Axis(low, high, first, axis.jump * scale, axis.misalignment)


def window(axis, kernel, stride, padding, dilation, cells):
    """Return the axis after a convolution or pooling: o reads o * stride - padding + t * dilation, t < kernel."""
    steps = np.arange(kernel) * dilation
    first = -((-axis.first - padding) // stride)  # rounded up: every tap must be a cell of the old map
    last = (axis.stop - 1 + padding - steps[-1]) // stride

    def taps(new):
        return new * stride - padding + steps, np.ones((len(new), kernel), dtype=bool)

    return _gather(axis, first, int(last), taps, Fraction(stride), cells)


def transposed_window(axis, kernel, stride, padding, dilation, cells):
    """Return the axis after a transposed convolution: cell i adds to i * stride - padding + t * dilation."""
    steps = np.arange(kernel) * dilation
    first = axis.first * stride - padding + int(steps[-1])
    last = (axis.stop - 1) * stride - padding

    def taps(new):
        found = new + padding - steps
        return found // stride, found % stride == 0  # between the strides there are zeros, which nothing is read from

    return _gather(axis, first, last, taps, Fraction(1, stride), cells)


def resample(axis, ratio, reach, offset, cells):
    """Return the axis after an interpolation: o lies at o * ratio + offset of the old map, between `reach` cells.

    `reach` is 1 for nearest, 2 for bilinear; a cell exactly on an old one reads only that one. Ratio and offset
    are fractions, since rounding would move a cell from one pixel to the next.
    """
    first = math.ceil((axis.first + reach - offset) / ratio)
    last = math.floor((axis.stop - 1 - reach - offset) / ratio)

    def taps(new):
        above = new * ratio.numerator * offset.denominator + offset.numerator * ratio.denominator
        below = ratio.denominator * offset.denominator
        left = above // below
        steps = np.arange(reach) - (reach - 1) // 2
        used = (above % below != 0) | (steps == 0)
        return left + steps, used

    return _gather(axis, first, last, taps, ratio, cells)


def union(left: Axis | str, right: Axis | str, cells: int) -> Axis | str:
    """Return the axis of a sum or concatenation: from the first pixel that either reads to the last."""
    if left is right:
        return left
    if WHOLE in (left, right):
        return WHOLE
    first, stop = max(left.first, right.first), min(left.stop, right.stop)
    if first > 0 or stop < cells:
        raise TooNarrow
    index = np.arange(first, stop)
    (low_a, high_a), (low_b, high_b) = left.at(index), right.at(index)
    # The mean, since the cells of an upsampled map look to either side in turn; over whole turns.
    turns = slice(-first, -first + min(-(-cells // 64) * 64, stop))
    apart = abs(((low_a + high_a) - (low_b + high_b))[turns].mean()) / 2
    return Axis(
        np.minimum(low_a, low_b),
        np.maximum(high_a, high_b),
        first,
        max(left.jump, right.jump),
        max(left.misalignment, right.misalignment, float(apart)),
    )


def same(one: Traced, other: Traced) -> bool:
    """Whether two tensors hold the same cells with the same fields."""
    return one.dims == other.dims and all(
        a == b if isinstance(a, str) or isinstance(b, str) else a.same(b)
        for a, b in zip(one.axes, other.axes, strict=True)
    )
