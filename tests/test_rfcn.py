"""R-FCN: pooling against the formula and against torchvision, the published counts, what k = 1 is."""

from math import ceil, floor

import pytest
import torch
from torch import Tensor
from torchvision.ops import ps_roi_pool

from course_lib.costs import count_parameters
from course_lib.models.rfcn import RFCN, assembled, bin_edges, pool_bins, position_sensitive_pool

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 11, 13
BORDER = Tensor([[0, 36, 28, 52, 44], [1, 0, 40, 52, 44], [0, 44, 0, 52, 8]])
"""RoIs on the last row and column of maps with stride 4, and on both."""


def some_rois(count: int, pictures: int = 2) -> Tensor:
    """Boxes inside the picture, at least a cell wide and high, corners anywhere between pixels."""
    corners = torch.rand(count, 2, 2) * Tensor([WIDTH - 1, HEIGHT - 1]) * 4
    low, high = corners.amin(1), corners.amax(1)
    number = torch.randint(pictures, (count, 1)).float()
    return torch.cat([number, low, torch.maximum(high, low + 4)], dim=1)


def by_formula(maps: Tensor, rois: Tensor, bins: int, stride: int, position_sensitive: bool = True) -> Tensor:
    """Section 2.1's equation (1) as a loop over bins, RoI by RoI."""
    classes = maps.shape[1] // bins**2 if position_sensitive else maps.shape[1]
    result = torch.zeros(len(rois), classes, bins, bins, dtype=maps.dtype)
    for number, (picture, *corners) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (floor(corner / stride + 0.5) for corner in corners)
        w, h = max(x1 - x0, 1), max(y1 - y0, 1)
        for c in range(classes):
            for i in range(bins):
                for j in range(bins):
                    channel = (c * bins + i) * bins + j if position_sensitive else c
                    rows = slice(y0 + floor(i * h / bins), y0 + ceil((i + 1) * h / bins))
                    columns = slice(x0 + floor(j * w / bins), x0 + ceil((j + 1) * w / bins))
                    cells = maps[int(picture), channel, rows, columns]
                    if cells.numel():
                        result[number, c, i, j] = cells.mean()
    return result


@pytest.mark.parametrize("bins", [1, 2, 3, 7])
def test_pooling_is_the_formula_also_at_the_border(bins):
    maps = torch.randn(2, 3 * bins**2, HEIGHT, WIDTH, dtype=torch.float64)
    rois = torch.cat([some_rois(40), BORDER])
    wanted = by_formula(maps, rois, bins, 4)
    for found in (
        pool_bins(maps, rois, bins, 4, position_sensitive=True),
        position_sensitive_pool(maps, rois, bins, 4),
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 3, 7])
def test_pooling_of_common_maps_is_the_formula(bins):
    maps = torch.randn(2, 5, HEIGHT, WIDTH, dtype=torch.float64)
    rois = torch.cat([some_rois(30), BORDER])
    found = pool_bins(maps, rois, bins, 4, position_sensitive=False)
    torch.testing.assert_close(found, by_formula(maps, rois, bins, 4, False), rtol=0, atol=1e-12)


def test_inside_the_map_it_is_torchvisions_and_at_the_border_torchvision_is_wrong():
    maps = torch.randn(2, 18, HEIGHT, WIDTH, dtype=torch.float64)
    inside = some_rois(40)
    inside = inside[(inside[:, 3] < 4 * (WIDTH - 1) - 2) & (inside[:, 4] < 4 * (HEIGHT - 1) - 2)]
    assert len(inside) > 10
    found = pool_bins(maps, inside, 3, 4, position_sensitive=True)
    torch.testing.assert_close(found, ps_roi_pool(maps, inside.double(), 3, 0.25), rtol=0, atol=1e-12)
    ones, last_row = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.float64), BORDER[1:2] * Tensor([0, 1, 1, 1, 1])
    assert float(ps_roi_pool(ones, last_row.double(), 1, 0.25)) == 0
    assert float(position_sensitive_pool(ones, last_row, 1, 4)) == 1


def test_both_forms_agree_in_float32():
    maps = torch.randn(2, 18, HEIGHT, WIDTH)
    rois = torch.cat([some_rois(200), BORDER])
    own = pool_bins(maps, rois, 3, 4, position_sensitive=True)
    torch.testing.assert_close(position_sensitive_pool(maps, rois, 3, 4), own, rtol=0, atol=1e-4)


def test_half_precision_is_summed_in_float32():
    maps = torch.randn(2, 18, HEIGHT, WIDTH).bfloat16()
    rois = torch.cat([some_rois(50), BORDER])
    wanted = pool_bins(maps.double(), rois, 3, 4, position_sensitive=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, fast = pool_bins(maps, rois, 3, 4, position_sensitive=True), position_sensitive_pool(maps, rois, 3, 4)
    for found in (own, fast):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)


def test_the_gradients_are_right_also_at_the_border():
    maps = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = Tensor([[0, 1, 1, 14, 13], [1, 12, 8, 24, 20], [1, 0, 16, 24, 20]])
    for pool in (
        lambda m: pool_bins(m, rois, 2, 4, position_sensitive=True),
        lambda m: position_sensitive_pool(m, rois, 2, 4),
    ):
        assert torch.autograd.gradcheck(pool, (maps,))


