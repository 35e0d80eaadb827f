"""Parts of a data set: F (fully labelled) and W (boxes only), and subsets by index."""

import hashlib
from collections.abc import Iterable, Sequence

from course_lib.data.sample import Sample, SegmentationDataset


def split_f_w(items: int | Sequence[str], size_f: int, seed: int) -> tuple[list[int], list[int]]:
    """Split a set into F, `size_f` pictures with masks, and W, the rest: sorted indices of each.

    `items` is the length of the set or the names of its pictures. The choice is random in `seed`,
    the same on every machine and in every version, and nested: the F of 25 is a part of the F of 50
    with the same seed, as the self-correction paper's tables by size of F need it. With names, a
    picture keeps its place when the set is sorted in another way.

    Raises ValueError if `size_f` is negative or larger than the set.
    """
    names = [str(index) for index in range(items)] if isinstance(items, int) else list(items)
    if not 0 <= size_f <= len(names):
        raise ValueError(f"F cannot have {size_f} of {len(names)} pictures")
    # Ranking by a hash, rather than a library's shuffle, stays the same when that library changes.
    order = sorted(range(len(names)), key=lambda index: rank(names[index], seed))
    return sorted(order[:size_f]), sorted(order[size_f:])


def rank(name: str, seed: int) -> bytes:
    """A place in a random order: the hash of the seed and the name."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


class Subset:
    """The pictures of `dataset` at `indices`, in that order, with its classes, palette and background.

    Raises IndexError if an index is not in the set.
    """

    def __init__(self, dataset: SegmentationDataset, indices: Iterable[int]) -> None:
        self.dataset = dataset
        self.indices = [int(index) for index in indices]
        outside = [index for index in self.indices if not 0 <= index < len(dataset)]
        if outside:
            raise IndexError(f"no picture {outside[0]} in a set of {len(dataset)}")
        self.classes = dataset.classes
        self.palette = dataset.palette
        self.background = dataset.background

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]
