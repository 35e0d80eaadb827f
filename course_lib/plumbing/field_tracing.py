"""Follows the receptive field of every cell through a running network: the plumbing of `receptive_field`.

A dispatch mode sees each elementary operation (aten op) that a forward pass is made of, whatever the
module's Python looks like: functional calls, additions, concatenations and crops included. Beside every
tensor that depends on the picture it keeps which pixels each cell reads, one axis at a time. The numbers
themselves are not needed, so convolutions are not computed.

An operation that is not known here ends the trace for what comes after it, with its name. It is never
guessed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WHOLE = "whole"
"""Stands for the axis of a tensor that depends on the whole picture."""


class Unknown(Exception):
    """No field is known, and why."""


class TooNarrow(Exception):
    """The picture was not continued far enough beyond its borders."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Cell `first + i` of a map reads the pixels `low[i]` .. `high[i]` (in between, perhaps not all).

    The cells run on beyond both ends of the map: those are what its padding stands for. `jump` is the mean
    distance of neighbouring cells in pixels, `misalignment` the largest distance so far between the
    middles of two branches that met.
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
"""A length, and the picture's axis (0 rows, 1 columns) that it counts cells of, or None."""


@dataclass(frozen=True, eq=False)
class Traced:
    """What is known of a tensor: the field along both axes, and which of its dimensions hold the cells.

    dims     for each dimension its parts (several where a view has merged dimensions)
    pooling  (kernel, stride, padding) of a max-pooling whose indices these are
    """

    axes: tuple[Axis | str, Axis | str]
    dims: tuple[tuple[Part, ...], ...]
    pooling: tuple[list[int], list[int], list[int]] | None = None

    def tag(self, dim: int) -> int | None:
        """The picture's axis that dimension `dim` counts cells of."""
        tags = [tag for length, tag in self.dims[dim] if tag is not None]
        if not tags:
            return None
        if len(self.dims[dim]) > 1:
            raise Unknown("cells of several axes or channels share a dimension")
        return tags[0]

    def cells(self, axis: int) -> int:
        """How many cells there are along an axis (1 where it was reduced)."""
        return math.prod(length for parts in self.dims for length, tag in parts if tag == axis)

    def with_axis(self, tag: int, axis: Axis | str) -> "Traced":
        return replace(self, axes=tuple(axis if i == tag else a for i, a in enumerate(self.axes)))


def plain(length: int) -> tuple[Part, ...]:
    return () if length == 1 else ((length, None),)


# -- which cells of the old map a cell of the new one reads -------------------------------------------


def _gather(axis: Axis, first: int, last: int, taps: Callable, scale: Fraction, cells: int) -> Axis:
    """The axis of a map whose cell o reads the old cells `taps(o)` ((n, taps) with a mask)."""
    if last < first or first > 0 or last < cells - 1:
        raise TooNarrow
    new = np.arange(first, last + 1)
    old, used = taps(new[:, None])
    if not used.any(axis=1).all():
        raise Unknown("a kernel smaller than its stride leaves cells that read nothing")
    low, high = axis.at(np.where(used, old, axis.first))
    low = np.where(used, low, np.iinfo(np.int64).max).min(axis=1)
    high = np.where(used, high, np.iinfo(np.int64).min).max(axis=1)
    return Axis(low, high, first, axis.jump * scale, axis.misalignment)


