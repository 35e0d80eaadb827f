"""Parts of a data set: F (fully labelled) and W (boxes only), and subsets by index."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset, make_sample


def split_f_w(items: int | Sequence[str], size_f: int, seed: int) -> tuple[list[int], list[int]]:
    """Split a set into F, `size_f` images with masks, and W, the rest: sorted indices of each.

    `items` is the length of the set or the names of its images. The choice is random in `seed`, the same on every
    machine and in every version, and nested: the F of 25 is a part of the F of 50 with the same seed, as the
    self-correction paper's tables by size of F need it. With names, an image keeps its place when the set is sorted in
    another way.

    Raises:
        ValueError: If `size_f` is negative or larger than the set.
    """
    names = [str(index) for index in range(items)] if isinstance(items, int) else list(items)
    if not 0 <= size_f <= len(names):
        raise ValueError(f"F cannot have {size_f} of {len(names)} images")
    # Ranking by a hash, rather than a library's shuffle, stays the same when that library changes.
    order = sorted(range(len(names)), key=lambda index: rank(names[index], seed))
    return sorted(order[:size_f]), sorted(order[size_f:])


def rank(name: str, seed: int) -> bytes:
    """Return a place in a random order: the hash of the seed and the name."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


class Subset:
    """The images of `dataset` at `indices`, in that order, with its classes, palette and background.

    Raises:
        IndexError: If an index is not in the set.
    """

    def __init__(self, dataset: SegmentationDataset, indices: Iterable[int]) -> None:
        self.dataset = dataset
        self.indices = [int(index) for index in indices]
        outside = [index for index in self.indices if not 0 <= index < len(dataset)]
        if outside:
            raise IndexError(f"no image {outside[0]} in a set of {len(dataset)}")
        self.classes = dataset.classes
        self.palette = dataset.palette
        self.background = dataset.background

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


class Alternating:
    """Images of two sets in turn, so that every batch of an even size is half from each.

    An epoch shows each image of the longer set once; the shorter one is gone through again and again, in another
    order each time. `order` is what `course_lib.train.fit` goes through.

    Raises:
        ValueError: For an empty set and for sets with other classes.
    """

    def __init__(self, first: SegmentationDataset, second: SegmentationDataset) -> None:
        if not (len(first) and len(second)):
            raise ValueError(f"sets of {len(first)} and {len(second)} images cannot alternate")
        if tuple(first.classes) != tuple(second.classes):
            raise ValueError("the two sets have different classes")
        self.parts = (first, second)
        self.classes, self.palette = first.classes, first.palette
        self.background = first.background

    def __len__(self) -> int:
        return 2 * max(map(len, self.parts))

    def __getitem__(self, index: int) -> Sample:
        """Image `index` // 2 (begun again at the end of a set) of the first or the second set."""
        part = self.parts[index % 2]
        return part[index // 2 % len(part)]

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return an epoch's indices, (len,): random in each set, the sets in turn."""
        rounds = len(self) // 2
        columns = [
            torch.cat([torch.randperm(len(part), generator=generator) for _ in range(0, rounds, len(part))])[:rounds]
            for part in self.parts
        ]
        return (2 * torch.stack(columns, dim=1) + torch.tensor([0, 1])).flatten()


class WithoutClass:
    """`dataset` as if one class had never been labelled: its pixels are ignored, the others move up.

    Boxes of the class go as well.

    Raises:
        ValueError: Where the set has no such class, or it is the background.
    """

    def __init__(self, dataset: SegmentationDataset, name: str) -> None:
        if name not in dataset.classes:
            raise ValueError(f"class {name!r} is none of {', '.join(dataset.classes)}")
        self.index = dataset.classes.index(name)
        if self.index == dataset.background:
            raise ValueError(f"{name!r} is the background: without it nothing separates the objects")
        self.dataset = dataset
        kept = [index for index in range(len(dataset.classes)) if index != self.index]
        self.classes = tuple(dataset.classes[index] for index in kept)
        self.palette = dataset.palette[kept]
        background = dataset.background
        self.background = None if background is None else kept.index(background)
        self.table = torch.full((256,), IGNORE)
        self.table[kept] = torch.arange(len(kept))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, labels, boxes, box_labels, name = self.dataset[index]
        kept = box_labels != self.index
        labels = self.table[labels.as_subclass(torch.Tensor)]
        boxes = boxes.as_subclass(torch.Tensor)[kept]
        return make_sample(image, labels, name, boxes, self.table[box_labels[kept]])


class OneClass:
    """`dataset` as if all its objects were of one class, "object": class 1 over the background, class 0.

    Raises:
        ValueError: Where the set has no background as class 0.
    """

    classes = ("background", "object")
    background = 0

    def __init__(self, dataset: SegmentationDataset) -> None:
        if dataset.background != 0:
            raise ValueError("without a background as class 0 every pixel would be of an object")
        self.dataset = dataset
        self.palette = dataset.palette[:2]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, labels, boxes, box_labels, name = self.dataset[index]
        labels = labels.as_subclass(torch.Tensor)
        labels = torch.where(labels == IGNORE, IGNORE, (labels > 0).long())
        return make_sample(image, labels, name, boxes.as_subclass(torch.Tensor), torch.ones_like(box_labels))
