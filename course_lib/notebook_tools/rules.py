"""The rules of a committed notebook, and the two tools of its author: `tidy` and `refresh`.

    python -m course_lib.notebook_tools.rules check   [NOTEBOOK ...]     say what is wrong
    python -m course_lib.notebook_tools.rules tidy    [NOTEBOOK ...]     drop outputs and volatile metadata
    python -m course_lib.notebook_tools.rules refresh [NOTEBOOK ...]     run, keep the outputs of tagged cells

Without a notebook, all of `notebooks/`. What is asked depends on the file's name:

    kind        file                            template sections   a tagged cell
    lecture     00_* to 19_*                    all                 at least one
    reproduce   20_* to 29_*                    title               not asked
    scoreboard  30_* and on                     title               not asked
    solutions   solutions/NN_*_solutions        title               not asked

All other rules hold for every notebook. Cells are numbered from 1, markdown cells included.
"""

import argparse
import ast
import difflib
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.validator import iter_validate

from course_lib.notebook_tools.contents import STATEMENT, read_statement
from course_lib.notebook_tools.kernels import run_notebook
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT

MAX_LINES = 25
MAX_BYTES = 100_000
MAX_OUTPUT_CHARACTERS = 2_000
CHECKED = "nbval-check-output"
PARAMETERS = "parameters"

SECTIONS = ("Check yourself", "Summary", "Exercises", "References")
OPENING = ("Time on a laptop", "Prerequisites")

KNOWN_TAGS = {CHECKED, "nbval-ignore-output", "nbval-raises-exception"}
SKIPPING_TAGS = {"nbval-skip", "skip-execution"}
KEPT_CELL_METADATA = {"tags", "slideshow", "mystnb", "jupyter"}
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}

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
    """`lecture`, `reproduce`, `scoreboard` or `solutions`; raises ValueError for any other name."""
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
    """All notebooks of the course and their solutions, in the order of their numbers."""
    folder = root / "notebooks"
    return sorted(folder.glob("*.ipynb")) + sorted((folder / "solutions").glob("*.ipynb"))


# -- check -----------------------------------------------------------------------------------------


def check(path: Path) -> list[str]:
    """Everything that is wrong with the notebook at `path`, one sentence each; empty where it is good."""
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        what, notebook = kind(path), _parse(text)
    except ValueError as error:
        return [str(error)]
    return [
        *_check_file(path, notebook),
        *_check_ids(notebook),
        *_check_parameters(notebook),
        *_check_template(notebook, what),
        *_check_code(notebook),
        *_check_statements(notebook),
        *_check_outputs(notebook, what),
        *_check_paths(notebook),
        *_check_stored_form(text, notebook),
    ]


def check_all(paths: Iterable[Path]) -> list[str]:
    """`check` of each notebook, and the definitions that two of them share; each names its file."""
    paths = [Path(path) for path in paths]
    problems = [f"{path.name}: {problem}" for path in paths for problem in check(path)]
    return problems + _shared_definitions(paths)


def _parse(text: str) -> NotebookNode:
    """The notebook as it is in the file: nothing repaired, texts joined."""
    try:
        notebook = nbformat.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise ValueError("not a notebook of format 4")
    for cell in notebook.cells:
        cell.source = _joined(cell.get("source", ""))
        for output in cell.get("outputs") or []:
            if "text" in output:
                output.text = _joined(output.text)
            for mime, content in output.get("data", {}).items():
                if isinstance(content, list):
                    output.data[mime] = _joined(content)
    return notebook


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _tags(cell: NotebookNode) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code":
            yield number, cell


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
    tagged = [(number, cell) for number, cell in _code_cells(notebook) if PARAMETERS in _tags(cell)]
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
        for number, cell in _code_cells(notebook)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in _statements(cell))
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
    for number, cell in _code_cells(notebook):
        lines = len(cell.source.strip("\n").splitlines())
        if lines > MAX_LINES:
            yield f"cell {number}: {lines} lines of code: at most {MAX_LINES}"
        try:
            tree = _tree(cell.source)
        except (SyntaxError, ValueError) as error:
            yield f"cell {number}: does not parse: {error}"
            continue
        for magic in sorted({name for node in ast.walk(tree) for name in _shell_magic(node)}):
            yield f"cell {number}: {magic} leaves Python: not every machine has what it calls"
        for tag in _tags(cell):
            if tag in SKIPPING_TAGS:
                yield f'cell {number}: the tag "{tag}": every cell is run'
            elif tag.startswith("nbval") and tag not in KNOWN_TAGS:
                yield f'cell {number}: the tag "{tag}" means nothing to nbval'


