"""Runs made, shown and summed up: what `course reproduce` and `course evidence` have in common."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from course_lib.cli.display import Bars, count_statuses, open_console
from course_lib.cli.selection import Refusal, refuse_unwritable, short_path
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipe import Key, Recipe
from course_lib.experiments.records import find_record, record_path, record_state
from course_lib.experiments.table import Table
from course_lib.plumbing.paths import runs_root
from course_lib.plumbing.processes import stop_on_signals

if TYPE_CHECKING:
    from rich.progress import TaskID

    from course_lib.experiments.launch.local import Outcome
    from course_lib.plumbing.processes import StopRequest

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


class Pace:
    """An estimate of the time left, from how long the steps of each row take."""

    def __init__(self, recipes: Sequence[Recipe], jobs: int) -> None:
        self.left = {recipe.key: recipe.steps for recipe in recipes}
        self.row = {recipe.key: recipe.key[:2] for recipe in recipes}
        self.jobs = jobs
        self.last: dict[Key, tuple[int, float]] = {}
        self.measured: dict[tuple[str, str], tuple[int, float]] = {}

    def step(self, recipe: Recipe, step: int, now: float) -> None:
        """Count a step that a run has made at the time `now`, in seconds."""
        before = self.last.get(recipe.key)
        if before is not None and step > before[0]:  # else it has begun again from its checkpoint
            steps, seconds = self.measured.get(recipe.key[:2], (0, 0.0))
            self.measured[recipe.key[:2]] = (steps + step - before[0], seconds + now - before[1])
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

    def __init__(
        self,
        console: Console,
        tables: Mapping[str, Table],
        recipes: Sequence[Recipe],
        jobs: int,
        on_stop: str,
        ends_in: float | None = None,
    ) -> None:
        super().__init__(console, [title_among(recipe, tables) for recipe in recipes])
        self.on_stop, self.tables = on_stop, tables
        self.pace = Pace(recipes, jobs)
        self.deadline = time.monotonic() + (math.inf if ends_in is None else ends_in)
        self.count, self.finished = len(recipes), 0
        self.tasks: dict[Key, TaskID] = {}
        self.said = time.monotonic()
        name = f"{'all runs':{self.width}}"
        self.overall = self.bars.add_task(name, total=self.count, status="")

    def _left(self) -> str:
        seconds = self.pace.seconds_left()
        limit = max(0.0, self.deadline - time.monotonic())
        return f"about {in_words(min(seconds, limit))} left" if seconds else ""

    def _title(self, recipe: Recipe) -> str:
        return f"{title_among(recipe, self.tables):{self.width}}"

    def started(self, recipe: Recipe) -> None:
        """Show a new run."""
        if self.live:
            self.tasks[recipe.key] = self.bars.add_task(
                self._title(recipe), total=max(recipe.steps, 1), status="starting"
            )
        else:
            self.say(f"{self._title(recipe)}  started")

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
                f"{self._title(recipe)}  step {step} of {steps}, loss {loss:.3f}; "
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
        text = score(self.tables, outcome) if outcome.status == "done" else outcome.text
        self.say(f"{self._title(recipe)}  {outcome.status}  {text}  {outcome.seconds:.0f} s")

    def failure(self, outcome: "Outcome") -> None:
        """Show an error and where its log is."""
        self.say(f"{self._title(outcome.recipe)}  {outcome.status}: {outcome.text}")
        if outcome.log is not None:
            self.say(f"  its log: {short_path(outcome.log)}")

    def stopping(self, reason: str) -> None:
        """Show that everything is asked to stop."""
        self.say(self.on_stop.format(reason=reason))

    def tick(self) -> None:
        """Do nothing: the bars redraw themselves."""


def title_among(recipe: Recipe, tables: Mapping[str, Table]) -> str:
    """Return the name of a run: row and seed, and its table where there are several."""
    return recipe.title() if len(tables) == 1 else f"{recipe.table} {recipe.title()}"


def score(tables: Mapping[str, Table], outcome: "Outcome") -> str:
    """Return what a run measured, in the metric of its row."""
    metric = tables[outcome.recipe.table].rows[outcome.recipe.row].metric
    return f"{METRICS[metric].title} {100 * outcome.metrics[metric]:.1f} %" if outcome.metrics else ""


def show_summary(console: Console, tables: Mapping[str, Table], outcomes: "Sequence[Outcome]", seconds: float) -> None:
    """Print a line for each run that was begun, and how many ended in which way."""
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("run", no_wrap=True)
    grid.add_column("status", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("seconds", justify="right", no_wrap=True)
    grid.add_column("record", overflow="fold")
    for outcome in outcomes:
        if outcome.status == "waiting":
            continue
        recorded = outcome.status in ("done", "recorded")
        grid.add_row(
            title_among(outcome.recipe, tables),
            f"[{COLOURS[outcome.status]}]{outcome.status}",
            score(tables, outcome),
            f"{outcome.seconds:.0f}" if outcome.seconds else "",
            Text(short_path(record_path(outcome.recipe)) if recorded else ""),
        )
    console.print()
    console.print(grid)
    counts = count_statuses([outcome.status for outcome in outcomes], COLOURS)
    console.print(f"{len(outcomes)} runs: {counts}; {in_words(seconds)}")


def make_all(
    tables: Mapping[str, Table],
    recipes: Sequence[Recipe],
    submit: Callable,
    options: dict[str, object],
    on_stop: str,
    ends_in: float | None = None,
) -> "tuple[list[Outcome], StopRequest]":
    """Make those of `recipes` that have no record, show how it goes, and return all outcomes in order.

    Args:
        tables: Those that the recipes are of, by name.
        submit: `on_this_machine` or `on_slurm`; `options` are its jobs, gpus and time_limit (seconds).
        on_stop: What is printed when somebody asks to stop.
        ends_in: Seconds after which all are asked to stop.

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
    for folder in {record_path(recipe).parent for recipe in to_do}:
        refuse_unwritable(folder, "name another in COURSE_RESULTS (of quick runs: COURSE_BUILD)")
    if to_do:
        refuse_unwritable(runs_root(), "name another in COURSE_RUNS")
    console = open_console()
    stale = sum(states[recipe.key][0] == "stale" for recipe in to_do)
    again = f" ({stale} of a changed recipe, to be replaced)" if stale else ""
    console.print(f"{len(recipes)} runs, {len(to_do)} to do{again}")
    clock = time.monotonic()
    options = options | {"jobs": min(options["jobs"], max(1, len(to_do)))}
    with stop_on_signals() as stop, Display(console, tables, to_do, options["jobs"], on_stop, ends_in) as display:
        for outcome in outcomes.values():
            if outcome.bad:
                display.failure(outcome)
        made = submit(to_do, watch=display, stop=stop, **options) if to_do else []
    outcomes |= {outcome.recipe.key: outcome for outcome in made}
    in_order = [outcomes[recipe.key] for recipe in recipes]
    show_summary(console, tables, in_order, time.monotonic() - clock)
    return in_order, stop


