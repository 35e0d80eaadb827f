"""What every data set of files shares: reading, pairing, checking and resizing pictures and masks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from course_lib.data.sample import DataError, Sample, make_sample
from course_lib.plumbing.paths import data_root

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
UNKNOWN = -1


class Pair(NamedTuple):
    """A picture and its mask, by path; `name` is what the two have in common."""

    name: str
    image: Path
    mask: Path


def read_array(path: Path, mode: str | None = None) -> np.ndarray:
    """Return the pixels of an image file, converted to PIL's `mode` if one is given: (H, W) or (H, W, channels).

    Raises:
        DataError: If the file, which it names, is missing, truncated or no image.
    """
    try:
        with Image.open(path) as opened:
            return np.array(opened.convert(mode) if mode else opened)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def read_image(path: Path) -> Tensor:
    """Return an image file as (3, H, W) uint8; grey pictures are repeated into three channels."""
    return torch.from_numpy(read_array(path, "RGB")).permute(2, 0, 1).contiguous()


def read_values(path: Path) -> np.ndarray:
    """Return a mask file as (H, W) integers: palette indices or grey values, never colours."""
    values = read_array(path)
    if values.ndim != 2:
        raise DataError(f"{path} holds colours (shape {values.shape}): a mask must hold one number per pixel")
    return values


def translate(values: np.ndarray, labels: Mapping[int, int], path: Path) -> Tensor:
    """Replace the values of a mask file by the course's labels: (H, W) integers -> (H, W) int64.

    `labels` maps each value allowed in the file to its label (255 for void).

    Raises:
        DataError: If the file holds other values; it names both.
    """
    largest = max(labels)
    table = np.full(largest + 3, UNKNOWN, dtype=np.int64)  # the last two: too large, negative
    table[list(labels)] = list(labels.values())
    translated = table[np.clip(values.astype(np.int64), -1, largest + 1)]
    if (translated == UNKNOWN).any():
        strange = np.unique(values[translated == UNKNOWN]).tolist()
        raise DataError(f"{path} holds the values {strange[:8]}, which are none of its classes")
    return torch.from_numpy(translated)


def files_by_name(folder: Path, ending: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files `<name><ending><suffix>` of a folder by name, sorted; hidden files are passed over."""
    return {
        path.stem.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes and path.stem.endswith(ending) and path.name[0] != "."
    }


