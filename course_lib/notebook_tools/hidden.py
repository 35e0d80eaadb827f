"""The cases that an exercise is graded by, beside its own check: `notebooks/hidden/NN.toml`, which students never get.

A case calls the answer and says what comes of it; the call is evaluated where the student's code runs, and the value
is compared elsewhere, so that code which does not solve the exercise has nothing to copy from::

    [[case]]
    of = "03-1"
    call = "cells(256)"
    gives = 2

Where many answers are right, `holds` takes the place of `gives`: an expression in `value`, evaluated by the grader.
What a table's records say stands in no case: `holds` asks them, as in `value == recorded_order("cvae", ["a", "b"])`.

An exercise without cases is read by a person.
"""

import ast
import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.plumbing.paths import ROOT

HIDDEN = ROOT / "notebooks" / "hidden"
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far a number may lie from the one that is wanted."""
BUILT_IN = {"all": all, "any": any, "abs": abs, "len": len, "max": max, "min": min, "set": set, "sorted": sorted}
BUILT_IN |= {"sum": sum, "range": range, "isinstance": isinstance, "math": math}
BY_A_PERSON = "it has no hidden cases: a person reads it"
"""What a report says of an exercise that is not graded here."""


@dataclass(frozen=True)
class Case:
    """One case of exercise `of`: the value of `call` is near `gives`, or makes `holds` true."""

    of: str
    call: str
    gives: object = None
    holds: str = ""

    def passed(self, value: object) -> bool:
        """Return whether a value that came back, as JSON holds it, is right."""
        if not self.holds:
            return agree(value, self.gives)
        try:
            known = {"__builtins__": BUILT_IN, "recorded_order": recorded_order}
            return bool(eval(self.holds, known, {"value": value}))
        except Exception:  # of another kind than the answer should be
            return False


def recorded_order(table: str, rows: Iterable[str]) -> list[str]:
    """Return rows of a table from the lowest to the highest mean of its committed records, wherever new ones go."""
    from course_lib.experiments.report import steps

    return steps.recorded_order(table, rows, records=ROOT / "results")


def read_by_a_person(ids: Iterable[str], cases: Sequence[Case]) -> list[str]:
    """Return which exercises, like "27-2", have no hidden cases."""
    graded = {case.of for case in cases}
    return [one for one in ids if one not in graded]


def hidden_cases(number: str, folder: Path | None = None) -> list[Case]:
    """Return the cases of notebook `number` ("03"); none where it has no file.

    Raises:
        ValueError: A case is none; the file is named.
    """
    path = (folder or HIDDEN) / f"{number}.toml"
    if not path.is_file():
        return []
    try:
        cases = [Case(**case) for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]]
        for case in cases:
            ast.parse(case.call, mode="eval")
            ast.parse(case.holds or "0", mode="eval")
            if not case.holds and case.gives is None:
                raise ValueError(f'"{case.call}" says neither what it gives nor what holds')
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    return cases


def agree(value: object, wanted: object) -> bool:
    """Return whether two plain values are the same, numbers within rounding; a list is the same as a tuple."""
    if isinstance(wanted, list | tuple):
        same_length = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same_length and all(agree(one, other) for one, other in zip(value, wanted, strict=True))
    if isinstance(wanted, str) or isinstance(value, str):
        return value == wanted
    if isinstance(value, bool | int | float) and isinstance(wanted, bool | int | float):
        return math.isclose(value, wanted, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(value) is type(wanted) and value == wanted


def solved(cases: list[Case], values: dict[str, object]) -> bool:
    """Return whether every case passed, of the values that came back for their calls."""
    return bool(cases) and all(case.call in values and case.passed(values[case.call]) for case in cases)


def as_assertion(case: Case) -> str:
    """Return a case as a statement for a grader that runs the tests beside the answer, such as nbgrader."""
    if case.holds:
        return f"assert Case({case.of!r}, {case.call!r}, holds={case.holds!r}).passed(plain({case.call}))"
    return f"assert agree(plain({case.call}), {json_like(case.gives)})"


def json_like(value: object) -> str:
    """Return a plain value as Python writes it."""
    return repr(json.loads(json.dumps(value)))