def window(axis, kernel, stride, padding, dilation, cells):
    """A convolution or pooling: cell o reads o * stride - padding + t * dilation for t < kernel."""
    steps = np.arange(kernel) * dilation
    first = -((-axis.first - padding) // stride)
    last = (axis.stop - 1 + padding - steps[-1]) // stride

    def taps(new):
        return new * stride - padding + steps, np.ones((len(new), kernel), dtype=bool)

    return _gather(axis, first, int(last), taps, Fraction(stride), cells)


def spread(axis, kernel, stride, padding, dilation, cells):
    """A transposed convolution: cell i is put down at i * stride - padding + t * dilation."""
    steps = np.arange(kernel) * dilation
    first = axis.first * stride - padding + int(steps[-1])
    last = (axis.stop - 1) * stride - padding

    def taps(new):
        found = new + padding - steps
        return found // stride, found % stride == 0

    return _gather(axis, first, last, taps, Fraction(1, stride), cells)


def resample(axis, ratio, reach, offset, cells):
    """Interpolation: cell o lies at o * ratio + offset of the old map and reads `reach` cells.

    reach  1 nearest, 2 bilinear, 4 bicubic; a cell exactly on an old one reads only that one
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
    """The field of a sum or concatenation: from the first pixel that either reads to the last."""
    if left is right:
        return left
    if WHOLE in (left, right):
        return WHOLE
    first, stop = max(left.first, right.first), min(left.stop, right.stop)
    if first > 0 or stop < cells:
        raise TooNarrow
    index = np.arange(first, stop)
    (low_a, high_a), (low_b, high_b) = left.at(index), right.at(index)
    # the mean, since the cells of an upsampled map look to either side in turn; over whole turns
    turns = slice(-first, -first + min(-(-cells // 64) * 64, stop))
    apart = abs(((low_a + high_a) - (low_b + high_b))[turns].mean()) / 2
    return Axis(
        np.minimum(low_a, low_b),
        np.maximum(high_a, high_b),
        first,
        max(left.jump, right.jump),
        max(left.misalignment, right.misalignment, float(apart)),
    )


# -- what operations do -------------------------------------------------------------------------------

INDEPENDENT = {
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
}
ELEMENTWISE = {  # besides those that torch itself marks as such
    "hardswish",
    "log_sigmoid_forward",
    "mish",
    "threshold",
    "masked_fill",
    "fill",
    "zero",
    "rsub",
    "prelu",
    "_prelu_kernel",
    "rrelu_with_noise",
    "native_dropout",
}
SAME = {"clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "native_channel_shuffle"}
REDUCTIONS = {
    "mean",
    "sum",
    "amax",
    "amin",
    "aminmax",
    "max",
    "min",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "prod",
    "argmax",
    "argmin",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "any",
    "all",
}
ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_cudnn_attention",
}
NEAREST = {"upsample_nearest2d": 0, "_upsample_nearest_exact2d": 1}
SMOOTH = {"upsample_bilinear2d": 2, "upsample_bicubic2d": 4}


class FieldTracer(TorchDispatchMode):
    """Inside `with FieldTracer(...) as tracer:`, `tracer.state(tensor)` is what is known of a tensor.

    margin  pixels by which the picture is continued beyond its borders
    """

    def __init__(self, picture: Tensor, margin: int):
        super().__init__()
        self.margin = margin
        self.known: dict[int, tuple[Tensor, Traced | Unknown]] = {}
        self.spoilt: dict[int, tuple[Tensor, Unknown]] = {}
        self.leak: Unknown | None = None
        axes = []
        for length in picture.shape[-2:]:
            pixels = np.arange(-margin, length + margin)
            axes.append(Axis(pixels, pixels, -margin, Fraction(1)))
        count, channels, height, width = picture.shape
        dims = (plain(count), plain(channels), ((height, 0),), ((width, 1),))
        self.known[id(picture)] = picture, Traced(tuple(axes), dims)

    def state(self, tensor: Tensor) -> Traced | Unknown | None:
        """Traced, Unknown, or None for what does not depend on the picture."""
        if self.spoilt and (spoilt := self.spoilt.get(_storage(tensor))):
            return spoilt[1]
        found = self.known.get(id(tensor))
        return found[1] if found else None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = _bind(func, args, kwargs)
        states = [state for t in _tensors(values.values()) if (state := self.state(t)) is not None]
        output = _run(func, args, kwargs)
        if not states or func.overloadpacket.__name__ in INDEPENDENT:
            return output
        found = self._found(func, values, states, output)
        outputs = list(_tensors([output]))
        if not outputs and not func._schema.is_mutable:
            self.leak = Unknown("a number was read out of a feature map (as .item() does)")
        changed = {
            id(t)
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for t in _tensors([values[argument.name]])
        }
        per_output = found if isinstance(found, list) else [found] * len(outputs)
        for tensor, state in zip(outputs, per_output, strict=True):
            if isinstance(state, Traced) and len(state.dims) != tensor.dim():
                state = Unknown(f"of the second result of {func}")
            if id(tensor) in changed:
                self._overwrite(tensor, state)
            else:
                self.known[id(tensor)] = tensor, state
        return output

    def _found(self, func, values, states, output):
        unknown = self.leak or next((s for s in states if isinstance(s, Unknown)), None)
        if unknown is not None:
            return unknown
        try:
            return self._rule(func, values, output)
        except Unknown as reason:
            return Unknown(f"{reason} ({func})")

    def _overwrite(self, tensor: Tensor, state: Traced | Unknown) -> None:
        """`tensor` was changed in place: other tensors may look at the same memory."""
        before = self.state(tensor)
        if isinstance(before, Traced) and isinstance(state, Traced) and _equal(before, state):
            return
        part = tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
        if part and isinstance(state, Traced):
            state = Unknown("a part of a tensor was written to in place")
        if isinstance(state, Unknown) or part:
            self.spoilt[_storage(tensor)] = tensor, state
        for key, (other, _) in list(self.known.items()):
            if other is not tensor and _storage(other) == _storage(tensor):
                self.known[key] = other, Unknown("its memory was written to through another tensor")
        self.known[id(tensor)] = tensor, state

    # -- rules: from the arguments by name to what is known of the output --------------------------

    def _rule(self, func, values, output):
        name = func.overloadpacket.__name__.removesuffix("_")
        rule = getattr(self, f"_op_{name}", None)
        if rule is not None:
            return rule(values, output)
        source = values.get("self", values.get("input"))
        first = self.state(source) if isinstance(source, Tensor) else None
        if name in REDUCTIONS and first is not None and values.get("other") is None:
            return self._reduce(first, values, output)
        if torch.Tag.pointwise in func.tags or name in ELEMENTWISE:
            return self._join(_tensors(values.values()), output)
        if name in SAME:
            return replace(first, dims=self._resized(first, output))
        if name in ATTENTION:
            return Traced((WHOLE, WHOLE), tuple(plain(length) for length in _first(output).shape))
        if name in NEAREST or name in SMOOTH:
            return self._interpolate(name, first, values, output)
        raise Unknown("an operation whose field is not known here")

    @staticmethod
    def _resized(state, output):
        """The dimensions of `state`, those without cells in the output's length."""
        lengths = _first(output).shape
        return tuple(
            parts if any(tag is not None for _, tag in parts) else plain(length)
            for parts, length in zip(state.dims, lengths, strict=True)
        )

    def _constant(self, axis: Axis, cells: int) -> Axis:
        """A map of one cell, spread over `cells`."""
        length = cells + 2 * self.margin
        low, high = axis.at(np.zeros(length, dtype=np.int64))
        return Axis(low, high, -self.margin, Fraction(0), axis.misalignment)

    def _join(self, tensors: Iterable[Tensor], output: Tensor) -> Traced:
        """Element by element, with broadcasting: the union of what the inputs read."""
        states = [state for t in tensors if (state := self.state(t)) is not None]
        shape = _first(output).shape
        dims = [plain(length) for length in shape]
        for state in states:
            for back, parts in enumerate(reversed(state.dims), start=1):
                if any(tag is not None for _, tag in parts):
                    if math.prod(length for length, _ in parts) != shape[-back]:
                        continue  # one cell, spread over many
                    kept = [tag for _, tag in dims[-back] if tag is not None]
                    if kept and [tag for _, tag in parts if tag is not None] != kept:
                        raise Unknown("rows of one map meet columns of another")
                    dims[-back] = parts
        joined = Traced((WHOLE, WHOLE), tuple(dims))
        for tag in (0, 1):
            axes = [state.axes[tag] for state in states]
            cells = joined.cells(tag)
            if cells > 1:
                axes = [
                    axis if axis == WHOLE or state.cells(tag) == cells else self._constant(axis, cells)
                    for axis, state in zip(axes, states, strict=True)
                ]
            total = axes[0]
            for axis in axes[1:]:
                total = union(total, axis, cells)
            joined = joined.with_axis(tag, total)
        return joined

    def _contract(self, state: Traced, dims: Iterable[int]) -> Traced:
        """A sum over dimensions: their cells' axes now depend on all of them."""
        for dim in dims:
            for length, tag in state.dims[dim]:
                if tag is not None and length > 1:
                    state = state.with_axis(tag, WHOLE)
        return state

    def _reduce(self, state, values, output):
        dims = values.get("dim")
        if dims is None or dims == []:
            dims = list(range(len(state.dims)))
        dims = [dim % len(state.dims) for dim in ([dims] if isinstance(dims, int) else dims)]
        state = self._contract(state, dims)
        kept = bool(values.get("keepdim", False))
        left = [(() if i in dims else parts) for i, parts in enumerate(state.dims) if kept or i not in dims]
        return replace(state, dims=tuple(left))

    def _sliding(self, state, output, move):
        """`move(axis, number of the spatial dimension, cells)` along every spatial dimension."""
        shape = _first(output).shape
        dims = [*state.dims[: len(shape) - 2], plain(shape[-2]), plain(shape[-1])]
        for number, dim in enumerate((len(shape) - 2, len(shape) - 1)):
            tag = state.tag(dim)
            if tag is None:
                continue
            dims[dim] = ((shape[dim], tag),)
            axis = state.axes[tag]
            if axis != WHOLE:
                state = state.with_axis(tag, move(axis, number, shape[dim]))
        return replace(state, dims=tuple(dims), pooling=None)

    def _op_convolution(self, values, output):
        state = self.state(values["input"])
        if state is None or self.state(values["weight"]) is not None:
            raise Unknown("a convolution whose weights depend on the picture")
        if state.tag(1) is not None:
            raise Unknown("a convolution over an axis of the picture as channels")
        weight, move = values["weight"], spread if values["transposed"] else window
        if weight.dim() != 4:
            raise Unknown("a convolution that is not two-dimensional")
        stride, padding, dilation = (_pair(values[key]) for key in ("stride", "padding", "dilation"))

        def moved(axis, number, cells):
            kernel = weight.shape[2 + number]
            return move(axis, kernel, stride[number], padding[number], dilation[number], cells)

        state = self._sliding(state, output, moved)
        channels = plain(output.shape[1])
        return replace(state, dims=(state.dims[0], channels, *state.dims[2:]))

    def _pool(self, values, output):
        state = self.state(values["self"])
        kernel = _pair(values["kernel_size"])
        stride = _pair(values["stride"]) if values.get("stride") else kernel
        padding, dilation = _pair(values.get("padding", 0)), _pair(values.get("dilation", 1))

        def moved(axis, number, cells):
            return window(axis, kernel[number], stride[number], padding[number], dilation[number], cells)

        return self._sliding(state, output, moved), (kernel, stride, padding)

    def _op_max_pool2d_with_indices(self, values, output):
        state, pooling = self._pool(values, output)
        return [state, replace(state, pooling=pooling)]

    def _op_avg_pool2d(self, values, output):
        return self._pool(values, output)[0]

    def _op_max_unpool2d(self, values, output):
        state, indices = self.state(values["self"]), self.state(values["indices"])
        if state is None or indices is None or indices.pooling is None:
            raise Unknown("unpooling with indices that no max-pooling here has returned")
        kernel, stride, padding = indices.pooling
        joined = self._join([values["self"], values["indices"]], values["self"])

        def moved(axis, number, cells):
            return spread(axis, kernel[number], stride[number], padding[number], 1, cells)

        return self._sliding(joined, output, moved)

    def _adaptive(self, values, output):
        """Bins that divide the map are a pooling; other bins are called the whole picture."""
        state = self.state(values["self"])
        before = values["self"].shape[-2:]

        def moved(axis, number, cells):
            size, rest = divmod(before[number], cells)
            if rest or (cells == 1 and before[number] > 1):
                return WHOLE
            return window(axis, size, size, 0, 1, cells)

        return self._sliding(state, output, moved)

    _op__adaptive_avg_pool2d = _adaptive
    _op_adaptive_max_pool2d = _adaptive

    def _interpolate(self, name, state, values, output):
        source = values["self"] if "self" in values else values["input"]
        factors = values.get("scale_factors") or [values.get("scales_h"), values.get("scales_w")]
        corners = bool(values.get("align_corners", False))

        def moved(axis, number, cells):
            before, factor = source.shape[-2 + number], factors[number]
            if before == 1:
                return self._constant(axis, cells)
            ratio = Fraction(before, cells)
            if factor is not None and math.floor(before * factor) == cells:
                ratio = 1 / Fraction(factor).limit_denominator(1000)
            if name in NEAREST:
                return resample(axis, ratio, 1, NEAREST[name] * ratio / 2, cells)
            if corners:
                ratio = Fraction(max(before - 1, 1), max(cells - 1, 1))
                return resample(axis, ratio, SMOOTH[name], Fraction(0), cells)
            return resample(axis, ratio, SMOOTH[name], ratio / 2 - Fraction(1, 2), cells)

        return self._sliding(state, output, moved)

    def _op_pixel_shuffle(self, values, output):
        state, factor = self.state(values["self"]), values["upscale_factor"]

        def moved(axis, number, cells):
            return resample(axis, Fraction(1, factor), 1, Fraction(0), cells)

        state = self._sliding(state, output, moved)
        return replace(state, dims=self._resized(state, output))

    def _op_pixel_unshuffle(self, values, output):
        state, factor = self.state(values["self"]), values["downscale_factor"]
        state = self._sliding(state, output, lambda axis, number, cells: window(axis, factor, factor, 0, 1, cells))
        return replace(state, dims=self._resized(state, output))

    def _padded(self, values, output):
        """Padding renames the cells; a negative one crops."""
        state, pad = self.state(values["self"]), list(values.get("pad") or values["padding"])
        for back in range(len(pad) // 2):
            dim = len(state.dims) - 1 - back
            tag = state.tag(dim) if pad[2 * back] or pad[2 * back + 1] else None
            if tag is None:
                continue
            length = _first(output).shape[dim]
            if state.axes[tag] != WHOLE:
                axis = state.axes[tag]
                state = state.with_axis(tag, replace(axis, first=axis.first + pad[2 * back]))
            dims = [((length, tag),) if i == dim else parts for i, parts in enumerate(state.dims)]
            state = replace(state, dims=tuple(dims))
        return replace(state, dims=self._resized(state, output))

    _op_constant_pad_nd = _padded
    _op_reflection_pad2d = _padded
    _op_replication_pad2d = _padded

    def _op_slice(self, values, output):
        state = self.state(values["self"])
        dim, step = values["dim"] % len(state.dims), values["step"]
        before = values["self"].shape[dim]
        start = values["start"] or 0
        start = min(max(start + before if start < 0 else start, 0), before)
        if output.shape[dim] == before and step == 1:
            return state
        tag = state.tag(dim)
        if tag is not None and state.axes[tag] != WHOLE:
            axis = state.axes[tag]
            first = -((start - axis.first) // step)
            skipped = first * step + start - axis.first
            low, high = axis.low[skipped::step], axis.high[skipped::step]
            state = state.with_axis(tag, replace(axis, low=low, high=high, first=first, jump=axis.jump * step))
        parts = plain(output.shape[dim]) if tag is None else ((output.shape[dim], tag),)
        return replace(state, dims=(*state.dims[:dim], parts, *state.dims[dim + 1 :]))

    def _op_index_select(self, values, output):
        """Mirroring by hand: where the map stands whole and in order, it is kept; the rest is padding."""
        state, index = self.state(values["self"]), values["index"]
        dim = values["dim"] % len(state.dims)
        tag = state.tag(dim)
        if tag is None:
            return replace(state, dims=self._resized(state, output))
        order, cells = index.tolist(), values["self"].shape[dim]
        whole = [
            at
            for at in range(len(order) - cells + 1)
            if order[at] == 0 and order[at : at + cells] == list(range(cells))
        ]
        if not whole:
            raise Unknown("cells picked one by one")
        at = min(whole, key=lambda at: abs(2 * at + cells - len(order)))
        if state.axes[tag] != WHOLE:
            axis = state.axes[tag]
            state = state.with_axis(tag, replace(axis, first=axis.first + at))
        return replace(state, dims=(*state.dims[:dim], ((len(order), tag),), *state.dims[dim + 1 :]))

    def _op_select(self, values, output):
        state = self.state(values["self"])
        dim = values["dim"] % len(state.dims)
        tag = state.tag(dim)
        if tag is not None and state.axes[tag] != WHOLE:
            index = values["index"] % values["self"].shape[dim]
            low, high = state.axes[tag].at(np.array([index]))
            state = state.with_axis(tag, replace(state.axes[tag], low=low, high=high, first=0))
        return replace(state, dims=state.dims[:dim] + state.dims[dim + 1 :])

    def _split(self, values, output):
        state = self.state(values["self"])
        dim = values.get("dim", 0) % len(state.dims)
        if state.tag(dim) is not None:
            raise Unknown("a picture cut into parts")
        if output and output[0].dim() < len(state.dims):
            return [replace(state, dims=state.dims[:dim] + state.dims[dim + 1 :])] * len(output)
        return [
            replace(state, dims=(*state.dims[:dim], plain(part.shape[dim]), *state.dims[dim + 1 :])) for part in output
        ]

    _op_split = _op_split_with_sizes = _op_unbind = _op_chunk = _split

    def _op_cat(self, values, output):
        tensors, dim = values["tensors"], values.get("dim", 0) % output.dim()
        tensors = [t for t in tensors if t.numel()]
        if any((s := self.state(t)) is not None and s.tag(dim) is not None for t in tensors):
            raise Unknown("maps put side by side along an axis of the picture")
        joined = self._join(tensors, output)
        return replace(joined, dims=self._resized(joined, output))

    def _op_stack(self, values, output):
        tensors, dim = values["tensors"], values.get("dim", 0) % output.dim()
        joined = self._join(tensors, tensors[0])
        dims = (*joined.dims[:dim], plain(output.shape[dim]), *joined.dims[dim:])
        return replace(joined, dims=dims)

    def _op_copy(self, values, output):
        state = self.state(values["src"])
        if state is None:
            return self.state(values["self"])
        return self._join([values["src"]], output)

    def _reshaped(self, values, output):
        state = self.state(values["self"])
        rest = [part for parts in state.dims for part in parts]
        dims = []
        for length in output.shape:
            parts, found = [], 1
            if length == 1 and rest and rest[0][0] == 1:
                parts.append(rest.pop(0))
            while found < length and rest:
                size, tag = rest.pop(0)
                if length % (found * size):
                    wanted = length // found
                    if tag is not None or size % wanted:
                        raise Unknown("a view that cuts an axis of the picture into pieces")
                    rest.insert(0, (size // wanted, None))
                    size = wanted
                parts.append((size, tag))
                found *= size
            dims.append(tuple(part for part in parts if part != (1, None)))
        if rest:
            dims[-1] += tuple(rest)
        return replace(state, dims=tuple(dims))

    _op_view = _op__unsafe_view = _op_reshape = _op__reshape_alias = _reshaped

    def _op_permute(self, values, output):
        state = self.state(values["self"])
        return replace(state, dims=tuple(state.dims[dim] for dim in values["dims"]))

    def _op_transpose(self, values, output):
        state = self.state(values["self"])
        dims = list(state.dims)
        one, other = values["dim0"], values["dim1"]
        dims[one], dims[other] = dims[other], dims[one]
        return replace(state, dims=tuple(dims))

    def _op_t(self, values, output):
        state = self.state(values["self"])
        return replace(state, dims=tuple(reversed(state.dims)))

    def _op_unsqueeze(self, values, output):
        state = self.state(values["self"])
        dim = values["dim"] % (len(state.dims) + 1)
        return replace(state, dims=(*state.dims[:dim], (), *state.dims[dim:]))

    def _op_squeeze(self, values, output):
        state, shape = self.state(values["self"]), values["self"].shape
        dims = values.get("dim", list(range(len(shape))))
        dims = [dim % len(shape) for dim in ([dims] if isinstance(dims, int) else dims)]
        left = [p for i, p in enumerate(state.dims) if i not in dims or shape[i] != 1]
        return replace(state, dims=tuple(left))

    def _op_as_strided(self, values, output):
        state = self.state(values["self"])
        if [math.prod(length for length, _ in parts) for parts in state.dims] != list(output.shape):
            raise Unknown("a tensor looked at with other strides")
        return state  # another memory order of the same tensor

    def _op_expand(self, values, output):
        return self._join([values["self"]], output)

    def _op_repeat(self, values, output):
        state = self.state(values["self"])
        extra = output.dim() - len(state.dims)
        for dim, times in enumerate(values["repeats"]):
            if dim >= extra and times != 1 and state.tag(dim - extra) is not None:
                raise Unknown("a picture repeated side by side")
        state = replace(state, dims=((),) * extra + state.dims)
        return replace(state, dims=self._resized(state, output))

    def _product(self, left: Tensor, right: Tensor, output: Tensor) -> Traced:
        """A matrix product: the sum is over the last dimension of `left`, the last but one of `right`."""
        one, other = self.state(left), self.state(right)
        if one is not None and other is not None:
            return Traced((WHOLE, WHOLE), tuple(plain(length) for length in output.shape))
        if one is not None:
            return replace(self._contract(one, [-1]), dims=(*one.dims[:-1], plain(output.shape[-1])))
        other = self._contract(other, [-2])
        return replace(other, dims=(*other.dims[:-2], plain(output.shape[-2]), other.dims[-1]))

    def _op_mm(self, values, output):
        return self._product(values["self"], values["mat2"], output)

    _op_bmm = _op_mm

    def _op_addmm(self, values, output):
        if self.state(values["self"]) is not None:
            raise Unknown("a matrix product with a bias that depends on the picture")
        left = values["mat1"] if "mat1" in values else values["batch1"]
        return self._product(left, values["mat2"] if "mat2" in values else values["batch2"], output)

    _op_baddbmm = _op_addmm

    def _op_linear(self, values, output):
        return self._product(values["input"], values["weight"].t(), output)

    def _over_dimension(self, values, output):
        return self._contract(self.state(values["self"]), [values["dim"]])

    _op__softmax = _op__log_softmax = _op__safe_softmax = _op_cumsum = _over_dimension

    def _batch_norm(self, values, output):
        state = self.state(values["input"])
        if values.get("training"):  # statistics of the picture itself
            state = self._contract(state, range(len(state.dims)))
        return [state] + [Unknown("batch statistics")] * (len(list(_tensors([output]))) - 1)

    _op_native_batch_norm = _op__native_batch_norm_legit = _batch_norm
    _op__native_batch_norm_legit_no_training = _op_cudnn_batch_norm = _batch_norm
    _op__batch_norm_with_update = _op__batch_norm_no_update = _op_miopen_batch_norm = _batch_norm

    def _op_native_group_norm(self, values, output):
        state = self.state(values["input"])
        state = self._contract(state, range(len(state.dims)))
        return [state, Unknown("group statistics"), Unknown("group statistics")]

    def _op_native_layer_norm(self, values, output):
        state = self.state(values["input"])
        state = self._contract(state, range(-len(values["normalized_shape"]), 0))
        return [state, Unknown("layer statistics"), Unknown("layer statistics")]


def _run(func, args, kwargs):
    """The operation itself; a convolution's result is only given its shape."""
    if func is not aten.convolution.default:
        return func(*args, **kwargs)
    meta = [value.to("meta") if isinstance(value, Tensor) else value for value in args]
    return args[0].new_zeros(func(*meta, **kwargs).shape)


def _bind(func, args: Sequence, kwargs: dict) -> dict[str, object]:
    """The arguments by name, defaults included."""
    values = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args) and not argument.kwarg_only:
            values[argument.name] = args[position]
        else:
            values[argument.name] = kwargs.get(argument.name, argument.default_value)
    return values


def _tensors(values: Iterable) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _first(output) -> Tensor:
    return next(iter(_tensors([output])))


def _pair(value) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _equal(one: Traced, other: Traced) -> bool:
    return one.dims == other.dims and all(
        a == b if isinstance(a, str) or isinstance(b, str) else a.same(b)
        for a, b in zip(one.axes, other.axes, strict=True)
    )


SWITCHED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""What computes something else in training."""


def trace(module: nn.Module, picture: Tensor, *, training: bool = False) -> dict[str, Traced | Unknown]:
    """Run `module` on `picture` and return what is known of the output of every module in it, by name.

    The module itself is "". Lists, tuples and dicts add [0], [1], ... or [key] to the name. A module that
    is called several times keeps what its last call returned. Batch normalisation and dropout are as in
    evaluation; `training` leaves the rest as it is in training.
    """
    margin = 2048
    while True:
        try:
            return _trace(module, picture, margin, training)
        except TooNarrow:
            margin *= 4
            if margin > 2**20:
                raise Unknown(f"a field of more than {2**19} pixels") from None


def _trace(module, picture, margin, training):
    found: dict[str, Traced | Unknown] = {}

    def keep(name, value):
        if isinstance(value, Tensor):
            state = tracer.state(value)
            found[name] = Unknown("it does not depend on the picture") if state is None else state
        elif isinstance(value, list | tuple | dict):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in pairs:
                keep(f"{name}[{key}]", part)

    modes = {part: part.training for part in module.modules()}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, part in module.named_modules()
    ]
    try:
        for part in module.modules():
            part.training = training and not isinstance(part, SWITCHED)
        with torch.no_grad(), FieldTracer(picture, margin) as tracer:
            module(picture)
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return found