def test_one_bin_is_the_mean_of_the_box():
    maps = torch.randn(1, 2, HEIGHT, WIDTH, dtype=torch.float64)
    found = pool_bins(maps, Tensor([[0, 8, 4, 32, 40]]), 1, 4, position_sensitive=True)
    torch.testing.assert_close(found.flatten(), maps[0, :, 1:10, 2:8].mean(dim=(1, 2)))


def test_each_bin_reads_its_own_map():
    """Map (class c, row i, column j) is 1 and all others 0: only that bin of that class sees it."""
    for channel in range(18):
        maps = torch.zeros(1, 18, 6, 6)
        maps[0, channel] = 1
        found = pool_bins(maps, Tensor([[0, 0, 0, 24, 24]]), 3, 4, position_sensitive=True)
        assert found.flatten().nonzero().flatten().tolist() == [channel]


def test_picture_and_box_moved_by_a_cell_change_nothing():
    maps, rois = torch.randn(1, 9, 8, 8, dtype=torch.float64), Tensor([[0, 3, 5, 22, 20]])
    moved = functional_roll(maps)
    for pool in (
        lambda m, r: pool_bins(m, r, 3, 4, position_sensitive=True),
        lambda m, r: position_sensitive_pool(m, r, 3, 4),
    ):
        torch.testing.assert_close(pool(maps, rois), pool(moved, rois + Tensor([0, 4, 8, 4, 8])), rtol=0, atol=1e-12)


def functional_roll(maps: Tensor) -> Tensor:
    return maps.roll((2, 1), dims=(2, 3))


def test_neighbouring_bins_share_a_cell_where_the_division_leaves_a_rest():
    left, _, right, _ = bin_edges(Tensor([[0, 0, 0, 20, 24]]), 3, 4, (6, 6))
    assert (left.tolist(), right.tolist()) == ([[0, 1, 3]], [[2, 4, 5]])
    left, _, right, _ = bin_edges(Tensor([[0, 0, 0, 24, 24]]), 3, 4, (6, 6))
    assert (left.tolist(), right.tolist()) == ([[0, 2, 4]], [[2, 4, 6]])


def test_the_heads_have_the_papers_parameters():
    """R-101, 20 classes, k = 7: 2048 -> 1024, then 7 x 7 x 21 maps of the classes and 7 x 7 x 4 of the boxes."""
    with torch.device("meta"):
        network = RFCN()
    parts = [count_parameters(part) for part in (network.reduce, network.scores, network.shifts)]
    assert parts == [2_098_176, 1_054_725, 200_900]
    assert network.scores.out_channels == 1029


@pytest.mark.parametrize("position_sensitive", [True, False])
@pytest.mark.parametrize("bins", [1, 3])
def test_shapes_and_gradients(bins, position_sensitive):
    network = RFCN(3, bins=bins, position_sensitive=position_sensitive, depth=0, width=4, reduced=0)
    logits, shifts = network(torch.randn(2, 3, 44, 52), torch.cat([some_rois(7), BORDER]))
    assert (logits.shape, shifts.shape) == ((10, 3), (10, 4))
    (logits.sum() + (shifts**2).sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_a_resnet_of_stride_16():
    network = RFCN(3, bins=3, depth=18, width=4, reduced=8)
    logits, _ = network(torch.randn(1, 3, 64, 96), Tensor([[0, 0, 0, 64, 48]]))
    assert logits.shape == (1, 3)
    assert network.score_maps(torch.randn(1, 3, 64, 96)).shape == (1, 27, 4, 6)


def test_the_vote_is_the_mean_of_the_bins():
    network = RFCN(2, bins=3, depth=0, width=4, reduced=0).eval()
    images, rois = torch.randn(2, 3, 44, 52), some_rois(9)
    with torch.no_grad():
        bins = pool_bins(network.score_maps(images), rois, 3, 4, position_sensitive=True)
        torch.testing.assert_close(network(images, rois)[0], bins.mean(dim=(2, 3)))


def test_assembled_masks_by_a_loop():
    maps, boxes = torch.randn(9, 12, 15), Tensor([[2, 1, 11, 12], [0, 0, 4, 5], [8.5, 3, 15, 9.2]])
    found = assembled(maps, boxes)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        for y in range(12):
            for x in range(15):
                row, column = (y + 0.5 - top) * 3 / (bottom - top), (x + 0.5 - left) * 3 / (right - left)
                inside = 0 <= row < 3 and 0 <= column < 3
                wanted = maps[3 * floor(row) + floor(column), y, x].item() if inside else float("-inf")
                assert found[number, y, x].item() == wanted


def test_a_box_of_whole_bins_assembles_what_it_pools():
    """Where bins do not share cells, the mean of the assembled map is the vote."""
    maps = torch.randn(9, 12, 15, dtype=torch.float64)
    box = Tensor([[3, 0, 12, 6]])
    whole = assembled(maps, box)[0]
    vote = pool_bins(maps[None], torch.cat([torch.zeros(1, 1), box], dim=1), 3, 1, position_sensitive=True).mean()
    torch.testing.assert_close(whole[whole.isfinite()].mean(), vote)
