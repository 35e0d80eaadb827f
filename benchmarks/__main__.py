"""`python -m benchmarks [NAME ...] [--strict] [--out FILE]`: measure, print a table, write build/benchmarks.json."""

import argparse
import datetime
import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result
from course_lib.plumbing import machine
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import build_root

SUBJECTS = (
    "scenes",
    "confusion_matrix",
    "training_step",
    "inference",
    "implicit_background",
    "receptive_field",
    "latent",
    "widgets",
    "import_time",
    "notebooks",
    "gpu",
)
"""Modules of this folder; each is imported when it is measured, for some need what a bare machine lacks."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"subjects ({', '.join(SUBJECTS)}); all by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--out", type=Path, help="file for the results, instead of build/benchmarks.json")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SUBJECTS]
    if unknown:
        parser.error(f"no subject {unknown[0]!r}; the subjects are {', '.join(SUBJECTS)}")
    console = Console()
    results: list[Result] = []
    path = arguments.out or build_root() / "benchmarks.json"
    for name in arguments.names or SUBJECTS:
        with console.status(f"measuring {name}"):
            for result in import_module(f"benchmarks.{name}").measure():
                console.print(f"{result.name}: {result.value:.3g} {result.unit}", highlight=False, soft_wrap=True)
                results.append(result)
                write_text(path, json.dumps(report(results), indent=1) + "\n")  # what is measured is not lost
    show(console, results)
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return int(arguments.strict and not all(result.ok for result in results))


def show(console: Console, results: list[Result]) -> None:
    """One line a result: what, how much, the target, OK or MISS, and the numbers behind it."""
    table = Table("benchmark", "measured", "target", "", "behind it")
    for result in results:
        verdict = "[green]OK[/]" if result.ok else "[bold red]MISS[/]"
        sign = "<=" if result.at_most else ">="
        behind = ", ".join(f"{name} {value:.3g}" for name, value in result.details.items())
        table.add_row(result.name, f"{result.value:.3g} {result.unit}", f"{sign} {result.target:g}", verdict, behind)
    console.print(table)


def report(results: list[Result]) -> dict[str, object]:
    """The results with the machine and the versions that they are of, as JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.code_commit(),
        "results": [{**asdict(result), "ok": result.ok} for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
