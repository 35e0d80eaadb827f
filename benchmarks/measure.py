"""What every benchmark shares: a result with its target, and timing two contestants in turn."""

from collections.abc import Mapping
from dataclasses import dataclass

from course_lib.costs import in_turn

__all__ = ["Result", "in_turn"]


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
