"""Batches made at once, as on a GPU, are those of one picture after another, within interpolation."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from course_lib.data import on_device, stream
from course_lib.data.batched import nearest_pixel, resize_weights
from course_lib.data.sample import Sample
from course_lib.data.scenes import Street
from course_lib.data.stream import training_batches
from course_lib.data.transforms import denormalise, pad_to, to_batch, train_transform

SCENES = Street(6, (48, 64), seed=1)
HERE = SimpleNamespace(global_rank=0, world_size=1, device=torch.device("cpu"))
FULL = {"crop": (40, 72), "scale": (0.5, 2.0), "jitter": 0.3}


def both_ways(monkeypatch, dataset=SCENES, **options) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All images (24, 3, h, w) uint8 and labels: of the loader, and made at once."""
    made = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(stream, "BATCHED_ON", devices)
        usual = {"steps": 4, "batch_size": 6, "seed": 3, "fabric": HERE}
        images, labels = map(torch.cat, zip(*training_batches(dataset, **(usual | options)), strict=True))
        made.append((denormalise(images), labels))
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
    monkeypatch.setattr(stream, "BATCHED_ON", {"cpu"})
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    next(training_batches(SCENES, steps=1, batch_size=6, transform=train_transform(elastic=2.0, **FULL), fabric=HERE))
    assert torch.equal(torch.rand(4), expected)


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


@pytest.mark.parametrize(("free", "kept"), [(4 * 6 * 4 * 48 * 64, True), (4 * 6 * 4 * 48 * 64 - 8, False)])
def test_a_set_may_take_a_quarter_of_the_free_memory(free, kept, monkeypatch):
    monkeypatch.setattr(on_device, "free_memory", lambda device: free)
    found = on_device.keep_on(torch.device("cpu"), SCENES)
    assert (found is not None) == kept
