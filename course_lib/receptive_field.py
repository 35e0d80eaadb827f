"""Receptive fields: how much of the picture one cell of a feature map can see, and how much it does see.

Three answers to one question, from the widest to the narrowest:

    theoretical   which pixels could change the cell at all: `stack` (the recurrence for a list of layers) and
                  `receptive_fields` (any module, branches included)
    effective     how strongly each pixel changes it: the gradient, `effective_field`
    empirical     how much the cell changes when a patch of the picture is covered: `empirical_field`

Sources: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill
2019 (the arithmetic); W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive Field in
Deep Convolutional Neural Networks", NIPS 2016 (the gradient); B. Zhou, A. Khosla, A. Lapedriza, A. Oliva,
A. Torralba, "Object Detectors Emerge in Deep Scene CNNs", ICLR 2015 (the occluder).

Departures from the papers
* Zhou et al. read a size off the averaged map. How is not known here: ours is the square root of the area
  over half of the maximum (`measured_size`), which finds the true size of a unit that weighs all of its
  field alike, because an occluder that covers such a unit's rim by half of itself changes it by half.
* How many images they averaged is not known here: `top_k` is ours.
"""

import copy
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from course_lib.plumbing import field_tracing
from course_lib.plumbing.progress import progress_bar


class FieldError(ValueError):
    """No receptive field can be given. The message says of what, and why."""


# -- theoretical ------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A convolution or pooling along one axis."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


@dataclass(frozen=True)
class Field:
    """What the cells of a map see of the picture along one axis, in pixels.

    size          pixels from the first to the last that a cell can see, beyond the picture's border too;
                  `inf` where that is always the whole picture. After upsampling the cells differ: the largest
    jump          distance of neighbouring cells: the output stride (below 1 where a map is finer than the
                  picture)
    start         where the middle of cell 0's field lies; pixel 0 has its centre at 0
    misalignment  how far apart two branches look that were added or concatenated on the way here: the
                  distance of their fields' middles, the mean over the cells; 0 where they look at one place
    """

    size: float
    jump: float
    start: float
    misalignment: float = 0.0
    spans: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False, repr=False)

    @property
    def whole(self) -> bool:
        """Every cell sees all of the picture."""
        return math.isinf(self.size)

    @property
    def padding(self) -> float:
        """Pixels of the border that cell 0 sees beyond pixel 0, all layers together."""
        return (self.size - 1) / 2 - self.start

    def centre(self, cell: int) -> float:
        """The middle of a cell's field."""
        first, last = self.span(cell)
        return (first + last) / 2

    def span(self, cell: int) -> tuple[float, float]:
        """First and last pixel that `cell` sees; negative, or beyond the picture, where it is padding."""
        if self.whole:
            return -math.inf, math.inf
        if self.spans is not None and 0 <= cell < len(self.spans[0]):
            return int(self.spans[0][cell]), int(self.spans[1][cell])
        middle = self.start + cell * self.jump
        return middle - (self.size - 1) / 2, middle + (self.size - 1) / 2


PICTURE = Field(size=1, jump=1, start=0.0)
"""A pixel sees itself."""


def stack(layers: Sequence[Layer | tuple[int, ...]]) -> list[Field]:
    """The field after each of `layers`, one after another: (kernel, stride, padding, dilation) each.

    With the effective kernel k = dilation * (kernel - 1) + 1, every layer does

        size  += (k - 1) * jump
        start += ((k - 1) / 2 - padding) * jump
        jump  *= stride

    in this order: size and start grow by the jump of the layer's *input*. Raises FieldError for a kernel,
    stride or dilation below 1 or a negative padding.
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
    """Every cell copied `factor` times along the axis; so does a transposed convolution of that kernel and
    stride.
    """

    factor: int = 2


def map_lengths(layers: Sequence[Layer | Upsampling], length: int) -> list[int]:
    """Cells along one axis: those of the picture (`length` pixels), then those of every layer's map.

    Raises FieldError where a layer reads more cells than the map before it has.
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
                f"and {layer.padding} of padding on each side: take a larger picture or fewer strides"
            )
        lengths.append(cells)
    return lengths


