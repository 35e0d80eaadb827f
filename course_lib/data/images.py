"""What every data set of files shares: reading, pairing, checking and resizing images and masks."""

import glob
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from course_lib.data.sample import IGNORE, DataError, Sample, make_sample
from course_lib.plumbing.paths import ROOT, data_root

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
LOSSY = ("JPEG", "MPO", "WEBP")
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
UNKNOWN = -1


class Pair(NamedTuple):
    """An image and its mask, by path; `name` is what the two have in common."""

    name: str
    image: Path
    mask: Path


def read_pixels(path: Path) -> tuple[Image.Image, str]:
    """Return an image file, decoded whole and turned upright, and how its pixels were packed ("L;4", "RGB;16B").

    Every image and mask of the course is read here.

    Raises:
        DataError: If the file, which it names, is missing, cut short, no image, or holds several pages.
    """
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as opened:
            arguments = opened.tile[0].args if opened.tile else ""
            packed = arguments if isinstance(arguments, str) else str(arguments[0])
            opened.load()
            if opened.format in LOSSY and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN):
                raise OSError("it ends too early")
            pages = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)  # MPO: a telephone's preview
            if pages > 1:
                raise OSError(f"it holds {pages} pages: save each as a file of its own")
            return ImageOps.exif_transpose(opened), f"{opened.format} {packed}"
    except FileNotFoundError:
        where = f"; it is a link to {os.readlink(path)}" if path.is_symlink() else ""
        raise DataError(f"{path} is missing{where}") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} cannot be read (it is no image, or is damaged at its beginning)") from None
    except Exception as error:  # of any kind: Pillow lets many through where a file is damaged
        raise DataError(f"{path} cannot be read ({str(error) or type(error).__name__})") from error


