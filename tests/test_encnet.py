"""EncNet: the encoding by hand, its counts, its start in many dimensions, pictures of any size, the SE-loss."""

import math

import pytest
import torch
from torch import Tensor, nn

from course_lib.costs import count_parameters
from course_lib.data.sample import IGNORE
from course_lib.losses import cross_entropy, presence_loss, presence_objective
from course_lib.models.encnet import ContextEncoding, EncNet, Encoding

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**options) -> EncNet:
    torch.manual_seed(0)
    return EncNet(3, **({"depth": 18, "width": 8, "codewords": 4} | options))


def test_the_papers_sizes():
    """The authors' layers have a stem of three 3x3 convolutions (3, 64, 64, 128), not one 7x7 (3, 64)."""
    stem = 27 * 64 + 9 * 64 * 64 + 9 * 64 * 128 + 2 * (64 + 64 + 128) - (147 * 64 + 2 * 64)
    behind_it = 64 * 64 + 64 * 256  # the first block reads 128 maps, not 64
    with torch.device("meta"):
        assert count_parameters(ContextEncoding(512, 11, 32)) == 547_947
        found = [count_parameters(EncNet(classes, aux=aux)) for classes in (11, 19) for aux in (False, True)]
    assert [count + stem + behind_it for count in found] == [33_623_606, 35_986_241, 33_631_814, 35_996_505]


@torch.no_grad()
def test_the_encoding_by_hand():
    torch.manual_seed(0)
    layer, maps = Encoding(5, 3), torch.randn(2, 5, 4, 6)
    layer.smoothing.copy_(torch.tensor([0.1, 0.5, 0.9]))
    residuals = maps.flatten(2).transpose(1, 2)[:, :, None] - layer.codewords  # (N, pixels, K, D)
    weights = (-layer.smoothing * (residuals**2).sum(-1)).softmax(dim=-1)
    torch.testing.assert_close(layer.assign(maps).flatten(2).transpose(1, 2), weights)
    torch.testing.assert_close(layer(maps), (weights[..., None] * residuals).mean(1))


@torch.no_grad()
def test_the_nearest_codeword_has_the_largest_weight():
    layer = Encoding(4, 3)
    layer.smoothing.fill_(1.0)
    assert layer.assign(layer.codewords[1].view(1, 4, 1, 1)).argmax() == 1


@torch.no_grad()
def test_a_single_codeword_is_global_average_pooling():
    layer, maps = Encoding(6, 1), torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(layer(maps)[:, 0], maps.mean(dim=(2, 3)) - layer.codewords)


@torch.no_grad()
def test_a_larger_picture_of_the_same_has_the_same_encoding():
    layer, maps = Encoding(6, 4), torch.randn(1, 6, 5, 7)
    torch.testing.assert_close(layer(maps.tile(1, 1, 2, 2)), layer(maps))


@torch.no_grad()
def test_codewords_share_the_pixels_at_the_start():
    """Smoothing factors in (0, 1), as the authors start them, give one codeword all of 512 dimensions."""
    torch.manual_seed(0)
    layer, maps = Encoding(512, 32), torch.randn(1, 512, 10, 10)

    def entropy(weights: Tensor) -> float:
        return float(torch.special.entr(weights).sum(1).mean()) / math.log(32)

    ours = entropy(layer.assign(maps))
    layer.smoothing.mul_(512)
    theirs = entropy(layer.assign(maps))
    assert ours > 0.95
    assert theirs < 0.2


def test_gates_open_channels_and_never_close_them():
    """Featuremap attention multiplies by 1 to 2: x + x * gate."""
    module = ContextEncoding(6, 3, 4).eval()
    maps = torch.rand(2, 6, 5, 5) + 0.1
    gated, presence = module(maps)
    ratio = gated / maps
    assert bool(((ratio > 1) & (ratio < 2)).all())
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))  # one gate a channel
    assert presence.shape == (2, 3)


def test_without_codewords_the_summary_is_the_mean():
    module = ContextEncoding(6, 3, 0).eval()
    maps = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(module.summary(maps), module.project(maps).mean(dim=(2, 3)))
    assert EncNet(3, depth=18, width=8, groups=1, aux=False, codewords=0)(torch.rand(2, 3, 32, 32)).shape[1] == 3


@pytest.mark.parametrize("options", [{"groups": 0, "aux": False}, {"groups": 5, "aux": False}, {"groups": 2}])
def test_a_backbone_of_an_impossible_length_is_refused(options):
    with pytest.raises(ValueError, match="groups is 1 to 4"):
        small(**options)


def test_presence_is_that_of_the_crop_and_ignores_void():
    labels = torch.tensor([[[0, 0], [IGNORE, 2]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    scores = torch.tensor([[1.0, -2.0, 0.5], [0.7, 1.0, -1.0]])
    present = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    expected = nn.functional.binary_cross_entropy(scores.sigmoid(), present)
    torch.testing.assert_close(presence_loss(scores, labels), expected)


def test_the_objective_adds_all_three():
    net, images = small().eval(), torch.rand(2, 3, 48, 64)
    labels = torch.randint(3, (2, 48, 64))
    logits, scores, aux = net.forward_with_presence(images)
    torch.testing.assert_close(logits, net(images))
    expected = cross_entropy(logits, labels) + 0.3 * presence_loss(scores, labels) + 0.4 * cross_entropy(aux, labels)
    objective = presence_objective(presence_weight=0.3, aux_weight=0.4)
    torch.testing.assert_close(objective(net, images, labels), expected)
    assert float(objective.weight(labels)) == labels.numel()
    assert len(small(aux=False).forward_with_presence(images)) == 2
