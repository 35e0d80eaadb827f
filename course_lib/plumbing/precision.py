"""Where a reduced precision is right: every layer of a network is tried at its own shape against float32.

Some processors have kernels that return garbage for some shapes, without a message (benchmarks/README.md). A loss
does not show it, and nor do the gradients of a whole network, because in a deep one rounding alone turns them by up
to 60 degrees. A single layer does: right ones differ from float32 by the rounding of their results, about 0.3 %,
wrong ones by more than 100 %.
"""

import functools
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from course_lib.plumbing.exact import exact
from course_lib.plumbing.files import write_text
from course_lib.plumbing.locks import Busy, only_one
from course_lib.plumbing.machine import cpu_name
from course_lib.plumbing.paths import runs_root

log = logging.getLogger(__name__)

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
WRONG = 0.05
"""Relative error of a wrong layer: far above rounding, far below what wrong kernels have."""
PARTS = ("output", "input's gradient", "weight's gradient")
MULTIPLICATIONS = 2e8
"""Of the forward pass of a trial on a CPU; a layer that needs more is tried on fewer images, one at least."""

CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables of the environment that forbid kernels."""


# -- layers in float32 --------------------------------------------------------------------------------------------


def in_fp32(forward: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Call `forward` outside autocast, with its half-precision tensors cast to float32."""
    device = next(value.device.type for value in arguments if isinstance(value, Tensor))
    widened = map(_widened, arguments)
    if not torch.amp.is_autocast_available(device):  # "meta", where sizes are counted
        return forward(*widened)
    with torch.autocast(device, enabled=False):
        return forward(*widened)


def _widened(value: object) -> object:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def keep_in_fp32(layer: nn.Module) -> None:
    """Make a layer compute in float32 under autocast from now on; its type and its weights' names stay."""
    layer.forward = functools.partial(in_fp32, functools.partial(type(layer).forward, layer))


def release(model: nn.Module) -> None:
    """Undo `keep_in_fp32` for every layer of `model`."""
    for name in kept_in_fp32(model):
        del model.get_submodule(name).forward


def kept_in_fp32(model: nn.Module) -> list[str]:
    """Return the names of the layers that `keep_in_fp32` was called with."""
    return [
        name for name, layer in model.named_modules() if getattr(vars(layer).get("forward"), "func", None) is in_fp32
    ]


# -- the calls of layers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A layer with the shapes of a call: all that decides which kernels compute it.

    Attributes:
        arguments: What the layer is called with, each tensor by its shape and whether it is channels-last.
        output: Shape of the result.
    """

    layer: nn.Module
    arguments: tuple[object, ...]
    output: tuple[int, ...]

    def __str__(self) -> str:
        kind = f"{type(self.layer).__module__}.{type(self.layer).__qualname__}({self.layer.extra_repr()})"
        return f"{kind}{_is_channels_last(self.layer.weight) * ' channels-last'} {self.arguments} -> {self.output}"


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor, and whether its channels lie together in memory."""

    sizes: tuple[int, ...]
    channels_last: bool

    def __repr__(self) -> str:
        return "x".join(map(str, self.sizes)) + self.channels_last * " channels-last"


def layer_calls(model: nn.Module, run: Callable[[], object]) -> dict[str, list[Call]]:
    """Return the distinct calls of the convolutions and linear layers of `model` during `run()`, by their names."""
    calls: dict[str, dict[str, Call]] = {}

    def record(name: str, layer: nn.Module, given: tuple[object, ...], named: dict[str, object], out: Tensor) -> None:
        arguments = inspect.signature(layer.forward).bind(*given, **named).args
        call = call_of(_plain(layer), arguments, out)
        calls.setdefault(name, {})[str(call)] = call

    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    hooks = [layer.register_forward_hook(functools.partial(record, name), with_kwargs=True) for name, layer in named]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: list(found.values()) for name, found in calls.items()}


def call_of(layer: nn.Module, arguments: tuple[object, ...], output: Tensor) -> Call:
    """Return the call of `layer` with `arguments` that gave `output`; an image alone is a batch of one."""
    alone = (1,) * (output.ndim == len(getattr(layer, "kernel_size", ())) + 1)
    shapes = (
        Shape((*alone, *value.shape), _is_channels_last(value)) if isinstance(value, Tensor) else value
        for value in arguments
    )
    return Call(layer, tuple(shapes), (*alone, *output.shape))


