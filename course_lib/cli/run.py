"""`course run`: execute notebooks at a profile, several at once, and keep the executed copies."""

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from course_lib.cli.display import Bars, count_statuses, open_console
from course_lib.cli.notebook_pool import Job, Progress, Result, run_jobs
from course_lib.cli.selection import (
    HOME_MISSING,
    Refusal,
    check_profile,
    no_home,
    parameters_of,
    refuse_unwritable,
    select,
    short_path,
)
from course_lib.cli.stamps import is_current, made_from
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import build_root, runs_root
from course_lib.plumbing.processes import cores, stop_on_signals

if TYPE_CHECKING:
    from rich.progress import TaskID

CELL_TIMEOUT = {"quick": 1200, "laptop": 2 * 3600, "gpu": 48 * 3600}
"""Seconds that one cell may take, by profile: far above what it needs, so that only a hang meets it."""

COLOURS = {"ok": "green", "failed": "red", "skipped": "cyan", "stopped": "yellow"}


class RunCommand(TyperCommand):
    """Lets `-p NAME VALUE` be written as papermill has it; `-p NAME=VALUE` works as well."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_pairs(args))


def join_pairs(args: Sequence[str]) -> list[str]:
    """Return `-p NAME VALUE` as `-p NAME=VALUE`."""
    joined: list[str] = []
    rest = iter(args)
    for word in rest:
        joined.append(word)
        if word == "--":
            break
        if word in {"-p", "--parameter"}:
            name = next(rest, None)
            if name is not None and name.isidentifier():
                value = next(rest, None)
                name = name if value is None else f"{name}={value}"
            joined += [] if name is None else [name]
    return joined + list(rest)


def split_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary of texts."""
    given = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise Refusal(f'"-p {pair}": write -p NAME VALUE')
        given[name] = text
    return given


def jobs_by_default(profile: str) -> int:
    """Two at once share two cores well (start-up dominates), but not one GPU."""
    return 2 if cores() >= 2 and profile != "gpu" else 1


def plan(notebooks: Sequence[Path], profile: str, out: Path, timeout: int, given: dict[str, str]) -> list[Job]:
    """Return one job a notebook.

    Raises:
        Refusal: One of them cannot run as asked.
    """
    jobs: dict[Path, Job] = {}
    for notebook in notebooks:
        parameters = parameters_of(notebook, profile, given)
        solved = notebook.parent.name == "solutions"
        name = f"solutions/{notebook.stem}" if solved else notebook.stem
        output = out / f"{name}.ipynb"
        if output in jobs:
            raise Refusal(f"{jobs[output].notebook} and {notebook} would both be written to {output}")
        if output == notebook:
            raise Refusal(f"{notebook} would be overwritten by its executed copy: choose another --out")
        jobs[output] = Job(name, notebook, output, parameters, timeout)
    return list(jobs.values())


