"""Labels of every type and value: counted right by each loss and metric, or refused with what they hold."""

import math

import pytest
import torch

from course_lib.calibration import CalibrationError, auroc
from course_lib.cvae import attenuated_log_likelihood
from course_lib.implicit_background import implicit_background_cross_entropy, scribe_loss
from course_lib.losses import boundary_objective, class_pixels, cross_entropy, one_hot, presence_loss
from course_lib.metrics import ConfusionMatrix, rand_f_score
from course_lib.self_correction import self_correction_loss

CLASSES = 3
LOGITS = torch.randn(1, CLASSES, 4, 4, generator=torch.Generator().manual_seed(0))


def holding(value, dtype=torch.int64):
    """Return labels of class 0 with one pixel of `value`."""
    labels = torch.zeros(1, 4, 4, dtype=dtype)
    labels[0, 0, 0] = value
    return labels


def metric(counts, values):
    def update(labels):
        counts.update(values, labels)

    return update


TAKES_LABELS = {
    "cross_entropy": lambda labels: cross_entropy(LOGITS, labels),
    "one_hot": lambda labels: one_hot(labels, CLASSES),
    "presence_loss": lambda labels: presence_loss(LOGITS.mean((2, 3)), labels),
    "boundary_objective": lambda labels: boundary_objective(torch.ones(CLASSES))(lambda _: LOGITS, LOGITS, labels),
    "class_pixels": lambda labels: class_pixels([labels], CLASSES),
    "implicit": lambda labels: implicit_background_cross_entropy(LOGITS[:, 1:], labels),
    "scribe": lambda labels: scribe_loss(LOGITS[:, 1:], labels),
    "likelihood": lambda labels: attenuated_log_likelihood(LOGITS, torch.zeros(1, 1, 4, 4), labels),
    "self_correction": lambda labels: self_correction_loss(LOGITS, labels, LOGITS.softmax(1), torch.tensor([True])),
    "matrix": metric(ConfusionMatrix(CLASSES), LOGITS),
    "calibration": metric(CalibrationError(), LOGITS.softmax(1)),
}


@pytest.mark.parametrize("name", TAKES_LABELS)
@pytest.mark.parametrize(
    "labels", [holding(7), holding(-100), holding(0.5, torch.float32)], ids=["seven", "negative", "fraction"]
)
def test_labels_that_are_no_class_are_refused_in_words(name, labels):
    with pytest.raises(ValueError, match=r"labels.*(hold|are|lie)"):
        TAKES_LABELS[name](labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type_are_the_same_labels(dtype):
    labels = holding(255)
    labels[0, 1, 1] = 2
    for loss in (
        lambda labels: cross_entropy(LOGITS, labels),
        lambda labels: one_hot(labels, CLASSES),
        lambda labels: implicit_background_cross_entropy(LOGITS[:, 1:], labels),
    ):
        assert loss(labels.to(dtype)).equal(loss(labels))


@pytest.mark.parametrize(("ignored", "label"), [(-1, 255), (300, 44), (-100, 156)])
def test_an_ignore_index_is_no_byte_that_looks_like_it(ignored, label):
    matrix = ConfusionMatrix(50, ignore_index=ignored)
    if label < 50:
        matrix.update(holding(0), holding(label, torch.uint8))
        assert int(matrix.counts[label, 0]) == 1
        return
    with pytest.raises(ValueError, match=str(label)):
        matrix.update(holding(0), holding(label, torch.uint8))
    with pytest.raises(ValueError, match=str(label)):
        cross_entropy(LOGITS, holding(label, torch.uint8), ignore_index=ignored)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (4,), (1, 4, 4), (4, 4)])
def test_weights_of_pixels_are_not_spread_over_others(shape):
    with pytest.raises(ValueError, match=r"pixel weights are \(2, 4, 4\)"):
        cross_entropy(LOGITS.repeat(2, 1, 1, 1), holding(0).repeat(2, 1, 1), pixel_weights=torch.ones(shape))


def test_scores_and_regions_that_have_no_order_or_number_are_refused():
    with pytest.raises(ValueError, match="nan"):
        auroc(torch.tensor([math.nan, 1.0]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="whole numbers"):
        rand_f_score(torch.ones(4, 4, dtype=torch.int64), torch.rand(4, 4))


@pytest.mark.parametrize("wrong", [LOGITS, LOGITS.softmax(1) * 2, LOGITS.softmax(1) / 2, LOGITS.sigmoid()])
def test_what_is_no_distribution_over_the_classes_is_refused(wrong):
    with pytest.raises(ValueError, match="sums to 1 at each pixel"):
        cross_entropy(LOGITS, wrong)


def test_a_pixel_whose_distribution_is_all_zero_does_not_count():
    labels = holding(255)
    torch.testing.assert_close(cross_entropy(LOGITS, one_hot(labels, CLASSES)), cross_entropy(LOGITS, labels))
    assert cross_entropy(LOGITS, torch.zeros_like(LOGITS)) == 0
