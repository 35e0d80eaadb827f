"""Generated scenes: the same for the same seed, exactly labelled, and their knobs do what they say."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from course_lib.data.isbi_em import IsbiEM
from course_lib.data.painters import cells, objects, street
from course_lib.data.painters.painting import Canvas
from course_lib.data.sample import IGNORE, Sample, SegmentationDataset
from course_lib.data.scenes import Cells, Objects, Street, StreetObjects, StreetStuff
from course_lib.data.transforms import train_transform

FAMILIES = {"street": Street, "objects": Objects, "cells": Cells}
PAINTERS = {Street: street.paint_street, Objects: objects.paint_objects, Cells: cells.paint_cells}
COUNTED = [street.POLE, street.SIGN, street.CAR, street.PEDESTRIAN, street.BICYCLIST]
COUNTABLE = {Street: COUNTED, Objects: [*range(1, 9)], Cells: [cells.CELL]}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def plain(part: Tensor) -> Tensor:
    return part.as_subclass(Tensor)


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(plain(a), plain(b)) for a, b in zip(first[:4], second[:4], strict=True))


def share(scenes, *classes: int) -> float:
    """The share of pixels of a whole set that carry one of `classes`."""
    labels = torch.stack([plain(scenes[index].labels) for index in range(len(scenes))])
    return float(torch.isin(labels, torch.tensor(classes)).float().mean())


# -- the contract -----------------------------------------------------------------------------------


def test_samples_keep_the_contract(family):
    scenes = family(3, (40, 56), seed=2)
    assert isinstance(scenes, SegmentationDataset)
    assert len(scenes) == 3
    assert scenes.palette.shape == (len(scenes.classes), 3)
    assert scenes.palette.dtype == torch.uint8
    sample = scenes[2]
    assert sample.image.shape == (3, 40, 56)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.shape == (40, 56)
    assert sample.labels.dtype == torch.int64
    assert sample.boxes.shape == (len(sample.box_labels), 4)
    assert sample.boxes.dtype == torch.float32
    assert sample.boxes.canvas_size == (40, 56)
    assert sample.box_labels.dtype == torch.int64
    assert sample.name == f"{scenes.name}-2"


def test_classes_and_backgrounds():
    assert len(Street.classes) == len(Street.palette) == 11
    assert Street.background is None
    assert len(Objects.classes) == len(Objects.palette) == 9
    assert Objects.classes[Objects.background] == "background"


def test_a_picture_depends_on_seed_and_index_only(family):
    scenes = family(6, (48, 64), seed=7)
    in_order = [scenes[index] for index in range(6)]
    backwards = [family(60, (48, 64), seed=7)[index] for index in reversed(range(6))][::-1]
    assert all(map(same, in_order, backwards))
    others = [in_order[0], in_order[1], family(6, (48, 64), seed=8)[0]]
    images = {plain(sample.image).numpy().tobytes() for sample in others}
    assert len(images) == 3
    assert not torch.equal(others[0].labels, others[1].labels)


def test_negative_indices_count_from_the_end_and_others_are_refused(family):
    scenes = family(4, (32, 32))
    assert same(scenes[-1], scenes[3])
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"image {index} of a set of 4"):
            scenes[index]


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (97, 131), (200, 40), (24, 240)])
def test_any_size(family, size):
    for index in range(8):
        sample = family(8, size, seed=1)[index]
        assert sample.labels.shape == size
        assert int(plain(sample.labels).max()) <= IGNORE
        boxes = plain(sample.boxes)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= size[1]).all()
        assert (boxes[:, 3] <= size[0]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_every_class_occurs(family):
    scenes = family(40, (96, 128), seed=0)
    seen = torch.cat([plain(scenes[index].labels).unique() for index in range(40)]).unique()
    assert set(range(len(scenes.classes))) <= set(seen.tolist())
    labels = torch.cat([scenes[index].box_labels for index in range(40)]).unique().tolist()
    countable = [*COUNTED, street.FENCE] if family is Street else COUNTABLE[family]
    assert labels == sorted(countable)


def test_pictures_use_the_whole_range_of_colours(family):
    images = torch.stack([plain(family(8, (64, 64))[index].image) for index in range(8)]).float()
    assert float(images.quantile(0.02)) < 70
    assert float(images.quantile(0.98)) > 180
    assert images.std() > 30


# -- labels, instances and boxes agree --------------------------------------------------------------


def painted(family, index: int) -> Canvas:
    """The canvas of a picture with the family's usual knobs."""
    rng = np.random.Generator(np.random.SFC64([0, index]))
    canvas, knobs = Canvas(72, 96), family(1).knobs
    PAINTERS[family](rng, canvas, **knobs)
    return canvas


