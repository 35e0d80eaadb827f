"""Theoretical receptive fields: which pixels of the image could change a cell of a feature map at all.

`stack` is the recurrence for a list of layers, `receptive_fields` follows an image through any module, branches
included. How much of its field a cell uses is measured in `effective_field` and `empirical_field`.

Source: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from course_lib.plumbing.field_axes import Traced, Unknown
from course_lib.plumbing.field_tracing import trace
from course_lib.plumbing.suggest import did_you_mean


class FieldError(ValueError):
    """No receptive field can be given, for the reason in the message."""


class Layer(NamedTuple):
    """A convolution or pooling along one axis."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


@dataclass(frozen=True)
class Field:
    """What the cells of a map see of the image along one axis, in pixels.

    Attributes:
        size: Pixels from the first to the last that a cell can see, beyond the image's border too; `inf`
            where that is always the whole image. After upsampling the cells differ: the largest.
        jump: Distance of neighbouring cells: the output stride (below 1 where a map is finer than the image).
        start: Middle of cell 0's field, in pixels; pixel 0 has its centre at 0.
        misalignment: How far apart two branches look that were added or concatenated on the way here: the
            distance of their fields' middles, the mean over the cells; 0 where they look at one place.
    """

    size: float
    jump: float
    start: float
    misalignment: float = 0.0
    spans: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False, repr=False)

    @property
    def whole(self) -> bool:
        """Whether every cell sees all of the image."""
        return math.isinf(self.size)

    @property
    def padding(self) -> float:
        """Return the pixels of the border that cell 0 sees beyond pixel 0, all layers together."""
        return (self.size - 1) / 2 - self.start

    def centre(self, cell: int) -> float:
        """Return the middle of a cell's field."""
        first, last = self.span(cell)
        return (first + last) / 2

    def span(self, cell: int) -> tuple[float, float]:
        """Return the first and last pixel that `cell` sees; negative, or beyond the image, where it is padding."""
        if self.whole:
            return -math.inf, math.inf
        if self.spans is not None and 0 <= cell < len(self.spans[0]):
            return int(self.spans[0][cell]), int(self.spans[1][cell])
        middle = self.start + cell * self.jump
        return middle - (self.size - 1) / 2, middle + (self.size - 1) / 2


PICTURE = Field(size=1, jump=1, start=0.0)
"""A pixel sees itself."""


def stack(layers: Sequence[Layer | tuple[int, ...]]) -> list[Field]:
    """Return the field after each of `layers`, one after another: (kernel, stride, padding, dilation) each.

    With the effective kernel k = dilation * (kernel - 1) + 1, every layer does ::

        size  += (k - 1) * jump
        start += ((k - 1) / 2 - padding) * jump
        jump  *= stride

    in this order: size and start grow by the jump of the layer's input.

    Raises:
        FieldError: For a kernel, stride or dilation below 1 or a negative padding.
    """
    fields, now = [], PICTURE
    for number, layer in enumerate(layers, start=1):
        kernel, stride, padding, dilation = Layer(*layer)
        if min(kernel, stride, dilation) < 1 or padding < 0:
            raise FieldError(
                f"layer {number} is {Layer(*layer)}: kernel, stride and dilation are at least 1, padding is "
                "not negative"
            )
        reach = dilation * (kernel - 1)
        now = Field(
            size=now.size + reach * now.jump, jump=now.jump * stride, start=now.start + (reach / 2 - padding) * now.jump
        )
        fields.append(now)
    return fields


class Upsampling(NamedTuple):
    """Every cell copied `factor` times along the axis, as a transposed convolution of that kernel and stride does."""

    factor: int = 2


def map_lengths(layers: Sequence[Layer | Upsampling], length: int) -> list[int]:
    """Return the cells along one axis: those of the image (`length` pixels), then those of every layer's map.

    Raises:
        FieldError: Where a layer reads more cells than the map before it has.
    """
    lengths = [length]
    for number, layer in enumerate(layers, start=1):
        if isinstance(layer, Upsampling):
            lengths.append(lengths[-1] * layer.factor)
            continue
        reach = layer.dilation * (layer.kernel - 1) + 1
        cells = (lengths[-1] + 2 * layer.padding - reach) // layer.stride + 1
        if cells < 1:
            raise FieldError(
                f"layer {number} reads {reach} cells at once, but the map before it has only {lengths[-1]} "
                f"and {layer.padding} of padding on each side: take a larger image or fewer strides"
            )
        lengths.append(cells)
    return lengths


