"""An assignment made of a notebook: what students get, what an instructor keeps, what nbgrader and Gradescope take.

The student's version is the notebook without outputs; its stubs are the course's own. nbgrader's source has each
exercise in two cells: the answer, with the solution between `### BEGIN SOLUTION` and `### END SOLUTION`, and the tests,
whose hidden part nbgrader takes out of what it releases. An exercise without hidden cases stays one cell, which
nbgrader lets a person grade.
"""

import ast
import copy
import re
from collections.abc import Collection
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.notebook_tools.cells import PARAMETERS, code_cells, parse, statements, tags
from course_lib.notebook_tools.exercises import Exercise, exercises
from course_lib.notebook_tools.graded import binds_of, loads
from course_lib.notebook_tools.hidden import Case, as_assertion
from course_lib.notebook_tools.launch import bootstrap
from course_lib.notebook_tools.stored_form import METADATA
from course_lib.plumbing.paths import ROOT

NBGRADER_SCHEMA = 3
PROMISE = re.compile(
    r"(; the s|(?:The )?[Ss])olutions(?: of both(?: exercises)?)?(?: are in|:)\s+"
    r"(?:`notebooks/solutions[^`]*`|\[[^\]]*\]\(solutions/[^)]*\))\.?"
)
"""The part of a text that says where the solutions are."""
TESTS = "from course_lib.notebook_tools.hidden import Case, agree\nfrom course_lib.notebook_tools.probe import plain"
"""What the hidden tests import."""


def solutions_of(path: Path) -> NotebookNode:
    """Return the solutions that belong to a notebook's file."""
    return parse((path.parent / "solutions" / f"{path.stem}_solutions.ipynb").read_text(encoding="utf-8"))


def student_version(notebook: NotebookNode, repository: str = "") -> NotebookNode:
    """Return a notebook as students get it: no outputs, no sentence on where the solutions are.

    With the repository's address its first cell of code installs the course where it is missing.
    """
    given = copy.deepcopy(notebook)
    for _, cell in code_cells(given):
        cell.outputs, cell.execution_count = [], None
    for cell in given.cells:
        if cell.cell_type == "markdown" and PROMISE.search(cell.source):
            cell.source = _without_solutions(cell.source)
    if repository:
        given.cells.insert(1, nbformat.v4.new_code_cell(bootstrap(repository), id="bootstrap"))
    given.metadata = nbformat.from_dict(METADATA)
    return given


