"""What every benchmark shares: a result with its target, and timing two contestants in turn."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One measured line.

    value    what was measured, in `unit`
    target   what it should be: at least that much, or at most where `at_most`
    details  the numbers behind the value, by name
    """

    name: str
    value: float
    unit: str
    target: float
    details: Mapping[str, float]
    at_most: bool = False

    @property
    def ok(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target


def in_turn(contestants: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:  # fmt: skip
    """The median seconds of a call of each contestant.

    They take turns, so that a machine that slows down for a while slows all of them down.
    """
    for _ in range(warm_up):
        for call in contestants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in contestants.items():
                began = clock()
                call()
                seconds[name].append(clock() - began)
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in seconds.items()}