def path_counts(layers: Sequence[Layer | Upsampling], cell: int, length: int | None = None) -> tuple[int, list[int]]:
    """In how many ways pixels reach one cell of the last map, along one axis: (first pixel, counts).

    A path chooses one cell a layer reads, layer after layer. In a picture the paths to pixel (y, x) are the
    product of those along both axes.

    length  of the picture: counts are those of pixels 0 to length - 1, and a path that leaves a map on the
            way ends in its padding and is not counted. None has no borders: all of the cell's field

    Raises FieldError for a cell that the last map does not have, or a picture too small for the layers.
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
        """What a cell (row, column) sees of a picture of `size` (H, W): top, left, bottom, right.

        The last two are the first row and column that it does not see any more.
        """
        (top, bottom), (left, right) = self.rows.span(cell[0]), self.columns.span(cell[1])
        height, width = size
        return (int(max(top, 0)), int(max(left, 0)), int(min(bottom + 1, height)), int(min(right + 1, width)))


OUTPUT = ""
"""The name of the network's own output among the layers."""


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
        close = difflib.get_close_matches(name, list(self), 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; among the layers are {', '.join(list(self)[:8])}"
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
    """The theoretical field of every layer of any module, found by following one picture through it.

    Branches that meet are united, and where their centres differ the `misalignment` says by how much.
    Transposed convolution, interpolation, unpooling, cropping and padding are followed cell by cell; global
    pooling, flattening before a linear layer and attention see the whole picture, and so do adaptive bins
    that do not divide the map. The network is left as it was.

    input_size  of the picture (H, W); a field does not depend on it unless the module looks at the size
                (adaptive pooling, interpolation to a given size)
    channels    of the picture
    training    the network as it is in training, where that differs (SegNet packs its pooling positions into
                bits in evaluation, which cannot be followed); batch normalisation and dropout are always
                taken as in evaluation

    Raises FieldError where the module does not run on such a picture.
    """
    example = next(module.parameters(), torch.zeros(0))
    dtype = example.dtype if example.is_floating_point() else torch.float32
    picture = torch.zeros(1, channels, *input_size, dtype=dtype, device=example.device)
    try:
        traced = field_tracing.trace(module, picture, training=training)
    except (RuntimeError, TypeError, ValueError, IndexError, field_tracing.Unknown) as error:
        size = "x".join(map(str, input_size))
        raise FieldError(
            f"{type(module).__name__} does not run on a picture of {channels} channels and {size} pixels "
            f"({error}): choose another input_size or channels"
        ) from error
    fields, unknown = {}, {}
    for name, state in traced.items():
        try:
            if isinstance(state, field_tracing.Unknown):
                raise state
            fields[name] = LayerField(_field(state, 0), _field(state, 1))
        except field_tracing.Unknown as reason:
            unknown[name] = str(reason)
    return ReceptiveFields(fields, unknown)


def _field(state: field_tracing.Traced, number: int) -> Field:
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


# -- reading one layer ------------------------------------------------------------------------------


class LayerReader:
    """Runs a network up to one of its layers and returns what that layer returned.

    Raises FieldError for a name that no layer has, or one that returns something else than one map.
    """

    def __init__(self, module: nn.Module, layer: str):
        names = dict(module.named_modules())
        if layer not in names:
            close = difflib.get_close_matches(layer, list(names), 1)
            raise FieldError(f"no layer {layer!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        self.module, self.layer, self.target = module, layer, names[layer]
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) -> the layer's map (N, C, h, w); the layers behind it are not run."""
        found: list[Tensor] = []

        def keep(_, __, output):
            first = not self.calls and isinstance(output, Tensor)
            found.append(output.clone() if first else output)  # what comes next may write into it
            if len(found) == self.calls:
                raise _Reached

        hook = self.target.register_forward_hook(keep)
        try:
            self.module(images)
        except _Reached:
            pass
        finally:
            hook.remove()
        if not found or not isinstance(found[-1], Tensor) or found[-1].dim() != 4:
            raise FieldError(f"{self.layer!r} returns no map of shape (N, C, h, w)")
        self.calls = len(found)
        return found[-1]


class _Reached(Exception):
    """The layer has been run: nothing behind it is needed."""


# -- the gradient -----------------------------------------------------------------------------------


def gradient_support(
    module: nn.Module, layer: str, cell: tuple[int, int], input_size: tuple[int, int] = (224, 224), *, channels: int = 3
) -> tuple[int, int, int, int]:
    """The box (top, left, bottom, right) of pixels that have a gradient to one cell: the field, measured.

    In a copy of the network every weight is made positive, so that nothing cancels and no ReLU closes, and
    max-pooling takes the mean, so that no cell is left out; then the pixels whose gradient is not zero
    are those that the cell can see. Bottom and right are the first that it does not see.
    """
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
            if parameter.dim() > 1:  # a mean over what it reads, so that numbers stay near 1
                parameter.div_(parameter[0].numel())
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.fill_(1.0 if name.endswith("var") else 0.0)
    images = torch.rand(1, channels, *input_size, dtype=torch.float64, requires_grad=True)
    with _MeanPooling():
        output = LayerReader(module, layer)(images)[0, :, cell[0], cell[1]].sum()
    (gradient,) = torch.autograd.grad(output, images)
    touched = gradient[0].abs().sum(dim=0) > 0
    rows, columns = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


class _MeanPooling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.max_pool2d, functional.max_pool2d):
            for name in ("dilation", "return_indices"):
                kwargs.pop(name, None)
            images, kernel, *rest = args
            stride = rest[0] if rest else kwargs.get("stride")
            padding = rest[1] if len(rest) > 1 else kwargs.get("padding", 0)
            ceil_mode = rest[3] if len(rest) > 3 else kwargs.get("ceil_mode", False)
            return functional.avg_pool2d(images, kernel, stride, padding, ceil_mode)
        return func(*args, **kwargs)


