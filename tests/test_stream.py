"""The stream of training images: its order, its augmentation, and its parts on several devices."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_lib.data import on_device
from course_lib.data.scenes import Street
from course_lib.data.stream import number_from, seed_all, training_batches
from course_lib.data.transforms import train_transform

SCENES = Street(8, (32, 48), seed=1)
AUGMENTED = train_transform(crop=(32, 32), flip=True, scale=(0.8, 1.5), jitter=0.3)


def device(rank: int = 0, of: int = 1) -> SimpleNamespace:
    """What a stream reads of Fabric."""
    return SimpleNamespace(global_rank=rank, world_size=of, device=torch.device("cpu"))


@pytest.fixture(params=["loader", "made at once"])
def _way(request, monkeypatch):
    """Both ways to make a batch, on the CPU."""
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"} if request.param == "made at once" else set())


def images(**options) -> torch.Tensor:
    """All images of eight batches of three, (24, 3, H, W)."""
    usual = {"steps": 8, "batch_size": 3}
    return torch.cat([images for images, _ in training_batches(SCENES, **(usual | options))])


def test_a_seed_gives_torchs_own_numbers_and_looks_at_no_device_that_is_not_in_use(monkeypatch):
    torch.manual_seed(12)
    wanted = torch.rand(3)
    asked = []
    monkeypatch.setattr(torch, "manual_seed", asked.append)
    for device in (None, torch.device("cpu")):
        seed_all(12, device)
        assert torch.equal(torch.rand(3), wanted)
    assert asked == []
    seed_all(12, torch.device("cuda"))
    assert asked == [12]


def test_numbers_from_parts_are_seeds_and_stay_what_they_were():
    numbers = {number_from(*parts) for parts in [(0,), (1,), (0, "epoch", 1), (0, "epoch", 11)]}
    assert len(numbers) == 4
    assert all(0 <= number < 2**63 for number in numbers)
    assert number_from(0, "weights") == 5087778715007104936  # another value changes every result


def test_each_epoch_shows_every_image_once():
    seen = images().sum(dim=(1, 2, 3)).tolist()
    epochs = [sorted(seen[first : first + 8]) for first in (0, 8, 16)]
    assert len(set(epochs[0])) == 8
    assert epochs[0] == epochs[1] == epochs[2]
    assert seen[:8] != seen[8:16]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("transform", [None, AUGMENTED])
def test_a_stream_that_begins_later_goes_on_as_the_whole_one(transform):
    whole = images(transform=transform, seed=3, fabric=device())
    torch.manual_seed(99)  # nothing depends on it
    assert torch.equal(images(transform=transform, seed=3, start=5, fabric=device()), whole[15:])
    assert not torch.equal(images(transform=transform, seed=4, fabric=device()), whole)


@pytest.mark.usefixtures("_way")
def test_the_devices_have_the_whole_batch_between_them():
    """Each has its own part, in the order of the devices."""
    options = {"batch_size": 4, "steps": 3, "transform": AUGMENTED}
    whole = images(fabric=device(), **options).view(3, 4, 3, 32, 32)
    for rank in range(2):
        part = images(fabric=device(rank, 2), **options).view(3, 2, 3, 32, 32)
        assert torch.equal(part, whole[:, 2 * rank : 2 * rank + 2])


def test_a_set_may_choose_the_order():
    class InOrder(Street):
        def order(self, generator: torch.Generator) -> torch.Tensor:
            return torch.arange(len(self))

    (batch, _), *_ = training_batches(InOrder(8, (32, 48), seed=1), steps=1, batch_size=8)
    first, *_ = next(training_batches(Street(8, (32, 48), seed=1), steps=1, batch_size=8))
    assert sorted(batch.sum((1, 2, 3)).tolist()) == sorted(first.sum((1, 2, 3)).tolist())
    assert not torch.equal(batch, first)


def drawn(sample):
    """A transform of one's own, that draws from every generator."""
    number = torch.randint(1000, ()), np.random.randint(1000), random.randrange(1000)  # noqa: NPY002
    return sample._replace(name=" ".join(str(int(part)) for part in number))


def names(samples):
    return [sample.name for sample in samples]


def test_draws_from_any_generator_repeat_whatever_was_drawn_before():
    options = {"transform": drawn, "collate": names, "batch_size": 2, "steps": 4, "seed": 7}
    whole = list(training_batches(SCENES, **options))
    assert len({name for batch in whole for name in batch}) == 8
    random.random(), np.random.rand()  # noqa: NPY002
    assert list(training_batches(SCENES, workers=2, **options)) == whole
    assert list(training_batches(SCENES, start=2, **options)) == whole[2:]
