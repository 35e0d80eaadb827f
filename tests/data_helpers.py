"""Small fake data sets for tests, and the mark that skips tests of real data that is not here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_lib.data.registry import dataset_info
from course_lib.plumbing.paths import data_root


def needs_dataset(name: str) -> pytest.MarkDecorator:
    """Skip a test unless the real data set is under the data root."""
    info = dataset_info(name)
    return pytest.mark.skipif(not info.present(), reason=f"{info.title} is not in {data_root()}: {info.get}")


def save_image(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> Path:
    """A picture of random blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width]).save(path)
    return path


def save_mask(path: Path, values: np.ndarray, palette: bool = True) -> Path:
    """A mask file with these values, as palette indices or as grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = values.max() > 255
    mask = Image.fromarray(values.astype(np.uint16 if wide else np.uint8))
    if palette and not wide:
        mask.putpalette([channel for index in range(256) for channel in (index, 255 - index, 7)])
    mask.save(path)
    return path


def camvid_mask(height: int = 24, width: int = 32) -> np.ndarray:
    """Sky over road, a car of 8x10 pixels, a pole of 12x3, a speck of a pedestrian, void at the left."""
    values = np.zeros((height, width), np.uint8)
    values[12:] = 3
    values[12:20, 16:26] = 8
    values[4:16, 8:11] = 2
    values[20:22, 12:14] = 9
    values[:, 0] = 11
    return values


def make_camvid(root: Path, frames: int = 3, suffix: str = ".png") -> Path:
    """A CamVid of a few small frames; the folder of the set."""
    for split in ("train", "val", "test"):
        for number in range(frames):
            name = f"{split}_{number:03}"
            save_image(root / "camvid" / split / f"{name}{suffix}", seed=number)
            save_mask(root / "camvid" / f"{split}annot" / f"{name}.png", camvid_mask())
    return root / "camvid"


VOC_XML = """<annotation><size><width>32</width><height>24</height></size>
<object><name>dog</name><part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>10</xmax>
<ymax>10</ymax></bndbox></part>
<bndbox><xmax>16</xmax><xmin>5</xmin><ymax>12.0</ymax><ymin>3</ymin></bndbox></object></annotation>
"""


def make_voc(root: Path, train: int = 2, val: int = 1, extra: int = 2) -> Path:
    """A VOC 2012 with train, val and SBD pictures (`extra` of them, masks in SegmentationClassAug)."""
    voc = root / "voc" / "VOCdevkit" / "VOC2012"
    names = {
        "train": [f"2007_{number:06}" for number in range(train)],
        "val": [f"2008_{number:06}" for number in range(val)],
        "extra": [f"2009_{number:06}" for number in range(extra)],
    }
    values = np.zeros((24, 32), np.uint8)
    values[2:12, 4:16] = 12
    values[12, 4:16] = 255
    for kind, members in names.items():
        folder = "SegmentationClassAug" if kind == "extra" else "SegmentationClass"
        for name in members:
            save_image(voc / "JPEGImages" / f"{name}.jpg")
            save_mask(voc / folder / f"{name}.png", values)
            xml = voc / "Annotations" / f"{name}.xml"
            xml.parent.mkdir(exist_ok=True)
            xml.write_text(VOC_XML)
    lists = {
        "train": names["train"],
        "val": names["val"],
        "trainval": names["train"] + names["val"],
        "train_aug": names["train"] + names["extra"],
    }
    for folder in (voc / "ImageSets" / "Segmentation", root / "voc_lists"):
        folder.mkdir(parents=True)
        for split, members in lists.items():
            (folder / f"{split}.txt").write_text("\n".join(members) + "\n")
    return voc


def make_voc_animals(root: Path, **sizes: int) -> Path:
    """Five animals, as `data_scripts.voc_animals` makes them of the VOC of `make_voc`."""
    made = make_voc(root / "large", **sizes)
    folder = root / "voc_animals"
    made.parents[1].rename(folder)
    (root / "large" / "voc_lists").rename(folder / "lists")
    return folder


def make_cityscapes(root: Path) -> Path:
    """A Cityscapes of one frame per split: a road (7), two cars (26), a group of people (24), ground (6)."""
    labels = np.full((24, 32), 7, np.uint8)
    labels[:4] = 6
    labels[8:12, 4:10] = labels[8:14, 20:30] = 26
    labels[16:20, 2:6] = 24
    instances = labels.astype(np.int32)
    instances[8:12, 4:10], instances[8:14, 20:30] = 26000, 26001
    for split in ("train", "val"):
        stem = f"ulm_{split}_000019"
        save_image(root / "cityscapes/leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png")
        fine = root / "cityscapes/gtFine" / split / "ulm"
        save_mask(fine / f"{stem}_gtFine_labelIds.png", labels, palette=False)
        save_mask(fine / f"{stem}_gtFine_instanceIds.png", instances, palette=False)
        save_image(fine / f"{stem}_gtFine_color.png")
    return root / "cityscapes"


def make_isbi_em(root: Path, slices: int = 30) -> Path:
    """An ISBI EM volume of small slices, each with its number as the grey value of a corner."""
    for number in range(slices):
        grey = np.full((16, 16), 100, np.uint8)
        grey[0, 0] = number
        save_mask(root / "isbi_em/train/image" / f"{number}.png", grey, palette=False)
        cells = np.full((16, 16), 255, np.uint8)
        cells[8] = 0
        save_mask(root / "isbi_em/train/label" / f"{number}.png", cells, palette=False)
    return root / "isbi_em"


def make_penn_fudan(root: Path) -> Path:
    """A Penn-Fudan of ten pictures, five from each university, with two people in each."""
    values = np.zeros((24, 32), np.uint8)
    values[4:20, 2:8], values[6:20, 20:26] = 1, 2
    for university in ("Fudan", "Penn"):
        for number in range(1, 6):
            name = f"{university}Ped{number:05}"
            save_image(root / "PennFudanPed/PNGImages" / f"{name}.png")
            save_mask(root / "PennFudanPed/PedMasks" / f"{name}_mask.png", values, palette=False)
    return root / "PennFudanPed"