def effective_field(
    module: nn.Module,
    layer: str,
    images: Tensor,
    *,
    unit: int | None = None,
    cell: tuple[int, int] | None = None,
    batch_size: int = 16,
) -> Tensor:
    """How strongly each pixel acts on one cell: (H, W), the mean over `images` of |d cell / d pixel|.

    images  (N, 3, H, W), normalised as the network expects them
    unit    channel of the layer; None adds all of them up
    cell    (row, column) in the layer's map; None takes the middle one

    The absolute values are added over the colour channels. The network is taken as in evaluation.
    """
    reader, total = LayerReader(module, layer), torch.zeros(images.shape[-2:])
    with _evaluating(module):
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size].detach().clone().requires_grad_(True)
            with torch.enable_grad():
                maps = reader(part)
                row, column = cell or (maps.shape[-2] // 2, maps.shape[-1] // 2)
                values = maps[:, :, row, column] if unit is None else maps[:, unit, row, column]
                (gradient,) = torch.autograd.grad(values.sum(), part)
            total += gradient.abs().sum(dim=(0, 1))
    return total / len(images)


def spread(values: Tensor) -> tuple[float, float]:
    """Standard deviation of a map of weights (H, W) along rows and columns, in cells of the map."""
    weights = values.double() / values.double().sum()
    deviations = []
    for share in (weights.sum(dim=1), weights.sum(dim=0)):
        where = torch.arange(len(share), dtype=torch.float64)
        mean = (share * where).sum()
        deviations.append(float((share * (where - mean) ** 2).sum().sqrt()))
    return deviations[0], deviations[1]


def measured_size(values: Tensor, *, step: float = 1.0, threshold: float = 0.5) -> float:
    """The side of a square as large as the area where a map (h, w) is over `threshold` of its maximum.

    step  pixels between neighbouring cells of the map; the result is in pixels. 0 where the map is empty.
    """
    highest = values.max()
    if not highest > 0:
        return 0.0
    return float((values > threshold * highest).sum().sqrt()) * step


class _evaluating:
    """Inside the block the module is in evaluation mode; afterwards every part is as it was."""

    def __init__(self, module: nn.Module):
        self.modes = {part: part.training for part in module.modules()}
        self.module = module

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        for part, mode in self.modes.items():
            part.training = mode


# -- the occluder -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmpiricalField:
    """What covering the picture patch by patch says of one unit; maps are in steps of `stride` pixels.

    average      (h, w) mean discrepancy, the unit's own place in the middle
    maps         one (gy, gx) discrepancy map an image, by where the occluder lay, not moved
    images       which of the images were used: those that excite the unit most
    cells        where in its map the unit answered most strongly, (row, column) an image
    activations  how strongly
    """

    average: Tensor
    maps: list[Tensor]
    images: list[int]
    cells: list[tuple[int, int]]
    activations: list[float]
    stride: int

    def size(self, threshold: float = 0.5) -> float:
        """In pixels: see `measured_size`."""
        return measured_size(self.average, step=self.stride, threshold=threshold)


def empirical_field(
    module: nn.Module,
    layer: str,
    unit: int,
    images: Tensor,
    *,
    occluder: int = 11,
    stride: int = 3,
    top_k: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    fields: ReceptiveFields | None = None,
    show_progress: bool = True,
) -> EmpiricalField:
    """The empirical receptive field of channel `unit` of a layer, by Zhou et al.'s procedure.

    The `top_k` of `images` (N, 3, H, W) that excite the unit most are covered with a patch of random pixels,
    `occluder` wide, at every place of a grid of `stride` pixels; the change of the unit where it was most
    excited, by the patch's place, is the image's discrepancy map. The maps are moved so that the unit's
    place is in the middle, and averaged.

    fields  of the module on pictures of this size, where they are known already

    The network is taken as in evaluation.
    """
    if not 1 <= top_k <= len(images):
        raise ValueError(f"top_k is {top_k}, but must be between 1 and the {len(images)} images")
    reader = LayerReader(module, layer)
    fields = fields or receptive_fields(module, tuple(images.shape[-2:]), channels=images.shape[1])
    patch = occluding_patch(images, occluder, seed)
    with _evaluating(module), torch.no_grad():
        best, cells = most_exciting(reader, unit, images, top_k, batch_size)
        maps, strengths = [], []
        for image, cell in progress_bar(
            list(zip(best, cells, strict=True)), f"occluding, {layer} unit {unit}", show=show_progress
        ):
            found = discrepancy_map(reader, unit, images[image], cell, patch, stride, fields[layer], batch_size)
            maps.append(found)
            strengths.append(float(reader(images[image][None])[0, unit, cell[0], cell[1]]))
    centres = [(fields[layer].rows.centre(row), fields[layer].columns.centre(column)) for row, column in cells]
    average = centred_average(maps, centres, occluder, stride)
    return EmpiricalField(average, maps, best, cells, strengths, stride)


def occluding_patch(images: Tensor, size: int, seed: int = 0) -> Tensor:
    """(3, size, size): random pixels, evenly distributed between the images' darkest and brightest values."""
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    noise = torch.rand(len(low), size, size, generator=torch.Generator().manual_seed(seed))
    return low[:, None, None] + noise.to(images) * (high - low)[:, None, None]


def most_exciting(
    reader: LayerReader, unit: int, images: Tensor, top_k: int, batch_size: int = 256
) -> tuple[list[int], list[tuple[int, int]]]:
    """Which images excite a unit most, strongest first, and the cell (row, column) where each does."""
    strongest, places, width = [], [], 1
    for first in range(0, len(images), batch_size):
        maps = reader(images[first : first + batch_size])[:, unit]
        width = maps.shape[-1]
        values, where = maps.flatten(1).max(dim=1)
        strongest.append(values)
        places.append(where)
    best = torch.cat(strongest).topk(top_k).indices.tolist()
    where = torch.cat(places)[best].tolist()
    return best, [divmod(place, width) for place in where]


def grid_of(length: int, occluder: int, stride: int) -> list[int]:
    """First pixels of the occluder along an axis: 72 of them for 224 pixels, 11 and 3."""
    if occluder > length:
        raise ValueError(f"an occluder of {occluder} pixels does not fit into {length}")
    return list(range(0, length - occluder + 1, stride))


def discrepancy_map(
    reader: LayerReader,
    unit: int,
    image: Tensor,
    cell: tuple[int, int],
    patch: Tensor,
    stride: int,
    field: LayerField,
    batch_size: int = 32,
) -> Tensor:
    """(gy, gx): |change of one cell| by the place of `patch` (3, n, n) on `image` (3, H, W).

    The same numbers as covering the picture at one place after another, but for two savings that change
    nothing. A patch that lies outside the cell's theoretical field cannot change it, so the answer there is
    0 without asking. And the cell reads nothing outside its field, so that only this part of the picture
    goes through the network, cut at a multiple of the jump so that the cells stay where they were. What is
    left runs in batches, channels-last, which poolings like on the CPU.
    """
    size, occluder = tuple(image.shape[-2:]), patch.shape[-1]
    rows, columns = (grid_of(length, occluder, stride) for length in size)
    top, left, bottom, right = field.box(cell, size)
    places = [
        (y, x, row, column)
        for y, row in enumerate(rows)
        if top - occluder < row < bottom
        for x, column in enumerate(columns)
        if left - occluder < column < right
    ]
    up, cell_row = _cut(field.rows, top, cell[0])
    across, cell_column = _cut(field.columns, left, cell[1])
    if not _can_be_cut(field):
        up, across, bottom, right = 0, 0, *size
        cell_row, cell_column = cell
    part = image[None, :, up:bottom, across:right].to(memory_format=torch.channels_last)
    before = reader(part)[0, unit, cell_row, cell_column]
    found = torch.zeros(len(rows), len(columns))
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        copies = part.expand(len(batch), -1, -1, -1).clone(memory_format=torch.channels_last)
        for copy_, (_, _, row, column) in zip(copies, batch, strict=True):
            _cover(copy_, patch, row - up, column - across)
        after = reader(copies)[:, unit, cell_row, cell_column]
        at = torch.tensor([place[:2] for place in batch])
        found[at[:, 0], at[:, 1]] = (after - before).abs().float().cpu()
    return found


def _cover(picture: Tensor, patch: Tensor, row: int, column: int) -> None:
    """Put `patch` on `picture` in place, cut off where it sticks out."""
    size = patch.shape[-1]
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + size, picture.shape[-2]), min(column + size, picture.shape[-1])
    picture[:, top:bottom, left:right] = patch[:, top - row : bottom - row, left - column : right - column]


