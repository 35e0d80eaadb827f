"""ParseNet: unit vectors with learned scales, a context that is the same everywhere, and its switches."""

import pytest
import torch
from torch import nn

from course_lib.models.parsenet import GlobalContext, L2Norm, ParseNet

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**options) -> ParseNet:
    return ParseNet(3, **({"depth": 18, "width": 8} | options)).eval()


def test_every_cell_becomes_a_unit_vector_times_the_scales():
    norm = L2Norm(5, scale=10)
    assert norm.scale.shape == (5,)
    assert norm.scale.requires_grad
    features = torch.randn(2, 5, 4, 6) * torch.logspace(-3, 3, 6)
    torch.testing.assert_close(norm(features).norm(dim=1), torch.full((2, 4, 6), 10.0))
    cell = features[1, :, 2, 3]
    with torch.no_grad():
        norm.scale.copy_(torch.arange(1.0, 6.0))
    expected = cell / cell.square().sum().sqrt() * torch.arange(1.0, 6.0)
    torch.testing.assert_close(norm(features)[1, :, 2, 3], expected)


def test_large_half_precision_features_do_not_overflow():
    features = torch.full((1, 4, 2, 2), 4e4, dtype=torch.float16)  # their length, 8e4, is too much
    expected = torch.full((1, 4, 2, 2), 5.0)
    torch.testing.assert_close(L2Norm(4, scale=10)(features), expected)


def test_cells_without_any_feature_stay_zero():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    found = L2Norm(4)(features)
    assert torch.equal(found, torch.zeros(1, 4, 2, 2))
    found.sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_context_is_the_average_in_every_cell(normalise):
    module = GlobalContext(6, normalise=normalise, scale=2)
    features = torch.randn(3, 6, 4, 5)
    local, context = module(features).chunk(2, dim=1)
    mean = features.sum(dim=(2, 3)) / 20
    if normalise:
        expected = 2 * mean / mean.norm(dim=1, keepdim=True)
        torch.testing.assert_close(local.norm(dim=1), torch.full((3, 4, 5), 2.0))
    else:
        expected = mean
        assert torch.equal(local, features)
    torch.testing.assert_close(context, expected[:, :, None, None].expand(3, 6, 4, 5))


def test_both_parts_have_scales_of_their_own():
    module = GlobalContext(6)
    assert module.local_norm.scale is not module.context_norm.scale


def test_the_average_does_not_know_where_anything_is():
    module = GlobalContext(6)
    features = torch.randn(1, 6, 4, 5)
    order = torch.randperm(20)
    moved = features.flatten(2)[..., order].view_as(features)
    assert not torch.equal(moved, features)
    torch.testing.assert_close(module(moved)[:, 6:], module(features)[:, 6:])


def test_the_switches_leave_out_what_they_say():
    sizes = {
        (context, normalise): small(context=context, normalise=normalise)
        for context in (True, False)
        for normalise in (True, False)
    }
    for (context, normalise), net in sizes.items():
        assert net.classify.in_channels == (128 if context else 64)
        scales = [module for module in net.modules() if isinstance(module, L2Norm)]
        assert len(scales) == (normalise * (2 if context else 1))
        assert any(isinstance(module, GlobalContext) for module in net.modules()) == context


@torch.no_grad()
@pytest.mark.parametrize("context", [True, False])
def test_only_the_context_reaches_across_the_picture(context):
    """Beyond the backbone's receptive field (435 pixels for this one) the average alone carries news."""
    torch.manual_seed(0)
    net = small(context=context, depth=18, output_stride=32)
    nn.init.normal_(net.classify.weight)
    images = torch.rand(1, 3, 32, 704)
    changed = images.clone()
    changed[..., -64:] = 0
    difference = (net(images) - net(changed))[..., :64].abs().max()
    assert (difference > 1e-5) == context


def test_the_papers_size_of_the_classifier():
    with torch.device("meta"):
        net = ParseNet()
    assert net.classify.weight.shape == (21, 4096, 1, 1)
    assert net.head.local_norm.scale.shape == (2048,)
