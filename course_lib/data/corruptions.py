"""Images made worse: eleven kinds of corruption in five severities, to measure how a network stands them.

The idea is D. Hendrycks' and T. Dietterich's, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019: kinds that a network never met in training, severities 1 to 5, and the mean
over all of them.

Departures from the paper: the kinds are those that torchvision makes (its fifteen need other libraries),
and the strengths are our own, chosen for small images: levels cannot be compared with ImageNet-C's.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from course_lib.data.painters.painting import smooth_noise
from course_lib.data.sample import Sample, SegmentationDataset

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
"""(image (3, H, W) uint8, strength, generator of its randomness) -> image (3, H, W) uint8."""


def _gaussian_noise(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return _to_bytes(image / 255 + deviation * torch.randn(image.shape, generator=generator).to(image.device))


def _salt_and_pepper(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    chance = torch.rand(image.shape[1:], generator=generator).to(image.device)
    image = torch.where(chance < share / 2, 0, image)
    return torch.where(chance > 1 - share / 2, 255, image).to(torch.uint8)


def _gaussian_blur(image: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    size = 2 * round(3 * sigma) + 1
    return functional.gaussian_blur(image, [size, size], [sigma, sigma])


def _motion_blur(image: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """The mean of copies moved along a line of `length` pixels in a random direction."""
    angle = float(torch.rand((), generator=generator)) * np.pi
    steps = torch.linspace(-length / 2, length / 2, round(2 * length) + 1).tolist()
    moved = [_shifted(image.float(), t * np.cos(angle), t * np.sin(angle)) for t in steps]
    return _to_bytes(sum(moved) / len(moved) / 255)


def _brighter(image: Tensor, amount: float, _: torch.Generator) -> Tensor:
    return _to_bytes(image / 255 + amount)


def _darker(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    return functional.adjust_brightness(image, factor)


def _less_contrast(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    return functional.adjust_contrast(image, factor)


def _less_colour(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    return functional.adjust_saturation(image, factor)


def _fog(image: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """White veils of uneven thickness: at `amount` 1 the thickest hide everything."""
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    clouds = 0.7 + 0.3 * torch.from_numpy(smooth_noise(rng, *image.shape[1:], 0.25)).to(image.device)
    veil = amount * clouds
    return _to_bytes(image / 255 * (1 - veil) + 0.9 * veil)


def _pixelated(image: Tensor, factor: float, _: torch.Generator) -> Tensor:
    height, width = image.shape[1:]
    small = [max(1, round(height / factor)), max(1, round(width / factor))]
    image = functional.resize(image, small, antialias=True)
    return functional.resize(image, [height, width], interpolation=InterpolationMode.NEAREST)


def _jpeg(image: Tensor, quality: float, _: torch.Generator) -> Tensor:
    data = BytesIO()  # Pillow: torchvision's own coder is deprecated
    functional.to_pil_image(image).save(data, "JPEG", quality=int(quality))
    return functional.pil_to_tensor(Image.open(data)).to(image.device)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.03, 0.06, 0.10, 0.15, 0.22)),
    "salt_and_pepper": (_salt_and_pepper, (0.01, 0.02, 0.05, 0.10, 0.18)),
    "gaussian_blur": (_gaussian_blur, (0.6, 0.9, 1.3, 1.8, 2.5)),
    "motion_blur": (_motion_blur, (3, 5, 7, 10, 14)),
    "brighter": (_brighter, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "darker": (_darker, (0.75, 0.55, 0.4, 0.28, 0.18)),
    "less_contrast": (_less_contrast, (0.7, 0.5, 0.35, 0.22, 0.12)),
    "less_colour": (_less_colour, (0.7, 0.5, 0.3, 0.15, 0.0)),
    "fog": (_fog, (0.3, 0.45, 0.6, 0.72, 0.82)),
    "pixelated": (_pixelated, (2, 2.5, 3, 4, 5.5)),
    "jpeg": (_jpeg, (50, 30, 18, 10, 5)),
}
"""Name -> the corruption and its strength at the severities 1 to 5."""


def corrupt(image: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Return `image` (3, H, W) uint8 made worse, on its device; the same seed gives the same image.

    Raises:
        ValueError: For an unknown kind, a severity that is not 1 to 5, or an image of another type.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption {kind!r} is none of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"the severity of a corruption is 1 to 5, not {severity!r}")
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"an image is (3, H, W) uint8, not {tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
        )
    function, strengths = CORRUPTIONS[kind]
    generator = torch.Generator().manual_seed(seed)
    return function(image.as_subclass(Tensor), strengths[severity - 1], generator)


class Corrupted:
    """`dataset` with every image corrupted in one way; labels, boxes and names stay.

    Image i always gets the same corruption: its randomness follows from `seed` and i.
    """

    def __init__(self, dataset: SegmentationDataset, kind: str, severity: int, seed: int = 0):
        corrupt(torch.zeros(3, 32, 32, dtype=torch.uint8), kind, severity)  # complain now, not later
        self.dataset, self.kind, self.severity, self.seed = dataset, kind, severity, seed
        self.classes = dataset.classes
        self.palette = dataset.palette
        self.background = dataset.background

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        image = corrupt(sample.image, self.kind, self.severity, seed=self.seed * 1_000_003 + index)
        return sample._replace(image=type(sample.image)(image))


def _to_bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _shifted(image: Tensor, right: float, down: float) -> Tensor:
    """`image` (3, H, W) float moved by a fraction of pixels; the border is repeated."""
    border = int(max(abs(right), abs(down))) + 2
    padded = functional.pad(image, [border] * 4, padding_mode="edge")
    columns, rows = int(np.floor(right)), int(np.floor(down))
    x, y = right - columns, down - rows

    def at(r: int, c: int) -> Tensor:
        return padded.roll((rows + r, columns + c), (1, 2))

    top = (1 - x) * at(0, 0) + x * at(0, 1)
    bottom = (1 - x) * at(1, 0) + x * at(1, 1)
    return ((1 - y) * top + y * bottom)[:, border:-border, border:-border]