def test_every_instance_is_in_its_box_and_every_box_is_tight(family):
    for index in range(12):
        canvas = painted(family, index)
        sample = canvas.sample("", min_box_area=1)
        boxes = list(zip(plain(sample.boxes).int().tolist(), sample.box_labels.tolist(), strict=True))
        visible = [number for number in np.unique(canvas.instances) if number]
        assert len(boxes) == len(visible)
        for number, ((left, top, right, bottom), label) in zip(visible, boxes, strict=True):
            rows, columns = np.nonzero(canvas.instances == number)
            assert label == canvas.instance_labels[number - 1]
            assert (rows.min(), rows.max() + 1) == (top, bottom)
            assert (columns.min(), columns.max() + 1) == (left, right)
            assert (canvas.labels[rows, columns] == label).all()


def test_the_painted_canvas_is_the_sample(family):
    """What the instance tests look at is what the data set gives."""
    knobs = {} if family is Cells else {"void_border": 0}
    scene = family(5, (72, 96), **knobs)[4]
    sample = painted(family, 4).sample("")
    assert torch.equal(plain(sample.image), plain(scene.image))
    assert torch.equal(plain(sample.labels), plain(scene.labels))
    assert torch.equal(plain(sample.boxes), plain(scene.boxes))


def test_boxes_hold_pixels_of_their_class(family):
    scenes = family(20, (96, 128), seed=5)
    for index in range(20):
        sample = scenes[index]
        for box, label in zip(plain(sample.boxes).int().tolist(), sample.box_labels, strict=True):
            inside = plain(sample.labels)[box[1] : box[3], box[0] : box[2]]
            assert ((inside == label) | (inside == IGNORE)).any()


def test_a_countable_pixel_outside_every_box_is_a_speck(family):
    """Instances of fewer than four visible pixels have no box; everything else has one."""
    knobs = {} if family is Cells else {"void_border": 0}
    scenes = family(20, (96, 128), seed=6, **knobs)
    for index in range(20):
        sample = scenes[index]
        left_over = torch.isin(plain(sample.labels), torch.tensor(COUNTABLE[family]))
        for left, top, right, bottom in plain(sample.boxes).int().tolist():
            left_over[top:bottom, left:right] = False
        assert int(left_over.sum()) < 12


def test_transforms_move_image_labels_and_boxes_together(family):
    sample = family(2, (64, 80), seed=3)[1]
    mirrored = v2.RandomHorizontalFlip(p=1)(sample)
    assert torch.equal(plain(mirrored.image), plain(sample.image).flip(-1))
    assert torch.equal(plain(mirrored.labels), plain(sample.labels).flip(-1))
    boxes, turned = plain(sample.boxes), plain(mirrored.boxes)
    assert torch.equal(turned[:, [0, 2]], 80 - boxes[:, [2, 0]])
    assert mirrored.name == sample.name
    cropped = Sample(*(F.crop(part, 10, 20, 40, 40) for part in sample[:3]), *sample[3:])
    assert torch.equal(plain(cropped.image), plain(sample.image)[:, 10:50, 20:60])
    assert torch.equal(plain(cropped.labels), plain(sample.labels)[10:50, 20:60])
    assert (plain(cropped.boxes)[:, 2] <= 40).all()
    augmented = train_transform(crop=(48, 48), scale=(0.7, 1.4), jitter=0.2)(sample)
    assert augmented.image.shape == (3, 48, 48)
    assert augmented.labels.shape == (48, 48)
    assert len(augmented.boxes) == len(augmented.box_labels)


# -- knobs of the street ----------------------------------------------------------------------------


def test_an_empty_street_has_nothing_that_can_be_counted():
    empty = Street(12, seed=1, density=0)
    assert share(empty, *COUNTED) == 0
    assert share(empty, street.ROAD, street.SKY, street.BUILDING) > 0.5
    usual, crowded = (share(Street(12, seed=1, density=density), *COUNTED) for density in (1, 4))
    assert 0 < usual < crowded


