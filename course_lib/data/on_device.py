"""A set kept as bytes on the device that trains: its batches are made there, and no process loads anything."""

from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from course_lib.data.batched import Window, jitter, to_device
from course_lib.data.cache import pack
from course_lib.data.sample import SegmentationDataset
from course_lib.data.transforms import Change, TrainTransform, normalise
from course_lib.plumbing.progress import progress_bar

SHARE_OF_FREE_MEMORY = 0.25


class OnDevice:
    """Images (n, 3, H, W) and labels (n, H, W) of a set as bytes on a device."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels
        self.size = tuple(labels.shape[1:])

    def batch(self, indices: Sequence[int], changes: Sequence[Change], transform: TrainTransform) -> tuple[Tensor, Tensor]:
        """Return what `to_batch` makes of the pictures at `indices`, each after its change of `transform`."""
        chosen = to_device(torch.tensor(indices), self.images.device)
        window = Window(changes, self.size, transform.crop or self.size, self.images.device)
        images = jitter(window.images(self.images[chosen]), changes)
        return normalise(images), window.nearest(self.labels[chosen], transform.fill_labels)


def keep_on(device: torch.device, dataset: SegmentationDataset) -> OnDevice | None:
    """Return all pictures of `dataset` on `device`.

    None where they take more than a quarter of the free memory there, or their sizes differ.
    """
    image, labels, *_ = pack(dataset[0])
    count = len(dataset)
    if count * (image.nbytes + labels.nbytes) > SHARE_OF_FREE_MEMORY * free_memory(device):
        return None
    images = torch.empty(count, *image.shape, dtype=torch.uint8, device=device)
    truth = torch.empty(count, *labels.shape, dtype=torch.uint8, device=device)
    for index in progress_bar(range(count), "pictures to the device", delay=2):
        image, labels, *_ = pack(dataset[index])
        if image.shape != images.shape[1:]:
            return None
        images[index], truth[index] = image, labels
    return OnDevice(images, truth)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on `device`."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