def on_this_machine(recipes: Sequence[Recipe], **options: object) -> "list[Outcome]":
    """Make the runs here: `launch.local.run_all`. Raises Refusal where data is missing."""
    from course_lib.experiments.launch.local import run_all

    missing = dict.fromkeys(absent_data(recipes).values())
    if missing:
        raise Refusal("; ".join(missing))
    return run_all(recipes, **options)


def absent_data(recipes: Sequence[Recipe]) -> dict[Key, str]:
    """Return {run: what is not here and the command that gets it} of the runs whose images or weights are not here."""
    from course_lib.data.registry import dataset_info
    from course_lib.models.efficientnet import weights_absent

    wanted = {
        recipe.key: [
            (recipe.dataset, split) for split in {getattr(recipe, "train_split", recipe.val_split), recipe.val_split}
        ]
        for recipe in recipes
    }
    absent = {pair: dataset_info(pair[0]).absent(pair[1]) for pairs in wanted.values() for pair in pairs}
    troubles = {key: [absent[pair] for pair in pairs if absent[pair]] for key, pairs in wanted.items()}
    for recipe in recipes:
        options = getattr(recipe, "model_options", {})
        if options.get("imagenet") and options.get("backbone") == "efficientnet_lite0" and weights_absent():
            troubles[recipe.key].append(weights_absent())
    return {key: texts[0] for key, texts in troubles.items() if texts}


def on_slurm(recipes: Sequence[Recipe], **options: object) -> "list[Outcome]":
    """Make the runs on a cluster: `launch.slurm.submit`. Raises Refusal where Slurm does not take them."""
    from course_lib.experiments.launch import slurm

    try:
        return slurm.submit(recipes, **options)
    except slurm.ClusterError as error:
        raise Refusal(str(error)) from None
