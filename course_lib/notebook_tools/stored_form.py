"""The form in which a notebook is committed: without outputs, but for the exact text of tagged cells."""

import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.notebook_tools.cells import CHECKED, code_cells, parse, tags
from course_lib.notebook_tools.kernels import run_notebook
from course_lib.plumbing.files import write_text

EXERCISE = "every_pixel"
"""The key of an exercise's id, points and minutes in its cell's metadata."""
KEPT_CELL_METADATA = {"tags", "slideshow", "mystnb", "jupyter", EXERCISE}
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}


def tidy(path: Path) -> bool:
    """Bring a notebook to its stored form; return whether that changed it.

    Outputs and execution counts stay with the cells tagged `nbval-check-output` and leave all others.
    Missing and repeated cell ids are given anew; of the metadata only tags and the like stay.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8")
    after = tidied(before)
    if after == before:
        return False
    write_text(path, after)
    return True


def refresh(path: Path, cell_timeout: int = 600) -> bool:
    """Run a notebook with its committed parameters and store what its tagged cells print.

    Returns:
        Whether the file changed.

    Raises:
        CellExecutionError: nbclient's, where a cell fails; the file stays as it was.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8")
    notebook = parse(tidied(before))
    for _, cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    run_notebook(notebook, path.parent, cell_timeout)
    after = tidied(json.dumps(notebook))
    if after == before:
        return False
    write_text(path, after)
    return True


def tidied(text: str) -> str:
    """Return the stored form of a notebook's text."""
    notebook = parse(text)
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
        if CHECKED not in tags(cell):
            cell.outputs, cell.execution_count = [], None
        for output in cell.get("outputs") or []:
            if "metadata" in output:
                output.metadata = NotebookNode()
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = max(5, notebook.get("nbformat_minor", 5))
    return nbformat.writes(notebook) + "\n"
