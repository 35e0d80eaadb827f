"""Augmentation moves image, labels and boxes together; batches are what a model takes."""

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from course_lib.data import transforms
from course_lib.data.sample import IGNORE, make_sample
from course_lib.data.transforms import (
    MEAN,
    MEAN_COLOUR,
    STD,
    bend,
    denormalise,
    displacements,
    normalise,
    pad_to,
    to_batch,
    train_transform,
)


def coded_sample(height=40, width=56):
    """A sample whose labels tell each pixel's row and whose image tells row and column; two boxes."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, rows + columns]).to(torch.uint8)
    boxes = torch.tensor([[4.0, 8, 20, 24], [50, 2, 54, 6]])
    return make_sample(image, rows.clone(), "coded", boxes, torch.tensor([3, 5]))


def assert_sound(sample):
    assert isinstance(sample.image, tv_tensors.Image)
    assert isinstance(sample.labels, tv_tensors.Mask)
    assert isinstance(sample.boxes, tv_tensors.BoundingBoxes)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.dtype == torch.int64
    assert sample.image.shape[1:] == sample.labels.shape == sample.boxes.canvas_size
    assert len(sample.boxes) == len(sample.box_labels)
    assert sample.name == "coded"
    height, width = sample.labels.shape
    assert (sample.boxes >= 0).all()
    assert (sample.boxes[:, 2] <= width).all()
    assert (sample.boxes[:, 3] <= height).all()
    assert (sample.boxes[:, 2:] - sample.boxes[:, :2] >= 1).all()


def test_without_arguments_only_the_flip_remains():
    sample = coded_sample()
    plain, mirrored = 0, 0
    transform = train_transform()
    for seed in range(20):
        torch.manual_seed(seed)
        changed = transform(sample)
        assert_sound(changed)
        assert (changed.labels == sample.labels).all()  # rows do not move
        if (changed.image == sample.image).all():
            plain += 1
            assert (changed.boxes == sample.boxes).all()
        else:
            mirrored += 1
            assert (changed.image == sample.image.flip(-1)).all()
            assert changed.boxes.tolist() == [[36, 8, 52, 24], [2, 2, 6, 6]]
    assert plain
    assert mirrored


def test_a_crop_takes_the_same_window_from_all_parts():
    sample = coded_sample()
    transform = train_transform(crop=(16, 24), flip=False)
    lost = False
    for seed in range(30):
        torch.manual_seed(seed)
        changed = transform(sample)
        assert_sound(changed)
        assert changed.labels.shape == (16, 24)
        top, left = int(changed.image[0, 0, 0]), int(changed.image[1, 0, 0])
        assert (changed.labels == sample.labels[top : top + 16, left : left + 24]).all()
        assert (changed.image == sample.image[:, top : top + 16, left : left + 24]).all()
        expected = {}
        for box, label in zip(sample.boxes.tolist(), [3, 5], strict=True):
            x1, x2 = (min(max(x - left, 0), 24) for x in box[0::2])
            y1, y2 = (min(max(y - top, 0), 16) for y in box[1::2])
            if x2 > x1 and y2 > y1:
                expected[label] = [x1, y1, x2, y2]
        found = dict(zip(changed.box_labels.tolist(), changed.boxes.tolist(), strict=True))
        assert found == expected
        lost |= len(expected) < 2
    assert lost  # the test has seen boxes disappear


def test_every_position_of_a_crop_occurs():
    transform = train_transform(crop=(38, 55), flip=False)
    torch.manual_seed(0)
    corners = {tuple(transform(coded_sample()).image[:2, 0, 0].tolist()) for _ in range(100)}
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_padding_is_void_and_mean_colour():
    changed = train_transform(crop=(50, 60), flip=False)(coded_sample())
    assert_sound(changed)
    assert changed.labels.shape == (50, 60)
    assert (changed.labels[:40, :56] == coded_sample().labels).all()
    assert (changed.labels[40:] == 255).all()
    assert (changed.labels[:, 56:] == 255).all()
    assert changed.image[:, 45, 58].tolist() == MEAN_COLOUR == [124, 116, 104]
    assert normalise(changed.image)[:, 45, 58].abs().max() < 0.01
    assert (train_transform(crop=(50, 60), fill_labels=0)(coded_sample()).labels[40:] == 0).all()


def test_scaling_never_invents_labels():
    sample = coded_sample()
    labels = sample.labels * 6  # 0, 6, ..., 234: an average of two neighbours is no label
    labels[:, 30] = 255
    sample = sample._replace(labels=tv_tensors.Mask(labels))
    transform = train_transform(scale=(0.5, 2.0), flip=False)
    shapes = set()
    for seed in range(20):
        torch.manual_seed(seed)
        changed = transform(sample)
        assert_sound(changed)
        shapes.add(tuple(changed.labels.shape))
        assert set(changed.labels.unique().tolist()) <= set(labels.unique().tolist())
        height, width = changed.labels.shape
        assert abs(height / 40 - width / 56) < 0.03
        torch.testing.assert_close(
            changed.boxes[0].as_subclass(Tensor),
            torch.tensor([4 * width / 56, 8 * height / 40, 20 * width / 56, 24 * height / 40]),
        )
    assert len(shapes) > 10
    assert min(height for height, _ in shapes) >= 20
    assert max(height for height, _ in shapes) <= 80


def test_jitter_changes_colours_only():
    sample = coded_sample()
    torch.manual_seed(0)
    changed = train_transform(flip=False, jitter=0.5)(sample)
    assert_sound(changed)
    assert (changed.image != sample.image).any()
    assert (changed.labels == sample.labels).all()
    assert (changed.boxes == sample.boxes).all()


def test_displacements_are_a_smooth_random_field():
    """At the nine points of the grid a Gaussian of the given strength; smooth between; mean zero."""
    fields = torch.stack([displacements(41, 61, sigma=10.0) for _ in range(400)])
    assert fields.shape == (400, 41, 61, 2)
    at_the_grid = fields[:, ::20][:, :, ::30]  # (400, 3, 3, 2)
    assert at_the_grid.std() == pytest.approx(10, rel=0.05)
    assert abs(at_the_grid.mean()) < 0.5
    points = at_the_grid.flatten(1)
    correlations = torch.corrcoef(points.T) - torch.eye(points.shape[1])
    assert correlations.abs().max() < 0.25  # the points know nothing of one another
    steps = (fields[:, 1:] - fields[:, :-1]).abs()
    assert steps.max() < 5
    assert torch.equal(displacements(9, 9, 0.0), torch.zeros(9, 9, 2))


def test_bending_by_nothing_changes_nothing():
    sample = coded_sample()
    straight = bend(sample, 0.0)
    assert_sound(straight)
    assert (straight.image == sample.image).all()
    assert (straight.labels == sample.labels).all()
    assert torch.allclose(straight.boxes, sample.boxes)


def test_bending_moves_image_and_labels_together():
    """The image codes row and column, the labels the row: after bending they still tell the same row."""
    sample = coded_sample(60, 80)
    torch.manual_seed(3)
    bent = bend(sample, 4.0)
    assert bent.image.shape == sample.image.shape
    assert set(bent.labels.unique().tolist()) <= set(range(60)) | {IGNORE}
    inside = bent.labels != IGNORE
    assert 0.6 < inside.float().mean() < 1
    apart = (bent.image[0].long() - bent.labels).abs()[inside]
    assert (apart <= 1).float().mean() > 0.97  # the rim of the image blends with the mean colour
    assert (bent.labels != sample.labels).float().mean() > 0.5
    outside = bent.image.permute(1, 2, 0)[~inside]
    close = (outside.long() - torch.tensor(MEAN_COLOUR)).abs().amax(1) <= 3
    assert close.float().mean() > 0.7


def test_displacements_are_in_pixels_right_and_down(monkeypatch):
    """Every pixel fetched from 3 to the right and 2 below: the picture moves left and up by as much."""
    shift = torch.tensor([3.0, 2.0]).expand(40, 56, 2)
    monkeypatch.setattr(transforms, "displacements", lambda height, width, sigma: shift)
    sample = coded_sample()
    moved = bend(sample, 1.0)
    assert (moved.labels[:-2, :-3] == sample.labels[2:, 3:]).all()
    assert (moved.image[:, :-2, :-3] == sample.image[:, 2:, 3:]).all()
    assert (moved.labels[-2:] == IGNORE).all()
    assert (moved.labels[:, -3:] == IGNORE).all()
    assert torch.allclose(moved.boxes[0], torch.tensor([1.0, 6, 17, 22]), atol=1.5)


def test_elastic_training_pictures_follow_the_seed():
    sample, transform = coded_sample(), train_transform(elastic=5.0, crop=(32, 32))
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(transform(sample))
        assert_sound(made[-1])
    assert (made[0].image == made[1].image).all()
    assert (made[0].labels == made[1].labels).all()
    assert (made[0].image != made[2].image).any()


def test_all_together_and_repeatable():
    transform = train_transform(crop=(32, 32), scale=(0.5, 2.0), jitter=0.3)
    torch.manual_seed(7)
    first = [transform(coded_sample()) for _ in range(8)]
    torch.manual_seed(7)
    second = [transform(coded_sample()) for _ in range(8)]
    for one, other in zip(first, second, strict=True):
        assert_sound(one)
        assert all((a == b).all() for a, b in zip(one[:4], other[:4], strict=True))


def test_a_sample_without_boxes_passes():
    sample = make_sample(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8).long(), "coded")
    assert_sound(train_transform(crop=(16, 4), scale=(0.5, 2.0), jitter=0.1)(sample))


def test_the_sample_itself_is_left_alone():
    sample = coded_sample()
    train_transform(crop=(16, 16), scale=(0.5, 2.0), jitter=0.5)(sample)
    pad_to((64, 64))(sample)
    reference = coded_sample()
    assert all((a == b).all() for a, b in zip(sample[:4], reference[:4], strict=True))


def test_normalise_and_back():
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    normalised = normalise(image)
    assert normalised.dtype == torch.float32
    for channel in range(3):
        expected = (image[:, channel] / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(normalised[:, channel], expected)
    assert (denormalise(normalised) == image).all()


def test_to_batch():
    samples = [coded_sample() for _ in range(3)]
    images, labels = to_batch(samples)
    assert type(images) is type(labels) is Tensor
    assert images.shape == (3, 3, 40, 56)
    assert images.dtype == torch.float32
    assert labels.shape == (3, 40, 56)
    assert labels.dtype == torch.int64
    assert (denormalise(images[1]) == samples[1].image).all()


def test_sizes_that_differ_make_no_batch_until_padded():
    samples = [coded_sample(40, 56), coded_sample(48, 56)]
    with pytest.raises(ValueError, match=r"\(40x56, 48x56\) make no batch: .*pad_to"):
        to_batch(samples)
    images, labels = to_batch([pad_to((48, 64))(sample) for sample in samples])
    assert images.shape == (2, 3, 48, 64)
    assert (labels[0, 40:] == 255).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop": (0, 4)},
        {"crop": (4,)},
        {"scale": (2.0, 0.5)},
        {"scale": (0.0, 1.0)},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"elastic": -1.0},
    ],
)
def test_impossible_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"^{name} must be"):
        train_transform(**arguments)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.linspace(0.1, 0.9, 48).view(3, 4, 4), r"torch\.float32 from 0\.1 to 0\.9: leave out what has scaled"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"torch\.int64 from 0 to 0"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"an image is \(3, H, W\).*\(1, 4, 4\)"),
        (torch.zeros(3, 4, 3, dtype=torch.uint8).movedim(0, 1), r"\(4, 3, 3\)"),
        (torch.zeros(3, 4, dtype=torch.uint8), r"\(3, 4\)"),
    ],
)
def test_only_bytes_of_three_channels_are_normalised(image, words):
    with pytest.raises(ValueError, match=words):
        normalise(image)
