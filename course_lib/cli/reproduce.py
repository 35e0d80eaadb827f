"""`course reproduce`: the runs of a table, made or finished, one record each."""

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from course_lib.cli.display import Bars, count_statuses, open_console
from course_lib.cli.selection import Refusal, check_profile, short_path
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipes import Key, Recipe, RecipeError
from course_lib.experiments.records import find_record, record_path, record_state
from course_lib.experiments.table import Table
from course_lib.plumbing.processes import stop_on_signals

if TYPE_CHECKING:
    from rich.progress import TaskID

    from course_lib.experiments.launch.local import Outcome
    from course_lib.plumbing.processes import StopRequest

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
    """Return the seeds of an option: `3` is 0, 1, 2; `4,7` these two; `5,` only this one.

    Raises:
        Refusal: For a text that is neither.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text:
        numbers = list(range(numbers[0])) if numbers else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise Refusal(f'--seeds "{text}": write how many (3), or which, with commas (0,1,2 or 5,)')
    return numbers


def plan(table: Table, rows: Sequence[str], profile: str, seeds: Sequence[int]) -> list[Recipe]:
    """Return the runs that were asked for: seed by seed, so that every row has the first one early.

    Raises:
        RecipeError: For a row or profile that the table does not have.
    """
    recipes = [table.recipe(row, profile, seed) for seed in seeds for row in rows or table.rows]
    planned = {recipe.key: recipe for recipe in recipes if recipe.seed == seeds[0] or recipe.chance}
    return list(planned.values())


def read_checked(name: str) -> Table:
    """Return table `name`, all names of models and data sets in it included in the check.

    Raises:
        RecipeError: With everything that is wrong with it.
    """
    table = Table.read(name)
    from course_lib.experiments.check import problems_of  # after the read: torch takes seconds

    problems = problems_of(table)
    if problems:
        raise RecipeError(*problems)
    return table


def require_data(recipes: Sequence[Recipe]) -> None:
    """Raise Refusal with the commands that get what is not here."""
    from course_lib.data.registry import dataset_info

    infos = {recipe.dataset: dataset_info(recipe.dataset) for recipe in recipes}
    missing = [f"{info.title} is not here: {info.get}" for info in infos.values() if not info.present()]
    if missing:
        raise Refusal("; ".join(missing))


class Pace:
    """An estimate of the time left, from how long the steps of each row take."""

    def __init__(self, recipes: Sequence[Recipe], jobs: int) -> None:
        self.left = {recipe.key: recipe.steps for recipe in recipes}
        self.row = {recipe.key: recipe.row for recipe in recipes}
        self.jobs = jobs
        self.last: dict[Key, tuple[int, float]] = {}
        self.measured: dict[str, tuple[int, float]] = {}

    def step(self, recipe: Recipe, step: int, now: float) -> None:
        """Count a step that a run has made at the time `now`, in seconds."""
        before = self.last.get(recipe.key)
        if before is not None and step > before[0]:  # else it has begun again from its checkpoint
            steps, seconds = self.measured.get(recipe.row, (0, 0.0))
            self.measured[recipe.row] = (steps + step - before[0], seconds + now - before[1])
        self.last[recipe.key] = (step, now)
        self.left[recipe.key] = recipe.steps - step

    def ended(self, recipe: Recipe) -> None:
        """Count a run as over."""
        self.left.pop(recipe.key, None)

    def seconds_left(self) -> float | None:
        """Return the seconds that the rest will take; None while nothing is known."""
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
    """Return a duration as people say it: "40 s", "10 min", "2 h 30 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display(Bars):
    """What the user sees while runs are made: bars in a terminal, plain lines now and then elsewhere.

    It is the `Watch` of `launch.local.run_all` and `launch.slurm.submit`.
    """

    def __init__(self, console: Console, table: Table, recipes: Sequence[Recipe], jobs: int, on_stop: str) -> None:
        super().__init__(console, [recipe.title() for recipe in recipes])
        self.on_stop, self.table = on_stop, table
        self.pace = Pace(recipes, jobs)
        self.count, self.finished = len(recipes), 0
        self.tasks: dict[Key, TaskID] = {}
        self.said = time.monotonic()
        name = f"{'all runs':{self.width}}"
        self.overall = self.bars.add_task(name, total=self.count, status="")

    def _left(self) -> str:
        seconds = self.pace.seconds_left()
        return f"about {in_words(seconds)} left" if seconds else ""

    def started(self, recipe: Recipe) -> None:
        """Show a new run."""
        if self.live:
            self.tasks[recipe.key] = self.bars.add_task(
                f"{recipe.title():{self.width}}", total=max(recipe.steps, 1), status="starting"
            )
        else:
            self.say(f"{recipe.title():{self.width}}  started")

    def stepped(self, recipe: Recipe, step: int, steps: int, loss: float) -> None:
        """Show the progress of a run."""
        self.pace.step(recipe, step, time.monotonic())
        if self.live:
            status = "measuring" if step == steps else f"loss {loss:.3f}"
            self.bars.update(self.tasks[recipe.key], completed=step, status=status)
            self.bars.update(self.overall, status=self._left())
        elif time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            self.say(
                f"{recipe.title():{self.width}}  step {step} of {steps}, loss {loss:.3f}; "
                f"{self.finished} of {self.count} runs done, {self._left()}"
            )

    def ended(self, outcome: "Outcome") -> None:
        """Show how a run has ended."""
        recipe = outcome.recipe
        self.finished += outcome.status in ("done", "recorded")
        self.pace.ended(recipe)
        if self.live and recipe.key in self.tasks:
            self.bars.remove_task(self.tasks.pop(recipe.key))
            self.bars.update(self.overall, completed=self.finished, status=self._left())
        if outcome.bad:
            self.failure(outcome)
            return
        text = score(self.table, outcome) if outcome.status == "done" else outcome.text
        self.say(f"{recipe.title():{self.width}}  {outcome.status}  {text}  {outcome.seconds:.0f} s")

    def failure(self, outcome: "Outcome") -> None:
        """Show an error and where its log is."""
        self.say(f"{outcome.recipe.title():{self.width}}  {outcome.status}: {outcome.text}")
        if outcome.log is not None:
            self.say(f"  its log: {short_path(outcome.log)}")

    def stopping(self, reason: str) -> None:
        """Show that everything is asked to stop."""
        self.say(self.on_stop.format(reason=reason))

    def tick(self) -> None:
        """Do nothing: the bars redraw themselves."""