def _plain(layer: nn.Module) -> nn.Module:
    """Return a layer whose weights are its own: of a parametrized one, a copy as it would be without."""
    if not parametrize.is_parametrized(layer):
        return layer
    kind = type(layer).__bases__[0]
    plain = kind.__new__(kind)
    plain.__dict__ |= vars(layer) | {"_modules": {}, "_parameters": dict(layer._parameters)}
    for name in layer.parametrizations:
        plain.register_parameter(name, nn.Parameter(getattr(layer, name).detach()))
    return plain


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not (tensor.is_contiguous() and 1 not in tensor.shape)
    )


# -- trials -------------------------------------------------------------------------------------------------------


def errors(call: Call, dtype: torch.dtype, *, seed: int = 0) -> list[float]:
    """Return the relative errors of a layer under autocast to `dtype`: of the three PARTS, in their order.

    All random numbers of the trial are exact in `dtype`, so that right results differ by their own rounding alone,
    however small the layer is and whatever cancels in it. The layer's weights are not used and do not change.
    """
    device = call.layer.weight.device
    generator = torch.Generator(device).manual_seed(seed)

    def random(sizes: tuple[int, ...], channels_last: bool = False) -> Tensor:
        values = torch.randn(sizes, generator=generator, device=device).to(dtype).float()
        return values.contiguous(memory_format=torch.channels_last) if channels_last else values

    pictures = _pictures(call)
    inputs = [
        random((pictures, *value.sizes[1:]), value.channels_last) if isinstance(value, Shape) else value
        for value in call.arguments
    ]
    weights = {
        name: random(tuple(value.shape), _is_channels_last(value)) for name, value in call.layer.named_parameters()
    }
    back = random((pictures, *call.output[1:]))

    def results(reduced: bool) -> list[Tensor]:
        differentiated = [value for value in inputs if isinstance(value, Tensor)] + [weights["weight"]]
        for value in (*differentiated, *weights.values()):
            value.requires_grad_()
        with torch.enable_grad(), torch.autocast(device.type, dtype=dtype) if reduced else exact():
            output = functional_call(call.layer, weights, tuple(inputs))
            gradients = torch.autograd.grad(output, differentiated, back.to(output.dtype))
        return [value.detach().double() for value in (output, gradients[0], gradients[-1])]

    return [
        float((found - exact).norm() / exact.norm().clamp_min(1e-30))
        for found, exact in zip(results(True), results(False), strict=True)
    ]


def _pictures(call: Call) -> int:
    """Return on how many images a layer is tried."""
    sizes = next(value.sizes for value in call.arguments if isinstance(value, Shape))
    if call.layer.weight.device.type != "cpu":
        return sizes[0]
    places = min(torch.Size(sizes[2:]).numel(), torch.Size(call.output[2:]).numel())
    return max(1, min(sizes[0], int(MULTIPLICATIONS / (places * call.layer.weight.numel()))))


def is_wrong(found: list[float]) -> bool:
    """Return whether these errors are those of a wrong kernel; NaN is wrong."""
    return not all(error <= WRONG for error in found)


def try_call(call: Call, dtype: torch.dtype) -> list[float]:
    """Return the errors of a layer; a wrong one must be wrong with other numbers too."""
    found = errors(call, dtype)
    return errors(call, dtype, seed=1) if is_wrong(found) else found


def wrong_layers(calls: dict[str, list[Call]], dtype: torch.dtype, known: dict[str, object]) -> dict[str, str]:
    """Return the layers that compute something else in `dtype`, by name with what is wrong.

    Args:
        calls: From `layer_calls`.
        dtype: Of autocast.
        known: What `findings` yields: what is in it is not tried again, and what is tried is added.
    """
    wrong = {}
    for name, distinct in calls.items():
        for call in distinct:
            key = f"{dtype} {call}"
            if key not in known:
                known[key] = try_call(call, dtype)
            if is_wrong(known[key]):
                wrong[name] = f"{name}, {describe(call)}: {describe_errors(known[key])}"
    return wrong


