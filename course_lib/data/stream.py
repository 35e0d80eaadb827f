"""The stream of training images: which image comes when, how it is changed, and in which batch.

Image, order and augmentation of every step follow from (seed, step) alone, so a run that was killed and
resumed sees the same images as one that was not, with any number of loading processes and devices.
"""

import hashlib
from collections.abc import Callable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from course_lib.data.sample import Sample, SegmentationDataset
from course_lib.data.transforms import to_batch


def number_from(*parts: object) -> int:
    """Hash `parts` to a 63-bit seed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Stream(Dataset):
    """The endless sequence of training images: draw n is image `order[n]`, changed by its own seed.

    Each epoch shuffles anew. A data set with a method `order(generator)` (indices of one epoch, each below its
    length) chooses the order itself.
    """

    def __init__(self, dataset: SegmentationDataset, transform: Callable[[Sample], Sample] | None, seed: int):
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.epoch, self.order = -1, torch.empty(0)

    def __getitem__(self, draw: int) -> Sample:
        epoch, position = divmod(draw, len(self.dataset))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(number_from(self.seed, "epoch", epoch))
            if hasattr(self.dataset, "order"):
                self.order = self.dataset.order(generator)
            else:
                self.order = torch.randperm(len(self.dataset), generator=generator)
            self.epoch = epoch
        sample = self.dataset[int(self.order[position])]
        if self.transform is None:
            return sample
        torch.manual_seed(number_from(self.seed, "draw", draw))
        return self.transform(sample)


def training_batches(
    dataset: SegmentationDataset,
    *,
    steps: int,
    batch_size: int,
    start: int = 0,
    transform: Callable[[Sample], Sample] | None = None,
    collate: Callable[[list[Sample]], tuple[Tensor, ...]] = to_batch,
    seed: int = 0,
    fabric: Fabric | None = None,
    workers: int = 0,
) -> Iterator[tuple[Tensor, ...]]:
    """Return an iterator over the batches of steps `start` .. `steps` - 1.

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
    loader = DataLoader(
        Stream(dataset, transform, seed),
        batch_size=share,
        sampler=draws,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=fabric is not None and fabric.device.type == "cuda",
    )
    return iter(loader)
