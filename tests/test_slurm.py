"""Runs on a Slurm cluster: a real one, controller and node daemon on this machine, made for these tests."""

import getpass
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from training_helpers import street_recipe
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.experiments import records, table
from course_lib.experiments.building import Sitting
from course_lib.experiments.launch import slurm as cluster
from course_lib.experiments.launch.local import Watch
from course_lib.experiments.launch.slurm import ClusterError, submit
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import Record, read_record, record_path, run_folder
from course_lib.experiments.runs import complete
from course_lib.experiments.table import resolve
from course_lib.plumbing.processes import StopRequest

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGURATION = """
ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
KillWait=2
RequeueExit=137
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES DefaultTime=30 MaxTime=INFINITE State=UP
"""
"""RequeueExit: a job whose process is killed with signal 9 is queued again."""

RECIPE = street_recipe(
    steps=150,
    batch_size=2,
    precision="32-true",
    checkpoint_every=10,
    dataset_options={"train_length": 6, "val_length": 3},
    model_options={"width": 4, "fc_channels": 8, "norm": True, "padding": "same"},
)
SHORT = replace(RECIPE, row="short", steps=4, checkpoint_every=2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of one node with one partition, `test`."""
    needed = ("slurmctld", "slurmd", "sbatch")
    path = os.pathsep.join([os.environ["PATH"], os.path.join(os.sep, "usr", "sbin")])  # where daemons lie, and few look
    missing = [name for name in needed if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {' or '.join(missing)} here: apt-get install slurm-wlm")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    controller_port, node_port = free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("PATH", path)
        daemons = []
        try:
            for name in ("slurmctld", "slurmd"):
                with open(folder / f"{name}.log", "wb") as log:
                    daemons.append(subprocess.Popen([name, "-D"], stdout=log, stderr=log))
            wait_for_node(folder)
            yield folder
        finally:
            subprocess.run(["scancel", "--me"], check=False, capture_output=True)
            for _ in range(20):  # a daemon waits for its jobs
                if not any(state in cluster.ALIVE for state, _ in (cluster.queue() or {}).values()):
                    break
                time.sleep(0.5)
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def wait_for_node(folder: Path) -> None:
    """Until the node takes jobs. Where it never does: a failure in the tests' own job, else a reason to skip."""
    for _ in range(60):
        done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join((folder / f"{name}.log").read_text()[-500:] for name in ("slurmctld", "slurmd"))
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"Slurm does not start here: {logs}")


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_BETWEEN_LOOKS", 0.5)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Runs and results in temporary folders; one thread in the jobs, as here."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    return tmp_path


class Told(Watch):
    """Remembers what it is told; `act` is called often while jobs are followed."""

    def __init__(self, act=lambda watch: None):
        self.said, self.events, self.act = [], [], act

    def say(self, text):
        self.said.append(text)

    def started(self, recipe):
        self.events.append(("started", recipe.title()))

    def stepped(self, recipe, step, steps, loss):
        self.events.append(("step", recipe.title(), step))

    def ended(self, outcome):
        self.events.append((outcome.status, outcome.recipe.title()))

    def stopping(self, reason):
        self.events.append(("stopping", reason))

    def tick(self):
        self.act(self)


def measured(record: Record) -> dict:
    return {
        "metrics": record.metrics,
        "per_class": record.per_class,
        "losses": record.losses,
        "data": record.data,
        "recipe": record.recipe,
        "parameters": record.parameters,
    }


def on_this_machine(recipe: Recipe, home: Path) -> dict:
    here = home / "here"
    return measured(complete(recipe, Sitting(records=here, runs=here / "runs", show_progress=False)))


def restarts(job: str) -> int:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True)
    return int(shown.stdout.split("Restarts=")[1].split()[0])


def job_of(recipe: Recipe) -> str:
    return json.loads((run_folder(recipe) / "slurm.json").read_text())["job"]


