"""Deformable layers against torchvision's operators, the definition by hand, and finite differences."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d, ps_roi_align

from course_lib.costs import count_parameters
from course_lib.models.deformable import (
    DeformableConv2d,
    DeformableDeepLab,
    DeformablePSPooling,
    DeformableStack,
    deform_conv,
    deform_ps_pool,
    deformed,
    sample,
)
from course_lib.plumbing.rates import learning_groups
from course_lib.sampling_points import effective_dilation, layer_taps, sampling_points
from course_lib.train import make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (6, 1)])
def test_samples_are_the_papers_bilinear_sum(size):
    """Equations 3 and 4, over every cell of the map."""
    height, width = size
    maps = random(1, 2, height, width)
    rows, columns = 3 * random(1, 4, 5, seed=1), 3 * random(1, 4, 5, seed=2)
    expected = torch.zeros(1, 2, 4, 5, dtype=torch.float64)
    for row, column in itertools.product(range(height), range(width)):
        near = (1 - (rows - row).abs()).clamp(min=0) * (1 - (columns - column).abs()).clamp(min=0)
        expected += near[:, None] * maps[..., row, column, None, None]
    torch.testing.assert_close(sample(maps, rows, columns), expected, atol=1e-12, rtol=0)


# -- convolution --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "side", "dilation"), [((6, 9), 3, 1), ((7, 5), 3, 2), ((9, 9), 5, 1), ((1, 6), 3, 1)])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_a_deformable_convolution_is_torchvisions(size, side, dilation, spread):
    """With offsets that stay on the map, cross its border (where samples read a frame of zeros), and leave it."""
    x, weight, bias = random(2, 3, *size), random(4, 3, side, side, seed=1), random(4, seed=2)
    offsets = spread * random(2, 2 * side**2, *size, seed=3)
    expected = deform_conv2d(x, offsets, weight, bias, padding=dilation * (side // 2), dilation=dilation)
    torch.testing.assert_close(deform_conv(x, offsets, weight, bias, dilation), expected, atol=1e-11, rtol=0)


def test_without_offsets_it_is_the_ordinary_one():
    x, weight = random(2, 3, 6, 7), random(4, 3, 3, 3, seed=1)
    for dilation in (1, 2, 3):
        expected = functional.conv2d(x, weight, padding=dilation, dilation=dilation)
        found = deform_conv(x, torch.zeros(2, 18, 6, 7, dtype=torch.float64), weight, dilation=dilation)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilation_is_a_special_case(dilation):
    x, weight = random(1, 2, 8, 9), random(3, 2, 3, 3, seed=1)
    steps = torch.tensor([-1.0, 0, 1], dtype=torch.float64)
    taps = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # down, right
    offsets = ((dilation - 1) * taps).flatten().view(1, 18, 1, 1).expand(1, 18, 8, 9)
    by_dilation = deform_conv(x, torch.zeros_like(offsets), weight, dilation=dilation)
    assert torch.equal(deform_conv(x, offsets, weight), by_dilation)


def test_the_first_number_of_an_offset_goes_down():
    x = random(1, 1, 6, 6)
    middle = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    middle[..., 1, 1] = 1
    offsets = torch.zeros(1, 18, 6, 6, dtype=torch.float64)
    offsets[:, 8] = 1  # the fifth tap, down
    found = deform_conv(x, offsets, middle)
    torch.testing.assert_close(found[..., :-1, :], x[..., 1:, :])
    assert not found[..., -1, :].any()


def test_gradients_are_finite_differences_away_from_the_grid():
    x, weight, bias = random(1, 2, 4, 5), random(2, 2, 3, 3, seed=1), random(2, seed=2)
    offsets = torch.rand(1, 18, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    offsets += torch.randint(-3, 3, offsets.shape, generator=torch.Generator().manual_seed(4))
    inputs = [value.requires_grad_() for value in (x, offsets, weight, bias)]
    assert torch.autograd.gradcheck(deform_conv, inputs)


def test_what_reads_far_outside_is_zero_and_learns_nothing():
    x, weight = random(1, 2, 5, 5), random(1, 2, 3, 3, seed=1)
    offsets = torch.full((1, 18, 5, 5), 100.0, dtype=torch.float64, requires_grad=True)
    y = deform_conv(x, offsets, weight)
    y.sum().backward()
    assert not y.any()
    assert not offsets.grad.any()


def test_impossible_offsets_are_refused():
    x = torch.zeros(1, 2, 5, 5)
    with pytest.raises(ValueError, match=r"offsets are \(1, 18, 5, 5\), not \(1, 9, 5, 5\)"):
        deform_conv(x, torch.zeros(1, 9, 5, 5), torch.zeros(1, 2, 3, 3))
    with pytest.raises(ValueError, match="its side is odd, not 2"):
        deform_conv(x, torch.zeros(1, 8, 5, 5), torch.zeros(1, 2, 2, 2))


def test_the_layer_starts_as_the_convolution_and_learns_offsets():
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, padding=2, dilation=2)
    layer, x = deformed(plain), torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=0)
    layer(x).square().sum().backward()
    assert layer.offsets.weight.grad.abs().sum() > 0
    assert plain.weight.grad is layer.convolution.weight.grad


@pytest.mark.parametrize(
    "plain",
    [
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.Conv2d(2, 2, 3),
        nn.Conv2d(2, 2, 2, padding=1),
        nn.Conv2d(2, 2, (3, 1), padding=(1, 0)),
        nn.Conv2d(2, 2, 3, padding=1, groups=2),
    ],
)
def test_what_cannot_be_deformed_is_refused(plain):
    with pytest.raises(ValueError, match="only an odd square kernel"):
        deformed(plain)


# -- position-sensitive pooling -----------------------------------------------------------------------------------


BOXES = torch.tensor(
    [[0, 0, 12, 8], [3.5, 2, 9, 7.25], [20, 10, 28, 20], [-4, -3, 6, 6], [25, 17, 31, 23], [4, 4, 5, 5]],
    dtype=torch.float64,
)
"""On pictures of 20x28 pixels: inside, at fractions, at the last row and column, across each border, of one pixel."""
ROIS = torch.cat([torch.tensor([[0], [1], [0], [1], [1], [0]]), BOXES], dim=1)


@pytest.mark.parametrize(("bins", "scale", "samples"), [(1, 1.0, 2), (3, 0.5, 2), (3, 0.25, 4), (2, 1.0, 1)])
def test_pooling_without_moves_is_torchvisions(bins, scale, samples):
    maps = random(2, 3 * bins**2, round(20 * scale), round(28 * scale))
    expected = ps_roi_align(maps, ROIS, bins, scale, samples)
    found = deform_ps_pool(maps, ROIS, bins, scale=scale, samples=samples)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    nowhere = torch.randn(len(BOXES), 1, 2, bins, bins).double()
    still = deform_ps_pool(maps, ROIS, bins, moves=nowhere, gamma=0.0, scale=scale, samples=samples)
    assert torch.equal(still, found)


def test_a_move_is_a_part_of_the_box():
    """Every bin moved by the same part reads what a box moved by it reads."""
    maps, box = random(1, 18, 20, 28), torch.tensor([[0, 6.0, 4, 16, 12]], dtype=torch.float64)
    moves = torch.zeros(1, 1, 2, 3, 3, dtype=torch.float64)
    moves[:, :, 0], moves[:, :, 1] = 2.5, -1.0  # times gamma 0.1: a quarter of the height down, a tenth to the left
    moved = box + torch.tensor([0, -1.0, 2, -1, 2], dtype=torch.float64)
    found = deform_ps_pool(maps, box, 3, moves=moves)
    torch.testing.assert_close(found, deform_ps_pool(maps, moved, 3), atol=1e-12, rtol=0)


def test_each_class_and_bin_has_its_map_and_its_move():
    """Class 1's lower left bin alone is moved, and its map alone is not constant."""
    maps = torch.zeros(1, 2 * 4, 10, 10, dtype=torch.float64)
    maps[0, 1 * 4 + 1 * 2 + 0] = torch.arange(10.0, dtype=torch.float64)  # the column's number
    box = torch.tensor([[0, 0.0, 0, 8, 8]], dtype=torch.float64)
    moves = torch.zeros(1, 2, 2, 2, 2, dtype=torch.float64)
    moves[0, 1, 1, 1, 0] = 2.5  # a quarter of the width to the right
    found = deform_ps_pool(maps, box, 2, moves=moves)
    expected = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    expected[0, 1, 1, 0] = 1.5 + 2
    torch.testing.assert_close(found, expected)


