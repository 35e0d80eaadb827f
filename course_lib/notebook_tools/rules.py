"""The rules of a committed notebook.

What is asked depends on the file's name::

    kind        file                            template sections   a tagged cell
    lecture     00_* to 19_*                    all                 at least one
    reproduce   20_* to 29_*                    title               not asked
    scoreboard  30_* and on                     title               not asked
    solutions   solutions/NN_*_solutions        title               not asked

All other rules hold for every notebook. Cells are numbered from 1, markdown cells included.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from nbformat import NotebookNode
from nbformat.validator import iter_validate

from course_lib.notebook_tools.cells import CHECKED, PARAMETERS, code_cells, expectations, parse, statements, tags, tree
from course_lib.notebook_tools.contents import GUESS, STATEMENT, read_statement
from course_lib.notebook_tools.exercises import check_exercises
from course_lib.notebook_tools.outcomes import check_outcomes
from course_lib.notebook_tools.shared import shared_definitions, shared_expectations
from course_lib.notebook_tools.stored_form import KEPT_CELL_METADATA, METADATA, tidied
from course_lib.plumbing.paths import ROOT

MAX_LINES = 25
MAX_GUESSES = 7
MAX_BYTES = 100_000
MAX_OUTPUT_CHARACTERS = 2_000

SECTIONS = ("Check yourself", "Summary", "Exercises", "References")
OPENING = ("Time on a laptop", "Prerequisites")

KNOWN_TAGS = {CHECKED, "nbval-ignore-output", "nbval-raises-exception"}
SKIPPING_TAGS = {"nbval-skip", "skip-execution"}

_FOLDERS = "home|Users|root|tmp|private|mnt|media|opt|var|usr|etc|srv|scratch|work|workspace|content"
ABSOLUTE_PATH = re.compile(
    rf"(?<![\w./:>~}}-])/(?:{_FOLDERS})/[\w.-]|\b[A-Z]:\\{{1,2}}(?:Users|Windows|Temp)|\bfile:///"
)
"""A path that means something on one machine only."""

INEXACT = {
    "the text of a figure": re.compile(r"<Figure size"),
    "a memory address": re.compile(r"\b0x[0-9a-fA-F]{4,}"),
    "a progress bar": re.compile(r"\d+%\||(?:it/s|s/it)\b|█"),
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
    "a time": re.compile(
        r"\b\d+\.\d+\s?(?:s|ms|µs|μs|us|ns|sec|seconds|min|minutes)\b"
        r"|\b\d+(?:\s?(?:ms|µs|μs|ns)|\s(?:s|us|sec|seconds))\b"
    ),
    "colour codes of a terminal": re.compile("\x1b"),
    "a machine's path": ABSOLUTE_PATH,
}
SHELL_MAGICS = {"bash", "sh", "script", "sx", "system", "pip", "conda", "mamba", "micromamba", "uv", "perl", "ruby"}


def kind(path: Path) -> str:
    """Return the kind of a notebook by its name: `lecture`, `reproduce`, `scoreboard` or `solutions`.

    Raises:
        ValueError: The name is none of these.
    """
    path = Path(path)
    named = re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem)
    if not named or path.suffix != ".ipynb":
        raise ValueError(f'{path.name}: a notebook is named NN_words.ipynb, like "03_fcn.ipynb"')
    if (path.parent.name == "solutions") != path.stem.endswith("_solutions"):
        raise ValueError(f"{path.name}: solutions, and only they, are solutions/NN_*_solutions.ipynb")
    if path.stem.endswith("_solutions"):
        return "solutions"
    number = int(named[1])
    return "lecture" if number < 20 else "reproduce" if number < 30 else "scoreboard"


def committed(root: Path = ROOT) -> list[Path]:
    """Return all notebooks of the course and their solutions, in the order of their numbers."""
    folder = root / "notebooks"
    return sorted(folder.glob("*.ipynb")) + sorted((folder / "solutions").glob("*.ipynb"))


def check(path: Path) -> list[str]:
    """Return everything that is wrong with a notebook, one sentence each; nothing where it is good."""
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        what, notebook = kind(path), parse(text)
    except ValueError as error:
        return [str(error)]
    return [
        *_check_file(path, notebook),
        *_check_ids(notebook),
        *_check_parameters(notebook),
        *_check_template(notebook, what),
        *_check_code(notebook),
        *_check_statements(notebook),
        *check_outcomes(notebook),
        *(check_exercises(notebook, path.name[:2]) if what != "solutions" else ()),
        *_check_outputs(notebook, what),
        *_check_paths(notebook),
        *_check_stored_form(text, notebook),
    ]


def check_all(paths: Iterable[Path]) -> list[str]:
    """Return what is wrong with each notebook, and what two of them both define or expect; each names its file."""
    paths = [Path(path) for path in paths]
    problems = [f"{path.name}: {problem}" for path in paths for problem in check(path)]
    return problems + shared_definitions(paths) + shared_expectations(paths)


def _check_file(path: Path, notebook: NotebookNode) -> Iterator[str]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        yield f"the file has {size:,} bytes: at most {MAX_BYTES:,}"
    name = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    if name != "python3":
        yield f'the kernel is {name!r}: it must be "python3", which every machine has'


def _check_ids(notebook: NotebookNode) -> Iterator[str]:
    first_with: dict[str, int] = {}
    complete = True
    for number, cell in enumerate(notebook.cells, start=1):
        identity = cell.get("id")
        if not identity:
            complete = False
            yield f"cell {number}: no cell id: tidy the notebook"
        elif identity in first_with:
            yield f"cell {number}: the id {identity!r} is that of cell {first_with[identity]} too"
        else:
            first_with[identity] = number
    if not complete:
        return
    for number, cell in enumerate(notebook.cells, start=1):
        form = f"{cell.cell_type}_cell"
        for error in iter_validate(cell, ref=form, version=4, version_minor=5):
            yield f"cell {number}: not a valid cell: {error.message.splitlines()[0][:200]}"


def _check_parameters(notebook: NotebookNode) -> Iterator[str]:
    tagged = [(number, cell) for number, cell in code_cells(notebook) if PARAMETERS in tags(cell)]
    if len(tagged) != 1:
        cells = " (cells " + ", ".join(str(number) for number, _ in tagged) + ")" if tagged else ""
        yield f'{len(tagged)} cells are tagged "{PARAMETERS}"{cells}: exactly one must be'
        return
    number, cell = tagged[0]
    try:
        statements = ast.parse(cell.source).body
    except SyntaxError:
        yield f"cell {number}: the parameters must be plain Python"
        return
    values = {}
    for statement in statements:
        try:
            name, value = _literal_assignment(statement)
        except ValueError:
            shown = ast.unparse(statement).splitlines()[0]
            yield f'cell {number}: "{shown}" is no `name = literal`; derive values in a later cell'
            continue
        values[name] = value
    if "PROFILE" not in values:
        yield f'cell {number}: PROFILE = "quick" is missing from the parameters'
    if values.get("PROFILE", "quick") != "quick":
        yield f'cell {number}: the committed PROFILE is "quick", not {values["PROFILE"]!r}'


def _literal_assignment(statement: ast.stmt) -> tuple[str, object]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, ast.literal_eval(value)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return name, ast.literal_eval(value)
    raise ValueError


def _check_template(notebook: NotebookNode, what: str) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not re.match(r"#\s+\S", first.source):
        yield 'cell 1: a notebook begins with its title, "# ..."'
    if what != "lecture":
        return
    opening = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            break
        opening += cell.source + "\n"
    if "?" not in opening:
        yield "cell 1: the question that the lecture answers is missing (no question mark before the code)"
    for words in OPENING:
        if words.lower() not in opening.lower():
            yield f'cell 1: "{words}" is missing before the first code cell'
    headings = [heading for _, _, heading in _headings(notebook)]
    for section in SECTIONS:
        if not any(section.lower() in heading.lower() for heading in headings):
            yield f'the section "{section}" is missing'
    for number, level, heading in _headings(notebook):
        if level == 1 and number > 1:
            yield f'cell {number}: a second title "# {heading}": sections begin with "##"'
    importing = [
        number
        for number, cell in code_cells(notebook)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in statements(cell))
    ]
    if len(importing) != 1:
        cells = ", ".join(str(number) for number in importing) or "none"
        yield f"exactly one cell imports; here: {cells}"


def _headings(notebook: NotebookNode) -> Iterator[tuple[int, int, str]]:
    """(cell number, level, text) of each heading outside fenced code."""
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "markdown":
            continue
        prose = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        for marks, heading in re.findall(r"^(#{1,6})\s+(.+)$", prose, flags=re.MULTILINE):
            yield number, len(marks), heading.strip()


def _check_code(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in code_cells(notebook):
        lines = len(cell.source.strip("\n").splitlines())
        if lines > MAX_LINES:
            yield f"cell {number}: {lines} lines of code: at most {MAX_LINES}"
        try:
            code = tree(cell.source)
        except (SyntaxError, ValueError) as error:
            yield f"cell {number}: does not parse: {error}"
            continue
        for magic in sorted({name for node in ast.walk(code) for name in _shell_magic(node)}):
            yield f"cell {number}: {magic} leaves Python: not every machine has what it calls"
        for tag in tags(cell):
            if tag in SKIPPING_TAGS:
                yield f'cell {number}: the tag "{tag}": every cell is run'
            elif tag.startswith("nbval") and tag not in KNOWN_TAGS:
                yield f'cell {number}: the tag "{tag}" means nothing to nbval'


def _check_statements(notebook: NotebookNode) -> Iterator[str]:
    """A quoted statement of the lecture is followed by the code that asserts or expects it."""
    boxes = [cell for cell in notebook.cells if STATEMENT in tags(cell) and GUESS in cell.source]
    if len(boxes) > MAX_GUESSES:
        yield f"{len(boxes)} guesses in boxes: at most {MAX_GUESSES}"
    for number, cell in enumerate(notebook.cells, start=1):
        if STATEMENT not in tags(cell):
            continue
        if cell.cell_type != "markdown":
            yield f'cell {number}: the tag "{STATEMENT}" belongs to the markdown cell that quotes it'
            continue
        try:
            later = (one.source for one in notebook.cells[number:] if one.cell_type == "markdown")
            read_statement(cell.source, next(later, ""))
        except ValueError as error:
            yield f"cell {number}: a statement of the lecture is a quote and what is shown: {error}"
        shown = list(takewhile(lambda one: one.cell_type == "code", notebook.cells[number:]))
        asserting = any(
            expectations(one)
            or any(isinstance(node, ast.Assert) for part in statements(one) for node in ast.walk(part))
            for one in shown
        )
        if not asserting:
            yield f"cell {number}: the code after it asserts and expects nothing, so the statement is not executed"


def _shell_magic(node: ast.AST) -> Iterator[str]:
    """What IPython makes of `!ls`, `x = !ls`, `%pip install` and `%%bash`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=attr)):
            first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            if attr in ("system", "getoutput", "getoutput_pexpect"):
                yield f'"!{first}"'
            elif attr in ("run_line_magic", "run_cell_magic") and first in SHELL_MAGICS:
                yield f'"{"%" if attr == "run_line_magic" else "%%"}{first}"'


