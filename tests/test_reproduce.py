"""Runs of a table: each is made once, whatever stops it on the way, and nothing is lost or silently wrong."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from training_helpers import TINY_TABLE
from typer.testing import CliRunner

from course_lib.cli import app, many_runs
from course_lib.cli import reproduce as command
from course_lib.experiments import records, runs, table
from course_lib.experiments.building import Sitting
from course_lib.experiments.launch import child as run_one
from course_lib.experiments.launch import local
from course_lib.experiments.launch import slurm as cluster
from course_lib.experiments.launch.local import Outcome, Watch, run_all
from course_lib.experiments.records import RecordError, read_record, record_path, record_state, run_folder
from course_lib.experiments.runs import complete, make
from course_lib.experiments.table import Table, resolve
from course_lib.plumbing import checkpoint, files, locks, paths, processes
from course_lib.plumbing.checkpoint import previous
from course_lib.plumbing.locks import Busy, only_one
from course_lib.plumbing.processes import FAILED, STOPPED, StopRequest
from course_lib.train import Interrupted

pytestmark = pytest.mark.usefixtures("one_thread")

TABLE = (
    TINY_TABLE
    + """
[rows.plain]
label = "plain"

[rows.long]
label = "many steps"
recipe = { steps = 80 }
laptop = { checkpoint_every = 20 }