def path_counts(layers: Sequence[Layer | Upsampling], cell: int, length: int | None = None) -> tuple[int, list[int]]:
    """Return in how many ways pixels reach one cell of the last map, along one axis: (first pixel, counts).

    A path chooses one cell a layer reads, layer after layer. In an image the paths to pixel (y, x) are the
    product of those along both axes.

    Args:
        layers: From the image to the last map.
        cell: Of the last map.
        length: Of the image: counts are those of pixels 0 to length - 1, and a path that leaves a map on the
            way ends in its padding and is not counted. None has no borders: all of the cell's field.

    Raises:
        FieldError: For a cell that the last map does not have, or an image too small for the layers.
    """
    lengths = None if length is None else map_lengths(layers, length)
    if lengths and not 0 <= cell < lengths[-1]:
        raise FieldError(f"cell {cell} is not among the {lengths[-1]} cells of the last map")
    counts = {cell: 1}
    for number in reversed(range(len(layers))):
        layer, before = layers[number], {}
        for place, paths in counts.items():
            if isinstance(layer, Upsampling):
                read = [place // layer.factor]
            else:
                first = place * layer.stride - layer.padding
                read = [first + layer.dilation * tap for tap in range(layer.kernel)]
            for source in read:
                if lengths is None or 0 <= source < lengths[number]:
                    before[source] = before.get(source, 0) + paths
        counts = before
    if length is not None:
        return 0, [counts.get(pixel, 0) for pixel in range(length)]
    return min(counts), [counts.get(pixel, 0) for pixel in range(min(counts), max(counts) + 1)]


@dataclass(frozen=True)
class LayerField:
    """The field of a layer's cells along both axes. `size`, `jump`, ... are there where both agree."""

    rows: Field
    columns: Field

    def _both(self, name: str) -> float:
        values = getattr(self.rows, name), getattr(self.columns, name)
        if values[0] != values[1]:
            raise FieldError(
                f"{name} is {values[0]:g} along the rows and {values[1]:g} along the columns: ask .rows.{name} "
                f"and .columns.{name}"
            )
        return values[0]

    @property
    def size(self) -> float:
        return self._both("size")

    @property
    def jump(self) -> float:
        return self._both("jump")

    @property
    def start(self) -> float:
        return self._both("start")

    @property
    def padding(self) -> float:
        return self._both("padding")

    @property
    def whole(self) -> bool:
        return self.rows.whole and self.columns.whole

    @property
    def misalignment(self) -> float:
        return max(self.rows.misalignment, self.columns.misalignment)

    def box(self, cell: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return what a cell (row, column) sees of an image of `size` (H, W): top, left, bottom, right.

        The last two are the first row and column that it does not see any more.
        """
        (top, bottom), (left, right) = self.rows.span(cell[0]), self.columns.span(cell[1])
        height, width = size
        return (int(max(top, 0)), int(max(left, 0)), int(min(bottom + 1, height)), int(min(right + 1, width)))


class ReceptiveFields(Mapping[str, LayerField]):
    """`fields["stages.3"]`: the field of every named module, in the order in which they were run.

    `fields[""]` is the network's output. A module that runs several times is listed with its last run.
    Where an operation is met whose field is not known, all that depends on it is in `unknown` with the
    reason, and asking for it raises a FieldError that names the operation.
    """

    def __init__(self, fields: dict[str, LayerField], unknown: dict[str, str]):
        self.fields, self.unknown = fields, unknown

    def __getitem__(self, name: str) -> LayerField:
        if name in self.fields:
            return self.fields[name]
        if name in self.unknown:
            raise FieldError(f"the field of {name or 'the output'!r} is not known: {self.unknown[name]}")
        hint = did_you_mean(name, self) or f"; among the layers are {', '.join(list(self)[:8])}"
        raise KeyError(f"no layer {name!r} was run{hint}")

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


def receptive_fields(
    module: nn.Module, input_size: tuple[int, int] = (224, 224), *, channels: int = 3, training: bool = False
) -> ReceptiveFields:
    """Return the theoretical field of every layer of any module, found by following one image through it.

    Branches that meet are united, and where their centres differ `misalignment` is by how much. Transposed
    convolution, interpolation, unpooling, cropping and padding are followed cell by cell; global pooling and
    flattening before a linear layer see the whole image, and so do adaptive bins that do not divide the
    map. What follows another operation (attention, say) is `unknown`. The network is left as it was.

    Args:
        module: Takes images (1, channels, H, W).
        input_size: Of the image (H, W); a field does not depend on it unless the module looks at the size
            (adaptive pooling, interpolation to a given size).
        channels: Of the image.
        training: The network as it is in training, where that differs (SegNet packs its pooling positions into
            bits in evaluation, which cannot be followed); batch normalisation and dropout are always taken as
            in evaluation.

    Raises:
        FieldError: Where the module does not run on such an image.
    """
    example = next(module.parameters(), torch.zeros(0))
    dtype = example.dtype if example.is_floating_point() else torch.float32
    picture = torch.zeros(1, channels, *input_size, dtype=dtype, device=example.device)
    try:
        traced = trace(module, picture, training=training)
    except (RuntimeError, TypeError, ValueError, IndexError, Unknown) as error:
        size = "x".join(map(str, input_size))
        raise FieldError(
            f"{type(module).__name__} does not run on an image of {channels} channels and {size} pixels "
            f"({error}): choose another input_size or channels"
        ) from error
    fields, unknown = {}, {}
    for name, state in traced.items():
        try:
            if isinstance(state, Unknown):
                raise state
            fields[name] = LayerField(_field(state, 0), _field(state, 1))
        except Unknown as reason:
            unknown[name] = str(reason)
    return ReceptiveFields(fields, unknown)


def _field(state: Traced, number: int) -> Field:
    axis, cells = state.axes[number], state.cells(number)
    if isinstance(axis, str):
        return Field(math.inf, math.inf, math.nan)
    for dim, parts in enumerate(state.dims):
        if (cells, number) in parts and cells > 1:
            state.tag(dim)  # raises where the dimension does not hold the cells alone
    low, high = axis.at(np.arange(cells))
    return Field(
        size=int((high - low).max()) + 1,
        jump=float(axis.jump),
        start=float(low[0] + high[0]) / 2,
        misalignment=axis.misalignment,
        spans=(low, high),
    )
