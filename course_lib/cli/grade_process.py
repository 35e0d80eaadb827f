"""Grade one submission in a process of its own; `course grade` starts one of these for each.

The student's code runs in a kernel behind walls (`plumbing.walls`). Where it hangs, takes too much, floods its output
or ends the kernel, the exercise at fault gets that as its reason, and the others are run again without it. Values of
the hidden cases come back as JSON and are compared here, where the student's code is not.

Reports: {"process": PID} of each kernel, {"cells": N}, {"done": N}; at the end {"status": "ok", "exercises": [...],
"notes": [...]} or {"status": "failed", "reason": ..., "details": ...}.
"""

import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from nbformat import NotebookNode

from course_lib.cli.notebook_process import ANSI, IOPUB_TIMEOUT, START_TIMEOUT
from course_lib.plumbing.paths import ROOT
from course_lib.plumbing.processes import Report, kill_tree, serve
from course_lib.plumbing.walls import Limits, limited, walled

WORK = Path("/work-of-one-student")
"""Where the student's code finds its working folder, behind the walls."""
MAX_FILE = 20 * 2**20
"""Bytes that a submitted notebook may have."""
MAX_OUTPUT = 2 * 2**20
"""Characters that a kernel may print and show in all."""
MAX_PROCESSES = 64
SHOWN_OUTPUT = 2_000
WATCH_SECONDS = 0.3
STARTING = 60
"""Seconds beside three cells' time that a submission may take, kernels that start again included."""


@dataclass
class Graded:
    """How one exercise came out.

    `passed` has an entry a hidden case, `reason` is for the student to read, `by_a_person`: it has no hidden cases.
    """

    id: str
    points: int
    solved: bool = False
    passed: list[bool] = field(default_factory=list)
    reason: str = ""
    printed: str = ""
    source: str = ""
    by_a_person: bool = False


@dataclass(frozen=True)
class Stopped:
    """A kernel that came to no good end, in a cell of one exercise (or of none)."""

    reason: str
    cell: NotebookNode | None


class Watch(threading.Thread):
    """Kills a kernel that takes more memory, processes or disk than it may; `reason` says which."""

    def __init__(self, pid: int, folder: Path, memory: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder, self.memory, self.reason, self.over = pid, folder, memory, "", False

    def run(self) -> None:
        while not self.over:
            self.look()
            time.sleep(WATCH_SECONDS)

    def look(self) -> None:
        with suppress(psutil.Error, OSError):
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            if len(family) > MAX_PROCESSES:
                self.kill(f"it started more than {MAX_PROCESSES} processes")
            taken = 0
            for member in family:
                with suppress(psutil.Error):
                    taken += member.memory_info().rss
            if taken > self.memory * 2**20:
                self.kill(f"it took more than {self.memory / 1024:.1f} GB of memory")
            if sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(self.folder)) > MAX_FILE:
                self.kill("it filled the disk")

    def kill(self, reason: str) -> None:
        self.reason = self.reason or reason
        kill_tree(self.pid)


