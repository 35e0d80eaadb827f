"""Calibration error and AUROC against torchmetrics and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import MulticlassCalibrationError

from course_lib.calibration import CalibrationError, auroc
from course_lib.data.sample import IGNORE


def batch(seed: int = 0, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(4, 7, 20, 21, generator=generator)
    labels = torch.where(
        torch.rand(4, 20, 21, generator=generator) < 0.6,
        logits.argmax(1),
        torch.randint(7, (4, 20, 21), generator=generator),
    )
    return logits.softmax(1), labels


@pytest.mark.parametrize("sharpness", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_is_torchmetrics(bins, sharpness):
    probabilities, labels = batch(sharpness=sharpness)
    ours = CalibrationError(bins)
    ours.update(probabilities[:1], labels[:1])
    ours.update(probabilities[1:], labels[1:])
    theirs = MulticlassCalibrationError(7, n_bins=bins, norm="l1")
    assert ours.compute() == pytest.approx(theirs(probabilities, labels).item(), abs=1e-5)


def test_ignored_pixels_do_not_count():
    probabilities, labels = batch()
    labels[:, :10] = IGNORE
    ours, cut = CalibrationError(), CalibrationError()
    ours.update(probabilities, labels)
    cut.update(probabilities[:, :, 10:], labels[:, 10:])
    assert ours.compute() == cut.compute()
    assert ours.pixels.sum() == 4 * 10 * 21


def test_an_honest_network_has_none():
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(1, 1000, 1000, generator=generator)
    labels = (torch.rand(1, 1000, 1000, generator=generator) > p).long()
    error = CalibrationError()
    error.update(torch.stack([p, 1 - p], 1), labels)
    assert error.compute() < 0.005
    confidence, accuracy = error.curve()
    assert all(abs(c - a) < 0.01 for c, a in zip(confidence, accuracy, strict=True))
    assert len(confidence) == 8  # the bins above one half


def test_nothing_seen_is_nan():
    assert math.isnan(CalibrationError().compute())


@pytest.mark.parametrize(
    ("probabilities", "labels", "reason"),
    [
        (torch.full((1, 2, 3, 3), 4.0), torch.zeros(1, 3, 3), "take the softmax first"),
        (torch.full((1, 2, 3, 3), 0.5), torch.zeros(1, 3, 4), r"labels \(1, 3, 4\)"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, labels, reason):
    with pytest.raises(ValueError, match=reason):
        CalibrationError().update(probabilities, labels.long())


def test_no_bins():
    with pytest.raises(ValueError, match="at least 1 bin, not 0"):
        CalibrationError(0)


@pytest.mark.parametrize("levels", [3, 50, 10**9])
def test_auroc_is_scikit_learns(levels):
    generator = torch.Generator().manual_seed(levels)
    positive = torch.rand(30, 40, generator=generator) < 0.3
    scores = torch.randn(30, 40, generator=generator) + positive
    scores = (scores * levels).round() / levels  # few levels: many ties
    expected = roc_auc_score(positive.flatten().numpy(), scores.flatten().numpy())
    assert auroc(scores, positive) == pytest.approx(expected, abs=1e-12)


def test_auroc_of_perfect_and_of_no_separation():
    positive = torch.tensor([True, True, False])
    assert auroc(torch.tensor([3.0, 2.0, 1.0]), positive) == 1
    assert auroc(torch.tensor([1.0, 1.0, 1.0]), positive) == 0.5
    assert math.isnan(auroc(torch.rand(3), torch.ones(3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"scores \(3,\), but positive \(4,\)"):
        auroc(torch.rand(3), torch.ones(4, dtype=torch.bool))
