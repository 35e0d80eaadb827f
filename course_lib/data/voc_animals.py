"""Five animals of PASCAL VOC 2012 at a long side of 320 pixels: real photographs that a laptop can learn from.

The 437 official training images, the 445 of validation, and the 2694 images of `train_aug` whose masks are SBD's.
`data_scripts.voc_animals` makes the folder from VOC 2012 and SBD.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from course_lib.data.images import Pair
from course_lib.data.sample import IGNORE, DataError
from course_lib.data.voc import CLASSES, VOC2012, pair_listed, read_boxes, read_names

ANIMALS = ("cat", "cow", "dog", "horse", "sheep")
NUMBER = {CLASSES.index(name): number for number, name in enumerate(ANIMALS, start=1)}
"""VOC's label of an animal -> the label here."""


class VOCAnimals(VOC2012):
    """Cats, cows, dogs, horses and sheep over a background of everything else, with the annotators' boxes.

    Layout: `<root>/voc_animals/VOCdevkit/VOC2012` with `JPEGImages`, `SegmentationClass`, `SegmentationClassAug` (SBD's
    masks) and `Annotations`; the lists of names in `<root>/voc_animals/lists`. Masks hold all of VOC's labels.

    SBD's masks are rougher and have no void rim. In one image of a hundred a region of an animal lies outside all
    boxes. The split `val_quarter` is every fourth image of `val`, for measures that look at each image often.
    """

    title = "PASCAL VOC 2012, five animals"
    folder = "voc_animals"
    get = "course data get voc_animals"
    size_on_disk = "about 110 MB"
    splits = ("train", "val", "train_aug", "val_quarter")
    classes = ("background", *ANIMALS)
    palette = VOC2012.palette[[0, *NUMBER]]
    values = {**{label: NUMBER.get(label, 0) for label in range(len(CLASSES))}, IGNORE: IGNORE}  # noqa: RUF012

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        voc = path / "VOCdevkit" / "VOC2012"
        images, masks, extra = (voc / name for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"))
        missing = [folder for folder in (voc, images, masks, extra) if not folder.is_dir()]
        if missing:
            return [], [f"the folder {missing[0]} is missing"]
        try:
            names_in = path / "lists" / f"{split.removesuffix('_quarter')}.txt"
            names = read_names(names_in)
            official = {*read_names(path / "lists" / "train.txt"), *read_names(path / "lists" / "val.txt")}
        except DataError as error:
            return [], [str(error)]
        chosen = names[::4] if split == "val_quarter" else names
        return pair_listed(images, {name: masks if name in official else extra for name in chosen}, names_in)

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        boxes, labels_of_voc = read_boxes(pair.image.parents[1] / "Annotations" / f"{pair.name}.xml")
        return boxes, labels_of_voc.new_tensor([NUMBER[label] for label in labels_of_voc.tolist()])

    @classmethod
    def splits_to_check(cls, path: Path) -> tuple[str, ...]:
        """Return all but the quarter, whose images are in `val`."""
        return cls.splits[:3]
