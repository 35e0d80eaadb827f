"""What a network costs besides its parameters: memory for training, and time.

A time belongs to one machine and one moment. Compare ratios of contestants that were timed in turn.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib.plumbing.field_tracing import storage_of
from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.system import peak_memory


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes of feature maps that a training step on `images` (N, 3, H, W) keeps for its backward pass.

    Counted is everything that autograd stores during the forward pass, each storage once (two layers that read the
    same map share it): outputs of layers, dropout masks, positions of maxima; under autocast the low-precision
    copies of the weights too. Not counted are parameters, buffers and the images, which are there anyway; the loss;
    what lives for a moment only.

    The model is taken as in training, on a copy. Model and images may be on the "meta" device, where sizes are
    counted and nothing is computed.

    Raises:
        ValueError: If no parameter learns.
    """
    model = copy.deepcopy(model).train()
    there_anyway = {storage_of(tensor) for tensor in (images, *model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[storage_of(tensor)] = tensor  # held, so that no other storage takes its place
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
    if not output.requires_grad:
        raise ValueError(f"no parameter of this {type(model).__name__} learns: nothing is kept for a backward pass")
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in there_anyway)


def in_turn(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of a call of each contestant, waiting for the GPU where one is in use.

    They take turns, so that a machine that slows down for a while slows all of them down.

    Args:
        contestants: What to call, by name.
        repeats: Timed calls of each.
        warm_up: Calls of each before them.
        clock: Returns the time in seconds.
    """

    def now() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return clock()

    for _ in range(warm_up):
        for call in contestants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in contestants.items():
                began = now()
                call()
                seconds[name].append(now() - began)
    finally:
        if collecting:
            gc.enable()
    return {name: statistics.median(values) for name, values in seconds.items()}


def reset_peak_memory() -> None:
    """Begin to measure the GPU's peak anew, where there is a GPU. That of a process cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib(own_process: bool) -> float:
    """Return the most memory in use, in MiB: of the GPU since `reset_peak_memory`, without one of this process.

    Args:
        own_process: Whether this process did nothing else. If it did, what it used before counts as well, and the
            peak of the process, which is no measure of the run, is given as 0.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if not own_process:
        return 0.0
    return peak_memory() / 2**20


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers of `module` are learnt."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Return the multiply-adds of convolutions and matrix products for a prediction on `images` (N, 3, H, W).

    Papers call them MACs, and often FLOPs, which are twice as many. Model and images may be on the "meta" device.
    """
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), counter:
        model(images)
    return counter.get_total_flops() // 2
