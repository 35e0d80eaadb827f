"""Online hard example mining: learn from the examples that the network gets wrong now, and leave the others out.

A. Shrivastava, A. Gupta, R. Girshick, "Training Region-based Object Detectors with Online Hard Example Mining", CVPR
2016, arXiv 1604.03540, section 4: for boxes. For pixels, which the paper does not treat, there are two rules in use:
the hardest share of an image ("bootstrapped cross-entropy", TobyPDE/FRRN), and all that lose more than a threshold,
with a share as the floor (CoinCheung/BiSeNet: 0.357 = -log 0.7 and a sixteenth).

Departures

* A share is taken of each image; BiSeNet's code takes it of the batch, in which a hard image may take it all.
* Non-maximum suppression is per image, as in the paper; its code does it for each label besides.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from course_lib.data.sample import IGNORE
from course_lib.detection import Candidates, Choice, roi_losses
from course_lib.losses import Objective

THRESHOLD = -math.log(0.7)
"""The loss of a pixel whose true class has a probability of 0.7."""


# -- pixels -------------------------------------------------------------------------------------------------------


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel, (N, H, W), 0 where it is ignored, of logits (N, C, H, W)."""
    return functional.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="none")


def hardest_pixels(scores: Tensor, labels: Tensor, share: float = 0.25, threshold: float = math.inf) -> Tensor:
    """Return which pixels are learnt from, (N, H, W) bool: of each image the hardest, and all above a threshold.

    Ignored pixels are taken out first, so they are never chosen and take no part in the share.

    Args:
        scores: How hard each pixel is, (N, H, W): its loss, or random numbers for a random share.
        labels: (N, H, W).
        share: Of the pixels of an image that count; rounded up, so that one is left where one counts.
        threshold: Whatever is harder than this is chosen too.

    Raises:
        ValueError: For a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, not {share}")
    counted = (labels != IGNORE).flatten(1)  # (N, HW)
    ranked = scores.detach().flatten(1).masked_fill(~counted, -math.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    wanted = (share * counted.sum(1, keepdim=True)).ceil()
    first = torch.arange(ranked.shape[1], device=ranked.device) < wanted  # of the order
    chosen = torch.zeros_like(counted).scatter(1, order, first)
    return ((chosen | (ranked > threshold)) & counted).view(labels.shape)


def hard_pixel_objective(
    share: float = 0.25, threshold: float = math.inf, *, random: bool = False, class_weights: Tensor | None = None
) -> Objective:
    """Return the mean cross-entropy over the hardest pixels as an objective of `fit`.

    On several devices a device counts as much as it has pixels that count, which with a threshold is not exactly the
    mean over all chosen pixels.

    Args:
        share: Of each image: see `hardest_pixels`; 1 is the ordinary mean.
        threshold: Whatever loses more is learnt from too.
        random: Choose the share by lot: the control, which shows what fewer pixels alone do.
        class_weights: Factor of each class's losses, (C,); the mean is then weighted. They change no choice.
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        losses = pixel_losses(model(images), labels)
        scores = torch.rand_like(losses) if random else losses
        weights = hardest_pixels(scores, labels, share, threshold).float()
        if class_weights is not None:
            weights = weights * class_weights.to(labels.device)[labels.masked_fill(labels == IGNORE, 0)]
        total = weights.sum()
        return (losses * weights).sum() / torch.where(total > 0, total, 1)

    objective.weight = lambda labels: (labels != IGNORE).sum().float()
    return objective


# -- boxes --------------------------------------------------------------------------------------------------------


def hardest_boxes(losses: Tensor, boxes: Tensor, pictures: Tensor, keep: int, iou: float = 0.7) -> Tensor:
    """Return the numbers of the boxes to learn from: of each image the `keep` with the largest losses, (K,) int64.

    Of boxes that overlap by more than `iou` only the hardest is left: they read the same features, and one mistake
    would count several times. Boxes are in the order of their images, the hardest first.

    Args:
        losses: (R,).
        boxes: (R, 4) XYXY.
        pictures: (R,) int64, the image of each box.
        keep: Boxes of each image, B/N in the paper.
        iou: Of non-maximum suppression with the loss as the score; 1 leaves every box.
    """
    losses = losses.detach()
    left = batched_nms(boxes.float(), losses.float(), pictures, iou)  # by falling loss
    chosen = [left[pictures[left] == picture][:keep] for picture in pictures.unique()]
    return torch.cat(chosen) if chosen else left


def hard_rois(per_picture: int = 32, iou: float = 0.7) -> Choice:
    """Return the paper's choice of boxes for `detection.detection_objective`: all are tried, the hardest are learnt from.

    The first pass, over every candidate, is read-only: it keeps nothing for a gradient. Batch normalisation sees the
    images twice a step.

    Args:
        per_picture: Boxes of each image, B/N in the paper (64).
        iou: See `hardest_boxes`.
    """

    def choose(network: nn.Module, images: Tensor, found: Candidates) -> Tensor:
        with torch.no_grad():
            losses = roi_losses(*network(images, found.rois), found.classes, found.shifts)
        return hardest_boxes(losses, found.rois[:, 1:], found.rois[:, 0].long(), per_picture, iou)

    return choose