def kernel_environment(parallel: int = 1) -> dict[str, str]:
    """Return the environment of the kernels.

    Relative data and run folders are fixed here, because a kernel starts in its notebook's folder; and the cores are
    shared out, because two notebooks that each use all of them are slower than one after the other.
    """
    env = dict(os.environ)
    data = os.path.expanduser(env.get("COURSE_DATA", ""))
    if data and Path(data).exists():
        env["COURSE_DATA"] = str(Path(data).resolve())
    if env.get("COURSE_RUNS"):
        env["COURSE_RUNS"] = str(runs_root())
    env.pop("MPLBACKEND", None)  # of a cluster or a service: without it figures come into the notebook
    env.setdefault("OMP_NUM_THREADS", str(max(1, cores() // parallel)))
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep, so that others can work
    env.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the debugger's warning in each kernel
    env["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel before one in the home folder
    return env


def up_to_date(job: Job) -> bool:
    """Return whether the executed copy of a job is newer than all it was made from."""
    return is_current(job.output, made_from(job.notebook, job.parameters))


class Display(Bars):
    """What the user sees while notebooks run: bars in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        super().__init__(console, [job.name for job in jobs], " cells")
        self.tasks: dict[str, TaskID] = {}
        self.started: set[str] = set()

    def on_progress(self, progress: Progress) -> None:
        name = progress.job.name
        if not self.live:
            if name not in self.started:
                self.say(f"{name:{self.width}}  started")
            self.started.add(name)
            return
        if name not in self.tasks:
            label = f"{name:{self.width}}"
            self.tasks[name] = self.bars.add_task(label, total=progress.cells, status="starting")
        if progress.cells:
            self.bars.update(self.tasks[name], total=progress.cells, completed=progress.done, status="running")

    def on_result(self, result: Result) -> None:
        name = result.job.name
        if self.live and name in self.tasks:
            task = self.tasks[name]
            status = f"[{COLOURS[result.status]}]{result.status}"
            self.bars.update(task, status=status)
            if result.status == "ok":
                self.bars.update(task, completed=self.bars.tasks[task].total)
            self.bars.stop_task(task)
        elif result.status in {"ok", "failed"}:
            self.say(f"{name:{self.width}}  {result.status}  {result.seconds:.1f} s")
        if result.status == "ok" and result.reason:
            self.say(f"{name}: {result.reason}")
        if result.status == "failed":
            self.say(f"\n{name} failed: {result.reason}")
            for line in result.details.splitlines():
                self.say(f"    {line}")
            where = short_path(result.copy) if result.copy else "none was written"
            self.say(f"  as far as it came: {where}\n")


def show_summary(console: Console, results: Sequence[Result], seconds: float) -> None:
    """Print what became of each notebook, and the counts."""
    table = Table(box=None, pad_edge=False)
    table.add_column("notebook", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("executed copy", overflow="fold")
    for result in results:
        ran = result.status in {"ok", "failed"}
        table.add_row(
            Text(result.job.name),
            f"[{COLOURS[result.status]}]{result.status}",
            f"{result.seconds:.1f}" if ran else "",
            Text(short_path(result.copy) if result.copy else ""),
        )
    console.print()
    console.print(table)
    counts = count_statuses([result.status for result in results], COLOURS)
    console.print(f"{len(results)} notebooks: {counts}; {seconds:.1f} s", highlight=False)


def write_summary(path: Path, profile: str, results: Sequence[Result], started: str, seconds: float) -> None:
    """Keep what the table shows: the last `course run` into this folder, whatever it ran."""
    summary = {
        "profile": profile,
        "started": started,
        "seconds": round(seconds, 1),
        "notebooks": [
            {
                "name": result.job.name,
                "status": result.status,
                "seconds": round(result.seconds, 1),
                "reason": result.reason,
                "parameters": result.job.parameters,
                "output": result.copy.relative_to(path.parent).as_posix() if result.copy else None,
            }
            for result in results
        ],
    }
    write_text(path, json.dumps(summary, indent=2) + "\n")


def run(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NOTEBOOK]...", help="Numbers (3), names (03_fcn) or paths; none: all."),
    ] = None,
    profile: Annotated[str, typer.Option(help="quick, laptop or gpu.")] = "quick",
    solutions: Annotated[bool, typer.Option("--solutions", help="Run the solutions as well.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Notebooks at once; by default 2, on the GPU 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the executed copies; by default build/executed/PROFILE.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(min=1, help="Seconds a cell may take; by default 1200, 7200, 172800 by profile.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what has run well and has not changed since.")] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME VALUE", help="Set a parameter of the notebooks."),
    ] = None,
) -> None:
    """Run notebooks and keep their executed copies.

    A notebook that fails ends alone: the others go on, and the exit code is the number that failed.

    \b
    course run                            the whole course at the quick profile
    course run 3 07                       two notebooks
    course run --resume                   skip what is up to date
    course run 3 --profile laptop         with real data
    course run 3 -p LEARNING_RATE 1e-3    with a parameter of its own
    course run --solutions                the solved exercises too
    """
    try:
        check_profile(profile)
        folder = Path(out or build_root() / "executed" / profile).resolve()
        planned = plan(
            select(notebooks or [], solutions),
            profile,
            folder,
            timeout or CELL_TIMEOUT[profile],
            split_pairs(parameter or []),
        )
        refuse_unwritable(folder, "name another folder with --out, or in COURSE_BUILD")
        if no_home():
            raise Refusal(HOME_MISSING)
    except Refusal as refusal:
        typer.echo(f"course run: {refusal}", err=True)
        raise typer.Exit(2) from None

    console = open_console()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    to_do = [job for job in planned if not (resume and up_to_date(job))]
    results = {job.name: Result(job, "skipped") for job in planned if job not in to_do}
    parallel = max(1, min(jobs or jobs_by_default(profile), len(to_do)))
    with stop_on_signals() as stop, Display(console, to_do) as display:

        def keep(result: Result) -> None:
            results[result.job.name] = result
            display.on_result(result)

        run_jobs(to_do, parallel, kernel_environment(parallel), display.on_progress, keep, stop)

    in_order = [results[job.name] for job in planned]
    seconds = time.monotonic() - clock
    write_summary(folder / "summary.json", profile, in_order, started, seconds)
    show_summary(console, in_order, seconds)
    if stop.signum:
        console.print("Stopped. Go on later with the same command and --resume.")
        raise typer.Exit(128 + stop.signum)
    raise typer.Exit(min(100, sum(result.status == "failed" for result in in_order)))
