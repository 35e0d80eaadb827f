"""Many runs on a Slurm cluster, each a job of one array; `submit` is `local.run_all` with other machines.

The jobs go on when whoever submitted them leaves; the same command finds them again. They report through files
(`slurm_job`), so the folder of the runs must be on a disk that all machines share.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from course_lib.experiments.launch.local import Outcome, Watch, request_of
from course_lib.experiments.launch.slurm_job import reports_path, run_job
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import find_record, run_folder
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import runs_root
from course_lib.plumbing.processes import StopRequest

WARNING = 90
"""Seconds before the end of a job's time at which Slurm sends it SIGUSR2."""
PATIENCE = 60.0
"""Seconds a job waits for a process at the same run: the one that it goes on from may still be ending."""
SECONDS_BETWEEN_LOOKS = 10.0
ALIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "REQUEUED",
    "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "RESV_DEL_HOLD",
}  # fmt: skip
"""States of a job that may still run: `squeue`'s names."""
NAME = "course-"
"""How the names of our jobs begin; the table follows, or "tables" for several."""
OWN_GPUS = {"gres", "gpus", "gpus-per-node", "gpus-per-task"}
"""Options of sbatch that replace our own wish for GPUs."""


class ClusterError(RuntimeError):
    """Slurm cannot be asked, or refuses. The message holds what to do."""


