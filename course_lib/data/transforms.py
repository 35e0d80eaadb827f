"""Random changes of a training image, made to image, labels and boxes together; and batches.

All randomness comes from torch's global generator: `torch.manual_seed` makes it repeatable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from course_lib.data.images import resize_sample, size_text
from course_lib.data.sample import IGNORE, Sample, SoftSample

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, in 0..1."""
STD = (0.229, 0.224, 0.225)
"""Their standard deviation."""
MEAN_COLOUR = [round(255 * value) for value in MEAN]


def normalise(image: Tensor) -> Tensor:
    """Images (..., 3, H, W) uint8 -> float32 with ImageNet's mean 0 and standard deviation 1.

    Raises:
        ValueError: For images that are not bytes (they may be scaled or normalised already), or not of three channels.
    """
    if image.dtype != torch.uint8:
        low, high = (f"{float(value):.3g}" for value in image.aminmax())
        raise ValueError(
            f"an image is uint8, 0..255, and is scaled here; this one is {image.dtype} from {low} to {high}: leave out "
            "what has scaled or normalised it before"
        )
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"an image is (3, H, W): red, green, blue; this one is {tuple(image.shape)}")
    return standardise(image)


def standardise(image: Tensor) -> Tensor:
    """Return `normalise` of images of any type with values 0..255."""
    scaled = image.as_subclass(Tensor).to(torch.float32) / 255
    return (scaled - column(MEAN, image.device)) / column(STD, image.device)


def denormalise(image: Tensor) -> Tensor:
    """Return the inverse of `normalise`: (..., 3, H, W) float -> uint8, rounded and clipped to 0..255."""
    scaled = image.as_subclass(Tensor) * column(STD, image.device) + column(MEAN, image.device)
    return (255 * scaled).round().clamp(0, 255).to(torch.uint8)


