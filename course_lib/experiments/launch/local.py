"""Many runs on this machine, some at a time, each in a process of its own that nothing outlives.

`run_all` and `course_lib.experiments.launch.slurm.submit` take the same arguments and return the same, an
`Outcome` for each recipe in their order: `course reproduce` calls one or the other. What a run does, here
or there, is `course_lib.experiments.runs.complete`.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import records_folder, run_folder
from course_lib.plumbing.paths import DECODED, runs_root
from course_lib.plumbing.processes import Child, Pool, StopRequest, cores

PATIENCE = 15.0
"""Seconds a run waits for another process at the same run: what one that was just asked to stop needs."""
GRACE = 600.0
"""Seconds that a run which is asked to stop has for its step and its checkpoint before it is killed."""

PICTURES = ".decoded-"
"""Begins the name of the folder of decoded images in the folder of runs; the process that made it follows."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: "done"; "recorded" (there was a valid record); "busy" (another process is at it, or a job that goes
            on); "stopped" (at a checkpoint); "waiting" (never begun); "failed"; "untrusted" (its record is damaged
            or edited, and never replaced).
        text: The error, or the reason.
        seconds: Of this sitting.
        log: What the run printed.
    """

    recipe: Recipe
    status: str
    text: str = ""
    seconds: float = 0.0
    log: Path | None = None
    metrics: dict[str, float] | None = None

    @property
    def bad(self) -> bool:
        """Whether somebody must look at it."""
        return self.status in ("failed", "untrusted")


class Watch:
    """Callbacks for progress. This base class ignores them."""

    def started(self, recipe: Recipe) -> None:
        """A run has begun."""

    def stepped(self, recipe: Recipe, step: int, steps: int, loss: float) -> None:
        """A run has made its step `step` of `steps`, with this loss."""

    def ended(self, outcome: Outcome) -> None:
        """A run is over."""

    def stopping(self, reason: str) -> None:
        """All runs are asked to stop."""

    def say(self, text: str) -> None:
        """There is a message for the user."""

    def tick(self) -> None:
        """Some time has passed."""


def request_of(
    recipe: Recipe, *, gpus: int, records: Path | None, runs: Path, patience: float, **others: object
) -> dict:
    """Return what a process or a job is asked to do, as plain JSON values; `others` are added to it."""
    return {
        "recipe": recipe.settings(),
        "gpus": gpus,
        "runs": str(runs),
        "patience": patience,
        "records": str(records_folder(recipe, records).resolve()),
        **others,
    }


class RunPool(Pool[int]):
    """Makes the runs of `recipes`; its tasks are their places in that sequence."""

    grace = GRACE

    def __init__(
        self,
        recipes: Sequence[Recipe],
        *,
        gpus: int,
        threads: int,
        records: Path | None,
        runs: Path,
        watch: Watch,
        fits: Callable[[Recipe], bool],
        environment: dict[str, str],
    ) -> None:
        self.recipes, self.watch, self.runs, self.fits = recipes, watch, runs, fits
        self.asked = {"gpus": gpus, "records": records, "runs": runs, "patience": PATIENCE, "cores": threads}
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **environment}
        self.outcomes = [Outcome(recipe, "waiting") for recipe in recipes]
        self.unfinished = {recipe.key for recipe in recipes}
        self.tick, self.stopping = watch.tick, watch.stopping

    def ready(self, place: int) -> bool:
        """Return whether the run fits and the run that it needs has ended."""
        recipe = self.recipes[place]
        needed = recipe.needed()
        return (needed is None or needed.key not in self.unfinished) and self.fits(recipe)

    def start(self, place: int, slot: int) -> Child:
        """Start the process of a run."""
        recipe = self.recipes[place]
        log = run_folder(recipe, self.runs) / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        request = request_of(recipe, **self.asked, slot=slot)
        return Child("course_lib.experiments.launch.child", request, log, self.environment)

    def started(self, place: int, child: Child) -> None:
        """Pass it on."""
        self.watch.started(self.recipes[place])

    def heard(self, place: int, child: Child, message: dict) -> None:
        """Pass a report on."""
        self.watch.stepped(self.recipes[place], message["step"], message["steps"], message["loss"])

    def ended(self, place: int, child: Child | None, error: OSError | None, told: bool) -> None:
        """Keep the outcome of a run; `child` is None where no process could be started."""
        recipe = self.recipes[place]
        self.unfinished.discard(recipe.key)
        if child is None:
            self.outcomes[place] = Outcome(recipe, "failed", f"it could not be started: {error}")
        else:
            last = child.last or unreported(child, told)
            self.outcomes[place] = Outcome(
                recipe, last["status"], last["text"], child.seconds, child.log, last.get("metrics")
            )
        self.watch.ended(self.outcomes[place])


def unreported(child: Child, told: bool) -> dict:
    """Return the report of a process that ended without one. `told`: it had been asked to stop."""
    if told:
        return {"status": "stopped", "text": f"its process ended with code {child.process.returncode}"}
    code, words = child.process.returncode, child.last_words()
    text = f"its process ended with code {code}"
    if code < 0:
        text = f"its process was killed ({signal.Signals(-code).name})"
        text += ": is there enough memory?" if code == -9 else ""
    return {"status": "failed", "text": text + (f"; it said:\n{words}" if words else "")}


def run_all(
    recipes: Sequence[Recipe],
    *,
    jobs: int = 1,
    gpus: int = 1,
    time_limit: float | None = None,
    records: Path | None = None,
    runs: Path | None = None,
    watch: Watch | None = None,
    stop: StopRequest | None = None,
    fits: Callable[[Recipe], bool] = lambda recipe: True,
) -> list[Outcome]:
    """Complete every recipe, `jobs` at a time; one that fails stops no other.

    They begin in order, but a run whose ancillary network is among them waits for it.

    Args:
        recipes: the runs.
        jobs: how many at once; they share the cores.
        gpus: of each run, where the machine has any.
        time_limit: seconds; then, or when `stop` is asked, nothing new is begun and what runs stops at a
            checkpoint. A second signal kills.
        records: other folder than `results/`.
        runs: other folder than `runs/`.
        watch: callbacks for progress.
        stop: a request to stop, from `stop_on_signals`.
        fits: asked before a run begins; one that does not fit is left waiting.

    Returns:
        One outcome for each recipe, in their order.
    """
    runs = Path(runs or runs_root()).resolve()
    deadline = None if time_limit is None else time.monotonic() + time_limit
    with shared_pictures(runs, min(jobs, len(recipes))) as environment:
        pool = RunPool(
            recipes,
            gpus=gpus,
            threads=max(1, cores() // jobs),
            records=records,
            runs=runs,
            watch=watch or Watch(),
            fits=fits,
            environment=environment,
        )
        pool.run(range(len(recipes)), slots=jobs, stop=stop or StopRequest(), deadline=deadline)
    return pool.outcomes


@contextmanager
def shared_pictures(runs: Path, jobs: int) -> Iterator[dict[str, str]]:
    """Yield the setting by which runs side by side decode a set once, in a folder that goes when they have ended."""
    if jobs < 2:
        yield {}
        return
    for left in runs.glob(f"{PICTURES}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(PICTURES))):  # its process was killed
            shutil.rmtree(left, ignore_errors=True)
    home = runs / f"{PICTURES}{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:  # no room, or not ours: each run says so itself
        yield {}
        return
    try:
        yield {DECODED: str(home)}
    finally:
        shutil.rmtree(home, ignore_errors=True)