def _can_be_cut(field: LayerField) -> bool:
    """The cells lie on a grid of whole pixels, so that the picture may be moved under them."""
    return all(
        not axis.whole and axis.jump >= 1 and axis.jump == int(axis.jump) for axis in (field.rows, field.columns)
    )


def _cut(field: Field, first: int, cell: int) -> tuple[int, int]:
    """Where to cut the picture before pixel `first`, and the number of `cell` in what is left."""
    if field.whole or field.jump < 1:
        return 0, cell
    cells = first // int(field.jump)
    return cells * int(field.jump), cell - cells


def centred_average(
    maps: Sequence[Tensor], centres: Sequence[tuple[float, float]], occluder: int, stride: int
) -> Tensor:
    """The mean of discrepancy maps (gy, gx), each moved so that its unit's centre (y, x) is in the middle.

    A place of the result that no map covers is 0; elsewhere the mean is over the maps that cover it. The
    result is (2 gy - 1, 2 gx - 1), and moving is by whole steps of the grid.
    """
    height, width = maps[0].shape
    total = torch.zeros(2 * height - 1, 2 * width - 1)
    count = torch.zeros_like(total)
    for values, centre in zip(maps, centres, strict=True):
        y, x = (round((c - (occluder - 1) / 2) / stride) for c in centre)
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        part = slice(height - 1 - y, 2 * height - 1 - y), slice(width - 1 - x, 2 * width - 1 - x)
        total[part] += values
        count[part] += 1
    return total / count.clamp(min=1)
