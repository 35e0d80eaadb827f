"""Run one notebook in a process of its own; `course run` starts one of these for each notebook.

Reports: {"process": PID of the kernel} and {"cells": NUMBER}, then {"done": CELLS} as it goes, and at the end
{"status": "ok"} or {"status": "failed", "reason": ..., "details": ...}. Where it is asked to stop, the kernel and
the unfinished copy go too.
"""

import os
import re
import sys
import threading
import time
from pathlib import Path

from course_lib.plumbing.processes import Report, serve

ANSI = re.compile(r"\x1b\[[0-9;]*m")
START_TIMEOUT = 180
IOPUB_TIMEOUT = 60  # nbclient's 4 s are too few for large pictures on a busy machine
TRACEBACK_LINES = 16
SOURCE_LINES = 5
SOCKET_PATH_LENGTH = 90  # the system's limit is 104 to 108 bytes for the name of a socket


def abandon(job: dict) -> None:
    """Kill the kernel with all its descendants, remove what is unfinished, and leave."""
    import shutil

    import psutil

    for _ in range(2):  # the second round catches a kernel that was being started during the first
        for process in psutil.Process().children(recursive=True):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
    Path(job["partial"]).unlink(missing_ok=True)
    shutil.rmtree(job["sockets"], ignore_errors=True)
    os._exit(1)


def literal_path(path: str) -> str:
    """Papermill fills in {names} in paths; these are ordinary characters here."""
    return path.replace("{", "{{").replace("}", "}}")


def shorten(traceback: list[str]) -> str:
    """Return the last lines of a traceback, without colours."""
    lines = ANSI.sub("", "\n".join(traceback)).rstrip().splitlines()
    return "\n".join(["..."] * (len(lines) > TRACEBACK_LINES) + lines[-TRACEBACK_LINES:])


def note_failure(partial: Path, index: int, name: str, message: str) -> str:
    """Show in the copy where it stopped, as papermill does for exceptions only; return the cell's source."""
    import nbformat

    notebook = nbformat.read(partial, as_version=4)
    for cell in notebook.cells[index:]:
        cell.metadata.get("papermill", {})["status"] = "failed"
    cell = notebook.cells[index]
    if cell.cell_type == "code":
        cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message, traceback=[message]))
    nbformat.write(notebook, partial)
    return cell.source


def name_places(partial: Path, job: dict) -> None:
    """Put the names of the notebook and its executed copy into the copy, not this machine's folders."""
    import nbformat

    notebook = nbformat.read(partial, as_version=4)
    notebook.metadata.papermill["input_path"] = Path(job["notebook"]).name
    notebook.metadata.papermill["output_path"] = Path(job["output"]).name
    nbformat.write(notebook, partial)


def meant_to_fail(partial: Path) -> bool:
    """Whether the only failing cells are tagged `raises-exception`, which papermill takes for failures."""
    import nbformat
    from papermill.execute import remove_error_markers

    notebook = remove_error_markers(nbformat.read(partial, as_version=4))
    failing = [
        cell for cell in notebook.cells if any(output.output_type == "error" for output in cell.get("outputs", []))
    ]
    if not all("raises-exception" in cell.metadata.get("tags", []) for cell in failing):
        return False
    nbformat.write(notebook, partial)
    return True


def reporting_manager(job: dict, report: Report) -> type:
    """The class that starts the kernel, and says its process number.

    Kernel and notebook talk through sockets in a folder of their own: free TCP ports are looked for
    first and taken later, and of many kernels starting at once two may want the same.
    """
    from jupyter_client import AsyncKernelManager

    sockets = Path(job["sockets"])
    by_file = sys.platform != "win32" and len(str(sockets)) < SOCKET_PATH_LENGTH
    transport = {"transport": "ipc", "connection_file": str(sockets / "k.json")} if by_file else {}

    class ReportingManager(AsyncKernelManager):
        def __init__(self, **options: object) -> None:
            super().__init__(**transport, **options)

        async def start_kernel(self, **options: object) -> None:
            await super().start_kernel(**options)
            report({"process": self.provisioner.pid})

    return ReportingManager


def know_tuples() -> None:
    """Let papermill write a tuple as a tuple; by itself it writes a text."""
    from papermill.translators import PythonTranslator, papermill_translators

    class WithTuples(PythonTranslator):
        @classmethod
        def translate(cls, val: object) -> str:
            if isinstance(val, tuple):
                return f"({''.join(f'{cls.translate(item)}, ' for item in val).strip()})"
            return super().translate(val)

    papermill_translators.register("python", WithTuples)


def execute(job: dict, report: Report) -> dict:
    """Run the notebook of `job`; return the last report."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from course_lib.cli.selection import declared_parameters, like
    from course_lib.notebook_tools.kernels import patch_nbclient

    patch_nbclient()
    know_tuples()
    declared = declared_parameters(Path(job["notebook"]))
    parameters = {name: like(value, declared.get(name)) for name, value in job["parameters"].items()}
    partial, cells_done = Path(job["partial"]), 0

    def on_cell_start(cell: dict, cell_index: int) -> None:
        nonlocal cells_done
        cells_done = cell_index
        report({"done": cell_index})

    try:
        papermill.execute_notebook(
            literal_path(job["notebook"]),
            literal_path(job["partial"]),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(Path(job["notebook"]).parent),
            start_timeout=START_TIMEOUT,
            execution_timeout=job["timeout"],
            iopub_timeout=IOPUB_TIMEOUT,
            coalesce_streams=True,  # one progress line instead of its every state
            kernel_manager_class=reporting_manager(job, report),
            on_notebook_start=lambda notebook: report({"cells": len(notebook.cells)}),
            on_cell_start=on_cell_start,
        )
    except PapermillExecutionError as error:
        if not meant_to_fail(partial):
            name_places(partial, job)
            reason = f"{error.ename} in cell [{error.exec_count}]"
            return {"status": "failed", "reason": reason, "details": shorten(error.traceback)}
    except (CellTimeoutError, DeadKernelError) as error:
        timed_out = isinstance(error, CellTimeoutError)
        reason = f"a cell took longer than {job['timeout']} s" if timed_out else "the kernel died"
        source = note_failure(partial, cells_done, type(error).__name__, reason)
        name_places(partial, job)
        details = "\n".join(["in the cell", *source.splitlines()[:SOURCE_LINES]])
        return {"status": "failed", "reason": reason, "details": details}
    name_places(partial, job)
    return {"status": "ok"}


def work(job: dict, _stop: threading.Event, report: Report) -> dict:
    """Run the notebook of `job`; return the last report, whatever happens."""
    try:
        return execute(job, report)
    except Exception as error:
        return {"status": "failed", "reason": type(error).__name__, "details": str(error)}


if __name__ == "__main__":
    serve(work, abandon)
