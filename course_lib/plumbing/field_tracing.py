"""Follows the receptive field of every cell through a running network: the plumbing of `receptive_field`.

A dispatch mode sees each elementary operation (aten op) that a forward pass is made of, whatever the
module's Python looks like: functional calls, additions, concatenations and crops included. Beside every
tensor that depends on the image it keeps which pixels each cell reads, one axis at a time. The numbers
themselves are not needed, so convolutions are not computed.

The operations are those that networks of convolutions are made of. Any other one ends the trace for what comes
after it, with its name. It is never guessed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.plumbing.field_axes import (
    WHOLE,
    Axis,
    TooNarrow,
    Traced,
    Unknown,
    plain,
    resample,
    same,
    transposed_window,
    union,
    window,
)
from course_lib.plumbing.modes import evaluating

aten = torch.ops.aten

# -- what operations do -------------------------------------------------------------------------------

INDEPENDENT = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
"""Operations that take only shape and type from their argument."""
ELEMENTWISE = {"hardswish", "_prelu_kernel", "masked_fill", "rsub"}
"""Operations of single cells, besides those that torch itself marks as such."""
SAME = {"clone", "detach", "alias", "_to_copy"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "linalg_vector_norm"}
INTERPOLATIONS = {"upsample_nearest2d": 1, "upsample_bilinear2d": 2}
"""How many cells of the old map, along an axis, a cell of the new one lies between."""


class FieldTracer(TorchDispatchMode):
    """Inside `with FieldTracer(...) as tracer:`, `tracer.state(tensor)` is what is known of a tensor.

    Args:
        picture: (N, C, H, W), what the network will be run on.
        margin: Pixels by which the image is continued beyond its borders.
    """

    def __init__(self, picture: Tensor, margin: int):
        super().__init__()
        self.margin = margin
        # By id, with the tensor itself, which so stays alive: another tensor can never get its id.
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
        """Return what is known of `tensor`: Traced, Unknown, or None where it does not depend on the image."""
        if self.spoilt and (spoilt := self.spoilt.get(storage_of(tensor))):
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
        # A rule answers for all outputs alike, or with a list: of max-pooling the maxima and their indices.
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
        if isinstance(before, Traced) and isinstance(state, Traced) and same(before, state):
            return
        # The rest of the memory keeps its field, so that no single answer holds for the tensors that show both.
        part = tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
        if part and isinstance(state, Traced):
            state = Unknown("a part of a tensor was written to in place")
        if isinstance(state, Unknown) or part:
            self.spoilt[storage_of(tensor)] = tensor, state
        for key, (other, _) in list(self.known.items()):
            if other is not tensor and storage_of(other) == storage_of(tensor):
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
        if name in INTERPOLATIONS:
            return self._interpolate(first, INTERPOLATIONS[name], values, output)
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
        """Return the axis of a map of one cell that is copied to `cells` (and to their padding)."""
        length = cells + 2 * self.margin
        low, high = axis.at(np.zeros(length, dtype=np.int64))
        return Axis(low, high, -self.margin, Fraction(0), axis.misalignment)

    def _join(self, tensors: Iterable[Tensor], output: Tensor) -> Traced:
        """Unite what the inputs read, element by element, with broadcasting."""
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
        """Return the state after a sum over dimensions: what holds their cells now sees the whole axis."""
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
        """Apply `move(axis, number of the spatial dimension, cells)` along every spatial dimension."""
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
            raise Unknown("a convolution whose weights depend on the image")
        if state.tag(1) is not None:
            raise Unknown("a convolution over an axis of the image as channels")
        weight, move = values["weight"], transposed_window if values["transposed"] else window
        if weight.dim() != 4:
            raise Unknown("a convolution that is not two-dimensional")
        stride, padding, dilation = (_pair(values[key]) for key in ("stride", "padding", "dilation"))

        def moved(axis, number, cells):
            kernel = weight.shape[2 + number]
            return move(axis, kernel, stride[number], padding[number], dilation[number], cells)

        state = self._sliding(state, output, moved)
        channels = plain(output.shape[1])  # each reads all of the old ones, or a group: the field is the same
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
        # Where a value is put depends on the window that its index was found in.
        joined = self._join([values["self"], values["indices"]], values["self"])

        def moved(axis, number, cells):
            return transposed_window(axis, kernel[number], stride[number], padding[number], 1, cells)

        return self._sliding(joined, output, moved)

    def _adaptive(self, values, output):
        """Bins that divide the map are a pooling; others, whose sizes differ, are called the whole image."""
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

    def _interpolate(self, state, reach, values, output):
        source = values["self"] if "self" in values else values["input"]
        factors = values.get("scale_factors") or [values.get("scales_h"), values.get("scales_w")]
        corners = bool(values.get("align_corners", False))

        def moved(axis, number, cells):
            before, factor = source.shape[-2 + number], factors[number]
            if before == 1:
                return self._constant(axis, cells)
            ratio = Fraction(before, cells)
            # torch computes with the factor it was given, where there is one, not with the ratio of the sizes
            if factor is not None and math.floor(before * factor) == cells:
                ratio = 1 / Fraction(factor).limit_denominator(1000)
            if corners:  # the outermost cells' middles are put on each other
                return resample(axis, Fraction(max(before - 1, 1), max(cells - 1, 1)), reach, Fraction(0), cells)
            # Bilinear puts the cells' outer edges on each other; nearest rounds down from the left edge.
            return resample(axis, ratio, reach, ratio / 2 - Fraction(1, 2) if reach > 1 else Fraction(0), cells)

        return self._sliding(state, output, moved)

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
            # Cell `start` becomes cell 0; what was cropped stays known, as cells beyond the border.
            first = -((start - axis.first) // step)
            skipped = first * step + start - axis.first
            low, high = axis.low[skipped::step], axis.high[skipped::step]
            state = state.with_axis(tag, replace(axis, low=low, high=high, first=first, jump=axis.jump * step))
        parts = plain(output.shape[dim]) if tag is None else ((output.shape[dim], tag),)
        return replace(state, dims=(*state.dims[:dim], parts, *state.dims[dim + 1 :]))

    def _op_index_select(self, values, output):
        """Mirroring by hand: where the whole map is found in order, it is kept; the rest is padding."""
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

    def _op_cat(self, values, output):
        tensors, dim = values["tensors"], values.get("dim", 0) % output.dim()
        tensors = [t for t in tensors if t.numel()]
        if any((s := self.state(t)) is not None and s.tag(dim) is not None for t in tensors):
            raise Unknown("maps put side by side along an axis of the image")
        joined = self._join(tensors, output)
        return replace(joined, dims=self._resized(joined, output))

    def _reshaped(self, values, output):
        state = self.state(values["self"])
        rest = [part for parts in state.dims for part in parts]  # in the order of memory, which a view keeps
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
                        raise Unknown("a view that cuts an axis of the image into pieces")
                    rest.insert(0, (size // wanted, None))
                    size = wanted
                parts.append((size, tag))
                found *= size
            dims.append(tuple(part for part in parts if part != (1, None)))
        if rest:
            dims[-1] += tuple(rest)
        return replace(state, dims=tuple(dims))

    _op_view = _op__unsafe_view = _reshaped

    def _op_expand(self, values, output):
        return self._join([values["self"]], output)

    def _product(self, left: Tensor, right: Tensor, output: Tensor) -> Traced:
        """Sum over the last dimension of `left`, which a fully connected layer gets flattened: its cells become one."""
        state = self.state(left)
        if state is None or self.state(right) is not None:
            raise Unknown("a matrix product whose second factor depends on the image")
        return replace(self._contract(state, [-1]), dims=(*state.dims[:-1], plain(output.shape[-1])))

    def _op_mm(self, values, output):
        return self._product(values["self"], values["mat2"], output)

    def _op_addmm(self, values, output):
        if self.state(values["self"]) is not None:
            raise Unknown("a matrix product with a bias that depends on the image")
        return self._product(values["mat1"], values["mat2"], output)

    def _batch_norm(self, values, output):
        state = self.state(values["input"])
        if values.get("training"):  # statistics of the image itself
            state = self._contract(state, range(len(state.dims)))
        return [state] + [Unknown("batch statistics")] * (len(list(_tensors([output]))) - 1)

    _op_native_batch_norm = _op_cudnn_batch_norm = _batch_norm


def _run(func, args, kwargs):
    """Run the operation itself; a convolution's result is only given its shape."""
    if func is not aten.convolution.default:
        return func(*args, **kwargs)
    meta = [value.to("meta") if isinstance(value, Tensor) else value for value in args]
    return args[0].new_zeros(func(*meta, **kwargs).shape)


def _bind(func, args: Sequence, kwargs: dict) -> dict[str, object]:
    """Return the arguments by name, defaults included."""
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


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's memory. On the meta device all addresses are 0, so it is not the address."""
    return tensor.untyped_storage()._cdata


SWITCHED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""What computes something else in training."""


def trace(module: nn.Module, picture: Tensor, *, training: bool = False) -> dict[str, Traced | Unknown]:
    """Run `module` on `picture` (N, C, H, W) and return what is known of the output of every module in it, by name.

    The module itself is "". Lists, tuples and dicts add [0], [1], ... or [key] to the name. A module that
    is called several times keeps what its last call returned. Batch normalisation and dropout are as in
    evaluation; `training` leaves the rest as it is in training.

    Raises:
        Unknown: For a field of more than half a million pixels.
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
            found[name] = Unknown("it does not depend on the image") if state is None else state
        elif isinstance(value, list | tuple | dict):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in pairs:
                keep(f"{name}[{key}]", part)

    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, part in module.named_modules()
    ]
    try:
        with evaluating(module), torch.no_grad(), FieldTracer(picture, margin) as tracer:
            for part in module.modules():
                part.training = training and not isinstance(part, SWITCHED)
            module(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return found
