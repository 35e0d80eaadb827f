"""Killed at random moments, with the power cut or the disk full: nothing is lost, and the end is the undisturbed one.

A handful of kills; `pytest --full -s tests/test_kills.py` makes a hundred and prints the count.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import time

import pytest
from test_cli_run import command, course_run, outputs, write_notebook
from test_data_scripts import camvid_archive, serve, server  # noqa: F401
from test_reproduce import Told, home, measured, recipe_of, undisturbed  # noqa: F401
from test_train import outcome, processes, run_to_the_end, same_outcome  # noqa: F401

import data_scripts
from course_lib.data.registry import check_dataset
from course_lib.experiments.launch.local import run_all
from course_lib.experiments.records import read_record, record_path
from course_lib.plumbing.processes import StopRequest
from data_scripts import camvid

STEPS = 14


@pytest.fixture(scope="module")
def expected(processes, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(folder)
    return outcome(folder)


def power_cut(path, rng):
    """Leave of a file what a disk may have of its last write: a part, or its length in zeros."""
    if path.exists():
        size = path.stat().st_size
        os.truncate(path, rng.randrange(size))
        if rng.random() < 0.5:
            os.truncate(path, size)


def train_and_kill(processes, folder, rng) -> bool:  # noqa: F811
    """Train in another process and kill it after some step or while it writes; return whether it came to its end."""
    sabotage = rng.choice(["", "", "", "half a file", "between two files"])
    receiver, sender = processes.Pipe(duplex=False)
    worker = processes.Process(target=run_to_the_end, args=(folder, sender, sabotage))
    worker.start()
    sender.close()
    try:
        for _ in range(rng.randrange(1, 6)):
            receiver.recv()
        time.sleep(rng.uniform(0, 0.02))
        os.kill(worker.pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))
    except (EOFError, ProcessLookupError):
        pass
    worker.join(60)
    return worker.exitcode == 0


def test_a_training_ends_as_the_undisturbed_one(processes, tmp_path, expected, full):  # noqa: F811
    rng = random.Random(os.getpid() if full else 0)
    kills = finished = 0
    while kills < (60 if full else 4):
        folder = tmp_path / str(finished)
        folder.mkdir(exist_ok=True)
        while not train_and_kill(processes, folder, rng):
            kills += 1
            if rng.random() < 0.3:
                power_cut(folder / "training.safetensors", rng)
            if kills % 8 == 7:
                run_to_the_end(folder)
                break
        if (folder / "weights.safetensors").exists():
            assert same_outcome(folder, expected)
            finished += 1
    run_to_the_end(tmp_path / str(max(finished - 1, 0)))
    assert same_outcome(tmp_path / str(max(finished - 1, 0)), expected)
    print(f"training: {kills} kills, {finished} trainings came to their end, all equal to the undisturbed one")


def test_fetching_leaves_all_or_nothing(server, tmp_path, monkeypatch, full):  # noqa: F811
    frames = {"train": 12, "val": 4, "test": 4}
    serve(server, monkeypatch, camvid, camvid_archive(tmp_path, frames), FRAMES=frames)
    root, rng, kills = tmp_path / "data", random.Random(os.getpid() if full else 0), 0
    context = multiprocessing.get_context("fork")
    while kills < (30 if full else 4):
        worker = context.Process(target=data_scripts.get, args=("camvid", root), kwargs={"yes": True})
        worker.start()
        time.sleep(rng.uniform(0, 0.15))
        worker.kill()
        worker.join(60)
        kills += worker.exitcode != 0
        if (root / "camvid").exists():
            assert check_dataset("camvid", root, progress=False) == []
            (root / "camvid").rename(tmp_path / f"whole-{time.monotonic_ns()}")
    data_scripts.get("camvid", root, yes=True)
    assert check_dataset("camvid", root, progress=False) == []
    assert sorted(file.name for file in root.iterdir()) == ["camvid", "downloads"]
    assert list((root / "downloads").iterdir()) == []
    print(f"fetching: {kills} kills")


@pytest.mark.parametrize("kills", [10])
def test_runs_of_a_table_make_the_undisturbed_record(home, kills, full):  # noqa: F811
    if not full:
        pytest.skip("one kill of this kind is in test_reproduce.py; pytest --full makes more")
    recipe, rng = recipe_of("long"), random.Random(os.getpid())
    for _ in range(kills):
        stop = StopRequest()
        at = rng.randrange(1, 6)

        def ask(recipe, step, stop=stop, at=at):
            if step >= at:
                stop.ask("the test", signal.SIGINT)
                stop.ask("the test", signal.SIGINT)  # the second kills

        (result,) = run_all([recipe], watch=Told(ask), stop=stop)
        if result.status == "done":
            break
        assert not record_path(recipe).exists()
    run_all([recipe])
    assert measured(read_record(record_path(recipe))) == undisturbed(recipe, home)
    print(f"runs of a table: {kills} kills at most")


def test_notebooks_that_were_killed_are_run_again_and_say_the_same(tmp_path, full):
    if not full:
        pytest.skip("kills of `course run` are in test_cli_run.py; pytest --full makes more, at random moments")
    rng, cell = (
        random.Random(os.getpid()),
        "import time\nfor step in range(5):\n    time.sleep(0.1)\n    print(step, PROFILE)",
    )
    pages = [write_notebook(tmp_path / f"{number:02}_page.ipynb", cell, cell) for number in range(3)]
    undisturbed = course_run(*pages, "--out", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stdout
    run, kills = command(*pages, "--out", tmp_path / "out", "--resume"), 0
    for _ in range(20):
        process = subprocess.Popen(run, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.5, 12))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))
            process.wait(60)
            kills += 1
    last = course_run(*pages, "--out", tmp_path / "out", "--resume")
    assert last.returncode == 0, last.stdout
    for page in pages:
        assert outputs(tmp_path / "out" / page.name) == outputs(tmp_path / "undisturbed" / page.name)
    print(f"notebooks: {kills} kills")


def test_a_full_disk_costs_the_last_write_alone(tmp_path, expected, monkeypatch):
    from course_lib.plumbing import checkpoint

    save, writes = checkpoint.save_file, []

    def full_disk(tensors, path, **options):
        writes.append(path)
        if len(writes) == 3:
            path.write_bytes(b"a part")
            raise OSError(28, "No space left on device")
        save(tensors, path, **options)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_to_the_end(tmp_path)
    assert not list(tmp_path.glob(".*"))
    run_to_the_end(tmp_path)
    assert len(writes) == 3 + 5 + 1  # from step 4 to 14, and the weights
    assert same_outcome(tmp_path, expected)