def _tree(source: str) -> ast.Module:
    """The cell as Python, magics translated as IPython does; SyntaxError where it does not compile."""
    from IPython.core.inputtransformer2 import TransformerManager

    python = TransformerManager().transform_cell(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        compile(python, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return ast.parse(python)


def _statements(cell: NotebookNode) -> list[ast.stmt]:
    """The cell's own statements; none where it does not parse (`_check_code` says so)."""
    try:
        return _tree(cell.source).body
    except (SyntaxError, ValueError):
        return []


def _check_statements(notebook: NotebookNode) -> Iterator[str]:
    """A quoted statement of the lecture is followed by the code that asserts it."""
    following = [*notebook.cells[1:], None]
    for number, (cell, after) in enumerate(zip(notebook.cells, following, strict=True), start=1):
        if STATEMENT not in _tags(cell):
            continue
        if cell.cell_type != "markdown":
            yield f'cell {number}: the tag "{STATEMENT}" belongs to the markdown cell that quotes it'
            continue
        try:
            read_statement(cell.source)
        except ValueError as error:
            yield f"cell {number}: a statement of the lecture is a quote and what is shown: {error}"
        asserting = (
            after is not None
            and after.cell_type == "code"
            and any(isinstance(node, ast.Assert) for statement in _statements(after) for node in ast.walk(statement))
        )
        if not asserting:
            yield f"cell {number}: the next cell asserts nothing, so the statement is not executed"


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
    for number, cell in _code_cells(notebook):
        if CHECKED in _tags(cell):
            checked += 1
            yield from (f"cell {number}: {problem}" for problem in _check_exact(cell))
        else:
            if cell.get("outputs"):
                yield f'cell {number}: a stored output, but no tag "{CHECKED}": tidy the notebook'
            if cell.get("execution_count") is not None:
                yield f'cell {number}: an execution count, but no tag "{CHECKED}": tidy the notebook'
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code" and CHECKED in _tags(cell):
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
    elif not volatile and text != _tidied(text):
        yield "the file is not in its stored form: tidy the notebook"


# -- definitions that two notebooks share ----------------------------------------------------------


def _shared_definitions(paths: list[Path]) -> list[str]:
    """Definitions found in two notebooks: equal whatever their names, or nearly equal under one name.

    A notebook and its own solutions are not compared: the solutions repeat the exercise.
    """
    seen: list[tuple[Path, int, str, str]] = []
    problems = []
    for path in paths:
        try:
            notebook = _parse(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # `check` names it
        here = []
        for number, cell in _code_cells(notebook):
            for node in _statements(cell):
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


# -- tidy and refresh ------------------------------------------------------------------------------


def tidy(path: Path) -> bool:
    """Bring the file to its stored form; whether that changed it.

    Outputs and execution counts stay with the cells tagged `nbval-check-output` and leave all others.
    Missing and repeated cell ids are given anew; of the metadata only tags and the like stay.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8")
    after = _tidied(before)
    if after == before:
        return False
    write_text(path, after)
    return True


def refresh(path: Path, cell_timeout: int = 600) -> bool:
    """Run the notebook with its committed parameters and store what its tagged cells print.

    Returns whether the file changed. Where a cell fails, nbclient's error is raised and the file stays
    as it was.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8")
    notebook = _parse(_tidied(before))
    for _, cell in _code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    run_notebook(notebook, path.parent, cell_timeout)
    after = _tidied(json.dumps(notebook))
    if after == before:
        return False
    write_text(path, after)
    return True


def _tidied(text: str) -> str:
    notebook = _parse(text)
    used = set()
    for position, cell in enumerate(notebook.cells):
        metadata = cell.get("metadata", {})
        cell.metadata = NotebookNode(
            {key: value for key, value in metadata.items() if key in KEPT_CELL_METADATA and value}
        )
        identity = cell.get("id") or f"cell-{position + 1:02d}"
        while identity in used:
            identity += "-again"
        used.add(identity)
        cell.id = identity[:64]
        if cell.cell_type != "code":
            continue
        if CHECKED not in _tags(cell):
            cell.outputs, cell.execution_count = [], None
        for output in cell.get("outputs") or []:
            if "metadata" in output:
                output.metadata = NotebookNode()
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = max(5, notebook.get("nbformat_minor", 5))
    return nbformat.writes(notebook) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module; 1 where `check` found something."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.notebook_tools.rules")
    parser.add_argument("action", choices=("check", "tidy", "refresh"))
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    options = parser.parse_args(arguments)
    paths = options.notebooks or committed()
    if options.action == "check":
        problems = check_all(paths)
        print("\n".join(problems) or f"{len(paths)} notebooks: nothing to say")
        return 1 if problems else 0
    for path in paths:
        changed = tidy(path) if options.action == "tidy" else refresh(path)
        print(f"{path.name}: {'changed' if changed else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
