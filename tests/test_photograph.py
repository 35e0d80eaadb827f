"""The photograph of the course: its labels, and what the text says of its colours."""

import pytest
import torch

from course_lib.data.photograph import FOLDER, Coffee
from course_lib.data.sample import IGNORE, SegmentationDataset


def test_it_is_a_labelled_picture():
    coffee = Coffee()
    assert isinstance(coffee, SegmentationDataset)
    sample = coffee[0]
    assert sample.image.shape == (3, 400, 600)
    assert sample.labels.shape == (400, 600)
    counts = torch.bincount(sample.labels.flatten(), minlength=IGNORE + 1)
    assert set(counts.nonzero().flatten().tolist()) == {*range(6), IGNORE}
    assert counts[IGNORE] < 0.03 * sample.labels.numel()
    assert len(coffee.classes) == len(coffee.palette) == 6
    with pytest.raises(IndexError, match="no image 1"):
        coffee[1]


def test_void_lies_on_every_border():
    """Two neighbours of different classes never touch."""
    labels = Coffee()[0].labels
    for one, other in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        assert not ((one != other) & (one != IGNORE) & (other != IGNORE)).any()


def test_labels_lie_on_the_things():
    """By hand: a pixel in the middle of each."""
    sample = Coffee()[0]
    places = {"Table": (380, 560), "Floor": (20, 20), "Saucer": (200, 100), "Cup": (60, 290), "Coffee": (160, 290),
              "Spoon": (290, 366)}  # fmt: skip
    for name, (row, column) in places.items():
        assert Coffee.classes[int(sample.labels[row, column])] == name
    brightness = sample.image.float().mean(dim=0)
    assert brightness[20, 20] < 60 < 150 < brightness[60, 290]  # the floor is dark, the inside of the cup is white


def test_who_made_it_is_written_beside_it():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert "Rachel Michetti" in text
