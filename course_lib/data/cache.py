"""A data set decoded once and kept in memory: epochs after the first cost no decoding."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from torch import Tensor

from course_lib.data.sample import IGNORE, DataError, Sample, SegmentationDataset, make_sample
from course_lib.plumbing.files import atomic_write
from course_lib.plumbing.locks import Busy, only_one
from course_lib.plumbing.paths import DECODED
from course_lib.plumbing.processes import cores
from course_lib.plumbing.progress import progress_bar

PROBES = 5
SHARE_OF_FREE_MEMORY = 0.5
PATIENCE = 600.0
"""Seconds to wait for another process that decodes the same set."""

Packed = list[tuple[Tensor, Tensor, Tensor, Tensor, str]]


class Cached:
    """`dataset`, read completely when constructed and kept in memory.

    Labels are kept as bytes (an eighth of their size) and every access returns its own copy, so nothing that a caller
    writes into a sample comes back. A progress bar appears after two seconds.

    Args:
        about: What tells this set from all others, as JSON values; a set that has it is shared where
            $COURSE_DECODED is a folder.

    Raises:
        DataError: Before reading, if the set would take more than half of the free memory.
    """

    def __init__(self, dataset: SegmentationDataset, progress: bool = True, about: object = None) -> None:
        self.classes = dataset.classes
        self.palette = dataset.palette
        self.background = dataset.background

        def decode() -> Packed:
            needed, free = memory_needed(dataset), psutil.virtual_memory().available
            if needed > SHARE_OF_FREE_MEMORY * free:
                raise DataError(
                    f"keeping {len(dataset)} images in memory takes about {needed / 2**30:.1f} GiB, more "
                    f"than half of the {free / 2**30:.1f} GiB free: open the set with cache=False, with a "
                    "smaller size, or take a part of it"
                )
            with ThreadPoolExecutor(min(4, cores())) as threads:
                packed = threads.map(lambda index: pack(dataset[index]), range(len(dataset)))
                return list(progress_bar(packed, "reading images", total=len(dataset), show=progress, delay=2))

        home = os.environ.get(DECODED)
        self.packed = decode() if about is None or not home else decoded_once(decode, Path(home), about)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Sample:
        image, labels, boxes, box_labels, name = self.packed[index]
        return make_sample(image.clone(), labels.long(), name, boxes.clone(), box_labels.clone())


def decoded_once(decode: Callable[[], Packed], home: Path, about: object) -> Packed:
    """Return what `decode` gives, from the folder of a process that has decoded it, where one has.

    It is mapped into memory: processes that read the same set share its pages. Without room for the file, or after
    PATIENCE, this process decodes for itself.
    """
    path = home / f"{hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]}.pt"
    try:
        with only_one(path.with_suffix(".lock"), PATIENCE):
            if not path.exists():
                with atomic_write(path) as temporary:
                    torch.save(decode(), temporary)
            return torch.load(path, mmap=True, weights_only=True)
    except (OSError, Busy):
        return decode()


def pack(sample: Sample) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """Return a sample's parts as plain tensors; labels as uint8 (they are 0..255)."""
    image, labels, boxes = (part.as_subclass(Tensor) for part in sample[:3])
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) <= IGNORE):
        low, high = int(labels.min()), int(labels.max())
        raise DataError(f"{sample.name} has labels from {low} to {high}: they are 0 .. classes - 1, and {IGNORE} for void")
    return image, labels.to(torch.uint8), boxes, sample.box_labels, sample.name


def memory_needed(dataset: SegmentationDataset) -> int:
    """Return the bytes that `Cached(dataset)` will take, estimated from a few samples spread over the set."""
    if not len(dataset):
        return 0
    probes = sorted({index * (len(dataset) - 1) // (PROBES - 1) for index in range(PROBES)})
    sizes = [sum(part.nbytes for part in pack(dataset[index])[:4]) for index in probes]
    return sum(sizes) * len(dataset) // len(sizes)
