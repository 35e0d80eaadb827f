"""One run on several devices: two CPU processes do what one does with the same whole batch, and agree."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_helpers import street_recipe

from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.experiments.building import Sitting
from course_lib.experiments.launch import child as run_one
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.recipes import recipe_from
from course_lib.experiments.records import Record, read_record, record_path, run_folder
from course_lib.experiments.runs import complete
from course_lib.losses import pixel_objective
from course_lib.models.fcn import FCN
from course_lib.plumbing.checkpoint import load_weights, save_weights
from course_lib.plumbing.devices import first_decides, make_fabric, on_every_device
from course_lib.plumbing.locks import only_one
from course_lib.plumbing.processes import FAILED, STOPPED
from course_lib.train import Checkpoints, Checks, Interrupted, TrainingDiverged, evaluate, fit

SIZE = (32, 48)
STEPS = 6


class Uneven(Street):
    """Streets of which every other one has labels in one corner only."""

    def __getitem__(self, index: int):
        sample = super().__getitem__(index)
        if index % 2:
            sample.labels[8:] = IGNORE
        return sample


def small_model() -> FCN:
    torch.manual_seed(0)
    return FCN(11, stride=16, width=4, fc_channels=16, norm=False, padding="same", dropout=0.0)


def train(fabric, model: nn.Module, **options):
    usual = {
        "steps": STEPS,
        "batch_size": 4,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "show_progress": False,
    }
    return fit(model, Uneven(8, SIZE, seed=1), fabric=fabric, **(usual | options))


CLASS_WEIGHTS = torch.linspace(0.1, 5.0, 11)


def squares(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """An objective in which every picture counts alike."""
    return (model(images) - 1).square().mean()


class Headed(nn.Module):
    """A network with a part that its loss does not reach."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 11, 3, padding=1), nn.Conv2d(3, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class OnFirst:
    """Counts its calls; says yes at the `at`-th of them, on one device only."""

    def __init__(self, fabric, rank: int, at: int):
        self.here, self.at, self.calls = fabric.global_rank == rank, at, 0

    def __call__(self) -> bool:
        self.calls += 1
        return self.here and self.calls == self.at


RECIPE = street_recipe(
    steps=12,
    batch_size=4,
    precision="32-true",
    optimizer="sgd",
    learning_rate=0.05,
    dataset_options={"train_length": 8, "val_length": 4},
    checkpoint_every=4,
    model_options={"width": 4, "fc_channels": 8, "padding": "same", "dropout": 0.0},
)


def request(home: Path, recipe: Recipe = RECIPE) -> dict:
    return {
        "recipe": recipe.settings(),
        "slot": 0,
        "gpus": 0,
        "processes": 2,
        "patience": 0,
        "runs": str(home / "runs"),
        "records": str(home / "results"),
    }


def scenarios(fabric, folder: Path) -> dict:
    """Trainings one after the other, on one device or several; what each device saw of them."""
    torch.set_num_threads(1)
    seen = {}
    objectives = {"plain": None, "weighted": pixel_objective(CLASS_WEIGHTS), "squares": squares}
    for name, objective in objectives.items():
        model = small_model()
        history = train(fabric, model, objective=objective, checks=Checks(Street(5, SIZE, seed=2), every=3))
        seen[name] = {"losses": history.losses, "evaluations": history.evaluations}
        counts = evaluate(model, Street(5, SIZE, seed=2), batch_size=2, fabric=fabric, show_progress=False)
        seen[name]["pixels"] = int(counts.counts.sum())
        if fabric.is_global_zero:
            save_weights(folder / f"{name}.safetensors", model)

    model = Headed()
    before = model.head.weight.clone()
    seen["headed"] = {
        "losses": train(fabric, model, weight_decay=0.1).losses,
        "head moved": not torch.equal(before, model.head.weight),
    }

    model, file = small_model(), folder / "training.safetensors"
    last = fabric.world_size - 1
    try:
        train(fabric, model, checkpoints=Checkpoints(file), should_stop=OnFirst(fabric, last, 2))
    except Interrupted as interrupted:
        seen["stopped"] = interrupted.step
    resumed = small_model()
    for parameter in resumed.parameters():
        parameter.data.zero_()  # all is read from the checkpoint
    seen["resumed"] = train(fabric, resumed, checkpoints=Checkpoints(file)).losses

    diverging = OnFirst(fabric, last, 3)

    def not_a_number(model, images, labels):
        loss = pixel_objective()(model, images, labels)
        return loss * math.nan if diverging() else loss

    try:
        train(fabric, small_model(), objective=not_a_number)
    except TrainingDiverged as error:
        seen["diverged"] = str(error)

    def full():
        raise OSError("No space left on device")

    try:
        first_decides(fabric, full)
    except OSError as error:
        seen["disk"] = str(error)
    seen["busy"] = run_one.attempt(fabric, request(folder), lambda: False, print)
    seen["asked"] = first_decides(fabric, lambda: fabric.global_rank)
    (folder / f"device{fabric.global_rank}.json").write_text(json.dumps(seen))
    return seen


