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
    trees = [ast.parse(source) for source in code[: place + 1]]
    chosen, found = {place}, names(trees[place], ast.Load)
    setting = {name: index for index, tree in enumerate(trees[:place]) for name in names(tree, ast.Store)}
    while True:
        needed = {setting[name] for name in found if name in setting} - chosen
        if not needed:
            return [code[index] for index in sorted(chosen)]
        chosen |= needed
        found = found.union(*(names(trees[index], ast.Load) for index in needed))
