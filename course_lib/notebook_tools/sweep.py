"""The sweep: how often, and by what margin, each expectation of a notebook holds over seeds, precisions and threads.

A trial is one run of a notebook, up to its last expectation. `results/expectations.json` keeps what each
expectation came to in it::

    {"expectations": [{"notebook": "05_segnet", "statement": "...", "trials": [
        {"seed": 0, "precision": "fp32", "threads": 1, "held": true, "found": 0.61, "wanted": 0.58, "margin": 0.03,
         "machine": "...", "torch": "...", "commit": "...", "code": "..."}, ...]}, ...]}

"code" is a hash of the notebook's code without imports, comments and layout. A trial of other code is dropped (but
for `--moved`); one of another state of the library stays ("commit" names it).
"""

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.exercises import RECORDED
from course_lib.notebook_tools.cells import code_cells, expectations, parse, statements, tags
from course_lib.plumbing.files import write_text

PRECISIONS = ("bf16", "fp32")
DRAWS = "hide-input"
"""The tag of a cell that only draws: what it binds is read by no other cell, or it is run all the same."""
OFTEN_ENOUGH = 0.95
"""The share of trials in which an expectation of the course has to hold: 19 of 20."""


@dataclass(frozen=True)
class Trial:
    """One run of one notebook."""

    notebook: str
    seed: int
    precision: str
    threads: int

    @property
    def name(self) -> str:
        return f"{self.notebook}.seed{self.seed}.{self.precision}.{self.threads}"


def excerpt(notebook: Path) -> tuple[str, str]:
    """Return a notebook up to its last expectation, without cells that only draw, as text; and the hash of its code.

    Raises:
        ValueError: The notebook expects nothing.
    """
    whole = parse(notebook.read_text(encoding="utf-8"))
    expecting = [number for number, cell in code_cells(whole) if expectations(cell)]
    if not expecting:
        raise ValueError(f"{notebook.name} has no expectation")
    kept, read = [], set()
    for cell in reversed(whole.cells[: expecting[-1]]):
        nodes = [node for one in statements(cell) for node in ast.walk(one)] if cell.cell_type == "code" else []
        names = [(node.id, isinstance(node.ctx, ast.Store)) for node in nodes if isinstance(node, ast.Name)]
        binds = {name for name, stored in names if stored} | {
            node.name for node in nodes if isinstance(node, ast.FunctionDef)
        }
        if DRAWS not in tags(cell) or binds & read or expectations(cell):
            kept.insert(0, cell)
            read |= {name for name, stored in names if not stored}
    whole.cells = kept
    code = [text for _, cell in code_cells(whole) for text in _texts(cell)]
    return nbformat.writes(whole), hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def _texts(cell: NotebookNode) -> Iterator[str]:
    """Yield the statements of a cell without imports, blanks and breaks, the same in every version of Python."""
    lines = cell.source.splitlines()
    for one in statements(cell):
        if not isinstance(one, ast.Import | ast.ImportFrom):
            first = min([one.lineno, *(decorator.lineno for decorator in getattr(one, "decorator_list", []))])
            yield "".join("".join(lines[first - 1 : one.end_lineno]).split())


def planned(notebook: str, seeds: int, precisions: Iterable[str], cores: int) -> list[Trial]:
    """Return the trials of one notebook: every seed in every precision, on one thread and on all by turns."""
    return [
        Trial(notebook, seed, precision, 1 if (seed + place) % 2 == 0 else cores)
        for seed in range(seeds)
        for place, precision in enumerate(precisions)
    ]


class Recorded:
    """The file of all trials; every change is written at once, and whole."""

    def __init__(self, file: Path = RECORDED):
        self.file = file
        exists = file.exists()
        self.expectations: list[dict] = json.loads(file.read_text(encoding="utf-8"))["expectations"] if exists else []

    def keep(self, notebook: str, code: str, *, moved: bool = False) -> None:
        """Drop the trials of a notebook whose code was another.

        Args:
            notebook: Its stem.
            code: The hash of its code today.
            moved: The code has changed without a change of its numbers: keep them, as trials of this code.
        """
        for one in self.expectations:
            if one["notebook"] == notebook:
                for trial in one["trials"] if moved else ():
                    trial["code"] = code
                one["trials"] = [trial for trial in one["trials"] if trial["code"] == code]
        self.expectations = [one for one in self.expectations if one["trials"]]

    def has(self, trial: Trial) -> bool:
        """Return whether a trial has been run: on any number of threads, as machines differ in them."""
        wanted = (trial.seed, trial.precision, trial.threads == 1)
        return any(
            wanted == (kept["seed"], kept["precision"], kept["threads"] == 1)
            for one in self.expectations
            if one["notebook"] == trial.notebook
            for kept in one["trials"]
        )

    def add(self, trial: Trial, noted: Path, about: dict[str, str]) -> None:
        """Add what a run noted (see `exercises.expect`), and write the file.

        Args:
            trial: The run.
            noted: Its lines of JSON; of a statement that was expected several times the worst one counts.
            about: machine, torch, commit and code.
        """
        worst: dict[str, dict] = {}
        for line in map(json.loads, noted.read_text(encoding="utf-8").splitlines()):
            before = worst.get(line["statement"])
            if before is None or _order(line) < _order(before):
                worst[line["statement"]] = line
        run = {"seed": trial.seed, "precision": trial.precision, "threads": trial.threads}
        for statement, line in worst.items():
            found = {name: _short(line[name]) for name in ("held", "found", "wanted", "margin")}
            self._trials(trial.notebook, statement).append(run | found | about)
        self.write()

    def _trials(self, notebook: str, statement: str) -> list[dict]:
        for one in self.expectations:
            if (one["notebook"], one["statement"]) == (notebook, statement):
                return one["trials"]
        self.expectations.append({"notebook": notebook, "statement": statement, "trials": []})
        return self.expectations[-1]["trials"]

    def write(self) -> None:
        """Write the file, one trial a line, notebooks and trials in order."""
        blocks = []
        for one in sorted(self.expectations, key=lambda one: one["notebook"]):
            one["trials"].sort(key=lambda trial: (trial["seed"], trial["precision"]))
            trials = ",\n".join(f"   {json.dumps(trial, ensure_ascii=False)}" for trial in one["trials"])
            head = f'"notebook": {json.dumps(one["notebook"])}, '
            head += f'"statement": {json.dumps(one["statement"], ensure_ascii=False)}'
            blocks.append(f"  {{{head}, " + f'"trials": [\n{trials}\n  ]}}')
        write_text(self.file, '{"expectations": [\n' + ",\n".join(blocks) + "\n]}\n")

    def summary(self, notebooks: Iterable[str]) -> list[str]:
        """Return one line an expectation: how often it held, the least margin, and whether that is enough."""
        lines = []
        for one in self.expectations:
            if one["notebook"] not in notebooks:
                continue
            held, trials = sum(trial["held"] for trial in one["trials"]), one["trials"]
            margins = [trial["margin"] for trial in trials if trial["margin"] is not None]
            least = f", margin {min(margins):+.3g} at least" if margins else ""
            few = "" if held >= OFTEN_ENOUGH * len(trials) else "  TOO FEW"
            lines.append(f"{one['notebook'][:2]}  {held:2d} of {len(trials)}{least}{few}  {one['statement']}")
        return sorted(lines)


def _order(line: dict) -> tuple[bool, float]:
    return (line["held"], math.inf if line["margin"] is None else line["margin"])


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
