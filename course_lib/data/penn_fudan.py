"""Penn-Fudan pedestrians: 170 street photographs, 423 people, a true box around each of them.

Wang, Shi, Song and Shen, "Object Detection Combining Recognition and Segmentation", ACCV 2007.
"""

from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.data.cityscapes import INSTANCES, instance_boxes
from course_lib.data.images import Pair, Pictures, pair_folders

MOST_PEOPLE = 255  # instance ids in a mask
VAL_SHARE = 0.2


class PennFudan(Pictures):
    """One class, pedestrian, over a background; boxes are tight around each person's mask.

    Layout: `<root>/PennFudanPed/{PNGImages or JPEGImages,PedMasks}`; the masks hold 0 (background) and a number for
    each person.

    The authors give no split. Ours is by block, because images with neighbouring numbers often show one place: the
    last fifth of the Fudan images and the last fifth of the Penn images validate.
    """

    title = "Penn-Fudan pedestrians"
    folder = "PennFudanPed"
    get = "course data get penn_fudan"
    size_on_disk = "about 54 MB"
    splits = ("train", "val")
    classes = ("background", "pedestrian")
    palette = torch.tensor([[0, 0, 0], [203, 98, 16]], dtype=torch.uint8)
    background = 0
    values = {0: 0} | dict.fromkeys(range(1, MOST_PEOPLE + 1), 1)

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        jpegs = path / "JPEGImages"
        images = jpegs if jpegs.is_dir() else path / "PNGImages"
        pairs, problems = pair_folders(images, path / "PedMasks", "_mask")
        chosen = []
        for _, group in groupby(pairs, key=lambda pair: pair.name.rstrip("0123456789")):
            block = list(group)
            first_val = len(block) - round(VAL_SHARE * len(block))
            chosen += block[:first_val] if split == "train" else block[first_val:]
        return chosen, problems

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        return instance_boxes(values.astype(np.int64) * INSTANCES, dict.fromkeys(range(1, 256), 1))
