"""Generated images with exact labels: any size, no files, several hundred a second on one core.

Six families. `Street` lays CamVid's eleven classes out as a street is; `StreetObjects` keeps six of them, the
things, over a background, and `StreetStuff` the five that fill images. `Objects` strews shapes over clutter as PASCAL VOC strews things over photographs, with
boxes, a void border and, if asked for, labels as faulty as people draw them. `Cells` packs cells as an electron
microscope shows them. In `Surroundings` what is around a thing decides its class. Their knobs turn the causes that
the lecture is about: thin structures, scale, context, ambiguity. Image i of a set depends on (seed, i, size, knobs) and on nothing else.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from course_lib.data import camvid, isbi_em
from course_lib.data.painters import cells
from course_lib.data.painters import objects
from course_lib.data.painters import street
from course_lib.data.painters import surroundings
from course_lib.data.painters.painting import Canvas
from course_lib.data.sample import Sample

# Paul Tol's muted colours, told apart with every common kind of colour vision; none of them is the white
# of ignored pixels or the magenta of errors.
OBJECT_PALETTE = torch.tensor(
    [
        [40, 40, 44],
        [136, 204, 238],
        [68, 170, 153],
        [221, 204, 119],
        [153, 153, 51],
        [136, 34, 85],
        [204, 102, 119],
        [51, 34, 136],
        [17, 119, 51],
    ],
    dtype=torch.uint8,
)
THINGS = np.array([camvid.CamVidObjects.values[label] for label in range(len(camvid.CLASSES))], dtype=np.uint8)
"""What a label of `Street` becomes in `StreetObjects`."""
STUFF = (street.SKY, street.BUILDING, street.ROAD, street.PAVEMENT, street.TREE)


class GeneratedScenes(Dataset[Sample]):
    """What all families share: a length, a size, a seed, and images made when they are asked for."""

    name: str

    def __init__(self, length: int, size: tuple[int, int], seed: int):
        height, width = size
        if length < 1:
            raise ValueError(f"a set of generated scenes needs at least one image, not {length}")
        if min(height, width) < 16:
            raise ValueError(f"generated scenes are at least 16x16 pixels, not {height}x{width}")
        self.length, self.size, self.seed = length, (height, width), seed

    def __len__(self) -> int:
        return self.length

    def _generator(self, index: int) -> np.random.Generator:
        if not -self.length <= index < self.length:
            raise IndexError(f"image {index} of a set of {self.length}")
        return np.random.Generator(np.random.SFC64([self.seed, index % self.length]))


class Street(GeneratedScenes):
    """Streets in CamVid's eleven classes, as samples (`Sample`); boxes for what can be counted (poles to riders).

    `both_labelings(index)` gives the labels for either side of the coin.

    Args:
        length: How many images the set has.
        size: (H, W) in pixels.
        seed: Which images they are.
        density: How many things stand in the street, relative to the usual (0 = an empty street).
        pole_width: Of poles, in camera heights (0.08 is about 12 cm); they never get thinner than a pixel.
        object_scale: Size of cars, people and signs relative to the true one.
        noise: Standard deviation of the pixel noise (colours run from 0 to 1).
        ambiguity: Probability of a parking strip whose label, road or pavement, a coin decides.
        void_border: Pixels along each countable thing that are labelled 255.

    Raises:
        ValueError: For a knob outside its range.
    """

    name = "street"
    classes = camvid.CLASSES
    palette = camvid.PALETTE
    background = None

    def __init__(
        self,
        length: int = 1000,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        *,
        density: float = 1.0,
        pole_width: float = 0.08,
        object_scale: float = 1.0,
        noise: float = 0.03,
        ambiguity: float = 0.0,
        void_border: int = 0,
    ):
        super().__init__(length, size, seed)
        _check_range(
            density=(density, 0, 10),
            pole_width=(pole_width, 0.01, 1),
            noise=(noise, 0, 1),
            object_scale=(object_scale, 0.1, 5),
            ambiguity=(ambiguity, 0, 1),
            void_border=(void_border, 0, 20),
        )
        self.knobs = {
            "density": density,
            "pole_width": pole_width,
            "object_scale": object_scale,
            "noise": noise,
            "ambiguity": ambiguity,
        }
        self.void_border = void_border

    def __getitem__(self, index: int) -> Sample:
        return self._painted(index).sample(f"street-{index}", void_border=self.void_border)

    def both_labelings(self, index: int) -> tuple[Tensor, Tensor]:
        """Labels (H, W) int64 of image `index` with its parking strip as road, and as pavement.

        One of them is that of the sample, which one a fair coin has decided. Without a strip they are equal.
        """
        return tuple(
            self._painted(index, road).sample("", void_border=self.void_border).labels for road in (True, False)
        )

    def _painted(self, index: int, first_label: bool | None = None) -> Canvas:
        rng, canvas = self._generator(index), Canvas(*self.size)
        street.paint_street(rng, canvas, **self.knobs, first_label=first_label)
        return canvas


class StreetObjects(Street):
    """The same streets in the classes of `camvid.CamVidObjects`: six kinds of things over a background."""

    name = "street_objects"
    classes = camvid.CamVidObjects.classes
    palette = camvid.CamVidObjects.palette
    background = 0

    def _painted(self, index: int, first_label: bool | None = None) -> Canvas:
        canvas = super()._painted(index, first_label)
        canvas.labels = THINGS[canvas.labels]
        canvas.instance_labels = THINGS[canvas.instance_labels].tolist()
        return canvas


class StreetStuff(Street):
    """The same streets in the five classes that fill images, over a background of things: one box around each class."""

    name = "street_stuff"
    classes = ("background", *(camvid.CLASSES[label] for label in STUFF))
    palette = torch.cat([camvid.CamVidObjects.palette[:1], camvid.PALETTE[list(STUFF)]])
    background = 0

    def _painted(self, index: int, first_label: bool | None = None) -> Canvas:
        canvas = super()._painted(index, first_label)
        table = np.zeros(len(camvid.CLASSES), dtype=np.uint8)
        table[list(STUFF)] = range(1, len(self.classes))
        canvas.labels = table[canvas.labels]
        canvas.instances, canvas.instance_labels = canvas.labels.astype(np.int32), [*range(1, len(self.classes))]
        return canvas


class Objects(GeneratedScenes):
    """Shapes over clutter as samples (`Sample`): 8 classes and a background, boxes, a void border.

    `clean_labels(index)` gives the exact labels where `label_noise` has spoilt the others, and `both_labelings(index)`
    the exact labels for either side of the coin of `ambiguity`.

    Args:
        count: Fewest and most objects in an image.
        scale_range: Smallest and largest diameter, as a fraction of the image's height.
        context: Probability that an object is a boat or a car: one silhouette, told apart only by the water or the road
            it is on.
        context_margin: Width, in image heights, of neutral sand between such an object and the ground that tells what
            it is: how far a network has to look.
        ambiguity: Probability that an object is a grey disc whose label, disc or ring, one coin per image decides:
            two labelings of the same pixels, equally likely.
        label_noise: Probability that an object is labelled as people label: left out, too fat or too thin (one third
            each); boxes stay true.
        void_border: Pixels along each outline that are labelled 255.
        noise: Standard deviation of the pixel noise (colours run from 0 to 1).

    Raises:
        ValueError: For a knob outside its range.
    """

    name = "objects"
    classes = objects.CLASSES
    palette = OBJECT_PALETTE
    background = objects.BACKGROUND

    def __init__(
        self,
        length: int = 1000,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        *,
        count: tuple[int, int] = (2, 5),
        scale_range: tuple[float, float] = (0.2, 0.6),
        context: float = 0.15,
        context_margin: float = 0.0,
        ambiguity: float = 0.0,
        label_noise: float = 0.0,
        void_border: int = 1,
        noise: float = 0.03,
    ):
        super().__init__(length, size, seed)
        if not 0 <= count[0] <= count[1]:
            raise ValueError(f"count is (fewest, most) with 0 <= fewest <= most, not {count}")
        if not 0 < scale_range[0] <= scale_range[1] <= 2:
            raise ValueError(f"scale_range is (smallest, largest) with 0 < smallest <= largest <= 2, not {scale_range}")
        _check_range(
            context=(context, 0, 1),
            context_margin=(context_margin, 0, 1),
            noise=(noise, 0, 1),
            ambiguity=(ambiguity, 0, 1),
            label_noise=(label_noise, 0, 1),
            void_border=(void_border, 0, 20),
        )
        self.knobs = {
            "count": tuple(count),
            "scale_range": tuple(scale_range),
            "context": context,
            "context_margin": context_margin,
            "ambiguity": ambiguity,
            "noise": noise,
        }
        self.label_noise, self.void_border = label_noise, void_border

    def __getitem__(self, index: int) -> Sample:
        canvas, rng = self._painted(index)
        sample = canvas.sample(f"objects-{index}", void_border=self.void_border)
        if self.label_noise:
            canvas.labels[:] = _mislabelled(rng, canvas, self.label_noise)
            spoilt = canvas.sample(sample.name, void_border=0).labels
            spoilt[sample.labels == 255] = 255
            sample = sample._replace(labels=spoilt)
        return sample

    def clean_labels(self, index: int) -> Tensor:
        """(H, W) int64 labels of image `index` before `label_noise`, void border included."""
        return self._painted(index)[0].sample("", void_border=self.void_border).labels

    def both_labelings(self, index: int) -> tuple[Tensor, Tensor]:
        """Exact labels (H, W) int64 of image `index` with its ambiguous objects as discs, and as rings.

        One of them is `clean_labels(index)`, which one a fair coin has decided. Without an ambiguous object they are
        equal. Void borders follow the labels: a ring has one around its hole as well.
        """
        return tuple(
            self._painted(index, disc)[0].sample("", void_border=self.void_border).labels for disc in (True, False)
        )

    def _painted(self, index: int, first_label: bool | None = None) -> tuple[Canvas, np.random.Generator]:
        rng, canvas = self._generator(index), Canvas(*self.size)
        objects.paint_objects(rng, canvas, **self.knobs, first_label=first_label)
        return canvas, rng


class Cells(GeneratedScenes):
    """Cells and the membranes between them as samples (`Sample`), grey in all three channels; a box for each cell.

    `instances(index)` numbers the cells.

    Args:
        cell_size: Distance between the middles of neighbouring cells, in image heights.
        membrane: Width of the membranes, in image heights; at least a pixel lies between two cells.
        organelles: How many dark things lie in the cells, relative to the usual.
        fading: How much membranes fade where they are cut at a slant (0 to 1).
        noise: Standard deviation of the pixel noise (grey values run from 0 to 1).

    Raises:
        ValueError: For a knob outside its range.
    """

    name = "cells"
    classes = cells.CLASSES
    palette = isbi_em.IsbiEM.palette
    background = None

    def __init__(
        self,
        length: int = 1000,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        *,
        cell_size: float = 0.2,
        membrane: float = 0.03,
        organelles: float = 1.0,
        fading: float = 0.5,
        noise: float = 0.06,
    ):
        super().__init__(length, size, seed)
        _check_range(
            cell_size=(cell_size, 0.05, 1),
            membrane=(membrane, 0, 0.2),
            fading=(fading, 0, 1),
            organelles=(organelles, 0, 10),
            noise=(noise, 0, 1),
        )
        self.knobs = {
            "cell_size": cell_size,
            "membrane": membrane,
            "organelles": organelles,
            "fading": fading,
            "noise": noise,
        }

    def __getitem__(self, index: int) -> Sample:
        return self._painted(index).sample(f"cells-{index}")

    def instances(self, index: int) -> Tensor:
        """(H, W) int64: 0 where the membrane is, and a number of its own for each cell."""
        return torch.from_numpy(self._painted(index).instances.astype(np.int64))

    def _painted(self, index: int) -> Canvas:
        rng, canvas = self._generator(index), Canvas(*self.size)
        cells.paint_cells(rng, canvas, **self.knobs)
        return canvas


class Surroundings(GeneratedScenes):
    """Things that only their surroundings tell apart, as samples (`Sample`): two in an image, one in each half.

    Args:
        kinds: Which of "mismatched" (boat or car), "confusable" (building or skyscraper) and "inconspicuous" (pillow on
            a bed, or a patch of a rug) occur, equally often.
        margin: Least and most width, in image heights, of the sand between a boat or car and the water or road that
            tells what it is: how far a network has to look (each image draws its own).
        layout: Probability that the two halves of an image differ (water left and road right, or the other way round),
            so that it matters where the surroundings are; otherwise they are alike.
        noise: Standard deviation of the pixel noise (colours run from 0 to 1).

    Raises:
        ValueError: For a knob outside its range.
    """

    name = "surroundings"
    classes = surroundings.CLASSES
    palette = OBJECT_PALETTE[: len(surroundings.CLASSES)]
    background = surroundings.BACKGROUND

    def __init__(
        self,
        length: int = 1000,
        size: tuple[int, int] = (64, 128),
        seed: int = 0,
        *,
        kinds: tuple[str, ...] = tuple(surroundings.PAINTERS),
        margin: tuple[float, float] = (0.0, 0.3),
        layout: float = 0.0,
        noise: float = 0.03,
    ):
        super().__init__(length, size, seed)
        unknown = [kind for kind in kinds if kind not in surroundings.PAINTERS]
        if unknown or not kinds:
            raise ValueError(f"kinds are some of {', '.join(surroundings.PAINTERS)}, not {kinds}")
        if not 0 <= margin[0] <= margin[1] <= 1:
            raise ValueError(f"margin is (least, most) with 0 <= least <= most <= 1, not {margin}")
        _check_range(layout=(layout, 0, 1), noise=(noise, 0, 1))
        self.knobs = {"kinds": tuple(kinds), "margin": tuple(margin), "layout": layout, "noise": noise}

    def __getitem__(self, index: int) -> Sample:
        rng, canvas = self._generator(index), Canvas(*self.size)
        surroundings.paint_surroundings(rng, canvas, **self.knobs)
        return canvas.sample(f"surroundings-{index}")


def _mislabelled(rng: np.random.Generator, canvas: Canvas, rate: float) -> np.ndarray:
    """Labels with each object left out, grown or shrunk with probability `rate` ((H, W) uint8)."""
    labels = np.full_like(canvas.labels, objects.BACKGROUND)
    reach = max(2, canvas.height // 24)  # pixels by which a careless outline is off
    for number, label in enumerate(canvas.instance_labels, start=1):
        mask = canvas.instances == number
        fault = rng.integers(3) if rng.random() < rate else None
        if fault == 1:
            mask = ndimage.binary_dilation(mask, iterations=reach)
        elif fault == 2:
            mask = ndimage.binary_erosion(mask, iterations=reach)
        if fault != 0:
            labels[mask] = label
    return labels


def _check_range(**knobs: tuple[float, float, float]) -> None:
    for name, (value, low, high) in knobs.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is between {low} and {high}, not {value}")
