"""A run in a Slurm job: what `slurm.submit` hands to the cluster.

Reports are lines of JSON in a file beside the run's checkpoint. Slurm's warning before a job's time is over
(SIGUSR2) lets the step end, writes a checkpoint and puts the job back into the queue; after SIGTERM (preemption,
`scancel`) the checkpoint is written and Slurm decides. A job that is begun again goes on from its last checkpoint.
"""

import json
import os
import signal
import subprocess
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.experiments.launch import child
from course_lib.experiments.recipes import recipe_from
from course_lib.experiments.records import run_folder

if TYPE_CHECKING:
    from course_lib.plumbing.fabric import Fabric

LAST_WORDS = 600.0
"""Seconds a job that was asked to end waits for Slurm to end it."""
SECONDS_BETWEEN_REPORTS = 2.0


@dataclass
class Asked:
    """Requests by Slurm's signals: to `stop` at a checkpoint, and to be queued again."""

    stop: bool = False
    requeue: bool = False

    def by_signal(self, signum: int, _frame: object) -> None:
        """Take note of a signal."""
        self.stop = True
        self.requeue = self.requeue or signum == signal.SIGUSR2


def run_job(request: dict) -> None:
    """Run `child.attempt` in a Slurm job: reports go to a file; SIGTERM and SIGUSR2 stop at the next checkpoint."""
    asked = Asked()
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, asked.by_signal)
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    try:
        from course_lib.plumbing.devices import on_every_device

        last = on_every_device(fabric_of_job(request), attempt, request, asked)
    except Exception as error:
        traceback.print_exc()
        report(request, {"status": "failed", "text": child.explain(error, request["runs"])})
        raise
    if last["status"] != "stopped":
        if first:
            report(request, last)
    elif asked.requeue:
        if first:  # the others end with the job
            subprocess.run(["scontrol", "requeue", job_id()], check=True)
    else:
        time.sleep(LAST_WORDS)


def attempt(fabric: "Fabric", request: dict, asked: Asked) -> dict:
    """Complete the run on the devices of `fabric`, each of which calls this; return the last report."""
    return child.attempt(fabric, request, lambda: asked.stop, partial(report, request), SECONDS_BETWEEN_REPORTS)


def fabric_of_job(request: dict) -> "Fabric":
    """Return the devices that Slurm gave: a process on each GPU, or as many CPU processes as the job has tasks.

    Raises:
        ValueError: Where the job has fewer GPUs than asked for.
    """
    import torch

    from course_lib.plumbing.devices import make_fabric
    from course_lib.plumbing.fabric import SLURMEnvironment

    here = torch.cuda.device_count()
    if request["gpus"] > here:
        raise ValueError(
            f"--gpus {request['gpus']}, but the job sees {here} on {os.uname().nodename}: "
            "see what the partition offers (sinfo -o '%P %G'), or ask for none with --gpus 0"
        )
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    return make_fabric(
        request["recipe"].get("precision", "auto"),
        accelerator="cuda" if request["gpus"] else "cpu",
        devices=tasks // nodes,
        num_nodes=nodes,
        environment=SLURMEnvironment() if tasks > 1 else None,
    )


def job_id() -> str:
    """Return the job that this process belongs to, as `squeue` names it."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def report(request: dict, message: dict) -> None:
    """Add a line to the job's reports. The file is closed each time: other machines see it then."""
    folder = run_folder(recipe_from(request["recipe"]), Path(request["runs"]))
    with open(reports_path(folder, job_id()), "a", encoding="utf-8") as file:
        file.write(json.dumps(message) + "\n")


def reports_path(folder: Path, job: str) -> Path:
    """Return the file of a job's reports in the folder of its run."""
    return folder / f"slurm-{job}.jsonl"