def kernel_environment(work: Path) -> dict[str, str]:
    """Return all that a student's code learns of the environment: no names, no keys."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "OMP_NUM_THREADS") if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    own = {"HOME": str(work), "IPYTHONDIR": str(work), "MPLCONFIGDIR": str(work), "JUPYTER_PLATFORM_DIRS": "1"}
    return kept | own | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "COURSE_GRADING": "1"}


def manager(job: dict, sockets: Path, report: Report, started: list[int]) -> type:
    """Return the class that starts a kernel behind walls, or, where the job says so, without."""
    from jupyter_client import AsyncKernelManager

    limits = Limits(memory=job["memory"], seconds=job["timeout"] * 4)
    work = WORK if job["walls"] else Path(job["folder"]) / "work"
    shown = [Path(sys.prefix), Path(sys.base_prefix), ROOT / "course_lib", ROOT / "results"]

    class Walled(AsyncKernelManager):
        def __init__(self, **options: object) -> None:
            super().__init__(transport="ipc", connection_file=str(sockets / "k.json"), **options)

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            command = super().format_kernel_cmd(extra_arguments)
            if job["walls"]:
                return walled(command, work=work, shared=[sockets], shown=shown, limits=limits)
            return limited(command, limits)

        async def start_kernel(self, **options: object) -> None:
            work_here = sockets if job["walls"] else work
            work_here.mkdir(exist_ok=True)
            await super().start_kernel(**options | {"env": kernel_environment(work), "cwd": str(work_here)})
            started.append(self.provisioner.pid)
            report({"process": self.provisioner.pid})

    return Walled


def execute(notebook: NotebookNode, job: dict, deadline: float, report: Report) -> Stopped | None:
    """Run a graded notebook in place; return where it stopped, if its kernel was ended or ended itself."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from course_lib.notebook_tools.kernels import patch_nbclient

    patch_nbclient()
    sockets = Path(job["folder"]) / "s"
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir()
    started: list[int] = []
    at, received, watch = [0], [0], [None]

    class Client(NotebookClient):
        def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
            received[0] += size_of(msg["content"])
            if received[0] > MAX_OUTPUT:
                watch[0].kill("it printed too much")
                return None
            return super().process_message(msg, cell, cell_index)

    def begin(cell: NotebookNode, cell_index: int) -> None:
        at[0] = cell_index
        if watch[0] is None:
            watch[0] = Watch(started[0], sockets, job["memory"])
            watch[0].start()
        report({"done": cell_index})

    left = max(1, int(deadline - time.monotonic()))
    client = Client(
        notebook,
        timeout=min(job["timeout"], left),
        startup_timeout=START_TIMEOUT,
        iopub_timeout=IOPUB_TIMEOUT,
        kernel_name="python3",
        kernel_manager_class=manager(job, sockets, report, started),
        coalesce_streams=True,
        record_timing=False,
        shutdown_kernel="immediate",
        on_cell_start=begin,
    )
    report({"cells": len(notebook.cells)})
    try:
        client.execute()
    except CellTimeoutError:
        return Stopped(f"it took longer than {min(job['timeout'], left)} s", notebook.cells[at[0]])
    except (DeadKernelError, RuntimeError):
        reason = (watch[0].reason if watch[0] else "") or "it ended the kernel"
        return Stopped(reason, notebook.cells[at[0]] if watch[0] else None)
    finally:
        if watch[0]:
            watch[0].over = True
        for pid in started:
            kill_tree(pid)
    return None


