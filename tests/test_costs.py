"""What is counted and timed is what was said."""

import gc

import pytest
import torch
from torch import nn

from course_lib.costs import activation_bytes, in_turn, peak_memory_mib, reset_peak_memory
from course_lib.models.unet import UNet

MAP = 16 * 24 * 4  # bytes of one map of 16x24 floats


def conv(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)


class Twice(nn.Module):
    """Three layers that read the same map, one of them a part of it."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right, self.part = (conv(3, 8), conv(8, 2), conv(8, 2), conv(4, 2))

    def forward(self, x):
        x = self.first(x)
        return self.left(x) + self.right(x) + self.part(x[:, :4])


@pytest.mark.parametrize(
    ("network", "maps"),
    [
        (conv(3, 8), 0),  # reads the picture alone
        (nn.Sequential(conv(3, 8), conv(8, 2)), 8),  # the second one's input
        (nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2)), 8),  # ReLU's output is that input
        (nn.Sequential(conv(3, 8), nn.Sigmoid(), nn.ReLU()), 16),
        (Twice(), 8),
        (nn.Sequential(conv(3, 8), nn.Tanh(), nn.Upsample(scale_factor=2)), 8),
    ],
)
def test_each_map_that_is_kept_counts_once(network, maps):
    assert activation_bytes(network, torch.randn(1, 3, 16, 24)) == maps * MAP
    assert activation_bytes(network, torch.randn(5, 3, 16, 24)) == 5 * maps * MAP


def test_positions_of_maxima_count_at_eight_bytes_each():
    network = nn.Sequential(conv(3, 8), nn.MaxPool2d(2))
    # the pooling keeps its input, and its positions at a quarter of the size
    assert activation_bytes(network, torch.randn(1, 3, 16, 24)) == 8 * MAP + 2 * 8 * MAP // 4


def test_normalisation_is_taken_as_in_training_and_the_model_stays_as_it_was():
    network = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    kept = activation_bytes(network, torch.randn(2, 3, 16, 24))
    assert 0 <= kept - 2 * 16 * MAP <= 256  # input and output, and eight means and deviations
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    dropping = nn.Sequential(conv(3, 8), nn.Dropout(0.5), conv(8, 2)).eval()
    assert activation_bytes(dropping, torch.randn(2, 3, 16, 24)) > 2 * 8 * MAP  # the mask, too


def test_without_gradients_around_it():
    network, images = nn.Sequential(conv(3, 8), conv(8, 2)), torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        assert activation_bytes(network, images) == 8 * MAP
    with pytest.raises(ValueError, match="no parameter of this Sequential learns"):
        activation_bytes(network.requires_grad_(False), images)


def test_on_the_meta_device_the_same_number_without_computing():
    real = UNet(3, width=4, norm=True, padding="same")
    with torch.device("meta"):
        shape = UNet(3, width=4, norm=True, padding="same")
        images = torch.zeros(2, 3, 32, 48)
    found = activation_bytes(real, torch.randn(2, 3, 32, 48))
    assert found == activation_bytes(shape, images) > 0


def test_contestants_take_turns_and_the_median_counts():
    called, now = [], [0.0]
    cost = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 4.0, 4.0, 4.0])}

    def contestant(name):
        called.append(name)
        now[0] += next(cost[name])

    calls = {name: lambda name=name: contestant(name) for name in cost}
    found = in_turn(calls, repeats=3, warm_up=1, clock=lambda: now[0])
    assert found == {"a": 2.0, "b": 4.0}
    assert called == ["a", "b"] * 4


def test_garbage_collection_is_as_it_was():
    gc.disable()
    try:
        in_turn({"a": lambda: None}, repeats=1)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ZeroDivisionError):
        in_turn({"a": lambda: 1 / 0}, repeats=1, warm_up=0)
    assert gc.isenabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU there")
def test_the_peak_of_a_process_is_that_of_a_run_only_where_it_did_nothing_else():
    assert 50 < peak_memory_mib(own_process=True) < 2**20
    assert peak_memory_mib(own_process=False) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_the_gpu_begins_anew():
    large = torch.zeros(2**26, device="cuda")
    assert peak_memory_mib(own_process=False) >= 256
    del large
    reset_peak_memory()
    assert peak_memory_mib(own_process=False) < 256
