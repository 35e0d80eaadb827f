"""Average precision (AP): what detections are worth, in the three ways in which it is stated.

Detections of all images are sorted by their score. Walking down that list, precision is the share of the
detections so far that are right, recall the share of the true objects that are found. AP sums the curve up: VOC 2007
at eleven recalls, VOC since 2010 as the area below it, COCO at 101 recalls. An "mAP" without the overlap that makes a
detection right and the way of summing up is no number.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.data.sample import IGNORE

COCO_OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
MOST = 100
"""Detections of an image that COCO counts."""
HIT, FALSE, LEFT_OUT = 1, 0, -1


class Detections(NamedTuple):
    """What a detector found in one image.

    Attributes:
        boxes: (n, 4) XYXY in pixels, right and bottom just outside.
        labels: (n,) int64, the class of each box.
        scores: (n,) of any range.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Truths(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (m, 4), as in `Detections`.
        labels: (m,) int64; IGNORE (255) is an object of every class that counts neither as found nor as missed (VOC's
            "difficult").
        size: (H, W) of the image.
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes (..., n, 4) and others (..., m, 4), XYXY: (..., n, m), 0 to 1.

    Widths are right - left: a box is half open. Boxes without area overlap nothing.
    """
    boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = sides.clamp(min=0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) + (others[..., 2:] - others[..., :2]).prod(dim=-1)
    union = areas - shared
    return torch.where(union > 0, shared / union, 0)


def precision_and_recall(hits: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Return precision and recall after each detection, (n,) float64, of hits (n,) in the order of falling scores."""
    found = hits.double().cumsum(0)
    return found / torch.arange(1, len(hits) + 1), found / objects


def envelope(precision: Tensor) -> Tensor:
    """Return the highest precision at this recall or a higher one, (n,): the curve without its teeth."""
    return precision.flip(0).cummax(0).values.flip(0) if len(precision) else precision


def at_recalls(precision: Tensor, recall: Tensor, steps: int) -> float:
    """Return the mean of the envelope at the recalls 0, 1/steps ... 1; it is 0 where that recall is not reached."""
    wanted = torch.arange(steps + 1, dtype=torch.float64) / steps
    places = torch.searchsorted(recall, wanted)
    return float(torch.cat([envelope(precision), torch.zeros(1, dtype=torch.float64)])[places].mean())


def eleven_points(precision: Tensor, recall: Tensor) -> float:
    """Return AP as PASCAL VOC 2007 states it: the mean of the envelope at the recalls 0, 0.1 ... 1."""
    return at_recalls(precision, recall, 10)


def every_point(precision: Tensor, recall: Tensor) -> float:
    """Return AP as PASCAL VOC states it since 2010: the area below the envelope."""
    steps = torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64))
    return float((envelope(precision) * steps).sum())


def hundred_and_one_points(precision: Tensor, recall: Tensor) -> float:
    """Return AP as COCO states it for one overlap: the mean of the envelope at the recalls 0, 0.01 ... 1."""
    return at_recalls(precision, recall, 100)


class Rule(NamedTuple):
    """One benchmark's way.

    Attributes:
        summed: Precision and recall -> AP.
        second_best: Whether a detection whose best object is taken may have the next one (COCO), or is false (VOC).
        most: Detections of an image that count.
    """

    summed: Callable[[Tensor, Tensor], float]
    second_best: bool
    most: int | None


RULES = {
    "voc2007": Rule(eleven_points, False, None),
    "voc2010": Rule(every_point, False, None),
    "coco": Rule(hundred_and_one_points, True, MOST),
}


def match(overlaps: Tensor, least: float, left_out: Tensor | None = None, *, second_best: bool = True) -> list[int]:
    """Return HIT, FALSE or LEFT_OUT for each of n detections, in the order of falling scores.

    Each object is found once: further detections of it are false.

    Args:
        overlaps: (n, m): the IoU of each detection with each object.
        least: IoU from which a detection is right (VOC's own code wants more than that; it matters for ties alone).
        left_out: (m,) bool: objects that count neither as found nor as missed, nor does what hits them; with
            `second_best` the first of it.
        second_best: See `Rule`.
    """
    objects = overlaps.shape[1]
    ignored = [False] * objects if left_out is None else left_out.tolist()
    taken, results = [False] * objects, []
    for row in overlaps.tolist():
        free = [place for place in range(objects) if not (second_best and taken[place])]
        counted = [place for place in free if row[place] >= least]
        if second_best and any(not ignored[place] for place in counted):
            counted = [place for place in counted if not ignored[place]]
        best = max(counted, key=lambda place: row[place], default=None)
        if best is None:
            results.append(FALSE)
        elif ignored[best]:
            results.append(LEFT_OUT)
        else:
            results.append(FALSE if taken[best] else HIT)
        if best is not None:
            taken[best] = True
    return results


