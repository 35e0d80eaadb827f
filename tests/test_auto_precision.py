"""A training is in bfloat16 where that is right and, with "auto" on a CPU, where it is faster."""

import copy
import json
import logging

import pytest
import torch
from precision_helpers import loss, network
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.scenes import Street
from course_lib.models.blocks import BilinearUpsampling
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.plumbing import auto_precision, machine, precision
from course_lib.plumbing.auto_precision import BF16, FP32, WITHOUT_DEPTHWISE, choose, settle
from course_lib.plumbing.devices import make_fabric
from course_lib.plumbing.paths import runs_root
from course_lib.plumbing.precision import PARTS, findings, keep_in_fp32
from course_lib.train import Checkpoints, History, fit

CPU = torch.device("cpu")
BATCH = (torch.randn(2, 3, 16, 20),)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))


# -- a network ------------------------------------------------------------------------------------------------------


def settled(model: nn.Module, name: str = "bf16-mixed", batch=BATCH) -> str:
    return settle(make_fabric(name, accelerator="cpu"), model, loss, batch)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_network_goes_on_with_the_wrong_layer_in_float32(part, caplog):
    model = network(part)
    with caplog.at_level(logging.WARNING):
        assert settled(model) == "bf16-mixed, 1 layer in fp32"
    (line,) = caplog.messages
    assert "2, WrongConv 8 -> 8, kernel 3x3, stride 1" in line
    assert PARTS[part] in line
    exact, reduced = network(part).train(), model.train()
    gradients = []
    for one, enabled in ((exact, False), (reduced, True)):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = loss(one, *BATCH)
        kernels = [parameter for parameter in one.parameters() if parameter.ndim == 4]
        gradients.append(torch.autograd.grad(value, kernels))
    for found, wanted in zip(gradients[1], gradients[0], strict=True):
        assert functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.95


def test_a_right_network_stays_in_bfloat16_without_a_word(caplog):
    assert settled(network(None)) == "bf16-mixed"
    assert not caplog.messages


def test_settling_changes_nothing_else():
    model = network().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    settled(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_float32_needs_no_trial(monkeypatch):
    monkeypatch.setattr(precision, "errors", None)
    model = network()
    keep_in_fp32(model[2])
    assert settled(model, "32-true") == "32-true"
    assert "forward" not in vars(model[2])


def test_what_was_found_is_remembered(monkeypatch):
    assert settled(network()) == "bf16-mixed, 1 layer in fp32"
    monkeypatch.setattr(precision, "errors", None)
    assert settled(network()) == "bf16-mixed, 1 layer in fp32"
    kept = json.loads((runs_root() / "precision.json").read_text())
    assert list(kept) == [precision.kernels_of(CPU)]
    assert torch.__version__ in next(iter(kept))
    monkeypatch.setattr(precision, "kernels_of", lambda device: "another machine")
    with pytest.raises(TypeError):  # tried again there
        settled(network())


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"machine": 3}'])
def test_a_damaged_memory_is_ignored(content):
    path = runs_root() / "precision.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert settled(network()) == "bf16-mixed, 1 layer in fp32"
    assert json.loads(path.read_text())


@pytest.mark.parametrize("found", [None, "0.1", {}, {"fp32": 1.0}, [], [9.0], [0.0] * 4, ["0.1"] * 3])
def test_a_damaged_finding_is_made_again(automatic, found):
    fabric = make_fabric("auto", accelerator="cpu")
    automatic(fp32=1.0, bf16=0.5)
    assert settle(fabric, network(), loss, BATCH) == "bf16-mixed, 1 layer in fp32"
    path = runs_root() / "precision.json"
    sound = json.loads(path.read_text())
    damaged = {kernels: dict.fromkeys(part, found) for kernels, part in sound.items()}
    if found == {"fp32": 1.0}:  # sound for a network
        damaged = {kernels: {key: found for key in part if key[:7] != "network"} for kernels, part in sound.items()}
    path.write_text(json.dumps(damaged))
    assert settle(fabric, network(), loss, BATCH) == "bf16-mixed, 1 layer in fp32"
    assert json.loads(path.read_text()) == sound


