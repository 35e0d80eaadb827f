"""Many runs on this machine, some at a time, each in a process of its own that nothing outlives.

`run_all` and `course_lib.experiments.launch.slurm.submit` take the same arguments and return the same, an
`Outcome` for each recipe in their order: `course reproduce` calls one or the other. What a run does, here
or there, is `course_lib.experiments.reproduce.complete`.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from course_lib.experiments.recipes import Recipe
from course_lib.experiments.records import record_path, run_folder
from course_lib.plumbing.machine import cores
from course_lib.plumbing.paths import ROOT, runs_root

PATIENCE = 15.0
"""Seconds a run waits for another process at the same run: what one that was just told to stop needs."""
GRACE = 600.0
"""Seconds that a run which is asked to stop has for its step and its checkpoint before it is killed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    status   "done"; "recorded" (there was a valid record); "busy" (another process is at it, or a job that
             goes on); "stopped" (at a checkpoint); "waiting" (never begun); "failed"; "untrusted" (its record is damaged or
             edited, and nobody replaces it)
    text     the error, or the reason
    seconds  of this sitting
    log      what the run printed
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
    """What is told how the runs go; this one does nothing with it."""

    def started(self, recipe: Recipe) -> None: ...

    def stepped(self, recipe: Recipe, step: int, steps: int, loss: float) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def stopping(self, reason: str) -> None: ...

    def say(self, text: str) -> None: ...

    def tick(self) -> None: ...


@dataclass
class StopRequest:
    """Whether and why to stop; `hard` once somebody has asked twice."""

    reason: str = ""
    signum: int = 0
    hard: bool = False
    since: float = 0.0

    def ask(self, reason: str, signum: int = 0) -> None:
        if self.reason and signum:
            self.hard = True
        if not self.reason:
            self.reason, self.signum, self.since = reason, signum, time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that SIGINT, SIGTERM and SIGHUP fill in during the block (in the main thread)."""
    request = StopRequest()

    def asked(signum: int, _frame: object) -> None:
        request.ask(signal.Signals(signum).name, signum)

    here = threading.current_thread() is threading.main_thread()
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)] if here else []
    before = {signum: signal.getsignal(signum) for signum in signals}
    try:
        for signum in signals:
            if before[signum] is not signal.SIG_IGN:  # `nohup` stays in force
                signal.signal(signum, asked)
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def request_of(
    recipe: Recipe, *, gpus: int, records: Path | None, runs: Path, patience: float, **others: object
) -> dict:
    """What a process or a job is asked to do, as plain JSON values; `others` are added to it."""
    return {
        "recipe": recipe.settings(),
        "gpus": gpus,
        "runs": str(runs),
        "patience": patience,
        "records": str(record_path(recipe, records).parent.parent.resolve()),
        **others,
    }


class Worker:
    """The process of one run."""

    def __init__(
        self,
        recipe: Recipe,
        slot: int,
        gpus: int,
        threads: int,
        records: Path | None,
        runs: Path,
        events: queue.SimpleQueue,
    ) -> None:
        self.recipe, self.slot, self.began = recipe, slot, time.monotonic()
        self.last: dict | None = None
        self.log = run_folder(recipe, runs) / "log.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        with open(self.log, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "course_lib.experiments.launch.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone
            )
        request = request_of(recipe, gpus=gpus, records=records, runs=runs, patience=PATIENCE, slot=slot)
        with suppress(BrokenPipeError):  # it died at once: the end of its reports says so
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        threading.Thread(target=self.listen, args=(events,), daemon=True).start()

    def listen(self, events: queue.SimpleQueue) -> None:
        for line in self.process.stdout:
            with suppress(ValueError):  # killed in the middle of a line
                events.put((self, json.loads(line)))
        events.put((self, None))

    def ask_to_stop(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process and those that load pictures for it."""
        try:
            process = psutil.Process(self.process.pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()

    def outcome(self, told: bool) -> Outcome:
        """How it ended, after it has; `told` to stop or by itself."""
        code = self.process.wait()
        self.ask_to_stop()
        self.process.stdout.close()
        last = self.last
        if last is None:
            text = f"its process ended with code {code}"
            if code < 0:
                text = f"its process was killed ({signal.Signals(-code).name})"
                text += ": is there enough memory?" if code == -signal.SIGKILL and not told else ""
            words = self.last_words()
            text += f"; it said:\n{words}" if words and not told else ""
            last = {"status": "stopped" if told else "failed", "text": text}
        return Outcome(
            self.recipe, last["status"], last["text"], time.monotonic() - self.began, self.log, last.get("metrics")
        )

    def last_words(self, lines: int = 8) -> str:
        """The end of what this process printed."""
        with open(self.log, "rb") as log:
            log.seek(self.log_start)
            return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-lines:])


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
) -> list[Outcome]:
    """Complete every recipe, `jobs` at a time, in order; one that fails stops no other.

    gpus          of each run, where the machine has any
    time_limit    seconds; then, or when `stop` is asked, nothing new is begun and what runs stops at a
                  checkpoint. A second signal kills.
    records, runs other folders than `results/` and `runs/`
    watch         is told how it goes
    """
    watch, stop = watch or Watch(), stop or StopRequest()
    runs = Path(runs or runs_root()).resolve()
    deadline = None if time_limit is None else time.monotonic() + time_limit
    threads = max(1, cores() // jobs)
    waiting, free = deque(recipes), deque(range(jobs))
    running: list[Worker] = []
    outcomes: dict[int, Outcome] = {}  # by the recipe's id
    events: queue.SimpleQueue = queue.SimpleQueue()
    told = False

    def end(outcome: Outcome) -> None:
        outcomes[id(outcome.recipe)] = outcome
        watch.ended(outcome)

    try:
        while waiting or running:
            if deadline is not None and time.monotonic() >= deadline:
                stop.ask("the time limit")
            if stop.reason and not told:
                told = True
                watch.stopping(stop.reason)
                for worker in running:
                    worker.ask_to_stop()
                waiting.clear()
                continue
            if stop.hard or (told and time.monotonic() - stop.since > GRACE):
                for worker in running:
                    worker.kill()
            while waiting and free:
                recipe = waiting.popleft()
                try:
                    worker = Worker(recipe, free[0], gpus, threads, records, runs, events)
                except OSError as error:  # no room for its log, no process to be had
                    end(Outcome(recipe, "failed", f"it could not be started: {error}"))
                    continue
                free.popleft()
                running.append(worker)
                watch.started(recipe)
            try:
                worker, message = events.get(timeout=0.25)
            except queue.Empty:
                watch.tick()
                continue
            if message is None:
                running.remove(worker)
                free.appendleft(worker.slot)
                end(worker.outcome(told))
            elif "status" in message:
                worker.last = message
            else:
                watch.stepped(worker.recipe, message["step"], message["steps"], message["loss"])
    finally:
        for worker in running:  # only after an error of our own
            worker.kill()
    return [outcomes.get(id(recipe), Outcome(recipe, "waiting")) for recipe in recipes]
