"""When a pass is replayed and when it is computed, with a recording that stands for a card's."""

import copy
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from course_lib.models.fcn import FCN
from course_lib.plumbing import graphs
from course_lib.plumbing.graphs import Replayed, replaying, statistics_kept


class Passes:
    """Stands for `torch.cuda.make_graphed_callables`: the network's own forward, counted."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.generator = Mock()

    def __call__(self, model: nn.Module, args: tuple[Tensor, ...], *, allow_unused_input: bool) -> nn.Module:
        assert allow_unused_input
        self.recorded += 1
        plain = model.forward
        plain(*args)  # moves the statistics, as a card's warm-up does
        torch.rand(1)

        def replay(*args: Tensor) -> object:
            self.replayed += 1
            return plain(*args)

        model.forward = replay
        return model


@pytest.fixture
def passes(monkeypatch) -> Passes:
    found = Passes()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    monkeypatch.setattr(graphs, "lies_on_a_card", lambda images: isinstance(images, Tensor))
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: fork([]))
    monkeypatch.setattr(graphs, "generator_of", lambda device: found.generator)
    return found


@pytest.fixture
def model() -> nn.Module:
    return FCN(5, stride=32, width=4, fc_channels=8, norm=True, padding="same", dropout=0.0).train()


def images(height: int = 32) -> Tensor:
    return torch.randn(2, 3, height, 48)


def test_the_first_pass_is_recorded_and_all_that_are_alike_are_replayed(passes, model):
    with replaying(model) as begin:
        begin()
        for _ in range(3):
            model(images()).sum().backward()
        assert (passes.recorded, passes.replayed) == (1, 3)
        model(images(64)).sum().backward()
        model(images().contiguous(memory_format=torch.channels_last)).sum().backward()
        assert (passes.recorded, passes.replayed) == (1, 3)


def test_a_second_pass_before_the_first_has_gone_back_is_computed(passes, model):
    model.forward = Replayed(model)
    one, other = model(images()), model(images())
    assert passes.replayed == 1
    (one.sum() + other.sum()).backward()
    model(images())
    assert passes.replayed == 2


def test_what_is_not_trained_is_computed(passes, model):
    model.forward = Replayed(model)
    with torch.no_grad():
        model(images())
    model.eval()(images())
    assert (passes.recorded, passes.replayed) == (0, 0)


def test_recording_leaves_statistics_and_random_numbers(passes, model):
    twin, seen = copy.deepcopy(model), images()
    model.forward = Replayed(model)
    torch.manual_seed(3)
    model(seen)
    after = torch.rand(1)
    torch.manual_seed(3)
    twin(seen)
    assert after == torch.rand(1)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_network_that_cannot_be_recorded_is_computed(monkeypatch, passes, model, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    model.forward = Replayed(model)
    with caplog.at_level("INFO"):
        assert model(images()).shape == (2, 5, 32, 48)
        model(images())
    assert caplog.text.count("not permitted") == 1
    passes.generator.graphsafe_set_state.assert_called_once_with(passes.generator.clone_state.return_value)
    assert isinstance(model.forward, Replayed)


def test_afterwards_and_in_copies_the_forward_is_the_plain_one(passes, model):
    with replaying(model) as begin:
        begin()
        model(images())
        twin = copy.deepcopy(model)
        twin(images())
        assert passes.replayed == 1
        assert twin.forward.__self__ is twin
    assert "forward" not in vars(model)
    with replaying(model):
        pass
    assert "forward" not in vars(model)


def test_the_switch(monkeypatch, passes, model):
    monkeypatch.setenv(graphs.SWITCH, "0")
    with replaying(model) as begin:
        begin()
        model(images())
    assert passes.recorded == 0


def test_buffers_keep_their_memory():
    norm = nn.BatchNorm2d(3)
    before = norm.running_mean.data_ptr()
    with statistics_kept(norm):
        norm(torch.randn(2, 3, 4, 4) + 1)
        assert norm.running_mean.sum() != 0
    assert norm.running_mean.data_ptr() == before
    assert norm.running_mean.sum() == 0
    assert norm.num_batches_tracked == 0


def test_a_card_alone_replays():
    assert not graphs.lies_on_a_card(torch.zeros(1))
    assert not graphs.lies_on_a_card("text")


def test_what_takes_more_than_pictures_is_computed(passes):
    class Pair(nn.Module):
        def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
            return images.sum() + boxes.sum()

    model = Pair().train()
    model.forward = Replayed(model)
    assert model(torch.ones(2), torch.ones(3)) == 5
    assert passes.recorded == 0
