"""Checkpoints: what is written is what is read, and what cannot be used is said to be so."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from course_lib.plumbing.checkpoint import (
    CheckpointError,
    load_training,
    load_weights,
    previous,
    require_finite,
    save_training,
    save_weights,
)


def network(hidden: int = 6) -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, hidden, 3), nn.BatchNorm2d(hidden), nn.Conv2d(hidden, 2, 1))
    return layers.to(memory_format=torch.channels_last)


pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "sgd with momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.95)),
    "adamw, fused": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()


def equal_states(first: dict, second: dict) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return list(first) == list(second) and all(equal_states(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return first == second


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_goes_on_as_if_it_had_never_stopped(tmp_path, name):
    path = tmp_path / "training.safetensors"
    model = network()
    optimizer = OPTIMIZERS[name](model)
    steps(model, optimizer, 3, seed=1)
    for group in optimizer.param_groups:
        group["lr"] = 0.025
    progress = {"step": 3, "belongs_to": "a run", "history": {"losses": [0.1, 1 / 3]}}
    save_training(path, model, optimizer, progress)

    torch.manual_seed(9)
    other = network()
    restored = OPTIMIZERS[name](other)
    assert load_training(path, other, restored, "a run") == progress
    assert equal_states(model.state_dict(), other.state_dict())
    saved, found = optimizer.state_dict(), restored.state_dict()
    assert saved["state"].keys() == found["state"].keys()
    for index, slots in saved["state"].items():
        assert slots.keys() == found["state"][index].keys()
        assert all(equal_states(slots[slot], found["state"][index][slot]) for slot in slots)
    assert found["param_groups"][0]["lr"] == 0.025
    for pair in ((model, optimizer), (other, restored)):
        steps(*pair, 2, seed=2)
    assert equal_states(model.state_dict(), other.state_dict())


def test_there_is_nothing_to_load_at_first(tmp_path):
    model = network()
    before = copy.deepcopy(model.state_dict())
    assert load_training(tmp_path / "none.safetensors", model, OPTIMIZERS["adamw"](model), "x") is None
    assert equal_states(model.state_dict(), before)


def saved_twice(path) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network()
    optimizer = OPTIMIZERS["adamw"](model)
    for step in (1, 2):
        steps(model, optimizer, 1, seed=step)
        save_training(path, model, optimizer, {"step": step})
    return model, optimizer


def test_the_last_but_one_checkpoint_is_kept(tmp_path):
    path = tmp_path / "training.safetensors"
    model, optimizer = saved_twice(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [previous(path).name, path.name]
    assert load_training(previous(path), model, optimizer)["step"] == 1
    assert load_training(path, model, optimizer)["step"] == 2


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_a_truncated_file_is_set_aside(tmp_path, caplog, left):
    path = tmp_path / "training.safetensors"
    model, optimizer = saved_twice(path)
    path.write_bytes(path.read_bytes()[:left])
    assert load_training(path, model, optimizer) == {"step": 1}
    assert f"{path} is damaged" in caplog.text
    assert not path.exists()
    assert path.with_name(path.name + ".damaged").exists()


def test_where_only_the_previous_one_is_left_it_is_used(tmp_path):
    path = tmp_path / "training.safetensors"
    model, optimizer = saved_twice(path)
    path.unlink()
    assert load_training(path, model, optimizer) == {"step": 1}


def test_a_training_of_another_run_changes_nothing(tmp_path):
    path = tmp_path / "training.safetensors"
    model = network()
    save_training(path, model, OPTIMIZERS["sgd"](model), {"belongs_to": "theirs"})
    other = network()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=r"another run \('theirs', this one is 'mine'\)"):
        load_training(path, other, OPTIMIZERS["sgd"](other), "mine")
    assert equal_states(other.state_dict(), before)


@pytest.mark.parametrize("other", ["network", "groups"])
def test_a_training_of_another_network_or_optimiser_changes_nothing(other, tmp_path):
    saved_twice(tmp_path / "state")
    mine = network(7 if other == "network" else 6)
    parts = [{"params": [weight]} for weight in mine.parameters()]
    optimizer = torch.optim.SGD(mine.parameters() if other == "network" else parts, lr=0.1)
    before = copy.deepcopy(mine.state_dict())
    with pytest.raises(CheckpointError, match=r"another architecture|other groups"):
        load_training(tmp_path / "state", mine, optimizer)
    assert equal_states(before, mine.state_dict())


def test_a_folder_is_no_checkpoint_and_stays(tmp_path):
    model = network()
    with pytest.raises(CheckpointError, match="is a folder"):
        load_training(tmp_path, model, torch.optim.SGD(model.parameters()))
    assert tmp_path.is_dir()


def test_weights_alone_are_no_training(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = network()
    save_weights(path, model)
    with pytest.raises(CheckpointError, match="holds weights, but no training to go on with"):
        load_training(path, model, OPTIMIZERS["sgd"](model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    path = tmp_path / "training.safetensors"
    model, optimizer = saved_twice(path)
    content = path.read_bytes()
    model[1].running_var[2] = value
    with pytest.raises(FloatingPointError, match=r"1\.running_var holds values"):
        require_finite(model)
    with pytest.raises(FloatingPointError, match=r"1\.running_var holds values"):
        save_training(path, model, optimizer, {"step": 3})
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_round_trip_with_what_is_said_about_them(tmp_path):
    path = tmp_path / "folder" / "weights.safetensors"
    model, other = network(), network()
    steps(model, OPTIMIZERS["sgd"](model), 2, seed=0)
    about = {"recipe_hash": "0123", "seed": 4, "miou": 1 / 3}
    save_weights(path, model, about=about)
    assert load_weights(path, other) == about
    assert equal_states(model.state_dict(), other.state_dict())
    save_weights(path, model)
    assert load_weights(path, other) == {}


def test_weights_in_half_precision(tmp_path):
    path, whole = tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    model, other = network(64), network(64)
    steps(model, OPTIMIZERS["sgd"](model), 3, seed=0)
    save_weights(path, model, dtype=torch.float16)
    save_weights(whole, model)
    assert path.stat().st_size < 0.75 * whole.stat().st_size
    load_weights(path, other)
    assert other[0].weight.dtype == torch.float32
    assert int(other[1].num_batches_tracked) == 3  # integers keep their type
    assert torch.equal(other[0].weight, model[0].weight.half().float())
    image = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(other.eval()(image), model.eval()(image).detach(), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: network(5), r"7 tensors missing or of another shape \(first: \['0.weight'\]\)"),
        (lambda: network()[:2], r"2 unknown \(first: \['2\."),
        (lambda: nn.Sequential(*network(), nn.Conv2d(2, 2, 1)), r"2 tensors missing .*'3.weight'"),
    ],
    ids=["another width", "fewer layers", "more layers"],
)
def test_another_architecture_is_refused_untouched(tmp_path, other, words):
    path = tmp_path / "weights.safetensors"
    save_weights(path, network())
    model = other()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=f"holds another architecture: .*{words}"):
        load_weights(path, model)
    assert equal_states(model.state_dict(), before)


def test_missing_and_truncated_weights_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match=rf"{path} does not exist"):
        load_weights(path, network())
    save_weights(path, network())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=rf"{path} is damaged"):
        load_weights(path, network())


def test_a_file_that_another_program_wrote_can_be_loaded(tmp_path):
    path = tmp_path / "weights.safetensors"
    model, other = network().to(memory_format=torch.contiguous_format), network()
    save_file(model.state_dict(), path)
    assert load_weights(path, other) == {}
    assert equal_states(model.state_dict(), other.state_dict())


def test_weights_in_another_memory_order_keep_their_values(tmp_path):
    path = tmp_path / "weights.safetensors"
    model, other = network().to(memory_format=torch.channels_last), network()
    save_weights(path, model)
    load_weights(path, other)
    assert torch.equal(model[0].weight, other[0].weight)
