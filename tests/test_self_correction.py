"""Self-correcting networks: boxes, gates, corrections and losses, against independent references."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional
from torchvision import tv_tensors

from course_lib.data.boxes import box_batch, box_map
from course_lib.data.sample import IGNORE, SoftSample, make_sample
from course_lib.data.scenes import Objects
from course_lib.data.splits import Alternating, Subset
from course_lib.data.transforms import train_transform
from course_lib.losses import one_hot
from course_lib.models import MODELS
from course_lib.models.ancillary import Ancillary, BoxEncoder, ancillary_logits
from course_lib.self_correction import (
    METHODS,
    AncillaryObjective,
    ConvolutionalCorrection,
    Guided,
    HiddenMasks,
    PrimaryObjective,
    PrimaryWithCorrection,
    alpha_at,
    boxed_batch,
    em_fixed_labels,
    label_repair,
    linear_correction,
    self_correction_loss,
    soft_batch,
)
from course_lib.train import evaluate, fit

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "unet": {"width": 4, "depth": 4, "padding": "same", "norm": True},
    "deeplabv3plus": {"depth": 18, "width": 4, "channels": 8, "low_channels": 4},
    "fcn8s": {"width": 4, "fc_channels": 8, "norm": True, "padding": "same"},
}


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def small_ancillary(name="deeplabv3plus", num_classes=4):
    torch.manual_seed(0)
    return Ancillary(MODELS[name](num_classes, **SMALL[name]))


# -- box maps


def test_a_box_marks_its_pixels_and_the_rest_is_background():
    marked = box_map(boxes_of([1, 0, 3, 2], [2, 1, 4, 3]), torch.tensor([1, 3]), (4, 5), 4)
    assert marked[1].tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5, [0] * 5]
    assert marked[3].tolist() == [[0] * 5, [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0] * 5]
    assert marked[2].sum() == 0
    assert marked[:, 1, 2].tolist() == [0, 1, 0, 1]  # both, where they overlap
    assert torch.equal(marked[0] == 1, marked[1:].sum(0) == 0)


def test_a_box_between_pixels_marks_what_it_touches():
    marked = box_map(boxes_of([0.4, 1.2, 0.6, 1.4]), torch.tensor([1]), (3, 3), 2)
    assert marked[1].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    whole = box_map(boxes_of([0, 0, 3.0005, 3]), torch.tensor([1]), (3, 3), 2)
    assert whole[1].all()


def test_a_crop_without_boxes_is_background():
    marked = box_map(boxes_of(), torch.zeros(0, dtype=torch.int64), (2, 3), 3)
    assert marked[0].all()
    assert not marked[1:].any()


def test_the_background_may_be_another_class():
    marked = box_map(boxes_of([0, 0, 1, 1]), torch.tensor([0]), (1, 2), 3, background=2)
    assert marked.tolist() == [[[1, 0]], [[0, 0]], [[0, 1]]]


@pytest.mark.parametrize(
    ("box", "label", "words"),
    [
        ([0, 0, 7, 2], 1, r"box \(0, 0, 7, 2\) is not inside the image of 4x6 pixels"),
        ([-1, 0, 2, 2], 1, "not inside the image"),
        ([0, 0, 2, 4.5], 1, "not inside the image"),
        ([2, 1, 2, 3], 1, r"box \(2, 1, 2, 3\) is empty"),
        ([3, 1, 2, 3], 1, "is empty"),
        ([math.nan, 1, 2, 3], 1, "is empty|is not inside"),
        ([0, 0, 2, 2], 3, "is of class 3, which is none of the objects'"),
        ([0, 0, 2, 2], -1, "is of class -1"),
        ([0, 0, 2, 2], 0, "is of class 0"),
    ],
)
def test_impossible_boxes_are_refused(box, label, words):
    with pytest.raises(ValueError, match=words):
        box_map(boxes_of(box), torch.tensor([label]), (4, 6), 3)


def test_boxes_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match=r"boxes are \(n, 4\) with \(n,\) labels"):
        box_map(boxes_of([0, 0, 2, 2]), torch.tensor([1, 1]), (4, 6), 3)


# -- gates


def test_a_cell_gets_the_share_that_boxes_cover():
    encoder = BoxEncoder(2, 3)
    marked = box_map(boxes_of([0, 0, 3, 2]), torch.tensor([1]), (4, 6), 2)[None]
    shares = encoder.shares(marked, (2, 3))
    assert shares[0, 1].tolist() == [[1, 0.5, 0], [0, 0, 0]]
    assert torch.allclose(shares.sum(1), torch.ones(1, 2, 3))


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (50, 96)])
@pytest.mark.parametrize("name", SMALL)
def test_beyond_the_picture_there_is_background(name, size):
    model = MODELS[name](4, **SMALL[name]).eval()
    features = model.encode(torch.zeros(1, 3, *size))
    marked = box_map(boxes_of(), torch.zeros(0, dtype=torch.int64), size, 4)[None]
    for scale in (0, -1):
        shares = BoxEncoder(4, 1).shares(marked, tuple(features[scale].shape[-2:]))
        assert shares.shape[-2:] == features[scale].shape[-2:]
        torch.testing.assert_close(shares[:, 0], torch.ones_like(shares[:, 0]))


def open_gates(ancillary):
    """Gates that are 1 wherever a box or the background is."""
    for gate in ancillary.gates:
        nn.init.zeros_(gate.conv.weight)
        nn.init.constant_(gate.conv.bias, 100.0)


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (50, 96)])
@pytest.mark.parametrize("name", SMALL)
def test_with_open_gates_it_is_the_network_itself(name, size):
    ancillary = small_ancillary(name).eval()
    if name == "fcn8s":  # its scores start at zero
        for part in ("score", "score_pool4", "score_pool3"):
            nn.init.normal_(getattr(ancillary.model, part).weight)
    open_gates(ancillary)
    images, maps = torch.randn(2, 3, *size), torch.rand(2, 4, *size)
    with torch.no_grad():
        expected = ancillary.model(images)
        assert expected.std() > 0
        torch.testing.assert_close(ancillary(images, maps), expected)


@pytest.mark.parametrize("name", SMALL)
def test_boxes_change_what_the_decoder_sees_and_not_the_encoder(name):
    ancillary = small_ancillary(name).eval()
    images = torch.randn(1, 3, 64, 64)
    empty = box_map(boxes_of(), torch.zeros(0, dtype=torch.int64), (64, 64), 4)[None]
    boxed = box_map(boxes_of([8, 8, 40, 40]), torch.tensor([2]), (64, 64), 4)[None]
    seen = []
    encode = ancillary.model.encode
    ancillary.model.encode = lambda pictures: seen.append(encode(pictures)) or seen[-1]
    decoded = []
    decode = ancillary.model.decode
    ancillary.model.decode = lambda features: decoded.append(features) or decode(features)
    with torch.no_grad():
        ancillary(images, empty)
        ancillary(images, boxed)
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first, second)
    for position, (first, second) in enumerate(zip(*decoded, strict=True)):
        gated = position in (0, len(decoded[0]) - 1)
        assert torch.equal(first, second) != gated


def test_the_gate_is_the_formula():
    ancillary = small_ancillary("deeplabv3plus").eval()
    images, maps = torch.randn(1, 3, 64, 64), torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        low, deep = ancillary.model.encode(images)
        pooled = [functional.avg_pool2d(maps, side) for side in (4, 16)]
        gates = [
            torch.sigmoid(functional.conv2d(share, gate.conv.weight, gate.conv.bias, padding=1))
            for share, gate in zip(pooled, ancillary.gates, strict=True)
        ]
        scores = ancillary.model.decode([low * gates[0], deep * gates[1]])
        torch.testing.assert_close(ancillary.scores(images, maps), scores)


def test_wrapping_changes_nothing_in_the_network():
    torch.manual_seed(0)
    model = MODELS["deeplabv3plus"](4, **SMALL["deeplabv3plus"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ancillary = Ancillary(model)
    assert ancillary.model is model
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", ["segnet", "cvae", "dilated"])
def test_networks_without_encode_and_decode_are_refused(name):
    options = {"segnet": {"width": 4}, "dilated": {"width": 4, "fc_channels": 8}, "cvae": {}}
    with pytest.raises(ValueError, match="encode"):
        Ancillary(MODELS[name](4, **options[name]))


def test_networks_that_pad_the_picture_are_refused():
    ancillary = Ancillary(MODELS["unet"](4, width=4, depth=3))
    with pytest.raises(ValueError, match=r'does not lie on an image of 64x64.*padding="same"'):
        ancillary(torch.zeros(1, 3, 64, 64), torch.zeros(1, 4, 64, 64))


def test_box_maps_of_another_size_or_other_classes_are_refused():
    ancillary = small_ancillary()
    for shape in ((1, 4, 32, 64), (1, 3, 64, 64), (2, 4, 64, 64)):
        with pytest.raises(ValueError, match="box maps"):
            ancillary(torch.zeros(1, 3, 64, 64), torch.zeros(shape))


def test_a_picture_without_a_box_is_refused():
    sample = make_sample(torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(32, 32).long(), "lonely")
    with pytest.raises(ValueError, match="lonely has no box"):
        ancillary_logits(small_ancillary(), sample)


# -- corrections


@pytest.mark.parametrize("alpha", [30.0, 5.0, 1.0, 0.5, 0.0])
def test_the_linear_correction_minimises_both_divergences(alpha):
    torch.manual_seed(1)
    logits, ancillary = 2 * torch.randn(2, 5, dtype=torch.float64)
    log_p, log_r = logits.log_softmax(0), ancillary.log_softmax(0)

    def objective(free):
        log_q = torch.from_numpy(free).log_softmax(0)
        q = log_q.exp()
        return float((q * (log_q - log_p)).sum() + alpha * (q * (log_q - log_r)).sum())

    found = minimize(objective, torch.zeros(5, dtype=torch.float64).numpy(), tol=1e-12)
    q = linear_correction(logits[None], ancillary[None], alpha).softmax(1)[0]
    torch.testing.assert_close(torch.from_numpy(found.x).softmax(0), q, atol=1e-5, rtol=0)
    kl = partial(functional.kl_div, reduction="sum", log_target=True)  # KL(target || input)
    value = kl(log_p, q.log()) + alpha * kl(log_r, q.log())
    assert float(value) <= found.fun + 1e-9
    geometric = (log_p.exp() * log_r.exp() ** alpha) ** (1 / (1 + alpha))
    torch.testing.assert_close(q, geometric / geometric.sum())
    assert float(value) == pytest.approx(-(1 + alpha) * float(geometric.sum().log()), abs=1e-9)


def test_alpha_decides_between_the_two():
    torch.manual_seed(0)
    mine, other = torch.randn(2, 1, 3, 2, 2)
    assert torch.equal(linear_correction(mine, other, 0.0), mine)
    torch.testing.assert_close(linear_correction(mine, other, 1e6), other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(linear_correction(mine, other, 0.5), mine * 2 / 3 + other / 3)
    with pytest.raises(ValueError, match="alpha is 0 or more, not -1"):
        linear_correction(mine, other, -1.0)
    with pytest.raises(ValueError, match="cannot be combined"):
        linear_correction(mine, other[:, :2], 1.0)


def test_alpha_falls_from_30_to_a_half():
    values = [alpha_at(step, 11) for step in range(11)]
    assert (values[0], values[-1]) == (30, pytest.approx(0.5))
    ratios = [later / earlier for earlier, later in pairwise(values)]
    assert ratios == pytest.approx([(0.5 / 30) ** 0.1] * 10)
    straight = [alpha_at(step, 11, shape="linear") for step in range(11)]
    assert straight == pytest.approx([30 - 2.95 * step for step in range(11)])
    assert alpha_at(0, 1) == 30
    for arguments in ((11, 11), (-1, 11)):
        with pytest.raises(ValueError, match="is none of 0 to 10"):
            alpha_at(*arguments)
    with pytest.raises(ValueError, match="shape is"):
        alpha_at(0, 11, shape="cosine")
    with pytest.raises(ValueError, match="above 0"):
        alpha_at(0, 11, end=0.0)


def test_the_convolutional_correction_is_two_convolutions():
    torch.manual_seed(0)
    correction = ConvolutionalCorrection(3, width=5)
    kinds = [type(part) for part in correction.children()]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert sum(p.numel() for p in correction.parameters()) == (6 * 9 + 1) * 5 + (5 * 9 + 1) * 3
    mine, other = torch.randn(2, 2, 3, 6, 7)
    assert correction(mine, other).shape == mine.shape
    assert not torch.allclose(correction(mine, other), correction(other, mine))
    with pytest.raises(ValueError, match="cannot be combined"):
        correction(mine, other[..., :5])


def test_em_fixed_allows_what_the_boxes_allow():
    pixels = torch.tensor([[0.0, 5.0, 9.0], [2.0, -9.0, 8.0], [2.5, 0.0, 7.0]])
    logits = pixels.T[None, :, :, None]  # (1, classes, pixels, 1)
    maps = torch.zeros(1, 3, 3, 1)
    maps[0, 0, 0] = maps[0, 1, 1] = maps[0, 1, 2] = 1
    labels = em_fixed_labels(logits, maps, foreground_bias=3, background_bias=1)
    # outside boxes only background; -9 + 3 < 2 + 1; 0 + 3 < 2.5 + 1
    assert labels[0, :, 0].tolist() == [0, 0, 0]
    labels = em_fixed_labels(logits, maps, foreground_bias=4, background_bias=1)
    assert labels[0, :, 0].tolist() == [0, 0, 1]  # 0 + 4 > 2.5 + 1
    with pytest.raises(ValueError, match="must be larger than the background's"):
        em_fixed_labels(logits, maps, foreground_bias=1, background_bias=1)
    with pytest.raises(ValueError, match="cannot be combined"):
        em_fixed_labels(logits, maps[:, :2])


def test_em_fixed_by_brute_force():
    torch.manual_seed(3)
    logits, maps = torch.randn(2, 4, 5, 6), (torch.rand(2, 4, 5, 6) < 0.4).float()
    maps[:, 0] = (maps[:, 1:].sum(1) == 0).float()
    labels = em_fixed_labels(logits, maps, foreground_bias=1.5, background_bias=0.5)
    for n in range(2):
        for y in range(5):
            for x in range(6):
                scores = {0: float(logits[n, 0, y, x]) + 0.5}
                scores |= {c: float(logits[n, c, y, x]) + 1.5 for c in (1, 2, 3) if maps[n, c, y, x]}
                assert int(labels[n, y, x]) == max(scores, key=scores.get)


# -- losses


def a_batch():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5, 6, requires_grad=True)
    labels = torch.randint(3, (4, 5, 6))
    labels[0, 0] = IGNORE
    labelled = torch.tensor([True, False, True, False])
    labels[~labelled] = 0
    labels[1, :, -1] = IGNORE  # padding
    guide = torch.randn(4, 3, 5, 6, requires_grad=True)
    return logits, labels, guide, labelled


def test_the_loss_is_the_sum_of_the_talk():
    logits, labels, guide, labelled = a_batch()
    loss = self_correction_loss(logits, labels, guide.softmax(1), labelled)
    hard = functional.cross_entropy(logits[labelled], labels[labelled], ignore_index=IGNORE, reduction="sum")
    soft = functional.cross_entropy(logits[~labelled], guide[~labelled].softmax(1), reduction="none")
    soft = soft[labels[~labelled] != IGNORE].sum()
    torch.testing.assert_close(loss, (hard + soft) / (labels != IGNORE).sum())
    everything = labels.new_full(labels.shape, IGNORE)
    empty = self_correction_loss(logits, everything, guide.softmax(1), labelled)
    assert float(empty.detach()) == 0


def test_classes_may_be_weighted_in_masks_and_in_soft_labels():
    logits, labels, guide, labelled = a_batch()
    weights = torch.tensor([0.5, 1.0, 3.0])
    loss = self_correction_loss(logits, labels, guide.softmax(1), labelled, class_weights=weights)
    log_p, q = logits.log_softmax(1), guide.softmax(1)
    total = 0
    for n, y, x in (labels != IGNORE).nonzero().tolist():
        if labelled[n]:
            total = total - weights[labels[n, y, x]] * log_p[n, labels[n, y, x], y, x]
        else:
            total = total - (weights * q[n, :, y, x] * log_p[n, :, y, x]).sum()
    torch.testing.assert_close(loss, total / (labels != IGNORE).sum())


def test_true_masks_as_soft_labels_weigh_what_masks_weigh():
    logits, labels, _, labelled = a_batch()
    labels = torch.randint(3, labels.shape)
    weights, q = torch.tensor([0.5, 1.0, 3.0]), one_hot(labels, 3)
    on_all = self_correction_loss(logits, labels, q, labelled | True, class_weights=weights)
    on_half = self_correction_loss(logits, labels, q, labelled, class_weights=weights)
    torch.testing.assert_close(on_all, on_half)


def test_a_weighted_network_says_what_is_likely_without_its_weights():
    torch.manual_seed(0)
    likely, weights = torch.tensor([0.7, 0.25, 0.05]), torch.tensor([0.4, 1.0, 8.0])
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        q = likely[None, :, None, None]
        loss = self_correction_loss(logits, labels, q, labels.new_zeros(1).bool(), class_weights=weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    p, guide = logits.detach().softmax(1), torch.zeros(1, 3, 1, 1)
    assert p[0, 2, 0, 0] > 0.2  # it says the rare class far too often
    objective = PrimaryObjective("linear", class_weights=weights, alpha_start=1e-9, alpha_end=1e-9)
    torch.testing.assert_close(objective.target(logits, guide)[0, :, 0, 0], likely, atol=1e-4, rtol=1e-3)
    unknown = PrimaryObjective("linear", class_weights=torch.tensor([0.4, 0.0, 5.0]))
    assert unknown.target(logits, guide).isfinite().all()
    boxed = torch.tensor([0.0, 1.0, 1.0])[None, :, None, None]
    em = PrimaryObjective("em_fixed", class_weights=weights, foreground_bias=3.0)
    assert em.target(logits, boxed)[0, :, 0, 0].tolist() == [0, 1, 0]
    assert em_fixed_labels(logits, boxed).item() == 2  # as the weights have it


def test_the_ancillary_network_learns_unweighted():
    logits, labels, _, _ = a_batch()
    found = AncillaryObjective()(lambda *_: logits, None, labels, None)
    torch.testing.assert_close(found, functional.cross_entropy(logits, labels, ignore_index=IGNORE))


def test_on_w_the_gradient_is_that_of_the_divergence():
    logits, labels, guide, labelled = a_batch()
    labels = labels * 0
    self_correction_loss(logits, labels, guide.softmax(1), labelled).backward()
    assert guide.grad is None  # whatever q was computed from
    copy = logits.detach().clone().requires_grad_()
    divergence = functional.kl_div(
        copy.log_softmax(1)[~labelled], guide.detach().softmax(1)[~labelled], reduction="sum"
    )
    divergence.backward()
    torch.testing.assert_close(logits.grad[~labelled], copy.grad[~labelled] / labels.numel())


@pytest.mark.parametrize("method", ["none", "linear", "em_fixed"])
def test_no_gradient_reaches_the_target(method):
    logits, labels, guide, labelled = a_batch()
    objective = PrimaryObjective(method, steps=10)
    objective.at_step(7)
    if method == "em_fixed":
        guide = (guide.detach() > 0).float().requires_grad_()
    target = objective.target(logits, guide)
    assert not target.requires_grad
    objective(lambda _: logits, None, labels, guide, labelled).backward()
    assert guide.grad is None
    # the gradient of the primary's logits is that of a constant target: (p - q) / counted
    counted = (labels != IGNORE)[:, None]
    expected = (logits.detach().softmax(1) - target) * counted / counted.sum()
    torch.testing.assert_close(logits.grad[~labelled], expected[~labelled])


class _Primary(nn.Module):
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.conv(images)


def gradients(model, labels, guide, labelled):
    model.zero_grad()
    torch.manual_seed(5)
    images = torch.randn(len(labels), 3, 5, 6)
    PrimaryObjective("convolutional")(model, images, labels, guide, labelled).backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


def test_the_correction_learns_on_f_alone_and_teaches_on_w_alone():
    _, labels, guide, labelled = a_batch()
    torch.manual_seed(2)
    model = PrimaryWithCorrection(_Primary(), ConvolutionalCorrection(3, width=4))
    primary = len(list(model.primary.parameters()))
    everything = gradients(model, labels, guide, labelled)
    assert guide.grad is None  # the ancillary side is frozen
    # other suggestions on W: the primary learns something else, the correction the same
    changed = guide.detach().clone()
    changed[~labelled] += 3 * torch.randn_like(changed[~labelled])
    on_w = gradients(model, labels, changed, labelled)
    assert not torch.allclose(on_w[0], everything[0])
    for before, after in zip(everything[primary:], on_w[primary:], strict=True):
        torch.testing.assert_close(before, after)
    # other suggestions on F: the correction learns something else, the primary the same
    changed = guide.detach().clone()
    changed[labelled] += 3 * torch.randn_like(changed[labelled])
    on_f = gradients(model, labels, changed, labelled)
    for before, after in zip(everything[:primary], on_f[:primary], strict=True):
        torch.testing.assert_close(before, after)
    assert not torch.allclose(on_f[primary], everything[primary])


def test_the_loss_of_the_convolutional_method():
    _, labels, guide, labelled = a_batch()
    torch.manual_seed(2)
    model = PrimaryWithCorrection(_Primary(), ConvolutionalCorrection(3, width=4))
    images = torch.randn(4, 3, 5, 6)
    loss = PrimaryObjective("convolutional")(model, images, labels, guide, labelled)
    logits, corrected = model(images, guide)
    assert torch.equal(model(images), logits)
    ce = partial(functional.cross_entropy, ignore_index=IGNORE, reduction="sum")
    total = ce(logits[labelled], labels[labelled]) + ce(corrected[labelled], labels[labelled])
    soft = functional.cross_entropy(logits, corrected.softmax(1), reduction="none")
    total = total + soft[(labels != IGNORE) & ~labelled[:, None, None]].sum()
    torch.testing.assert_close(loss, total / (labels != IGNORE).sum())


@pytest.mark.parametrize("method", METHODS)
def test_several_devices_have_the_loss_of_one(method):
    """Each has a part of the batch; `fit` weighs their losses with what `weight` says."""
    _, labels, guide, labelled = a_batch()
    guide = (guide > 0).float() if method == "em_fixed" else guide
    torch.manual_seed(2)
    model, objective = _Primary(), PrimaryObjective(method, steps=9)
    if method == "convolutional":
        model = PrimaryWithCorrection(model, ConvolutionalCorrection(3, width=4))
    objective.at_step(5)
    images = torch.randn(4, 3, 5, 6)
    with torch.no_grad():
        whole = objective(model, images, labels, guide, labelled)
        parts = [
            (objective.weight(labels[own]), objective(model, images[own], labels[own], guide[own], labelled[own]))
            for own in (slice(0, 2), slice(2, 4))
        ]
    assert parts[0][0] != parts[1][0]
    mean = sum(weight * loss for weight, loss in parts) / sum(weight for weight, _ in parts)
    torch.testing.assert_close(mean, whole)


def test_methods_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="method 'lineal' is none of none, linear"):
        PrimaryObjective("lineal")


# -- data


def test_logits_move_with_the_picture():
    objects = Objects(4, (48, 64), seed=1, void_border=0)
    transform = train_transform(crop=(48, 64), scale=(0.6, 1.6), jitter=0.2, elastic=2.0)
    for index in range(4):
        sample = objects[index]
        hot = functional.one_hot(sample.labels.as_subclass(torch.Tensor), 9).movedim(-1, 0).float()
        soft = SoftSample(*sample, 8 * hot, labelled=True)
        torch.manual_seed(index)
        plain = transform(sample)
        torch.manual_seed(index)
        moved = transform(soft)
        for one, other in zip(plain[:4], moved[:4], strict=True):
            assert torch.equal(one, other)
        assert moved.logits.shape == (9, 48, 64)
        counted = (moved.labels != IGNORE).as_subclass(torch.Tensor)
        same = (moved.logits.argmax(0) == moved.labels.as_subclass(torch.Tensor))[counted]
        assert same.float().mean() > 0.95  # all but the outlines, which are interpolated
        assert moved.labelled
        assert isinstance(moved.image, tv_tensors.Image)


def test_samples_without_logits_move_as_well():
    sample = SoftSample(*Objects(1, (48, 64))[0], None, labelled=True)
    moved = train_transform(crop=(40, 40), scale=(0.6, 1.6), elastic=2.0)(sample)
    assert moved.logits is None
    assert moved.labels.shape == (40, 40)


def test_two_sets_alternate():
    objects = Objects(10, (32, 32))
    mixed = Alternating(Subset(objects, range(3)), Subset(objects, range(3, 10)))
    assert len(mixed) == 14
    order = mixed.order(torch.Generator().manual_seed(0)).tolist()
    names = [mixed[index].name for index in order]
    assert sorted(names[1::2]) == sorted(f"objects-{index}" for index in range(3, 10))
    assert {name: names[::2].count(name) for name in names[::2]}.keys() == {f"objects-{index}" for index in range(3)}
    assert sorted(names[:6:2]) == [f"objects-{index}" for index in range(3)]
    other = mixed.order(torch.Generator().manual_seed(1)).tolist()
    assert order != other
    with pytest.raises(ValueError, match="sets of 3 and 0 images"):
        Alternating(Subset(objects, range(3)), Subset(objects, []))


def test_batches_hold_what_the_objectives_take():
    objects = Objects(4, (48, 64))
    soft = [
        SoftSample(*objects[index], torch.full((9, 48, 64), float(index)), labelled=index % 2 == 0)
        for index in range(4)
    ]
    images, labels, logits, labelled = soft_batch(soft)
    assert (images.shape, labels.shape, logits.shape) == ((4, 3, 48, 64), (4, 48, 64), (4, 9, 48, 64))
    assert labelled.tolist() == [True, False, True, False]
    *_, maps, labelled = boxed_batch(soft, num_classes=9)
    assert labelled.tolist() == [True, False, True, False]
    assert torch.equal(maps, box_batch([objects[index] for index in range(4)], num_classes=9)[2])
    for index in range(4):
        sample = objects[index]
        expected = box_map(sample.boxes, sample.box_labels, (48, 64), 9)
        assert torch.equal(maps[index], expected)


# -- what hidden masks say


@pytest.mark.parametrize("method", METHODS)
def test_hidden_masks_judge_suggestion_target_and_primary(method):
    """The suggestion is the truth; the primary says "disc" everywhere; alpha decides whom q follows."""
    pictures = Objects(5, (48, 64), seed=3)
    truth = {index: 9 * one_hot(pictures[index].labels.as_subclass(torch.Tensor)[None], 9)[0] for index in range(5)}
    collate = partial(boxed_batch, num_classes=9) if method == "em_fixed" else soft_batch
    objective = PrimaryObjective(method, steps=2, alpha_start=5.0, alpha_end=0.1)

    class Disc(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(9))

        def forward(self, images, guide=None):
            logits = torch.zeros(len(images), 9, *images.shape[2:])
            logits[:, 1] = 2.0
            return logits if guide is None else (logits, guide)

    look = HiddenMasks(objective, Guided(pictures, [1, 3, 4], True, truth), collate, batch_size=2)
    first = look(Disc())
    objective.at_step(1)
    last = look(Disc())
    assert first["primary_mean_iou"] == last["primary_mean_iou"] < 0.1
    if method == "em_fixed":
        assert "suggestion_mean_iou" not in first
        assert first["primary_mean_iou"] < first["target_mean_iou"] < 1
        return
    assert first["suggestion_mean_iou"] == first["target_mean_iou"] == 1
    assert (last["target_mean_iou"] == 1) == (method != "linear")
    assert first["target_missed"] == first["target_overfilled"] == 0 < first["primary_missed"]


# -- training


class _Noise:
    """Pictures of noise in which only the boxes tell what is where."""

    classes, background = ("background", "one", "two", "three"), 0
    palette = torch.zeros(4, 3, dtype=torch.uint8)

    def __init__(self, length, seed):
        self.length, self.seed = length, seed

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        left, top, kind = (int(torch.randint(n, (), generator=generator)) for n in (16, 16, 3))
        labels = torch.zeros(32, 32, dtype=torch.int64)
        labels[top : top + 16, left : left + 16] = kind + 1
        image = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        box = boxes_of([left, top, left + 16, top + 16])
        return make_sample(image, labels, f"noise-{index}", box, torch.tensor([kind + 1]))


def test_an_ancillary_network_learns_to_use_its_boxes():
    collate = partial(box_batch, num_classes=4)
    torch.manual_seed(0)
    unet = MODELS["unet"](4, width=8, depth=3, padding="same", norm=True, dropout=0.0)
    ancillary = Ancillary(unet)
    fit(
        ancillary,
        _Noise(200, 1),
        steps=120,
        batch_size=8,
        learning_rate=1e-2,
        collate=collate,
        objective=AncillaryObjective(),
        show_progress=False,
    )
    held_out = _Noise(20, 2)
    matrix = evaluate(ancillary, held_out, collate=collate, show_progress=False)
    assert matrix.mean_iou() > 0.8
    blind = evaluate(ancillary, held_out, collate=partial(_without_boxes, collate), show_progress=False)
    assert blind.mean_iou() < 0.4


def _without_boxes(collate, samples):
    images, labels, maps = collate(samples)
    empty = torch.zeros_like(maps)
    empty[:, 0] = 1
    return images, labels, empty


def test_what_faulty_labels_and_the_ancillary_network_are_worth():
    class Perfect(nn.Module):
        """Answers with the clean labels, which it finds by the picture."""

        num_classes = 9

        def __init__(self, dataset):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.clean = [dataset.clean_labels(index).as_subclass(torch.Tensor) for index in range(len(dataset))]
            self.seen = -1

        def forward(self, images, maps):
            self.seen += 1
            clean = self.clean[self.seen]
            return functional.one_hot(clean.where(clean != IGNORE, 0), 9).movedim(-1, 0)[None].float()

    noisy_set = Objects(12, (48, 64), seed=2, label_noise=0.8)
    noisy, repaired = label_repair(Perfect(noisy_set), noisy_set, show_progress=False)
    assert float(repaired.summary()["mean_iou"]) == 1.0
    assert 0.3 < noisy.summary()["mean_iou"] < 0.95
    assert repaired.missed == repaired.overfilled == 0 < min(noisy.missed, noisy.overfilled)
    clean_set = Objects(12, (48, 64), seed=2)
    assert noisy.missed + noisy.overfilled < noisy.objects == repaired.objects
    noisy, _ = label_repair(Perfect(clean_set), clean_set, show_progress=False)
    assert noisy.summary()["mean_iou"] == 1.0
    with pytest.raises(ValueError, match="no clean_labels"):
        label_repair(Perfect(clean_set), Subset(clean_set, [0]), show_progress=False)
