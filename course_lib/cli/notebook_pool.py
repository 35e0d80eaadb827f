"""Several notebooks at once, each in a process of its own (`notebook_process`) that nothing outlives."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from course_lib.cli import stamps
from course_lib.plumbing.processes import Child, Pool, StopRequest

STARTING_SECONDS = 300  # on top of the cell's own limit, before a silent process counts as stuck


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


class NotebookChild(Child):
    """The process of one notebook, with a folder for the sockets of its kernel and for what it prints."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.progress = Progress(job)
        self.origin = stamps.made_from(job.notebook, job.parameters)
        self.folder = tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True)
        request = {
            "notebook": str(job.notebook),
            "partial": str(job.partial),
            "output": str(job.output),
            "parameters": job.parameters,
            "timeout": job.timeout,
            "sockets": self.folder.name,
        }
        log, patience = Path(self.folder.name) / "log", job.timeout + STARTING_SECONDS
        everything = environment | job.environment
        super().__init__("course_lib.cli.notebook_process", request, log, everything, patience)

    def note(self, message: dict) -> None:
        super().note(message)
        self.progress.cells = message.get("cells", self.progress.cells)
        self.progress.done = message.get("done", self.progress.done)


class NotebookPool(Pool[Job]):
    """Executes notebooks; `on_result` gets one result for each job that was begun."""

    def __init__(
        self, environment: dict[str, str], on_progress: Callable[[Progress], None], on_result: Callable[[Result], None]
    ) -> None:
        self.environment, self.on_progress, self.on_result = environment, on_progress, on_result

    def start(self, job: Job, slot: int) -> NotebookChild:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        sweep(job)
        stamps.stamp_path(job.output).unlink(missing_ok=True)
        return NotebookChild(job, self.environment)

    def started(self, job: Job, child: NotebookChild) -> None:
        self.on_progress(child.progress)

    def heard(self, job: Job, child: NotebookChild, message: dict) -> None:
        self.on_progress(child.progress)

    def ended(self, job: Job, child: NotebookChild | None, error: OSError | None, told: bool) -> None:
        if child is None:
            self.on_result(Result(job, "failed", 0.0, f"it could not be started: {error}"))
            return
        result = Result(job, "stopped", child.seconds) if told else finish(job, child)
        job.partial.unlink(missing_ok=True)
        child.folder.cleanup()
        self.on_result(result)


def finish(job: Job, child: NotebookChild) -> Result:
    """Put the executed copy in its place, after the process has ended, and return how it went."""
    message = child.last or {
        "status": "failed",
        "reason": "its process was killed" if child.process.returncode < 0 else "its process ended",
        "details": child.last_words(),
    }
    if message["status"] == "stuck":
        message = {"status": "failed", "reason": "stuck: no sign of life", "details": ""}
    if message["status"] != "ok":
        if readable(job.partial):
            os.replace(job.partial, job.failed)
        return Result(job, "failed", child.seconds, message["reason"], message["details"])
    os.replace(job.partial, job.output)
    job.failed.unlink(missing_ok=True)
    if stamps.made_from(job.notebook, job.parameters) != child.origin:
        return Result(job, "ok", child.seconds, "edited while it ran: --resume will run it again")
    stamps.write_stamp(job.output, child.origin, datetime.now(UTC).isoformat(timespec="seconds"), child.seconds)
    return Result(job, "ok", child.seconds)


def readable(notebook: Path) -> bool:
    """Whether a copy is whole: a process killed while it wrote leaves half a file."""
    try:
        json.loads(notebook.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


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
    stop: StopRequest | None = None,
) -> None:
    """Run the jobs, `parallel` at a time, in order; every job gets exactly one `on_result`.

    When `stop` is asked, what runs is ended, and it is reported as "stopped" like what had not begun.
    """
    pool = NotebookPool(environment, on_progress, on_result)
    for job in pool.run(jobs, slots=parallel, stop=stop or StopRequest()):
        on_result(Result(job, "stopped"))
