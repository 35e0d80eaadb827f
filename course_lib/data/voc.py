"""PASCAL VOC 2012: photographs of twenty kinds of objects over a background, with boxes.

Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010. The official set has 1464
images to train and 1449 to validate. The usual larger training set, `train_aug`, adds 9118 images
with the masks of SBD (Hariharan et al., ICCV 2011): 10582 in all, none of them a validation image.
"""

import glob
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, Pair, Pictures, as_boxes, files_by_name
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
    `<root>/voc_lists/train_aug.txt` and, for the images that VOC has no mask of, SBD's in the folder
    `SegmentationClassAug`; an image of the official training set keeps its VOC mask.

    The boxes are those of the XML files, "difficult" objects included. A file counts pixels from 1 and includes the
    last one; a sample's boxes count from 0 and end behind it.
    """

    title = "PASCAL VOC 2012"
    void_colours = ((224, 224, 192),)
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
        names_in = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
        try:
            if split == "train_aug":
                names_in = path.parent / "voc_lists" / "train_aug.txt"
                official, others = train_f_w_names(path.parent, images)
                folders = dict.fromkeys(official, masks) | dict.fromkeys(others, extra)
            else:
                folders = dict.fromkeys(read_names(names_in, images), masks)
            return pair_listed(images, folders, names_in)
        except DataError as error:
            return [], [str(error)]

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        return read_boxes(pair.image.parents[1] / "Annotations" / f"{pair.image.stem}.xml")

    @classmethod
    def splits_to_check(cls, path: Path) -> tuple[str, ...]:
        """Return all but `train_aug`, which is optional: it is checked where its masks are."""
        extra = path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
        return cls.splits if extra.is_dir() else cls.splits[:3]


def pair_listed(images: Path, mask_folders: dict[str, Path], names_in: Path) -> tuple[list[Pair], list[str]]:
    """Return pairs of the names in `mask_folders` (name -> the folder of its mask), and what is missing or twice there.

    `names_in` is the list that the names are from.
    """
    there, problems = files_by_name(images, "", IMAGE_SUFFIXES)
    masks = {folder: files_by_name(folder, "", MASK_SUFFIXES)[0] for folder in set(mask_folders.values())}
    pairs, lost = [], []
    for name, folder in mask_folders.items():
        image, mask = there.get(name), masks[folder].get(name)
        lost += [(images / f"{name}.jpg", name)] * (image is None) + [(folder / f"{name}.png", name)] * (mask is None)
        if image and mask:
            pairs.append(Pair(name, image, mask))
    lines = numbered_names(names_in, images) if lost else {}
    return pairs, problems + [f"{file} is missing ({names_in}, line {lines.get(name)})" for file, name in lost]


def read_names(path: Path, images: Path | None = None) -> list[str]:
    """Return the names in a list file, as `numbered_names` reads it."""
    return list(numbered_names(path, images))


def numbered_names(path: Path, images: Path | None = None) -> dict[str, int]:
    """Return the names in a list file, one a line, with the number of the line; one with spaces has a file in `images`.

    Raises:
        DataError: If it is missing, empty or no text, and for a line that is no name or one for the second time.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', 'it is no UTF-8 text')})") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = unicodedata.normalize("NFC", line.strip())
        if name in names:
            raise DataError(f"{path}, line {number}: {name!r} stands in line {names[name]} already")
        wrong = re.search(r"(?i)[/\\\0]|\.(png|jpe?g|bmp|tiff?)$", name)
        spaces = not wrong and (re.search(r"\s", name) or not name.isprintable())  # of no width, too
        if wrong or (spaces and not (images and any(images.glob(f"{glob.escape(name)}.*")))):
            raise DataError(f"{path}, line {number}: {name!r} is no name; a line holds one, without folder and suffix")
        if name:
            names[name] = number
    if not names:
        raise DataError(f"{path} is empty")
    return names


def train_f_w_names(root: Path | None = None, images: Path | None = None) -> tuple[list[str], list[str]]:
    """Return F and W of the self-correction paper, read from `<root>/voc_lists`.

    F are the 1464 names of VOC's training set, W the 9118 names that `train_aug` adds to them. `images` is as
    for `read_names`.

    Raises:
        DataError: If a list is missing or wrong.
    """
    lists = [Path(root or data_root()) / "voc_lists" / f"{name}.txt" for name in ("train", "train_aug")]
    try:
        train, train_aug = (read_names(path, images) for path in lists)
    except DataError as error:
        raise DataError(str(error) if all(path.exists() for path in lists) else f"{error}: {GET_LISTS}") from error
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
