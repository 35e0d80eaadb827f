"""Cross-entropy against torch's, and the weights of classes and borders against their definitions."""

import math

import numpy as np
import pytest
import torch
from data_helpers import needs_dataset
from scipy.stats import spearmanr
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from course_lib.data.camvid import CamVid
from course_lib.data.images import read_values, translate
from course_lib.data.sample import IGNORE
from course_lib.experiments.recipe import WEIGHTINGS
from course_lib.implicit_background import scribe_loss
from course_lib.losses import (
    boundary_weights,
    class_pixels,
    class_weights,
    connected_regions,
    constant_answer_loss,
    cross_entropy,
    dice_loss,
    dice_objective,
    focal_loss,
    focal_objective,
    log_frequency_weights,
    median_frequency_weights,
    one_hot,
    pixel_objective,
    without_strange,
)
from course_lib.metrics import ConfusionMatrix

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5


@pytest.fixture
def batch():
    """Logits (2, 5, 6, 7) and labels (2, 6, 7), of which about a quarter is ignored."""
    logits = 3 * torch.randn(2, CLASSES, 6, 7)
    labels = torch.randint(CLASSES, (2, 6, 7))
    labels[torch.rand(labels.shape) < 0.25] = IGNORE
    return logits.requires_grad_(), labels


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 7.0])


# -- cross-entropy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_equals_torch(batch, weights):
    logits, labels = batch
    expected = functional.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE)
    found = cross_entropy(logits, labels, class_weights=weights)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_a_distribution_that_is_certain_equals_the_label(batch, weights):
    logits, labels = batch
    hot = one_hot(labels, CLASSES)
    torch.testing.assert_close(
        cross_entropy(logits, hot, class_weights=weights), cross_entropy(logits, labels, class_weights=weights)
    )


def test_a_distribution_equals_torch(batch):
    logits, _ = batch
    soft = torch.rand(logits.shape).softmax(dim=1)
    torch.testing.assert_close(
        cross_entropy(logits, soft), functional.cross_entropy(logits, soft, reduction="none").mean()
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_gradient_is_softmax_minus_truth(batch, weights):
    logits, labels = batch
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels, class_weights=weights), logits)
    kept = labels != IGNORE
    factor = (torch.ones(CLASSES) if weights is None else weights)[labels * kept] * kept
    expected = (logits.detach().double().softmax(1) - one_hot(labels, CLASSES)) * factor[:, None]
    torch.testing.assert_close(gradient.double(), expected / factor.sum(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_gradient_equals_finite_differences(batch, kind):
    logits, labels = batch
    truth = labels if kind == "labels" else torch.rand(logits.shape).softmax(dim=1)
    options = {"class_weights": WEIGHTS, "pixel_weights": torch.rand(labels.shape)}
    (gradient,) = torch.autograd.grad(cross_entropy(logits, truth, **options), logits)
    step = 0.02
    for _ in range(5):
        direction = torch.randn(logits.shape)
        ahead, behind = (cross_entropy(logits + sign * step * direction, truth, **options).item() for sign in (1, -1))
        slope = float((gradient * direction).sum())
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_without_a_counted_pixel_loss_and_gradient_are_zero(weights, kind):
    logits = (50 * torch.randn(2, CLASSES, 4, 4)).requires_grad_()
    labels = torch.full((2, 4, 4), IGNORE)
    loss = cross_entropy(
        logits,
        labels if kind == "labels" else one_hot(labels, CLASSES),
        class_weights=weights,
        pixel_weights=torch.full((2, 4, 4), 10.0),
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_have_no_gradient(batch):
    logits, labels = batch
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    nothing = (gradient == 0).all(dim=1)
    assert torch.equal(nothing, labels == IGNORE)


def test_pixel_weights_multiply_each_pixel(batch):
    logits, labels = batch
    weights = torch.rand(labels.shape) * 4
    each = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    expected = (each * weights).sum() / (labels != IGNORE).sum()
    torch.testing.assert_close(cross_entropy(logits, labels, pixel_weights=weights), expected)
    ones = torch.ones(labels.shape)
    torch.testing.assert_close(cross_entropy(logits, labels, pixel_weights=ones), cross_entropy(logits, labels))


def test_another_ignored_label():
    logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [3, 2]]])
    expected = functional.cross_entropy(logits, labels, ignore_index=3)
    torch.testing.assert_close(cross_entropy(logits, labels, ignore_index=3), expected)