def describe(call: Call) -> str:
    """Return a layer in a few words: its kind, channels, kernel, stride, and what else is unusual."""
    layer = call.layer
    kind = type(layer).__name__
    if isinstance(layer, nn.Linear):
        return f"{kind} {layer.in_features} -> {layer.out_features}"
    kernel = "x".join(map(str, layer.kernel_size))
    more = [
        f", {name} {value}" for name, value in (("dilation", layer.dilation[0]), ("groups", layer.groups)) if value > 1
    ]
    return (
        f"{kind} {layer.in_channels} -> {layer.out_channels}, kernel {kernel}, stride {layer.stride[0]}{''.join(more)}"
    )


def describe_errors(found: list[float]) -> str:
    """Return the wrong parts of a layer's results with their relative errors."""
    wrong = [(part, error) for part, error in zip(PARTS, found, strict=True) if is_wrong([error])]
    return ", ".join(f"{part} off by {percent(error)}" for part, error in wrong)


def percent(error: float) -> str:
    """Return a relative error as text; beyond ten times, and for NaN, its size means nothing."""
    return f"{error:.1%}" if error < 10 else "over 1000%"


# -- memory -------------------------------------------------------------------------------------------------------


@contextmanager
def findings(device: torch.device) -> Iterator[dict[str, object]]:
    """Yield what trials found on this machine with this torch; what the block adds is kept, in the runs folder.

    One process at a time: others wait, so that nobody measures twice or beside another.
    """
    path = runs_root() / "precision.json"
    with ExitStack() as stack:
        with suppress(Busy, OSError):  # where nothing can be locked, nothing is shared
            stack.enter_context(only_one(path.with_suffix(".lock"), patience=60))
        everything = _read(path)
        known = everything.setdefault(kernels_of(device), {})
        before = dict(known)
        yield known
        if known != before:
            with suppress(OSError):
                write_text(path, json.dumps(everything, indent=1) + "\n")


def _read(path: os.PathLike) -> dict[str, dict[str, object]]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):  # none yet, or damaged: tried again
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        kernels: {key: found for key, found in part.items() if _is_sound(key, found)}
        for kernels, part in content.items()
        if isinstance(part, dict)
    }


def _is_sound(key: str, found: object) -> bool:
    """Whether it is what a trial of a layer (errors) or the measurement of a network (seconds by name) has found."""
    if key.startswith("network "):
        return isinstance(found, dict) and all(isinstance(seconds, int | float) for seconds in found.values())
    whole = isinstance(found, list) and len(found) == len(PARTS)
    return whole and all(isinstance(error, int | float) for error in found)


def kernels_of(device: torch.device) -> str:
    """Return what decides which kernels there are: processor and capabilities, or the GPU, and torch's version."""
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        capped = [f"{name}={os.environ[name]}" for name in CAPS if name in os.environ]
        chip = " ".join([cpu_name(), *sorted(name for name, there in has.items() if there is True), *capped])
    return f"{chip}, torch {torch.__version__}"


# -- a processor --------------------------------------------------------------------------------------------------


def scan(layers: Iterable[tuple[nn.Module, tuple[int, ...]]], dtype: torch.dtype) -> dict[str, list[float]]:
    """Return the errors of layers, each given with the size of its input (N, C, H, W), by what they are."""
    found = {}
    for layer, sizes in layers:
        layer.to(memory_format=torch.channels_last)
        images = torch.zeros(sizes).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            call = call_of(layer, (images,), layer(images))
        found[describe(call)] = try_call(call, dtype)
    return found


def common_layers() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Yield some forty layers of the course's kinds, with those that some processors compute wrongly."""
    for channels in (8, 12, 16, 32):
        for kernel, stride in ((1, 1), (3, 1), (3, 2), (7, 2), (8, 2)):
            yield nn.Conv2d(channels, 16, kernel, stride, padding=kernel // 2, bias=False), (2, channels, 24, 32)
        for kernel in (2, 4, 8, 16):
            layer = nn.ConvTranspose2d(channels, channels, kernel, max(2, kernel // 2), bias=False)
            yield layer, (2, channels, 8, 10)
        yield nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels), (2, channels, 24, 32)
