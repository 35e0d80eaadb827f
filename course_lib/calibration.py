"""Calibration: how far confidence is from accuracy, and how well a score separates two kinds of pixel."""

import torch
from torch import Tensor

from course_lib.data.sample import IGNORE
from course_lib.losses import strange_labels


class CalibrationError:
    """ECE: the mean gap between how sure the network is and how often it is right.

    Pixels are sorted by their confidence (the largest probability, 0 to 1) into `bins` equal intervals
    (l, r]; each bin's gap `|accuracy - mean confidence|` counts by its share of the pixels. 0 is perfect.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    `update(probabilities (N, C, H, W), labels (N, H, W))` adds a batch; labels of `ignore_index` are left out.
    """

    def __init__(self, bins: int = 15, *, ignore_index: int = IGNORE):
        if bins < 1:
            raise ValueError(f"a calibration error has at least 1 bin, not {bins}")
        self.bins, self.ignore_index = bins, ignore_index
        self.pixels = torch.zeros(bins, dtype=torch.float64)
        self.right = torch.zeros(bins, dtype=torch.float64)
        self.confidence = torch.zeros(bins, dtype=torch.float64)

    @torch.no_grad()
    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Raises:
            ValueError: Where shapes do not fit, values are no probabilities, or a label is no class.
        """
        if labels.shape != (probabilities.shape[0], *probabilities.shape[2:]):
            raise ValueError(f"probabilities {tuple(probabilities.shape)} do not go with labels {tuple(labels.shape)}")
        confidence, prediction = probabilities.double().max(1)
        counted = labels != self.ignore_index
        if not torch.isin(labels[counted], torch.arange(probabilities.shape[1], device=labels.device)).all():
            raise strange_labels(labels, probabilities.shape[1], self.ignore_index)
        confidence, right = (confidence[counted].cpu(), (prediction == labels)[counted].double().cpu())
        if confidence.numel() and not 0 <= confidence.min() <= confidence.max() <= 1 + 1e-6:
            raise ValueError(
                f"probabilities lie between 0 and 1, but the largest here go from {confidence.min():.3g} "
                f"to {confidence.max():.3g}: take the softmax first"
            )
        index = (confidence * self.bins).ceil().long().sub_(1).clamp_(0, self.bins - 1)
        self.pixels.index_add_(0, index, torch.ones_like(confidence))
        self.right.index_add_(0, index, right)
        self.confidence.index_add_(0, index, confidence)

    def compute(self) -> float:
        """Return the ECE of all pixels seen, 0 to 1; nan where there was none."""
        return float((self.right - self.confidence).abs().sum() / self.pixels.sum())

    def curve(self) -> tuple[list[float], list[float]]:
        """Return mean confidence and accuracy of each bin that has pixels: a reliability diagram."""
        seen = self.pixels > 0
        counts = self.pixels[seen]
        return (self.confidence[seen] / counts).tolist(), (self.right[seen] / counts).tolist()


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Return the chance that a positive has a higher score than a negative (ties count half): 0.5 is guessing.

    It is the area under the ROC curve, by ranks (the Mann-Whitney statistic). nan where one kind is absent.

    Args:
        scores: Any shape.
        positive: bool, of the same shape.

    Raises:
        ValueError: For unequal shapes, and scores that are nan.
    """
    if scores.shape != positive.shape:
        raise ValueError(f"scores {tuple(scores.shape)}, but positive {tuple(positive.shape)}")
    if scores.isnan().any():
        raise ValueError("scores hold nan, which has no place among them")
    scores, positive = scores.flatten().double(), positive.flatten().bool()
    positives = int(positive.sum())
    negatives = positive.numel() - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts - 1) / 2  # of equal scores, ranks from 1
    ranks = mean_rank[inverse][positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
