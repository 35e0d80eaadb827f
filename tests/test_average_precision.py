"""Average precision: by hand, and against pycocotools through torchmetrics and by itself."""

import contextlib
import io
import math
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from course_lib.average_precision import (
    FALSE,
    HIT,
    LEFT_OUT,
    Detections,
    Truths,
    average_precision,
    box_iou,
    coco_summary,
    eleven_points,
    every_point,
    hundred_and_one_points,
    match,
    precision_and_recall,
    relative_sizes,
    size_thirds,
)

SIDE = 320


def random_set(pictures: int, classes: int, seed: int = 0) -> tuple[list[Detections], list[Truths]]:
    """True boxes of many sizes; detections near some of them, twice over, and elsewhere; scores all different."""
    rng = torch.Generator().manual_seed(seed)
    found, truths = [], []

    def boxes(count: int) -> Tensor:
        sides = 8 * 2 ** (4.5 * torch.rand(count, 1, generator=rng)) * (0.6 + 0.8 * torch.rand(count, 2, generator=rng))
        corners = torch.rand(count, 2, generator=rng) * (SIDE - sides)
        return torch.cat([corners, corners + sides], dim=1)

    for _ in range(pictures):
        objects = int(torch.randint(0, 7, (), generator=rng))
        true = boxes(objects)
        labels = torch.randint(1, classes + 1, (objects,), generator=rng)
        sides = (true[:, 2:] - true[:, :2]).repeat(2, 2)
        near = true.repeat(2, 1) + 0.1 * sides * torch.randn(2 * objects, 4, generator=rng)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 2)
        strange = boxes(6)
        guessed = torch.cat([labels.repeat(2), torch.randint(1, classes + 1, (6,), generator=rng)])
        found.append(Detections(torch.cat([near, strange]), guessed, torch.rand(len(guessed), generator=rng)))
        truths.append(Truths(true, labels, (SIDE, SIDE)))
    return found, truths


