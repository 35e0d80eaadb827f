"""The page of systems: what the four documents name, and where it is taught, written, tested and measured."""

import tomllib
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from course_lib.experiments.report.scoreboard import read_results
from course_lib.experiments.table import RESULT_PROFILES, Table

LISTED = Path(__file__).with_name("systems.toml")
HEADING = """# Every system, and where it is

The course follows four documents: a package, a talk, a lecture with its reading list, and a paper. Below is what they
name, in their order, with the lecture that explains it, the code, the tests of that code, and the tables it is measured
in. Behind a table stands how many records it has: runs with their recipe, machine and seed. None means that the recipe
stands ready and nobody has run it.
"""
HEADS = ["| system | lecture | code, its tests | tables (records) |", "|---|---|---|---|"]


def count_records(table: str) -> int:
    """Return how many valid records the rows of a table have, over its profiles with results."""
    results = read_results(Table.read(table))
    rows = [row.name for row in results.table.rows.values() if row.runs == row.name]
    return sum(len(results.records(row, profile)) for row in rows for profile in RESULT_PROFILES)


def escaped(name: str) -> str:
    """Return a name with its underlines as Markdown wants them."""
    return name.replace("_", "\\_")


def systems_markdown(names: Collection[str], count: Callable[[str], int] = count_records, path: Path = LISTED) -> str:
    """Return the page as Markdown, a table for each document.

    Args:
        names: Notebooks that have a page of their own, beside this one.
        count: Records of a table.
        path: The list of systems.
    """
    listed = tomllib.loads(path.read_text(encoding="utf-8"))["system"]
    counted = Counter({table: count(table) for one in listed for table in one["tables"]})
    pages = {name[:2]: name for name in names}
    lines = [HEADING]
    for document in dict.fromkeys(one["document"] for one in listed):
        lines += [f"## {document}", "", *HEADS]
        for one in (one for one in listed if one["document"] == document):
            number, code = one["lecture"], one["code"]
            lecture = f"[{number}]({pages[number]}.ipynb)" if number in pages else number
            tables = ", ".join(f"{escaped(table)} ({counted[table] or 'none'})" for table in one["tables"]) or "-"
            tests = escaped(one["test"].removeprefix("tests/"))
            cells = [one["name"], lecture, f"{{py:obj}}`{code.rpartition('.')[2]} <{code}>`<br>{tests}", tables]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
