"""A card against the CPU: the same training, the same measures, and a run that goes on after its process died."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_helpers import street_recipe

from course_lib import train
from course_lib.calibration import CalibrationError
from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.data.stream import training_batches
from course_lib.data.transforms import denormalise, train_transform
from course_lib.experiments.building import Sitting
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import Record, read_record, record_path, run_folder
from course_lib.experiments.refinement import evaluate_refinement, refinement_numbers
from course_lib.experiments.runs import complete
from course_lib.implicit_background import ExpectedNonDistinctiveness
from course_lib.latent import class_region, linearise, refine
from course_lib.losses import Objective, cross_entropy, pixel_objective
from course_lib.metrics import ConfusionMatrix
from course_lib.models.cvae import CVAE
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.drn import DRN
from course_lib.models.fcn import FCN
from course_lib.models.pspnet import PSPNet
from course_lib.models.segnet_basic import SegNetBasic
from course_lib.models.unet import UNet
from course_lib.plumbing.devices import make_fabric
from course_lib.plumbing.exact import exact
from course_lib.plumbing.graphs import SWITCH, Replayed
from course_lib.train import Checks, TrainingDiverged, evaluate, fit

CARD = "cuda"
SIZE = (64, 96)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # they differ from machine to machine
]


# -- precision --------------------------------------------------------------------------------------


def error_of(operation, *values: Tensor) -> float:
    """Return the relative error of an operation in float32 on the card, against float64 on the CPU."""
    found = operation(*(value.to(CARD) for value in values)).cpu().double()
    wanted = operation(*(value.double() for value in values))
    return float((found - wanted).norm() / wanted.norm())


OPERATIONS = {
    "convolution": (nn.functional.conv2d, (8, 64, 48, 48), (64, 64, 3, 3)),
    "product": (torch.matmul, (512, 1024), (1024, 512)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_is_exact_inside_and_as_before_outside(name):
    operation, *sizes = OPERATIONS[name]
    values = [torch.randn(size) for size in sizes]
    switch = torch.backends.cudnn.conv if name == "convolution" else torch.backends.cuda.matmul
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "tf32"
        with exact():
            assert error_of(operation, *values) < 2e-6
        if torch.cuda.get_device_capability() >= (8, 0):
            assert error_of(operation, *values) > 5e-5  # TF32
    finally:
        switch.fp32_precision = before


# -- one training on both ---------------------------------------------------------------------------


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "UNet":
        return UNet(11, width=8, depth=3, norm=True, padding="same", dropout=0.0)
    return FCN(11, stride=8, width=8, fc_channels=32, norm=True, padding="same", dropout=0.0)


def trained(kind: str, accelerator: str, **options: object) -> tuple[nn.Module, list[float]]:
    model = network(kind)
    usual = {"steps": 12, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.02, "show_progress": False}
    fabric = make_fabric("32-true", accelerator=accelerator)
    history = fit(model, Street(8, SIZE, seed=1), fabric=fabric, **(usual | options))
    return model, history.losses


@pytest.mark.parametrize("kind", ["UNet", "FCN"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@exact()
def test_a_card_trains_as_the_cpu_does(kind, optimizer):
    options = {"optimizer": optimizer, "learning_rate": {"sgd": 0.02, "adamw": 1e-3}[optimizer]}
    (on_cpu, expected), (on_card, found) = (trained(kind, place, **options) for place in ("cpu", CARD))
    assert next(on_card.parameters()).is_cuda
    assert found == pytest.approx(expected, rel=5e-3)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[-1] < 0.9 * found[0]
    held_out = Street(4, SIZE, seed=2)
    counts = [evaluate(model, held_out, show_progress=False).counts.cpu() for model in (on_cpu, on_card)]
    moved = (counts[0] - counts[1]).abs().sum() / 2
    assert moved <= 0.02 * counts[0].sum()


@exact()
def test_a_card_sees_the_same_changed_pictures():
    """Crop, scale, flip and jitter follow from seed and draw, wherever they are made."""
    transform = train_transform(crop=(48, 64), scale=(0.7, 1.5), flip=True, jitter=0.3)
    expected, found = (trained("FCN", place, transform=transform)[1] for place in ("cpu", CARD))
    assert found == pytest.approx(expected, rel=2e-2)


# -- passes that are replayed ------------------------------------------------------------------------

REPLAYED = {
    "FCN": lambda: FCN(11, stride=8, width=8, fc_channels=32, norm=True, padding="same", dropout=0.0),
    "UNet": lambda: UNet(11, width=8, depth=3, norm=True, padding="same", dropout=0.0),
    "SegNet": lambda: SegNetBasic(11, width=8),
    "DeepLabV3Plus": lambda: DeepLabV3Plus(11, depth=18, width=8),
    "PSPNet": lambda: PSPNet(11, depth=18, width=8),
    "DRN": lambda: DRN(11, arch="C-26", width=4),
}


def replayed(
    monkeypatch, make, switch: str, objective: Objective | None = None, nudge: float = 0.0
) -> tuple[nn.Module, list[float]]:
    """Train the network that `make` returns, with graphs ("1") or without ("0"); it says whether there was one.

    Each weight begins at 1 + `nudge` times a random number of its value.
    """
    seen = []
    record = Replayed._record
    monkeypatch.setattr(Replayed, "_record", lambda self, images: seen.append(record(self, images)) or seen[-1])
    monkeypatch.setattr(train, "PAYS_AFTER", 1)
    monkeypatch.setenv(SWITCH, switch)
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for weight in model.parameters() if nudge else ():
            weight.mul_(1 + nudge * torch.randn_like(weight))
    options = {"steps": 4, "batch_size": 4, "optimizer": "sgd", "learning_rate": 2e-3, "show_progress": False}
    checks = Checks(Street(4, SIZE, seed=2), every=2)
    history = fit(
        model, Street(8, SIZE, seed=1), fabric=make_fabric("32-true"), objective=objective, checks=checks, **options
    )
    monkeypatch.undo()
    assert "forward" not in vars(model)
    assert [graph is not None for graph in seen] == ([True] if switch == "1" else [])
    return model, history.losses


@pytest.mark.parametrize("name", REPLAYED)
@exact()
def test_a_replayed_training_is_the_plain_one(monkeypatch, name):
    """Losses and running statistics, within what rounding makes of them.

    In four steps a DRN of this width makes two per cent of a millionth of its weights, other networks less than a
    thousandth: what a nudge of that size does is measured beside it.
    """
    (model, expected), (twin, found) = (replayed(monkeypatch, REPLAYED[name], switch) for switch in "01")
    _, nudged = replayed(monkeypatch, REPLAYED[name], "0", nudge=1e-6)
    grown = max(abs(one / other - 1) for one, other in zip(nudged, expected, strict=True))
    assert grown < 0.1
    assert found == pytest.approx(expected, rel=1e-3 + 3 * grown)
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for (key, one), (_, other) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        within = {"rtol": 1e-2 + 3 * grown, "atol": 1e-3 + grown}
        torch.testing.assert_close(other, one, **within, msg=lambda text, key=key: f"{key}: {text}")


@exact()
def test_two_passes_of_a_step_are_not_mixed(monkeypatch):
    def twice(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(images), labels) + cross_entropy(model(images.flip(-1)), labels.flip(-1))

    (_, expected), (_, found) = (replayed(monkeypatch, REPLAYED["FCN"], switch, twice) for switch in "01")
    assert found == pytest.approx(expected, rel=1e-3)


class Waits(nn.Module):
    """A network that looks at its maps, which no graph may."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 11, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        maps = nn.functional.dropout(self.layer(images))
        return maps if float(maps.detach().mean()) > -1e9 else -maps