def test_gradients_of_the_pooling_are_finite_differences():
    maps = random(2, 8, 5, 7).requires_grad_()
    moves = (0.7 * random(len(BOXES), 2, 2, 2, 2, seed=1)).requires_grad_()

    rois = ROIS + torch.tensor([0, 0.123, 0.123, 0.123, 0.123], dtype=torch.float64)

    def pool(maps: Tensor, moves: Tensor) -> Tensor:
        return deform_ps_pool(maps, rois, 2, moves=moves, scale=0.25)

    assert torch.autograd.gradcheck(pool, (maps, moves))


def test_the_module_starts_without_moves():
    torch.manual_seed(0)
    features, maps = torch.randn(2, 4, 5, 7), torch.randn(2, 18, 5, 7)
    pooling = DeformablePSPooling(4, 2, 3, scale=0.25)
    assert pooling.offsets.out_channels == 2 * 9 * 2  # 2 k^2 (C + 1), the background among the classes
    found = pooling(features, maps, ROIS.float())
    torch.testing.assert_close(found, deform_ps_pool(maps, ROIS.float(), 3, scale=0.25))
    found.square().sum().backward()
    assert pooling.offsets.weight.grad.abs().sum() > 0


# -- networks -----------------------------------------------------------------------------------------------------


def test_what_offsets_cost():
    with torch.device("meta"):
        with_offsets, without = DeformableDeepLab(), DeformableDeepLab(deformable=0)
    assert count_parameters(with_offsets) - count_parameters(without) == 3 * (9 * 512 * 18 + 18) == 248_886
    dilations = [layer.dilation for layer in without.backbone.layer4.modules() if isinstance(layer, nn.Conv2d)]
    assert dilations.count((2, 2)) == 3
    with pytest.raises(ValueError, match="deformable is 0 to 3 blocks of a ResNet-101, not 4"):
        DeformableDeepLab(deformable=4)
    with pytest.raises(ValueError, match="deformable is 0 to 3 layers, not 5"):
        DeformableStack(deformable=5)


