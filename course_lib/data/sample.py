"""The contract between data and everything else: what one labelled image is."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torchvision import tv_tensors

IGNORE = 255
"""Label of pixels that no loss and no metric counts, in every data set of the course."""


class DataError(Exception):
    """Data that is missing or wrong. The message names the file and the next step."""


class Sample(NamedTuple):
    """One image with its labels, ready for torchvision's v2 transforms (they move all parts together).

    The image stays bytes: leave `ToDtype` and `Normalize` out, since `to_batch` and `predict` scale it.

    Attributes:
        image: (3, H, W) uint8 `tv_tensors.Image`.
        labels: (H, W) int64 `tv_tensors.Mask`: 0 .. classes-1, and 255 (IGNORE).
        boxes: (n, 4) float32 `tv_tensors.BoundingBoxes`, XYXY in pixels: a box covering only pixel (0, 0) is (0, 0, 1,
            1); n may be 0.
        box_labels: (n,) int64, the class of each box.
        name: What the image is called in its set (a file stem, "street-17").
    """

    image: tv_tensors.Image
    labels: tv_tensors.Mask
    boxes: tv_tensors.BoundingBoxes
    box_labels: Tensor
    name: str


class SoftSample(NamedTuple):
    """A `Sample` with what another network says of it; transforms move the logits along.

    Attributes:
        logits: (C, H, W) float32, or None.
        labelled: Whether the labels are a mask; where not, they are 0 on every pixel of the image.
    """

    image: tv_tensors.Image
    labels: tv_tensors.Mask
    boxes: tv_tensors.BoundingBoxes
    box_labels: Tensor
    name: str
    logits: Tensor | None
    labelled: bool


@runtime_checkable
class SegmentationDataset(Protocol):
    """What every data set of the course offers.

    Attributes:
        classes: Names, in the order of the label values.
        palette: (len(classes), 3) uint8, the colour of each class.
        background: The label of "none of these", or None where every pixel has a class.
    """

    classes: tuple[str, ...]
    palette: Tensor
    background: int | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def make_sample(
    image: Tensor, labels: Tensor, name: str, boxes: Tensor | None = None, box_labels: Tensor | None = None
) -> Sample:
    """Wrap plain tensors ((3, H, W) uint8, (H, W) int64, (n, 4), (n,)) as a `Sample`."""
    height, width = labels.shape
    if boxes is None:
        boxes, box_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return Sample(
        image=tv_tensors.Image(image),
        labels=tv_tensors.Mask(labels),
        boxes=tv_tensors.BoundingBoxes(boxes.to(torch.float32), format="XYXY", canvas_size=(height, width)),
        box_labels=box_labels,
        name=name,
    )
