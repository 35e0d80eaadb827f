"""The training loop: it learns, repeats itself bit for bit, survives being killed, and stops at nan."""

import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from course_lib.costs import count_parameters
from course_lib.data import on_device
from course_lib.data.scenes import Objects, Street
from course_lib.data.splits import Subset
from course_lib.data.transforms import normalise, train_transform
from course_lib.implicit_background import implicit_objective
from course_lib.losses import boundary_objective, pixel_objective
from course_lib.metrics import ConfusionMatrix
from course_lib.models.fcn import FCN
from course_lib.plumbing import checkpoint as checkpoints
from course_lib.plumbing import devices
from course_lib.plumbing.checkpoint import CheckpointError, load_weights, save_weights
from course_lib.plumbing.devices import make_fabric, tried_convolutions
from course_lib.train import (
    Checkpoints,
    Checks,
    Interrupted,
    TrainingDiverged,
    evaluate,
    fit,
    make_optimizer,
    predict,
    schedule,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SCENES = Street(8, (32, 48), seed=1)
EXACT = "32-true"


def small_model(seed: int = 0) -> FCN:
    torch.manual_seed(seed)
    return FCN(11, stride=16, width=4, fc_channels=16, norm=True, padding="same", dropout=0.3)


def train(model: nn.Module, **options) -> list[float]:
    """`fit` on small scenes; the losses."""
    usual = {"steps": 6, "batch_size": 4, "learning_rate": 5e-3, "show_progress": False}
    options = usual | {"fabric": make_fabric(EXACT)} | options
    return fit(model, options.pop("dataset", SCENES), **options).losses


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Stopped:
    """The usual objective, until it does `act` at step `at` (counted from 1)."""

    def __init__(self, at: int, act):
        self.at, self.act, self.step = at, act, 0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.step += 1
        loss = pixel_objective()(model, images, labels)
        return self.act(loss, model) if self.step == self.at else loss


# -- learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loss_falls(optimizer):
    rate = 5e-3 if optimizer == "adamw" else 0.1
    losses = train(small_model(), dataset=Subset(SCENES, range(4)), steps=30, optimizer=optimizer, learning_rate=rate)
    assert losses[0] == pytest.approx(math.log(11))  # scores start at zero: all classes alike
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_the_weights_that_are_trained_are_the_callers():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, steps=3)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"score.weight", "fc6.weight", "stages.0.0.weight"} <= changed
    assert "upsample.weight" not in changed  # the last interpolation is frozen


def test_history_counts_every_step():
    model = small_model()
    history = fit(
        model,
        SCENES,
        steps=7,
        batch_size=4,
        checks=Checks(Subset(SCENES, [0, 1, 2]), every=3),
        warmup_steps=2,
        learning_rate=1e-2,
        fabric=make_fabric(EXACT),
        show_progress=False,
    )
    assert len(history.losses) == 7
    assert history.learning_rates == [1e-2 * schedule(step, 7, 2, 0.9) for step in range(7)]
    assert [evaluation["step"] for evaluation in history.evaluations] == [3, 6, 7]
    assert history.seconds > 0
    measured = evaluate(model, Subset(SCENES, [0, 1, 2]), show_progress=False).summary()
    assert history.evaluations[-1] == {"step": 7, **measured}


def test_evaluating_in_between_does_not_change_the_training():
    plain, watched, measured = small_model(), small_model(), small_model()
    losses = train(plain)
    assert losses == train(watched, checks=Checks(SCENES, every=2))
    assert losses == train(measured, checks=Checks(every=2, measure=lambda model: model.eval() and {}))
    assert same_weights(plain, watched)
    assert same_weights(plain, measured)


def test_a_measure_needs_no_pictures():
    history = fit(
        small_model(), SCENES, steps=5, batch_size=2, fabric=make_fabric(EXACT), show_progress=False,
        checks=Checks(every=2, measure=lambda model: {"weights": len(list(model.parameters()))}),
    )  # fmt: skip
    assert [one["step"] for one in history.evaluations] == [2, 4, 5]
    assert all(set(one) == {"step", "weights"} for one in history.evaluations)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_precisions_train_on_the_cpu(precision):
    fabric = make_fabric(precision, accelerator="cpu")
    losses = train(small_model(), fabric=fabric, steps=8)
    exact = train(small_model(), steps=8)
    assert losses == pytest.approx(exact, rel=0.05)
    assert (losses == exact) == (precision == EXACT)


