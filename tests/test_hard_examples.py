"""Hard examples: which pixels and boxes are chosen, by sorting by hand, and what their gradients reach."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from course_lib.data.sample import IGNORE
from course_lib.detection import candidates, detection_objective, proposal_grid, roi_losses
from course_lib.hard_examples import (
    THRESHOLD,
    hard_pixel_objective,
    hard_rois,
    hardest_boxes,
    hardest_pixels,
    pixel_losses,
)
from course_lib.losses import cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and labels of two pictures of 5x6 pixels in three classes, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)
    labels[0, 0], labels[1, :3] = IGNORE, IGNORE
    return logits, labels


class Given(nn.Module):
    """A network whose logits are what it is given."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


# -- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
def test_the_hardest_share_of_each_picture(share):
    logits, labels = batch()
    losses = pixel_losses(logits, labels)
    chosen = hardest_pixels(losses, labels, share)
    for one, truth, kept in zip(losses, labels, chosen, strict=True):
        counted = one[truth != IGNORE]
        wanted = math.ceil(share * len(counted))
        assert sorted(one[kept].tolist()) == sorted(counted.tolist())[-wanted:]


def test_the_choice_does_not_depend_on_the_order():
    logits, labels = batch()
    losses = pixel_losses(logits, labels).flatten(1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    chosen = hardest_pixels(losses, labels.flatten(1))
    assert torch.equal(hardest_pixels(losses[:, order], labels.flatten(1)[:, order]), chosen[:, order])


def test_a_threshold_with_a_floor():
    logits, labels = batch()
    losses, counted = pixel_losses(logits, labels), labels != IGNORE
    chosen = hardest_pixels(losses, labels, 1 / 16, THRESHOLD)
    assert torch.equal(chosen, counted & (losses > THRESHOLD))  # more than a sixteenth lose that much
    floor = hardest_pixels(losses, labels, 0.5, 1e9)
    assert torch.equal(floor, hardest_pixels(losses, labels, 0.5))
    assert float(torch.tensor(0.7).log().neg()) == pytest.approx(THRESHOLD, abs=1e-6) == pytest.approx(0.357, abs=1e-3)


def test_ignored_pixels_are_never_chosen():
    logits, labels = batch()
    for share in (0.1, 1.0):
        assert not hardest_pixels(torch.rand(labels.shape), labels, share, 0.0)[labels == IGNORE].any()
    nothing = torch.full_like(labels, IGNORE)
    loss = hard_pixel_objective()(Given(), logits.requires_grad_(), nothing)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_all_pixels_are_the_mean_cross_entropy():
    logits, labels = batch()
    weights = torch.tensor([1.0, 3.0, 0.5])
    torch.testing.assert_close(hard_pixel_objective(1.0)(Given(), logits, labels), cross_entropy(logits, labels))
    torch.testing.assert_close(
        hard_pixel_objective(1.0, class_weights=weights)(Given(), logits, labels),
        cross_entropy(logits, labels, class_weights=weights),
    )


def test_the_gradient_reaches_the_chosen_pixels_only():
    logits, labels = batch()
    chosen = hardest_pixels(pixel_losses(logits, labels), labels, 0.25)
    loss = hard_pixel_objective(0.25)(Given(), logits.requires_grad_(), labels)
    torch.testing.assert_close(loss, pixel_losses(logits, labels)[chosen].mean())
    loss.backward()
    assert torch.equal(logits.grad.abs().sum(1) > 0, chosen)


def test_perfect_logits_have_a_finite_loss():
    """A threshold alone would keep no pixel of a network that is always sure and right: 0 / 0."""
    _, labels = batch()
    logits = 1e4 * torch.eye(3)[labels.clamp(max=2)].permute(0, 3, 1, 2)
    assert hardest_pixels(pixel_losses(logits, labels), labels, 1 / 16, THRESHOLD).sum() == 2 + 1
    assert hard_pixel_objective(1 / 16, THRESHOLD)(Given(), logits, labels) == 0


def test_the_control_chooses_by_lot():
    logits, labels = batch()
    torch.manual_seed(0)
    losses = {float(hard_pixel_objective(0.25, random=True)(Given(), logits, labels)) for _ in range(5)}
    assert len(losses) == 5
    assert max(losses) < float(hard_pixel_objective(0.25)(Given(), logits, labels))


def test_impossible_shares_are_refused():
    logits, labels = batch()
    for share in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match=f"share is above 0 and at most 1, not {share}"):
            hardest_pixels(logits[:, 0], labels, share)