def test_half_precision_logits_are_summed_in_single(batch):
    logits, labels = batch
    coarse = logits.detach().bfloat16()
    found = cross_entropy(coarse, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cross_entropy(coarse.float(), labels))


@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 6, 7), (2, CLASSES + 1, 6, 7)])
def test_shapes_that_do_not_fit_are_named(batch, shape):
    with pytest.raises(ValueError, match=rf"logits \(2, 5, 6, 7\) go with .* not \({shape[0]}, "):
        cross_entropy(batch[0], torch.zeros(shape).long())


def test_class_weights_reach_the_loss():
    images, labels = torch.randn(1, 3, 32, 32), torch.randint(2, (1, 32, 32))
    model = torch.nn.Conv2d(3, 2, 1)
    weights = torch.tensor([1.0, 9.0])
    expected = functional.cross_entropy(model(images), labels, weight=weights)
    torch.testing.assert_close(pixel_objective(weights)(model, images, labels), expected)


# -- focal and Dice loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_two_classes_equals_torchvisions(gamma):
    """A softmax over the logits (0, x) is the sigmoid of x."""
    x, labels = 3 * torch.randn(2, 6, 7), torch.randint(2, (2, 6, 7))
    pairs = torch.stack([torch.zeros_like(x), x], dim=1)
    expected = sigmoid_focal_loss(x, labels.float(), alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(focal_loss(pairs, labels, gamma=gamma), expected)


def test_focal_loss_with_gamma_zero_is_the_cross_entropy(batch):
    logits, labels = batch
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0), cross_entropy(logits, labels))


def test_focal_loss_by_hand(batch):
    logits, labels = batch
    p = (logits.double().softmax(dim=1) * one_hot(labels, CLASSES)).sum(dim=1)[labels != IGNORE]
    torch.testing.assert_close(focal_loss(logits, labels).double(), (-((1 - p) ** 2) * p.log()).mean())


def test_dice_loss_by_hand():
    """Class 0: 2 (0.8 + 0.6) / (0.64 + 0.36 + 0.09 + 2); class 1: 2 * 0.7 / (0.04 + 0.16 + 0.49 + 1)."""
    p = torch.tensor([[0.8, 0.6, 0.3, 0.5], [0.2, 0.4, 0.7, 0.5]])
    labels = torch.tensor([[[0, 0, 1, IGNORE]]])
    found = dice_loss(p.log()[None, :, None], labels)
    assert float(found) == pytest.approx(1 - (2.8 / 3.09 + 1.4 / 1.69) / 2, abs=1e-6)
    third = torch.cat([p.log(), torch.full((1, 4), -50.0)])[None, :, None]  # a class that is nowhere
    torch.testing.assert_close(dice_loss(third, labels), found)


def test_dice_loss_of_a_certain_prediction_is_one_minus_the_mean_f1_score():
    labels, prediction = torch.randint(3, (2, 2, 9, 9))
    matrix = ConfusionMatrix(3)
    matrix.update(prediction, labels)
    dice = 2 * matrix.counts.diagonal() / (matrix.truth_pixels() + matrix.predicted_pixels())
    found = dice_loss(100 * one_hot(prediction, 3), labels)
    assert float(found) == pytest.approx(1 - float(dice.mean()), abs=1e-6)
    assert dice_loss(100 * one_hot(labels, 3), labels) == pytest.approx(0, abs=1e-6)