class Blind(nn.Module):
    """The same logits at every pixel, whatever the image."""

    def __init__(self, classes: int = 11):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


OBJECTIVES = {
    "plain": pixel_objective(),
    "weighted": pixel_objective(torch.linspace(0.1, 5, 11)),
    "implicit": implicit_objective(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_that_ends_at_the_constant_answer_is_reported(name, caplog):
    losses = train(Blind(), objective=OBJECTIVES[name], steps=60, learning_rate=0.3)
    assert losses[-1] < losses[0]  # it has learnt the frequencies
    assert (
        f"learnt nothing from its images: the mean of its last 10 losses is {sum(losses[-10:]) / 10:.4f}" in caplog.text
    )


def test_a_training_that_uses_its_images_is_not_reported(caplog):
    train(small_model(), dataset=Subset(SCENES, range(4)), steps=30)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "options",
    [{"steps": 19}, {"objective": boundary_objective()}, {"objective": lambda m, x, y: pixel_objective()(m, x, y)}],
    ids=["too short", "border weights", "own"],
)
def test_trainings_of_which_the_constant_loss_is_unknown_are_not_judged(options, caplog):
    train(Blind(), **({"steps": 20} | options))
    assert caplog.text == ""


# -- repeatable -------------------------------------------------------------------------------------

AUGMENTED = {"transform": train_transform(crop=(32, 32), flip=True, scale=(0.8, 1.5), jitter=0.3), "steps": 5}


def test_the_seed_decides_the_training():
    models = [small_model() for _ in range(3)]
    losses = [train(model, seed=seed, **AUGMENTED) for model, seed in zip(models, (3, 3, 4), strict=True)]
    assert losses[0] == losses[1]
    assert same_weights(models[0], models[1])
    assert losses[0] != losses[2]


def test_the_number_of_workers_does_not_matter():
    alone, helped = small_model(), small_model()
    assert train(alone, workers=0, **AUGMENTED) == train(helped, workers=2, **AUGMENTED)
    assert same_weights(alone, helped)


def test_dropout_differs_from_step_to_step():
    model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 11, 1))
    masks = []

    def objective(model, images, labels):
        masks.append(torch.rand(4).tolist())
        return pixel_objective()(model, images, labels)

    train(model, steps=3, objective=objective)
    assert len({tuple(mask) for mask in masks}) == 3


# -- the schedule -----------------------------------------------------------------------------------


def test_warm_up_rises_linearly_and_poly_falls_to_nearly_zero():
    rates = [schedule(step, 100, 4, 0.9) for step in range(100)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[52] == pytest.approx(0.5**0.9)
    assert rates[99] == pytest.approx((1 / 96) ** 0.9)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_schedule_reaches_the_optimiser():
    """One step of plain gradient descent moves the weights by the rate times the same gradient."""
    moves = []
    for warmup_steps in (0, 4):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 11, 1)
        before = model.weight.detach().clone()
        train(model, steps=1, optimizer="sgd", warmup_steps=warmup_steps, weight_decay=0.0)
        moves.append(before - model.weight.detach())
    assert moves[0].abs().max() > 1e-4
    torch.testing.assert_close(moves[1], 0.25 * moves[0], rtol=1e-3, atol=1e-7)


def test_power_zero_keeps_the_rate():
    assert {schedule(step, 50, 0, 0.0) for step in range(50)} == {1.0}


def test_a_run_that_is_all_warm_up():
    assert [schedule(step, 4, 8, 0.9) for step in range(4)] == [0.125, 0.25, 0.375, 0.5]


