"""What the masks of a split hold, class by class, and what looks wrong about them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset

BETWEEN = 0.2
"""Share of the places between two labels that hold a third from between them; masks drawn by hand have a few."""
FEW_PLACES = 100


class Survey:
    """Counts over the samples of a split that it has seen."""

    def __init__(self, dataset: SegmentationDataset, split: str) -> None:
        self.classes, self.split, self.pictures = dataset.classes, split, 0
        self.counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
        self.places = self.between = 0
        self.void: list[str] = []
        self.dark: list[str] = []

    def see(self, sample: Sample) -> None:
        """Count a sample."""
        labels = sample.labels.as_subclass(Tensor)
        counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)
        self.counts += counts
        self.pictures += 1
        self.void += [sample.name] * (int(counts[IGNORE]) == labels.numel())
        self.dark += [sample.name] * (int(sample.image.max()) <= 1)
        for lines in (labels, labels.T):
            places, between = steps(lines)
            self.places, self.between = self.places + places, self.between + between

    @property
    def absent(self) -> list[str]:
        """The classes of which no pixel occurs."""
        return [name for name, pixels in zip(self.classes, self.counts.tolist(), strict=False) if not pixels]

    def shares(self) -> str:
        """Return the share of void in all pixels and of each class in the others, in words."""
        pixels = self.counts[: len(self.classes)].tolist()
        void = int(self.counts[IGNORE]) / max(int(self.counts.sum()), 1)
        total = max(sum(pixels), 1)
        parts = zip(self.classes, pixels, strict=True)
        classes = ", ".join(f"{name} {part / total:.1%}" for name, part in parts if part) or "no class"
        return f"{self.split}: {self.pictures} image{'s'[: self.pictures > 1]}, void {void:.1%}; {classes}"

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for everything that may be meant so, or a mistake."""
        if self.absent:
            yield f"{self.split}: no pixel of {', '.join(self.absent)}"
        for what, names in (("every pixel is void in", self.void), ("no value above 1, black, in", self.dark)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                yield f"{self.split}: {what} {', '.join(names[:3])}{more}"
        if self.places > FEW_PLACES and self.between > BETWEEN * self.places:
            yield (
                f"{self.split}: between two labels {self.between / self.places:.0%} of the pixels hold one from between "
                "them: have the masks been resized with smoothing? They need the nearest pixel's value"
            )

    def problems(self) -> Iterator[str]:
        """Yield what cannot be meant: void that is the object."""
        void = int(self.counts[IGNORE])
        if void and len(self.absent) == len(self.classes) - 1:
            there = next(name for name in self.classes if name not in self.absent)
            yield (
                f"{self.split}: every pixel that counts is {there}, and {void / int(self.counts.sum()):.1%} of all are "
                f"void ({IGNORE}): if these are {' or '.join(self.absent)}, map their value to that class in `values`"
            )


def steps(labels: Tensor) -> tuple[int, int]:
    """Return how many pixels of (H, W) labels stand between two others that differ by 2 or more, and how many of
    these have a label from between the two; void does not count.
    """
    left, here, right = labels[:, :-2], labels[:, 1:-1], labels[:, 2:]
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    place = (high - low > 1) & (torch.maximum(high, here) != IGNORE)
    return int(place.sum()), int((place & (low < here) & (here < high)).sum())
