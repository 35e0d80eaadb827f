"""DecoupledNet: the counts of the authors' layers, the bridge against the gradient, classes one by one, and a toy that learns."""

import pytest
import torch
from torch import Tensor

from course_lib.costs import count_parameters
from course_lib.losses import cross_entropy, presence_loss
from course_lib.models.decouplednet import DecoupledNet

pytestmark = pytest.mark.usefixtures("one_thread")


def small(classes: int = 4, **options) -> DecoupledNet:
    torch.manual_seed(0)
    return DecoupledNet(classes, **({"width": 8, "hidden": 16, "kernel": 1, "norm": True, "stages": 3} | options))


def test_the_authors_sizes():
    with torch.device("meta"):
        net = DecoupledNet(21)
        assert count_parameters(net) == 307_450_390
        assert count_parameters(net.classifier) == 134_342_484
        assert count_parameters(DecoupledNet(12)) == 307_413_517
        seen = net.classifier.look(torch.zeros(1, 3, 320, 320))
        shapes = [tuple(x.shape) for x in (seen.features, seen.hidden6, seen.scores)]
        assert shapes == [(1, 512, 10, 10), (1, 4096, 4, 4), (1, 20, 4, 4)]
    without_classifier = {count_parameters(n) - count_parameters(n.classifier) for n in (small(3), small(9))}
    assert len(without_classifier) == 1  # the bridge has no parameters, and masks know no classes


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_bridge_is_the_gradient_of_the_logit(kernel):
    """The probability times d(greatest score) / d(features), here in double precision."""
    net = small(kernel=kernel, norm=False).double().eval()
    seen = net.classifier.look(torch.rand(2, 3, 48, 64, dtype=torch.float64))
    features = seen.features.detach().requires_grad_()
    hidden = torch.relu(net.classifier.fc7(torch.relu(net.classifier.fc6(features))))
    for number in range(3):
        score = net.classifier.score(hidden)[:, number].amax(dim=(1, 2))  # (N,)
        (slope,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
        chosen = torch.eye(3, dtype=torch.float64)[number].expand(2, 3)
        expected = score.detach().sigmoid().view(2, 1, 1, 1) * slope
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(net.bridge(seen, chosen), expected)


@torch.no_grad()
def test_a_sure_classifier_keeps_its_map():
    """The gradient of the probability would vanish as the score grows; this one stays."""
    net = small().eval()
    images, chosen = torch.rand(1, 3, 48, 64), torch.tensor([[1.0, 0, 0]])
    unsure = net.bridge(net.classifier.look(images), chosen).norm()
    net.classifier.score.bias.add_(20)
    assert net.bridge(net.classifier.look(images), chosen).norm() > unsure


@torch.no_grad()
def test_a_class_that_is_not_there_gets_no_pixel():
    net = small().eval()
    seen = net.classifier.look(torch.rand(2, 3, 48, 64))
    labels = net.segment(seen, torch.tensor([[1.0, 0, 1], [0, 0, 1]])).argmax(1)
    assert not (labels == 2).any()
    assert not (labels[1] == 1).any()


def squares(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of 32x48 with a red and, beside it, a blue square, one of them or both; labels 1 and 2."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = 0.2 * torch.randn(count, 3, 32, 48, generator=draw), torch.zeros(count, 32, 48, dtype=torch.long)
    for number in range(count):
        kept = int(torch.randint(3, (1,), generator=draw))  # red, blue, both
        for label in (1, 2) if kept == 2 else (kept + 1,):
            top, left = (int(torch.randint(4, 16, (1,), generator=draw)) for _ in range(2))
            left = left // 2 + 24 * (label - 1)
            labels[number, top : top + 12, left : left + 12] = label
            images[number, 2 * (label - 1), top : top + 12, left : left + 12] += 1
    return images, labels


def test_masks_of_the_class_that_is_asked_for():
    """The classifier learns from what is there, then, frozen, lends its gradient to a network of figure and ground."""
    net = small(3, stages=2)
    images, labels = squares(24, seed=0)
    presence = labels.masked_fill(labels == 0, 256) - 1
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        presence_loss(net.classifier(images), presence).backward()
        optimizer.step()
    net.classifier.eval().requires_grad_(False)
    for step in range(40):
        number = step % 2
        optimizer.zero_grad()
        asked = (labels == number + 1).any(dim=2).any(dim=1)
        seen, chosen = net.classifier.look(images[asked]), torch.eye(2)[number].expand(int(asked.sum()), 2)
        cross_entropy(net.masks(seen, chosen), (labels[asked] == number + 1).long()).backward()
        optimizer.step()
    both = (labels == 1).flatten(1).any(1) & (labels == 2).flatten(1).any(1)
    images, labels = images[both], labels[both]
    with torch.no_grad():
        seen = net.classifier.look(images)  # the masks by statistics of the batch: after so few steps
        figures = [net.masks(seen, torch.eye(2)[n].expand(len(images), 2)).softmax(1)[:, 1] for n in range(2)]
    for label, (asked, other) in ((1, figures), (2, reversed(figures))):
        assert asked[labels == label].mean() > other[labels == label].mean() + 0.3