def held(folder: Path):
    """This process is at the run of RECIPE."""
    return only_one(run_folder(RECIPE, folder / "runs") / "lock")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict, Path]:
    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    fabric = make_fabric("32-true", accelerator="cpu")
    with held(folder):
        seen = on_every_device(fabric, scenarios, folder)
    torch.set_num_threads(threads)
    return seen, folder


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MASTER_PORT", "")  # taken back afterwards: Fabric leaves its own there
        patch.delenv("MASTER_PORT")
        fabric = make_fabric("32-true", accelerator="cpu", devices=2)
        with held(folder):
            return on_every_device(fabric, scenarios, folder), folder


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    model = small_model()
    load_weights(folder / f"{name}.safetensors", model)
    return model.state_dict()


@pytest.mark.parametrize("name", ["plain", "weighted", "squares"])
def test_two_devices_train_as_one(alone, together, name):
    """Their shares of labelled pixels differ, so a mean over the devices would be another gradient."""
    one, two = alone[0][name], together[0][name]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert len(set(one["losses"])) == STEPS
    expected, start = weights(alone[1], name), small_model().state_dict()
    for key, value in weights(together[1], name).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    assert (expected["score.weight"] - start["score.weight"]).abs().max() > 1e-3


def test_every_picture_is_evaluated_once(alone, together):
    for name in ("plain", "weighted"):
        one, two = alone[0][name], together[0][name]
        assert two["pixels"] == one["pixels"] > 5 * 32 * 48 * 0.9
        assert [e["step"] for e in two["evaluations"]] == [3, 6]
        for before, after in zip(one["evaluations"], two["evaluations"], strict=True):
            assert after == pytest.approx(before, abs=2e-3, nan_ok=True)


def test_every_device_sees_the_same(together):
    seen, folder = together
    files = sorted(folder.glob("device*.json"))
    assert len(files) == 2
    first, second = (json.loads(file.read_text()) for file in files)
    assert json.dumps(first) == json.dumps(second) == json.dumps(seen)


def test_a_part_without_gradient_stays_as_it_is(alone, together):
    one, two = alone[0]["headed"], together[0]["headed"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert (one["head moved"], two["head moved"]) == (False, False)


def test_one_device_that_is_told_to_stop_stops_all(alone, together):
    assert (alone[0]["stopped"], together[0]["stopped"]) == (2, 2)
    assert together[0]["resumed"] == pytest.approx(alone[0]["plain"]["losses"], rel=1e-5)


def test_one_device_that_diverges_ends_all(together):
    assert "diverged at step 3: the loss is nan" in together[0]["diverged"]


def test_what_the_first_device_meets_all_do(together):
    assert together[0]["disk"] == "No space left on device"
    assert together[0]["asked"] == 0
    assert together[0]["busy"]["status"] == "busy"
    assert f"process {os.getpid()} on" in together[0]["busy"]["text"]


# -- a run of a table -------------------------------------------------------------------------------


def start(asked: dict) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "course_lib.experiments.launch.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    return process


def ended(process: subprocess.Popen) -> tuple[int, list[dict]]:
    """Exit code and reports. To read to the end closes stdin, which asks the run to stop."""
    lines = [json.loads(line) for line in process.stdout]
    process.stdin.close()
    code = process.wait(60)
    process.stdout.close()
    process.stderr.close()
    return code, lines


def same(record: Record, expected: Record) -> None:
    """All but time, place and the last digits, which the order of additions decides."""
    assert record.metrics == pytest.approx(expected.metrics, abs=2e-3)
    assert record.losses == pytest.approx(expected.losses, abs=2e-4)
    for name in ("recipe", "recipe_hash", "data", "parameters", "device", "precision", "versions"):
        assert getattr(record, name) == getattr(expected, name), name
    assert (record.machine["devices"], expected.machine["devices"]) == (2, 1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("expected")
    fabric = make_fabric("32-true", accelerator="cpu")
    return complete(RECIPE, Sitting(fabric, home / "runs", home / "results", show_progress=False))


def test_a_run_in_two_processes_stopped_and_resumed(tmp_path, expected):
    process = start(request(tmp_path))
    first = json.loads(process.stdout.readline())
    process.stdin.close()  # asks it to stop
    code, lines = ended(process)
    assert first["steps"] == 12
    assert lines[-1]["status"] == "stopped"
    assert code == STOPPED
    assert 1 <= lines[-1]["step"] < 12
    code, lines = ended(start(request(tmp_path)))
    assert code == 0
    assert lines[0]["step"] > first["step"]
    record = read_record(record_path(RECIPE, tmp_path / "results"))
    assert lines[-1]["metrics"] == record.metrics
    same(record, expected)
    left = {path.name for path in run_folder(RECIPE, tmp_path / "runs").iterdir()}
    assert left == {"lock", "checkpoint.safetensors", "previous-checkpoint.safetensors", "weights.safetensors"}


def test_an_error_in_several_processes_is_told(tmp_path):
    broken = recipe_from({**RECIPE.settings(), "start_from": "no-such"})
    code, lines = ended(start(request(tmp_path, broken)))
    assert code == FAILED
    assert lines[-1]["status"] == "failed"
    assert lines[-1]["text"].startswith("CheckpointError: ")
