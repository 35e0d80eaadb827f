"""What a notebook checks: an exercise against its tests, what a training came to against what was expected of it."""

import html
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from course_lib.plumbing.compared import compared
from course_lib.plumbing.paths import ROOT

RECORDED = ROOT / "results" / "expectations.json"
"""How often each expectation of the course held: written by `course notebooks sweep`."""


class NotAsExpected(AssertionError):
    """A training did not come to what was expected of it; raised where COURSE_STRICT=1."""


_SOLVED: set[str] = set()


def check(name: str, *tests: Callable[[], object]) -> None:
    """Print whether an exercise is solved: every test must return something true, none may raise.

    Of the first test that is not true, what was got is shown beside what was wanted.

    Args:
        name: The exercise, as it is printed.
        *tests: Called without arguments, in order, until one fails; its error is shown in one line.
    """
    for number, test in enumerate(tests, start=1):
        place = f"check {number} of {len(tests)}"
        try:
            holds, found = compared(test)
            reason = f"{place}: {found}" if found else f"{place} does not hold"
        except (Exception, SystemExit) as error:  # an answer that calls exit() ends no notebook
            holds, reason = False, f"{place}: {_in_one_line(error)}"
        if not holds:
            _SOLVED.discard(name)
            print(f"{name}: not solved yet ({reason})")
            return
    _SOLVED.add(name)
    print(f"{name}: solved")


def solved(name: str) -> bool:
    """Return whether the last check of an exercise found it solved.

    Cells that go on with a student's answer ask this first: one that is wrong ends no notebook.

    Args:
        name: The exercise, as it was given to `check`.
    """
    return name in _SOLVED


def _in_one_line(error: BaseException) -> str:
    """Return an error's name and words, and a question where nothing was returned."""
    try:
        words = " ".join(str(error).split())
    except Exception:  # an error whose words are an error
        words = ""
    asked = "; does each function return its answer?" if "NoneType" in words else ""
    return type(error).__name__ + (f": {words[:300]}" if words else "") + asked


def expect(holds: bool, statement: str, *, found: float | str, wanted: float | str) -> None:
    """Show in one line, with its numbers, whether a training came to what was expected of it.

    Where it did not, the notebook goes on; where COURSE_STRICT=1 it raises. With COURSE_EXPECTATIONS=FILE, a
    line of JSON (statement, held, found, wanted, margin) is added to that file.

    Args:
        holds: Whether it came to that, such as `skips > without + 0.02`.
        statement: What was expected, in words; the course says it once.
        found: What was measured, such as `skips`.
        wanted: What it was measured against, such as `without + 0.02`.

    Raises:
        NotAsExpected: It does not hold, and COURSE_STRICT=1.
        TypeError: `holds` is no truth value, or a number is neither a number nor text.
        ValueError: The statement is empty, or holds for a number that is none.
    """
    holds, found, wanted = _plain(holds), _plain(found), _plain(wanted)
    if not isinstance(holds, bool):
        raise TypeError(f'holds is True or False, like "a > b", not {holds!r}')
    if not isinstance(statement, str) or not statement.strip():
        raise ValueError(f"an expectation is a statement in words, not {statement!r}")
    for name, value in (("found", found), ("wanted", wanted)):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError(f"{name} is a number or text, not {value!r}")
        if holds and isinstance(value, float) and math.isnan(value):
            raise ValueError(f'{name} is not a number, yet "{statement}" holds')
    _note(holds, statement, found, wanted)
    line = _Line(holds, statement, found, wanted)
    if not holds and os.environ.get("COURSE_STRICT", "") not in ("", "0"):
        raise NotAsExpected(repr(line))
    from IPython.display import display

    display(line)


def margin(holds: bool, found: float | str, wanted: float | str) -> float | None:
    """Return by how much an expectation held (positive) or failed (negative); None where that is no number."""
    if isinstance(found, str) or isinstance(wanted, str) or not math.isfinite(found - wanted):
        return None
    return abs(found - wanted) if holds else -abs(found - wanted)


def recorded_trials(statement: str, file: Path | None = None) -> tuple[int, int] | None:
    """Return in how many recorded trials a statement held, and how many there are; None where none can be read.

    Args:
        statement: The words given to `expect`.
        file: `RECORDED` unless another is named.
    """
    try:
        expectations = json.loads((file or RECORDED).read_text(encoding="utf-8"))["expectations"]
        held = [trial["held"] for one in expectations if one["statement"] == statement for trial in one["trials"]]
        return (sum(held), len(held)) if held else None
    except (OSError, ValueError, LookupError, TypeError):  # none, damaged, or of another version: a notebook goes on
        return None


class _Line:
    """One expectation as it is shown: plain in a terminal, with a coloured edge in a notebook."""

    def __init__(self, holds: bool, statement: str, found: float | str, wanted: float | str):
        self.holds, self.statement = holds, statement
        ordered = not isinstance(found, str) and not isinstance(wanted, str) and found != wanted
        side = ("less than ", "more than ")[(found > wanted) == holds] if ordered else ""
        shown, asked = _short(found, wanted)
        self.numbers = f"found {shown}, expected {side}{asked}"

    def details(self) -> str:
        trials = None if self.holds else recorded_trials(self.statement)
        often = f"; it held in {trials[0]} of {trials[1]} recorded trials" if trials else ""
        return ("" if self.holds else "not on this machine this time: ") + self.numbers + often

    def __repr__(self) -> str:
        if self.holds:
            return f"as expected: {self.statement} ({self.details()})"
        return f"expected: {self.statement}; {self.details()}"

    def _repr_html_(self) -> str:
        mark, colour = ("✓", "#2e8b57") if self.holds else ("!", "#c77700")
        return (
            f'<div class="expectation" style="border-left: 4px solid {colour}; padding: 0.2em 0.7em">'
            f'<b style="color: {colour}">{mark}</b> {html.escape(self.statement)}: '
            f"<span>{html.escape(self.details())}</span></div>"
        )


def _plain(value: object) -> object:
    """Return Python's own number for one of NumPy's or torch's."""
    return value.item() if hasattr(value, "item") else value


def _short(found: float | str, wanted: float | str) -> tuple[str, str]:
    """Return two numbers in so few digits that they still differ."""
    for digits in range(3, 10):
        pair = tuple(
            value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
            for value in (found, wanted)
        )
        if pair[0] != pair[1]:
            break
    return pair


def _note(holds: bool, statement: str, found: float | str, wanted: float | str) -> None:
    file = os.environ.get("COURSE_EXPECTATIONS")
    if not file:
        return
    finite = [value if isinstance(value, str) or math.isfinite(value) else str(value) for value in (found, wanted)]
    line = {"statement": statement, "held": holds, "found": finite[0], "wanted": finite[1]}
    with Path(file).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line | {"margin": margin(holds, found, wanted)}) + "\n")
