"""Pictures in which surroundings decide: what is alike, what differs, and how far the difference lies."""

import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib.data.painters.surroundings import (
    BACKGROUND,
    BED,
    BOAT,
    BUILDING,
    CAR,
    PAINTERS,
    PILLOW,
    RUG,
    SKYSCRAPER,
)
from course_lib.data.sample import SegmentationDataset
from course_lib.data.scenes import Surroundings

PAIRS = {"mismatched": (BOAT, CAR), "confusable": (BUILDING, SKYSCRAPER), "inconspicuous": (BED, RUG)}

every_kind = pytest.mark.parametrize("kind", PAINTERS)


def plain(part: Tensor) -> Tensor:
    return part.as_subclass(Tensor)


def halves(labels: Tensor, pair: tuple[int, int]) -> list[set[int]]:
    """Which of a pair of classes each half shows."""
    middle = labels.shape[1] // 2
    return [set(part.unique().tolist()) & set(pair) for part in (labels[:, :middle], labels[:, middle:])]


def test_samples_keep_the_contract():
    scenes = Surroundings(60, (48, 96), seed=3)
    assert isinstance(scenes, SegmentationDataset)
    assert len(scenes.palette) == len(scenes.classes) == 8
    assert scenes.classes[scenes.background] == "background"
    sample = scenes[4]
    assert sample.image.shape == (3, 48, 96)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.dtype == torch.int64
    again = Surroundings(9, (48, 96), seed=3)[4]
    assert torch.equal(plain(again.image), plain(sample.image))
    other = Surroundings(9, (48, 96), seed=4)[4]
    assert not torch.equal(plain(other.image), plain(sample.image))
    seen = torch.cat([plain(scenes[index].labels).unique() for index in range(60)]).unique()
    assert seen.tolist() == list(range(8))


@every_kind
@pytest.mark.parametrize("size", [(64, 128), (32, 64), (50, 101)])
def test_the_halves_are_alike_unless_the_layout_says_otherwise(kind, size):
    pair, coins = PAIRS[kind], []
    for layout in (0.0, 1.0):
        scenes = Surroundings(24, size, kinds=(kind,), layout=layout)
        for index in range(24):
            labels = plain(scenes[index].labels)
            left, right = halves(labels, pair)
            assert len(left) == len(right) == 1
            assert (left == right) == (layout == 0)
            coins.append(left == {pair[0]})
            allowed = {BACKGROUND, *pair} | ({PILLOW} if kind == "inconspicuous" else set())
            assert set(labels.unique().tolist()) <= allowed
    assert 12 < sum(coins) < 36  # either class, about equally often


def test_half_the_pictures_differ_at_a_layout_of_one_half():
    scenes = Surroundings(80, (32, 64), kinds=("mismatched",), layout=0.5)
    found = [halves(plain(scenes[index].labels), PAIRS["mismatched"]) for index in range(80)]
    assert 25 < sum(left != right for left, right in found) < 55


def ground_distance(sample, label: int) -> float:
    """From an object of `label` to the nearest bluish (water) or grey (road) pixel, in picture heights."""
    image = plain(sample.image).float()
    labels = plain(sample.labels)
    sand = image[0] > image[2] + 25
    rows, columns = np.nonzero((labels == BACKGROUND).numpy() & ~sand.numpy())
    found = []
    for box, box_label in zip(plain(sample.boxes), sample.box_labels, strict=True):
        if box_label == label:
            x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
            found.append(np.hypot(rows - y, columns - x).min() / labels.shape[0])
    return min(found)


@pytest.mark.parametrize("label", [BOAT, CAR])
def test_the_margin_is_how_far_the_ground_lies(label):
    """Water for boats, road for cars: neither is nearer than the margin."""
    near, far = [], []
    for distances, margin in ((near, 0.0), (far, 0.25)):
        scenes = Surroundings(40, (64, 128), kinds=("mismatched",), margin=(margin, margin), noise=0.0)
        for index in range(40):
            if label in scenes[index].box_labels:
                distances.append(ground_distance(scenes[index], label))
    assert len(far) > 10
    assert min(far) > 0.25 + 0.1  # the object's own radius comes on top
    assert max(near) < 0.25


def test_the_ground_tells_boat_from_car():
    scenes = Surroundings(40, (64, 128), kinds=("mismatched",), margin=(0.3, 0.3), noise=0.0)
    blueness = {BOAT: [], CAR: []}
    for index in range(40):
        sample = scenes[index]
        corner = plain(sample.image)[:, :4, :4].float().mean(dim=(1, 2))
        blueness[int(sample.box_labels[0])].append(float(corner[2] - corner[0]))
    assert min(blueness[BOAT]) > max(blueness[CAR]) + 20


def test_skyscrapers_are_tall_and_pillows_lie_on_beds():
    heights = {BUILDING: [], SKYSCRAPER: []}
    scenes = Surroundings(30, (64, 128), kinds=("confusable",))
    for index in range(30):
        for box, label in zip(scenes[index].boxes, scenes[index].box_labels, strict=True):
            heights[int(label)].append(float(box[3] - box[1]) / 64)
    assert max(heights[BUILDING]) < 0.42 < 0.6 < min(heights[SKYSCRAPER])
    scenes = Surroundings(30, (64, 128), kinds=("inconspicuous",), layout=0.5)
    for index in range(30):
        labels = plain(scenes[index].labels)
        for half in (labels[:, :64], labels[:, 64:]):
            shown = set(half.unique().tolist())
            assert shown in ({BACKGROUND, BED, PILLOW}, {BACKGROUND, RUG})


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"kinds": ("mismatched", "odd")}, "kinds are some of mismatched, confusable, inconspicuous"),
        ({"kinds": ()}, "kinds are some of"),
        ({"margin": (0.3, 0.1)}, r"margin is \(least, most\)"),
        ({"layout": 2}, "layout is between 0 and 1, not 2"),
        ({"noise": -1}, "noise is between 0 and 1, not -1"),
    ],
)
def test_knobs_outside_their_range_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        Surroundings(**knobs)
