"""Generated images whose classes are textures in colours of chance: no files, exact labels.

One or two blobs lie on plain ground. What a blob is, its pattern alone says, and one patch of it anywhere is enough to
tell: so an image label is cheap to learn from, and an outline needs a mask. For lecture 17.
"""

import numpy as np

from course_lib.data.painters.painting import Canvas, film, fraction, rgb, smooth_noise
from course_lib.data.sample import Sample
from course_lib.data.scenes import OBJECT_PALETTE, GeneratedScenes

CLASSES = ("background", "rows", "columns", "slants", "checks", "dots", "rings")


class Textures(GeneratedScenes):
    """Patterned blobs on plain ground as samples (`Sample`): six patterns and a background, a box for each blob.

    The two blobs of an image have different patterns, and may overlap.

    Args:
        period: Of the patterns, in image heights; each blob has up to a fifth more or less.
        noise: Standard deviation of the pixel noise (colours run from 0 to 1).

    Raises:
        ValueError: For a knob outside its range.
    """

    name = "textures"
    classes = CLASSES
    palette = OBJECT_PALETTE[: len(CLASSES)]
    background = 0

    def __init__(
        self,
        length: int = 1000,
        size: tuple[int, int] = (48, 64),
        seed: int = 0,
        *,
        period: float = 0.14,
        noise: float = 0.03,
    ):
        super().__init__(length, size, seed)
        for name, value, low, high in (("period", period, 0.02, 0.5), ("noise", noise, 0, 1)):
            if not low <= value <= high:
                raise ValueError(f"{name} is between {low} and {high}, not {value}")
        self.period, self.noise = period, noise

    def __getitem__(self, index: int) -> Sample:
        rng, canvas = self._generator(index), Canvas(*self.size)
        canvas.image[:] = _colour(rng) + 0.10 * smooth_noise(rng, canvas.height, canvas.width, 0.25)
        patterns = 1 + rng.choice(len(CLASSES) - 1, size=rng.integers(1, 3), replace=False)
        for label in patterns.tolist():
            self._blob(rng, canvas, label)
        film(rng, canvas, light=rng.uniform(0.85, 1.1), tint=rng.uniform(-0.05, 0.05), noise=self.noise)
        return canvas.sample(f"{self.name}-{index}")

    def _blob(self, rng: np.random.Generator, canvas: Canvas, label: int) -> None:
        x, y = canvas.aspect * rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.75)
        wide, high = rng.uniform(0.22, 0.40, 2)
        bumps = 0.25 * smooth_noise(rng, canvas.height, canvas.width, 0.2)
        blob = np.hypot((canvas.x - x) / wide, (canvas.y - y) / high) + bumps < 1
        first = _colour(rng)
        second = first - np.where(first > 0.5, 1, -1) * rng.uniform(0.35, 0.5)
        marks = _marks(CLASSES[label], canvas.x - x, canvas.y - y, self.period * rng.uniform(0.8, 1.2))
        canvas.fill(blob, np.where(marks, first, second), label)
        np.copyto(canvas.instances, np.int32(canvas.new_instance(label)), where=blob)


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rgb(*rng.uniform(0.1, 0.9, 3).tolist())


def _marks(pattern: str, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Return where a pattern has its first colour, (H, W) bool; x (1, W) and y (H, 1) count from the blob's middle."""
    across, down = fraction(x / period), fraction(y / period)
    if pattern == "rows":
        return (down < 0.5) | np.zeros_like(across, dtype=bool)
    if pattern == "columns":
        return (across < 0.5) | np.zeros_like(down, dtype=bool)
    if pattern == "slants":
        return fraction((x + y) / (1.4 * period)) < 0.5
    if pattern == "checks":
        return (fraction(0.5 * x / period) < 0.5) ^ (fraction(0.5 * y / period) < 0.5)
    if pattern == "dots":
        return np.hypot(across - 0.5, down - 0.5) < 0.33
    return fraction(np.hypot(x, y) / period) < 0.5
