"""The small detector: proposals, targets against torchvision's, what it may learn from, and that it learns."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from course_lib.average_precision import average_precision
from course_lib.data.sample import make_sample
from course_lib.data.scenes import Objects
from course_lib.detection import (
    SCALES,
    Candidates,
    candidates,
    clip,
    detect,
    detect_all,
    detection_objective,
    object_batch,
    proposal_grid,
    random_rois,
    roi_losses,
    shifted,
    shifts_to,
)
from course_lib.models.rfcn import RFCN
from course_lib.train import fit

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = torch.ones(1, dtype=torch.int64)


def some_boxes(count: int) -> Tensor:
    corners = 60 * torch.rand(count, 2)
    return torch.cat([corners, corners + 5 + 30 * torch.rand(count, 2)], dim=1)


# -- boxes ---------------------------------------------------------------------------------------------


def test_the_grid():
    boxes = proposal_grid((96, 128))
    assert boxes.shape == (576, 4)
    assert (float(boxes.min()), float(boxes[:, 2].max()), float(boxes[:, 3].max())) == (0, 128, 96)
    inner = boxes[(boxes[:, 0] > 0) & (boxes[:, 1] > 0) & (boxes[:, 2] < 128) & (boxes[:, 3] < 96)]
    assert sorted(set((inner[:, 2] - inner[:, 0]).tolist())) == [14, 24, 40]
    tall = proposal_grid((64, 64), step=64, sides=(32,), aspects=(0.25,))
    assert tall.tolist() == [[24, 0, 40, 64]]


def test_shifts_are_torchvisions():
    boxes, truths = some_boxes(20), some_boxes(20)
    coder = BoxCoder(tuple(1 / scale for scale in SCALES))
    torch.testing.assert_close(shifts_to(boxes, truths), coder.encode_single(truths, boxes))
    torch.testing.assert_close(shifted(boxes, shifts_to(boxes, truths)), truths)
    shifts = torch.randn(20, 4)
    torch.testing.assert_close(shifted(boxes, shifts), coder.decode_single(shifts, boxes))


def test_no_shift_is_endless():
    assert bool(shifted(some_boxes(3), torch.full((3, 4), 1e4)).isfinite().all())


def test_clipped_boxes_end_at_the_border():
    assert clip(Tensor([[-3, -2, 200, 100]]), (96, 128)).tolist() == [[0, 0, 128, 96]]


def test_a_batch_of_objects():
    scenes = Objects(6, (32, 48), context=0)
    samples = [scenes[index] for index in range(6)]
    images, labels, objects = object_batch(samples)
    most = max(len(sample.boxes) for sample in samples)
    assert (images.shape, labels.shape, objects.shape) == ((6, 3, 32, 48), (6, 32, 48), (6, most, 5))
    for row, sample in zip(objects, samples, strict=True):
        torch.testing.assert_close(row[: len(sample.boxes), :4], sample.boxes.as_subclass(Tensor))
        assert row[:, 4].tolist() == [1] * len(sample.boxes) + [0] * (most - len(sample.boxes))
    with_classes = object_batch(samples, one_class=False)[2]
    assert with_classes[0, : len(samples[0].boxes), 4].tolist() == samples[0].box_labels.tolist()


def test_a_batch_without_any_object():
    empty = make_sample(torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.int64), "empty")
    _, _, objects = object_batch([empty])
    assert objects.tolist() == [[[0, 0, 0, 0, 0]]]
    found = candidates(proposal_grid((32, 32)), objects)
    assert len(found.rois) == len(proposal_grid((32, 32)))
    assert not found.classes.any()


# -- targets -------------------------------------------------------------------------------------------


def two_pictures() -> tuple[Tensor, Tensor]:
    """Proposals and objects: one object in picture 0, two in picture 1."""
    proposals = Tensor([[0, 0, 20, 20], [10, 0, 30, 20], [50, 50, 70, 70], [14, 0, 34, 20]])
    objects = torch.zeros(2, 2, 5)
    objects[0, 0] = Tensor([0, 0, 20, 20, 1])
    objects[1] = Tensor([[12, 0, 32, 20, 2], [52, 52, 70, 70, 3]])
    return proposals, objects


def test_candidates_by_hand():
    found = candidates(*two_pictures())
    assert found.rois[:, 0].tolist() == [0] * 5 + [1] * 6
    assert found.classes.tolist() == [1, 0, 0, 0, 1, 0, 2, 3, 2, 2, 3]
    assert found.overlaps[:4].tolist() == pytest.approx([1, 1 / 3, 0, 6 / 34])
    assert found.overlaps[[4, 9, 10]].tolist() == [1, 1, 1]
    torch.testing.assert_close(found.shifts[6], Tensor([[2 / 20 / 0.1, 0, 0, 0]])[0])
    assert bool(found.shifts.isfinite().all())
    assert not found.shifts[2].any()  # no object near it


def test_the_loss_by_hand():
    logits, classes = Tensor([[0, 0], [0, 0]]), torch.tensor([0, 1])
    shifts, targets = Tensor([[9, 9, 9, 9], [0.5, 0, 0, 3]]), torch.zeros(2, 4)
    found = roi_losses(logits, shifts, classes, targets)
    assert found.tolist() == pytest.approx([0.6931472, 0.6931472 + 0.125 + 2.5])


def test_the_random_choice():
    torch.manual_seed(0)
    scenes = Objects(4, (96, 128), context=0)
    _, _, objects = object_batch([scenes[index] for index in range(4)])
    found, images = candidates(proposal_grid((96, 128)), objects), torch.zeros(4, 3, 96, 128)
    rows = random_rois(48)(nn.Identity(), images, found)
    assert len(set(rows.tolist())) == len(rows) == 4 * 48
    for picture in range(4):
        own = rows[found.rois[rows, 0] == picture]
        positive = found.classes[own] > 0
        assert len(own) == 48
        assert 0 < int(positive.sum()) <= 12
        assert bool((found.overlaps[own][~positive] >= 0.1).all())
        assert bool((found.overlaps[own][~positive] < 0.5).all())
    anywhere = random_rois(48, background_low=0)(nn.Identity(), images, found)
    assert bool((found.overlaps[anywhere] == 0).any())


def test_without_objects_all_background_will_do():
    found = candidates(proposal_grid((32, 32)), torch.zeros(1, 1, 5))
    assert len(random_rois(10)(nn.Identity(), torch.zeros(1, 3, 32, 32), found)) == 10


# -- the network ---------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Sees nothing, knows the objects of picture 0: class 1 where a RoI overlaps, shifted onto it."""

    def __init__(self, objects: Tensor):
        super().__init__()
        self.objects = objects

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        found = candidates(rois[:, 1:], self.objects)
        count = len(rois)
        logits = torch.stack([torch.zeros(count), 20 * (found.overlaps[:count] - 0.5)], dim=1)
        return logits, found.shifts[:count]


