"""CamVid: street scenes seen from a car, eleven classes (Brostow et al. 2009), 480x360.

This is the version of the SegNet tutorial: 367 frames to train, 101 to validate, 233 to test. The
validation frames are one clip, and 204 training frames come from the same drive on both sides of it:
validation scores are optimistic, and are not interchangeable with test scores.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.data.images import Pair, Pictures, component_boxes, pair_folders
from course_lib.data.sample import IGNORE

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree",
    "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
VOID = 11  # "Unlabelled" in the files

# Chosen so that colour-blind readers tell all classes apart: seen with any of the three dichromacies,
# two classes differ by at least 20 in CIELAB, where the SegNet tutorial's colours come as close as 6.
PALETTE = torch.tensor(
    [
        [135, 172, 254], [103, 101, 139], [243, 228, 44], [59, 37, 44], [175, 196, 210], [80, 136, 99],
        [234, 255, 204], [101, 45, 3], [29, 37, 230], [203, 98, 16], [111, 51, 171],
    ],
    dtype=torch.uint8,
)  # fmt: skip


class CamVid(Pictures):
    """CamVid with its eleven classes; void pixels (11 in the files) are 255; no boxes.

    Layout: `<root>/camvid/{train,trainannot,val,valannot,test,testannot}`, images as PNG or JPEG, masks as PNG with the
    values 0..11.
    """

    title = "CamVid"
    folder = "camvid"
    get = "course data get camvid"
    size_on_disk = "about 200 MB"
    splits = ("train", "val", "test")
    classes = CLASSES
    palette = PALETTE
    background = None
    values = {**{label: label for label in range(len(CLASSES))}, VOID: IGNORE}  # noqa: RUF012

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        return pair_folders(path / split, path / f"{split}annot")


OBJECTS = ("Pole", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")


class CamVidObjects(CamVid):
    """CamVid's six classes of things over a background of everything else, with boxes.

    For self-correction, which the authors' talk calls unsuitable for classes that fill the image, because a box says
    nothing there. Boxes are tight around connected regions (corners touch) of at least `min_area` pixels at the files'
    480x360, since CamVid marks no instances: two cars that overlap share a box, and a car cut by a pole has two.
    """

    title = "CamVid objects"
    classes = ("background", *OBJECTS)
    palette = torch.cat([torch.zeros(1, 3, dtype=torch.uint8), PALETTE[[CLASSES.index(name) for name in OBJECTS]]])
    background = 0
    values = {  # noqa: RUF012
        **{value: OBJECTS.index(name) + 1 if name in OBJECTS else 0 for value, name in enumerate(CLASSES)},
        VOID: IGNORE,
    }
    min_area = 25  # about 5x5 pixels: specks at the borders of void are no objects

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        return component_boxes(labels, range(1, len(self.classes)), self.min_area)