@dataclass
class Job:
    """A submitted run. `position` is how much of its report file has been read."""

    recipe: Recipe
    id: str
    folder: Path
    log: Path
    began: float | None = None
    position: int = 0
    last: dict | None = None
    missed: int = 0

    def messages(self) -> list[dict]:
        """Return the reports since the last call."""
        try:
            with open(reports_path(self.folder, self.id), "rb") as file:
                file.seek(self.position)
                text = file.read()
        except OSError:
            return []
        complete = text[: text.rfind(b"\n") + 1]
        self.position += len(complete)
        messages = []
        for line in complete.splitlines():
            with suppress(ValueError):  # killed in the middle of a line, which the next one went on with
                messages.append(json.loads(line))
        return messages

    def remember(self) -> None:
        """Keep the job's id, for `submitted_before`."""
        write_text(self.folder / "slurm.json", json.dumps({"job": self.id, "log": str(self.log)}))

    def outcome(self, status: str, text: str = "", metrics: dict | None = None) -> Outcome:
        """Return the outcome of the run, with the seconds since its first report."""
        seconds = 0.0 if self.began is None else time.monotonic() - self.began
        return Outcome(self.recipe, status, text, seconds, self.log, metrics)

    def last_words(self, lines: int = 8) -> str:
        """Return the end of what its first process printed."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])
        return ""


def submitted_before(recipe: Recipe, folder: Path, states: dict[str, tuple[str, str]]) -> Job | None:
    """Return the job that an earlier command submitted for this run, where it is still in Slurm's queue."""
    try:
        said = json.loads((folder / "slurm.json").read_text(encoding="utf-8"))
        job = Job(recipe, said["job"], folder, Path(said["log"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    state, name = states.get(job.id, ("", ""))
    return job if state in ALIVE and name.startswith(NAME) else None


def queue() -> dict[str, tuple[str, str]] | None:
    """Return {job: (state, name)} of this user's jobs, ended ones included; None where Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%j"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    lines = (line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
    return {job: (state, name) for job, state, name in lines}


def sbatch_options(gpus: int, time_limit: float | None, slurm: Sequence[str]) -> dict[str, object]:
    """Return the options of sbatch for one run: ours, and over them the user's KEY=VALUE.

    Raises:
        ClusterError: For one that is not of this form.
    """
    options: dict[str, object] = {"requeue": True, "ntasks-per-node": max(gpus, 1)}
    if time_limit is not None:
        options["time"] = max(1, round(time_limit / 60))
    for entry in slurm:
        key, equals, value = entry.partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if not key or not equals:
            raise ClusterError(f'--slurm "{entry}": write KEY=VALUE, as in --slurm partition=gpu')
        options[key] = value.strip()
    if gpus:
        options.setdefault("cpus-per-task", 4)  # that load images
        if not OWN_GPUS & options.keys():
            options["gpus-per-node"] = gpus
    return options


@contextmanager
def without_job() -> Iterator[None]:
    """Hide the settings of a job that this process runs in: sbatch would hand them to the new ones."""
    ours = ("SLURM_", "SRUN_") + (("SBATCH_",) if "SLURM_JOB_ID" in os.environ else ())
    hidden = {name: value for name, value in os.environ.items() if name.startswith(ours) and name != "SLURM_CONF"}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def submit_array(
    recipes: Sequence[Recipe], requests: Sequence[dict], runs: Path, jobs: int, options: dict[str, object]
) -> list[Job]:
    """Submit the runs as one array of which `jobs` run at once.

    Raises:
        ClusterError: Where sbatch refuses.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    tables = {recipe.table for recipe in recipes}
    about = recipes[0].table if len(tables) == 1 else "tables"
    folder = runs / about / "slurm"
    executor = submitit.SlurmExecutor(folder)
    # a job ends when one of its processes fails; srun does not ask sbatch for the CPUs of a task
    srun = ["--kill-on-bad-exit=1"]
    srun += [f"--cpus-per-task={options[key]}" for key in ["cpus-per-task"] if key in options]
    executor.update_parameters(
        job_name=f"{NAME}{about}",
        time=None,
        signal_delay_s=WARNING,
        stderr_to_stdout=True,
        array_parallelism=jobs,
        srun_args=srun,
        additional_parameters=options,
    )
    try:
        with without_job():
            handed = executor.map_array(run_job, requests)
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
        text = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ClusterError(f"sbatch refused: {text[0]}") from None
    made = [
        Job(recipe, job.job_id, run_folder(recipe, runs), Path(job.paths.stdout))
        for recipe, job in zip(recipes, handed, strict=True)
    ]
    for job in made:
        job.remember()
    return made


def submit(
    recipes: Sequence[Recipe],
    *,
    jobs: int = 1,
    gpus: int = 1,
    time_limit: float | None = None,
    records: Path | None = None,
    runs: Path | None = None,
    watch: Watch | None = None,
    stop: StopRequest | None = None,
    slurm: Sequence[str] = (),
) -> list[Outcome]:
    """Complete every recipe on the cluster, `jobs` at a time; one that fails stops no other.

    Jobs that an earlier call left in the queue are followed, not submitted again.

    Args:
        gpus: Of each run on each of its machines, a process each; 0 takes CPUs.
        time_limit: Seconds of a job before Slurm stops it at a checkpoint and puts it back into the queue.
        records: Other folder than `results/`; `runs` than `runs/`.
        watch: Callbacks for progress.
        stop: Ends the following; the jobs go on. Their outcome is "busy", or "waiting" in the queue.
        slurm: More options of sbatch, KEY=VALUE.

    Raises:
        ClusterError: Where Slurm or submitit is not here, or sbatch refuses.
    """
    watch, stop = watch or Watch(), stop or StopRequest()
    runs = Path(runs or runs_root()).resolve()
    options = sbatch_options(gpus, time_limit, slurm)
    require_slurm()
    states = queue()
    if states is None:
        raise ClusterError("squeue does not answer: is Slurm's controller up (scontrol ping)?")
    followed = [submitted_before(recipe, run_folder(recipe, runs), states) for recipe in recipes]
    new = [recipe for recipe, job in zip(recipes, followed, strict=True) if job is None]
    requests = [request_of(recipe, gpus=gpus, records=records, runs=runs, patience=PATIENCE) for recipe in new]
    for recipe in new:
        run_folder(recipe, runs).mkdir(parents=True, exist_ok=True)
    if new:
        handed = iter(submit_array(new, requests, runs, jobs, options))
        followed = [job or next(handed) for job in followed]
    arrays = ",".join(sorted({job.id.split("_")[0] for job in followed}, key=int))
    watch.say(
        f"Slurm has them as job {arrays}, {len(new)} of them new: squeue --jobs={arrays} shows them, "
        f"scancel {arrays} ends them"
    )
    return follow(followed, records, watch, stop)


def require_slurm() -> None:
    """Raise ClusterError where Slurm's commands or submitit are missing."""
    missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
    if missing:
        raise ClusterError(
            f"{' and '.join(missing)} is not on the PATH: type the command where jobs are submitted (the "
            "cluster's login node, perhaps after `module load slurm`), or use --on local"
        )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ClusterError('submitit is missing: uv pip install -e ".[cluster]"') from None


def follow(followed: Sequence[Job], records: Path | None, watch: Watch, stop: StopRequest) -> list[Outcome]:
    """Pass the jobs' reports on to `watch` until all have ended or `stop` is asked; return an outcome for each."""
    outcomes: dict[str, Outcome] = {}  # by the job's id
    states: dict[str, tuple[str, str]] = {}
    looked = 0.0

    def end(job: Job, outcome: Outcome) -> None:
        outcomes[job.id] = outcome
        watch.ended(outcome)

    def hear(job: Job) -> None:
        for message in job.messages():
            if job.began is None:
                job.began = time.monotonic()
                watch.started(job.recipe)
            if "status" in message:
                job.last = message
            else:
                watch.stepped(job.recipe, message["step"], message["steps"], message["loss"])

    while True:
        left = [job for job in followed if job.id not in outcomes]
        if not left or stop.reason:
            break
        new_states = None
        if time.monotonic() - looked >= SECONDS_BETWEEN_LOOKS or not looked:
            looked, new_states = time.monotonic(), queue()
            states = states if new_states is None else new_states
        for job in left:
            hear(job)
            if job.last is not None:
                end(job, job.outcome(job.last["status"], job.last["text"], job.last.get("metrics")))
            elif new_states is not None:
                state = new_states.get(job.id, ("gone from its queue",))[0]
                job.missed = 0 if state in ALIVE else job.missed + 1
                if job.missed > 1:  # its last report had the time to arrive
                    end(job, unreported(job, state, records))
        watch.tick()
        time.sleep(0.25)
    if stop.reason:
        watch.stopping(stop.reason)
    for job in followed:
        if job.id not in outcomes:
            waits = job.began is None and states.get(job.id, ("PENDING",))[0] == "PENDING"
            end(job, job.outcome("waiting" if waits else "busy", f"as Slurm's job {job.id}"))
    return [outcomes[job.id] for job in followed]


def unreported(job: Job, state: str, records: Path | None) -> Outcome:
    """Return the outcome of a job that vanished from the queue without a last report."""
    with suppress(Exception):  # a record that cannot be trusted is no success
        record = find_record(job.recipe, records)
        if record is not None:
            return job.outcome("done", "", record.metrics)
    words = job.last_words()
    text = f"Slurm ended its job {job.id} ({state}); the same command goes on from its last checkpoint"
    return job.outcome("failed", text + (f"; it said:\n{words}" if words else ""))