# -- auto -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def automatic(monkeypatch):
    """A processor with bfloat16 on which the ways to train take the given seconds."""
    monkeypatch.delenv("COURSE_PRECISION", raising=False)
    monkeypatch.setattr("course_lib.plumbing.machine.cpu_has_bf16", lambda: True)

    def taking(**seconds: float) -> list[int]:
        measured = []
        named = {"fp32": FP32, "bf16": BF16, "mixed": WITHOUT_DEPTHWISE}
        times = {named[name]: value for name, value in seconds.items()}
        monkeypatch.setattr(auto_precision, "measure", lambda *_: measured.append(1) or times)
        return measured

    return taking


@pytest.mark.parametrize(
    ("seconds", "way"),
    [
        ({FP32: 1.0, BF16: 0.5}, BF16),
        ({FP32: 1.0, BF16: 0.92}, FP32),
        ({FP32: 1.0, BF16: 1.5}, FP32),
        ({FP32: 1.0, BF16: 0.5, WITHOUT_DEPTHWISE: 0.49}, BF16),
        ({FP32: 1.0, BF16: 1.2, WITHOUT_DEPTHWISE: 0.6}, WITHOUT_DEPTHWISE),
    ],
)
def test_a_faster_way_needs_a_margin(seconds, way):
    assert choose(seconds) == way


def test_auto_takes_what_is_faster_and_remembers_it(automatic):
    fabric = make_fabric("auto", accelerator="cpu")
    measured = automatic(fp32=1.0, bf16=2.0)
    assert settle(fabric, network(), loss, BATCH) == "32-true"
    with fabric.autocast():
        assert network(None)(BATCH[0]).dtype == torch.float32
    automatic(fp32=1.0, bf16=0.5)  # a clock that says otherwise
    assert settle(make_fabric("auto", accelerator="cpu"), network(), loss, BATCH) == "32-true"
    assert len(measured) == 1
    other = (torch.randn(2, 3, 16, 24),)
    assert settle(fabric, network(), loss, other) == "bf16-mixed, 1 layer in fp32"
    with fabric.autocast():
        assert network(None)(BATCH[0]).dtype == torch.bfloat16


def test_auto_may_leave_depthwise_convolutions_in_float32(automatic):
    automatic(fp32=1.0, bf16=2.0, mixed=0.5)
    torch.manual_seed(0)
    frozen = BilinearUpsampling(2, 2, learned=False)  # grouped, and in float32 by itself
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1), frozen)
    assert settle(make_fabric("auto", accelerator="cpu"), model, loss, BATCH) == "bf16-mixed, 1 layer in fp32"
    assert ["forward" in vars(layer) for layer in model] == [False, True, False, False]


def test_a_wrong_layer_is_in_float32_beside_the_depthwise_ones(automatic):
    automatic(fp32=1.0, bf16=2.0, mixed=0.5)
    depthwise = nn.Conv2d(3, 3, 1, groups=3)
    model = nn.Sequential(depthwise, *network(1))
    assert settle(make_fabric("auto", accelerator="cpu"), model, loss, BATCH) == "bf16-mixed, 2 layers in fp32"
    assert ["forward" in vars(layer) for layer in model] == [True, False, False, True, False, False]


def test_nothing_is_said_of_wrong_layers_where_all_is_float32(automatic, caplog):
    automatic(fp32=1.0, bf16=2.0)
    assert settle(make_fabric("auto", accelerator="cpu"), network(1), loss, BATCH) == "32-true"
    assert not caplog.messages


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_torch_cannot_copy_is_refused(norm):
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)))
    loss(model, *BATCH)
    with pytest.raises(ValueError, match="or set COURSE_PRECISION=fp32"):
        settled(model)


def test_a_forced_precision_is_not_measured(automatic):
    measured = automatic(fp32=1.0, bf16=2.0)
    assert settled(network(), "bf16-mixed") == "bf16-mixed, 1 layer in fp32"
    assert not measured


