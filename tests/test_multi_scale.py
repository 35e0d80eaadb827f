"""One network at several scales: sizes, weights shared, places kept, both ways of combining."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_helpers import learn_by_heart

from course_lib.models.fcn import FCN
from course_lib.models.multi_scale import MultiScale

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5


def network(seed: int = 0) -> FCN:
    torch.manual_seed(seed)
    net = FCN(CLASSES, width=4, fc_channels=8, norm=True, padding="same", dropout=0.0)
    for layer in (net.score, net.score_pool4, net.score_pool3):
        nn.init.normal_(layer.weight, 0, 0.3)
    return net


class Spy(nn.Module):
    """Logits that name the size of what it was shown: class 0 the height, class 1 the width."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        count, _, height, width = images.shape
        self.seen.append((height, width))
        return torch.tensor([height, -width]).view(1, 2, 1, 1).expand(count, 2, height, width) * 1.0


@pytest.mark.parametrize("combine", ["average", "max"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 131)])
def test_logits_have_the_size_of_the_picture(combine, size):
    net = MultiScale(network(), combine=combine).eval()
    logits = net(torch.randn(2, 3, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert logits.isfinite().all()


def test_every_scale_is_shown_at_its_size():
    spy = Spy()
    MultiScale(spy, scales=(0.5, 0.75, 1.0, 1.5))(torch.randn(1, 3, 80, 121))
    assert spy.seen == [(40, 60), (60, 91), (80, 121), (120, 182)]


def test_no_side_is_shorter_than_32_pixels():
    spy = Spy()
    MultiScale(spy, scales=(0.1, 0.5))(torch.randn(1, 3, 48, 96))
    assert spy.seen == [(32, 32), (32, 48)]


def test_predictions_are_averaged_or_the_largest_wins():
    images = torch.randn(1, 3, 64, 96)
    average = MultiScale(Spy(), scales=(0.5, 1.0))(images)
    largest = MultiScale(Spy(), scales=(0.5, 1.0), combine="max")(images)
    assert average[0, :, 7, 9].tolist() == [48, -72]
    assert largest[0, :, 7, 9].tolist() == [64, -48]


@torch.no_grad()
def test_scale_one_alone_is_the_network_itself():
    net, images = network().eval(), torch.randn(2, 3, 65, 79)
    for combine in ("average", "max"):
        found = MultiScale(net, scales=(1.0,), combine=combine)(images)
        torch.testing.assert_close(found, net(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_half_the_size_is_the_network_on_a_smaller_picture():
    net, images = network().eval(), torch.randn(1, 3, 64, 96)
    smaller = functional.interpolate(images, size=(32, 48), mode="bilinear", antialias=True)
    expected = functional.interpolate(net(smaller), size=(64, 96), mode="bilinear")
    assert expected.std() > 0
    torch.testing.assert_close(MultiScale(net, scales=(0.5,)).eval()(images), expected)


@torch.no_grad()
def test_what_a_scale_says_lies_over_the_picture():
    """A network that hands on a channel: at every scale the bright square is found where it is."""
    only = nn.Conv2d(3, 2, kernel_size=1, bias=False)
    only.weight.zero_()
    only.weight[1, 0] = 1
    picture = torch.zeros(1, 3, 96, 128)
    picture[0, 0, 40:56, 80:96] = 1
    for found in MultiScale(only, scales=(0.5, 0.75, 1.0, 2.0)).predictions(picture):
        answer = found[0, 1]
        row = answer.sum(1) @ torch.arange(96.0) / answer.sum()
        column = answer.sum(0) @ torch.arange(128.0) / answer.sum()
        assert (float(row), float(column)) == pytest.approx((47.5, 87.5), abs=0.05)


@torch.no_grad()
def test_bfloat16_stays_close():
    """Pictures come in bfloat16 where the training loop computes in it."""
    net, images = MultiScale(network()).eval(), torch.randn(1, 3, 64, 96)
    exact = net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = net(images.bfloat16())
    torch.testing.assert_close(coarse.float(), exact, atol=0.04 * float(exact.max() - exact.min()), rtol=0)


def test_scales_share_their_weights():
    net = network()
    assert set(MultiScale(net).parameters()) == set(net.parameters())


@pytest.mark.parametrize("combine", ["average", "max"])
def test_it_trains(combine):
    net = MultiScale(network(), scales=(0.5, 1.0), combine=combine).train()
    losses = learn_by_heart(net, torch.randn(2, 3, 64, 64), CLASSES, steps=20)
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": ()}, "factors above 0"),
        ({"scales": (0.5, 0)}, "factors above 0"),
        ({"combine": "median"}, "not 'median'"),
    ],
)
def test_impossible_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        MultiScale(network(), **options)