def test_what_cannot_be_recorded_is_trained_as_ever(monkeypatch):
    monkeypatch.setattr(train, "PAYS_AFTER", 1)
    history = fit(Waits(), Street(8, SIZE, seed=1), steps=6, batch_size=4, show_progress=False)
    assert len(history.losses) == 6
    assert trained("FCN", CARD)[1][-1] > 0  # the card goes on


@pytest.mark.parametrize("changes", [{"scale": (0.7, 1.5), "jitter": 0.3}, {"elastic": 3.0, "scale": (0.8, 1.2)}])
def test_a_card_makes_the_batches_of_the_loader(changes):
    """Within rounding, and without waiting for what the card still computes."""
    options = {"steps": 6, "batch_size": 4, "transform": train_transform(crop=(48, 64), **changes), "seed": 3}
    pictures = Street(8, SIZE, seed=1)
    expected = list(training_batches(pictures, fabric=make_fabric("32-true", accelerator="cpu"), **options))
    batches = training_batches(pictures, fabric=make_fabric("32-true", accelerator=CARD), **options)
    found = [next(batches), next(batches)]  # the first ones bring the pictures and constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(part.is_cuda for batch in found for part in batch)
    for (images, labels), (on_card, labels_on_card) in zip(expected, found, strict=True):
        apart = (denormalise(images).int() - denormalise(on_card.cpu()).int()).abs()
        assert apart.max() <= 4
        assert (apart > 1).float().mean() <= 0.1
        assert (labels_on_card.cpu() != labels).float().mean() <= 1e-3


@pytest.mark.parametrize("options", [{}, {"class_weights": torch.ones(5)}])
def test_labels_without_a_channel_are_named_and_leave_the_card_whole(options):
    """A network of five classes, on streets of eleven."""
    model = FCN(5, stride=8, width=8, fc_channels=32, norm=True, padding="same", dropout=0.0)
    objective = pixel_objective(**{name: value.to(CARD) for name, value in options.items()})
    with pytest.raises(TrainingDiverged, match="no channel for"):
        fit(model, Street(8, SIZE, seed=1), steps=12, batch_size=4, objective=objective, show_progress=False)
    assert float(torch.ones(2, device=CARD).sum()) == 2


# -- measures on both -------------------------------------------------------------------------------


