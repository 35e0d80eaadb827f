"""Batches made at once, as on a GPU, are those of one picture after another, within interpolation."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from course_lib.data import on_device
from course_lib.data.batched import nearest_pixel, resize_weights
from course_lib.data.cache import memory_needed
from course_lib.data.on_device import OnDevice, made_ahead, move_boxes
from course_lib.data.sample import Sample, SoftSample
from course_lib.data.scenes import Objects, Street
from course_lib.data.stream import training_batches
from course_lib.data.transforms import batch_on, denormalise, for_any_device, pad_to, to_batch, train_transform
from course_lib.self_correction import boxed_batch, soft_batch

SCENES = Street(6, (48, 64), seed=1)
HERE = SimpleNamespace(global_rank=0, world_size=1, device=torch.device("cpu"))
FULL = {"crop": (40, 72), "scale": (0.5, 2.0), "jitter": 0.3}


def both_ways(monkeypatch, dataset=SCENES, **options) -> list[tuple[torch.Tensor, ...]]:
    """All images (24, 3, h, w) uint8, labels and so on: of the loader, and made at once."""
    made = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(on_device, "KEPT_ON", devices)
        usual = {"steps": 4, "batch_size": 6, "seed": 3, "fabric": HERE}
        images, *others = map(torch.cat, zip(*training_batches(dataset, **(usual | options)), strict=True))
        made.append((denormalise(images), *others))
    return made


@pytest.mark.parametrize(
    ("arguments", "largest"),
    [
        (None, 0),
        ({"crop": (40, 72)}, 0),
        ({"crop": (56, 80), "flip": False}, 0),
        ({"crop": (40, 72), "scale": (0.5, 2.0)}, 1),
        ({"crop": (24, 32), "scale": (0.3, 0.9)}, 1),
        ({"jitter": 0.3}, 2),
        (FULL, 4),
        ({"elastic": 3.0}, 1),
        ({"elastic": 3.0, "crop": (56, 80), "scale": (0.8, 1.25)}, 1),
    ],
)
def test_a_batch_made_at_once_is_that_of_the_loader(arguments, largest, monkeypatch):
    """Grey levels differ by `largest` at most, since torchvision rounds in between; labels only where elastic
    deformation fetches from the middle between two pixels."""
    transform = None if arguments is None else train_transform(**arguments)
    (images, labels), (images_at_once, labels_at_once) = both_ways(monkeypatch, transform=transform)
    assert images_at_once.shape == images.shape
    assert labels_at_once.dtype == labels.dtype
    apart = (images_at_once.int() - images.int()).abs()
    assert apart.max() <= largest
    assert (apart > 1).float().mean() <= 0.05
    elastic = arguments is not None and "elastic" in arguments
    assert (labels_at_once != labels).float().mean() <= (0.001 if elastic else 0)


def test_the_weights_and_the_nearest_pixels_of_a_resize_are_torchs():
    for old, new in ((20, 31), (20, 13), (17, 17), (48, 24), (7, 29)):
        places, size = torch.arange(new)[None, :, None], torch.tensor([[[float(new)]]], dtype=torch.float64)
        values = torch.rand(1, 1, 1, old)
        for antialias in (True, False):
            expected = interpolate(values, size=(1, new), mode="bilinear", antialias=antialias)
            found = values @ resize_weights(places, size, old, antialias)[:, None].mT
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        expected = interpolate(torch.arange(float(old))[None, None], size=new, mode="nearest-exact")
        assert torch.equal(nearest_pixel(places, size, old).flatten(), expected.flatten().long())


def test_jitter_draws_and_changes_as_torchvision_does():
    image = SCENES[0].image
    for seed in range(8):
        torch.manual_seed(seed)
        expected = v2.ColorJitter(0.4, 0.4, 0.4)(image)
        after = torch.rand(3)
        torch.manual_seed(seed)
        found = train_transform(flip=False, jitter=0.4)(SCENES[0]).image
        assert torch.equal(found, expected)
        assert torch.equal(torch.rand(3), after)


def test_the_global_generator_is_left_alone(monkeypatch):
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"})
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    next(training_batches(SCENES, steps=1, batch_size=6, transform=train_transform(elastic=2.0, **FULL), fabric=HERE))
    assert torch.equal(torch.rand(4), expected)


class Suggested(Objects):
    """Objects with logits of another network, every other one without a mask."""

    def __getitem__(self, index: int) -> SoftSample:
        logits = torch.randn(9, 48, 64, generator=torch.Generator().manual_seed(index))
        return SoftSample(*super().__getitem__(index), logits, index % 2 == 0)


@pytest.mark.parametrize("arguments", [{}, FULL, {"crop": (56, 80), "scale": (0.4, 0.8)}])
def test_boxes_and_logits_follow(arguments, monkeypatch):
    """Maps of boxes differ in no pixel, logits by what half precision leaves out."""
    transform, objects = train_transform(**arguments), Suggested(6, (48, 64), seed=2)
    boxed = both_ways(monkeypatch, objects, transform=transform, collate=partial(boxed_batch, num_classes=9))
    soft = both_ways(monkeypatch, objects, transform=transform, collate=soft_batch)
    for (_, labels, guide, labelled), (_, labels_at_once, guide_at_once, labelled_at_once), tolerance in (
        (*boxed, 0),
        (*soft, 2e-3),
    ):
        assert torch.equal(labels_at_once, labels)
        assert torch.equal(labelled_at_once, labelled)
        assert guide_at_once.dtype == guide.dtype
        torch.testing.assert_close(guide_at_once, guide, atol=tolerance, rtol=0)
    assert boxed[0][2][:, 1:].any()


def test_boxes_themselves_are_those_of_the_transform():
    """Also the ones that a crop cuts or takes away."""
    transform = train_transform(crop=(30, 40), scale=(0.5, 2.0))
    for seed in range(30):
        sample = Objects(1, (48, 64), seed=seed)[0]
        change = transform.draw((48, 64), torch.Generator().manual_seed(seed))
        expected = transform.apply(sample, change).boxes
        found = move_boxes(sample.boxes, (48, 64), (30, 40), change)
        kept = ((found[:, 2:] - found[:, :2]) >= 1).all(1)
        torch.testing.assert_close(found[kept], expected.as_subclass(torch.Tensor), atol=1e-4, rtol=0)


def test_a_set_on_a_device_is_the_set():
    objects = Suggested(3, (48, 64), seed=2)
    kept = OnDevice(objects, torch.device("cpu"))
    assert (len(kept), kept.classes, kept.background, kept.size) == (3, objects.classes, 0, (48, 64))
    for index in range(3):
        one, other = kept[index], objects[index]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.boxes, other.boxes)
        assert (one.name, one.labelled, type(one.labels)) == (other.name, other.labelled, type(other.labels))
        torch.testing.assert_close(one.logits, other.logits, atol=2e-3, rtol=0)


class Growing(Street):
    """Streets of which the last one is larger."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return pad_to((50, 64))(sample) if index == 5 else sample


