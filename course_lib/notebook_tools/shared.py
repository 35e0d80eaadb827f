"""What two notebooks must not both have: the same definition, the same expectation."""

import ast
import difflib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nbformat import NotebookNode

from course_lib.notebook_tools.cells import code_cells, expectations, parse, statements


def shared_definitions(paths: list[Path]) -> list[str]:
    """Return definitions found in two notebooks: equal whatever their names, or nearly equal under one name.

    A notebook and its own solutions are not compared: the solutions repeat the exercise.
    """
    seen: list[tuple[Path, int, str, str]] = []
    problems = []
    for path, notebook in _readable(paths):
        here = []
        for number, cell in code_cells(notebook):
            for node in statements(cell):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    here.append((path, number, node.name, _body(node)))
        for _, number, name, body in here:
            for other, other_number, other_name, other_body in seen:
                if _same_exercise(path, other):
                    continue
                if body == other_body or (name == other_name and _nearly_equal(body, other_body)):
                    problems.append(
                        f"{path.name}: cell {number}: {name} is also {other_name} in {other.name}, "
                        f"cell {other_number}: move it to course_lib"
                    )
        seen += here
    return problems


def _readable(paths: list[Path]) -> Iterator[tuple[Path, NotebookNode]]:
    for path in paths:
        with suppress(ValueError):  # `check` names it
            yield path, parse(path.read_text(encoding="utf-8"))


def _same_exercise(one: Path, other: Path) -> bool:
    return one.stem.removesuffix("_solutions") == other.stem.removesuffix("_solutions")


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The definition as text without its docstring, layout, comments and name."""
    copy = ast.parse(ast.unparse(node)).body[0]
    if ast.get_docstring(copy) is not None:
        copy.body = copy.body[1:] or [ast.Pass()]
    copy.name = "_"
    return ast.unparse(copy)


def _nearly_equal(one: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() > 0.9


def shared_expectations(paths: list[Path]) -> list[str]:
    """Return the statements that are expected twice: a recorded trial belongs to one statement."""
    first: dict[str, str] = {}
    problems = []
    for path, notebook in _readable(paths):
        for number, cell in code_cells(notebook):
            for statement in expectations(cell):
                here = f"{path.name}, cell {number}"
                if statement in first:
                    problems.append(f"{path.name}: cell {number}: {statement} is expected in {first[statement]} too")
                first.setdefault(statement, here)
    return problems
