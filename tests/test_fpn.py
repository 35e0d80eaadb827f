"""FPN: torchvision's pyramid and its rule for boxes, the published count, and what each path is for."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops.poolers import LevelMapper

from course_lib.costs import count_parameters
from course_lib.losses import cross_entropy, levels_objective
from course_lib.models.fpn import FPN, FeaturePyramid, PyramidDetector, SemanticFPN, roi_level, subsampled
from course_lib.models.rfcn import pool_bins

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = (4, 6, 8, 10)


def some_features(height: int = 64, width: int = 96) -> list[Tensor]:
    """Maps as a ResNet gives them: sides are halved and rounded up."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return [torch.randn(2, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (32, 33)])
def test_the_pyramid_is_torchvisions(size):
    theirs, ours = torchvision.ops.FeaturePyramidNetwork(list(CHANNELS), 5), FeaturePyramid(CHANNELS, 5)
    for level in range(4):
        ours.laterals[level].load_state_dict(theirs.inner_blocks[level][0].state_dict())
        ours.outputs[level].load_state_dict(theirs.layer_blocks[level][0].state_dict())
    features = some_features(*size)
    wanted = theirs({str(number): maps for number, maps in enumerate(features)})
    for found, level in zip(ours(features), wanted.values(), strict=True):
        torch.testing.assert_close(found, level)


def test_it_starts_as_torchvisions_does():
    torch.manual_seed(0)
    pyramid = FeaturePyramid((64, 64, 64, 64), 64)
    theirs = torchvision.ops.FeaturePyramidNetwork([64] * 4, 64)
    for own, other in (
        (pyramid.laterals[0], theirs.inner_blocks[0][0]),
        (pyramid.outputs[0], theirs.layer_blocks[0][0]),
    ):
        assert own.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.05)
        assert not own.bias.any()


def test_parameters_for_resnet_50():
    with torch.device("meta"):
        pyramid, network = FeaturePyramid((256, 512, 1024, 2048)), FPN(21)
    assert count_parameters(pyramid) == count_parameters(network.pyramid) == 3_344_384


def test_no_layer_of_the_pyramid_bends():
    """Linear but for the biases: f(a + b) + f(0) = f(a) + f(b)."""
    pyramid, first, second = FeaturePyramid(CHANNELS, 5), some_features(), some_features()
    nothing = [torch.zeros_like(maps) for maps in first]
    both = [a + b for a, b in zip(first, second, strict=True)]
    for parts in zip(pyramid(both), pyramid(nothing), pyramid(first), pyramid(second), strict=True):
        torch.testing.assert_close(parts[0] + parts[1], parts[2] + parts[3], rtol=1e-4, atol=1e-5)


def reads(pyramid: nn.Module) -> list[list[int]]:
    """Which levels of the backbone each level of the pyramid depends on."""
    features = [maps.requires_grad_() for maps in some_features()]
    found = []
    for level in pyramid(features):
        slopes = torch.autograd.grad(level.sum(), features, retain_graph=True, allow_unused=True)
        found.append([number for number, slope in enumerate(slopes, 2) if slope is not None and bool(slope.any())])
    return found


def test_what_each_path_brings():
    assert reads(FeaturePyramid(CHANNELS, 5)) == [[2, 3, 4, 5], [3, 4, 5], [4, 5], [5]]
    assert reads(FeaturePyramid(CHANNELS, 5, top_down=False)) == [[2], [3], [4], [5]]
    assert reads(FeaturePyramid(CHANNELS, 5, lateral=False)) == [[5], [5], [5], [5]]


def test_the_sixth_level():
    maps = torch.randn(1, 3, 5, 7)
    torch.testing.assert_close(subsampled(maps), nn.functional.max_pool2d(maps, 1, stride=2))


