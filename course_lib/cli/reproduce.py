"""`course reproduce`: the runs of a table, made or finished, one record each."""

import shlex
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from course_lib.cli.selection import Refusal, check_profile, short_path
from course_lib.plumbing.processes import stop_on_signals

if TYPE_CHECKING:
    from course_lib.experiments.launch.local import Outcome
    from course_lib.experiments.recipes import Recipe

UNFINISHED = 75
COLOURS = {
    "done": "green",
    "recorded": "cyan",
    "busy": "yellow",
    "stopped": "yellow",
    "waiting": "yellow",
    "failed": "red",
    "untrusted": "red",
}
SECONDS_BETWEEN_LINES = 30.0
STOPS = "stopping at the next checkpoint ({reason}); Ctrl-C once more ends at once"
LEAVES = "leaving the jobs to Slurm, where they go on ({reason})"


def seeds_from(text: str) -> list[int]:
    """`3` is the seeds 0, 1, 2; `4,7` these two; `5,` only this one."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text:
        numbers = list(range(numbers[0])) if numbers else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise Refusal(f'--seeds "{text}": write how many (3), or which, with commas (0,1,2 or 5,)')
    return numbers


def plan(table: str, rows: Sequence[str], profile: str, seeds: Sequence[int]) -> "list[Recipe]":
    """The runs that were asked for: seed by seed, so that every row has the first one early.

    Raises Refusal where the table, or what was asked for, is wrong.
    """
    from course_lib.experiments.check import check_table
    from course_lib.experiments.recipes import WITHOUT_CHANCE, RecipeError, read_table, resolve
    from course_lib.experiments.table_files import run_of

    problems = check_table(table)
    if problems:
        raise Refusal("\n  ".join(problems))
    try:
        content = read_table(table)
        known = content["rows"]
        wanted = list(dict.fromkeys(run_of(content, row) if row in known else row for row in rows or known))
        recipes = [resolve(table, row, profile, seed) for seed in seeds for row in wanted]
    except RecipeError as error:
        raise Refusal(str(error)) from None
    return [r for r in recipes if r.seed == seeds[0] or r.task not in WITHOUT_CHANCE]


def missing_data(recipes: "Sequence[Recipe]") -> str:
    """The commands that get what is not here, or nothing."""
    from course_lib.data.registry import dataset_info

    infos = {recipe.dataset: dataset_info(recipe.dataset) for recipe in recipes}
    return "; ".join(f"{info.title} is not here: {info.get}" for info in infos.values() if not info.present())


class Pace:
    """How long steps take, row by row, and so how long the rest will."""

    def __init__(self, recipes: "Sequence[Recipe]", jobs: int) -> None:
        self.left = {id(recipe): recipe.steps for recipe in recipes}
        self.row = {id(recipe): recipe.row for recipe in recipes}
        self.jobs = jobs
        self.last: dict[int, tuple[int, float]] = {}
        self.measured: dict[str, tuple[int, float]] = {}

    def step(self, recipe: "Recipe", step: int, now: float) -> None:
        before = self.last.get(id(recipe))
        if before is not None and step > before[0]:  # else it has begun again from its checkpoint
            steps, seconds = self.measured.get(recipe.row, (0, 0.0))
            self.measured[recipe.row] = (steps + step - before[0], seconds + now - before[1])
        self.last[id(recipe)] = (step, now)
        self.left[id(recipe)] = recipe.steps - step

    def ended(self, recipe: "Recipe") -> None:
        self.left.pop(id(recipe), None)

    def seconds_left(self) -> float | None:
        """None while nothing is known."""
        steps = sum(steps for steps, _ in self.measured.values())
        if not steps:
            return None
        overall = sum(seconds for _, seconds in self.measured.values()) / steps
        total = 0.0
        for key, left in self.left.items():
            steps, seconds = self.measured.get(self.row[key], (0, 0.0))
            total += left * (seconds / steps if steps else overall)
        return total / max(1, min(self.jobs, len(self.left)))


def in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """What the user sees while runs are made: bars in a terminal, plain lines now and then elsewhere."""

    def __init__(self, console: Console, recipes: "Sequence[Recipe]", jobs: int, on_stop: str = STOPS) -> None:
        from rich import progress

        self.on_stop = on_stop
        self.console, self.live = console, console.is_terminal
        self.pace = Pace(recipes, jobs)
        self.width = max((len(recipe.title()) for recipe in recipes), default=0)
        self.count, self.finished = len(recipes), 0
        self.losses: dict[int, str] = {}
        self.tasks: dict[int, progress.TaskID] = {}
        self.said = time.monotonic()
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not self.live,
        )
        name = f"{'all runs':{self.width}}"
        self.overall = self.bars.add_task(name, total=self.count, status="")

    def __enter__(self) -> "Display":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def left(self) -> str:
        seconds = self.pace.seconds_left()
        return f"about {in_words(seconds)} left" if seconds else ""

    def started(self, recipe: "Recipe") -> None:
        if self.live:
            self.tasks[id(recipe)] = self.bars.add_task(
                f"{recipe.title():{self.width}}", total=max(recipe.steps, 1), status="starting"
            )
        else:
            self.line(f"{recipe.title():{self.width}}  started")

    def stepped(self, recipe: "Recipe", step: int, steps: int, loss: float) -> None:
        self.pace.step(recipe, step, time.monotonic())
        if self.live:
            status = "measuring" if step == steps else f"loss {loss:.3f}"
            self.bars.update(self.tasks[id(recipe)], completed=step, status=status)
            self.bars.update(self.overall, status=self.left())
        elif time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            self.line(
                f"{recipe.title():{self.width}}  step {step} of {steps}, loss {loss:.3f}; "
                f"{self.finished} of {self.count} runs done, {self.left()}"
            )

    def ended(self, outcome: "Outcome") -> None:
        recipe = outcome.recipe
        self.finished += outcome.status in ("done", "recorded")
        self.pace.ended(recipe)
        if self.live and id(recipe) in self.tasks:
            self.bars.remove_task(self.tasks.pop(id(recipe)))
            self.bars.update(self.overall, completed=self.finished, status=self.left())
        if outcome.bad:
            self.failure(outcome)
            return
        text = score(outcome) if outcome.status == "done" else outcome.text
        self.line(f"{recipe.title():{self.width}}  {outcome.status}  {text}  {outcome.seconds:.0f} s")

    def failure(self, outcome: "Outcome") -> None:
        self.line(f"{outcome.recipe.title():{self.width}}  {outcome.status}: {outcome.text}")
        if outcome.log is not None:
            self.line(f"  its log: {short_path(outcome.log)}")

    def stopping(self, reason: str) -> None:
        self.line(self.on_stop.format(reason=reason))

    def say(self, text: str) -> None:
        self.line(text)

    def tick(self) -> None: ...


def score(outcome: "Outcome") -> str:
    from course_lib.experiments.table_files import METRICS, read_table

    metric = read_table(outcome.recipe.table).get("metric", "mean_iou")
    if not outcome.metrics:
        return ""
    return f"{METRICS[metric]} {100 * outcome.metrics[metric]:.1f} %"


def show_summary(console: Console, outcomes: "Sequence[Outcome]", seconds: float) -> None:
    from course_lib.experiments.records import record_path

    table = Table(box=None, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("record", overflow="fold")
    for outcome in outcomes:
        recorded = outcome.status in ("done", "recorded")
        table.add_row(
            outcome.recipe.row,
            str(outcome.recipe.seed),
            f"[{COLOURS[outcome.status]}]{outcome.status}",
            score(outcome),
            f"{outcome.seconds:.0f}" if outcome.seconds else "",
            short_path(record_path(outcome.recipe)) if recorded else "",
        )
    console.print()
    console.print(table)
    counts = [
        f"{sum(outcome.status == status for outcome in outcomes)} {status}"
        for status in COLOURS
        if any(outcome.status == status for outcome in outcomes)
    ]
    console.print(f"{len(outcomes)} runs: {', '.join(counts)}; {in_words(seconds)}")


def reproduce(
    table: Annotated[str, typer.Argument(help="A table of course_lib/experiments/tables: fcn_skips.")],
    row: Annotated[list[str] | None, typer.Option("--row", "-r", help="Only this row; may be repeated.")] = None,
    profile: Annotated[str, typer.Option(help="quick, laptop or gpu.")] = "laptop",
    seeds: Annotated[str, typer.Option(help="How many (3), or which (0,1,2 or 5,).")] = "3",
    on: Annotated[str, typer.Option("--on", help="local: this machine; slurm: each run a job of a cluster.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --on slurm, an option of sbatch: partition=gpu; may be repeated."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each run, where there are any; 0: CPU.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once.")] = 1,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0,
            help="Stop at a checkpoint when they are over; a job of Slurm is then queued again.",
        ),
    ] = None,
) -> None:
    """Make the runs of a table that have no record yet, and go on with those that were stopped.

    Ctrl-C and the time limit stop at a checkpoint; the same command goes on from there. The exit code is
    the number of runs that failed; 75 where none did, but the time limit left some unfinished.

    \b
    course reproduce fcn_skips                               all rows, seeds 0, 1, 2
    course reproduce fcn_skips --row fcn8s --seeds 0,1       some of them
    course reproduce fcn_skips --profile gpu --time-limit 55
    course reproduce fcn_skips --profile gpu --on slurm --jobs 6 --slurm partition=gpu

    On Slurm, Ctrl-C leaves the jobs running; the same command follows them again.
    """
    try:
        check_profile(profile)
        if on not in ("local", "slurm"):
            raise Refusal(f'--on "{on}": it is local or slurm')
        if slurm and on == "local":
            raise Refusal("--slurm goes with --on slurm")
        recipes = plan(table, row or [], profile, seeds_from(seeds))
    except Refusal as refusal:
        typer.echo(f"course reproduce: {refusal}", err=True)
        raise typer.Exit(2) from None

    from course_lib.experiments.launch import local
    from course_lib.experiments.launch import slurm as cluster
    from course_lib.experiments.records import find_record, record_state

    submit = partial(cluster.submit, slurm=slurm or []) if on == "slurm" else local.run_all
    outcomes: dict[int, local.Outcome] = {}
    states = {id(recipe): record_state(recipe) for recipe in recipes}
    for recipe in recipes:
        state, reason = states[id(recipe)]
        if state == "untrusted":
            outcomes[id(recipe)] = local.Outcome(recipe, "untrusted", reason)
        elif state == "valid":
            metrics = find_record(recipe).metrics
            outcomes[id(recipe)] = local.Outcome(recipe, "recorded", metrics=metrics)
    to_do = [recipe for recipe in recipes if id(recipe) not in outcomes]
    missing = missing_data(to_do) if on == "local" else ""
    if missing:
        typer.echo(f"course reproduce: {missing}", err=True)
        raise typer.Exit(2)

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file has no edge to fold paths at
    stale = sum(states[id(recipe)][0] == "stale" for recipe in to_do)
    again = f" ({stale} of a changed recipe, to be replaced)" if stale else ""
    console.print(f"{len(recipes)} runs, {len(to_do)} to do{again}")
    clock, jobs = time.monotonic(), min(jobs, max(1, len(to_do)))
    on_stop = STOPS if on == "local" else LEAVES
    with stop_on_signals() as stop, Display(console, to_do, jobs, on_stop) as display:
        for outcome in outcomes.values():
            if outcome.bad:
                display.failure(outcome)
        try:
            made = (
                submit(
                    to_do,
                    jobs=jobs,
                    gpus=gpus,
                    watch=display,
                    stop=stop,
                    time_limit=None if time_limit is None else 60 * time_limit,
                )
                if to_do
                else []
            )
        except cluster.ClusterError as error:
            typer.echo(f"course reproduce: {error}", err=True)
            raise typer.Exit(2) from None
        outcomes |= {id(outcome.recipe): outcome for outcome in made}
    in_order = [outcomes[id(recipe)] for recipe in recipes]
    show_summary(console, in_order, time.monotonic() - clock)
    unfinished = [o for o in in_order if o.status in ("stopped", "waiting", "busy")]
    if unfinished:
        go_on = command(table, row or [], profile, seeds, on, gpus, jobs, slurm or [])
        console.print(f"Go on with: {go_on}")
    failed = sum(outcome.bad for outcome in in_order)
    if stop.signum:
        raise typer.Exit(128 + stop.signum)
    raise typer.Exit(min(64, failed) or (UNFINISHED if stop.reason and unfinished else 0))


def command(
    table: str, rows: Sequence[str], profile: str, seeds: str, on: str, gpus: int, jobs: int, slurm: Sequence[str] = ()
) -> str:
    """The command line that goes on; the time limit is the user's to choose anew."""
    words = ["course", "reproduce", table]
    for row in rows:
        words += ["--row", row]
    words += ["--profile", profile, "--seeds", seeds]
    words += ["--on", on] if on != "local" else []
    words += ["--gpus", str(gpus)] if gpus != 1 else []
    words += ["--jobs", str(jobs)] if jobs > 1 else []
    for entry in slurm:
        words += ["--slurm", entry]
    return shlex.join(words)