def test_things_in_streets_are_the_streets_with_a_background():
    size, knobs = (72, 96), {"seed": 4, "void_border": 1, "object_scale": 1.5}
    streets, things = Street(12, size, **knobs), StreetObjects(12, size, **knobs)
    assert isinstance(things, SegmentationDataset)
    assert things.classes[things.background] == "background"
    assert len(things.palette) == len(things.classes)
    seen = set()
    for index in range(12):
        whole, part = streets[index], things[index]
        assert torch.equal(plain(part.image), plain(whole.image))
        assert torch.equal(plain(part.boxes), plain(whole.boxes))
        for before, after in ((whole.labels, part.labels), (whole.box_labels, part.box_labels)):
            before, after = plain(before), plain(after)
            assert torch.equal(after == IGNORE, before == IGNORE)
            for label, name in enumerate(Street.classes):
                expected = things.classes.index(name) if name in things.classes else 0
                assert (after[before == label] == expected).all()
            seen |= set(after.unique().tolist())
    assert seen == {*range(7), IGNORE}


def test_what_fills_a_street_has_one_box_for_each_class():
    streets, stuff = Street(8, (72, 96), seed=4), StreetStuff(8, (72, 96), seed=4)
    assert stuff.classes == ("background", "Sky", "Building", "Road", "Pavement", "Tree")
    assert len(stuff.palette) == len(stuff.classes)
    for index in range(8):
        whole, part = plain(streets[index].labels), plain(stuff[index].labels)
        assert torch.equal(plain(stuff[index].image), plain(streets[index].image))
        for label, name in enumerate(Street.classes):
            assert (part[whole == label] == (stuff.classes.index(name) if name in stuff.classes else 0)).all()
        boxes = dict(zip(stuff[index].box_labels.tolist(), plain(stuff[index].boxes).tolist(), strict=True))
        for label, (left, top, right, bottom) in boxes.items():
            rows, columns = (part == label).nonzero().T
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [left, top, right, bottom]
        assert {label for label in range(1, 6) if (part == label).sum() >= 4} == set(boxes)


def test_poles_get_wider():
    widths = [share(Street(20, seed=2, pole_width=width), street.POLE) for width in (0.08, 0.2, 0.5)]
    assert widths[0] * 1.3 < widths[1]
    assert widths[1] * 1.3 < widths[2]


def test_a_pole_is_never_thinner_than_a_pixel():
    thin, thinner = (share(Street(20, seed=2, pole_width=w), street.POLE) for w in (0.02, 0.01))
    assert 0 < thinner <= thin < 1.5 * thinner


def test_objects_of_the_street_get_larger():
    things = (street.CAR, street.PEDESTRIAN, street.BICYCLIST, street.SIGN)
    sizes = [share(Street(20, seed=3, object_scale=scale), *things) for scale in (0.5, 1, 1.5)]
    assert sizes[0] * 1.5 < sizes[1]
    assert sizes[1] * 1.2 < sizes[2]


def test_noise_changes_pictures_and_no_labels(family):
    clean, noisy = (family(1, (64, 64), noise=noise)[0] for noise in (0.0, 0.2))
    assert torch.equal(clean.labels, noisy.labels)
    assert torch.equal(plain(clean.boxes), plain(noisy.boxes))
    difference = plain(noisy.image).float() - plain(clean.image).float()
    assert 25 < float(difference.std()) < 60  # 0.2 * 255 = 51, less what is clipped


@pytest.mark.parametrize("family", [Street, Objects])
@pytest.mark.parametrize("width", [1, 3])
def test_a_void_border_lies_along_outlines_only(family, width):
    for index in range(6):
        exact = plain(family(6, (72, 96), void_border=0)[index].labels)
        bordered = plain(family(6, (72, 96), void_border=width)[index].labels)
        void = bordered == IGNORE
        assert void.any()
        assert not (exact == IGNORE).any()
        assert torch.equal(bordered[~void], exact[~void])
        instances = painted(family, index).instances
        for row, column in void.nonzero().tolist():
            near = instances[max(0, row - width) : row + width + 1, max(0, column - width) : column + width + 1]
            assert near.min() != near.max()


# -- ambiguity: one picture, two labelings ----------------------------------------------------------


class FlippedDraw:
    """A generator of random numbers in which draw number `which` of `random()` falls on the other side."""

    def __init__(self, seed: list[int], which: int = -1):
        self.generator = np.random.Generator(np.random.SFC64(seed))
        self.which, self.draws = which, 0

    def random(self, *shape):
        value = self.generator.random(*shape)
        if shape:
            return value
        self.draws += 1
        return (value + 0.5) % 1 if self.draws - 1 == self.which else value

    def __getattr__(self, name):
        return getattr(self.generator, name)


