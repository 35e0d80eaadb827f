"""The exercises of a notebook: which cell each is in, its points and minutes, and the part that a student writes.

An exercise is one code cell: first the answer, which runs and is wrong, then what its check needs, then the call of
`check`. What it is worth stands in the cell's metadata: `{"every_pixel": {"id": "03-2", "points": 2, "minutes": 15}}`.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.notebook_tools.cells import called, code_cells, parse, statements
from course_lib.notebook_tools.stored_form import EXERCISE, tidied
from course_lib.plumbing.files import write_text

YOUR_TURN = "your turn"
"""The words that end an answer's stub; without them the answer is the cell's first statement."""
MAX_POINTS, MAX_MINUTES = 10, 120


@dataclass(frozen=True)
class Exercise:
    """One exercise: `id` is "03-2", `answer` the stub as it is in the cell, `names` what the stub defines."""

    id: str
    points: int
    minutes: int
    cell: NotebookNode
    answer: str
    rest: str

    @property
    def names(self) -> tuple[str, ...]:
        return bound(ast.parse(self.answer))


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """Return the exercises of a notebook of the course that keeps the rules, in its order."""
    found = []
    for _, cell in code_cells(notebook):
        if about := cell.get("metadata", {}).get(EXERCISE):
            found.append(Exercise(about["id"], about["points"], about["minutes"], cell, *split(cell.source)))
    return found


def exercises_of(path: Path) -> list[Exercise]:
    """Return the exercises in a notebook's file."""
    return exercises(parse(Path(path).read_text(encoding="utf-8")))


def split(source: str) -> tuple[str, str]:
    """Return the answer's stub, and the rest of its cell: what the check needs, and the check."""
    lines = source.splitlines()
    marked = [number for number, line in enumerate(lines, start=1) if YOUR_TURN in line]
    last = marked[-1] if marked else 1
    body = ast.parse(source).body
    ends = [node.end_lineno for node in body if node.lineno <= last] or [body[0].end_lineno]
    end = max(ends[-1], last)
    return "\n".join(lines[:end]), "\n".join(lines[end:]).strip("\n")


def bound(code: ast.Module) -> tuple[str, ...]:
    """Return the names that the statements of a cell define, in order."""
    names: dict[str, None] = {}
    for node in code.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for inner in (inner for target in targets for inner in ast.walk(target)):
                if isinstance(inner, ast.Name):
                    names[inner.id] = None
    return tuple(names)


def checking(cell: NotebookNode) -> bool:
    """Whether a code cell calls `check`."""
    return any(called(node) == "check" for statement in statements(cell) for node in ast.walk(statement))


def check_exercises(notebook: NotebookNode, number: str) -> Iterator[str]:
    """Yield what is wrong with the metadata of exercises in notebook `number` ("03"), with what to type."""
    stated, answers = 0, set()
    command = f"course notebooks exercises {number} POINTS:MINUTES ... (one pair an exercise, like 1:10 2:15 3:20)"
    for place, cell in code_cells(notebook):
        about = cell.get("metadata", {}).get(EXERCISE)
        if not checking(cell):
            asks = any(called(node) == "solved" for one in statements(cell) for node in ast.walk(one))
            if (used := _used(statements(cell), answers)) and not asks:
                yield f'cell {place}: goes on with {used}, which may be wrong: begin with if solved("Exercise ..."):'
            if about is not None:
                yield f'cell {place}: an exercise ("{EXERCISE}" in the metadata) that calls no check'
            continue
        stated += 1
        expected = f"{number}-{stated}"
        stub, rest = split(cell.source)
        written = {one.name for one in ast.parse(stub).body if isinstance(one, ast.FunctionDef | ast.ClassDef)}
        if used := _used(ast.parse(rest).body, written):
            yield f"cell {place}: {used} is called before the check; in a function or a lambda its error is told in a line"
        answers |= written
        if about is None:
            yield f"cell {place}: exercise {stated} states no points and minutes; type: {command}"
        elif set(about) != {"id", "points", "minutes"} or about["id"] != expected:
            yield f'cell {place}: exercise {stated} has id, points and minutes, and the id "{expected}"; type: {command}'
        elif not (_within(about["points"], MAX_POINTS) and _within(about["minutes"], MAX_MINUTES)):
            yield (
                f"cell {place}: exercise {expected} has 1 to {MAX_POINTS} points and takes 1 to {MAX_MINUTES} minutes, "
                f"whole numbers; type: {command}"
            )


def _used(code: Iterable[ast.AST], names: set[str]) -> str:
    """Return the first of some names that code uses where it stands, not in a function that is called later; or ""."""
    for node in code:
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
            return node.id
        if found := _used(ast.iter_child_nodes(node), names):
            return found
    return ""


def _within(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def state(path: Path, worth: Sequence[tuple[int, int]]) -> None:
    """Write points and minutes into the exercises of a notebook, in order, and their ids.

    Args:
        path: The notebook.
        worth: (points, minutes) of each exercise.

    Raises:
        ValueError: It has another number of exercises.
    """
    notebook = parse(Path(path).read_text(encoding="utf-8"))
    cells = [cell for _, cell in code_cells(notebook) if checking(cell)]
    if len(cells) != len(worth):
        raise ValueError(f"{Path(path).name} has {len(cells)} exercises, not {len(worth)}")
    for place, (cell, (points, minutes)) in enumerate(zip(cells, worth, strict=True), start=1):
        about = {"id": f"{Path(path).name[:2]}-{place}", "points": points, "minutes": minutes}
        cell.metadata[EXERCISE] = nbformat.from_dict(about)
    write_text(Path(path), tidied(nbformat.writes(notebook)))
