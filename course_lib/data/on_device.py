"""A set kept as bytes on a GPU: batches are made there, and no process loads anything."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from torch import Tensor
from torchvision import tv_tensors

from course_lib.data.batched import Window, jitter
from course_lib.data.cache import memory_needed
from course_lib.data.sample import Sample, SegmentationDataset, SoftSample
from course_lib.data.transforms import Change, TrainTransform, standardise, to_batch, with_logits
from course_lib.plumbing.progress import progress_bar

KEPT_ON = {"cuda"}
"""Devices on which sets are kept. A CPU changes images of full size faster one after another."""
SHARE_OF_FREE_MEMORY = 0.25

Batch = tuple[Tensor, ...]


class OnDevice:
    """`dataset` with image and labels of every sample as bytes on `device`, and logits in half precision.

    `size` is the (H, W) of all images, or None where it differs.
    """

    def __init__(self, dataset: SegmentationDataset, device: torch.device):
        self.classes, self.palette, self.background = dataset.classes, dataset.palette, dataset.background
        self.samples: list[Sample | SoftSample] = []
        for index in progress_bar(range(len(dataset)), "images to the device", delay=2):
            image, labels, *_ = sample = dataset[index]
            moved = with_logits(sample, lambda logits: logits.to(device, torch.float16))
            image, labels = image.as_subclass(Tensor), labels.as_subclass(Tensor).to(torch.uint8)
            self.samples.append(sample._replace(image=image.to(device), labels=labels.to(device), **moved))
        sizes = {tuple(sample.labels.shape) for sample in self.samples}
        self.size = sizes.pop() if len(sizes) == 1 else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | SoftSample:
        sample = self.samples[index]
        return wrapped(sample, sample.image, sample.labels.long(), sample.boxes)

    def batch(
        self, indices: Sequence[int], changes: Sequence[Change], transform: TrainTransform, collate: Callable
    ) -> tuple[Tensor, ...]:
        """Return what `collate` makes of the images at `indices`, each after its change of `transform`."""
        samples = [self.samples[index] for index in indices]
        new = transform.crop or self.size
        window = Window(changes, self.size, new, samples[0].image.device)
        images = jitter(window.images(torch.stack([sample.image for sample in samples])), changes)
        labels = window.nearest(torch.stack([sample.labels for sample in samples]), transform.fill_labels)
        if collate is to_batch:
            return standardise(images), labels
        if getattr(samples[0], "logits", None) is not None:
            logits = window.read(torch.stack([sample.logits for sample in samples]).float(), antialias=False)
            samples = [sample._replace(logits=one) for sample, one in zip(samples, logits, strict=True)]
        boxes = [move_boxes(one.boxes, self.size, new, change) for one, change in zip(samples, changes, strict=True)]
        return collate(list(map(wrapped, samples, images.to(torch.uint8), labels, boxes)))


def wrapped(sample: Sample | SoftSample, image: Tensor, labels: Tensor, boxes: Tensor) -> Sample | SoftSample:
    """Return the sample with these parts, as the transforms and `collate` know them."""
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(labels.shape))
    moved = with_logits(sample, Tensor.float)
    return sample._replace(image=tv_tensors.Image(image), labels=tv_tensors.Mask(labels), boxes=boxes, **moved)


def move_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int], change: Change) -> Tensor:
    """Return boxes (n, 4) of an image of `old` = (H, W) after a change without bending, cut to the crop of `new`."""
    size, corner = torch.tensor(change.size[::-1]), torch.tensor(change.corner[::-1])
    limit = torch.tensor(new[::-1])
    corners = boxes.as_subclass(Tensor).view(-1, 2, 2) * (size / torch.tensor(old[::-1])) - corner  # (n, 2, xy)
    corners = torch.minimum(corners.clamp(min=0), limit)
    if change.mirrored:
        corners[..., 0] = limit[0] - corners[..., 0].flip(1)
    return corners.flatten(1)


def keep_on(device: torch.device, dataset: SegmentationDataset) -> OnDevice | None:
    """Return `dataset` on a GPU; None on other devices, and where it takes more than a quarter of the free memory."""
    if device.type not in KEPT_ON:
        return None
    logits = getattr(dataset[0], "logits", None)
    needed = memory_needed(dataset) + len(dataset) * (0 if logits is None else 2 * logits.numel())
    return OnDevice(dataset, device) if needed <= SHARE_OF_FREE_MEMORY * free_memory(device) else None


def made_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield `batches`, each made by another thread while the one before is trained on; on a GPU beside its other work.

    Nothing is made while the first one is out: what is measured and recorded with it has the device to itself.
    """
    beside = torch.cuda.Stream(device) if device.type == "cuda" else None
    if beside is not None:
        beside.wait_stream(torch.cuda.current_stream(device))  # which brings the images

    def make() -> tuple[Batch | None, torch.cuda.Event | None]:
        if beside is None:
            return next(batches, None), None
        with torch.cuda.stream(beside):
            return next(batches, None), beside.record_event()

    def arrived(batch: Batch, ready: torch.cuda.Event | None) -> Batch:
        if ready is not None:
            here = torch.cuda.current_stream(device)
            here.wait_event(ready)
            for part in batch:
                if part.is_cuda:
                    part.record_stream(here)  # its memory is not taken again before the step is over
        return batch

    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(make).result()
        if first[0] is None:
            return
        yield arrived(*first)
        coming = thread.submit(make)
        while (made := coming.result())[0] is not None:
            coming = thread.submit(make)
            yield arrived(*made)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on `device`."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
