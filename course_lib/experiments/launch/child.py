"""One run in a process of its own: `course reproduce` starts one of these for each.

The request: the recipe's settings, the folders of records and of runs, and which GPUs (or how many CPU
"processes"); several devices get a process each. Reports: {"step", "steps", "loss"} as it goes, and at the end
{"status", "text", ...} with the status "done", "busy", "stopped" or "failed".

When it is asked to stop, the current step ends and a checkpoint is written; a second signal ends it at once.
"""

import multiprocessing
import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.plumbing.processes import Report, serve

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Event

    from course_lib.plumbing.fabric import Fabric

SECONDS_BETWEEN_REPORTS = 0.2


def devices(slot: int, gpus: int) -> int | list[int]:
    """Return Fabric's `devices`: the GPUs of the run in place `slot`, or one CPU process where there are none.

    Raises:
        ValueError: Where fewer GPUs are here than asked for.
    """
    import torch

    here = torch.cuda.device_count()
    if gpus > max(here, 1):
        raise ValueError(f"--gpus {gpus}, but this machine has {here}")
    return [(slot * gpus + number) % here for number in range(gpus)] if here and gpus else 1


def reporter(report: Report, steps: int, pause: float) -> Callable[[int, float], None]:
    """Return the `on_step` of a training: it reports the step and the mean of the last ten losses, `pause` s apart."""
    losses: list[float] = []
    last = -1.0

    def on_step(step: int, loss: float) -> None:
        nonlocal last
        losses.append(loss)
        del losses[:-10]
        if time.monotonic() - last > pause or step == steps:
            last = time.monotonic()
            report({"step": step, "steps": steps, "loss": sum(losses) / len(losses)})

    return on_step


def execute(request: dict, stop: threading.Event, report: Report) -> dict:
    """Do what was asked; return the last report."""
    from course_lib.plumbing.devices import make_fabric, on_every_device

    places = devices(request["slot"], request["gpus"])
    options = {"devices": places} if request["gpus"] else {"accelerator": "cpu"}
    if places == 1:
        options["devices"] = request.get("processes", 1)
    fabric = make_fabric(request["recipe"].get("precision", "auto"), **options)
    if fabric.world_size == 1:
        return attempt(fabric, request, stop.is_set, report)
    context = multiprocessing.get_context("spawn")
    reports, shared_stop = context.SimpleQueue(), context.Event()
    failed: queue.SimpleQueue = queue.SimpleQueue()

    def pass_on() -> None:
        while True:
            message = reports.get()
            (failed.put if message.get("status") == "failed" else report)(message)

    def pass_stop_on() -> None:
        stop.wait()
        shared_stop.set()

    for function in (pass_on, pass_stop_on):
        threading.Thread(target=function, daemon=True).start()
    try:
        return on_every_device(fabric, attempt_in_process, request, reports, shared_stop)
    except Exception:
        with suppress(queue.Empty):  # the report of the process that brought the others down
            return failed.get(timeout=5)
        raise


def attempt(
    fabric: "Fabric",
    request: dict,
    should_stop: Callable[[], bool],
    report: Report,
    pause: float = SECONDS_BETWEEN_REPORTS,
) -> dict:
    """Complete the run on the devices of `fabric`, each of which calls this; return the last report."""
    from course_lib.experiments.building import Sitting
    from course_lib.experiments.recipes import recipe_from
    from course_lib.experiments.runs import complete
    from course_lib.plumbing.locks import Busy
    from course_lib.train import Interrupted

    recipe = recipe_from(request["recipe"])
    sitting = Sitting(
        fabric=fabric,
        runs=Path(request["runs"]),
        records=Path(request["records"]),
        patience=request["patience"],
        cores=request.get("cores", 0),
        own_process=True,
        show_progress=False,
        on_step=reporter(report, recipe.steps, pause) if fabric.is_global_zero else None,
        should_stop=should_stop,
    )
    try:
        record = complete(recipe, sitting)
    except Busy as busy:
        return {"status": "busy", "text": str(busy)}
    except Interrupted as interrupted:
        return {"status": "stopped", "text": str(interrupted), "step": interrupted.step}
    return {"status": "done", "text": "", "metrics": record.metrics, "seconds": record.seconds}


def attempt_in_process(fabric: "Fabric", request: dict, reports: "SimpleQueue", stop: "Event") -> dict:
    """Call `attempt` in one process of several; an error is reported before it ends them all."""
    try:
        return attempt(fabric, request, stop.is_set, reports.put)
    except Exception as error:
        reports.put({"status": "failed", "text": explain(error, request["runs"])})
        raise


def explain(error: Exception, runs: str) -> str:
    """Return the error in a line, and what to do about it where that is clear."""
    text = f"{type(error).__name__}: {error}"
    if "No space left on device" in text:  # the words of OSError and of safetensors
        return f"the disk is full ({text}): free space where {runs} is, then type the command again"
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory is full: fewer --jobs, or a smaller batch_size ({text.splitlines()[0]})"
    return text


def work(request: dict, stop: threading.Event, report: Report) -> dict:
    """Do what was asked; return the last report, whatever happens."""
    try:
        return execute(request, stop, report)
    except Exception as error:
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
        return {"status": "failed", "text": explain(error, request["runs"])}


if __name__ == "__main__":
    serve(work)