@cache
def column(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Three numbers as (3, 1, 1) on `device`, one tensor for all: a GPU is not waited for. It is not written to."""
    return torch.tensor(values, dtype=torch.float32, device=device).reshape(3, 1, 1)


def for_any_device(collate: Callable) -> Callable:
    """Mark a `collate` of `fit` that takes samples with image, labels and logits on a GPU, and boxes on the CPU."""
    collate.for_any_device = True
    return collate


def is_for_any_device(collate: Callable) -> bool:
    """Return whether `collate`, or what it is a `partial` of, is marked so."""
    return hasattr(getattr(collate, "func", collate), "for_any_device")


@for_any_device
def to_batch(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Stack samples of one size: images (N, 3, H, W) float32 normalised, labels (N, H, W) int64.

    Usable as a DataLoader's `collate_fn`.

    Raises:
        ValueError: If the sizes differ.
    """
    sizes = sorted({tuple(sample.labels.shape) for sample in samples})
    if len(sizes) > 1:
        raise ValueError(
            f"images of different sizes ({', '.join(map(size_text, sizes))}) make no batch: "
            "open the set with size=(H, W), or use pad_to(size) or train_transform(crop=(H, W))"
        )
    images = torch.stack([normalise(sample.image) for sample in samples])
    labels = torch.stack([sample.labels.as_subclass(Tensor) for sample in samples])
    return images, labels


def batch_on(device: torch.device, samples: Sequence[Sample], collate: Callable = to_batch) -> tuple[Tensor, ...]:
    """Return the batch that `collate` makes of samples, on `device`; made there, of bytes, where it is `for_any_device`."""
    if is_for_any_device(collate):
        samples = [
            sample._replace(
                image=sample.image.to(device),
                labels=sample.labels.to(device),
                **with_logits(sample, lambda logits: logits.to(device)),
            )
            for sample in samples
        ]
    return tuple(part.to(device) for part in collate(samples))


class Change(NamedTuple):
    """What a `TrainTransform` does to one image: its random numbers, drawn.

    Attributes:
        size: (H, W) in pixels after scaling.
        arrows: (2, 3, 3) displacements of elastic deformation (see `displacements`), or None.
        corner: (top, left) of the crop.
        mirrored: Whether left and right are exchanged.
        colours: Names of COLOURS in the order of their use, with their factors.
    """

    size: tuple[int, int]
    arrows: Tensor | None
    corner: tuple[int, int]
    mirrored: bool
    colours: tuple[tuple[str, float], ...]


COLOURS = {"brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "saturation": F.adjust_saturation}
"""What jitter changes, by torchvision's functions (image, factor) -> image."""


@dataclass(frozen=True)
class TrainTransform:
    """What `train_transform` returns; its fields are that function's arguments."""

    crop: tuple[int, int] | None
    flip: bool
    scale: tuple[float, float] | None
    jitter: float
    fill_labels: int
    elastic: float = 0.0

    def __call__(self, sample: Sample) -> Sample:
        return self.apply(sample, self.draw(tuple(sample.labels.shape)))

    def draw(self, size: tuple[int, int], generator: torch.Generator | None = None) -> Change:
        """Return a random change of an image of `size` = (H, W); by default from torch's global generator."""
        height, width = size
        if self.scale:
            low, high = self.scale
            factor = low + (high - low) * torch.rand((), generator=generator).item()
            height, width = max(1, round(height * factor)), max(1, round(width * factor))
        arrows = self.elastic * torch.randn(2, 3, 3, generator=generator) if self.elastic else None
        corner = (0, 0)
        if self.crop:
            spare = [max(side - cropped, 0) for side, cropped in zip((height, width), self.crop, strict=True)]
            corner = tuple(int(torch.randint(pixels + 1, (), generator=generator)) for pixels in spare)
        mirrored = bool(self.flip and torch.rand((), generator=generator) < 0.5)
        colours = ()
        if self.jitter:  # the order of v2.ColorJitter's draws, which knows hue as a fourth
            order = torch.randperm(4, generator=generator).tolist()
            factors = [
                (name, torch.empty(1).uniform_(1 - self.jitter, 1 + self.jitter, generator=generator).item())
                for name in COLOURS
            ]
            colours = tuple(factors[place] for place in order if place < len(factors))
        return Change((height, width), arrows, corner, mirrored, colours)

    def apply(self, sample: Sample, change: Change) -> Sample:
        """Return the sample after `change`."""
        if self.scale:
            sample = rescale(sample, change.size)
        if change.arrows is not None:
            sample = move_pixels(sample, spread(change.arrows, change.size), self.fill_labels)
        if self.crop:
            sample = pad(sample, self.crop, self.fill_labels)
            sample = everywhere(sample, lambda part: F.crop(part, *change.corner, *self.crop))
        if change.mirrored:
            sample = everywhere(sample, F.horizontal_flip)
        for name, factor in change.colours:
            sample = sample._replace(image=COLOURS[name](sample.image, factor))
        return drop_empty_boxes(sample)


def train_transform(
    crop: tuple[int, int] | None = None,
    flip: bool = True,
    scale: tuple[float, float] | None = None,
    jitter: float = 0.0,
    fill_labels: int = IGNORE,
    elastic: float = 0.0,
) -> Callable[[Sample], Sample]:
    """Return the usual augmentation of segmentation, in this order; each part can be left out.

    Boxes follow; those of which less than a pixel remains are removed with their `box_labels`.

    Args:
        scale: Range of a random factor on height and width, uniform; (0.5, 2) is DeepLab's.
        elastic: Strength of U-Net's elastic deformation in pixels (see `bend`); 0 leaves the image straight.
        crop: (H, W) of a random crop. An image smaller than that is padded on the right and below, with ImageNet's
            mean colour, and its labels with `fill_labels`.
        flip: Mirror left and right with probability 1/2.
        jitter: Strength of random brightness, contrast and saturation: factors from 1 - jitter to 1 + jitter; 0 leaves
            the colours alone.

    Raises:
        ValueError: For impossible arguments.
    """
    if crop is not None and (len(crop) != 2 or min(crop) < 1):
        raise ValueError(f"crop must be (height, width) in pixels, not {crop}")
    if scale is not None and not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (smallest, largest) factor, both above 0, not {scale}")
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must be between 0 and 1, not {jitter}")
    if not elastic >= 0:
        raise ValueError(f"elastic must be 0 pixels or more, not {elastic}")
    return TrainTransform(crop, flip, scale, jitter, fill_labels, elastic)


def pad_to(size: tuple[int, int], fill_labels: int = IGNORE) -> Callable[[Sample], Sample]:
    """Pad images to `size` = (H, W), right and below, to evaluate images of different sizes in batches.

    Nothing is random. Images that are larger stay as they are.
    """
    return lambda sample: pad(sample, size, fill_labels)


def rescale(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample at `size` = (H, W), with the logits of one that has any."""
    parts = dict(zip(Sample._fields, resize_sample(sample, size)[:5], strict=True))
    moved = with_logits(sample, lambda logits: F.resize(logits, list(size), antialias=False))
    return sample._replace(**parts, **moved)


def displacements(height: int, width: int, sigma: float, grid: int = 3) -> Tensor:
    """(H, W, 2): how far each pixel of a bent image is fetched from, in pixels to the right and down.

    Source: U-Net (MICCAI 2015), section 3.1, with sigma = 10 and a grid of 3x3.

    Args:
        sigma: Standard deviation of the displacements at the points of a coarse `grid` x `grid`, whose outer points are
            the image's corners; between the points they are interpolated bicubically.
    """
    return spread(sigma * torch.randn(2, grid, grid), (height, width))


def spread(arrows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the displacements (H, W, 2) between those at the points of a grid, (2, grid, grid)."""
    return interpolate(arrows[None], size=size, mode="bicubic", align_corners=True)[0].permute(1, 2, 0)


def bend(sample: Sample, sigma: float, fill_labels: int = IGNORE) -> Sample:
    """Return the sample under a random elastic deformation of strength `sigma` (see `displacements`)."""
    return move_pixels(sample, displacements(*sample.labels.shape, sigma), fill_labels)


def move_pixels(sample: Sample, moves: Tensor, fill_labels: int) -> Sample:
    """Return the sample with each pixel fetched from `moves` (H, W, 2) to the right and down.

    The image is read bilinearly, the labels at the nearest pixel, boxes enclose where their corners went. Where the
    image has nothing it becomes ImageNet's mean colour and the labels `fill_labels`.
    """
    height, width = sample.labels.shape
    moves = moves[None] * torch.tensor([2 / width, 2 / height])  # torchvision counts in halves of the image
    last = torch.tensor([width - 1, height - 1] * 2)  # torchvision before 0.29 fails at corners behind the last pixel
    return sample._replace(
        **with_logits(sample, lambda logits: F.elastic(logits, moves)),
        image=F.elastic(sample.image, moves, fill=MEAN_COLOUR),
        labels=F.elastic(sample.labels, moves, fill=fill_labels),
        boxes=F.elastic(tv_tensors.wrap(torch.minimum(sample.boxes, last), like=sample.boxes), moves),
    )


def pad(sample: Sample, size: tuple[int, int], fill_labels: int) -> Sample:
    """Add pixels on the right and below until the sample is at least `size` = (H, W)."""
    height, width = sample.labels.shape
    padding = [0, 0, max(0, size[1] - width), max(0, size[0] - height)]  # left, top, right, bottom
    if not any(padding):
        return sample
    return sample._replace(
        **with_logits(sample, lambda logits: F.pad(logits, padding)),
        image=F.pad(sample.image, padding, fill=MEAN_COLOUR),
        labels=F.pad(sample.labels, padding, fill=fill_labels),
        boxes=F.pad(sample.boxes, padding),
    )


def everywhere(sample: Sample | SoftSample, move: Callable[[Tensor], Tensor]) -> Sample | SoftSample:
    """Return the sample with image, labels, boxes, and logits where it has any, moved alike."""
    image, labels, boxes = map(move, sample[:3])
    return sample._replace(image=image, labels=labels, boxes=boxes, **with_logits(sample, move))


def with_logits(sample: Sample | SoftSample, move: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the moved logits of a `SoftSample` that has any, by the name of the field."""
    logits = getattr(sample, "logits", None)
    return {} if logits is None else {"logits": move(logits)}


def drop_empty_boxes(sample: Sample) -> Sample:
    """Clip boxes to the image; remove those narrower, lower or smaller than one pixel."""
    boxes, kept = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(sample.boxes))
    return sample._replace(boxes=boxes, box_labels=sample.box_labels[kept])
