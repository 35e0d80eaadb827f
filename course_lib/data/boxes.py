"""Boxes as networks see them: maps that mark, for each class, the pixels that its boxes touch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.data.sample import Sample
from course_lib.data.transforms import drop_empty_boxes, for_any_device, to_batch

ROUNDING = 0.01  # pixels: boxes of resized images


def check_boxes(
    boxes: Tensor,
    box_labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    background: int = 0,
    name: str = "the image",
) -> None:
    """Raise ValueError, in words, where boxes (n, 4) XYXY with labels (n,) cannot be of an image of `size`.

    That is a box outside the image, an empty one, or one of a class that is none of the objects'.
    """
    height, width = size
    if boxes.ndim != 2 or boxes.shape[1] != 4 or box_labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"{name}: boxes are (n, 4) with (n,) labels, not {tuple(boxes.shape)} with {tuple(box_labels.shape)}"
        )
    for (left, top, right, bottom), label in zip(boxes.tolist(), box_labels.tolist(), strict=True):
        box = f"{name}: the box ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not (right > left and bottom > top):
            raise ValueError(f"{box} is empty: XYXY means left, top, right, bottom")
        if min(left, top) < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
            raise ValueError(f"{box} is not inside the image of {height}x{width} pixels")
        if not 0 <= label < num_classes or label == background:
            raise ValueError(
                f"{box} is of class {label}, which is none of the objects' "
                f"(0 to {num_classes - 1} without the background, {background})"
            )


def box_map(
    boxes: Tensor,
    box_labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    background: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Return what the ancillary network sees of the boxes: (num_classes, H, W) float32 of zeros and ones.

    A pixel that a box of class c touches has channel c = 1, several where boxes of several classes overlap;
    channel `background` is 1 outside every box. num_classes = C + 1 counts the background. A crop without any
    box is background everywhere. It is made on `device`, from boxes on the CPU.

    Raises:
        ValueError: As `check_boxes` does.
    """
    boxes = boxes.as_subclass(Tensor)
    check_boxes(boxes, box_labels, size, num_classes, background)
    marked = torch.zeros(num_classes, *size, device=device)
    corners = torch.stack([(boxes[:, :2] + ROUNDING).floor(), (boxes[:, 2:] - ROUNDING).ceil()], dim=1).long()
    for ((left, top), (right, bottom)), label in zip(corners.tolist(), box_labels.tolist(), strict=True):
        marked[label, max(top, 0) : max(bottom, top + 1), max(left, 0) : max(right, left + 1)] = 1
    marked[background] = marked.sum(0) == 0
    return marked


@for_any_device
def box_batch(samples: Sequence[Sample], num_classes: int, background: int = 0) -> tuple[Tensor, ...]:
    """Return images (N, 3, H, W), labels (N, H, W) and box maps (N, num_classes, H, W): a `collate` for `fit`.

    Boxes that augmentation has cut down to less than a pixel are left out.
    """
    images, labels = to_batch(samples)
    samples = [drop_empty_boxes(sample) for sample in samples]
    size, device = tuple(labels.shape[1:]), labels.device
    maps = [box_map(sample.boxes, sample.box_labels, size, num_classes, background, device) for sample in samples]
    return images, labels, torch.stack(maps)
