"""Corruptions: every kind and severity keeps the form of the picture and does what it says."""

import pytest
import torch

from course_lib.data.corruptions import CORRUPTIONS, SEVERITIES, Corrupted, corrupt
from course_lib.data.scenes import Street

every_kind = pytest.mark.parametrize("kind", CORRUPTIONS)


@pytest.fixture(scope="module")
def street():
    return Street(3, (96, 128))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).square().mean().sqrt())


def test_there_are_enough():
    assert len(CORRUPTIONS) >= 8
    assert SEVERITIES == (1, 2, 3, 4, 5)


@every_kind
def test_severity_grows_and_the_form_stays(street, kind):
    image = street[0].image
    before = image.clone()
    found = [corrupt(image, kind, severity) for severity in SEVERITIES]
    assert all(picture.dtype == torch.uint8 and picture.shape == image.shape for picture in found)
    distances = [distance(picture, image) for picture in found]
    assert distances == sorted(distances)
    assert distances[0] > 0.5
    assert distances[-1] > 1.3 * distances[0]
    assert torch.equal(image, before)


@every_kind
@pytest.mark.parametrize("size", [(33, 47), (120, 160)])
def test_any_size_and_the_same_again(kind, size):
    image = Street(1, size)[0].image
    assert torch.equal(corrupt(image, kind, 3, seed=5), corrupt(image, kind, 3, seed=5))


@pytest.mark.parametrize("kind", ["gaussian_noise", "salt_and_pepper", "motion_blur", "fog"])
def test_random_kinds_follow_their_seed(street, kind):
    image = street[0].image
    assert not torch.equal(corrupt(image, kind, 3, seed=1), corrupt(image, kind, 3, seed=2))


def test_strengths_are_what_they_say(street):
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noisy = corrupt(grey, "gaussian_noise", 2).float() / 255
    assert noisy.std().item() == pytest.approx(0.06, rel=0.05)
    peppered = corrupt(grey, "salt_and_pepper", 4)
    assert (peppered != 128).all(0).float().mean().item() == pytest.approx(0.10, rel=0.1)
    assert set(peppered.unique().tolist()) == {0, 128, 255}
    assert (corrupt(grey, "brighter", 1) == 128 + round(0.1 * 255)).float().mean() > 0.99
    colourless = corrupt(street[0].image, "less_colour", 5).float()
    assert (colourless.amax(0) - colourless.amin(0)).max() <= 1
    blocks = corrupt(street[0].image, "pixelated", 1)
    assert torch.equal(blocks[:, ::2, ::2], blocks[:, 1::2, 1::2])


def test_motion_blurs_along_one_line_only():
    image = torch.zeros(3, 41, 41, dtype=torch.uint8)
    image[:, 20, 20] = 255
    lit = (corrupt(image, "motion_blur", 4, seed=3)[0] > 2).nonzero().double() - 20
    spread = torch.linalg.eigvalsh(lit.T.cov())
    assert spread[1] > 15 * spread[0]


def test_a_corrupted_set_keeps_everything_but_the_pictures(street):
    worse = Corrupted(street, "gaussian_noise", 3)
    assert len(worse) == len(street)
    assert worse.classes == street.classes
    for index in range(3):
        found, clean = worse[index], street[index]
        assert torch.equal(found.labels, clean.labels)
        assert found.name == clean.name
        assert type(found.image) is type(clean.image)
        assert torch.equal(found.image, worse[index].image)
        assert 3 < distance(found.image, clean.image) < 40
    noise = [worse[index].image.int() - street[index].image.int() for index in (0, 1)]
    assert not torch.equal(*noise)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("gausian_noise", 1), "'gausian_noise' is none of gaussian_noise, "),
        (("fog", 0), "1 to 5, not 0"),
        (("fog", 6), "1 to 5, not 6"),
    ],
)
def test_what_there_is_not(street, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        corrupt(street[0].image, *arguments)
    with pytest.raises(ValueError, match=reason):
        Corrupted(street, *arguments)


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)])
def test_what_is_no_image(image):
    with pytest.raises(ValueError, match=r"\(3, H, W\) uint8, not"):
        corrupt(image, "fog", 1)
