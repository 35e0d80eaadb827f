"""Evaluation mode for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode inside the block; afterwards every part has the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def in_evaluation(function: Callable) -> Callable:
    """Return a function whose first argument is a module, to be called with that module `evaluating`."""

    @wraps(function)
    def called(module: nn.Module, *args: object, **kwargs: object) -> object:
        with evaluating(module):
            return function(module, *args, **kwargs)

    return called
