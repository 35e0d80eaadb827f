"""A network's pass forward and back as CUDA graphs: recorded once, then handed to the card in two pieces.

The step of a small network is hundreds of kernels of some microseconds each, and the card waits while Python launches
them one by one. A graph is the same kernels on the same memory, launched at once.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

SWITCH = "COURSE_GRAPHS"
"""Set to 0, no graph is recorded."""
QUIET = "set_warn_on_accumulate_grad_stream_mismatch"
PAYS_AFTER = 100
"""Steps that gain more time than a recording takes: some passes and, on a new shape, the choice of kernels."""


class Replayed:
    """The `forward` of a network in training, recorded at its first call and replayed at every call that is alike.

    Alike are images of the same shape, order in memory and type, one pass at a time. What is not alike, evaluation,
    a pass that takes more than images (the boxes of a detector differ in number from step to step), and a network
    that cannot be recorded are computed as ever.

    Attributes:
        graph: What replays; None before the first call, and where recording has failed.
    """

    def __init__(self, model: nn.Module):
        self.model, self.plain = model, model.forward
        self.graph: Callable[..., object] | None = None
        self.looks: tuple | None = None
        self.is_out = False  # a pass whose way back is still to come owns the memory of the graph

    def __call__(self, images: Tensor, *others: object, **options: object) -> object:
        trains = self.model.training and torch.is_grad_enabled()
        if others or options or self.is_out or not (trains and lies_on_a_card(images)):
            return self.plain(images, *others, **options)
        looks = images.shape, images.stride(), images.dtype
        if self.looks is None:
            self.looks, self.graph = looks, self._record(images)
        if self.graph is None or looks != self.looks:
            return self.plain(images)
        outputs = self.graph(images)
        leaves = torch.utils._pytree.tree_leaves(outputs)
        next(leaf for leaf in leaves if leaf.requires_grad).register_hook(self._goes_back)
        self.is_out = True
        return outputs

    def __deepcopy__(self, memo: dict) -> Callable[..., object]:
        """Return the copied network's own forward."""
        return self.plain.__func__.__get__(memo[id(self.model)])

    def _goes_back(self, _: Tensor) -> None:
        self.is_out = False

    def _record(self, images: Tensor) -> Callable[..., object] | None:
        """Return what replays a pass like this one. Weights, statistics and random numbers stay as they are."""
        del self.model.forward  # the plain one while it is recorded
        kind = images.device.type
        generator = generator_of(images.device)
        spare = generator.clone_state()
        cast = torch.autocast(
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,  # a cast that is kept would belong to one graph alone
        )
        try:
            with torch.random.fork_rng([images.device]), statistics_kept(self.model), cast:
                if hasattr(torch.autograd.graph, QUIET):  # of weights that the recording has seen on its own stream
                    getattr(torch.autograd.graph, QUIET)(False)
                torch.cuda.make_graphed_callables(self.model, (images.clone(),), allow_unused_input=True)
            return self.model.forward
        except (RuntimeError, AssertionError) as error:
            generator.graphsafe_set_state(spare)  # its own one waits for the end of a recording that never comes
            log.info("no CUDA graph of %s, which is computed as ever: %s", type(self.model).__name__, error)
            return None
        finally:
            self.model.forward = self


def generator_of(device: torch.device) -> torch.Generator:
    """Return the generator of a card's random numbers."""
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def lies_on_a_card(images: object) -> bool:
    """Return whether these are images on a card whose gradient nobody asks for."""
    return isinstance(images, Tensor) and images.is_cuda and not images.requires_grad


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Give the buffers of `model` the values back that they had, in place."""
    kept = [buffer.detach().clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)


@contextmanager
def replaying(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yield a function that makes the forward of `model` a `Replayed`; afterwards it is the plain one."""

    def begin() -> None:
        if os.environ.get(SWITCH, "1") != "0":
            model.forward = Replayed(model)

    try:
        yield begin
    finally:
        if "forward" in vars(model):
            del model.forward