def size_of(content: object) -> int:
    """Return the length of a message's texts."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, dict):
        return sum(map(size_of, content.values())) + 20
    return sum(map(size_of, content)) + 20 if isinstance(content, list) else 8


def grade(job: dict, report: Report) -> dict:
    """Grade the submission of `job`; return the last report."""
    from course_lib.notebook_tools.cells import parse
    from course_lib.notebook_tools.exercises import exercises
    from course_lib.notebook_tools.graded import answers, graded_notebook
    from course_lib.notebook_tools.hidden import hidden_cases
    from course_lib.notebook_tools.stored_form import EXERCISE

    course = parse(Path(job["notebook"]).read_text(encoding="utf-8"))
    cases = hidden_cases(Path(job["notebook"]).name[:2], Path(job["hidden"]))
    submitted = read_submission(Path(job["submission"]))
    sources = answers(course, submitted)
    found = {one.id: Graded(one.id, one.points, source=sources[one.id][:20_000]) for one in exercises(course)}
    whole = graded_notebook(course, submitted, cases)
    deadline, notes = time.monotonic() + 3 * job["timeout"] + STARTING, []
    while True:
        stopped = execute(whole, job, deadline, report)
        about = stopped.cell.metadata[EXERCISE] if stopped and stopped.cell is not None else None
        if about is not None and about["kind"] != "lecture":
            drop(whole, stopped, about, found, notes)
            if time.monotonic() < deadline:
                continue
            notes.append("No time was left to run the other exercises again.")
        elif stopped:
            notes.append(f"The run stopped: {stopped.reason}.")
        collect(whole, cases, found)
        break
    return {"status": "ok", "exercises": [asdict(one) for one in found.values()], "notes": notes}


def drop(whole: NotebookNode, stopped: Stopped, about: dict, found: dict[str, Graded], notes: list[str]) -> None:
    """Take the cells of the exercise at fault, or the added cell, out of the notebook, and all outputs."""
    from course_lib.notebook_tools.stored_form import EXERCISE

    if about["kind"] == "added":
        notes.append(f"A cell that was added is left out: {stopped.reason}.")
        whole.cells = [cell for cell in whole.cells if cell is not stopped.cell]
    else:
        found[about["exercise"]].reason = stopped.reason
        whole.cells = [
            cell
            for cell in whole.cells
            if cell.metadata[EXERCISE]["kind"] == "lecture" or cell.metadata[EXERCISE]["exercise"] != about["exercise"]
        ]
    for cell in whole.cells:
        cell.outputs, cell.execution_count = [], None


def read_submission(path: Path) -> NotebookNode:
    """Return what a student handed in, as far as it is a notebook.

    Raises:
        ValueError: It is none, with a sentence for the student.
    """
    from course_lib.notebook_tools.cells import joined, parse

    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"the file has {path.stat().st_size / 2**20:.0f} MB: at most {MAX_FILE // 2**20}")
    try:
        notebook = parse(path.read_text(encoding="utf-8"))
        for cell in notebook.cells:
            cell.cell_type, cell.source = str(cell.cell_type), joined(cell.source)
            if not isinstance(cell.get("metadata", {}), dict):
                cell.metadata = NotebookNode()
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"it is no notebook that can be read ({type(error).__name__}: {str(error)[:100]})") from None
    return notebook


def collect(notebook: NotebookNode, cases: list, found: dict[str, Graded]) -> None:
    """Compare what the probes gave with what is wanted; keep what the answers printed, for the report alone."""
    from course_lib.notebook_tools.hidden import BY_A_PERSON
    from course_lib.notebook_tools.probe import MIME
    from course_lib.notebook_tools.stored_form import EXERCISE

    values: dict[str, dict] = {}
    for cell in notebook.cells:
        about = cell.metadata[EXERCISE]
        if about["kind"] == "answer":
            found[about["exercise"]].printed = printed(cell)[:SHOWN_OUTPUT]
        for output in cell.get("outputs", []) if about["kind"] == "probe" else []:
            shown = output.get("data", {}).get(MIME)
            if isinstance(shown, dict):
                values[about["call"]] = shown
    for one in found.values():
        of_it = [case for case in cases if case.of == one.id]
        if not of_it:
            one.by_a_person, one.reason = True, one.reason or BY_A_PERSON
            continue
        given = [values.get(case.call, {}) for case in of_it]
        one.passed = [
            "value" in value and case.passed(value["value"]) for case, value in zip(of_it, given, strict=True)
        ]
        one.solved = all(one.passed) and not one.reason
        if not one.solved and not one.reason:
            errors = [value["error"] for value in given if isinstance(value.get("error"), str)]
            missed = one.passed.count(False)
            one.reason = errors[0][:300] if errors else f"{missed} of {len(of_it)} hidden cases give another value"


def printed(cell: NotebookNode) -> str:
    """Return what a cell printed and the errors it raised, as text."""
    texts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            texts.append(output.text)
        elif output.output_type == "error":
            texts.append(f"{output.ename}: {output.evalue}\n")
        else:
            texts.append(str(output.data.get("text/plain", "")) + "\n")
    return ANSI.sub("", "".join(texts)).strip()


def abandon(job: dict) -> None:
    """Kill the kernel with all its descendants, and leave."""
    for _ in range(2):  # the second round catches a kernel that was being started during the first
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)
    shutil.rmtree(job["folder"], ignore_errors=True)
    os._exit(1)


def work(job: dict, _stop: threading.Event, report: Report) -> dict:
    """Grade the submission of `job`; return the last report, whatever happens."""
    try:
        return grade(job, report)
    except Exception as error:
        return {"status": "failed", "reason": type(error).__name__, "details": str(error)[:1000]}


if __name__ == "__main__":
    serve(work, abandon)