def test_a_card_counts_and_measures_as_the_cpu_does():
    logits, labels = 3 * torch.randn(2, 7, 40, 50), torch.randint(7, (2, 40, 50))
    labels[:, :5] = IGNORE
    found = []
    for place in ("cpu", CARD):
        there, truth = logits.to(place), labels.to(place)
        matrix, calibration = ConfusionMatrix(7, device=there.device), CalibrationError()
        matrix.update(there, truth)
        calibration.update(there.softmax(1), truth)
        modes = [float(ExpectedNonDistinctiveness(mode)(there, truth)) for mode in (1, 2)]
        found.append((matrix.counts.tolist(), [calibration.compute(), *modes]))
    assert found[0][0] == found[1][0]
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)


@exact()
def test_a_card_evaluates_as_the_cpu_does():
    model, pictures = network("UNet"), Street(5, SIZE, seed=3)
    counts = [evaluate(model.to(place), pictures, batch_size=2, show_progress=False).counts for place in ("cpu", CARD)]
    assert counts[1].sum() == counts[0].sum()
    assert (counts[0] - counts[1].cpu()).abs().sum() <= 1e-3 * counts[0].sum()


@pytest.fixture(params=["concat", "product"])
def cvae(request) -> CVAE:
    torch.manual_seed(0)
    model = CVAE(11, width=8, code_size=16, code_channels=8, size=SIZE, conditioning=request.param)
    model.spread.weight.data *= 10  # an untrained code says little
    return model.eval()


def test_a_card_refines_as_the_cpu_does(cvae):
    """Outside of `exact`, with autocast on: refinement switches both off itself."""
    pictures, found = Street(2, SIZE, seed=4), []
    _, labels, *_ = pictures[0]
    region = class_region(labels, 3, 11)
    for place in ("cpu", CARD):
        cvae.to(place)
        with torch.autocast(place, dtype=torch.bfloat16):
            linear = linearise(cvae, pictures[0].image)
            refined = refine(linear, labels, region)
            matrices = evaluate_refinement(cvae, pictures, ["Road", "Building"], show_progress=False)
        numbers = refinement_numbers(matrices, pictures.classes)
        found.append((linear.offset.cpu(), linear.jacobian.cpu(), refined, numbers))
    (*cpu, on_cpu, wanted), (*card, on_card, got) = found
    for one, other in zip(cpu, card, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    assert on_card.objectives[-1] == pytest.approx(on_cpu.objectives[-1], rel=1e-3)
    assert on_card.objectives[-1] < on_card.objectives[0]
    assert got == pytest.approx(wanted, abs=5e-3, nan_ok=True)


# -- runs that are killed, and runs on two cards ----------------------------------------------------

RECIPE = street_recipe(
    steps=150,
    batch_size=4,
    precision="32-true",
    optimizer="sgd",
    learning_rate=0.005,
    dataset_options={"train_length": 8, "val_length": 4},
    checkpoint_every=10,
    model_options={"width": 4, "fc_channels": 8, "padding": "same", "dropout": 0.0},
)


def start(home: Path, gpus: int, recipe: Recipe = RECIPE) -> subprocess.Popen:
    """Start a run in a process of its own, as `course reproduce` does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "course_lib.experiments.launch.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    asked = {"recipe": recipe.settings(), "slot": 0, "gpus": gpus, "patience": 0}
    process.stdin.write(json.dumps(asked | {"runs": str(home / "runs"), "records": str(home / "results")}) + "\n")
    process.stdin.flush()
    return process


def reports(process: subprocess.Popen) -> list[dict]:
    """What a run reports until it ends. Its stdin stays open as long: that it is closed asks the run to stop."""
    with process:
        return [json.loads(line) for line in process.stdout]


def same(record: Record, expected: Record) -> None:
    assert record.device == expected.device == CARD
    assert record.losses == pytest.approx(expected.losses, rel=1e-2)
    assert record.metrics == pytest.approx(expected.metrics, abs=2e-2)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Record:
    home = tmp_path_factory.mktemp("uninterrupted")
    return complete(RECIPE, Sitting(None, home / "runs", home / "results", show_progress=False))


def record_of(recipe: Recipe, home: Path) -> Record:
    return read_record(record_path(recipe, home / "results"))


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, uninterrupted):
    process = start(tmp_path, gpus=1)
    checkpoint = run_folder(RECIPE, tmp_path / "runs") / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert all("status" not in line for line in reports(process)), "it ended before it was killed"
    lines = reports(start(tmp_path, gpus=1))
    assert lines[-1]["status"] == "done", lines[-1]
    assert lines[0]["step"] > 10
    same(record_of(RECIPE, tmp_path), uninterrupted)


def test_a_run_whose_pictures_are_loaded_beside_it_ends(tmp_path):
    """Bent pictures with weights at their borders come from processes that the run forks."""
    recipe = replace(RECIPE, steps=20, crop=(32, 32), elastic=3.0, boundary_weight=2.0)
    lines = reports(start(tmp_path, gpus=1, recipe=recipe))
    assert lines[-1]["status"] == "done", lines[-1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_cards_train_as_one(tmp_path, uninterrupted):
    lines = reports(start(tmp_path, gpus=2))
    assert lines[-1]["status"] == "done", lines[-1]
    record = record_of(RECIPE, tmp_path)
    assert record.machine["devices"] == 2
    same(record, uninterrupted)