def score(table: Table, outcome: "Outcome") -> str:
    """Return what a run measured, in the metric of its row."""
    metric = table.rows[outcome.recipe.row].metric
    return f"{METRICS[metric].title} {100 * outcome.metrics[metric]:.1f} %" if outcome.metrics else ""


def show_summary(console: Console, table: Table, outcomes: "Sequence[Outcome]", seconds: float) -> None:
    """Print a line for each run, and how many ended in which way."""
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("row", no_wrap=True)
    grid.add_column("seed", justify="right", no_wrap=True)
    grid.add_column("status", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("seconds", justify="right", no_wrap=True)
    grid.add_column("record", overflow="fold")
    for outcome in outcomes:
        recorded = outcome.status in ("done", "recorded")
        grid.add_row(
            outcome.recipe.row,
            str(outcome.recipe.seed),
            f"[{COLOURS[outcome.status]}]{outcome.status}",
            score(table, outcome),
            f"{outcome.seconds:.0f}" if outcome.seconds else "",
            short_path(record_path(outcome.recipe)) if recorded else "",
        )
    console.print()
    console.print(grid)
    counts = count_statuses([outcome.status for outcome in outcomes], COLOURS)
    console.print(f"{len(outcomes)} runs: {counts}; {in_words(seconds)}")


TableName = Annotated[str, typer.Argument(help="A table of course_lib/experiments/tables: fcn_skips.")]
Rows = Annotated[list[str] | None, typer.Option("--row", "-r", help="Only this row; may be repeated.")]
Profile = Annotated[str, typer.Option(help="quick, laptop or gpu.")]
Seeds = Annotated[str, typer.Option(help="How many (3), or which (0,1,2 or 5,).")]
On = Annotated[str, typer.Option("--on", help="local: this machine; slurm: each run a job of a cluster.")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="With --on slurm, an option of sbatch: partition=gpu; may be repeated."),
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs of each run, where there are any; 0: CPU.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES", min=0, help="Stop at a checkpoint when they are over; a job of Slurm is then queued again."
    ),
]


