"""The smallest detector that the course needs: a grid of proposed boxes, targets, a loss, and what is left after NMS.

Fast R-CNN (Girshick, ICCV 2015) and R-FCN (NIPS 2016) score boxes that come from elsewhere. Here they lie on a grid,
which looks at no image: all that is learnt is which of them holds an object, and how to shift it. Boxes are XYXY in
pixels, right and bottom just outside. Class 0 is "no object".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from course_lib.average_precision import MOST, Detections, Truths, box_iou
from course_lib.data.sample import Sample, SegmentationDataset
from course_lib.data.transforms import drop_empty_boxes, for_any_device, to_batch
from course_lib.losses import Objective
from course_lib.plumbing.modes import evaluating

SCALES = (0.1, 0.1, 0.2, 0.2)
"""Typical sizes of the four shifts, which the loss is divided by (Fast R-CNN's code): all then weigh alike."""
POSITIVE = 0.5
"""IoU with an object from which a box counts as that object."""


def proposal_grid(
    size: tuple[int, int], *, step: int = 8, sides: Sequence[float] = (14, 24, 40), aspects: Sequence[float] = (1.0,)
) -> Tensor:
    """Return boxes around every `step`-th pixel, clipped to the image, (n, 4) float32.

    Args:
        size: (H, W) of the image.
        step: Pixels between the middles of neighbouring boxes.
        sides: Square roots of the areas, in pixels.
        aspects: Widths divided by heights.
    """
    height, width = size
    middles = torch.cartesian_prod(*(torch.arange(step / 2, side, step) for side in (height, width))).flip(1)
    shapes = [(side * aspect**0.5, side / aspect**0.5) for side in sides for aspect in aspects]
    halves = torch.tensor(shapes) / 2
    boxes = torch.cat([middles[:, None] - halves, middles[:, None] + halves], dim=2).flatten(0, 1)
    return clip(boxes, size)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) cut at the border of an image of `size` = (H, W)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def shifts_to(boxes: Tensor, truths: Tensor) -> Tensor:
    """Return (tx, ty, tw, th) that make of boxes (n, 4) the truths (n, 4), in units of SCALES (n, 4).

    tx and ty move the middle, in widths and heights of the box; tw and th are logarithms of factors (R-CNN, CVPR 2014).
    """
    sides, true_sides = boxes[:, 2:] - boxes[:, :2], truths[:, 2:] - truths[:, :2]
    moves = (truths[:, 2:] + truths[:, :2] - boxes[:, 2:] - boxes[:, :2]) / 2 / sides
    return torch.cat([moves, (true_sides / sides).log()], dim=1) / boxes.new_tensor(SCALES)


