"""HRNet: the counts of the authors' layers, the published cost, the streams, the exchange by hand, the three heads."""

import pytest
import torch

from course_lib.costs import count_parameters, multiply_adds
from course_lib.models.blocks import resize_to
from course_lib.models.hrnet import Exchange, HRNet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_V1 = {"width": 16, "bottlenecks": 1, "bottleneck_width": 32, "modules": (1, 1, 1), "units": 2}
SMALL_V2 = {"width": 18, "bottlenecks": 2, "modules": (1, 3, 2), "units": 2}
TINY = {"width": 4, "stem": 8, "bottlenecks": 1, "bottleneck_width": 4, "modules": (1, 1, 1), "units": 1}


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, (65_853_611, 65_859_379)),
        ({"width": 40}, (45_889_627, 45_894_435)),
        ({"width": 32}, (29_542_667, 29_546_515)),
        ({"width": 18}, (9_638_951, 9_641_119)),
        (SMALL_V1, (1_538_891, 1_540_819)),
        (SMALL_V2, (3_937_411, 3_939_579)),
    ],
)
def test_parameters_are_those_of_the_authors(options, parameters):
    """Those of their code: 65.8 M, 1.5 M and 3.9 M are published too; for W40 the paper has 45.2 M, not 45.9."""
    with torch.device("meta"):
        assert tuple(count_parameters(HRNet(classes, **options)) for classes in (11, 19)) == parameters


def test_multiply_adds_are_the_papers():
    """747.3 "GFLOPs" in the paper: they are multiply-adds."""
    with torch.device("meta"):
        assert round(multiply_adds(HRNet(19), torch.zeros(1, 3, 1024, 2048)) / 1e9, 1) == 747.5


@torch.no_grad()
def test_four_streams_of_four_resolutions():
    net = HRNet(5, **TINY).eval()
    shapes = [tuple(stream.shape) for stream in net.encode(torch.rand(1, 3, 120, 160))]
    assert shapes == [(1, 4, 30, 40), (1, 8, 15, 20), (1, 16, 8, 10), (1, 32, 4, 5)]  # 15 halves to 8
    assert net.mix[0].in_channels == 15 * 4


def test_eight_exchanges():
    with torch.device("meta"):
        net = HRNet(19)
    assert sum(isinstance(module, Exchange) for module in net.modules()) == 8
    assert not [module for module in HRNet(5, **TINY, exchange=False).modules() if isinstance(module, Exchange)]


@torch.no_grad()
def test_the_exchange_by_hand():
    exchange = Exchange((2, 3, 4), outputs=3).eval()
    fine, middle, coarse = torch.randn(1, 2, 15, 9), torch.randn(1, 3, 8, 5), torch.randn(1, 4, 4, 3)
    found = exchange([fine, middle, coarse])
    down, up = exchange.paths[1][0], exchange.paths[1][2]
    torch.testing.assert_close(found[1], torch.relu(down(fine) + middle + resize_to(up(coarse), (8, 5))))
    assert [len(path) for path in exchange.paths[2][:2]] == [2, 1]  # strided convolutions: two halvings, one
    assert [maps.shape for maps in found] == [fine.shape, middle.shape, coarse.shape]
    assert len(Exchange((2, 3), outputs=1)([fine, middle])) == 1


@pytest.mark.parametrize(("head", "read", "mixed"), [("v2", 60, 60), ("v1", 4, 4), ("v1h", 4, 60)])
def test_the_heads(head, read, mixed):
    net = HRNet(5, **TINY, head=head)
    assert (net.mix[0].in_channels, net.mix[0].out_channels) == (read, mixed)
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []  # nothing that no head reads


def test_an_unknown_head_is_named():
    with pytest.raises(ValueError, match="head 'v3' is none of v2, v1, v1h"):
        HRNet(5, **TINY, head="v3")


@torch.no_grad()
def test_without_exchange_the_finest_stream_is_alone():
    net = HRNet(5, **TINY, head="v1h", exchange=False).eval()
    streams = net.encode(torch.rand(1, 3, 64, 64))
    assert torch.equal(net.decode(streams), net.decode([streams[0]]))
