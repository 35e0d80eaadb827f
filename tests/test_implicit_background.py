"""Implicit background: the closed forms, the losses, the inverse, END, and use after other networks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from course_lib.data.sample import IGNORE
from course_lib.implicit_background import (
    ExpectedNonDistinctiveness,
    ImplicitBackground,
    OutputOf,
    background_probability,
    background_wins,
    bias_for_prior,
    foreground_logits,
    implicit_background_cross_entropy,
    scribe_loss,
)
from course_lib.models.blocks import resize_to
from course_lib.models.deeplab import DeepLabV3Plus

OBJECTS = 20


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def labels(*shape: int, seed: int = 1) -> torch.Tensor:
    """Background, all objects, and pixels that do not count."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(OBJECTS + 1, shape, generator=generator)
    found[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    return found


# -- the layer


def test_background_comes_first_and_the_others_are_untouched():
    x = logits(2, OBJECTS, 3, 5)
    extended = ImplicitBackground()(x)
    assert extended.shape == (2, OBJECTS + 1, 3, 5)
    assert torch.equal(extended[:, 1:], x)
    torch.testing.assert_close(extended[:, 0], -x.exp().sum(1).log(), rtol=0, atol=1e-12)


def test_any_dimension():
    x = logits(4, 6, OBJECTS)
    expected = ImplicitBackground(dim=1)(x.movedim(2, 1)).movedim(1, 2)
    assert torch.equal(ImplicitBackground(dim=2)(x), expected)
    assert torch.equal(ImplicitBackground(dim=-1)(x), expected)


def test_closed_forms_of_the_probabilities():
    x = logits(50, OBJECTS, 40)
    p = ImplicitBackground()(x).softmax(1)
    total = x.logsumexp(1)
    torch.testing.assert_close(background_probability(x), p[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(x.softmax(1) * torch.sigmoid(2 * total)[:, None], p[:, 1:], rtol=0, atol=1e-12)


def test_the_map_has_an_inverse():
    x = logits(50, OBJECTS, 40)
    found = foreground_logits(ImplicitBackground()(x).softmax(1))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


def test_an_explicit_background_has_none_and_the_implicit_one_is_a_special_case():
    v = logits(10, OBJECTS + 1)
    torch.testing.assert_close((v + 5).softmax(1), v.softmax(1), rtol=0, atol=1e-12)
    x = logits(10, OBJECTS)
    moved = ImplicitBackground()(x - 5).softmax(1)
    assert (moved - ImplicitBackground()(x).softmax(1)).abs().max() > 0.1


def test_one_object_is_a_sigmoid_at_half_the_temperature():
    x = logits(100, 1)
    p = ImplicitBackground()(x).softmax(1)
    torch.testing.assert_close(p[:, 1:], torch.sigmoid(2 * x), rtol=0, atol=1e-12)


def test_when_background_wins():
    x = torch.cat([logits(500, OBJECTS, 4), logits(500, OBJECTS, 4, seed=2) - 6], 2)
    expected = ImplicitBackground()(x).argmax(1) == 0
    assert 0.05 < expected.double().mean() < 0.95
    assert torch.equal(background_wins(x), expected)


@pytest.mark.parametrize(("above", "wins"), [(0.001, False), (-0.001, True)])
def test_equal_logits_must_lie_below_half_a_log(above, wins):
    x = torch.full((1, OBJECTS), -math.log(OBJECTS) / 2 + above, dtype=torch.float64)
    assert (x < 0).all()
    assert bool(background_wins(x)) is wins


def test_zero_logits_give_background_a_small_share_and_a_bias_mends_it():
    zero = torch.zeros(1, OBJECTS, dtype=torch.float64)
    assert background_probability(zero).item() == pytest.approx(1 / (1 + OBJECTS**2), abs=1e-15)
    for share in (0.05, 0.5, 0.75):
        x = zero + bias_for_prior(OBJECTS, share)
        assert background_probability(x).item() == pytest.approx(share, abs=1e-12)
    assert bias_for_prior(OBJECTS) == pytest.approx(-math.log(OBJECTS))


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bias_for_prior(OBJECTS, share)


# -- the losses


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_extended_logits(weighted):
    x, y = logits(3, OBJECTS, 8, 9), labels(3, 8, 9)
    weights = torch.linspace(0.2, 3, OBJECTS + 1, dtype=torch.float64) if weighted else None
    results = []
    for loss in (
        lambda x: implicit_background_cross_entropy(x, y, class_weights=weights),
        lambda x: functional.cross_entropy(ImplicitBackground()(x), y, weight=weights, ignore_index=IGNORE),
    ):
        here = x.clone().requires_grad_()
        value = loss(here)
        results.append((value, torch.autograd.grad(value, here)[0]))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_the_gradient_by_finite_differences():
    x = logits(2, 5, 2, 3).requires_grad_()
    y = torch.tensor([[[0, 1, 5], [IGNORE, 2, 0]], [[3, 3, 4], [0, 0, IGNORE]]])
    assert torch.autograd.gradcheck(lambda x: implicit_background_cross_entropy(x, y), (x,))


def test_huge_logits_stay_finite_and_right():
    x = torch.zeros(1, 3, 1, 4)
    x[0, :, 0, 0], x[0, :, 0, 1] = -1e4, 1e4
    x[0, 0, 0, 2], x[0, 1, 0, 3] = 1e4, -1e4
    for label in range(4):
        here = x.clone().requires_grad_()
        y = torch.full((1, 1, 4), label)
        value = implicit_background_cross_entropy(here, y)
        value.backward()
        exact = functional.cross_entropy(ImplicitBackground()(x.double()), y)
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
        assert here.grad.isfinite().all()


def test_nothing_to_count_is_zero():
    x = logits(1, 4, 2, 2).requires_grad_()
    value = implicit_background_cross_entropy(x, torch.full((1, 2, 2), IGNORE))
    value.backward()
    assert value == 0
    assert not x.grad.any()


def test_bfloat16_is_computed_in_float32():
    x, y = logits(2, OBJECTS, 4, 4).bfloat16().requires_grad_(), labels(2, 4, 4)
    value = implicit_background_cross_entropy(x, y)
    value.backward()
    assert value.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    reference = implicit_background_cross_entropy(x.detach().double(), y)
    assert value.item() == pytest.approx(reference.item(), abs=1e-5)


@pytest.mark.parametrize("label", [OBJECTS + 1, -1, 254])
def test_a_label_that_is_no_class_is_refused(label):
    y = labels(1, 2, 2)
    y[0, 0, 0] = label
    with pytest.raises(ValueError, match=f"0 \\(background\\) to {OBJECTS} or 255.*{label}"):
        implicit_background_cross_entropy(logits(1, OBJECTS, 2, 2), y)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 20, 2, 2\) go with labels \(1, 2, 2\), not \(1, 3"):
        implicit_background_cross_entropy(logits(1, OBJECTS, 2, 2), labels(1, 3, 2))


def test_scribe_is_a_binary_cross_entropy_a_class():
    x, y = logits(2, OBJECTS, 3, 4), labels(2, 3, 4)
    v = ImplicitBackground()(x)
    total, count = 0.0, 0
    for n, row, column in (y != IGNORE).nonzero().tolist():
        for c in range(OBJECTS + 1):
            p = 1 / (1 + math.exp(-v[n, c, row, column]))
            total -= math.log(p if c == y[n, row, column] else 1 - p)
        count += 1
    assert scribe_loss(x, y).item() == pytest.approx(total / count, rel=1e-5)


# -- END


def reference_input(background_index: int = 0) -> torch.Tensor:
    """Every pixel: background 10, one object 11, the other nineteen -9."""
    objects = torch.full((2, OBJECTS, 4, 5), -9.0, dtype=torch.float64)
    objects[:, 7] = 11
    background = torch.full((2, 1, 4, 5), 10.0, dtype=torch.float64)
    at = background_index % (OBJECTS + 1)
    return torch.cat([objects[:, :at], background, objects[:, at:]], 1)


@pytest.mark.parametrize("background_index", [0, 3, 20, -1])
@pytest.mark.parametrize(("mode", "expected"), [(1, 0.26894140258), (2, 0.26894141028)])
def test_end_of_the_authors_own_test_input(mode, expected, background_index):
    end = ExpectedNonDistinctiveness(mode=mode, background_index=background_index)
    value = end(reference_input(background_index))
    assert value.item() == pytest.approx(expected, abs=1e-11)


def test_end_is_the_mean_over_all_pixels_that_count():
    v, y = logits(4, OBJECTS + 1, 6, 7), labels(4, 6, 7)
    end = ExpectedNonDistinctiveness()
    end(v[:1], y[:1])
    value = end(v[1:], y[1:])
    torch.testing.assert_close(value, end.pixel_map(v)[y != IGNORE].mean())
    end.reset()
    assert end.compute().isnan()
    torch.testing.assert_close(end(v), end.pixel_map(v).mean())


def test_end_by_its_definition():
    v = logits(3, OBJECTS + 1, 4, 4)
    best = v[:, 1:].softmax(1).amax(1)
    object_confidence = (best - 1 / OBJECTS) / (1 - 1 / OBJECTS)
    two = torch.stack([v[:, 0], v[:, 1:].amax(1)], 1).softmax(1)[:, 0]
    for mode, background in ((1, v.softmax(1)[:, 0]), (2, two)):
        expected = object_confidence * background
        torch.testing.assert_close(ExpectedNonDistinctiveness(mode=mode).pixel_map(v), expected, rtol=0, atol=1e-12)


def test_mode_2_is_never_below_mode_1():
    v = logits(5, OBJECTS + 1, 20, 20)
    one, two = (ExpectedNonDistinctiveness(mode=mode).pixel_map(v) for mode in (1, 2))
    assert (two >= one - 1e-12).all()
    assert (two > one + 0.01).any()


@pytest.mark.parametrize(("a", "expected"), [(0, 0.500), (-1, 0.881), (-2, 0.982), (-5, 0.99995)])
def test_implicit_background_does_not_make_end_small_by_construction(a, expected):
    x = torch.full((1, OBJECTS, 1, 1), -50.0, dtype=torch.float64)
    x[0, 0] = a
    value = ExpectedNonDistinctiveness()(ImplicitBackground()(x)).item()
    assert value == pytest.approx(expected, abs=5e-4 if a > -5 else 5e-6)


def test_end_keeps_no_graph():
    v = logits(1, OBJECTS + 1, 2, 2).requires_grad_()
    end = ExpectedNonDistinctiveness()
    end(v)
    assert not end.total.requires_grad


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ExpectedNonDistinctiveness(mode=3), "mode 1 or 2, not 3"),
        (lambda: ExpectedNonDistinctiveness()(logits(1, 2, 4, 4)), "at least two classes"),
        (
            lambda: ExpectedNonDistinctiveness(background_index=21)(logits(1, 21, 4, 4)),
            "background_index 21 is none of 21",
        ),
        (
            lambda: ExpectedNonDistinctiveness()(logits(1, 21, 4, 4), labels(1, 4, 5)),
            r"\(1, 4, 4\) pixels, labels of \(1, 4, 5\)",
        ),
    ],
)
def test_end_refuses_what_makes_no_sense(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


# -- with networks


def test_in_a_sequence_after_a_network():
    model = nn.Sequential(nn.Conv2d(3, OBJECTS, 3, padding=1), ImplicitBackground(dim=1))
    x = torch.randn(2, 3, 8, 8)
    out = model(x)
    assert out.shape == (2, OBJECTS + 1, 8, 8)
    assert len(list(model.parameters())) == 2
    functional.cross_entropy(out, labels(2, 8, 8), ignore_index=IGNORE).backward()
    assert model[0].weight.grad.any()


def test_logsumexp_before_upsampling_lowers_the_background():
    x = logits(1, OBJECTS, 6, 6)

    def up(maps):
        return functional.interpolate(maps, scale_factor=8, mode="bilinear", align_corners=True)

    after, before = ImplicitBackground()(up(x)), up(ImplicitBackground()(x))
    torch.testing.assert_close(after[:, 1:], before[:, 1:])
    assert (before[:, 0] <= after[:, 0] + 1e-12).all()
    assert (after[:, 0] - before[:, 0]).max() > 0.01


class ChangedDeepLab(DeepLabV3Plus):
    """The README's change: three lines of forward, after the upsampling."""

    def forward(self, images):
        scores = self.decode(self.encode(images))
        x = resize_to(scores, images.shape[-2:])
        non_background = torch.logsumexp(x, dim=1, keepdim=True)
        return torch.cat([-non_background, x], 1)


def test_inside_forward_and_composed_are_one():
    sizes = {"depth": 18, "width": 8, "channels": 16, "low_channels": 4}
    torch.manual_seed(0)
    inside = ChangedDeepLab(OBJECTS, **sizes).eval()
    plain = DeepLabV3Plus(OBJECTS, **sizes).eval()
    plain.load_state_dict(inside.state_dict())
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(nn.Sequential(plain, ImplicitBackground(dim=1))(images), inside(images))
    assert inside(images).shape == (2, OBJECTS + 1, 48, 64)


def test_with_torchvisions_networks():
    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=OBJECTS).eval()
    with torch.no_grad():
        out = ImplicitBackground()(network(torch.randn(1, 3, 64, 64))["out"])
    assert out.shape == (1, OBJECTS + 1, 64, 64)