def test_frozen_parameters_are_not_given_to_the_optimiser():
    model = small_model()
    optimizer = make_optimizer("sgd", model, 0.1, 0.8, 1e-3)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.8, 1e-3)
    assert sum(parameter.numel() for parameter in group["params"]) == count_parameters(model)
    frozen = model.upsample.weight.numel()
    assert count_parameters(model) == sum(p.numel() for p in model.parameters()) - frozen


# -- killed and resumed -----------------------------------------------------------------------------


def run_to_the_end(folder: Path, pipe=None, sabotage: str = "") -> None:
    """Train in this process with checkpoints in `folder`; write the weights and the losses at the end.

    pipe      one message is sent at every step
    sabotage  "half a file" or "between two files": die while the second checkpoint is being written
    """
    torch.set_num_threads(1)
    torch.manual_seed(int.from_bytes(os.urandom(4), "big"))  # nothing may depend on it

    def objective(model, images, labels):
        if pipe is not None:
            pipe.send("step")
        return pixel_objective()(model, images, labels)

    writes = 0

    def dying_save(tensors, path, **options):
        nonlocal writes
        writes += 1
        save_file(tensors, path, **options)
        if writes == 2 and sabotage == "half a file":
            with open(path, "r+b") as file:
                file.truncate(path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_replace(source, target):
        if writes == 2 and sabotage == "between two files":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    save_file, replace = checkpoints.save_file, os.replace
    if sabotage:
        checkpoints.save_file = dying_save
        os.replace = dying_replace
    model = small_model()
    history = fit(
        model,
        SCENES,
        steps=14,
        batch_size=3,
        learning_rate=5e-3,
        warmup_steps=3,
        seed=5,
        transform=AUGMENTED["transform"],
        objective=objective,
        checks=Checks(Subset(SCENES, [0, 1]), every=5),
        fabric=make_fabric(EXACT),
        checkpoints=Checkpoints(folder / "training.safetensors", 2, "this run"),
        show_progress=False,
    )
    save_weights(folder / "weights.safetensors", model)
    result = {"losses": history.losses, "evaluations": history.evaluations}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def processes():
    """Processes that start with torch imported already, and with nothing else of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["course_lib.train", "course_lib.data.scenes"])
    return context


def sitting(processes, folder: Path, kill_after: int | None = None, delay: float = 0.0, sabotage: str = "") -> int:
    """Train in another process and kill it `delay` seconds after that many steps; the steps it began."""
    receiver, sender = processes.Pipe(duplex=False)
    worker = processes.Process(target=run_to_the_end, args=(folder, sender, sabotage))
    worker.start()
    sender.close()
    steps = 0
    try:
        while steps != kill_after:
            receiver.recv()
            steps += 1
        time.sleep(delay)
        worker.kill()
    except EOFError:
        pass
    finally:
        receiver.close()
        worker.join(60)
    expected = 0 if kill_after is None and not sabotage else -signal.SIGKILL
    assert worker.exitcode == expected
    return steps


def outcome(folder: Path) -> tuple[FCN, dict]:
    model = small_model(seed=99)
    load_weights(folder / "weights.safetensors", model)
    return model, json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert sitting(processes, folder) == 14
    return outcome(folder)


def same_outcome(folder: Path, expected: tuple[FCN, dict]) -> bool:
    model, result = outcome(folder)
    return same_weights(model, expected[0]) and result == expected[1]


@pytest.mark.parametrize("moments", [[(3, 0.0), (5, 0.004), (4, 0.02)], [(1, 0.01), (10, 0.008)]])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(processes, tmp_path, uninterrupted, moments):
    begun = [sitting(processes, tmp_path, *moment) for moment in moments]
    begun.append(sitting(processes, tmp_path))
    assert begun[-1] < 14  # it did resume
    assert sum(begun) <= 14 + 3 * len(moments)  # and lost two steps a kill at most, and the one begun
    assert same_outcome(tmp_path, uninterrupted)
    assert sitting(processes, tmp_path) == 0  # nothing is left to do, and the result is the same
    assert same_outcome(tmp_path, uninterrupted)


@pytest.mark.parametrize("sabotage", ["half a file", "between two files"])
def test_a_run_killed_while_it_writes_a_checkpoint(processes, tmp_path, uninterrupted, sabotage):
    assert sitting(processes, tmp_path, sabotage=sabotage) == 4
    assert list(tmp_path.glob("*.partial")) == list(tmp_path.glob(".*.partial")) != []
    assert sitting(processes, tmp_path) == 12  # from the first checkpoint, after step 2
    assert same_outcome(tmp_path, uninterrupted)


def interrupt(loss, model):
    raise KeyboardInterrupt


def stop_after(steps: int, file: Path, model: nn.Module, **options) -> None:
    """Train with a checkpoint every two steps and press Ctrl-C in the middle of the next."""
    with pytest.raises(KeyboardInterrupt):
        train(model, steps=8, checkpoints=Checkpoints(file, 2), objective=Stopped(steps + 1, interrupt), **options)


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path, steps):
    file = tmp_path / "training.safetensors"
    stop_after(steps, file, small_model())
    assert file.exists() == (steps >= 2)
    assert not list(tmp_path.glob(".*"))
    resumed, whole = small_model(seed=7 if steps >= 2 else 0), small_model()
    losses = train(resumed, steps=8, checkpoints=Checkpoints(file, 2))
    assert losses == train(whole, steps=8)
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("damage", ["cut short", "empty", "noise"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    file = tmp_path / "training.safetensors"
    stop_after(5, file, small_model(), optimizer="sgd")
    content = file.read_bytes()
    spoilt = {"cut short": content[:-100], "empty": b"", "noise": os.urandom(len(content))}
    file.write_bytes(spoilt[damage])
    resumed, whole = small_model(seed=7), small_model()
    counting = Stopped(0, None)
    losses = train(resumed, steps=8, checkpoints=Checkpoints(file, 2), optimizer="sgd", objective=counting)
    assert counting.step == 6  # from step 2
    assert losses == train(whole, steps=8, optimizer="sgd")
    assert same_weights(resumed, whole)
    assert (tmp_path / "training.safetensors.damaged").exists()
    assert "is damaged" in caplog.text
    assert "going on from the checkpoint before it" in caplog.text


def test_two_damaged_checkpoints_start_over(tmp_path):
    file = tmp_path / "training.safetensors"
    stop_after(5, file, small_model())
    for path in (file, checkpoints.previous(file)):
        path.write_bytes(b"{}")
    again, whole = small_model(), small_model()
    assert train(again, steps=8, checkpoints=Checkpoints(file)) == train(whole, steps=8)
    assert same_weights(again, whole)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "training.safetensors"
    train(small_model(), checkpoints=Checkpoints(file, belongs_to="monday"))
    content, model = file.read_bytes(), small_model(seed=1)
    with pytest.raises(CheckpointError, match=r"another run \('monday', this one is 'tuesday'\)"):
        train(model, checkpoints=Checkpoints(file, belongs_to="tuesday"))
    assert same_weights(model, small_model(seed=1))
    assert file.read_bytes() == content
    other = FCN(3, stride=32, width=8, fc_channels=8, padding="same")
    with pytest.raises(CheckpointError, match="another run"):
        train(other, checkpoints=Checkpoints(file, belongs_to="another architecture"))


# -- diverging --------------------------------------------------------------------------------------


def not_a_number(loss, model):
    return loss * math.nan


def infinite_slope(loss, model):
    """The same value, with a gradient that is not finite."""
    return loss + (0 * next(model.parameters()).sum()).abs().sqrt()


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path):
    file = tmp_path / "training.safetensors"
    model = small_model()
    with pytest.raises(TrainingDiverged, match=rf"at step 5: the loss is nan; .* is {file}\. Try"):
        train(model, checkpoints=Checkpoints(file, 2), objective=Stopped(5, not_a_number))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    resumed, whole = small_model(), small_model()
    assert train(resumed, checkpoints=Checkpoints(file)) == train(whole)  # the checkpoint of step 4 is good
    assert same_weights(resumed, whole)


def test_weights_that_are_not_numbers_are_never_kept(tmp_path):
    """The loss of step 4 is finite, its gradient is not: the checkpoint that is due is refused."""
    file = tmp_path / "training.safetensors"
    with pytest.raises(TrainingDiverged, match=r"at step 4: \S+ holds values that are not finite"):
        train(small_model(), checkpoints=Checkpoints(file, 2), objective=Stopped(4, infinite_slope))
    counting = Stopped(0, None)
    resumed, whole = small_model(), small_model()
    assert train(resumed, checkpoints=Checkpoints(file), objective=counting) == train(whole)
    assert counting.step == 4
    assert same_weights(resumed, whole)


def test_weights_that_are_not_numbers_stop_a_run_without_checkpoints():
    with pytest.raises(TrainingDiverged, match=r"at step 6: .* no checkpoint was written"):
        train(small_model(), objective=Stopped(6, infinite_slope))


# -- as on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """Pictures in memory, batches made at once, losses looked at every four steps."""
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"})
    monkeypatch.setitem(devices.LOOK_EVERY, "cpu", 4)


def test_losses_seen_late_change_nothing(monkeypatch):
    plain, late, seen = small_model(), small_model(), []
    expected = train(plain, steps=10, checks=Checks(SCENES, every=6))
    monkeypatch.setitem(devices.LOOK_EVERY, "cpu", 4)
    asked = []

    def should_stop() -> bool:
        asked.append(len(seen))
        return False

    options = {"on_step": lambda *one: seen.append(one), "should_stop": should_stop}
    assert train(late, steps=10, checks=Checks(SCENES, every=6), **options) == expected
    assert seen == list(enumerate(expected, 1))
    assert asked == [4, 6, 8]
    assert same_weights(plain, late)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize(("at", "kept"), [(3, False), (6, True), (8, True)])
def test_a_loss_seen_late_is_named_with_its_step(tmp_path, at, kept):
    file = tmp_path / "training.safetensors"
    with pytest.raises(TrainingDiverged, match=rf"at step {at}: the loss is nan"):
        train(small_model(), steps=11, checkpoints=Checkpoints(file, 5), objective=Stopped(at, not_a_number))
    assert file.exists() == kept
    if kept:
        resumed, whole = small_model(), small_model()
        assert train(resumed, steps=11, checkpoints=Checkpoints(file, 5)) == train(whole, steps=11)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_stopped_between_two_looks_and_resumed(tmp_path):
    file, whole, resumed = tmp_path / "training.safetensors", small_model(), small_model()
    expected = train(whole, **(AUGMENTED | {"steps": 9}))
    with pytest.raises(Interrupted, match="after step 4"):
        train(small_model(), checkpoints=Checkpoints(file), should_stop=lambda: True, **(AUGMENTED | {"steps": 9}))
    assert train(resumed, checkpoints=Checkpoints(file), **(AUGMENTED | {"steps": 9})) == expected
    assert same_weights(resumed, whole)


def test_pictures_kept_on_the_device_train_alike(monkeypatch):
    usual, kept = small_model(), small_model()
    expected = train(usual, **AUGMENTED)
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"})
    losses = train(kept, **AUGMENTED)
    assert losses == pytest.approx(expected, rel=5e-3)
    assert losses != expected


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimiser_takes_the_steps_of_torchs_plain_one(name):
    models = [small_model(), small_model()]
    parameters = list(models[1].parameters())
    plain = {
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01, weight_decay=1e-3, foreach=False),
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-3, foreach=False),
    }
    for model, optimizer in zip(models, (make_optimizer(name, models[0], 0.01, 0.9, 1e-3), plain[name]()), strict=True):
        for _ in range(3):
            pixel_objective()(model.eval(), normalise(SCENES[0].image)[None], SCENES[0].labels[None]).backward()
            optimizer.step()
            optimizer.zero_grad()
    first, second = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_cudnn_is_asked_to_try_and_left_as_it_was():
    before = torch.backends.cudnn.benchmark
    for worthwhile in (True, False):
        with tried_convolutions(worthwhile):
            assert torch.backends.cudnn.benchmark == worthwhile
    with pytest.raises(RuntimeError), tried_convolutions(not before):
        raise RuntimeError
    assert torch.backends.cudnn.benchmark == before


# -- impossible arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "not 0, 4 and 100"),
        ({"batch_size": 0}, "not 6, 0 and 100"),
        ({"checkpoints": Checkpoints(every=0)}, "not 6, 4 and 0"),
        ({"dataset": Subset(SCENES, [])}, "the training set is empty"),
        ({"optimizer": "adam"}, '\'adam\' is neither "adamw" nor "sgd"'),
    ],
)
def test_impossible_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        train(small_model(), **options)


def test_a_batch_divides_over_the_devices():
    class TwoDevices:
        world_size = 2

    with pytest.raises(ValueError, match="a batch of 3 does not divide over 2 devices"):
        train(small_model(), batch_size=3, fabric=TwoDevices())


def test_pictures_of_different_sizes_make_no_batch():
    with pytest.raises(ValueError, match="different sizes"):
        train(small_model(), transform=train_transform(scale=(1.1, 2.0)))


# -- measuring --------------------------------------------------------------------------------------


def test_evaluate_counts_every_picture_in_any_batch():
    model = small_model()
    train(model, steps=4)
    five = Subset(SCENES, range(5))
    expected = ConfusionMatrix(11)
    model.eval()
    for index in range(5):
        logits = model(normalise(five[index].image)[None])
        expected.update(logits, five[index].labels[None])
    for batch_size in (1, 2, 5, 64):
        model.train()
        matrix = evaluate(model, five, batch_size=batch_size, show_progress=False)
        assert int(matrix.counts.sum()) == 5 * 32 * 48
        assert (matrix.counts - expected.counts).abs().sum() <= 4  # ties in the last bit
        assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_every_part_of_a_network_in_its_mode(training):
    model = small_model().train(training)
    first = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)).train(not training)
    evaluate(model, Subset(SCENES, range(2)), show_progress=False)
    predict(model, SCENES[0].image)
    assert model.training == training
    assert first.training != training
    with pytest.raises(ValueError, match="uint8"):
        predict(model, SCENES[0].image / 255)
    assert first.training != training


@pytest.mark.parametrize("image", [torch.zeros(1, 3, 32, 48, dtype=torch.uint8), torch.zeros(3, 32, 48)])
def test_predict_takes_one_picture_of_bytes(image):
    with pytest.raises(ValueError, match=r"not \(1, 3, 32, 48\)|torch\.float32"):
        predict(small_model(), image)
    with pytest.raises(ValueError, match=r"a tensor \(3, H, W\), not .*ndarray"):
        predict(small_model(), image.numpy())


def test_one_logit_is_refused_wherever_it_comes_from():
    model = FCN(1, stride=32, width=4, fc_channels=8, padding="same")
    with pytest.raises(ValueError, match="one logit"):
        predict(model, SCENES[0].image)
    with pytest.raises(ValueError, match="one logit"):
        evaluate(model, SCENES, show_progress=False)
    with pytest.raises(ValueError, match="one logit"):
        train(model, steps=1)


def test_a_number_of_one_class_says_so(caplog):
    class Plain(Subset):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample._replace(labels=sample.labels.clamp(3, 3))

    evaluate(small_model(), Plain(SCENES, range(2)), show_progress=False)
    assert f"the truth holds one class alone, {SCENES.classes[3]}," in caplog.text
    caplog.clear()
    evaluate(small_model(), Subset(SCENES, range(2)), show_progress=False)
    assert caplog.text == ""


def test_predict_gives_the_most_likely_class():
    model = small_model()
    train(model, steps=4)
    image = SCENES[6].image
    model.train()
    prediction = predict(model, image)
    assert prediction.shape == (32, 48)
    assert prediction.dtype == torch.int64
    assert type(prediction) is Tensor
    assert torch.equal(prediction, model.eval()(normalise(image)[None]).argmax(dim=1)[0])


def test_objects_train_with_their_void_border():
    torch.manual_seed(0)
    model = FCN(9, stride=32, width=4, fc_channels=8, norm=True, padding="same")
    losses = train(model, dataset=Objects(4, (32, 32), seed=0, void_border=2), steps=3)
    assert all(math.isfinite(loss) for loss in losses)