def test_dice_loss_does_not_ask_how_large_a_class_is():
    """A strip of n pixels half right and half missed costs the same for every n: the cross-entropy grows with n."""
    found, plain = [], []
    for pixels in (2, 8):
        labels = torch.zeros(1, 1, 400, dtype=torch.int64)
        labels[..., :pixels] = 1
        logits = 40 * one_hot(labels, 2) - 20
        logits[..., : pixels // 2] *= -1
        found.append(float(dice_loss(logits, labels)))
        plain.append(float(cross_entropy(logits, labels)))
    assert found[0] == pytest.approx(found[1], abs=0.01)
    assert plain[1] == pytest.approx(4 * plain[0], rel=0.01)


LOSSES = {
    "focal": focal_loss,
    "focal 0.5": lambda logits, labels: focal_loss(logits, labels, gamma=0.5),
    "dice": dice_loss,
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def other_loss(request):
    return request.param


def test_the_gradients_of_focal_and_dice_loss_equal_finite_differences(batch, other_loss):
    logits, labels = batch
    (gradient,) = torch.autograd.grad(other_loss(logits, labels), logits)
    step = 0.02
    for _ in range(5):
        direction = torch.randn(logits.shape)
        ahead, behind = (other_loss(logits + sign * step * direction, labels).item() for sign in (1, -1))
        slope = float((gradient * direction).sum())
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, abs=1e-3)


def test_focal_and_dice_loss_count_no_ignored_pixel(batch, other_loss):
    logits, labels = batch
    loss = other_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal((gradient == 0).all(dim=1), labels == IGNORE)
    other = torch.where((labels == IGNORE)[:, None], torch.randn(logits.shape), logits)
    torch.testing.assert_close(other_loss(other, labels), loss)


def test_focal_and_dice_loss_without_a_counted_pixel_are_zero(other_loss):
    logits = (50 * torch.randn(2, CLASSES, 4, 4)).requires_grad_()
    loss = other_loss(logits, torch.full((2, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_focal_and_dice_loss_of_a_sure_network_have_a_finite_gradient(other_loss):
    labels = torch.randint(CLASSES, (1, 4, 4))
    logits = (200 * one_hot(labels, CLASSES)).requires_grad_()
    other_loss(logits, labels).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_a_gamma_that_is_negative_or_infinite_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma is 0 or more and finite, not"):
        focal_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), gamma=gamma)


def test_focal_and_dice_objectives_are_the_losses_of_the_networks_logits(batch):
    logits, labels = batch
    assert torch.equal(focal_objective(1.0)(lambda _: logits, None, labels), focal_loss(logits, labels, gamma=1.0))
    assert torch.equal(dice_objective()(lambda _: logits, None, labels), dice_loss(logits, labels))


def test_one_hot_leaves_ignored_pixels_empty():
    hot = one_hot(torch.tensor([[[0, 2, IGNORE]]]), 3)
    assert hot[0, :, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("weights", [None, WEIGHTS + 0.5], ids=["equal", "weighted"])
def test_the_loss_of_the_constant_answer_is_the_least_there_is(weights):
    """Three batches of which one has no counted pixel; descent over the logits of one answer ends at that loss."""
    batches = [torch.randint(CLASSES, (2, 6, 7)) for _ in range(3)]
    batches[0][0] = 1
    batches[2][:] = IGNORE
    counts = torch.stack([torch.bincount(labels[labels != IGNORE], minlength=IGNORE) for labels in batches])
    logits = torch.zeros(CLASSES, requires_grad=True)

    def loss() -> torch.Tensor:
        everywhere = logits.view(1, -1, 1, 1).expand(2, -1, 6, 7)
        return sum(cross_entropy(everywhere, labels, class_weights=weights) for labels in batches) / 3

    for _ in range(400):
        (gradient,) = torch.autograd.grad(loss(), logits)
        logits.data -= gradient
    assert constant_answer_loss(counts, weights) == pytest.approx(loss().item(), abs=1e-3)
    assert constant_answer_loss(counts, weights) <= loss().item() + 1e-6


# -- weights of classes -----------------------------------------------------------------------------


@pytest.fixture
def maps():
    """Two pictures: the second class is in the first only, the third in the second only."""
    return [torch.tensor([[0, 0, 0, 1], [0, 0, 1, IGNORE]]), torch.tensor([[0, 0, 2, 0], [0, 0, 0, 0]])]


def test_class_pixels_by_hand(maps):
    pixels, present = class_pixels(maps, 4)
    assert pixels.tolist() == [12, 2, 1, 0]
    assert present.tolist() == [15, 7, 8, 0]


def test_median_frequency_by_hand(maps):
    frequencies = [12 / 15, 2 / 7, 1 / 8]
    expected = [(2 / 7) / frequency for frequency in frequencies] + [0.0]
    torch.testing.assert_close(median_frequency_weights(*class_pixels(maps, 4)), torch.tensor(expected))


def test_median_frequency_of_an_even_number_of_classes_is_between_the_middle_two():
    weights = median_frequency_weights(torch.tensor([1, 2, 4, 8]), torch.tensor([10, 10, 10, 10]))
    torch.testing.assert_close(weights, torch.tensor([3.0, 1.5, 0.75, 0.375]))


def test_median_frequency_makes_classes_count_alike_where_all_occur_together():
    """Weight times frequency is the median frequency for every class: the definition."""
    labels = torch.cat([torch.full((count,), value) for value, count in enumerate((50, 30, 15, 5))]).view(10, 10)
    pixels, present = class_pixels([labels], 4)
    shares = pixels / pixels.sum()
    products = median_frequency_weights(pixels, present) * shares
    torch.testing.assert_close(products, torch.full((4,), 0.225))


def test_no_pixel_at_all_has_no_frequencies():
    with pytest.raises(ValueError, match="no pixel of any class"):
        median_frequency_weights(torch.zeros(3).long(), torch.zeros(3).long())


def test_log_frequency_by_hand():
    weights = log_frequency_weights(torch.tensor([900, 100, 0]))
    expected = [1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)]
    torch.testing.assert_close(weights, torch.tensor(expected))
    torch.testing.assert_close(log_frequency_weights(torch.tensor([1, 1]), c=1.1), torch.full((2,), 1 / math.log(1.6)))


def test_log_frequency_needs_c_above_one():
    with pytest.raises(ValueError, match="it is 1"):
        log_frequency_weights(torch.tensor([1, 2]), c=1)


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(ValueError, match=r"class 4; the classes are 0\.\.2"):
        class_pixels([torch.tensor([[0, 4]])], 3)


def test_weights_by_name(maps):
    pixels, present = class_pixels(maps, 3)
    found = {kind: class_weights(kind, maps, 3) for kind in WEIGHTINGS}
    assert found["none"] is None
    assert torch.equal(found["median_frequency"], median_frequency_weights(pixels, present))
    assert torch.equal(found["log_frequency"], log_frequency_weights(pixels))
    assert torch.equal(found["mild_log_frequency"], log_frequency_weights(pixels, c=1.1))
    with pytest.raises(ValueError, match="'inverse' is not one of"):
        class_weights("inverse", maps, 3)


@pytest.fixture(scope="module")
def camvid_pixels():
    """`class_pixels` of CamVid's 367 training frames, of every second pixel of every second row."""
    training = CamVid("train")
    assert len(training) == 367
    label_maps = (translate(read_values(pair.mask)[::2, ::2], training.values, pair.mask) for pair in training.pairs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # starting threads takes longer than counting a small map
    try:
        return class_pixels(label_maps, len(training.classes))
    finally:
        torch.set_num_threads(threads)


@needs_dataset("camvid")
def test_camvids_median_frequency_weights_resemble_the_published_ones(camvid_pixels):
    """Both lists are of the same frames, in the order Sky, Building, ..., Bicyclist.

    `tutorial` is of SegNet-Tutorial's prototxt. `recounted` is what several public repositories use; void
    is a twelfth class in it and moves the median, so it agrees up to one factor. The two differ by more
    than the factor in SignSymbol alone, and there the files agree with the recount.
    """
    tutorial = torch.tensor([0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614])
    recounted = torch.tensor(
        [0.256527, 0.185283, 4.396288, 0.136869, 0.918473, 0.387320, 3.533074, 1.812685, 0.724620, 5.855013, 8.136508]
    )
    weights = median_frequency_weights(*camvid_pixels)
    by_name = dict(zip(CamVid.classes, weights.tolist(), strict=True))
    assert spearmanr(weights, tutorial).statistic > 0.9
    assert {"SignSymbol", "Pedestrian", "Bicyclist"} <= set(sorted(by_name, key=by_name.get)[-4:])
    assert min(by_name, key=by_name.get) == "Road"
    others = torch.tensor([name != "SignSymbol" for name in CamVid.classes])
    torch.testing.assert_close(weights[others], tutorial[others], rtol=0.25, atol=0)
    ratios = weights / recounted
    torch.testing.assert_close(ratios, ratios.mean().expand(11), rtol=0.02, atol=0)


@needs_dataset("camvid")
def test_camvids_log_frequency_weights_resemble_edanets(camvid_pixels):
    """EDANet's list (c = 1.12) is of other frames: all but Fence agree."""
    published = torch.tensor([3.9, 3.3, 8.2, 2.8, 6.5, 4.8, 8.1, 7.4, 6.0, 8.3, 8.5])
    weights = log_frequency_weights(camvid_pixels[0], c=1.12)
    others = torch.tensor([name != "Fence" for name in CamVid.classes])
    torch.testing.assert_close(weights[others], published[others], rtol=0.05, atol=0)


# -- weights of borders -----------------------------------------------------------------------------


@pytest.fixture
def three_objects():
    """Three objects of any number in a picture of 14 x 17, one of them in two pieces."""
    instances = torch.zeros(14, 17, dtype=torch.int64)
    instances[1:5, 1:6] = 3
    instances[1:6, 8:12] = 7
    instances[9:13, 2:4] = 12
    instances[10:13, 12:16] = 12
    return instances


def brute_force(instances: torch.Tensor, w0: float, sigma: float) -> np.ndarray:
    """The formula, pixel by pixel: d1 and d2 by looking at every pixel of every object."""
    numbers = instances.numpy()
    objects = [np.argwhere(numbers == name) for name in np.unique(numbers) if name > 0]
    weights = np.zeros(numbers.shape)
    for row, column in np.argwhere(numbers == 0):
        distances = sorted(np.sqrt(((pixels - (row, column)) ** 2).sum(axis=1)).min() for pixels in objects)
        weights[row, column] = w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights


@pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (3.0, 1.5)])
def test_border_weights_equal_brute_force(three_objects, w0, sigma):
    found = boundary_weights(three_objects, w0=w0, sigma=sigma)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, brute_force(three_objects, w0, sigma), rtol=1e-5, atol=1e-7)


