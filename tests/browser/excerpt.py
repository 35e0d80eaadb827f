"""An excerpt of a notebook: the cells that one of its cells needs, and no others."""

import ast
import json
from pathlib import Path


def names(tree: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    """Return the names that `tree` reads (ast.Load) or sets (ast.Store), with what it defines and imports."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}
    if kind is ast.Store:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return found


def excerpt(notebook: Path, wanted: str) -> list[str]:
    """Return the code of the first cell that holds the text `wanted`, after all cells that it follows from.

    Raises:
        ValueError: for a text that no cell holds.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    place = next((index for index, source in enumerate(code) if wanted in source), None)
    if place is None:
        raise ValueError(f"no cell of {notebook.name} holds {wanted!r}")
    chosen, missing = [code[place]], names(ast.parse(code[place]), ast.Load)
    for source in reversed(code[:place]):
        tree = ast.parse(source)
        if names(tree, ast.Store) & missing:
            chosen.insert(0, source)
            missing = (missing - names(tree, ast.Store)) | names(tree, ast.Load)
    return chosen