# -- boxes --------------------------------------------------------------------------------------------------------


def some_boxes(count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = 60 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand(count, 2, generator=generator)], dim=1)
    return torch.rand(count, generator=generator), boxes, torch.arange(count) % 2


def by_hand(losses: Tensor, boxes: Tensor, pictures: Tensor, keep: int, iou: float) -> list[int]:
    chosen = []
    for picture in (0, 1):
        kept = []
        for number in losses.argsort(descending=True).tolist():
            alone = all(box_iou(boxes[[number]], boxes[[other]]) <= iou for other in kept)
            if pictures[number] == picture and alone and len(kept) < keep:
                kept.append(number)
        chosen += kept
    return chosen


@pytest.mark.parametrize("iou", [0.2, 0.7, 1.0])
def test_the_hardest_boxes_that_do_not_overlap(iou):
    losses, boxes, pictures = some_boxes()
    assert hardest_boxes(losses, boxes, pictures, 8, iou).tolist() == by_hand(losses, boxes, pictures, 8, iou)


def test_without_suppression_it_is_the_top_of_each_picture():
    losses, boxes, pictures = some_boxes()
    boxes[:] = boxes[0].clone()  # all the same
    found = hardest_boxes(losses, boxes, pictures, 5, 1.0)
    assert found[:5].tolist() == (2 * losses[::2].topk(5).indices).tolist()
    assert hardest_boxes(losses, boxes, pictures, 5, 0.7).tolist() == [
        2 * int(losses[::2].argmax()),
        2 * int(losses[1::2].argmax()) + 1,
    ]


def test_the_order_of_the_boxes_does_not_matter():
    losses, boxes, pictures = some_boxes()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = order[hardest_boxes(losses[order], boxes[order], pictures[order], 8)]
    assert torch.equal(found, hardest_boxes(losses, boxes, pictures, 8))
    assert hardest_boxes(losses[:0], boxes[:0], pictures[:0], 8).shape == (0,)


class Table(nn.Module):
    """A detector whose answers for each box are its weights, and which counts its passes with and without gradients."""

    def __init__(self, boxes: int):
        super().__init__()
        torch.manual_seed(0)
        self.logits, self.shifts = nn.Parameter(torch.randn(boxes, 2)), nn.Parameter(torch.randn(boxes, 4))
        self.passes: list[tuple[int, bool]] = []

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append((len(rois), torch.is_grad_enabled()))
        rows = torch.cdist(rois, self.rois).argmin(1)
        return self.logits[rows], self.shifts[rows]


@pytest.mark.parametrize("iou", [0.4, 1.0])
def test_all_boxes_are_tried_and_the_hardest_learnt_from(iou):
    proposals = proposal_grid((32, 48), sides=(14, 24))
    objects = torch.tensor([[[4.0, 4, 20, 20, 1]], [[20, 8, 44, 30, 1]]])
    images, labels, found = torch.zeros(2, 3, 32, 48), torch.zeros(2, 32, 48), candidates(proposals, objects)
    network = Table(len(found.rois))
    network.rois = found.rois
    losses = roi_losses(network.logits, network.shifts, found.classes, found.shifts).detach()
    pictures = found.rois[:, 0].long()
    chosen = by_hand(losses, found.rois[:, 1:], pictures, 6, iou)
    loss = detection_objective(proposals, hard_rois(6, iou))(network, images, labels, objects)
    torch.testing.assert_close(loss, losses[chosen].mean())
    loss.backward()
    assert network.passes == [(len(found.rois), False), (12, True)]
    assert sorted(network.logits.grad.abs().sum(1).nonzero().flatten().tolist()) == sorted(chosen)