def pair_folders(
    image_folder: Path, mask_folder: Path, mask_ending: str = "", image_ending: str = ""
) -> tuple[list[Pair], list[str]]:
    """Match the images of one folder with the masks of another by name.

    The image of `a` is `a<image_ending>.png` or `.jpg`, its mask `a<mask_ending>.png`; files with other endings are
    passed over.

    Returns:
        The pairs sorted by name, and one sentence per missing folder, missing mask and mask without an image.
    """
    missing = [f"the folder {folder} is missing" for folder in (image_folder, mask_folder) if not folder.is_dir()]
    if missing:
        return [], missing
    images = files_by_name(image_folder, image_ending, IMAGE_SUFFIXES)
    masks = files_by_name(mask_folder, mask_ending, (".png",))
    pairs = [Pair(name, path, masks[name]) for name, path in images.items() if name in masks]
    problems = [
        f"{path} has no mask: {mask_folder / f'{name}{mask_ending}.png'} is missing"
        for name, path in images.items()
        if name not in masks
    ]
    problems += [
        f"{path} is a mask without an image: {image_folder / f'{name}{image_ending}'}.png or .jpg is missing"
        for name, path in masks.items()
        if name not in images
    ]
    return pairs, problems


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample at `size` = (H, W) pixels, whatever its shape was.

    The image is resized bilinearly with antialiasing. Labels take the nearest pixel's value ("nearest-exact": pixel
    centres are aligned, where torchvision's default for masks shifts them towards the upper left). Boxes are scaled
    along.
    """
    old_height, old_width = sample.labels.shape
    height, width = size
    if (old_height, old_width) == (height, width):
        return sample
    image = F.resize(sample.image, [height, width], InterpolationMode.BILINEAR, antialias=True)
    values = sample.labels.as_subclass(Tensor)[None].to(torch.uint8)  # (1, H, W), faster than int64
    labels = F.resize(values, [height, width], InterpolationMode.NEAREST_EXACT)[0].long()
    x, y = width / old_width, height / old_height
    boxes = sample.boxes.as_subclass(Tensor) * torch.tensor([x, y, x, y])
    return make_sample(image, labels, sample.name, boxes, sample.box_labels)


def component_boxes(labels: Tensor, classes: Iterable[int], min_area: int) -> tuple[Tensor, Tensor]:
    """Return one tight box around each connected region of each of `classes`: (n, 4) XYXY pixels, (n,).

    Pixels that touch at a corner are connected. Regions of fewer than `min_area` pixels get no box.
    """
    boxes, box_labels = [], []
    for label in classes:
        regions, _ = ndimage.label(labels.numpy() == label, structure=np.ones((3, 3)))
        areas = np.bincount(regions.ravel())[1:]
        for area, (rows, columns) in zip(areas, ndimage.find_objects(regions), strict=True):
            if area >= min_area:
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                box_labels.append(label)
    return as_boxes(boxes), torch.tensor(box_labels, dtype=torch.int64)


def as_boxes(boxes: list[list[float]]) -> Tensor:
    """Return a list of XYXY boxes, possibly empty, as an (n, 4) float32 tensor."""
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


class Pictures:
    """A data set of image files and mask files; a subclass says where they lie and what they mean.

    Boxes are made at the file's size and scaled afterwards.

    Args:
        split: One of the class's `splits`.
        root: The folder that holds all data sets (default: `course_lib.plumbing.paths.data_root()`).
        size: (H, W) in pixels to which every sample is resized at load; None keeps the file's size.
        strict: False opens the set in spite of missing files, which are then listed in `problems` (`course data check`
            needs that); True raises DataError.
    """

    title: str
    folder: str  # under the data root
    get: str  # the command that fetches it
    size_on_disk: str  # in words, unpacked
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    palette: Tensor
    background: int | None = None
    values: Mapping[int, int]  # value in the mask file -> label

    def __init__(
        self,
        split: str = "train",
        root: Path | None = None,
        size: tuple[int, int] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        if split not in self.splits:
            raise DataError(f'{self.title} has no split "{split}": use one of {list(self.splits)}')
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise DataError(f"size must be (height, width) in pixels, not {size}")
        self.split = split
        self.size = size
        self.path = Path(root or data_root()) / self.folder
        if not self.path.is_dir():
            raise DataError(f'{self.title} is not in {self.path}: run "{self.get}" ({self.size_on_disk})')
        self.pairs, self.problems = self.find(self.path, split)
        if not self.pairs and not self.problems:
            self.problems = [f'the split "{split}" in {self.path} is empty']
        if strict and self.problems:
            raise DataError(f"{self.problems[0]}{self.and_more()}; {self.remedy()}")

    def and_more(self) -> str:
        """Return "" or " (and 3 more problems)": how many problems follow the first."""
        more = len(self.problems) - 1
        return f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""

    def remedy(self) -> str:
        """Return what to do about a broken file, as the end of an error message."""
        check = self.get.replace(" get ", " check ")
        return f'"{check}" lists all that is wrong; to repair it, delete {self.path} and run "{self.get}"'

    @property
    def names(self) -> list[str]:
        """The names of the pictures, in order."""
        return [pair.name for pair in self.pairs]

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        """Return the pairs of a split under the set's folder, and what is wrong with them, in sentences."""
        raise NotImplementedError

    def find_boxes(self, pair: Pair, values: np.ndarray, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (n, 4) and their labels (n,) from the mask's values and labels; none by default."""
        return torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture. Raises DataError naming the file that is missing, broken or does not fit."""
        pair = self.pairs[index]
        try:
            sample = self.read(pair)
        except DataError as error:
            raise DataError(f"{error}; {self.remedy()}") from error
        return resize_sample(sample, self.size) if self.size else sample

    def read(self, pair: Pair) -> Sample:
        """Read a pair at the file's size."""
        image = read_image(pair.image)
        values = read_values(pair.mask)
        if image.shape[1:] != values.shape:
            raise DataError(
                f"{pair.image} is {size_text(image.shape[1:])} pixels, but its mask {pair.mask} "
                f"is {size_text(values.shape)}"
            )
        labels = translate(values, self.values, pair.mask)
        boxes, box_labels = self.find_boxes(pair, values, labels)
        return make_sample(image, labels, pair.name, boxes, box_labels)

    @classmethod
    def splits_to_check(cls, path: Path) -> tuple[str, ...]:
        """Return the splits that `course data check` opens in the set's folder `path`."""
        return cls.splits


def size_text(shape: Iterable[int]) -> str:
    """Return "360x480" of (360, 480): height x width."""
    return "x".join(str(side) for side in shape)