@pytest.mark.parametrize(
    "options",
    [
        {"transform": pad_to((56, 64))},
        {"transform": train_transform(scale=(1.0, 1.0))},
        {"collate": lambda samples: to_batch(samples)},
        {"dataset": Growing(6, (48, 64), seed=1), "transform": train_transform(crop=(40, 40))},
        {"fabric": None},
    ],
    ids=["own transform", "sizes after scaling", "own collate", "sizes in the set", "no device"],
)
def test_what_cannot_be_made_at_once_comes_from_the_loader(options, monkeypatch):
    monkeypatch.setattr(on_device.OnDevice, "batch", None)
    before, after = both_ways(monkeypatch, **options)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("dataset", "logits"), [(SCENES, 0), (Suggested(6, (48, 64)), 6 * 9 * 48 * 64)])
def test_a_set_may_take_a_quarter_of_the_free_memory_of_a_gpu(dataset, logits, monkeypatch):
    needed, here = memory_needed(dataset) + 2 * logits, torch.device("cpu")
    assert on_device.keep_on(here, dataset) is None
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"})
    for free in (4 * needed, 4 * needed - 1):
        monkeypatch.setattr(on_device, "free_memory", lambda device, free=free: free)
        assert (on_device.keep_on(here, dataset) is not None) == (free == 4 * needed)


def test_batches_made_ahead_come_in_order_and_their_errors_too():
    def batches() -> Iterator[tuple[torch.Tensor]]:
        for number in range(3):
            made.append(number)
            yield (torch.tensor(number),)
        raise OSError("no image left")

    made, found = [], made_ahead(batches(), torch.device("cpu"))
    assert [int(next(found)[0]) for _ in range(3)] == made == [0, 1, 2]
    with pytest.raises(OSError, match="no image left"):
        next(found)
    before, stopped = threading.active_count(), made_ahead(batches(), torch.device("cpu"))
    next(stopped)
    stopped.close()
    assert threading.active_count() == before


def test_a_gpu_waits_for_a_batch_that_was_made_beside_its_work(monkeypatch):
    """No GPU is needed: what is asked of one is written down."""
    asked = []
    events = iter(["first ready", "second ready", "end"])
    beside = SimpleNamespace(wait_stream=lambda stream: asked.append("beside waits"), record_event=lambda: next(events))
    here = SimpleNamespace(wait_event=asked.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: beside)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    for (number,) in made_ahead(iter([(torch.tensor(1),), (torch.tensor(2),)]), torch.device("cuda")):
        asked.append(int(number))
    assert asked == ["beside waits", "first ready", 1, "second ready", 2]


def test_evaluation_makes_its_batches_on_the_device():
    """Image, labels and logits are there before `collate` is called, if it is for any device; else afterwards."""
    sample, there, seen = Suggested(1, (48, 64))[0], torch.device("meta"), []

    def collate(samples: list[SoftSample]) -> tuple[torch.Tensor, ...]:
        seen.append({part.device.type for one in samples for part in (one.image, one.labels, one.logits)})
        return soft_batch(samples)

    for way in (lambda function: function, lambda function: partial(for_any_device(function))):
        assert {part.device for part in batch_on(there, [sample], way(collate))} == {there}
    assert seen == [{"cpu"}, {"meta"}]
