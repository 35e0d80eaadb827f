"""The precision of a training, settled before its first step: right first, then fast.

In a reduced precision every layer is tried (`plumbing.precision`), and what is wrong goes on in float32. On a CPU
"auto" also measures whether bfloat16 is faster for this network: depthwise convolutions are slower in it on some
processors. What was found is remembered, so that two runs on a machine never differ because a clock did.
"""

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.plumbing.devices import AutoPrecision, first_decides, tried_convolutions
from course_lib.plumbing.fabric import Fabric, MixedPrecision
from course_lib.plumbing.precision import Call, findings, keep_in_fp32, layer_calls, release, wrong_layers

log = logging.getLogger(__name__)

MARGIN = 1.1
"""How many times as fast as the way before it a way must be to be chosen."""
ROUNDS = 5
"""Most measurements of each way; the shortest counts, because other programs only add time."""
BUDGETS = (4.0, 1.0)
"""Seconds after which no second, and no later, round of measurements begins."""
CLEAR = 1.4
"""Once bfloat16 is that many times as fast, though measured first and cold, no further round is made."""

FP32, BF16, WITHOUT_DEPTHWISE = "fp32", "bf16", "bf16, depthwise convolutions in fp32"
"""The ways to train, from slow to fast on most processors."""


def settle(fabric: Fabric, model: nn.Module, objective: Callable[..., Tensor], batch: Iterable[Tensor]) -> str:
    """Choose in which precision `model` is trained, and return it as a record keeps it.

    Layers that are wrong in the reduced precision compute in float32 from now on. Weights, running statistics and
    random numbers stay as they are. On several devices each calls this, and the first decides.

    Args:
        fabric: Devices and precision; its `AutoPrecision`, if it has one, is set to what is chosen.
        model: Network with its weights on the device, not the one that Fabric wrapped.
        objective: Loss, called as in the training.
        batch: First batch of the training.

    Returns:
        Fabric's name and how many layers compute in float32, such as "bf16-mixed, 2 layers in fp32".
    """
    precision = fabric._precision
    auto = isinstance(precision, AutoPrecision)
    if auto:
        precision.precision = "bf16-mixed"
    release(model)
    if not isinstance(precision, MixedPrecision):
        return str(precision.precision)
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        twin = _copy(model).train()
        loss = partial(objective, twin, *batch)
        with torch.no_grad(), fabric.autocast():
            calls, dtype = layer_calls(twin, loss), torch.get_autocast_dtype(fabric.device.type)
        with tried_convolutions(False):  # each layer is tried a few times only
            way, kept, reasons = first_decides(fabric, partial(_plan, twin, loss, calls, dtype, auto))
    if way == FP32:
        precision.precision = "32-true"
    for name in kept:
        keep_in_fp32(model.get_submodule(name))
    if reasons and fabric.is_global_zero:
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        log.warning("wrong in %s on this machine, so trained in float32: %s%s", _short(dtype), reasons[0], more)
    layers = f", {len(kept)} layer{'s' * (len(kept) > 1)} in fp32" if kept else ""
    return f"{precision.precision}{layers}"


def _plan(
    twin: nn.Module, loss: Callable[[], Tensor], calls: dict[str, list[Call]], dtype: torch.dtype, auto: bool
) -> tuple[str, list[str], list[str]]:
    """Return the way to train, the layers that are to compute in float32, and what is wrong with them."""
    device = next(twin.parameters()).device
    with findings(device) as known:
        wrong = wrong_layers(calls, dtype, known)
        kept = {BF16: list(wrong)}
        if auto:
            kept[WITHOUT_DEPTHWISE] = [name for name in calls if name in wrong or _is_depthwise(calls[name][0].layer)]
        if kept[BF16] == kept.get(WITHOUT_DEPTHWISE):
            del kept[WITHOUT_DEPTHWISE]
        key = _network(calls)
        if auto and FP32 not in known.get(key, {}):
            known[key] = measure(twin, loss, dtype, kept)
    way = choose(known[key]) if auto else BF16
    return way, kept.get(way, []), [] if way == FP32 else list(wrong.values())


def measure(
    model: nn.Module, loss: Callable[[], Tensor], dtype: torch.dtype, kept: dict[str, list[str]]
) -> dict[str, float]:
    """Return the seconds of a forward and backward pass by the way to train.

    Args:
        model: Network of `loss`; its gradients are dropped.
        loss: Forward pass.
        dtype: Of autocast.
        kept: Layers in float32, for each way beside FP32.
    """
    device = next(model.parameters()).device
    seconds: dict[str, list[float]] = {way: [] for way in (*kept, FP32)}
    began = time.perf_counter()
    for done in range(ROUNDS):
        if done and time.perf_counter() - began > BUDGETS[done > 1]:
            break
        for way, times in seconds.items():
            for name in kept.get(way, []):
                keep_in_fp32(model.get_submodule(name))
            start = time.perf_counter()
            with torch.autocast(device.type, dtype=dtype, enabled=way != FP32):
                loss().backward()
            times.append(time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
            release(model)
        if list(seconds) == [BF16, FP32] and min(seconds[BF16]) * CLEAR <= min(seconds[FP32]):
            break
    return {way: min(times) for way, times in seconds.items()}


def choose(seconds: dict[str, float]) -> str:
    """Return the fastest way; one that is less than MARGIN times as fast as one before it is not taken."""
    chosen = FP32
    for way in (BF16, WITHOUT_DEPTHWISE):
        if way in seconds and seconds[way] * MARGIN <= seconds[chosen]:
            chosen = way
    return chosen


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # torch.nn.utils.weight_norm and spectral_norm keep a tensor that has a history
        raise ValueError(
            "the layers of this network cannot be tried, because torch cannot copy it. Take weight_norm and "
            "spectral_norm from torch.nn.utils.parametrizations, or set COURSE_PRECISION=fp32"
        ) from error


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels


def _network(calls: dict[str, list[Call]]) -> str:
    """Return a name of the network with its sizes and the number of threads, the same in every process."""
    text = f"{torch.get_num_threads()} threads {[(name, list(map(str, found))) for name, found in calls.items()]}"
    return "network " + hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