def _check_outputs(notebook: NotebookNode, what: str) -> Iterator[str]:
    checked = 0
    for number, cell in code_cells(notebook):
        if CHECKED in tags(cell):
            checked += 1
            yield from (f"cell {number}: {problem}" for problem in _check_exact(cell))
        else:
            if cell.get("outputs"):
                yield f'cell {number}: a stored output, but no tag "{CHECKED}": tidy the notebook'
            if cell.get("execution_count") is not None:
                yield f'cell {number}: an execution count, but no tag "{CHECKED}": tidy the notebook'
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code" and CHECKED in tags(cell):
            yield f'cell {number}: the tag "{CHECKED}" on a cell without code checks nothing'
    if what == "lecture" and not checked:
        yield f'no code cell is tagged "{CHECKED}": a lecture shows at least one exact result'


def _check_exact(cell: NotebookNode) -> Iterator[str]:
    if cell.get("execution_count") is None:
        yield "tagged, but without an execution count nbval passes it unseen: refresh the notebook"
    texts = []
    for output in cell.get("outputs") or []:
        if output.output_type == "error":
            yield "the checked output is an error"
        elif output.output_type == "stream":
            if output.name != "stdout":
                yield f"the checked output was written to {output.name}"
            texts.append(output.text)
        else:
            for mime in sorted(set(output.data) - {"text/plain"}):
                yield f"the checked output holds {mime}: only text can be compared"
            texts.append(output.data.get("text/plain", ""))
    text = "\n".join(texts)
    if not text.strip():
        yield "tagged, but without an output nbval passes it unseen: refresh the notebook"
    if len(text) > MAX_OUTPUT_CHARACTERS:
        yield f"the checked output has {len(text):,} characters: at most {MAX_OUTPUT_CHARACTERS:,}"
    for name, pattern in INEXACT.items():
        found = pattern.search(text)
        if found:
            yield f"the checked output holds {name} ({found[0]!r}), which differs from run to run"


def _check_paths(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, start=1):
        found = ABSOLUTE_PATH.search(cell.source)
        if found:
            yield f'cell {number}: an absolute path ("{found[0]}..."): use course_lib.plumbing.paths'


def _check_stored_form(text: str, notebook: NotebookNode) -> Iterator[str]:
    """One form only, so that a diff shows what an author changed."""
    volatile = False
    for number, cell in enumerate(notebook.cells, start=1):
        extra = sorted(set(cell.get("metadata", {})) - KEPT_CELL_METADATA)
        if extra:
            volatile = True
            yield f"cell {number}: volatile metadata ({', '.join(extra)}): tidy the notebook"
    extra = sorted(set(notebook.get("metadata", {})) - set(METADATA))
    if extra:
        yield f"volatile metadata of the notebook ({', '.join(extra)}): tidy the notebook"
    elif "version" in notebook.get("metadata", {}).get("language_info", {}):
        yield "the metadata names a Python version: tidy the notebook"
    elif not volatile and text != tidied(text):
        yield "the file is not in its stored form: tidy the notebook"