[rows.broken]
label = "starts from a checkpoint that is not there"
recipe = { start_from = "no-such" }
"""
)

BOUND = """
title = "A bound for tests"
[recipe]
task = "upper_bound"
dataset = "street"
height = 32
width = 48
dataset_options = { val_length = 3 }
[profiles.quick]
[profiles.laptop]
[rows.fine]
label = "factor 2"
recipe = { factor = 2 }
[rows.coarse]
label = "factor 16"
recipe = { factor = 16 }
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Tables, runs, results and quick records in temporary folders."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/test.toml").write_text(TABLE)
    (tmp_path / "tables/bound.toml").write_text(BOUND)
    monkeypatch.setattr(table, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(records, "build_root", lambda: tmp_path / "build")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def recipe_of(row: str = "plain", seed: int = 0, profile: str = "laptop"):
    return resolve("test", row, profile, seed)


def measured(record) -> dict:
    """What must not depend on how often a run was stopped."""
    return {
        "metrics": record.metrics,
        "per_class": record.per_class,
        "losses": record.losses,
        "data": record.data,
        "hash": record.recipe_hash,
    }


def undisturbed(recipe, home: Path) -> dict:
    return measured(make(recipe, Sitting(show_progress=False, runs=home / "undisturbed"))[1])


def quiet(recipe, **options):
    return complete(recipe, Sitting(show_progress=False, **options))


# -- one run ----------------------------------------------------------------------------------------


def test_a_run_is_made_once(home):
    recipe, steps = recipe_of(), []
    record = quiet(recipe, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(1, 13))
    assert read_record(record_path(recipe)) == record
    content = record_path(recipe).read_bytes()
    assert quiet(recipe, on_step=lambda *_: pytest.fail("trained again")) == record
    assert record_path(recipe).read_bytes() == content


def test_the_memory_of_a_process_that_did_other_things_is_not_recorded(home):
    """Three networks trained in one notebook would each have the peak of those before it."""
    if not torch.cuda.is_available():
        assert make(recipe_of(), Sitting(show_progress=False))[1].peak_memory_mib == 0
    assert make(recipe_of(), Sitting(show_progress=False, own_process=True))[1].peak_memory_mib > 10


def test_a_stop_at_any_step_changes_nothing(home):
    recipe, asked = recipe_of(), []
    random.seed(os.getpid())
    stops = sorted(random.sample(range(1, 12), 4))

    def should_stop() -> bool:
        asked.append(len(asked) + 1)
        return len(asked) in stops

    for stop in stops:
        with pytest.raises(Interrupted) as caught:
            quiet(recipe, should_stop=should_stop)
        assert caught.value.step == stop
        assert not record_path(recipe).exists()
    assert measured(quiet(recipe, should_stop=should_stop)) == undisturbed(recipe, home)
    assert asked == list(range(1, 12))  # no step was made twice; not asked after the last one


def test_the_quick_profile_records_beside_the_results(home):
    recipe = recipe_of(profile="quick")
    quiet(recipe)
    assert record_path(recipe) == home / "build/records/quick/test/plain-quick-seed0.json"
    assert record_path(recipe).exists()
    assert not (home / "results").exists()


def test_an_upper_bound_is_a_run_without_a_network(home):
    fine, coarse = (quiet(resolve("bound", row, "laptop")) for row in ("fine", "coarse"))
    assert 1 > fine.metrics["mean_iou"] > coarse.metrics["mean_iou"] > 0
    assert (fine.parameters, fine.losses, fine.precision) == (0, [], "exact")
    assert "train" not in fine.data
    assert read_record(record_path(resolve("bound", "fine", "laptop"))) == fine


def test_a_factor_of_one_loses_nothing(home):
    text = BOUND.replace("factor = 2", "factor = 1")
    (home / "tables/bound.toml").write_text(text)
    assert quiet(resolve("bound", "fine", "laptop")).metrics["mean_iou"] == 1.0


# -- hostile cases ----------------------------------------------------------------------------------


def test_only_one_at_a_time(home):
    recipe = recipe_of()
    with only_one(run_folder(recipe) / "lock"):
        began = time.monotonic()
        with pytest.raises(Busy, match=rf"process {os.getpid()} on .* is at this run"):
            quiet(recipe, patience=0.3)
        assert 0.3 <= time.monotonic() - began < 5
        with pytest.raises(Busy):
            runs.train_or_load(recipe, show_progress=False)
    assert not record_path(recipe).exists()
    quiet(recipe)


def test_who_waits_finds_what_the_other_made(home):
    recipe, made = recipe_of(), []
    inside = threading.Event()

    def first() -> None:
        made.append(quiet(recipe, on_step=lambda *_: inside.set()))

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    second = quiet(recipe, patience=60, on_step=lambda *_: pytest.fail("trained twice"))
    thread.join()
    assert made == [second]


def test_a_killed_process_lets_go_of_its_lock(tmp_path):
    path = tmp_path / "run" / "lock"
    code = (
        "import sys, time; from pathlib import Path; from course_lib.plumbing.locks import only_one\n"
        "with only_one(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Busy, match=f"process {holder.pid} on"), only_one(path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with only_one(path):
        pass


def test_a_lock_does_not_need_room_for_its_holders_name(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.os, "pwrite", full)
    with only_one(tmp_path / "lock"), pytest.raises(Busy), only_one(tmp_path / "lock"):
        pass


def test_a_full_disk_at_a_checkpoint(home, monkeypatch):
    recipe, save_file, calls = recipe_of(), checkpoint.save_file, []

    def disk_full(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half of a checkpoint")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    with pytest.raises(SafetensorError) as caught:
        quiet(recipe)
    assert "the disk is full" in run_one.explain(caught.value, str(home / "runs"))
    assert not record_path(recipe).exists()
    left = sorted(path.name for path in run_folder(recipe).iterdir())
    assert left == ["checkpoint.safetensors", "lock"]
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    steps = []
    record = quiet(recipe, on_step=lambda s, _: steps.append(s))
    assert steps[0] == 5
    assert measured(record) == undisturbed(recipe, home)


def test_a_full_disk_at_the_record(home, monkeypatch):
    recipe, fsync = recipe_of(), os.fsync

    def disk_full(handle):
        if b'"recipe_hash"' in os.pread(handle, 1 << 20, 0) and b"digest" in os.pread(handle, 1 << 20, 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", disk_full)
        with pytest.raises(OSError, match="No space left") as caught:
            quiet(recipe)
    assert "the disk is full" in run_one.explain(caught.value, str(home / "runs"))
    assert not [path.name for path in (home / "results/test").iterdir() if path.suffix != ".png"]  # the answer stays
    record = quiet(recipe, on_step=lambda *_: pytest.fail("trained again"))  # only measured again
    assert measured(record) == undisturbed(recipe, home)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is no readable record"),
        (lambda text: text.replace('"losses": [', '"losses": [1.0,'), "was changed after it was written"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, .* update the course"),
        (lambda text: "", "is no readable record"),
    ],
)
def test_a_record_that_cannot_be_trusted_is_neither_used_nor_replaced(home, damage, words):
    recipe = recipe_of()
    quiet(recipe)
    path = record_path(recipe)
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.raises(RecordError, match=words) as caught:
        quiet(recipe)
    assert str(path) in str(caught.value)
    assert record_state(recipe)[0] == "untrusted"
    done = CliRunner().invoke(app, ["reproduce", "test", "--row", "plain", "--seeds", "1"])
    assert done.exit_code == 1
    assert str(path) in done.output.replace("\n", "")
    assert path.read_text() == damaged
    path.unlink()
    quiet(recipe)


def test_a_stale_record_is_replaced(home):
    recipe = recipe_of()
    quiet(recipe)
    text = (home / "tables/test.toml").read_text()
    (home / "tables/test.toml").write_text(text.replace("steps = 12", "steps = 6"))
    changed = recipe_of()
    assert record_state(changed)[0] == "stale"
    assert quiet(changed).recipe["steps"] == 6
    assert record_state(changed) == ("valid", "")
    assert record_state(recipe)[0] == "stale"


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(home):
    recipe, steps = recipe_of(), []
    with pytest.raises(Interrupted):
        quiet(recipe, should_stop=lambda: len(steps) == 9, on_step=lambda s, _: steps.append(s))
    path = run_folder(recipe) / "checkpoint.safetensors"
    assert previous(path).exists()
    path.write_bytes(path.read_bytes()[:-100])
    steps.clear()
    record = quiet(recipe, on_step=lambda s, _: steps.append(s))
    assert steps[0] == 9  # the checkpoint of step 8
    assert measured(record) == undisturbed(recipe, home)


def test_without_any_good_checkpoint_the_run_starts_over(home):
    recipe, steps = recipe_of(), []
    with pytest.raises(Interrupted):
        quiet(recipe, should_stop=lambda: len(steps) == 9, on_step=lambda s, _: steps.append(s))
    path = run_folder(recipe) / "checkpoint.safetensors"
    for file in (path, previous(path)):
        file.write_bytes(b"rubbish")
    assert measured(quiet(recipe)) == undisturbed(recipe, home)


def test_what_killed_processes_left_is_removed(home):
    recipe = recipe_of()
    places = [
        run_folder(recipe) / ".checkpoint.safetensors.x1.partial",
        record_path(recipe).with_name(f".{record_path(recipe).name}.x1.partial"),
    ]
    other = record_path(recipe).with_name(".other-laptop-seed0.json.x1.partial")
    for place in [*places, other]:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"half")
    quiet(recipe)
    assert [place.exists() for place in places] == [False, False]
    assert other.exists()  # another run may be writing it


def test_a_clock_that_jumps_changes_no_duration(home, monkeypatch):
    now = [2e9]

    def jumping() -> float:
        now[0] += random.choice([-86400, 86400, 3600, -3600])
        return now[0]

    monkeypatch.setattr(time, "time", jumping)

    class Future(runs.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2199, 1, 1, tzinfo=tz)

    monkeypatch.setattr(runs.datetime, "datetime", Future)
    recipe = recipe_of()
    with pytest.raises(Interrupted):
        quiet(recipe, should_stop=lambda: True)
    record = quiet(recipe)
    assert 0 <= record.seconds < 60
    assert record.date.startswith("2199-01-01")
    assert quiet(recipe) == record


# -- processes --------------------------------------------------------------------------------------


class Told(Watch):
    """Remembers what it is told; `on_step` is called in the middle of things."""

    def __init__(self, on_step=lambda recipe, step: None):
        self.events, self.on_step = [], on_step

    def started(self, recipe):
        self.events.append(("started", recipe.title()))

    def stepped(self, recipe, step, steps, loss):
        self.events.append(("step", step))
        self.on_step(recipe, step)

    def ended(self, outcome):
        self.events.append((outcome.status, outcome.recipe.title()))


def test_stopped_and_killed_processes_make_the_same_record(home, monkeypatch):
    """Stopped at a checkpoint, killed at a random moment, finished: as if nothing had been."""
    recipe, stop, children = recipe_of("long"), StopRequest(), []
    watch = Told(lambda recipe, step: stop.ask("the test"))
    (first,) = run_all([recipe], watch=watch, stop=stop)
    assert (first.status, first.bad) == ("stopped", False)
    assert first.text.startswith("stopped after step ")
    assert (run_folder(recipe) / "checkpoint.safetensors").exists()

    reports = processes.Child.reports
    monkeypatch.setattr(processes.Child, "reports", lambda self: (children.append(self), reports(self))[1])

    def shoot(recipe, step):
        if len(children) == 1:
            delay = random.Random(os.getpid()).uniform(0, 0.3)
            threading.Timer(delay, os.kill, (children[0].process.pid, signal.SIGKILL)).start()
            children.append(None)

    (second,) = run_all([recipe], watch=Told(shoot))
    assert second.status == "failed"
    assert "its process was killed (SIGKILL)" in second.text
    assert not record_path(recipe).exists()
    (third,) = run_all([recipe])
    assert third.status == "done"
    record = read_record(record_path(recipe))
    assert measured(record) == undisturbed(recipe, home)
    assert third.metrics == record.metrics
    assert record.peak_memory_mib > 10  # a process of its own


def test_what_a_runs_process_reports(home):
    """Asked to stop before its first step it makes that step, keeps it and ends with its own code."""
    recipe = recipe_of()
    request = {
        "recipe": recipe.settings(),
        "slot": 0,
        "gpus": 1,
        "patience": 0,
        "runs": str(home / "runs"),
        "records": str(home / "results"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.experiments.launch.child"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == STOPPED, done.stderr
    first, last = map(json.loads, done.stdout.splitlines())
    assert (first["step"], first["steps"]) == (1, 12)
    assert last == {"status": "stopped", "text": "stopped after step 1", "step": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_a_log_that_cannot_be_written_hides_no_error(home):
    request = {
        "recipe": recipe_of("broken").settings(),
        "slot": 0,
        "gpus": 1,
        "patience": 0,
        "runs": str(home / "runs"),
        "records": str(home / "results"),
    }
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "course_lib.experiments.launch.child"],
            input=json.dumps(request) + "\n",
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert done.returncode == FAILED
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["status"] == "failed"
    assert last["text"].startswith("CheckpointError: ")


def test_two_processes_at_the_same_row(home, monkeypatch):
    monkeypatch.setattr(local, "PATIENCE", 0.0)
    recipe, outcomes = recipe_of("long"), []
    threads = [threading.Thread(target=lambda: outcomes.extend(run_all([recipe]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(outcome.status for outcome in outcomes)
    assert statuses in (["busy", "done"], ["done", "done"])  # the second may come when all is over
    assert measured(read_record(record_path(recipe))) == undisturbed(recipe, home)
    found = sorted(path.name for path in record_path(recipe).parent.iterdir())
    assert found == [
        "long-laptop-seed0.json",
        "long-laptop-seed0.png",
        "picture-street-val-laptop.png",
        "truth-street-val-laptop.png",
    ]


def test_the_time_limit_stops_at_a_checkpoint_and_begins_nothing_new(home):
    first, second = recipe_of("long"), recipe_of("plain")
    watch, began = Told(), time.monotonic()
    outcomes = run_all([first, second], time_limit=0.05, watch=watch)
    assert [outcome.status for outcome in outcomes] == ["stopped", "waiting"]
    assert ("started", second.title()) not in watch.events
    assert (run_folder(first) / "checkpoint.safetensors").exists()
    assert time.monotonic() - began < 60
    assert [o.status for o in run_all([second], time_limit=0)] == ["waiting"]


def driver(home: Path, *arguments: str) -> subprocess.Popen:
    """The command `course` with the test's folders, in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from course_lib.experiments import records, table\n"
        "home = Path(sys.argv.pop(1)); table.TABLES = home / 'tables'\n"
        "records.results_root = lambda: home / 'results'\n"
        "from course_lib.cli import app; app()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_the_command_interrupted_or_killed(home, signum):
    """Ctrl-C says how to go on; after kill -9 the run's process still ends, by itself, at a checkpoint."""
    text = (home / "tables/test.toml").read_text()
    (home / "tables/test.toml").write_text(text.replace("steps = 80", "steps = 100000"))
    recipe = recipe_of("long")
    path = run_folder(recipe) / "checkpoint.safetensors"
    with driver(home, "reproduce", "test", "--row", "long", "--seeds", "1") as process:
        try:
            wait_for(path.exists)
            process.send_signal(signum)
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    if signum == signal.SIGINT:
        assert process.returncode == 128 + signum, output
        assert "stopping at the next checkpoint (SIGINT)" in output
        assert "stopped after step" in output
        assert "course reproduce test --row long --profile laptop --seeds 1" in output
    with only_one(run_folder(recipe) / "lock", patience=120):  # its process has gone
        progress = checkpoint._read(path)[1]["training"]
    assert 0 < json.loads(progress)["progress"]["step"] < 100000
    assert not record_path(recipe).exists()


def test_the_command_makes_what_is_missing_and_shows_what_failed(home):
    arguments = ["reproduce", "test", "--row", "plain", "--row", "broken", "--seeds", "1", "--jobs", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    plain, broken = recipe_of("plain"), recipe_of("broken")
    assert measured(read_record(record_path(plain))) == undisturbed(plain, home)
    assert "broken seed 0  failed: CheckpointError: " in done.output
    log = run_folder(broken) / "log.txt"
    assert f"its log: {log}" in done.output
    assert "Traceback" in log.read_text()
    assert "2 runs: 1 done, 1 failed" in done.output
    again = CliRunner().invoke(app, ["reproduce", "test", "--row", "plain", "--seeds", "1"])
    assert again.exit_code == 0
    assert "1 runs, 0 to do" in again.output
    assert "1 recorded" in again.output


def test_what_the_command_says_when_the_time_is_over(home):
    done = CliRunner().invoke(app, ["reproduce", "test", "--row", "long", "--time-limit", "0"])
    assert done.exit_code == command.UNFINISHED
    assert "3 waiting" in done.output
    assert "Go on with: course reproduce test --row long --profile laptop --seeds 3" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tset"], "did you mean 'test'"),
        (["test", "--row", "plian"], "did you mean 'plain'"),
        (["test", "--profile", "lptop"], "did you mean 'laptop'"),
        (["test", "--profile", "gpu"], "[profiles.gpu] is missing"),
        (["test", "--seeds", "1,1"], "--seeds"),
        (["test", "--seeds", "many"], "--seeds"),
        (["test", "--on", "moon"], "local or slurm"),
    ],
)
def test_the_command_refuses_what_it_does_not_understand(home, arguments, words):
    done = CliRunner().invoke(app, ["reproduce", *arguments])
    assert done.exit_code == 2
    assert words in done.output
    assert not (home / "runs").exists()


def test_a_table_with_a_typo_starts_nothing(home):
    text = (home / "tables/test.toml").read_text()
    (home / "tables/test.toml").write_text(text.replace("fc_channels", "fc_chanels"))
    done = CliRunner().invoke(app, ["reproduce", "test"])
    assert done.exit_code == 2
    assert "model_options: fc_chanels: fcn16s has no such option" in done.output
    assert not (home / "runs").exists()


def test_missing_data_is_said_before_anything_starts(home, data_dir):
    text = (home / "tables/test.toml").read_text().replace('"street"', '"camvid"')
    text = text.replace("[recipe.dataset_options]\ntrain_length = 6\nval_length = 3\n", "")
    (home / "tables/test.toml").write_text(text)
    done = CliRunner().invoke(app, ["reproduce", "test"])
    assert done.exit_code == 2
    assert "CamVid is not here: course data get camvid" in done.output


def test_slurm_is_given_what_local_is_given(home, monkeypatch):
    given = {}

    def submit(recipes, **options):
        given.update(options, recipes=recipes)
        return [Outcome(recipe, "done", metrics={"mean_iou": 0.5}) for recipe in recipes]

    monkeypatch.setattr(cluster, "submit", submit)
    done = CliRunner().invoke(
        app,
        [
            "reproduce",
            "test",
            "--on",
            "slurm",
            "--gpus",
            "2",
            "--jobs",
            "3",
            "--time-limit",
            "5",
            "--slurm",
            "partition=gpu",
            "--slurm",
            "mem=8G",
        ],
    )
    assert done.exit_code == 0, done.output
    assert (given["gpus"], given["jobs"], given["time_limit"]) == (2, 3, 300)
    assert given["slurm"] == ["partition=gpu", "mem=8G"]
    assert [r.title() for r in given["recipes"]][:4] == ["plain seed 0", "long seed 0", "broken seed 0", "plain seed 1"]


# -- small parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("0,1,2", [0, 1, 2]), ("5,", [5]), ("4, 7", [4, 7])])
def test_seeds(text, seeds):
    assert command.seeds_from(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "a", "1,1", "-1,2", ",", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(command.Refusal):
        command.seeds_from(text)


def test_without_chance_one_seed_is_planned(home):
    assert [r.title() for r in command.plan(Table.read("bound"), [], "laptop", [0, 1, 2])] == [
        "fine seed 0",
        "coarse seed 0",
    ]
    assert len(command.plan(Table.read("test"), ["plain"], "laptop", [0, 1, 2])) == 3


def test_the_time_left(home):
    short, long = recipe_of("plain"), recipe_of("long")
    pace = many_runs.Pace([short, long], jobs=1)
    assert pace.seconds_left() is None
    pace.step(short, 2, now=100.0)  # resumed there: says nothing about how fast it is
    assert pace.seconds_left() is None
    pace.step(short, 7, now=110.0)  # 2 s a step
    assert pace.seconds_left() == pytest.approx(2 * (5 + 80))
    pace.step(short, 5, now=300.0)  # begun again from its checkpoint
    pace.step(short, 7, now=304.0)
    assert pace.seconds_left() == pytest.approx(2 * (5 + 80))
    pace.ended(short)
    assert pace.seconds_left() == pytest.approx(2 * 80)
    pace.step(long, 50, now=110.0)
    pace.step(long, 70, now=112.0)  # 0.1 s a step
    assert pace.seconds_left() == pytest.approx(0.1 * 10)
    elsewhere = replace(short, table="other")
    several = many_runs.Pace([short, elsewhere], jobs=1)
    for step, now in ((1, 0.0), (2, 5.0)):
        several.step(short, step, now=now)
    for step, now in ((1, 0.0), (3, 2.0)):
        several.step(elsewhere, step, now=now)
    assert several.seconds_left() == pytest.approx(5 * 10 + 1 * 9)  # a row of this name in another table
    two = many_runs.Pace([short, long], jobs=2)
    two.step(short, 1, now=0.0)
    two.step(short, 2, now=1.0)
    assert two.seconds_left() == pytest.approx((10 + 80) / 2)


def test_a_score_is_in_the_metric_of_its_row():
    table = Table.read("cvae")
    recipe, metrics = table.recipe("zero_code", "laptop"), {"zero_code_accuracy": 0.5, "mean_iou": 0.25}
    metrics[table.metric] = 0.75
    text = many_runs.score({"cvae": table}, Outcome(recipe, "done", metrics=metrics))
    assert text == "accuracy with the zero code 50.0 %"
    assert many_runs.score({"cvae": table}, Outcome(recipe, "failed")) == ""


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (600, "10 min"), (9000, "2 h 30 min"), (0.4, "0 s")])
def test_time_in_words(seconds, words):
    assert many_runs.in_words(seconds) == words


def test_gpus_are_shared_out_by_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [run_one.devices(slot, 1) for slot in range(5)] == [[0], [1], [2], [3], [0]]
    assert [run_one.devices(slot, 2) for slot in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="--gpus 5, but this machine has 4"):
        run_one.devices(0, 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert run_one.devices(3, 1) == run_one.devices(3, 0) == 1
    with pytest.raises(ValueError, match="--gpus 2, but this machine has 0"):
        run_one.devices(0, 2)


def test_cores_are_shared_out(home, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    given, shared = [], []
    monkeypatch.setattr(local, "cores", lambda: 8)

    def no_process(command, env, **options):
        given.append(env["OMP_NUM_THREADS"])
        shared.append(Path(env["COURSE_DECODED"]))
        assert shared[-1].is_dir()
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(processes.subprocess, "Popen", no_process)
    left = paths.runs_root() / f".decoded-{2**22 + 1}"  # of a process that was killed: no process has this number
    left.mkdir(parents=True)
    outcomes = run_all([recipe_of(), recipe_of("long")], jobs=3)
    assert given == ["2", "2"]
    assert shared[0] == shared[1]
    assert not shared[0].exists()
    assert not left.exists()
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert "it could not be started: " in outcomes[0].text
    assert processes.cores() >= 1


def test_a_second_signal_is_a_hard_one():
    with processes.stop_on_signals() as stop:
        assert not stop.reason
        signal.raise_signal(signal.SIGTERM)
        assert (stop.reason, stop.signum, stop.hard) == ("SIGTERM", signal.SIGTERM, False)
        signal.raise_signal(signal.SIGINT)
        assert (stop.signum, stop.hard) == (signal.SIGTERM, True)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    later = StopRequest()
    later.ask("the time limit")
    later.ask("the time limit")
    assert not later.hard
    later.ask("SIGINT", signal.SIGINT)
    assert later.hard