def reproduce(
    table: TableName,
    row: Rows = None,
    profile: Profile = "laptop",
    seeds: Seeds = "3",
    on: On = "local",
    slurm: Slurm = None,
    gpus: Gpus = 1,
    jobs: Jobs = 1,
    time_limit: Minutes = None,
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
        about = read_checked(table)
        recipes = plan(about, row or [], profile, seeds_from(seeds))
        options = {"jobs": jobs, "gpus": gpus, "time_limit": None if time_limit is None else 60 * time_limit}
        submit = partial(on_slurm, slurm=slurm or []) if on == "slurm" else on_this_machine
        outcomes, stop = make_all(about, recipes, submit, options, STOPS if on == "local" else LEAVES)
    except (Refusal, RecipeError) as refusal:
        typer.echo(f"course reproduce: {str(refusal).replace(chr(10), chr(10) + '  ')}", err=True)
        raise typer.Exit(2) from None
    unfinished = any(outcome.status in ("stopped", "waiting", "busy") for outcome in outcomes)
    if unfinished:
        typer.echo(f"Go on with: {command(table, row or [], profile, seeds, on, gpus, jobs, slurm or [])}")
    if stop.signum:
        raise typer.Exit(128 + stop.signum)
    failed = sum(outcome.bad for outcome in outcomes)
    raise typer.Exit(min(64, failed) or (UNFINISHED if stop.reason and unfinished else 0))


def make_all(
    table: Table, recipes: Sequence[Recipe], submit: Callable, options: dict[str, object], on_stop: str
) -> "tuple[list[Outcome], StopRequest]":
    """Make those of `recipes` that have no record, show how it goes, and return all outcomes in order.

    Args:
        submit: `on_this_machine` or `on_slurm`; `options` are its jobs, gpus and time_limit (seconds).
        on_stop: What is printed when somebody asks to stop.

    Raises:
        Refusal: Where nothing can be started.
    """
    from course_lib.experiments.launch.local import Outcome

    outcomes: dict[Key, Outcome] = {}
    states = {recipe.key: record_state(recipe) for recipe in recipes}
    for recipe in recipes:
        state, reason = states[recipe.key]
        if state == "untrusted":
            outcomes[recipe.key] = Outcome(recipe, "untrusted", reason)
        elif state == "valid":
            outcomes[recipe.key] = Outcome(recipe, "recorded", metrics=find_record(recipe).metrics)
    to_do = [recipe for recipe in recipes if recipe.key not in outcomes]
    console = open_console()
    stale = sum(states[recipe.key][0] == "stale" for recipe in to_do)
    again = f" ({stale} of a changed recipe, to be replaced)" if stale else ""
    console.print(f"{len(recipes)} runs, {len(to_do)} to do{again}")
    clock = time.monotonic()
    options = options | {"jobs": min(options["jobs"], max(1, len(to_do)))}
    with stop_on_signals() as stop, Display(console, table, to_do, options["jobs"], on_stop) as display:
        for outcome in outcomes.values():
            if outcome.bad:
                display.failure(outcome)
        made = submit(to_do, watch=display, stop=stop, **options) if to_do else []
    outcomes |= {outcome.recipe.key: outcome for outcome in made}
    in_order = [outcomes[recipe.key] for recipe in recipes]
    show_summary(console, table, in_order, time.monotonic() - clock)
    return in_order, stop


def on_this_machine(recipes: Sequence[Recipe], **options: object) -> "list[Outcome]":
    """Make the runs here: `launch.local.run_all`. Raises Refusal where data is missing."""
    from course_lib.experiments.launch.local import run_all

    require_data(recipes)
    return run_all(recipes, **options)


def on_slurm(recipes: Sequence[Recipe], **options: object) -> "list[Outcome]":
    """Make the runs on a cluster: `launch.slurm.submit`. Raises Refusal where Slurm does not take them."""
    from course_lib.experiments.launch import slurm

    try:
        return slurm.submit(recipes, **options)
    except slurm.ClusterError as error:
        raise Refusal(str(error)) from None


def command(
    table: str, rows: Sequence[str], profile: str, seeds: str, on: str, gpus: int, jobs: int, slurm: Sequence[str] = ()
) -> str:
    """Return the command line that goes on; the time limit is the user's to choose anew."""
    words = ["course", "reproduce", table, *(word for row in rows for word in ("--row", row))]
    words += ["--profile", profile, "--seeds", seeds]
    words += ["--on", on] if on != "local" else []
    words += ["--gpus", str(gpus)] if gpus != 1 else []
    words += ["--jobs", str(jobs)] if jobs > 1 else []
    words += [word for entry in slurm for word in ("--slurm", entry)]
    return shlex.join(words)