def read_image(path: Path) -> Tensor:
    """Return an image file as (3, H, W) uint8: turned as its EXIF tag says, grey repeated into three channels.

    Raises:
        DataError: If it cannot be read, has more than 8 bits a channel, or is transparent somewhere.
    """
    image, packed = read_pixels(path)
    if image.mode not in EIGHT_BITS or re.search(r"(PNG|TIFF) .*;16[BLNS]?$", packed):
        raise DataError(
            f"{path} ({packed}) has not 8 bits a channel of grey or colour: save it so, with one range of values "
            "for the whole set"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            raise DataError(f"{path} ({packed}) is transparent in places: lay it on a colour, and save it without")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_values(path: Path) -> np.ndarray:
    """Return a mask file as (H, W) integers: palette indices or grey values, never colours.

    Raises:
        DataError: If it cannot be read, or holds colours, fractions, or values that its format has changed.
    """
    return values_of(*read_pixels(path), path)


def values_of(image: Image.Image, packed: str, path: Path) -> np.ndarray:
    """Return what `read_values` does, of an image that `read_pixels` has read."""
    if packed.startswith(LOSSY) or "jpeg" in str(image.info.get("compression")):  # a TIFF holds either
        raise DataError(f"{path} ({packed}) has been compressed with a loss, which changes labels: masks are PNG")
    values = np.array(image)
    if image.mode == "P" and _palette_of_other_greys(image, values):
        raise DataError(
            f"{path} has a palette of greys that are not its numbers (programs that make files smaller write grey masks "
            "so): whether a class is the grey or the number is not said. Save it as plain grey: "
            '`image.convert("L")` with Pillow where the greys are the classes, `Image.fromarray(np.array(image))` '
            "where the numbers are"
        )
    if values.ndim != 2:
        raise DataError(
            f"{path} holds colours (shape {values.shape}): a mask must hold one number per pixel; "
            '"course data convert NAME FOLDER" writes such masks, by the colours of the set'
        )
    if values.dtype.kind == "f":
        raise DataError(f"{path} holds fractions ({packed}): a mask must hold whole numbers")
    if packed in ("PNG L;2", "PNG L;4"):  # Pillow spreads these over 0..255
        values = values // (255 // (2 ** int(packed[-1]) - 1))
    return values.astype(np.uint8) if values.dtype == bool else values


def _palette_of_other_greys(image: Image.Image, values: np.ndarray) -> bool:
    palette = np.reshape(image.getpalette("RGB"), (-1, 3))
    used = np.unique(values)
    used = used[used < len(palette)]
    return bool((palette == palette[:, :1]).all() and (palette[used, 0] != used).any())


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
        many = f" and {len(strange) - 8} more: has it been resized with smoothing?" if len(strange) > 8 else ""
        raise DataError(f"{path} holds the values {strange[:8]}{many}, which are none of its classes")
    return torch.from_numpy(translated)


def files_by_name(folder: Path, ending: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """Return the files `<name><ending><suffix>` of a folder by name, sorted, and one sentence for each name of two files.

    Names are compared in Unicode's composed form (macOS decomposes accents). Hidden files and folders are passed over.
    """
    found: dict[str, Path] = {}
    problems = []
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if entry.name[0] != "." and not entry.is_dir())
    for path in (folder / file for file in files):
        if path.suffix.lower() not in suffixes or not path.stem.endswith(ending):
            continue
        name = unicodedata.normalize("NFC", path.stem.removesuffix(ending))
        if name in found:
            problems.append(f"{found[name]} and {path.name} have one name: move one of them away")
        found[name] = path
    return found, problems


def only_others(folder: Path, stem: str) -> str:
    """Return what the folder has instead of an image or mask called `stem`: ", there is only a.heic", or ""."""
    others = sorted(path.name for path in folder.glob(f"{glob.escape(stem)}.*"))
    return f", there is only {', '.join(others)}" if others else ""


def pair_folders(
    image_folder: Path, mask_folder: Path, mask_ending: str = "", image_ending: str = ""
) -> tuple[list[Pair], list[str]]:
    """Match the images of one folder with the masks of another by name.

    The image of `a` is `a<image_ending>` with one of IMAGE_SUFFIXES, its mask `a<mask_ending>` with one of
    MASK_SUFFIXES; files with other endings are passed over.

    Returns:
        The pairs sorted by name, and one sentence per missing folder, missing mask, mask without an image and name of
        two files.
    """
    missing = [f"the folder {folder} is missing" for folder in (image_folder, mask_folder) if not folder.is_dir()]
    if missing:
        return [], missing
    images, problems = files_by_name(image_folder, image_ending, IMAGE_SUFFIXES)
    masks, more = files_by_name(mask_folder, mask_ending, MASK_SUFFIXES)
    pairs = [Pair(name, path, masks[name]) for name, path in images.items() if name in masks]
    problems += more
    for name, path in images.items():
        if name not in masks:
            mask = mask_folder / f"{name}{mask_ending}.png"
            problems.append(f"{path} has no mask: {mask} is missing{only_others(mask_folder, mask.stem)}")
    for name, path in masks.items():
        if name not in images:
            image = image_folder / f"{name}{image_ending}"
            others = only_others(image_folder, image.name)
            problems.append(f"{path} is a mask without an image: {image}.png or .jpg is missing{others}")
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
    get: str = ""  # the command that fetches it; none for a set of one's own
    size_on_disk: str  # in words, unpacked
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    palette: Tensor
    background: int | None = None
    values: Mapping[int, int]  # value in the mask file -> label
    void_colours: tuple[tuple[int, int, int], ...] = ()  # what masks of colours have for void

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
        whole = isinstance(size, list | tuple) and all(isinstance(side, int) and side > 0 for side in size)
        if size is not None and not (whole and len(size) == 2):
            raise DataError(f"size must be (height, width) in pixels, not {size!r}")
        self.split = split
        self.size = size
        self.path = Path(root or data_root()) / self.folder
        if not self.path.is_dir():
            how = f': run "{self.get}" ({self.size_on_disk})' if self.get else ""
            raise DataError(f"{self.title} is not in {self.path}{how}")
        try:
            self.pairs, self.problems = self.find(self.path, split)
        except OSError as error:
            self.pairs, self.problems = [], [f"{error.filename} cannot be read ({error.strerror})"]
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
        name = self.get.removeprefix("course data get ")
        if not (ROOT / "data_scripts" / f"{name}.py").is_file():  # a set of one's own
            return "mend this file, or move it away"
        return f'"course data check {name}" lists all that is wrong; move what is broken away and run "{self.get}"'

    @property
    def names(self) -> list[str]:
        """The names of the images, in order."""
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
        """Read one image. Raises DataError naming the file that is missing, broken or does not fit."""
        pair = self.pairs[index]
        try:
            sample = self.read(pair)
        except DataError as error:
            raise DataError(f"{error}; {self.remedy()}") from error
        return resize_sample(sample, self.size) if self.size else sample

    def read(self, pair: Pair) -> Sample:
        """Read a pair at the file's size."""
        image = read_image(pair.image)
        mask, packed = read_pixels(pair.mask)
        values = values_of(mask, packed, pair.mask)
        if image.shape[1:] != values.shape:
            turned = ": one of them is turned by 90 degrees" if image.shape[1:] == values.shape[::-1] else ""
            raise DataError(
                f"{pair.image} is {size_text(image.shape[1:])} pixels, but its mask {pair.mask} "
                f"is {size_text(values.shape)}{turned}"
            )
        labels = translate(values, self.values, pair.mask)
        if self.reordered(mask):
            raise DataError(
                f"{pair.mask} has a palette of the set's colours in another order, so that its numbers are other classes' "
                '(programs that make files smaller do this): "course data convert NAME FOLDER" writes it by its colours'
            )
        boxes, box_labels = self.find_boxes(pair, values, labels)
        return make_sample(image, labels, pair.name, boxes, box_labels)

    def labels_of_colours(self) -> dict[tuple[int, ...], int]:
        """Return the label of each colour of the set, void included."""
        void = dict.fromkeys(self.void_colours, IGNORE)
        return void | {tuple(colour): label for label, colour in enumerate(self.palette.tolist())}

    def reordered(self, mask: Image.Image) -> bool:
        """Return whether a mask's palette has different colours of the set for what it holds, but not those of its numbers."""
        if mask.mode != "P":
            return False
        used = np.bincount(np.array(mask).ravel()).nonzero()[0].tolist()
        colours = dict(enumerate(np.reshape(mask.getpalette("RGB"), (-1, 3)).tolist()))
        known = self.labels_of_colours()
        shown = [known.get(tuple(colours.get(value, ()))) for value in used]
        different = None not in shown and len(set(shown)) == len(used) > 1
        return different and shown != [self.values.get(value) for value in used]

    def numbers_of_colours(self, path: Path) -> np.ndarray:
        """Return the values, (H, W), that a mask of the set's colours or of numbers holds. Raises DataError for others."""
        value = {label: value for value, label in reversed(list(self.values.items()))}
        known = {colour: value[label] for colour, label in self.labels_of_colours().items() if label in value}
        image, packed = read_pixels(path)
        if len(image.getbands()) == 1 and not self.reordered(image):
            return values_of(image, packed, path)
        pixels = np.array(image.convert("RGB"))
        colours, which = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        strange = [colour for colour in map(tuple, colours.tolist()) if colour not in known]
        if strange:
            raise DataError(f"{path} holds the colours {strange[:8]}, which are none of its classes")
        return np.array([known[tuple(colour)] for colour in colours.tolist()], np.uint8)[which].reshape(pixels.shape[:2])

    @classmethod
    def splits_to_check(cls, path: Path) -> tuple[str, ...]:
        """Return the splits that `course data check` opens in the set's folder `path`."""
        return cls.splits


def size_text(shape: Iterable[int]) -> str:
    """Return "360x480" of (360, 480): height x width."""
    return "x".join(str(side) for side in shape)
