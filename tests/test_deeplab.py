"""DeepLabV3+: shapes and parameters of its parts, and that each part does its work."""

import pytest
import torch
from torch import nn

from course_lib.costs import count_parameters
from course_lib.models.deeplab import ASPP, DeepLabV3Plus, SeparableConv

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**options: object) -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(5, **{"depth": 18, "width": 8, "channels": 16, "low_channels": 4, **options})


def test_a_separable_convolution_is_cheap_and_equals_a_full_one():
    layer = SeparableConv(8, 12, dilation=2).eval()
    assert count_parameters(layer) == 8 * 9 + 2 * 8 + 8 * 12 + 2 * 12
    depthwise, pointwise = layer[0], layer[3]
    layer[1], layer[2] = nn.Identity(), nn.Identity()
    full = nn.Conv2d(8, 12, 3, padding=2, dilation=2, bias=False)
    with torch.no_grad():
        full.weight.copy_(pointwise.weight[:, :, 0, 0, None, None] * depthwise.weight[:, 0][None])
        x = torch.randn(1, 8, 9, 9)
        torch.testing.assert_close(pointwise(depthwise(x)), full(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_rates_follow_the_output_stride(output_stride, rates):
    model = tiny(output_stride=output_stride)
    found = tuple(branch[0].dilation[0] for branch in model.aspp.dilated)
    assert found == rates
    low, deep = model.eval().encode(torch.randn(1, 3, 96, 128))
    assert low.shape == (1, 8, 24, 32)
    assert deep.shape == (1, 16, 96 // output_stride, 128 // output_stride)
    assert model.decode([low, deep]).shape == (1, 5, 24, 32)


def test_the_papers_sizes():
    model = DeepLabV3Plus()
    assert model.reduce_low[0].out_channels == 48
    assert model.aspp.project[0].in_channels == 5 * 256
    assert model.refine[0][0].in_channels == 256 + 48
    assert model.score.out_channels == 21


def test_image_pooling_sees_the_whole_picture():
    aspp = ASPP(4, 8, (1,), 0.0).eval()
    x = torch.zeros(1, 4, 33, 33)
    changed = x.clone()
    changed[:, :, 0, 0] = 1e3
    far = (aspp(changed) - aspp(x))[:, :, -1, -1]
    assert far.abs().max() > 1e-3


def test_the_decoder_reads_the_features_of_stride_4():
    model = tiny().eval()
    low, deep = model.encode(torch.randn(1, 3, 64, 64))
    before, after = model.decode([low, deep]), model.decode([torch.randn_like(low), deep])
    assert (before - after).abs().max() > 1e-3


def test_one_picture_trains():
    model = tiny().train()
    model(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert model.aspp.image_pooling[1].weight.grad.any()


def test_another_output_stride_is_refused():
    with pytest.raises(ValueError, match="16 or 8, not 32"):
        tiny(output_stride=32)
