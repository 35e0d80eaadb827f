"""ENet, ERFNet, Fast-SCNN: the published counts, how far they see, what they cost, and each one's idea."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from course_lib.costs import count_parameters, multiply_adds
from course_lib.models.enet import DILATIONS, Bottleneck, Downsampling, ENet
from course_lib.models.erfnet import ERFNet, Residual, factorised
from course_lib.models.fast_scnn import FastSCNN, SeparableConv
from course_lib.receptive_field import receptive_fields

pytestmark = pytest.mark.usefixtures("one_thread")


def normalised(module: nn.Module) -> int:
    return sum(count_parameters(layer) for layer in module.modules() if isinstance(layer, nn.BatchNorm2d))


# -- all three ----------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_authors():
    with torch.device("meta"):
        assert [count_parameters(ENet(classes)) for classes in (11, 19)] == [363_791, 364_311]
        assert [count_parameters(ERFNet(classes)) for classes in (11, 19)] == [2_063_671, 2_064_191]
        fast = FastSCNN(19)
        assert [count_parameters(FastSCNN(11)), count_parameters(fast)] == [1_136_763, 1_137_795]
    assert count_parameters(fast) - normalised(fast) == 1_114_115  # the paper's 1.11 M
    encoders_classifier = 128 * 20 + 20
    with torch.device("meta"):
        assert count_parameters(ENet(20)) + encoders_classifier == 366_956  # the paper's 0.37 M, Void and all


def enet_by_formula(classes: int, port: bool) -> int:
    """Parameters of ENet by arithmetic: the authors', or those of a PyTorch port (davidtvs/PyTorch-ENet).

    The port narrows by a quarter of what goes in, has one slope a layer, an activation after each expansion and between
    the asymmetric pair, 2x2 in the deconvolutions of its decoder, 3x3 in the last, and no biases.
    """

    def slopes(*channels: int) -> int:
        return len(channels) if port else sum(channels)

    bias, deconvolution, last = (0, 2, 3) if port else (1, 3, 2)
    total = 13 * 27 + bias * 13 + 2 * 16 + slopes(16)  # initial block

    def block(channels: int, inner: int, middle: int, between: bool, prelu: bool) -> int:
        norms = 2 * (2 * inner + channels) + (2 * inner if between else 0)
        activations = [inner, inner, channels] + [inner] * between + [channels] * port
        convolutions = 2 * channels * inner + middle * inner**2 + bias * inner
        return convolutions + norms + (slopes(*activations) if prelu else 0)

    for before, channels, times in ((16, 64, [9] * 4), (64, 128, [9 if d else 10 for d in DILATIONS] * 2)):
        inner = (before if port else channels) // 4
        total += 4 * before * inner + 9 * inner**2 + bias * inner + inner * channels + 2 * (2 * inner + channels)
        total += slopes(inner, inner, channels, *[channels] * port)
        total += sum(block(channels, channels // 4, n, port and n == 10, True) for n in times)
    for before, channels, count in ((128, 64, 2), (64, 16, 1)):
        inner = (before if port else channels) // 4
        total += before * channels + 2 * channels + before * inner + deconvolution**2 * inner**2 + bias * inner
        total += inner * channels + 2 * (2 * inner + channels)
        total += count * block(channels, channels // 4, 9, False, False)
    return total + 16 * classes * last**2 + bias * classes


def test_the_ports_count_is_explained():
    assert enet_by_formula(11, port=False) == 363_791
    assert [enet_by_formula(classes, port=True) for classes in (11, 19)] == [350_508, 351_660]


@pytest.mark.parametrize(
    ("make", "layer", "size", "stride"),
    [
        (ENet, "stage3", 1217, 8),
        (lambda: ENet(dilated=False), "stage3", 385, 8),
        (ERFNet, "stage3", 1183, 8),
        (lambda: ERFNet(dilated=False), "stage3", 351, 8),
        (FastSCNN, "global_features.8", 447, 32),
    ],
)
def test_how_far_the_deepest_cells_see(make, layer, size, stride):
    field = receptive_fields(make(), (64, 64), training=True)[layer]
    assert (field.size, field.jump) == (size, stride)


def test_multiply_adds_are_those_of_the_published_networks():
    """ENet 3.83 and ERFNet 15.03 GFLOPs are twice these and a little for what is no convolution."""
    with torch.device("meta"):
        small, wide = torch.zeros(1, 3, 120, 160), torch.zeros(1, 3, 360, 480)
        found = [multiply_adds(make(11), size) for make in (FastSCNN, ENet, ERFNet) for size in (small, wide)]
        published = (
            multiply_adds(ENet(19), torch.zeros(1, 3, 360, 640)),
            multiply_adds(ERFNet(19), torch.zeros(1, 3, 256, 512)),
        )
    assert [round(count / 1e9, 3) for count in found] == [0.063, 0.562, 0.141, 1.271, 0.972, 8.746]
    assert [round(count / 1e9, 2) for count in published] == [1.72, 6.65]


def test_what_a_convolution_costs():
    """3 -> 5 maps with 3x3 weights at 8x10 places; counting leaves the network as it was."""
    layer = nn.Conv2d(3, 5, 3, padding=1).train()
    assert multiply_adds(layer, torch.zeros(2, 3, 8, 10)) == 2 * 80 * 5 * 3 * 9
    assert layer.training


# -- ENet ---------------------------------------------------------------------------------------------


def test_dilation_costs_nothing():
    with torch.device("meta"):
        plain, dilated = ENet(dilated=False), ENet()
    assert count_parameters(plain) == count_parameters(dilated)
    picture = torch.zeros(1, 3, 64, 96, device="meta")
    assert multiply_adds(plain, picture) == multiply_adds(dilated, picture)


def test_the_decoders_slopes_can_be_learnt():
    more = count_parameters(ENet(decoder_prelu=True)) - count_parameters(ENet())
    assert more == 3 * (16 + 16 + 64) + 2 * (4 + 4 + 16)


def test_nothing_stands_between_5x1_and_1x5():
    kinds = [type(layer).__name__ for layer in Bottleneck(16, dilation=None).branch]
    assert kinds[2:6] == ["PReLU", "Conv2d", "Conv2d", "BatchNorm2d"]


def test_a_strided_2x2_reads_every_pixel():
    """A strided 1x1 convolution would read a quarter."""
    picture = torch.randn(1, 4, 8, 9, requires_grad=True)
    block = Downsampling(4, 8, 0.0).eval()
    (slope,) = torch.autograd.grad(block.branch[0](functional.pad(picture, (0, 1))).sum(), picture)
    assert bool((slope != 0).all())
    found, positions = block(picture)
    assert found.shape == (1, 8, 4, 5)
    assert positions.shape == (1, 4, 4, 5)  # those of the maps that were pooled


def test_pooling_and_convolution_meet_at_odd_sizes():
    """Where the pooling rounds down and the convolution up, 181 pixels become 90 and 91 cells."""
    picture = torch.randn(1, 3, 181, 63)
    assert functional.max_pool2d(picture, 2).shape[-2] == 90
    net = ENet(5, width=4).eval()
    assert net.initial(picture).shape[-2:] == net.initial_pool(picture).shape[-2:] == (91, 32)
    assert net(picture).shape[-2:] == (181, 63)


# -- ERFNet -------------------------------------------------------------------------------------------


def test_the_three_blocks():
    with torch.device("meta"):
        blocks = ("non_bottleneck_1d", "non_bottleneck", "bottleneck")
        assert [count_parameters(Residual(128, block=b)) for b in blocks] == [197_632, 295_680, 17_984]
        assert [count_parameters(ERFNet(11, block=b)) for b in blocks] == [2_063_671, 3_022_199, 305_607]
    with pytest.raises(ValueError, match="'basic' is none of non_bottleneck_1d, non_bottleneck, bottleneck"):
        Residual(8, block="basic")


def test_the_papers_table_of_weights():
    """Table I: a layer of 64 maps (a bottleneck of 256 and 64), without biases; a third less."""
    weights = {"non_bottleneck": 73_728, "non_bottleneck_1d": 49_152}
    for block, expected in weights.items():
        found = sum(p.numel() for p in Residual(64, block=block).parameters() if p.ndim == 4)
        assert found == expected
    assert sum(p.numel() for p in Residual(256, block="bottleneck").parameters() if p.ndim == 4) == 69_632


def test_only_the_second_pair_is_dilated():
    dilations = [layer.dilation for layer in Residual(4, dilation=8).branch if isinstance(layer, nn.Conv2d)]
    assert dilations == [(1, 1), (1, 1), (8, 8), (8, 8)]


@torch.no_grad()
@pytest.mark.parametrize("dilation", [1, 3])
def test_a_3x3_convolution_is_exactly_two_through_three_times_the_maps(dilation):
    torch.manual_seed(0)
    whole = nn.Conv2d(6, 5, 3, padding=dilation, dilation=dilation)
    picture = torch.randn(2, 6, 17, 19)
    pair = factorised(whole, 15)
    assert [layer.kernel_size for layer in pair] == [(3, 1), (1, 3)]
    torch.testing.assert_close(pair(picture), whole(picture))
    errors = [float((factorised(whole, rank)(picture) - whole(picture)).norm()) for rank in (1, 5, 10, 15)]
    assert errors == sorted(errors, reverse=True)


@torch.no_grad()
def test_a_kernel_of_rank_one_is_a_pair():
    whole = nn.Conv2d(1, 1, 3, padding=1)
    whole.weight.copy_(torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([-1.0, 0, 1]))
    picture = torch.randn(1, 1, 9, 9)
    torch.testing.assert_close(factorised(whole, 1)(picture), whole(picture))


# -- Fast-SCNN ----------------------------------------------------------------------------------------


def test_no_activation_between_depthwise_and_pointwise():
    kinds = [type(layer).__name__ for layer in SeparableConv(4, 8)]
    assert kinds == ["Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d", "ReLU"]


def test_the_fusion_reaches_as_far_as_it_upsamples():
    depthwise = FastSCNN().fuse_deep[0]
    assert (depthwise.dilation, depthwise.groups, depthwise.kernel_size) == ((4, 4), 128, (3, 3))


@torch.no_grad()
def test_the_skip_of_a_trained_network_can_be_zeroed():
    torch.manual_seed(0)
    net, picture = FastSCNN(3, width=8).eval(), torch.randn(2, 3, 120, 160)
    fine, deep = net.encode(picture)
    assert (fine.shape, deep.shape) == ((2, 16, 15, 20), (2, 32, 4, 5))
    with_skip = net(picture)
    net.skip = False
    zeroed = net(picture)
    assert not torch.allclose(with_skip, zeroed)
    net.skip = True
    net.fuse_skip[-1].weight.zero_()  # what comes through the skip is then its bias, which is zero at first
    torch.testing.assert_close(net(picture), zeroed)
    without = FastSCNN(3, width=8, skip=False)
    assert count_parameters(net) - count_parameters(without) == 16 * 32 + 2 * 32
