"""The metrics of semantic segmentation, all read off one confusion matrix.

Names as in the literature: overall pixel accuracy (OP, "global accuracy"), mean class accuracy (PC), mean
intersection over union (mIoU, the Jaccard index JI) and frequency-weighted IoU (FCN, CVPR 2015). The
matrix is summed over the whole set before anything is divided: the mean of per-image IoUs is another
number.
"""

import math
from collections.abc import Sequence

import torch
from scipy import ndimage
from torch import Tensor

from course_lib.data.sample import IGNORE

ONE_LOGIT = ": one logit for two classes has no largest; compare it with 0 first, or give the network two channels"
_BINS = 256  # labels and predictions are bytes: room for 255 classes and the ignore label


class ConfusionMatrix:
    """Counts `counts[i, j]` of pixels with true class i and predicted class j, (C, C) int64.

    Source: CSE 252D, lecture 13; the counting is `bincount` of truth * 256 + prediction.

    Args:
        num_classes: C, 1..255.
        ignore_index: Label whose pixels are left out, from the truth and from the prediction; any number that is no
            class.
        device: Where the counts live; batches are counted there without a copy to the host.

    Raises:
        ValueError: For a number of classes or an ignore_index that is impossible.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = IGNORE, device: torch.device | str = "cpu"):
        if not 1 <= num_classes < _BINS:
            raise ValueError(f"num_classes is between 1 and {_BINS - 1}, not {num_classes}")
        if not isinstance(ignore_index, int):
            raise ValueError(f"ignore_index is a whole number, not {ignore_index!r}")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Logits (N, C, H, W) or classes (N, H, W), integer.
            labels: (N, H, W) integer: 0 .. C-1 or `ignore_index`.

        Raises:
            ValueError: Where shapes differ or a value is neither a class nor ignored.
        """
        if prediction.is_floating_point():
            if prediction.ndim != 4 or prediction.shape[1] != self.num_classes:
                raise ValueError(
                    f"predictions of floating point are logits (N, {self.num_classes}, H, W), one channel for each "
                    f"class, not {tuple(prediction.shape)}{ONE_LOGIT if 1 in prediction.shape[1:2] else ''}"
                )
            classes = prediction.argmax(dim=1)
            if prediction.gather(1, classes[:, None]).isnan().any():  # nan counts as the largest
                raise ValueError("logits hold nan: the network has diverged")
            prediction = classes
        if labels.is_floating_point():
            raise ValueError(f"labels are whole numbers, not {labels.dtype}")
        labels = labels.long()  # to a byte -1 is 255
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in size: "
                "metrics are taken at the labels' resolution"
            )
        if not 0 <= self.ignore_index < _BINS:
            counted = labels != self.ignore_index
            labels, prediction = labels[counted], prediction[counted]
        for what, values in (("labels", labels), ("predictions", prediction)):
            low, high = (int(value) for value in values.aminmax()) if values.numel() else (0, 0)
            if low < 0 or high >= _BINS:
                raise ValueError(f"{what} hold values from {low} to {high}; they are 0..{_BINS - 1}")
        cells = labels.to(torch.int32) * _BINS + prediction.to(torch.int32)
        counts = torch.bincount(cells.flatten(), minlength=_BINS * _BINS).view(_BINS, _BINS)
        if 0 <= self.ignore_index < _BINS:
            counts[self.ignore_index] = 0
        classes = self.num_classes
        counted = counts[:classes, :classes]
        if int(counts.sum() - counted.sum()):
            raise ValueError(self._stray_values(counts))
        self.counts += counted.to(self.counts.device)

    def _stray_values(self, counts: Tensor) -> str:
        classes = self.num_classes
        rows = (counts[classes:].sum(dim=1).nonzero().flatten() + classes).tolist()
        if rows:
            return f"labels hold {rows}, which are neither classes (0..{classes - 1}) nor {self.ignore_index}"
        columns = (counts[:, classes:].sum(dim=0).nonzero().flatten() + classes).tolist()
        return f"predictions hold {columns}; the classes are 0..{classes - 1}"

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Return the matrix over both sets of pixels."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot add matrices of {self.num_classes} and {other.num_classes} classes")
        total = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index, device=self.counts.device)
        total.counts = self.counts + other.counts.to(self.counts.device)
        return total

    @classmethod
    def from_counts(cls, counts: Tensor | Sequence[Sequence[int]]) -> "ConfusionMatrix":
        """Return a matrix with given `counts` (C, C), truth in rows."""
        counts = torch.as_tensor(counts, dtype=torch.int64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
            raise ValueError(f"counts are a square matrix of numbers >= 0, not {tuple(counts.shape)}")
        matrix = cls(len(counts))
        matrix.counts = counts.clone()
        return matrix

    def truth_pixels(self) -> Tensor:
        """Return G_i, (C,): the pixels whose true class is i."""
        return self.counts.sum(dim=1)

    def predicted_pixels(self) -> Tensor:
        """Return P_j, (C,): the pixels predicted as class j."""
        return self.counts.sum(dim=0)

    def overall_accuracy(self) -> float:
        """Return OP: the share of pixels that are right, 0..1; nan where no pixel was counted."""
        return _ratio(self.counts.diagonal().sum(), self.counts.sum())

    def class_accuracies(self) -> Tensor:
        """Return C_ii / G_i, (C,) float64: nan for a class absent from the truth."""
        return self.counts.diagonal().double() / self.truth_pixels().double()

    def mean_accuracy(self) -> float:
        """Return PC: the mean of `class_accuracies` over the classes that the truth holds, 0..1."""
        return float(self.class_accuracies().nanmean())

    def ious(self) -> Tensor:
        """Return C_ii / (G_i + P_i - C_ii), (C,) float64: nan for a class in neither truth nor prediction."""
        hits = self.counts.diagonal()
        return hits.double() / (self.truth_pixels() + self.predicted_pixels() - hits).double()

    def mean_iou(self) -> float:
        """Return mIoU: the mean of `ious` over the classes in truth or prediction, 0..1."""
        return float(self.ious().nanmean())

    def frequency_weighted_iou(self) -> float:
        """Return sum_i G_i IoU_i / sum_i G_i, 0..1 (FCN, CVPR 2015, section 5)."""
        pixels = self.truth_pixels().double()
        return _ratio((pixels * self.ious().nan_to_num()).sum(), pixels.sum())

    def one_class(self, classes: Sequence[str]) -> str:
        """Return a warning where the truth holds no pixel or only one of two classes or more, else ""."""
        there = [name for name, pixels in zip(classes, self.truth_pixels().tolist(), strict=True) if pixels]
        if len(there) > 1 or self.num_classes == 1:
            return ""
        holds = f"holds one class alone, {there[0]}," if there else "holds no pixel that counts"
        return f"the truth {holds} of {', '.join(classes)}: its metrics say nothing about the others"

    def summary(self) -> dict[str, float]:
        """Return the four overall metrics, 0..1, by the names that records and tables use."""
        return {
            "overall_accuracy": self.overall_accuracy(),
            "mean_accuracy": self.mean_accuracy(),
            "mean_iou": self.mean_iou(),
            "frequency_weighted_iou": self.frequency_weighted_iou(),
        }

    def per_class(self, classes: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
        """Return IoU, accuracy and true pixels by class name; None where the ratio is 0/0."""
        if len(classes) != self.num_classes:
            raise ValueError(f"{len(classes)} class names for {self.num_classes} classes")
        values = zip(
            classes, self.ious().tolist(), self.class_accuracies().tolist(), self.truth_pixels().tolist(), strict=True
        )
        return {
            name: {
                "iou": None if math.isnan(iou) else iou,
                "accuracy": None if math.isnan(accuracy) else accuracy,
                "pixels": pixels,
            }
            for name, iou, accuracy, pixels in values
        }


class MaskQuality:
    """How good maps of whole objects are: a confusion matrix, and how many objects they miss or over-fill.

    An object, one for each box, is missed where less than a quarter of its pixels are found. It is over-filled where its
    class is seen on more than a quarter as many pixels beside its mask, in its box and within a quarter of the box's
    size around it.
    """

    def __init__(self, num_classes: int):
        self.matrix = ConfusionMatrix(num_classes)
        self.objects = self.missed = self.overfilled = 0

    def update(self, prediction: Tensor, labels: Tensor, boxes: Tensor, box_labels: Tensor) -> None:
        """Count an image: classes and labels (H, W), boxes (n, 4) XYXY with labels (n,)."""
        self.matrix.update(prediction[None], labels[None])
        height, width = labels.shape
        for (left, top, right, bottom), label in zip(boxes.tolist(), box_labels.tolist(), strict=True):
            aside, above = (right - left) / 4, (bottom - top) / 4
            rows = slice(max(math.floor(top - above), 0), min(math.ceil(bottom + above), height))
            columns = slice(max(math.floor(left - aside), 0), min(math.ceil(right + aside), width))
            truth, found = labels[rows, columns], prediction[rows, columns] == label
            size, hit = int((truth == label).sum()), int((found & (truth == label)).sum())
            if size:  # others may hide it
                beside = int((found & (truth != label) & (truth != IGNORE)).sum())
                self.objects += 1
                self.missed += hit < size / 4
                self.overfilled += hit >= size / 4 and beside > size / 4

    def summary(self) -> dict[str, float]:
        """Return mean_iou, and the shares of the objects that are missed and overfilled, 0..1; nan without an object."""
        shares = {"missed": self.missed, "overfilled": self.overfilled}
        of_objects = {name: count / self.objects if self.objects else math.nan for name, count in shares.items()}
        return {"mean_iou": self.matrix.mean_iou(), **of_objects}


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if float(whole) else math.nan


def rescaling_upper_bound(labels: Tensor, factor: int, matrix: ConfusionMatrix) -> None:
    """Count in `matrix` what is lost when the truth itself is down- and up-sampled by `factor`.

    One label is kept per factor x factor block (its centre) and given to the whole block again: the best
    that a network with output stride `factor` and no skip could do. Source: FCN, CVPR 2015, upper bounds on
    mean IU.

    Args:
        labels: (N, H, W) int64.
        factor: The output stride in pixels, at least 1.
        matrix: What the coarse labels are counted in, as predictions.
    """
    if factor < 1:
        raise ValueError(f"factor is at least 1, not {factor}")
    height, width = labels.shape[-2:]
    rows = (torch.arange(height) // factor * factor + factor // 2).clamp(max=height - 1)
    columns = (torch.arange(width) // factor * factor + factor // 2).clamp(max=width - 1)
    coarse = labels[..., rows[:, None], columns[None, :]]
    known = torch.where(coarse == matrix.ignore_index, labels, coarse)
    # a block whose centre is void keeps its labels; where the truth is void nothing is counted anyway
    matrix.update(torch.where(labels == matrix.ignore_index, 0, known), labels)


def fill_regions(regions: Tensor) -> Tensor:
    """Grow regions (H, W) integer into the pixels marked 0 until they meet: borders thinned to nothing.

    A pixel goes to the nearest region; where there is no region at all, everything is region 1.
    """
    numbers = regions.cpu().numpy()
    if not numbers.any():
        return torch.ones_like(regions)
    rows, columns = ndimage.distance_transform_edt(numbers == 0, return_distances=False, return_indices=True)
    return torch.from_numpy(numbers[rows, columns])


def rand_f_score(truth: Tensor, prediction: Tensor) -> float:
    """Return V_Rand, 0..1: whether the same pairs of pixels are in one region, on the truth's foreground.

    With n_ij pixels in region i of the truth and j of the prediction, sum n_ij^2 counts the pairs (a pixel
    with itself included) that both keep together. Divided by sum_i (sum_j n_ij)^2 it falls when true regions
    are split, divided by sum_j (sum_i n_ij)^2 when they are merged; V_Rand is the harmonic mean of the two.
    nan where the truth has no region.

    Source: Arganda-Carreras et al., Frontiers in Neuroanatomy 2015, the score of the ISBI 2012 challenge
    since then, there after thinning the prediction's borders (see `fill_regions`) and at the best threshold.
    The "Rand error" of 2012, the one U-Net's paper states, is 1 - an F-score of pairs too, without thinning.

    Args:
        truth: (H, W) integer: the number of each pixel's region; 0 (membrane) is left out.
        prediction: (H, W) integer: regions likewise, 0 being one region among the others.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {tuple(truth.shape)} and prediction {tuple(prediction.shape)} differ in size")
    if any((regions != regions.round()).any() for regions in (truth, prediction)):
        raise ValueError("regions are whole numbers: these hold fractions")
    inside = truth > 0
    if not inside.any():
        return math.nan
    _, i = truth[inside].unique(return_inverse=True)
    _, j = prediction[inside].unique(return_inverse=True)
    columns = int(j.max()) + 1
    shared = torch.bincount(i * columns + j, minlength=(int(i.max()) + 1) * columns).double()
    shared = shared.view(-1, columns)
    together = float((shared**2).sum())
    split = together / float((shared.sum(dim=1) ** 2).sum())
    merge = together / float((shared.sum(dim=0) ** 2).sum())
    return 2 * split * merge / (split + merge)