def _without_solutions(text: str) -> str:
    """Take out the sentence, or the end of one, that names the solutions' file."""
    kept = PROMISE.sub(lambda found: "." if found[1].startswith(";") else "", text)
    kept = re.sub(r" +$", "", kept, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", kept.replace(".  ", ". ")).strip()


def solved_version(notebook: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """Return a notebook with every exercise solved: each stub is followed by the solution."""
    solved = student_version(notebook)
    for one in exercises(solved):
        answer = solution(one, solutions, parameters(notebook))
        one.cell.source = "\n\n\n".join([one.answer, answer, one.rest]).strip()
    return solved


def parameters(notebook: NotebookNode) -> set[str]:
    """Return the names that the parameters' cell of a notebook binds."""
    cells = [cell for _, cell in code_cells(notebook) if PARAMETERS in tags(cell)]
    return set().union(*(binds_of(statement) for cell in cells for statement in statements(cell)))


def solution(exercise: Exercise, solutions: NotebookNode, given: Collection[str] = ("PROFILE",)) -> str:
    """Return the code that solves an exercise, with what it needs of the solutions' notebook.

    Args:
        exercise: What is solved.
        solutions: The notebook with the solutions.
        given: The parameters that the exercise's notebook has itself; others of the solutions' are taken along.

    Raises:
        ValueError: No cell of the solutions defines what the exercise asks for.
    """
    wanted = set(exercise.names)
    ordered = [(cell, statement) for _, cell in code_cells(solutions) for statement in statements(cell)
               if PARAMETERS not in tags(cell) or not binds_of(statement) & set(given)]  # fmt: skip
    bound = [binds_of(statement) for _, statement in ordered]
    modules = [isinstance(statement, ast.Import | ast.ImportFrom) for _, statement in ordered]
    imported = set().union(*(names for names, module in zip(bound, modules, strict=True) if module))
    bound = [names if module else names - imported for names, module in zip(bound, modules, strict=True)]
    needed, taken = set(wanted), set()
    while True:
        chosen = [
            place
            for place, (_, statement) in enumerate(ordered)
            if place not in taken and not isinstance(statement, ast.Assert) and bound[place] & needed
        ]
        if not chosen:
            break
        taken |= set(chosen)
        for place in chosen:
            needed |= loads(ordered[place][1])
    if not wanted <= {name for place in taken for name in binds_of(ordered[place][1])}:
        raise ValueError(f"the solutions define no {', '.join(sorted(wanted))} (exercise {exercise.id})")
    lines = [_source(cell, statement, needed) for cell, statement in (ordered[place] for place in sorted(taken))]
    return "\n".join(lines)


def _source(cell: NotebookNode, statement: ast.stmt, needed: set[str]) -> str:
    """Return a statement as it is written; of an import, only the names that are needed."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        names = [alias for alias in statement.names if (alias.asname or alias.name).split(".")[0] in needed]
        statement.names = names
        return ast.unparse(statement)
    lines = cell.source.splitlines()
    text = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
    return f"\n\n{text}" if isinstance(statement, ast.FunctionDef | ast.ClassDef) else text


def nbgrader_source(notebook: NotebookNode, solutions: NotebookNode, cases: list[Case]) -> NotebookNode:
    """Return the instructor's notebook for nbgrader: answers with their solution, and tests with a hidden part."""
    source = student_version(notebook)
    of_cell = {one.cell.id: one for one in exercises(source)}
    cells: list[NotebookNode] = []
    for cell in source.cells:
        one = of_cell.get(cell.id)
        if one is None:
            cells.append(cell)
            continue
        solving = solution(one, solutions, parameters(notebook)).strip()
        region = f"### BEGIN SOLUTION\n{solving}\n### END SOLUTION"
        answer = nbformat.v4.new_code_cell(f"{one.answer}\n\n\n{region}", id=f"answer-{one.id}")
        hidden = [as_assertion(case) for case in cases if case.of == one.id]
        if not hidden:  # nbgrader asks a person for the points of an answer that is graded itself
            answer.source = f"{answer.source}\n\n{one.rest}".strip()
            read = _nbgrader(f"answer-{one.id}", solution=True, grade=True, locked=False, points=one.points)
            answer.metadata["nbgrader"] = read
            cells.append(answer)
            continue
        answer.metadata["nbgrader"] = _nbgrader(f"answer-{one.id}", solution=True, locked=False)
        lines = ["### BEGIN HIDDEN TESTS", TESTS, "", *hidden, "### END HIDDEN TESTS"]
        tests = nbformat.v4.new_code_cell(f"{one.rest}\n" + "\n".join(lines), id=f"tests-{one.id}")
        tests.metadata["nbgrader"] = _nbgrader(f"tests-{one.id}", grade=True, points=one.points)
        cells += [answer, tests]
    source.cells = cells
    return source


def _nbgrader(grade_id: str, *, grade: bool = False, solution: bool = False, locked: bool = True, **more: int) -> dict:
    kind = {"grade": grade, "solution": solution, "locked": locked, "task": False}
    return {"grade_id": grade_id, "schema_version": NBGRADER_SCHEMA, "cell_type": "code", **kind, **more}


def assignment_paths(numbers: list[str], folder: Path = ROOT / "notebooks") -> list[Path]:
    """Return the notebooks of `numbers`, like "03".

    Raises:
        ValueError: One has no hidden cases at all, so that a person reads its exercises, or there is none.
    """
    found = []
    for number in numbers:
        paths = sorted(folder.glob(f"{number}_*.ipynb"))
        if not paths:
            raise ValueError(f"no notebook has the number {number!r}")
        if not (folder / "hidden" / f"{number}.toml").is_file():
            raise ValueError(f"{paths[0].stem} has no hidden cases: its exercises are read by a person")
        found.append(paths[0])
    return found