def both_labelings(family, index: int, **knobs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels before and after, for each random draw that changes the labels and not one pixel."""

    def paint(which: int) -> tuple[Canvas, int]:
        rng, canvas = FlippedDraw([0, index], which), Canvas(64, 80)
        PAINTERS[family](rng, canvas, **{**family(1).knobs, **knobs})
        return canvas, rng.draws

    before, draws = paint(-1)
    found = []
    for which in range(draws):
        after, _ = paint(which)
        if np.array_equal(before.image, after.image) and (before.labels != after.labels).any():
            found.append((before.labels, after.labels))
    return found


def test_an_ambiguous_street_has_one_picture_and_two_labelings():
    ((before, after),) = both_labelings(Street, 0, ambiguity=1.0)
    changed = before != after
    assert {*before[changed]} | {*after[changed]} == {street.ROAD, street.PAVEMENT}
    assert changed.mean() > 0.01
    assert both_labelings(Street, 0, ambiguity=0.0) == []


def test_ambiguous_objects_have_one_picture_and_two_labelings():
    ((before, after),) = both_labelings(Objects, 1, ambiguity=1.0, context=0.0)
    labelings = [set(np.unique(labels)) - {objects.BACKGROUND} for labels in (before, after)]
    assert sorted(labelings, key=sorted) == [{objects.DISC}, {objects.RING}]
    assert both_labelings(Objects, 1, ambiguity=0.0, context=0.0) == []


def test_the_two_labelings_are_equally_likely():
    scenes = Objects(200, (32, 40), seed=4, ambiguity=1.0, context=0.0, count=(1, 2), void_border=0)
    rings = []
    for index in range(200):
        present = set(plain(scenes[index].labels).unique().tolist()) - {IGNORE, objects.BACKGROUND}
        assert present in ({objects.DISC}, {objects.RING}, set())
        if present:
            rings.append(present == {objects.RING})
    assert len(rings) > 150
    assert 0.38 < np.mean(rings) < 0.62


def test_half_of_the_ambiguous_streets_park_on_the_road():
    """The strip right of the kerb: its label where the unambiguous picture has pavement."""
    turned = 0
    for index in range(60):
        plain_street, ambiguous = (
            plain(Street(60, (48, 64), seed=9, ambiguity=rate, density=0)[index].labels) for rate in (1e-9, 1.0)
        )
        turned += bool(((plain_street == street.PAVEMENT) & (ambiguous == street.ROAD)).sum() > 5)
    assert 15 < turned < 45


@pytest.mark.parametrize(
    ("scenes", "labels_of_coin"),
    [
        (Street(80, (48, 64), seed=3, ambiguity=1.0), (street.ROAD, street.PAVEMENT)),
        (Objects(80, (48, 64), seed=3, ambiguity=0.7, void_border=0), (objects.DISC, objects.RING)),
    ],
    ids=["street", "objects"],
)
def test_both_labelings_differ_where_the_coin_decides_and_it_is_fair(scenes, labels_of_coin):
    first_ones = []
    for index in range(80):
        first, second = map(plain, scenes.both_labelings(index))
        given = plain(scenes[index].labels)
        changed = first != second
        if not changed.any():
            assert torch.equal(given, first)
            continue
        assert torch.equal(given, first) != torch.equal(given, second)
        first_ones.append(torch.equal(given, first))
        assert set(first[changed].tolist()) == {labels_of_coin[0]}
        assert set(second[changed].tolist()) <= {labels_of_coin[1], objects.BACKGROUND}
        assert labels_of_coin[1] in second[changed]
    assert len(first_ones) > 50
    assert 0.3 < np.mean(first_ones) < 0.7


def test_an_unambiguous_picture_has_one_labeling():
    for scenes in (Street(4, (48, 64)), Objects(4, (48, 64), label_noise=1.0)):
        first, second = scenes.both_labelings(1)
        assert torch.equal(first, second)
    assert torch.equal(scenes.both_labelings(1)[0], scenes.clean_labels(1))


# -- knobs of the objects ---------------------------------------------------------------------------


def test_boats_are_on_water_and_cars_on_the_road():
    scenes = Objects(60, (64, 80), seed=2, context=1.0, count=(1, 2), noise=0.0)
    blueness = {objects.BOAT: [], objects.CAR: []}
    for index in range(60):
        sample = scenes[index]
        kinds = set(sample.box_labels.tolist())
        assert len(kinds) <= 1  # a picture is a lake or a road
        if not kinds:
            continue
        ground = plain(sample.image)[:, 52:, :].float()
        bare = plain(sample.labels)[52:] == objects.BACKGROUND
        red, _, blue = ground[:, bare].mean(dim=1)
        blueness[kinds.pop()].append(float(blue - red))
    assert min(map(len, blueness.values())) > 15
    assert min(blueness[objects.BOAT]) > max(blueness[objects.CAR]) + 20


def test_a_boat_and_a_car_are_one_silhouette():
    v, u = np.mgrid[-1:1:40j, -1:1:40j]
    assert np.array_equal(objects.silhouette(objects.BOAT, u, v), objects.silhouette(objects.CAR, u, v))
    others = [objects.silhouette(kind, u, v) for kind in (*objects.PLAIN, objects.BOAT)]
    assert len({shape.tobytes() for shape in others}) == len(others)


def test_without_context_there_are_no_boats_and_no_cars():
    assert share(Objects(20, (48, 64), context=0.0), objects.BOAT, objects.CAR) == 0


def test_the_context_margin_puts_sand_around_boats_and_cars():
    scenes = {
        margin: Objects(30, (64, 80), seed=2, context=1.0, context_margin=margin, count=(1, 1), noise=0.0)
        for margin in (0.0, 0.15)
    }

    def sand(margin: float) -> float:
        """Share of background pixels just outside the boxes that are warm and light."""
        found = []
        for index in range(30):
            sample = scenes[margin][index]
            near = torch.zeros(64, 80, dtype=torch.bool)
            for left, top, right, bottom in plain(sample.boxes).int().tolist():
                near[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = True
            red, _, blue = plain(sample.image).float()[:, near & (plain(sample.labels) == objects.BACKGROUND)]
            found.append((red > blue + 15).float())
        return float(torch.cat(found).mean())

    assert sand(0.15) > sand(0.0) + 0.4


def test_count_and_scale():
    few = Objects(20, (64, 80), seed=1, count=(1, 1))
    assert all(len(few[index].boxes) <= 1 for index in range(20))
    none = Objects(3, (64, 80), count=(0, 0))
    assert (plain(none[0].labels) == objects.BACKGROUND).all()
    assert none[0].boxes.shape == (0, 4)
    sizes = []
    for scale in (0.2, 0.8):
        scenes = Objects(20, (64, 80), seed=1, count=(1, 1), scale_range=(scale, scale))
        boxes = torch.cat([plain(scenes[index].boxes) for index in range(20)])
        sizes.append(float((boxes[:, 2:] - boxes[:, :2]).max()))
    assert 0.1 * 64 < sizes[0] <= 0.2 * 64 + 2
    assert 0.4 * 64 < sizes[1] <= 0.8 * 64 + 2


def test_label_noise_spoils_labels_and_nothing_else():
    clean, noisy = (Objects(30, (64, 80), seed=5, label_noise=rate) for rate in (0.0, 1.0))
    spoilt, missing, fatter, thinner = 0, 0, 0, 0
    for index in range(30):
        exact, faulty = clean[index], noisy[index]
        assert torch.equal(plain(exact.image), plain(faulty.image))
        assert torch.equal(plain(exact.boxes), plain(faulty.boxes))
        assert torch.equal(exact.box_labels, faulty.box_labels)
        assert torch.equal(noisy.clean_labels(index), exact.labels)
        truth, given = plain(exact.labels), plain(faulty.labels)
        assert torch.equal(truth == IGNORE, given == IGNORE)
        spoilt += not torch.equal(truth, given)
        for label in exact.box_labels.unique().tolist():
            before, after = (truth == label).sum(), (given == label).sum()
            missing += bool(after == 0 and before > 0)
            fatter += bool(after > before)
            thinner += bool(0 < after < before)
    assert spoilt > 25
    assert min(missing, fatter, thinner) > 5


def test_label_noise_comes_at_its_rate():
    clean, noisy = (Objects(80, (48, 64), seed=6, label_noise=rate, count=(1, 1), void_border=0) for rate in (0.0, 0.3))
    shown = [index for index in range(80) if len(clean[index].boxes)]
    spoilt = [not torch.equal(clean[index].labels, noisy[index].labels) for index in shown]
    assert 0.15 < np.mean(spoilt) < 0.45


# -- knobs of the cells -----------------------------------------------------------------------------


def test_cells_look_like_the_slices_they_stand_for():
    """Grey, the classes of the ISBI set in its order, and about as much membrane (a fifth to a quarter)."""
    tissue = Cells(12, seed=1)
    assert (Cells.classes, Cells.background) == (IsbiEM.classes, IsbiEM.background)
    assert torch.equal(Cells.palette, IsbiEM.palette)
    image = plain(tissue[0].image)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert 0.15 < share(tissue, cells.MEMBRANE) < 0.3
    dark = []
    for index in range(12):
        labels, grey = plain(tissue[index].labels), plain(tissue[index].image)[0].float()
        dark.append(float(grey[labels == cells.CELL].mean() - grey[labels == cells.MEMBRANE].mean()))
    assert min(dark) > 30


@pytest.mark.parametrize("size", [(96, 128), (40, 200), (200, 160)])
def test_every_cell_is_a_region_of_its_own(size):
    """Instances are what connected components find, so no two cells touch."""
    tissue = Cells(6, size, seed=2)
    for index in range(6):
        instances = plain(tissue.instances(index)).numpy()
        labels = plain(tissue[index].labels).numpy()
        assert np.array_equal(instances > 0, labels == cells.CELL)
        regions, count = ndimage.label(labels == cells.CELL)
        pairs = {*zip(regions.ravel().tolist(), instances.ravel().tolist(), strict=True)}
        assert len(pairs) == count + 1  # one to one, and the membrane
        assert np.bincount(regions.ravel())[1:].min() >= cells.SPECK
        assert count > 8
        assert len(tissue[index].boxes) == count


def test_without_membrane_cells_are_still_apart():
    tissue = Cells(4, (64, 80), seed=3, membrane=0.0)
    for index in range(4):
        instances = plain(tissue.instances(index))
        assert int(instances.max()) > 8
        for one, other in ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])):
            assert not ((one != other) & (one > 0) & (other > 0)).any()


def test_knobs_of_the_cells():
    def shares(**knobs) -> float:
        return share(Cells(8, (64, 80), seed=4, **knobs), cells.MEMBRANE)

    assert shares(membrane=0.02) < shares(membrane=0.05) < shares(membrane=0.1)
    counts = [int(Cells(1, seed=4, cell_size=size).instances(0).max()) for size in (0.1, 0.2, 0.4)]
    assert counts[0] > 2 * counts[1] > 3 * counts[2]

    def grey(kind: int, **knobs) -> Tensor:
        samples = [Cells(6, seed=6, noise=0.0, **knobs)[index] for index in range(6)]
        return torch.cat([plain(s.image)[0][plain(s.labels) == kind].float() for s in samples])

    faint, full = (grey(cells.MEMBRANE, fading=fading, organelles=0) for fading in (1.0, 0.0))
    assert faint.mean() > full.mean() + 5
    empty, crowded = (grey(cells.CELL, organelles=amount) for amount in (0, 10))
    assert crowded.mean() < empty.mean() - 3


# -- bad knobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Street(0), "at least one image, not 0"),
        (lambda: Street(1, (15, 64)), "at least 16x16 pixels, not 15x64"),
        (lambda: Street(density=-1), "density is between 0 and 10, not -1"),
        (lambda: Street(pole_width=0), "pole_width is between 0.01 and 1, not 0"),
        (lambda: Street(object_scale=9), "object_scale is between 0.1 and 5, not 9"),
        (lambda: Street(noise=2), "noise is between 0 and 1, not 2"),
        (lambda: Street(noise=float("nan")), "noise is between 0 and 1, not nan"),
        (lambda: Street(ambiguity=1.1), "ambiguity is between 0 and 1, not 1.1"),
        (lambda: Street(void_border=21), "void_border is between 0 and 20, not 21"),
        (lambda: Objects(count=(3, 2)), r"0 <= fewest <= most, not \(3, 2\)"),
        (lambda: Objects(scale_range=(0, 1)), r"0 < smallest <= largest <= 2, not \(0, 1\)"),
        (lambda: Objects(context=-0.1), "context is between 0 and 1, not -0.1"),
        (lambda: Objects(context_margin=2), "context_margin is between 0 and 1, not 2"),
        (lambda: Objects(label_noise=2), "label_noise is between 0 and 1, not 2"),
        (lambda: Objects(noise=-1), "noise is between 0 and 1, not -1"),
        (lambda: Cells(cell_size=0), "cell_size is between 0.05 and 1, not 0"),
        (lambda: Cells(membrane=0.5), "membrane is between 0 and 0.2, not 0.5"),
        (lambda: Cells(organelles=-1), "organelles is between 0 and 10, not -1"),
        (lambda: Cells(fading=2), "fading is between 0 and 1, not 2"),
    ],
)
def test_knobs_outside_their_range_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
