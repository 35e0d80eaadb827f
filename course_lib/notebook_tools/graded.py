"""The notebook that is run to grade a submission: the course's own cells, and of the student's only the answers.

Of a lecture only those cells stay that bind what an answer reads, so that no network is trained which no answer needs.
Cells that the student has added are run, where they stand, if they bind such names; cells of the lecture that the
student has changed are not: the course's own take their place. Stored outputs are dropped. The answer to an exercise
without hidden cases, which a person reads, is run only if another answer reads what it binds.
"""

import ast
import symtable
from collections.abc import Iterator, Sequence

import nbformat
from nbformat import NotebookNode

from course_lib.notebook_tools.cells import PARAMETERS, called, statements, tags
from course_lib.notebook_tools.exercises import Exercise, exercises
from course_lib.notebook_tools.hidden import Case
from course_lib.notebook_tools.outcomes import LOADING, TRAINING
from course_lib.notebook_tools.probe import probing
from course_lib.notebook_tools.stored_form import EXERCISE, METADATA

LECTURE, ADDED, ANSWER, PROBE = "lecture", "added", "answer", "probe"
"""Kinds of cells in a graded notebook; the kind, the exercise and the case stand in the cell's metadata."""


def graded_notebook(course: NotebookNode, submitted: NotebookNode, cases: Sequence[Case]) -> NotebookNode:
    """Return the notebook to run: needed cells of the lecture, the student's answers, and a probe for each case.

    Args:
        course: The notebook as it is committed.
        submitted: The student's, in any state; only sources and ids of its code cells are read.
        cases: The hidden cases of the notebook.
    """
    wanted = exercises(course)
    ordered = list(_merged(course, submitted, wanted))
    needed = set().union(*(loads(ast.parse(case.call)) for case in cases))
    tried = {case.of for case in cases}
    imported = {name for _, cell, _ in ordered for one in statements(cell) for name in binds_of(one)
                if isinstance(one, ast.Import | ast.ImportFrom)}  # fmt: skip
    kept: list[NotebookNode] = []
    for kind, cell, exercise in reversed(ordered):
        if kind == PROBE:
            calls = [case.call for case in cases if case.of == exercise.id]
            kept[:0] = [_cell(probing(call), PROBE, exercise.id, call) for call in calls]
            continue
        bound = set()
        for statement in statements(cell):
            imports = isinstance(statement, ast.Import | ast.ImportFrom)
            bound |= binds_of(statement) if imports else binds_of(statement) - imported
        asked = kind == ANSWER and exercise.id in tried
        if asked or PARAMETERS in tags(cell) or bound & needed:
            kept.insert(0, _cell(cell.source, kind, exercise.id if exercise else ""))
            for statement in reversed(statements(cell)):
                needed = (needed - _binds_anew(statement)) | loads(statement)
    return nbformat.v4.new_notebook(cells=kept, metadata=METADATA)


def answers(course: NotebookNode, submitted: NotebookNode) -> dict[str, str]:
    """Return the source of each exercise's cell in a submission; empty where it is gone."""
    found = _students(submitted, exercises(course))
    return {one.id: found[one.id].source if one.id in found else "" for one in exercises(course)}


def _cell(source: str, kind: str, exercise: str, call: str = "") -> NotebookNode:
    about = {"kind": kind, "exercise": exercise, "call": call}
    return nbformat.v4.new_code_cell(source, metadata={EXERCISE: about, "tags": ["raises-exception"]})


def _students(submitted: NotebookNode, wanted: Sequence[Exercise]) -> dict[str, NotebookNode]:
    """The student's cells of the exercises: known by the metadata, or by the cell's id where an editor dropped it."""
    by_cell = {one.cell.id: one.id for one in wanted}
    found: dict[str, NotebookNode] = {}
    for cell in submitted.cells:
        if cell.cell_type != "code":
            continue
        about = cell.get("metadata", {}).get(EXERCISE)
        stated = about.get("id") if isinstance(about, dict) else None
        name = stated if stated in by_cell.values() else by_cell.get(cell.get("id"))
        if name is not None:
            found[name] = cell
    return found


def _merged(
    course: NotebookNode, submitted: NotebookNode, wanted: Sequence[Exercise]
) -> Iterator[tuple[str, NotebookNode, Exercise | None]]:
    """Yield (kind, cell, exercise) in order: the lecture's cells, and behind each the student's that followed it."""
    theirs = _students(submitted, wanted)
    answering = {id(cell) for cell in theirs.values()}
    known = {cell.id for cell in course.cells}
    added: dict[str, list[NotebookNode]] = {}
    place = ""
    for cell in submitted.cells:
        if cell.get("id") in known:
            place = cell.id
        elif cell.cell_type == "code" and id(cell) not in answering:
            added.setdefault(place, []).append(cell)
    of_cell = {one.cell.id: one for one in wanted}
    for cell in added.get("", []):
        yield ADDED, cell, None
    for cell in course.cells:
        exercise = of_cell.get(cell.id)
        if exercise is not None:
            gone = nbformat.v4.new_code_cell("# the cell of this exercise is not in the submission", id="gone")
            yield ANSWER, theirs.get(exercise.id, gone), exercise
        elif cell.cell_type == "code":
            yield LECTURE, cell, None
        for one in added.get(cell.id, []):
            yield ADDED, one, exercise
        if exercise is not None:
            yield PROBE, cell, exercise


def loads(code: ast.AST) -> set[str]:
    """Return the global names that code reads, inside functions too."""

    def read(table: symtable.SymbolTable) -> set[str]:
        names = {one.get_name() for one in table.get_symbols() if one.is_referenced()
                 and (table.get_type() == "module" or one.is_global())}  # fmt: skip
        return names.union(*map(read, table.get_children()))

    loops = [node for node in ast.walk(code) if isinstance(node, ast.For)]
    targets = {inner.id for node in loops for inner in ast.walk(node.target) if isinstance(inner, ast.Name)}
    return read(symtable.symtable(ast.unparse(code), "cell", "exec")) - targets


def _binds_anew(statement: ast.stmt) -> set[str]:
    """Names that a statement binds without regard to what they were."""
    if isinstance(statement, ast.Assign):
        targets = [one for target in statement.targets for one in getattr(target, "elts", [target])]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    whole = isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
    return binds_of(statement) if whole else set()


def binds_of(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a cell binds or changes."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).split(".")[0] for alias in aliases}
    names = set()
    inner = {id(one) for node in ast.walk(statement) if isinstance(node, ast.comprehension)
             for one in ast.walk(node.target)}  # fmt: skip
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in inner:
            names.add(node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            names.add(_base(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if isinstance(node.value.func, ast.Attribute):  # a method may change what it is called on
                names.add(_base(node.value.func))
            if called(node.value) in TRAINING | LOADING:
                names |= {argument.id for argument in node.value.args if isinstance(argument, ast.Name)}
    return names


def _base(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
