"""PASCAL VOC 2012: photographs of twenty kinds of objects over a background, with boxes.

Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010. The official set has 1464
pictures to train and 1449 to validate. The usual larger training set, `train_aug`, adds 9118 pictures
with the masks of SBD (Hariharan et al., ICCV 2011): 10582 in all, none of them a validation picture.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.data.images import Pair, Pictures, as_boxes
from course_lib.data.sample import IGNORE, DataError
from course_lib.plumbing.paths import data_root

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
GET_LISTS = 'run "course data get sbd"'


def voc_colour(label: int) -> list[int]:
    """Return the devkit's colour of a label: its bits, three at a time, become the channels' highest bits."""
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return colour


class VOC2012(Pictures):
    """VOC 2012 segmentation with its 21 classes; void (255 in the files) stays 255; true boxes.

    Layout: `<root>/voc/VOCdevkit/VOC2012`, as in the official archive. The split `train_aug` needs the list
    `<root>/voc_lists/train_aug.txt` and, for the pictures that VOC has no mask of, SBD's in the folder
    `SegmentationClassAug`; a picture of the official training set keeps its VOC mask.

    The boxes are those of the XML files, "difficult" objects included. A file counts pixels from 1 and includes the
    last one; a sample's boxes count from 0 and end behind it.
    """

    title = "PASCAL VOC 2012"
    folder = "voc"
    get = "course data get voc"
    size_on_disk = "about 2 GB"
    splits = ("train", "val", "trainval", "train_aug")
    classes = CLASSES
    palette = torch.tensor([voc_colour(label) for label in range(len(CLASSES))], dtype=torch.uint8)
    background = 0
    values = {**{label: label for label in range(len(CLASSES))}, IGNORE: IGNORE}  # noqa: RUF012

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        voc = path / "VOCdevkit" / "VOC2012"
        images, masks, extra = (voc / name for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"))
        needed = [voc, images, masks] + ([extra] if split == "train_aug" else [])
        missing = [folder for folder in needed if not folder.is_dir()]
        if missing:
            hint = f": {GET_LISTS}" if missing == [extra] else ""
            return [], [f"the folder {missing[0]} is missing{hint}"]
        try:
            if split == "train_aug":
                official, others = train_f_w_names(path.parent)
                folders = dict.fromkeys(official, masks) | dict.fromkeys(others, extra)
            else:
                names = read_names(voc / "ImageSets" / "Segmentation" / f"{split}.txt")
                folders = dict.fromkeys(names, masks)
        except DataError as error:
            return [], [str(error)]
        return pair_listed(images, folders)

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        return read_boxes(pair.image.parents[1] / "Annotations" / f"{pair.name}.xml")

    @classmethod
    def splits_to_check(cls, path: Path) -> tuple[str, ...]:
        """Return all but `train_aug`, which is optional: it is checked where its masks are."""
        extra = path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
        return cls.splits if extra.is_dir() else cls.splits[:3]


def pair_listed(images: Path, mask_folders: dict[str, Path]) -> tuple[list[Pair], list[str]]:
    """Pairs of the names in `mask_folders` (name -> the folder of its mask), and what is missing."""
    there = {path for folder in {images, *mask_folders.values()} for path in folder.iterdir()}
    pairs, problems = [], []
    for name, folder in mask_folders.items():
        pair = Pair(name, images / f"{name}.jpg", folder / f"{name}.png")
        lost = [path for path in (pair.image, pair.mask) if path not in there]
        problems += [f"{path} is missing" for path in lost]
        if not lost:
            pairs.append(pair)
    return pairs, problems


def read_names(path: Path) -> list[str]:
    """Return the names in a list file, one a line.

    Raises:
        DataError: If it is missing or empty.
    """
    try:
        names = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if not names:
        raise DataError(f"{path} is empty")
    return names


def train_f_w_names(root: Path | None = None) -> tuple[list[str], list[str]]:
    """Return F and W of the self-correction paper, read from `<root>/voc_lists`.

    F are the 1464 names of VOC's training set, W the 9118 names that `train_aug` adds to them.

    Raises:
        DataError: If a list is missing.
    """
    lists = Path(root or data_root()) / "voc_lists"
    try:
        train, train_aug = (read_names(lists / f"{name}.txt") for name in ("train", "train_aug"))
    except DataError as error:
        raise DataError(f"{error}: {GET_LISTS}") from error
    official = set(train)
    return train, [name for name in train_aug if name not in official]


def read_boxes(path: Path) -> tuple[Tensor, Tensor]:
    """Return the objects of a VOC annotation file: boxes (n, 4) XYXY in pixels from 0, labels (n,).

    Raises:
        DataError: If the file, which it names, is missing, no XML, or of an unknown class.
    """
    boxes, labels = [], []
    try:
        for item in ElementTree.parse(path).iter("object"):
            labels.append(CLASSES.index(item.findtext("name", "")))
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append([x1 - 1, y1 - 1, x2, y2])
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no VOC annotation ({error})") from error
    return as_boxes(boxes), torch.tensor(labels, dtype=torch.int64)