def test_border_weights_are_zero_inside_objects_and_highest_in_the_gap(three_objects):
    weights = boundary_weights(three_objects)
    assert (weights[three_objects > 0] == 0).all()
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    assert 1 <= row <= 5
    assert column in (6, 7)


@pytest.mark.parametrize("name", [0, 4])
def test_border_weights_need_two_objects(name):
    instances = torch.zeros(8, 8, dtype=torch.int64)
    instances[2:4, 2:4] = name
    assert torch.equal(boundary_weights(instances), torch.zeros(8, 8))


def test_border_weights_take_one_picture():
    with pytest.raises(ValueError, match=r"one image \(H, W\), not \(1, 8, 8\)"):
        boundary_weights(torch.zeros(1, 8, 8))


def test_border_weights_reach_across_large_pictures():
    """Objects are measured in windows around them; far from all of them that must change nothing."""
    instances = torch.zeros(40, 150, dtype=torch.int64)
    for number, (row, column) in enumerate([(3, 4), (8, 30), (30, 25), (20, 70), (5, 140), (34, 145)]):
        instances[row : row + 4, column : column + 5] = 10 * number + 7
    found = boundary_weights(instances, w0=10, sigma=2.0)
    np.testing.assert_allclose(found, brute_force(instances, 10, 2.0), rtol=1e-5, atol=1e-9)
    wide = boundary_weights(instances, w0=10, sigma=20.0)
    np.testing.assert_allclose(wide, brute_force(instances, 10, 20.0), rtol=1e-5, atol=1e-9)