@pytest.mark.parametrize(("size", "level"), [(111.9, 2), (112, 3), (223, 3), (224, 4), (448, 5), (5000, 5), (3, 2)])
def test_the_level_of_a_box(size, level):
    boxes = Tensor([[10, 20, 10 + size, 20 + size], [0, 0, 2 * size, size / 2]])
    assert roi_level(boxes).tolist() == [level, level]
    assert LevelMapper(2, 5)([boxes]).tolist() == [level - 2, level - 2]  # counts from P2


def test_the_level_of_a_box_in_a_small_picture():
    sides = Tensor([12, 20, 24, 32, 48, 90, 96])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    assert roi_level(boxes, 48).tolist() == [2, 2, 3, 3, 4, 4, 5]


# -- networks ------------------------------------------------------------------------------------------


def test_one_head_reads_all_levels():
    torch.manual_seed(0)
    network, images = FPN(3, depth=18, width=4, channels=8).eval(), torch.randn(2, 3, 64, 96)
    levels = network.forward_levels(images)
    assert [level.shape for level in levels] == [(2, 3, 64, 96)] * 4
    torch.testing.assert_close(levels[0], network(images))
    labels = torch.randint(3, (2, 64, 96))
    losses = [cross_entropy(level, labels).item() for level in levels]
    assert levels_objective()(network, images, labels).item() == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_the_semantic_branch_has_a_block_for_each_doubling():
    network = SemanticFPN(3, depth=18, width=4, channels=8, head_channels=6)
    assert [len(branch) for branch in network.branches] == [1, 1, 2, 3]
    for size in ((64, 96), (97, 131)):
        assert network.sum_levels(network.encode(torch.randn(1, 3, *size))).shape == (
            1,
            6,
            -(-size[0] // 4),
            -(-size[1] // 4),
        )


def test_the_branches_add_up():
    torch.manual_seed(0)
    network, images = SemanticFPN(3, depth=18, width=4, channels=8, head_channels=6).eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        levels, parts = network.encode(images), []
        whole = network.sum_levels(levels)
        for kept in range(4):
            for number, branch in enumerate(network.branches):
                branch[-1][1].weight.fill_(float(number == kept))
                branch[-1][1].bias.zero_()
            parts.append(network.sum_levels(levels))
    torch.testing.assert_close(sum(parts), whole)


def test_a_box_is_pooled_from_its_level():
    network = PyramidDetector(2, bins=3, hidden=8, depth=18, width=4, channels=5, canonical_size=48)
    levels = [torch.randn(2, 5, 96 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
    rois = Tensor([[0, 40, 40, 90, 90], [1, 0, 0, 16, 16], [0, 4, 8, 36, 40], [1, 16, 0, 128, 96]])
    pooled = network.pool(levels, rois)
    for row, level in enumerate((4, 2, 3, 5)):
        wanted = pool_bins(levels[level - 2], rois[row : row + 1], 3, 2**level, position_sensitive=False)[0]
        torch.testing.assert_close(pooled[row], wanted)
    network.finest_only = True
    wanted = pool_bins(levels[0], rois, 3, 4, position_sensitive=False)
    torch.testing.assert_close(network.pool(levels, rois), wanted)


@pytest.mark.parametrize("paths", [{}, {"top_down": False}, {"lateral": False}, {"finest_only": True}])
def test_the_detectors_shapes_and_gradients(paths):
    torch.manual_seed(0)
    network = PyramidDetector(3, bins=2, hidden=8, depth=18, width=4, channels=5, canonical_size=48, **paths)
    rois = Tensor([[0, 40, 40, 90, 90], [1, 0, 0, 16, 16], [0, 4, 8, 36, 40], [1, 0, 0, 128, 96]])
    logits, shifts = network(torch.randn(2, 3, 96, 128), rois)
    assert (logits.shape, shifts.shape) == ((4, 3), (4, 4))
    (logits.sum() + shifts.sum()).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    expected = {
        f"pyramid.outputs.{level}.{part}"
        for level in (1, 2, 3)
        for part in ("weight", "bias")
        if paths.get("finest_only")
    }
    assert without == expected