@pytest.mark.parametrize("build", [fcn_resnet50, deeplabv3_resnet50])
def test_torchvisions_networks_train_with_pytorchs_loss(build):
    torch.manual_seed(0)
    network = build(weights=None, weights_backbone=None, num_classes=OBJECTS, aux_loss=True)
    model = nn.Sequential(OutputOf(network), ImplicitBackground())
    images, y = torch.randn(2, 3, 64, 64), labels(2, 64, 64)
    out = model(images)
    assert out.shape == (2, OBJECTS + 1, 64, 64)
    nn.CrossEntropyLoss(ignore_index=IGNORE)(out, y).backward()
    assert network.classifier[-1].weight.grad.any()
    network.eval()
    with torch.no_grad():
        auxiliary = OutputOf(network, "aux")(images)
        assert torch.equal(auxiliary, network(images)["aux"])
        assert torch.equal(model(images)[:, 1:], network(images)["out"])


def test_end_is_called_in_two_steps_and_not_as_the_readme_writes_it():
    output = ImplicitBackground()(logits(2, OBJECTS, 4, 4))
    with pytest.raises(TypeError, match="background_class_index"):
        ExpectedNonDistinctiveness(output, background_class_index=0)
    end = ExpectedNonDistinctiveness(mode=1)
    assert 0 < end(output) < 1
    assert end(output) == end.compute()
