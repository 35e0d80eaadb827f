"""Which real data a notebook needs, read from the tables whose rows it trains."""

import ast

from nbformat import NotebookNode

from course_lib.data.registry import DATASETS, DatasetInfo
from course_lib.experiments.table import Table, table_names
from course_lib.notebook_tools.cells import code_cells, tree

PROFILES = ("laptop", "gpu")


def real_data(notebook: NotebookNode) -> dict[str, list[DatasetInfo]]:
    """Return the sets of files that a notebook opens, by profile; none where every profile is generated.

    They are those of the tables in the calls of `resolve` that take the notebook's PROFILE; where such a call takes
    a table from a loop, those of all tables that the notebook names.
    """
    nodes = [node for _, cell in code_cells(notebook) for node in ast.walk(tree(cell.source))]
    named = set().union(*(_tables(node, nodes) for node in nodes if _follows_the_profile(node)))
    tables = [Table.read(name) for name in table_names() if name in named]
    found = {}
    for profile in PROFILES:
        recipes = [recipe for table in tables for (_, at), recipe in table.recipes.items() if at == profile]
        sets = dict.fromkeys(recipe.dataset for recipe in recipes)
        found[profile] = [DATASETS[name] for name in sets if name in DATASETS and DATASETS[name].folder]
    return found


def _follows_the_profile(node: ast.AST) -> bool:
    called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "resolve"
    return called and any(isinstance(argument, ast.Name) and argument.id == "PROFILE" for argument in node.args)


def _tables(call: ast.Call, nodes: list[ast.AST]) -> set[str]:
    """The names that the first argument of `call` may be: a text, what a name is set to, else every text."""
    if isinstance(call.args[0], ast.Constant):
        return {call.args[0].value}
    name = ast.unparse(call.args[0])
    values = [node.value for node in nodes if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets)]
    return {
        value.value for value in values or nodes if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