def shifted(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Return the boxes (n, 4) that the shifts (n, 4) make of `boxes`: the inverse of `shifts_to`.

    No side grows by more than a factor of 20.
    """
    shifts = shifts * boxes.new_tensor(SCALES)
    sides = boxes[:, 2:] - boxes[:, :2]
    middles = (boxes[:, 2:] + boxes[:, :2]) / 2 + shifts[:, :2] * sides
    halves = sides * shifts[:, 2:].clamp(max=3.0).exp() / 2
    return torch.cat([middles - halves, middles + halves], dim=1)


@for_any_device
def object_batch(samples: Sequence[Sample], one_class: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (N, 3, H, W), labels (N, H, W) and objects (N, most, 5): a `collate` for `fit`.

    A row of the objects is (left, top, right, bottom, class); rows of zeros fill images with fewer objects up.

    Args:
        samples: Images of one size. Boxes that augmentation has cut down to less than a pixel are left out.
        one_class: Whether every object is of class 1, whatever it is.
    """
    images, labels = to_batch(samples)
    samples = [drop_empty_boxes(sample) for sample in samples]
    objects = torch.zeros(len(samples), max(1, *(len(sample.boxes) for sample in samples)), 5)
    for row, sample in zip(objects, samples, strict=True):
        row[: len(sample.boxes), :4] = sample.boxes.as_subclass(Tensor)
        row[: len(sample.boxes), 4] = 1 if one_class else sample.box_labels
    return images, labels, objects.to(labels.device)


class Candidates(NamedTuple):
    """Boxes that a detector may learn from, of all images of a batch, with what they should become.

    Attributes:
        rois: (R, 5): number of the image, XYXY.
        classes: (R,) int64: 0 where no object overlaps the box by POSITIVE.
        shifts: (R, 4): to the object that overlaps most, in units of SCALES.
        overlaps: (R,): IoU with that object; 0 where there is none.
    """

    rois: Tensor
    classes: Tensor
    shifts: Tensor
    overlaps: Tensor


@torch.no_grad()
def candidates(proposals: Tensor, objects: Tensor) -> Candidates:
    """Return the proposals (n, 4) of every image, and behind them its objects, with their targets.

    Args:
        proposals: The same for all images.
        objects: (N, most, 5), as from `object_batch`.
    """
    pictures = len(objects)
    boxes = torch.cat([proposals.expand(pictures, -1, -1), objects[..., :4]], dim=1)  # (N, n + most, 4)
    overlaps, which = box_iou(boxes, objects[..., :4]).max(dim=2)
    nearest = objects.gather(1, which[..., None].expand(-1, -1, 5))
    classes = torch.where(overlaps >= POSITIVE, nearest[..., 4], 0).long()
    number = torch.arange(pictures, device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    there = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])  # rows of zeros are no boxes
    rois = torch.cat([number.to(boxes), boxes], dim=2)[there]
    targets = shifts_to(rois[:, 1:], torch.where(overlaps[there][:, None] > 0, nearest[there][:, :4], rois[:, 1:]))
    return Candidates(rois, classes[there], targets, overlaps[there])