def pycocotools_says(found, truths, low: float = 0.0, high: float = 1e5) -> dict[str, float]:
    """COCOeval's own numbers, for boxes with sqrt(area) from low to high pixels."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for picture, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        for box, label in zip(truth.boxes.double().tolist(), truth.labels.tolist(), strict=True):
            shape = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            about = {"id": len(annotations) + 1, "image_id": picture, "category_id": label, "iscrowd": 0}
            annotations.append({**about, "bbox": shape, "area": shape[2] * shape[3]})
        for box, label, score in zip(*(part.double().tolist() for part in detections), strict=True):
            shape = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": picture, "category_id": int(label), "bbox": shape, "score": score})
    truth_set = coco.COCO()
    labels = sorted({int(label) for truth in truths for label in truth.labels})
    truth_set.dataset = {
        "images": [{"id": number} for number in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": label} for label in labels],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set.createIndex()
        judge = evaluation.COCOeval(truth_set, truth_set.loadRes(results), "bbox")
        judge.params.areaRng = [[low**2, high**2]]
        judge.params.areaRngLbl = ["all"]
        judge.params.recThrs = (
            np.arange(101) / 100
        )  # its own are a little more at some steps: a recall of 0.7 misses 0.7
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean())

    return {"ap": mean(precision), "ap50": mean(precision[0]), "ap75": mean(precision[5])}


# -- the curve -----------------------------------------------------------------------------------------


def test_three_objects_by_hand():
    """Hits 1 0 1 0 1 of three objects: precision 1, 1/2, 2/3, 1/2, 3/5 at recall 1/3, 1/3, 2/3, 2/3, 1."""
    precision, recall = precision_and_recall(torch.tensor([1, 0, 1, 0, 1]), 3)
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
    assert recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert eleven_points(precision, recall) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    assert every_point(precision, recall) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert hundred_and_one_points(precision, recall) == pytest.approx((34 * 1 + 33 * 2 / 3 + 34 * 3 / 5) / 101)
    found = [f"{way(precision, recall):.4f}" for way in (eleven_points, every_point, hundred_and_one_points)]
    assert found == ["0.7636", "0.7556", "0.7564"]


@pytest.mark.parametrize("way", [eleven_points, every_point, hundred_and_one_points])
def test_the_ends_of_the_scale(way):
    assert way(*precision_and_recall(torch.ones(4), 4)) == pytest.approx(1)
    assert way(*precision_and_recall(torch.zeros(4), 4)) == 0
    assert way(*precision_and_recall(torch.zeros(0), 4)) == 0


def test_a_recall_of_three_tenths_is_reached():
    """0.1 * 3 is more than 3 / 10 in floating point: who compares with it loses the point."""
    assert eleven_points(*precision_and_recall(torch.ones(3), 10)) == pytest.approx(4 / 11)


# -- matching ------------------------------------------------------------------------------------------


def test_boxes_overlap_as_torchvision_says():
    _, truths = random_set(3, 1)
    boxes = torch.cat([truth.boxes for truth in truths])
    torch.testing.assert_close(box_iou(boxes, boxes), torchvision.ops.box_iou(boxes, boxes))
    assert float(box_iou(Tensor([[0, 0, 2, 2]]), Tensor([[1, 0, 3, 2]]))) == pytest.approx(1 / 3)
    assert float(box_iou(torch.zeros(1, 4), torch.zeros(1, 4))) == 0
    batch = boxes.reshape(1, -1, 4).expand(3, -1, -1)
    torch.testing.assert_close(box_iou(batch, batch)[2], box_iou(boxes, boxes))


def test_an_object_is_found_once():
    overlaps = Tensor([[0.9, 0.0], [0.8, 0.0], [0.2, 0.0]])
    assert match(overlaps, 0.5) == [HIT, FALSE, FALSE]


def test_the_second_best_object_counts_for_coco_and_not_for_voc():
    """Both overlap object 0 most, and object 1 enough."""
    overlaps = Tensor([[0.9, 0.6], [0.8, 0.6]])
    assert match(overlaps, 0.5, second_best=True) == [HIT, HIT]
    assert match(overlaps, 0.5, second_best=False) == [HIT, FALSE]


def test_difficult_objects_are_neither_found_nor_missed():
    overlaps = Tensor([[0.9, 0.0], [0.0, 0.7], [0.8, 0.0]])
    assert match(overlaps, 0.5, torch.tensor([True, False]), second_best=False) == [LEFT_OUT, HIT, LEFT_OUT]
    truth = Truths(Tensor([[0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([255, 1]), (96, 96))
    found = Detections(truth.boxes, torch.ones(2, dtype=torch.int64), Tensor([0.9, 0.8]))
    assert [average_precision([found], [truth], rule=rule) for rule in ("voc2007", "voc2010", "coco")] == [1, 1, 1]


def test_an_object_that_counts_is_preferred_to_one_that_does_not():
    """COCO: the overlap with the object left out is larger."""
    assert match(Tensor([[0.6, 0.9]]), 0.5, torch.tensor([False, True])) == [HIT]


# -- against others ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
def test_coco_is_pycocotools(classes):
    found, truths = random_set(40, classes)
    wanted = pycocotools_says(found, truths)
    assert 0.1 < wanted["ap"] < 0.9
    assert coco_summary(found, truths) == pytest.approx(wanted, abs=1e-9)


def test_coco_is_torchmetrics():
    pytest.importorskip("pycocotools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.detection import MeanAveragePrecision
    found, truths = random_set(25, 2, seed=1)
    metric = MeanAveragePrecision(box_format="xyxy", rec_thresholds=[step / 100 for step in range(101)])
    metric.update(
        [{"boxes": one.boxes, "labels": one.labels, "scores": one.scores} for one in found],
        [{"boxes": one.boxes, "labels": one.labels} for one in truths],
    )
    wanted = {name: float(value) for name, value in metric.compute().items() if value.numel() == 1}
    own = coco_summary(found, truths)
    assert own["ap"] == pytest.approx(wanted["map"], abs=1e-6)
    assert own["ap50"] == pytest.approx(wanted["map_50"], abs=1e-6)
    assert own["ap75"] == pytest.approx(wanted["map_75"], abs=1e-6)
    limits = {"small": (0, 32 / SIDE), "medium": (32 / SIDE, 96 / SIDE), "large": (96 / SIDE, math.inf)}
    for name, sizes in limits.items():
        assert coco_summary(found, truths, sizes=sizes)["ap"] == pytest.approx(wanted[f"map_{name}"], abs=1e-6)


def test_a_range_of_sizes_is_pycocotools():
    found, truths = random_set(40, 2, seed=2)
    wanted = pycocotools_says(found, truths, low=0.1 * SIDE, high=0.3 * SIDE)
    assert coco_summary(found, truths, sizes=(0.1, 0.3)) == pytest.approx(wanted, abs=1e-9)
    assert wanted["ap"] != pytest.approx(coco_summary(found, truths)["ap"], abs=1e-3)


def test_only_the_best_hundred_count_for_coco():
    truth = Truths(Tensor([[0, 0, 10, 10]]), torch.ones(1, dtype=torch.int64), (96, 96))
    boxes = Tensor([[50, 50, 60, 60]] * 100 + [[0, 0, 10, 10]])
    found = Detections(boxes, torch.ones(101, dtype=torch.int64), torch.linspace(1, 0.1, 101))
    assert average_precision([found], [truth]) == 0
    assert average_precision([found], [truth], rule="voc2010") == pytest.approx(1 / 101)


def test_thirds_of_sizes():
    _, truths = random_set(40, 1)
    sizes = torch.cat([relative_sizes(truth.boxes, truth.size) for truth in truths])
    counts = [int(((sizes >= low) & (sizes < high)).sum()) for low, high in size_thirds(truths).values()]
    assert max(counts) - min(counts) <= 2
    assert relative_sizes(Tensor([[0, 0, 12, 48]]), (96, 96)).tolist() == [0.25]


def test_what_has_no_number():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    nothing = Truths(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (96, 96))
    something = Truths(Tensor([[0, 0, 9, 9]]), torch.ones(1, dtype=torch.int64), (96, 96))
    assert math.isnan(average_precision([empty], [nothing]))
    assert average_precision([empty], [something]) == 0
    with pytest.raises(ValueError, match="rule is one of voc2007, voc2010, coco, not 'voc'"):
        average_precision([empty], [something], rule="voc")
    broken = Detections(something.boxes, something.labels, Tensor([math.nan]))
    with pytest.raises(ValueError, match="diverged"):
        average_precision([broken], [something])
