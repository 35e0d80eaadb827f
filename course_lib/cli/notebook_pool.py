"""Several notebooks at once, each in a process of its own that nothing outlives.

A notebook's process keeps its kernel as a child and a pipe to us (see `run_one`). It runs in a session
of its own, so that Ctrl-C reaches us alone and we end it in order.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from course_lib.cli import stamps
from course_lib.plumbing.paths import ROOT

STARTING_SECONDS = 300  # on top of the cell's own limit, before a silent process counts as stuck
ENDING_SECONDS = 5
STDERR_LINES = 8


@dataclass(frozen=True)
class Job:
    """One notebook to run: `name` is what the user sees, `timeout` is in seconds for each cell.

    `environment` is added to that of all.
    """

    name: str
    notebook: Path
    output: Path
    parameters: dict[str, object]
    timeout: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        return self.output.with_name(f".{self.output.stem}.{os.getpid()}.partial.ipynb")

    @property
    def failed(self) -> Path:
        """Where the copy of a run that failed goes: as far as it came."""
        return self.output.with_name(f"{self.output.stem}.failed.ipynb")


@dataclass(frozen=True)
class Result:
    """How a job ended: "ok", "failed", "skipped" (was up to date) or "stopped" (by the user)."""

    job: Job
    status: str
    seconds: float = 0.0
    reason: str = ""
    details: str = ""

    @property
    def copy(self) -> Path | None:
        path = self.job.failed if self.status == "failed" else self.job.output
        return path if self.status != "stopped" and path.exists() else None


@dataclass
class Progress:
    """What is known about a running notebook; `cells` is 0 until its kernel is up."""

    job: Job
    done: int = 0
    cells: int = 0


class Stopped(KeyboardInterrupt):
    """The user or the system asked us to stop."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Stopped` for the block (in the main thread)."""

    def stop(signum: int, _frame: object) -> None:
        for other in previous:
            signal.signal(other, signal.SIG_IGN)  # the clean-up is not to be interrupted
        raise Stopped(signum)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    here = threading.current_thread() is threading.main_thread()
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)] if here else []
    previous = {signum: signal.getsignal(signum) for signum in signals}
    try:
        for signum in signals:
            if previous[signum] is not signal.SIG_IGN:  # `nohup` stays in force
                signal.signal(signum, stop)
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, in whatever sessions they are."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


@dataclass(eq=False)
class Worker:
    """The running process of one job."""

    job: Job
    environment: dict[str, str]
    events: queue.SimpleQueue
    heard: float = field(default_factory=time.monotonic)
    kernel: psutil.Process | None = None
    last: dict | None = None

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.progress = Progress(self.job)
        self.origin = stamps.made_from(self.job.notebook, self.job.parameters)
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self.sockets = tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.cli.notebook_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            cwd=ROOT,
            env=self.environment | self.job.environment,
            start_new_session=True,
        )
        request = {
            "notebook": str(self.job.notebook),
            "partial": str(self.job.partial),
            "output": str(self.job.output),
            "parameters": self.job.parameters,
            "timeout": self.job.timeout,
            "sockets": self.sockets.name,
        }
        with suppress(BrokenPipeError):  # it died at once: the end of its reports says so
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        for line in self.process.stdout:
            try:
                self.events.put((self, json.loads(line)))
            except ValueError:  # killed in the middle of a line
                break
        self.events.put((self, None))

    def hear(self, message: dict) -> None:
        self.heard = time.monotonic()
        if "kernel" in message:
            try:
                self.kernel = psutil.Process(message["kernel"])
            except psutil.NoSuchProcess:
                self.kernel = None
        self.progress.cells = message.get("cells", self.progress.cells)
        self.progress.done = message.get("done", self.progress.done)
        if "status" in message:
            self.last = message

    def stuck(self) -> bool:
        return time.monotonic() - self.heard > self.job.timeout + STARTING_SECONDS

    def kill(self) -> None:
        if self.process.poll() is None:
            kill_tree(self.process.pid)
        if self.kernel is not None and self.kernel.is_running():  # false for another process of this id
            kill_tree(self.kernel.pid)

    def close(self) -> None:
        """Let go of the process's pipes and sockets, after it has ended."""
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.stderr.close()
        self.sockets.cleanup()

    def last_words(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-STDERR_LINES:])

    def finish(self) -> Result:
        """Put the executed copy in its place, after the process has ended; say how it went."""
        self.process.wait()
        self.kill()  # a kernel whose process was killed
        seconds = time.monotonic() - self.started
        message = self.last or {
            "status": "failed",
            "reason": "its process was killed" if self.process.returncode < 0 else "its process ended",
            "details": self.last_words(),
        }
        self.close()
        job = self.job
        if message["status"] != "ok":
            if readable(job.partial):
                os.replace(job.partial, job.failed)
            job.partial.unlink(missing_ok=True)
            return Result(job, "failed", seconds, message["reason"], message["details"])
        os.replace(job.partial, job.output)
        job.failed.unlink(missing_ok=True)
        if stamps.made_from(job.notebook, job.parameters) != self.origin:
            return Result(job, "ok", seconds, "edited while it ran: --resume will run it again")
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        stamps.write_stamp(job.output, self.origin, finished, seconds)
        return Result(job, "ok", seconds)


def readable(notebook: Path) -> bool:
    """Whether a copy is whole: a process killed while it wrote leaves half a file."""
    try:
        json.loads(notebook.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def stop_all(workers: Sequence[Worker]) -> list[Result]:
    """End processes, their kernels and their unfinished copies, by force where a word is not enough."""
    for worker in workers:
        with suppress(BrokenPipeError):
            worker.process.stdin.close()
    deadline = time.monotonic() + ENDING_SECONDS
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        worker.kill()
        worker.close()
        worker.job.partial.unlink(missing_ok=True)
    return [Result(worker.job, "stopped", time.monotonic() - worker.started) for worker in workers]


def sweep(job: Job) -> None:
    """Remove unfinished copies whose `course run` no longer exists (the machine went down)."""
    for path in job.output.parent.glob(".*.partial.ipynb"):
        name, _, owner = path.name.removesuffix(".partial.ipynb").rpartition(".")
        mine = name == f".{job.output.stem}" and owner.isdecimal()
        if mine and not psutil.pid_exists(int(owner)):
            path.unlink(missing_ok=True)


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    environment: dict[str, str],
    on_progress: Callable[[Progress], None],
    on_result: Callable[[Result], None],
) -> None:
    """Run the jobs, `parallel` at a time, in order; every job gets exactly one `on_result`.

    On `Stopped` all that runs is ended and reported as "stopped", with what had not begun; then it goes on.
    """
    waiting = list(jobs)
    running: list[Worker] = []
    events: queue.SimpleQueue = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting[0]
                job.output.parent.mkdir(parents=True, exist_ok=True)
                sweep(job)
                stamps.stamp_path(job.output).unlink(missing_ok=True)
                running.append(Worker(job, environment, events))
                waiting.pop(0)
                on_progress(running[-1].progress)
            try:
                worker, message = events.get(timeout=1.0)
            except queue.Empty:
                for worker in running:
                    if worker.stuck():
                        worker.last = {"status": "failed", "reason": "stuck: no sign of life", "details": ""}
                        worker.kill()
                continue
            if message is not None:
                worker.hear(message)
                on_progress(worker.progress)
                continue
            result = worker.finish()
            running.remove(worker)
            on_result(result)
    except BaseException:
        for result in stop_all(running):
            on_result(result)
        for job in waiting:
            on_result(Result(job, "stopped"))
        raise