def roi_losses(logits: Tensor, shifts: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each box, (R,): cross-entropy, and where there is an object smooth L1 of the four shifts.

    Args:
        logits: (R, C + 1).
        shifts: (R, 4), found.
        classes: (R,) int64, true; as `targets`, from `Candidates`.
        targets: (R, 4), true.
    """
    entropy = functional.cross_entropy(logits.float(), classes, reduction="none")
    distance = functional.smooth_l1_loss(shifts.float(), targets, reduction="none").sum(dim=1)
    return entropy + torch.where(classes > 0, distance, 0)


Choice = Callable[[nn.Module, Tensor, Candidates], Tensor]
"""Chooses candidates to learn from: network, images (N, 3, H, W) and candidates -> indices of rows, int64."""


def random_rois(per_picture: int = 48, *, positive_share: float = 0.25, background_low: float = 0.1) -> Choice:
    """Return Fast R-CNN's choice: so many boxes an image at random, at most a quarter of them with an object.

    Args:
        per_picture: Boxes of each image.
        positive_share: Most of them that are positive.
        background_low: IoU with an object that the others have at least: what lies beside objects is harder. Where an
            image has no such box, all its background will do.
    """

    def choose(network: nn.Module, images: Tensor, found: Candidates) -> Tensor:
        chosen = []
        for picture in range(len(images)):
            own = found.rois[:, 0] == picture
            background = own & (found.classes == 0)
            near = background & (found.overlaps >= background_low)
            positive = some_of(own & (found.classes > 0), round(positive_share * per_picture))
            pool = near if near.any() else background
            chosen += [positive, some_of(pool, per_picture - len(positive))]
        return torch.cat(chosen)

    return choose


def some_of(allowed: Tensor, most: int) -> Tensor:
    """Return the indices of at most `most` rows where allowed (n,) is True, at random."""
    rows = allowed.nonzero().flatten()
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]


def detection_objective(proposals: Tensor, choose: Choice | None = None) -> Objective:
    """Return the mean of `roi_losses` over chosen boxes as an objective of `fit`, for batches of `object_batch`.

    Args:
        proposals: (n, 4), the same for every image.
        choose: Which candidates are learnt from; `random_rois()` by default.
    """
    choose = choose or random_rois()

    def objective(network: nn.Module, images: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
        found = candidates(proposals.to(images.device), objects)
        chosen = choose(network, images, found)
        rois, classes, targets = (part[chosen] for part in found[:3])
        return roi_losses(*network(images, rois), classes, targets).mean()

    return objective


@torch.no_grad()
def detect(
    network: nn.Module,
    images: Tensor,
    proposals: Tensor,
    *,
    least_score: float = 0.05,
    overlap: float = 0.3,
    most: int = MOST,
) -> list[Detections]:
    """Return what the network finds in each of images (N, 3, H, W), normalised, by falling scores, on the CPU.

    Args:
        network: Images and RoIs (R, 5) -> logits (R, C + 1) and shifts (R, 4). It keeps its mode.
        proposals: (n, 4).
        least_score: Probability of the class below which a box is dropped.
        overlap: Of two boxes of a class that overlap by more than this IoU the better one stays (non-maximum
            suppression, NMS).
        most: Boxes of an image that stay.
    """
    pictures, size = len(images), tuple(images.shape[-2:])
    boxes = proposals.to(images.device)
    number = torch.arange(pictures, device=images.device).repeat_interleave(len(boxes))
    rois = torch.cat([number[:, None].to(boxes), boxes.repeat(pictures, 1)], dim=1)
    with evaluating(network):
        logits, shifts = network(images, rois)
    probabilities = logits.float().softmax(dim=1).cpu()  # (N n, C + 1)
    moved = clip(shifted(rois[:, 1:], shifts.float()), size).cpu()
    found = []
    for scores, own in zip(probabilities.split(len(boxes)), moved.split(len(boxes)), strict=True):
        rows, labels = (scores[:, 1:] > least_score).nonzero(as_tuple=True)
        kept = batched_nms(own[rows], scores[rows, labels + 1], labels, overlap)[:most]
        rows, labels = rows[kept], labels[kept] + 1
        found.append(Detections(own[rows], labels, scores[rows, labels]))
    return found


class PaintedBoxes(nn.Module):
    """A detector as a network that labels pixels: images (N, 3, H, W) -> logits (N, num_classes, H, W).

    The logit of a class at a pixel is the highest score of the class's boxes on it, that of "no object" is 0.5: a pixel
    is of an object where a box with a higher score covers it. So a detector can be shown and measured as others are.

    Args:
        network: As in `detect`.
        proposals: (n, 4).
        num_classes: C + 1.
    """

    def __init__(self, network: nn.Module, proposals: Tensor, num_classes: int):
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.register_buffer("proposals", proposals)

    def forward(self, images: Tensor) -> Tensor:
        painted = torch.zeros(len(images), self.num_classes, *images.shape[-2:])
        painted[:, 0] = 0.5
        for maps, found in zip(painted, detect(self.network, images, self.proposals), strict=True):
            for (left, top, right, bottom), label, score in zip(
                found.boxes.round().int().tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            ):
                maps[label, top:bottom, left:right].clamp_(min=score)
        return painted.to(images.device)


def detect_all(
    network: nn.Module,
    dataset: SegmentationDataset,
    proposals: Tensor,
    *,
    one_class: bool = True,
    batch_size: int = 8,
    **options: float,
) -> tuple[list[Detections], list[Truths]]:
    """Return what the network finds in all of `dataset`, and what is there: the arguments of `average_precision`.

    Args:
        one_class: Whether every object is of class 1, as in `object_batch`.
        batch_size: Images at once; they have one size.
        options: `least_score`, `overlap` and `most` of `detect`.
    """
    device = next(network.parameters()).device
    found, truths = [], []
    for first in range(0, len(dataset), batch_size):
        samples = [dataset[index] for index in range(first, min(first + batch_size, len(dataset)))]
        images, _ = to_batch(samples)
        images = images.contiguous(memory_format=torch.channels_last).to(device)
        found += detect(network, images, proposals, **options)
        for sample in samples:
            labels = torch.ones_like(sample.box_labels) if one_class else sample.box_labels
            truths.append(Truths(sample.boxes.as_subclass(Tensor), labels, tuple(sample.labels.shape)))
    return found, truths
