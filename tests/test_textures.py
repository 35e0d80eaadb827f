"""Patterned blobs: the same for the same seed, exactly labelled, in every pattern, told apart by the pattern alone."""

import pytest
import torch
from torch import Tensor

from course_lib.data.sample import SegmentationDataset
from course_lib.data.textures import CLASSES, Textures


def test_samples_keep_the_contract():
    scenes = Textures(30, (40, 56), seed=2)
    assert isinstance(scenes, SegmentationDataset)
    sample, again = scenes[3], Textures(4, (40, 56), seed=2)[3]
    assert torch.equal(sample.image, again.image)
    assert torch.equal(sample.labels, again.labels)
    assert sample.image.shape == (3, 40, 56)
    assert not torch.equal(sample.image, Textures(4, (40, 56), seed=3)[3].image)
    labels = torch.stack([scenes[index].labels.as_subclass(Tensor) for index in range(30)])
    assert labels.unique().tolist() == [*range(len(CLASSES))]
    for index in range(30):
        assert set(scenes[index].box_labels.tolist()) == set(scenes[index].labels.unique().tolist()) - {0}


def test_a_period_of_the_pattern():
    """Rows change along y and not along x, columns the other way round."""
    scenes = Textures(200, (64, 64), seed=1, noise=0.0)
    for pattern, same, other in (("rows", 1, 0), ("columns", 0, 1)):
        found = [scenes[index] for index in range(200) if scenes[index].box_labels.tolist() == [CLASSES.index(pattern)]]
        assert len(found) > 5
        for sample in found:
            inside = sample.labels.as_subclass(Tensor) > 0
            changes = []
            for dim in (same, other):
                step = sample.image.as_subclass(Tensor).float().sum(0).diff(dim=dim).abs()
                both = inside & inside.roll(-1, dims=dim)
                kept = both[:, :-1] if dim else both[:-1]
                changes.append(float(step[kept].mean()))
            assert changes[0] < 0.1 * changes[1]


@pytest.mark.parametrize("knobs", [{"period": 0.01}, {"noise": -1}, {"length": 0}, {"size": (8, 64)}])
def test_knobs_outside_their_range_are_refused(knobs):
    with pytest.raises(
        ValueError, match=next(iter(knobs)) if "length" not in knobs and "size" not in knobs else "scenes"
    ):
        Textures(**knobs)
