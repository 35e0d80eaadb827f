"""A committed notebook as its rules read it: cells, tags, and the code as a syntax tree."""

import ast
import json
import warnings
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

CHECKED = "nbval-check-output"
PARAMETERS = "parameters"


def parse(text: str) -> NotebookNode:
    """Return a notebook as it is in the file: nothing repaired, texts joined.

    Raises:
        ValueError: The text is no notebook of format 4.
    """
    try:
        notebook = nbformat.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise ValueError("not a notebook of format 4")
    for cell in notebook.cells:
        cell.source = joined(cell.get("source", ""))
        for output in cell.get("outputs") or []:
            if "text" in output:
                output.text = joined(output.text)
            for mime, content in output.get("data", {}).items():
                if isinstance(content, list):
                    output.data[mime] = joined(content)
    return notebook


def joined(text: str | list[str]) -> str:
    """Return a text that the file may hold in lines."""
    return text if isinstance(text, str) else "".join(text)


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Yield the code cells with their numbers, which count from 1 and count prose."""
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code":
            yield number, cell


def tree(source: str) -> ast.Module:
    """Return a cell as Python, with magics translated as IPython does.

    Raises:
        SyntaxError: It does not compile.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    python = TransformerManager().transform_cell(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        compile(python, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return ast.parse(python)


def statements(cell: NotebookNode) -> list[ast.stmt]:
    """Return the statements of a cell; none where it does not parse (the rules name that)."""
    try:
        return tree(cell.source).body
    except (SyntaxError, ValueError):
        return []


def expectations(cell: NotebookNode) -> list[str]:
    """Return the statements that a cell expects, as they are written in the code."""
    calls = [node for statement in statements(cell) for node in ast.walk(statement) if called(node) == "expect"]
    return [ast.unparse(call.args[1]) for call in calls if len(call.args) > 1]


def called(node: ast.AST) -> str:
    """Return the last name of what is called: "fit" of `train.fit(...)`; empty where nothing is."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
    return ""
