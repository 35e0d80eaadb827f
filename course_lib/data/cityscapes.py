"""Cityscapes: streets of fifty cities, 2048x1024, nineteen classes, instances of eight of them.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016: 2975 finely
annotated images to train and 500 to validate. The labels of the test split are not public.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from course_lib.data.images import Pair, Pictures, as_boxes, component_boxes, pair_folders, read_values
from course_lib.data.sample import IGNORE, DataError

# The evaluated classes in the order of their train ids: name, id in the files, colour.
TRAIN_IDS = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
LAST_ID = 33
INSTANCES = 1000  # an instance's pixels hold 1000 x file id + number; smaller values are no instances
IMAGE_ENDING = "_leftImg8bit"
MASK_ENDING = "_gtFine_labelIds"
INSTANCE_ENDING = "_gtFine_instanceIds"


class Cityscapes(Pictures):
    """Cityscapes with its nineteen evaluated classes; the other ids are 255 (void).

    Layout: `<root>/cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>/`, as in the official archives. Boxes are tight
    around the instances of the eight classes that have them (person to bicycle); groups that the annotators did not
    divide have none.
    """

    title = "Cityscapes"
    void_colours = ((0, 0, 0),)
    folder = "cityscapes"
    get = "course data get cityscapes"
    size_on_disk = "about 12 GB"
    splits = ("train", "val")
    classes = tuple(name for name, _, _ in TRAIN_IDS)
    palette = torch.tensor([colour for _, _, colour in TRAIN_IDS], dtype=torch.uint8)
    background = None
    values = dict.fromkeys(range(LAST_ID + 1), IGNORE) | {
        file_id: label for label, (_, file_id, _) in enumerate(TRAIN_IDS)
    }

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        images, masks = path / "leftImg8bit" / split, path / "gtFine" / split
        missing = [f"the folder {folder} is missing" for folder in (images, masks) if not folder.is_dir()]
        if missing:
            return [], missing
        pairs, problems = [], []
        endings = ((images, IMAGE_ENDING), (masks, MASK_ENDING))
        cities = {path.parent.name for parent, ending in endings for path in parent.glob(f"[!.]*/[!.]*{ending}.*")}
        for city in sorted(cities):
            found, wrong = pair_folders(images / city, masks / city, MASK_ENDING, IMAGE_ENDING)
            pairs += found
            problems += wrong
            problems += [f"{instance_path(pair)} is missing" for pair in found if not instance_path(pair).is_file()]
        return pairs, problems

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        path = instance_path(pair)
        instances = read_values(path)
        if instances.shape != values.shape:
            raise DataError(f"{path} and {pair.mask} differ in size")
        return instance_boxes(instances, self.values)


THINGS = (
    "pole",
    "traffic light",
    "traffic sign",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)


class CityscapesObjects(Cityscapes):
    """Cityscapes' eleven classes of things over a background of everything else, with boxes.

    A box says nothing about a class that fills the image. The eight classes with instances have the instances' boxes;
    poles, lights and signs, which have none, tight boxes around connected regions (corners touch) of at least
    `min_area` pixels at the files' 2048x1024.
    """

    title = "Cityscapes objects"
    classes = ("background", *THINGS)
    palette = torch.tensor([(0, 0, 0)] + [colour for name, _, colour in TRAIN_IDS if name in THINGS], dtype=torch.uint8)
    background = 0
    values = dict.fromkeys(range(LAST_ID + 1), IGNORE) | {
        file_id: THINGS.index(name) + 1 if name in THINGS else 0 for name, file_id, _ in TRAIN_IDS
    }
    min_area = 100  # about 10x10 pixels

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        boxes, box_labels = super().find_boxes(pair, values, labels)
        of_things = box_labels > 0
        stuff = [THINGS.index(name) + 1 for name in ("pole", "traffic light", "traffic sign")]
        more, more_labels = component_boxes(labels, stuff, self.min_area)
        return torch.cat([boxes[of_things], more]), torch.cat([box_labels[of_things], more_labels])


def instance_path(pair: Pair) -> Path:
    """Return the file of instance ids beside a mask."""
    return pair.mask.with_name(pair.mask.name.replace(MASK_ENDING, INSTANCE_ENDING))


def instance_boxes(instances: np.ndarray, labels: dict[int, int]) -> tuple[Tensor, Tensor]:
    """Return tight boxes (n, 4) XYXY in pixels and labels (n,) of a map of instance ids (H, W).

    An instance's pixels hold INSTANCES x file id + number; smaller values are no instances. `labels` maps file ids to
    labels; instances of ids that are not evaluated (absent, or 255) get no box.
    """
    boxes, box_labels = [], []
    for instance, place in enumerate(ndimage.find_objects(instances.astype(np.int32)), start=1):
        label = labels.get(instance // INSTANCES, IGNORE)
        if place is not None and label != IGNORE:
            rows, columns = place
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            box_labels.append(label)
    return as_boxes(boxes), torch.tensor(box_labels, dtype=torch.int64)
