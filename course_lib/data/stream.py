"""The stream of training images: which image comes when, how it is changed, and in which batch.

Image, order and augmentation of every step follow from (seed, step) alone, so a run that was killed and
resumed sees the same images as one that was not, with any number of loading processes and devices.
"""

import hashlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from course_lib.plumbing.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from course_lib.data.on_device import Batch, OnDevice, keep_on, made_ahead
from course_lib.data.sample import Sample, SegmentationDataset
from course_lib.data.transforms import TrainTransform, is_for_any_device, to_batch, train_transform

Collate = Callable[[list[Sample]], Batch]
"""Samples -> images (N, 3, H, W), labels (N, H, W) and whatever else a loss takes."""


def number_from(*parts: object) -> int:
    """Hash `parts` to a 63-bit seed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_all(number: int, device: torch.device | None = None) -> None:
    """Seed torch's, numpy's and Python's generators: a transform may draw from any of them.

    Of torch's that of the CPU and, where `device` is another one, those of all devices: where CUDA is not in use,
    `torch.manual_seed` takes a millisecond to note who asked for it.
    """
    if device is None or device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - the one that others use
    random.seed(number)


class Stream(Dataset):
    """The endless sequence of training images: draw n is image `order[n]`, changed by its own seed.

    Each epoch shuffles anew. A data set with a method `order(generator)` (indices of one epoch, each below its
    length) chooses the order itself.
    """

    def __init__(self, dataset: SegmentationDataset, transform: Callable[[Sample], Sample] | None, seed: int):
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.epoch, self.order = -1, torch.empty(0)

    def __getitem__(self, draw: int) -> Sample:
        sample = self.dataset[self.place(draw)]
        if self.transform is None:
            return sample
        seed_all(number_from(self.seed, "draw", draw))
        return self.transform(sample)

    def place(self, draw: int) -> int:
        """Return which image of the set draw `draw` shows."""
        epoch, position = divmod(draw, len(self.dataset))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(number_from(self.seed, "epoch", epoch))
            if hasattr(self.dataset, "order"):
                self.order = self.dataset.order(generator)
            else:
                self.order = torch.randperm(len(self.dataset), generator=generator)
            self.epoch = epoch
        return int(self.order[position])

    def batches_on(self, kept: OnDevice, draws: list[int], batch_size: int, collate: Collate) -> Iterator[Batch]:
        """Yield the batches of `draws`, made of what is `kept` on a device."""
        transform, generator = self.transform or train_transform(flip=False), torch.Generator()
        for first in range(0, len(draws), batch_size):
            batch = draws[first : first + batch_size]
            changes = [
                transform.draw(kept.size, generator.manual_seed(number_from(self.seed, "draw", draw))) for draw in batch
            ]
            yield kept.batch([self.place(draw) for draw in batch], changes, transform, collate)


def training_batches(
    dataset: SegmentationDataset,
    *,
    steps: int,
    batch_size: int,
    start: int = 0,
    transform: Callable[[Sample], Sample] | None = None,
    collate: Collate = to_batch,
    seed: int = 0,
    fabric: Fabric | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Return an iterator over the batches of steps `start` .. `steps` - 1.

    On a GPU a set whose images have one size and take at most a quarter of the free memory is put there once, and
    its batches are made there. That needs a transform of `train_transform` that leaves one size, and a `collate` that
    is `for_any_device` (with elastic deformation `to_batch` alone). All other batches come from a loader. The random
    numbers are the same, and so are the images within interpolation.

    Args:
        dataset: Training images.
        steps: The last step and one.
        batch_size: Images a step, over all devices together.
        start: The first step.
        transform: Changes each image.
        collate: Makes a batch of samples, by default images (N, 3, H, W) and labels (N, H, W).
        seed: Decides order and changes.
        fabric: Devices; each gets its own share of every batch. One by default.
        workers: Processes that load images; 0 loads them in this one.
    """
    rank, devices = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    share = batch_size // devices
    draws = [step * batch_size + rank * share + position for step in range(start, steps) for position in range(share)]
    stream = Stream(dataset, transform, seed)
    bends = isinstance(transform, TrainTransform) and transform.elastic > 0
    at_once = one_size(transform) and is_for_any_device(collate) and not (bends and collate is not to_batch)
    kept = keep_on(fabric.device, dataset) if fabric is not None and at_once else None
    if kept is not None and kept.size is not None:
        return made_ahead(stream.batches_on(kept, draws, share, collate), fabric.device)
    loader = DataLoader(
        stream,
        batch_size=share,
        sampler=draws,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=fabric is not None and fabric.device.type == "cuda",
    )
    return iter(loader)


def one_size(transform: Callable[[Sample], Sample] | None) -> bool:
    """Return whether a batch can be changed at once: by what `train_transform` makes, to one size."""
    return transform is None or (isinstance(transform, TrainTransform) and bool(transform.crop or not transform.scale))
