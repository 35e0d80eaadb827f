"""`make test`: all checks one after the other, each runs even if one before it failed, one last line.

The steps are linting, the tests, the widgets in JupyterLab and a headless Chromium, every notebook in pytest
(nbval compares the stored outputs), every notebook and solution as `course run` executes them, and the site
built from these copies. The last line counts all of them as pytest does; the exit code is 0 only if nothing
failed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "checks"
WIDTH = 80


def run(*command: str) -> int:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


def simple(*command: str) -> Counter:
    """A step that only passes or fails."""
    return Counter(failed=1) if run(*command) else Counter(passed=1)


def pytest(name: str, *arguments: str) -> Counter:
    """A run of pytest, counted from its JUnit report; no report at all is an error."""
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    code = run("pytest", f"--junitxml={report}", *arguments)
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
        counted = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    except (OSError, ElementTree.ParseError, AttributeError):
        return Counter(errors=1)
    counts = Counter(failed=counted["failures"], errors=counted["errors"], skipped=counted["skipped"])
    counts["passed"] = counted["tests"] - sum(counts.values())
    if code and not counts["failed"] and not counts["errors"]:
        counts["errors"] = 1  # interrupted, or nothing collected
    return counts


def course_run(*arguments: str) -> Counter:
    """A run of `course run`, counted from the summary that it writes."""
    summary = REPORTS / "executed" / "summary.json"
    summary.unlink(missing_ok=True)
    code = run("course_lib.cli", "run", "--out", str(summary.parent), *arguments)
    try:
        notebooks = json.loads(summary.read_text(encoding="utf-8"))["notebooks"]
    except (OSError, ValueError, KeyError):
        return Counter(errors=1)
    counts = Counter("passed" if notebook["status"] == "ok" else "failed" for notebook in notebooks)
    if code and not counts["failed"]:
        counts["errors"] = 1
    return counts


def install_for_ci(package: str, program: str) -> None:
    """A program that some tests need, in a job of a CI service that may install it; elsewhere they are skipped."""
    places = os.pathsep.join([os.environ["PATH"], os.path.join(os.sep, "usr", "sbin")])
    wanted = shutil.which("apt-get") and not shutil.which(program, path=places)
    if not os.environ.get("CI") or not wanted or os.geteuid() != 0:
        return
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for command in (["apt-get", "update", "-qq"], install):
        try:
            subprocess.run(
                command, check=True, timeout=300, **quiet, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{package} is not installed, its tests are skipped: {error}", flush=True)
            return


def steps() -> dict[str, tuple]:
    notebooks = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb"))
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"]
    executed, site = str(REPORTS / "executed"), str(REPORTS / "site")
    quiet = ["-p", "no:warnings", "-o", "addopts=", "-o", "filterwarnings="]
    return {
        "ruff check": (simple, "ruff", "check", "."),
        "ruff format": (simple, "ruff", "format", "--check", "."),
        "tests": (pytest, "tests", "tests", "--ignore=tests/browser"),
        "JupyterLab in a browser": (pytest, "browser", "tests/browser"),
        "notebooks, stored outputs compared": (pytest, "notebooks", *nbval, *quiet, *notebooks),
        "notebooks and solutions, executed": (course_run, "--solutions"),
        "site": (simple, "course_lib.cli", "site", "--executed", executed, "--out", site),
    }


def line(counts: Counter, seconds: float) -> str:
    names = {"failed": "failed", "passed": "passed", "skipped": "skipped", "errors": "error"}
    parts = [f"{counts[name]} {names[name]}" for name in names if counts[name]] or ["no tests ran"]
    if counts["errors"] > 1:
        parts[-1] += "s"
    hours = f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d})"
    text = f" {', '.join(parts)} in {seconds:.2f}s{hours if seconds >= 60 else ''} "
    return text.center(WIDTH, "=")


def main() -> int:
    REPORTS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    install_for_ci("slurm-wlm", "slurmctld")  # for tests/test_slurm.py
    install_for_ci("chromium", "chromium")  # for tests/browser
    total, table = Counter(), []
    with tempfile.TemporaryDirectory() as runs:
        os.environ.setdefault("COURSE_RUNS", runs)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep, others may work
        for name, (step, *arguments) in steps().items():
            print(f" {name} ".center(WIDTH, "-"), flush=True)
            began = time.monotonic()
            counts = step(*arguments)
            total += counts
            bad = counts["failed"] + counts["errors"]
            table.append(f"{'FAILED' if bad else 'ok':8}{time.monotonic() - began:7.1f} s  {name}")
    print(" all checks ".center(WIDTH, "-"), *table, sep="\n")
    print(line(total, time.monotonic() - started), flush=True)
    return 1 if total["failed"] + total["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