def test_border_weights_where_objects_leave_no_gap():
    instances = torch.ones(6, 8, dtype=torch.int64)
    instances[:, 4:] = 2
    assert torch.equal(boundary_weights(instances), torch.zeros(6, 8))


def test_regions_are_connected_through_their_sides():
    labels = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0], [2, 1, 255, 2], [2, 0, 1, 2]])
    regions = connected_regions(labels)
    assert regions.dtype == torch.int64
    assert regions.tolist() == [[1, 1, 0, 2], [0, 0, 3, 0], [6, 4, 0, 7], [6, 0, 5, 7]]
    assert connected_regions(labels, between=1).unique().tolist() == list(range(7))
    assert not connected_regions(torch.zeros(3, 4, dtype=torch.int64)).any()


# What enters


@pytest.mark.parametrize(
    "loss",
    [
        one_hot,
        lambda labels, classes: scribe_loss(torch.zeros(1, 1, 2, 2), labels),
        lambda labels, classes: focal_loss(torch.zeros(1, 2, 2, 2), labels),
        lambda labels, classes: dice_loss(torch.zeros(1, 2, 2, 2), labels),
    ],
)
@pytest.mark.parametrize("value", [2, -1, 0.5])
def test_labels_without_a_channel_are_named_by_every_loss(loss, value):
    words = rf"labels hold \[{value}\]" + ("|are whole numbers" if value == 0.5 else "")
    with pytest.raises(ValueError, match=words):
        loss(torch.full((1, 2, 2), value), 2)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "words"),
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), {}, "one logit a pixel"),
        (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), 2), {}, r"labels hold \[2\]; logits with 2 channels"),
        (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), -1), {}, r"labels hold \[-1\]"),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2), {}, r"whole numbers.*torch\.float32"),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.int64), {}, r"whole numbers.*torch\.int64"),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), {"class_weights": torch.ones(3)}, "3 class"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(logits, labels, options, words):
    with pytest.raises(ValueError, match=words):
        cross_entropy(logits, labels, **options)
    for loss in (focal_loss, dice_loss):
        if not options and labels.ndim == 3:
            with pytest.raises(ValueError, match=words):
                loss(logits, labels)


@pytest.mark.parametrize("void", [-1, -100, 300])
def test_any_label_may_be_ignored(void):
    logits, labels = torch.randn(1, 2, 2, 2), torch.tensor([[[0, 1], [void, 1]]])
    usual = torch.where(labels == void, 255, labels)
    assert torch.equal(cross_entropy(logits, labels, ignore_index=void), cross_entropy(logits, usual))
    assert class_pixels([labels], 2, void)[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match=f"labels hold {min(void, -2)}|labels hold class 300"):
        class_pixels([torch.tensor([min(void, -2) if void < 0 else 300])], 2)


def test_what_a_gpu_cannot_look_at_becomes_nan():
    """The way of every device but the CPU, taken on the CPU."""
    labels = torch.tensor([[[0, 4, IGNORE]], [[-1, 5, 2]]])
    seen, nothing = without_strange(labels, 5, IGNORE)
    assert seen.tolist() == [[[0, 4, IGNORE]], [[IGNORE, IGNORE, 2]]]
    assert nothing.isnan()
    seen, nothing = without_strange(labels[:1], 5, IGNORE)
    assert torch.equal(seen, labels[:1])
    assert nothing == 0