def test_the_last_layers_are_deformable():
    kinds = [type(layer[0]) for layer in DeformableStack(3, width=8, deformable=2).layers]
    assert kinds == [nn.Conv2d, DeformableConv2d, DeformableConv2d]
    blocks = DeformableDeepLab(3, depth=18, width=8, deformable=1).backbone.layer4
    assert [type(block.conv2) for block in blocks] == [nn.Conv2d, DeformableConv2d]


# -- sampling points ----------------------------------------------------------------------------------------------


def test_ordinary_layers_read_a_regular_grid():
    """Three 3x3 layers of dilation 1, 2 and 1 read 9^3 points; each lies where three taps add up."""
    layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=d, dilation=d) for d in (1, 2, 1)))
    taps = layer_taps(layers, list(layers), torch.zeros(1, 3, 8, 9))
    found = sampling_points(taps, (4, 5))
    steps = list(itertools.product((-1, 0, 1), repeat=2))
    expected = [(4 + a[0] + 2 * b[0] + c[0], 5 + a[1] + 2 * b[1] + c[1]) for c in steps for b in steps for a in steps]
    assert sorted(map(tuple, found.round().int().tolist())) == sorted(expected)
    assert [float(effective_dilation(one).mean()) for one in taps] == [1, 2, 1]


def test_points_are_where_the_gradient_is():
    """A unit of two deformable layers reads the cells around its points: the first one's moves are whole cells."""
    torch.manual_seed(0)
    layers = nn.Sequential(DeformableConv2d(1, 1), DeformableConv2d(1, 1)).double()
    for layer in layers:
        nn.init.normal_(layer.offsets.bias, std=1.5)  # the same moves everywhere, so that they have no gradient
    with torch.no_grad():
        layers[0].offsets.bias.round_()
    x = torch.randn(1, 1, 21, 21, dtype=torch.float64, requires_grad=True)
    layers(x)[0, 0, 10, 10].backward()
    read = {tuple(place) for place in (x.grad[0, 0].abs() > 1e-9).nonzero().tolist()}
    taps = [one.float() for one in layer_taps(layers, list(layers), x.detach())]
    points = sampling_points(taps, (10, 10))
    assert points.shape == (81, 2)
    near = {
        (row, column)
        for y, x in points.tolist()
        for row in (math.floor(y), math.floor(y) + 1)
        for column in (math.floor(x), math.floor(x) + 1)
    }
    assert near & set(itertools.product(range(21), range(21))) == read


def test_effective_dilation_by_hand():
    """One tap of a 3x3 kernel moved: a corner's two neighbours are nearer or farther."""
    layer = DeformableConv2d(1, 1)
    with torch.no_grad():
        layer.offsets.bias[1] = -1.0  # the upper left tap, one to the left
    (taps,) = layer_taps(layer, [layer], torch.zeros(1, 1, 4, 4))
    expected = (10 * 1 + 2 + math.sqrt(2)) / 12  # the right neighbour at 2, the lower one at the root of 2
    assert float(effective_dilation(taps)[0, 2, 2]) == pytest.approx(expected)


def test_a_layer_that_is_not_run_is_named():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    with pytest.raises(ValueError, match="runs 0 of the 1 layers"):
        layer_taps(nn.Identity(), [layer], torch.zeros(1, 1, 4, 4))


# -- learning rates -----------------------------------------------------------------------------------------------


def test_offsets_learn_at_a_rate_of_their_own():
    network = DeformableStack(3, width=8, deformable=2, offset_rate=0.1)
    plain, slow = learning_groups(network)
    offsets = {id(p) for layer in network.layers[1:] for p in layer[0].offsets.parameters()}
    assert slow["factor"] == 0.1
    assert {id(p) for p in slow["params"]} == offsets
    assert "factor" not in plain
    assert len(plain["params"]) + len(slow["params"]) == len(list(network.parameters()))
    assert len(learning_groups(DeformableStack(3, width=8))) == 1
    assert [group.get("factor") for group in make_optimizer("sgd", network, 0.1, 0.9, 0.0).param_groups] == [None, 0.1]