def process_of(job: str) -> psutil.Process:
    array, _, task = job.partition("_")
    for process in psutil.process_iter():
        try:
            environment, command = process.environ(), process.cmdline()
        except psutil.Error:
            continue
        here = [environment.get(name) for name in ("SLURM_CONF", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
        submitted = "submitit.core._submit" in command and "python" in command[0]
        if submitted and here == [os.environ["SLURM_CONF"], array, task]:
            return process
    raise AssertionError(f"job {job} has no process")


# -- on a real Slurm --------------------------------------------------------------------------------


def test_six_runs_of_which_one_is_killed_and_one_runs_out_of_time(slurm, home, quick_looks, full):
    """Both are queued again, go on from their checkpoints, and their records are what one machine makes."""
    recipes = [replace(RECIPE, seed=seed, steps=400 if seed < 2 else 60) for seed in range(6)]
    disturbed = {}

    def disturb(watch):
        begin_at_once(disturbed.values())
        for recipe, how in zip(recipes, ("killed", "warned"), strict=False):
            if how in disturbed or not (run_folder(recipe) / "checkpoint.safetensors").exists():
                continue
            assert not record_path(recipe).exists()
            disturbed[how] = job_of(recipe)
            # the second is what Slurm sends when a job's time is nearly over
            signum = signal.SIGKILL if how == "killed" else signal.SIGUSR2
            process_of(disturbed[how]).send_signal(signum)

    watch = Told(disturb)
    outcomes = submit(recipes, jobs=2, gpus=0, watch=watch)
    assert [outcome.status for outcome in outcomes] == ["done"] * 6, outcomes
    assert [restarts(job_of(recipe)) for recipe in recipes] == [1, 1, 0, 0, 0, 0]
    for recipe, outcome in zip(recipes, outcomes, strict=True):
        record = read_record(record_path(recipe))
        if full or recipe.seed < 2:
            assert measured(record) == on_this_machine(recipe, home)
        assert outcome.metrics == record.metrics
        steps = [event[2] for event in watch.events if event[:2] == ("step", recipe.title())]
        firsts = [steps[0]] + [b for a, b in itertools.pairwise(steps) if b < a]
        assert steps[-1] == recipe.steps
        assert firsts[0] == 1
    for recipe in recipes[:2]:  # neither began anew
        told = [json.loads(line)["step"] for line in reports(recipe) if "step" in line]
        assert told.count(1) == 1
        assert told[-1] == recipe.steps
    assert "squeue --jobs=" in watch.said[0]


def begin_at_once(jobs: Iterable[str]) -> None:
    """Slurm lets a job that was queued again wait for two minutes; a test does not."""
    states = (cluster.queue() or {}) if jobs else {}
    for job in jobs:
        if states.get(job, ("",))[0] == "PENDING":
            command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
            subprocess.run(command, check=False, capture_output=True)


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def reports(recipe: Recipe) -> list[str]:
    return cluster.reports_path(run_folder(recipe), job_of(recipe)).read_text().splitlines()


def test_who_leaves_finds_the_jobs_again(slurm, home, quick_looks):
    """Ctrl-C while the first of two runs; the same call follows both; then the second is cancelled."""
    recipes, stop = [replace(RECIPE, seed=seed, steps=300) for seed in (0, 1)], StopRequest()

    def leave(watch):
        if ("started", recipes[0].title()) in watch.events:
            stop.ask("SIGINT", signal.SIGINT)

    first = Told(leave)
    outcomes = submit(recipes, jobs=1, gpus=0, watch=first, stop=stop)
    assert [outcome.status for outcome in outcomes] == ["busy", "waiting"]
    assert ("stopping", "SIGINT") in first.events
    jobs = [job_of(recipe) for recipe in recipes]
    assert [outcome.text for outcome in outcomes] == [f"as Slurm's job {job}" for job in jobs]
    assert "2 of them new" in first.said[0]

    def cancel(watch):
        if watch.events and ("cancelled", "") not in watch.events:
            watch.events.append(("cancelled", ""))
            subprocess.run(["scancel", jobs[1]], check=True)

    second = Told(cancel)
    outcomes = submit(recipes, jobs=1, gpus=0, watch=second)
    assert "0 of them new" in second.said[0]
    assert [job_of(recipe) for recipe in recipes] == jobs
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    assert f"Slurm ended its job {jobs[1]} (CANCELLED)" in outcomes[1].text
    assert read_record(record_path(recipes[0])).metrics == outcomes[0].metrics


def test_a_run_of_two_tasks(slurm, home, quick_looks):
    """srun makes the processes, and they train one network."""
    recipe = replace(SHORT, model_options={**SHORT.model_options, "norm": False, "dropout": 0.0})
    (outcome,) = submit([recipe], gpus=0, slurm=["ntasks-per-node=2", "partition=test"])
    assert outcome.status == "done", outcome
    record = read_record(record_path(recipe))
    assert record.machine["devices"] == 2
    expected = on_this_machine(recipe, home)
    assert record.losses == pytest.approx(expected["losses"], abs=2e-4)


TABLE = """
title = "A table for tests"
[recipe]
dataset = "camvid"
height = 32
width = 48
model = "fcn16s"
steps = 4
checkpoint_every = 2
[profiles.laptop]
[rows.plain]
label = "plain"
"""


def test_the_command_where_the_cluster_lacks_the_data(slurm, home, quick_looks, data_dir, monkeypatch):
    (home / "tables").mkdir()
    (home / "tables/test.toml").write_text(TABLE)
    monkeypatch.setattr(table, "TABLES", home / "tables")
    done = CliRunner().invoke(
        app, ["reproduce", "test", "--seeds", "1", "--on", "slurm", "--gpus", "0", "--time-limit", "5"]
    )
    assert done.exit_code == 1, done.output
    assert "plain seed 0  failed: DataError: CamVid is not in" in done.output
    assert 'run "course data get camvid"' in done.output
    job = job_of(resolve("test", "plain", "laptop"))
    assert f"scancel {job}" in done.output
    log = Path(json.loads((run_folder(resolve("test", "plain", "laptop")) / "slurm.json").read_text())["log"])
    assert "Traceback" in log.read_text()
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True)
    assert "TimeLimit=00:05:00" in shown.stdout
    wait_for(lambda: cluster.queue()[job][0] == "FAILED")


def test_what_sbatch_refuses_is_said(slurm, home):
    with pytest.raises(ClusterError, match=r"sbatch refused: .*nvalid partition"):
        submit([SHORT], gpus=0, slurm=["partition=nowhere"])
    with pytest.raises(ClusterError, match="sbatch refused: "):
        submit([SHORT], gpus=3)  # the node has none


# -- without one ------------------------------------------------------------------------------------


def test_where_there_is_no_slurm(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(ClusterError, match="sbatch and squeue and srun is not on the PATH"):
        submit([SHORT])
    (home / "tables").mkdir()
    (home / "tables/test.toml").write_text(TABLE)
    monkeypatch.setattr(table, "TABLES", home / "tables")
    done = CliRunner().invoke(app, ["reproduce", "test", "--on", "slurm"])
    assert done.exit_code == 2
    assert "course reproduce: sbatch and squeue and srun is not on the PATH" in done.output
    assert not (home / "runs").exists()


def test_where_submitit_is_missing(home, monkeypatch):
    for name in ("sbatch", "squeue", "srun"):
        (home / name).write_text("#!/bin/sh\n")
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ClusterError, match=r'uv pip install -e "\.\[cluster\]"'):
        submit([SHORT])


def test_a_controller_that_is_silent(home, monkeypatch):
    for name in ("sbatch", "squeue", "srun"):
        (home / name).write_text("#!/bin/sh\nexit 1\n")
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(ClusterError, match="squeue does not answer"):
        submit([SHORT])


def test_options_of_sbatch():
    assert cluster.sbatch_options(0, None, []) == {"requeue": True, "ntasks-per-node": 1}
    assert cluster.sbatch_options(2, 90, ["partition=gpu", "--account=a=b"]) == {
        "requeue": True,
        "ntasks-per-node": 2,
        "time": 2,
        "partition": "gpu",
        "account": "a=b",
        "cpus-per-task": 4,
        "gpus-per-node": 2,
    }
    other = cluster.sbatch_options(2, 5, ["gres=gpu:a100:2", "cpus_per_task=12", "time=1-0"])
    assert other["cpus-per-task"] == "12"
    assert other["time"] == "1-0"
    assert "gpus-per-node" not in other
    for wrong in ("partition", "=gpu"):
        with pytest.raises(ClusterError, match="write KEY=VALUE"):
            cluster.sbatch_options(1, None, [wrong])


def test_slurm_options_need_slurm(home):
    done = CliRunner().invoke(app, ["reproduce", "fcn_skips", "--slurm", "partition=gpu"])
    assert done.exit_code == 2
    assert "--slurm goes with --on slurm" in done.output


def test_a_job_is_found_by_its_number_and_its_name(tmp_path):
    job = cluster.Job(SHORT, "7_1", tmp_path, tmp_path / "log")
    job.remember()
    assert cluster.submitted_before(SHORT, tmp_path, {"7_1": ("RUNNING", "course-test")}) == job
    assert cluster.submitted_before(SHORT, tmp_path, {"7_1": ("COMPLETED", "course-test")}) is None
    assert cluster.submitted_before(SHORT, tmp_path, {"7_1": ("RUNNING", "another")}) is None
    assert cluster.submitted_before(SHORT, tmp_path, {"7_2": ("RUNNING", "course-test")}) is None
    (tmp_path / "slurm.json").write_text("rubbish")
    assert cluster.submitted_before(SHORT, tmp_path, {"7_1": ("RUNNING", "course-test")}) is None


def test_reports_are_read_line_by_line(tmp_path):
    job = cluster.Job(SHORT, "7", tmp_path, tmp_path / "log")
    assert job.messages() == []
    path = cluster.reports_path(tmp_path, "7")
    path.write_text('{"step": 1}\n{"step"')
    assert job.messages() == [{"step": 1}]
    with open(path, "a") as file:
        file.write(': 2}\n{"st{"step": 3}\n{"step": 4}\n')
    assert job.messages() == [{"step": 2}, {"step": 4}]
    assert job.messages() == []