def test_what_is_left_after_suppression_is_one_box_an_object():
    objects = torch.zeros(1, 2, 5)
    objects[0] = Tensor([[10, 10, 40, 40, 1], [70, 30, 110, 80, 1]])
    (found,) = detect(Oracle(objects), torch.zeros(1, 3, 96, 128), proposal_grid((96, 128)), least_score=0.6)
    assert len(found.boxes) == 2
    assert found.labels.tolist() == [1, 1]
    torch.testing.assert_close(found.boxes[found.boxes[:, 0].argsort()], objects[0, :, :4])
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_the_boxes_of_a_picture_do_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    network, images = RFCN(2, bins=3, depth=0, width=4, reduced=0), torch.randn(2, 3, 64, 64)
    network.train()
    proposals = proposal_grid((64, 64))
    together = detect(network, images, proposals)
    alone = detect(network, images[1:], proposals)[0]
    assert network.training
    torch.testing.assert_close(together[1].scores, alone.scores)


def test_an_objective_learns_from_what_is_chosen_alone():
    torch.manual_seed(0)
    scenes = Objects(2, (64, 64), context=0)
    batch = object_batch([scenes[0], scenes[1]])
    seen = []

    def choose(network: nn.Module, images: Tensor, found: Candidates) -> Tensor:
        seen.append(found)
        return torch.tensor([5, 3])

    network = RFCN(2, bins=3, depth=0, width=4, reduced=0).eval()
    proposals = proposal_grid((64, 64))
    loss = detection_objective(proposals, choose)(network, *batch)
    (found,) = seen
    logits, shifts = network(batch[0], found.rois[[5, 3]])
    torch.testing.assert_close(loss, roi_losses(logits, shifts, found.classes[[5, 3]], found.shifts[[5, 3]]).mean())


def test_it_learns_a_few_pictures():
    scenes = Objects(2, (64, 64), count=(1, 2), scale_range=(0.3, 0.5), context=0)
    proposals = proposal_grid((64, 64), sides=(20, 28))
    torch.manual_seed(0)
    network = RFCN(2, bins=3, depth=0, width=8, reduced=0)
    fit(
        network, scenes, steps=60, batch_size=2, learning_rate=0.01, weight_decay=0, warmup_steps=10, collate=object_batch,
        objective=detection_objective(proposals), show_progress=False,
    )  # fmt: skip
    found, truths = detect_all(network, scenes, proposals)
    assert average_precision(found, truths) > 0.8