def test_every_way_is_measured_on_a_copy(automatic):
    torch.manual_seed(0)
    model = DeepLabV3Plus(3, depth=18, width=8, channels=8, low_channels=4)
    before = copy.deepcopy(model.state_dict())
    labels = torch.randint(3, (2, 32, 32))
    settle(
        make_fabric("auto", accelerator="cpu"),
        model,
        lambda model, images, labels: functional.cross_entropy(model(images), labels),
        (torch.randn(2, 3, 32, 32), labels),
    )
    with findings(CPU) as known:
        (found,) = (value for key, value in known.items() if key.startswith("network"))
    assert set(found) == {FP32, BF16, WITHOUT_DEPTHWISE}
    assert all(seconds > 0 for seconds in found.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_measuring_stops_when_it_is_clear(monkeypatch):
    model = network(None)
    now, passes = [0.0], []

    def step() -> Tensor:
        reduced = torch.is_autocast_enabled("cpu")
        passes.append(reduced)
        now[0] += 0.01 if reduced else slow
        return loss(model, *BATCH)

    monkeypatch.setattr(auto_precision.time, "perf_counter", lambda: now[0])
    for slow, rounds in ((0.02, 1), (0.012, auto_precision.ROUNDS), (0.005, auto_precision.ROUNDS)):
        passes.clear()
        found = auto_precision.measure(model, step, torch.bfloat16, {BF16: []})
        assert found == pytest.approx({BF16: 0.01, FP32: slow})
        assert passes == [True, False] * rounds
    assert all(parameter.grad is None for parameter in model.parameters())


# -- a training -----------------------------------------------------------------------------------------------------


def pixels(part: int | None, channels: int = 11) -> nn.Sequential:
    """A small network for `fit`."""
    return nn.Sequential(network(part), nn.Upsample(size=(32, 48)), nn.Conv2d(4, channels, 1))


def trained(model: nn.Module, name: str = "bf16-mixed", steps: int = 6, **options: object) -> History:
    fabric = make_fabric(name, accelerator="cpu")
    torch.manual_seed(0)
    return fit(model, Street(8, (32, 48)), steps=steps, batch_size=2, fabric=fabric, show_progress=False, **options)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_training_with_a_wrong_layer_is_that_in_float32(part):
    exact = trained(pixels(part), "32-true")
    model = pixels(part)
    found = trained(model)
    assert (exact.precision, found.precision) == ("32-true", "bf16-mixed, 1 layer in fp32")
    assert found.losses == pytest.approx(exact.losses, rel=0.02)
    assert found.losses != exact.losses
    assert list(model.state_dict()) == list(pixels(None).state_dict())


@pytest.mark.usefixtures("one_thread")
def test_a_training_that_auto_makes_in_float32_has_the_bits_of_float32(automatic):
    automatic(fp32=1.0, bf16=2.0)
    chosen, exact = pixels(1), pixels(1)
    history = trained(chosen, "auto")
    assert history.precision == "32-true"
    assert history.losses == trained(exact, "32-true").losses
    assert same(chosen, exact)


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_training_takes_the_same_layers_in_float32(tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, _: float) -> None:
        if done == 4:
            raise Killed

    whole, model = pixels(1), pixels(1)
    expected = trained(whole)
    kept = {"checkpoints": Checkpoints(tmp_path / "checkpoint.safetensors", every=3)}
    with pytest.raises(Killed):
        trained(model, on_step=kill, **kept)
    again = pixels(1)
    history = trained(again, **kept)
    assert (history.losses, history.precision) == (expected.losses, "bf16-mixed, 1 layer in fp32")
    assert same(whole, again)


def test_the_first_device_decides(monkeypatch):
    monkeypatch.setattr(auto_precision, "first_decides", lambda fabric, plan: (BF16, ["0", "4"], ["0: why", "4: why"]))
    model = network(None)
    assert settled(model) == "bf16-mixed, 2 layers in fp32"
    assert ["forward" in vars(layer) for layer in model] == [True, False, False, False, True]


# -- this processor's kernels ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not machine.cpu_has_bf16(), reason="no bfloat16 in hardware")
def test_kernels_of_this_processor_are_right_or_their_network_avoids_them():
    """Small transposed kernels of 8x8: some processors return garbage for them, and then the guard finds it."""
    for channels in (4, 12):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2), nn.ConvTranspose2d(channels, channels, 8, 2))
        model.to(memory_format=torch.channels_last)
        settled(model)
        images = BATCH[0].contiguous(memory_format=torch.channels_last)
        gradients = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                value = loss(model, images)
            gradients.append(torch.autograd.grad(value, [model[0].weight, model[1].weight]))
        for exact, found in zip(*gradients, strict=True):
            assert (found - exact).norm() < 0.05 * exact.norm()
