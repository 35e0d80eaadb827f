"""All checks, one step after the other; each runs even if one before it failed, and the last line counts all.

`make test` lints, runs the tests and the explorers in a headless Chromium, executes every notebook and every
solution with papermill, executes every notebook again in pytest (nbval compares the stored outputs), and beside that
builds the site from the executed copies and opens its pages in the browser. The first execution begins with torch
imported (`warm_kernels`), the second from nothing, as a student's, and loads what the first one trained (COURSE_REUSE).
`make test-fast` lints and runs what takes seconds. `make test-full` also checks what `make test` samples.
The exit code is 0 only if nothing failed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import warm_kernels

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "checks"
EXECUTED = REPORTS / "executed"
WIDTH = 80
SLOWEST = 20
SLOW_SECONDS = 1.5
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GROUPED = ("--dist", "loadgroup", "--no-loadscope-reorder")  # tests/conftest.py makes the groups and their order

Steps = dict[str, tuple]
"""By name: a function and its arguments."""


class Lane(threading.local):
    """Of each thread: whether its steps run beside others."""

    beside = False


LANE = Lane()


@dataclass
class Outcome:
    """What a step counted, and the seconds of its tests by name or of its notebooks."""

    counts: Counter
    seconds: dict[str, float] = field(default_factory=dict)


def run(*command: str, **environment: str) -> int:
    """Run a module; beside another step what it says is printed when it ends."""
    beside = {"capture_output": True, "text": True, "errors": "replace"} if LANE.beside else {}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, check=False, env={**os.environ, **environment}, **beside
    )
    if beside:
        print(f" {command[1]} ".center(WIDTH, "-"), done.stdout, done.stderr, sep="\n", flush=True)
    return done.returncode


def simple(*command: str) -> Outcome:
    """Run a step that only passes or fails."""
    return Outcome(Counter(failed=1) if run(*command) else Counter(passed=1))


def pytest(name: str, *arguments: str, **environment: str) -> Outcome:
    """Run pytest and count from its JUnit report; no report at all is an error."""
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    code = run("pytest", f"--junitxml={report}", *arguments, **environment)
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
        counted = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        seconds = Counter()
        for case in suite.iter("testcase"):
            # xdist writes a test's group after "@"
            seconds[f"{case.get('classname')}::{case.get('name').split('@')[0]}"] += float(case.get("time", 0))
    except (OSError, ElementTree.ParseError, AttributeError):
        return Outcome(Counter(errors=1))
    counts = Counter(failed=counted["failures"], errors=counted["errors"], skipped=counted["skipped"])
    counts["passed"] = counted["tests"] - sum(counts.values())
    if code and not counts["failed"] and not counts["errors"]:
        counts["errors"] = 1  # interrupted, or nothing collected
    return Outcome(counts, seconds)


def executed() -> list[dict]:
    """Return the notebooks of the summary that the last `course run` wrote."""
    return json.loads((EXECUTED / "summary.json").read_text(encoding="utf-8"))["notebooks"]


def course_run(*arguments: str) -> Outcome:
    """Execute notebooks, and count from the summary that `course run` writes."""
    (EXECUTED / "summary.json").unlink(missing_ok=True)
    with warm_kernels.serving() as environment:
        code = run("course_lib.cli", "run", "--out", str(EXECUTED), *arguments, COURSE_REUSE="1", **environment)
    try:
        notebooks = executed()
    except (OSError, ValueError, KeyError):
        return Outcome(Counter(errors=1))
    counts = Counter("passed" if notebook["status"] == "ok" else "failed" for notebook in notebooks)
    if code and not counts["failed"]:
        counts["errors"] = 1
    return Outcome(counts, {notebook["name"]: notebook["seconds"] for notebook in notebooks})


def nbval() -> Outcome:
    """Execute every notebook in pytest, those that took longest first, and compare the stored outputs."""
    try:
        seconds = {notebook["name"]: notebook["seconds"] for notebook in executed()}
    except (OSError, ValueError, KeyError):
        seconds = {}
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: -seconds.get(path.stem, 0))
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
    options += ["-n", str(CORES + 1), "--dist", "loadfile", "--no-loadscope-reorder"]
    options += ["-p", "no:warnings", "-o", "addopts=", "-o", "filterwarnings="]
    outcome = pytest("notebooks", *options, *(str(path.relative_to(ROOT)) for path in notebooks), COURSE_REUSE="1")
    cells, outcome.seconds = outcome.seconds, Counter()
    for name, taken in cells.items():
        outcome.seconds[name.split("::")[0].removeprefix("notebooks.").removesuffix(".ipynb")] += taken
    return outcome


def steps(kind: str) -> list[list[Steps]]:
    """Return groups of lanes: groups follow each other, and so do the steps of a lane; lanes run side by side."""
    lint = {"ruff check": (simple, "ruff", "check", "."), "ruff format": (simple, "ruff", "format", "--check", ".")}
    if kind == "fast":
        chosen = ["-m", "not slow", "--ignore=tests/browser", "-n", str(CORES), *GROUPED]
        return [[lint], [{"tests that take seconds": (pytest, "tests", "tests", *chosen)}]]
    # two processes more than cores: the tests of Slurm and of the browser wait most of the time
    chosen = ["-n", str(CORES + 2), *GROUPED, *(["--full"] if kind == "full" else [])]
    pages, built = "tests/browser/test_built_site.py", REPORTS / "site"
    site = {
        "site": (simple, "course_lib.cli", "site", "--executed", str(EXECUTED), "--out", str(built)),
        "site, in a browser": (partial(pytest, COURSE_SITE=str(built)), "site", pages),
    }
    return [
        [lint],
        [{"tests": (pytest, "tests", "tests", f"--ignore={pages}", *chosen)}],
        [{"notebooks and solutions, executed": (course_run, "--solutions", "--jobs", str(CORES + 1))}],
        [{"notebooks, stored outputs compared": (nbval,)}, site],
    ]


def in_order(groups: list[list[Steps]]) -> Iterator[tuple[str, Outcome, float]]:
    """Run all steps; yield the name of each with what it counted and its seconds."""
    for lanes in groups:
        print(f" {', '.join(name for lane in lanes for name in lane)} ".center(WIDTH, "-"), flush=True)
        with ThreadPoolExecutor(len(lanes)) as threads:
            begun = [threads.submit(in_a_lane, lane, number > 0) for number, lane in enumerate(lanes)]
        for lane in begun:
            yield from lane.result()


def in_a_lane(lane: Steps, beside: bool) -> list[tuple[str, Outcome, float]]:
    LANE.beside = beside
    return [(name, *timed(*step)) for name, step in lane.items()]


def timed(step: Callable[..., Outcome], *arguments: str) -> tuple[Outcome, float]:
    """Run a step; return its outcome and how many seconds it took."""
    began = time.monotonic()
    return step(*arguments), time.monotonic() - began


def line(counts: Counter, seconds: float) -> str:
    names = {"failed": "failed", "passed": "passed", "skipped": "skipped", "errors": "error"}
    parts = [f"{counts[name]} {names[name]}" for name in names if counts[name]] or ["no tests ran"]
    if counts["errors"] > 1:
        parts[-1] += "s"
    hours = f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d})"
    text = f" {', '.join(parts)} in {seconds:.2f}s{hours if seconds >= 60 else ''} "
    return text.center(WIDTH, "=")


def where_the_time_went(outcomes: dict[str, Outcome]) -> list[str]:
    """Return the lines that name the slowest tests, and the seconds of each notebook in both executions."""
    tests = next((outcome.seconds for name, outcome in outcomes.items() if name.startswith("tests")), {})
    slowest = sorted(tests.items(), key=lambda item: -item[1])[:SLOWEST]
    lines = [f" the {len(slowest)} slowest tests ".center(WIDTH, "-")]
    lines += [f"{seconds:7.1f} s  {name.removeprefix('tests.')}" for name, seconds in slowest]
    first = outcomes.get("notebooks and solutions, executed", Outcome(Counter())).seconds
    second = outcomes.get("notebooks, stored outputs compared", Outcome(Counter())).seconds
    if first or second:
        lines.append(" seconds per notebook: executed, stored outputs compared ".center(WIDTH, "-"))
    for name in sorted(first.keys() | second.keys(), key=lambda name: -first.get(name, 0)):
        times = (f"{times[name]:7.1f}" if name in times else " " * 7 for times in (first, second))
        lines.append(f"{' '.join(times)} s  {name}")
    return lines


def note_slow(tests: dict[str, float]) -> None:
    """Write the tests that took more than `SLOW_SECONDS`, whatever their parameters, to tests/slow.txt."""
    slow = {name for name, seconds in tests.items() if seconds > SLOW_SECONDS}
    lines = {f"{name.split('::')[0].split('.')[-1]}.py::{name.split('::')[1].split('[')[0]}\n" for name in slow}
    (ROOT / "tests" / "slow.txt").write_text("".join(sorted(lines)), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="All checks of the course.")
    parser.add_argument("kind", nargs="?", default="usual", choices=["fast", "usual", "full"])
    parser.add_argument("--note-slow", action="store_true", help="write tests/slow.txt from what was measured")
    options = parser.parse_args()
    kind = options.kind
    REPORTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total, outcomes, table = Counter(), {}, []
    with tempfile.TemporaryDirectory() as runs:
        os.environ.setdefault("COURSE_RUNS", runs)
        os.environ["COURSE_STRICT"] = "1"  # what a training should come to is asserted
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are shared out over processes
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep, others may work
        for name, outcome, taken in in_order(steps(kind)):
            outcomes[name] = outcome
            total += outcome.counts
            state = "FAILED" if outcome.counts["failed"] + outcome.counts["errors"] else "ok"
            table.append(f"{state:8}{taken:7.1f} s  {name}")
    print(*where_the_time_went(outcomes), " all checks ".center(WIDTH, "-"), *table, sep="\n")
    seconds = time.monotonic() - started
    if options.note_slow and "tests" in outcomes:
        note_slow(outcomes["tests"].seconds)
    if kind == "usual" and not total["failed"] + total["errors"]:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        (REPORTS / "times.json").write_text(json.dumps({"seconds": round(seconds, 1), "date": date}) + "\n")
    print(line(total, seconds), flush=True)
    return 1 if total["failed"] + total["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