def relative_sizes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return sqrt(area of the box / area of the image), (n,)."""
    height, width = size
    return ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) / (height * width)).sqrt()


def size_thirds(truths: Sequence[Truths]) -> dict[str, tuple[float, float]]:
    """Return ranges of relative sizes (`relative_sizes`) that hold a third of the objects each: small, medium, large."""
    sizes = torch.cat([relative_sizes(truth.boxes, truth.size) for truth in truths])
    first, second = sizes.quantile(torch.tensor([1 / 3, 2 / 3], dtype=sizes.dtype)).tolist()
    return {"small": (0.0, first), "medium": (first, second), "large": (second, math.inf)}


def judged(
    found: Sequence[Detections],
    truths: Sequence[Truths],
    label: int,
    *,
    least: float,
    rule: str = "coco",
    sizes: tuple[float, float] = (0.0, math.inf),
) -> tuple[Tensor, int]:
    """Return the hits (n,) bool of one class in the order of falling scores, and how many objects there are.

    Args:
        found: What was found in each image.
        truths: What is there.
        label: The class.
        least: IoU from which a detection is right.
        rule: A key of RULES.
        sizes: Range of relative sizes, both ends included: objects outside it are left out, and so are false
            detections outside it (COCO's way for small, medium and large).
    """
    _, second_best, most = RULES[rule]
    scores, results, objects = [], [], 0
    for detections, truth in zip(found, truths, strict=True):
        own = detections.labels == label
        order = detections.scores[own].argsort(descending=True, stable=True)[:most]
        boxes = detections.boxes[own][order]
        there = (truth.labels == label) | (truth.labels == IGNORE)
        away = outside(relative_sizes(truth.boxes[there], truth.size), sizes) | (truth.labels[there] == IGNORE)
        verdicts = match(box_iou(boxes, truth.boxes[there]), least, away, second_best=second_best)
        small_or_large = outside(relative_sizes(boxes, truth.size), sizes).tolist()
        scores.append(detections.scores[own][order])
        results += [
            LEFT_OUT if verdict == FALSE and strange else verdict
            for verdict, strange in zip(verdicts, small_or_large, strict=True)
        ]
        objects += int((~away).sum())
    verdicts = torch.tensor(results, dtype=torch.int64)[torch.cat(scores).argsort(descending=True, stable=True).cpu()]
    return verdicts[verdicts != LEFT_OUT] == HIT, objects


def outside(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Return where values (n,) lie below the first or above the second limit, (n,) bool."""
    return (values < limits[0]) | (values > limits[1])


def average_precision(
    found: Sequence[Detections],
    truths: Sequence[Truths],
    *,
    least: float = 0.5,
    rule: str = "coco",
    sizes: tuple[float, float] = (0.0, math.inf),
) -> float:
    """Return AP, 0 to 1, as the mean over the classes that the truth holds; nan where it holds no object.

    The arguments are those of `judged`.

    Raises:
        ValueError: For an unknown rule, and scores that are nan.
    """
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, not {rule!r}")
    if any(detections.scores.isnan().any() for detections in found):
        raise ValueError("scores hold nan: the network has diverged")
    labels = sorted({int(label) for truth in truths for label in truth.labels} - {IGNORE})
    values = []
    for label in labels:
        hits, objects = judged(found, truths, label, least=least, rule=rule, sizes=sizes)
        if objects:
            values.append(RULES[rule].summed(*precision_and_recall(hits, objects)))
    return sum(values) / len(values) if values else math.nan


def coco_summary(
    found: Sequence[Detections], truths: Sequence[Truths], *, sizes: tuple[float, float] = (0.0, math.inf)
) -> dict[str, float]:
    """Return COCO's "ap", the mean over the overlaps 0.5, 0.55 ... 0.95, with "ap50" and "ap75", 0 to 1."""
    by_overlap = {least: average_precision(found, truths, least=least, sizes=sizes) for least in COCO_OVERLAPS}
    return {"ap": sum(by_overlap.values()) / len(by_overlap), "ap50": by_overlap[0.5], "ap75": by_overlap[0.75]}
