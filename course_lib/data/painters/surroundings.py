"""Things that look alike and are told apart by what is around them: the failures of FCN that PSPNet names.

Three kinds of image, each of two halves. Boat and car are one silhouette on sand, and farther away lies
water or road (mismatched). Building and skyscraper are one front of windows, low or tall (confusable). A
pillow has the pattern of the bed it lies on, and a patch of a rug looks the same; only the rim of the whole
tells bed from rug (inconspicuous). H. Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.1.
"""

import numpy as np

from course_lib.data.painters.objects import BOAT as SILHOUETTE
from course_lib.data.painters.objects import PIGMENTS, silhouette
from course_lib.data.painters.painting import Canvas, film, fraction, rgb, smooth_noise, vary

CLASSES = ("background", "boat", "car", "building", "skyscraper", "bed", "pillow", "rug")
BACKGROUND, BOAT, CAR, BUILDING, SKYSCRAPER, BED, PILLOW, RUG = range(8)


def paint_surroundings(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    kinds: tuple[str, ...],
    margin: tuple[float, float],
    layout: float,
    noise: float,
) -> None:
    """Paint one image on `canvas`; the knobs are those of `scenes.Surroundings`."""
    paint = PAINTERS[kinds[rng.integers(len(kinds))]]
    coin, differ = rng.random() < 0.5, rng.random() < layout
    paint(rng, canvas, (coin, coin != differ), rng.uniform(*margin))
    film(rng, canvas, light=rng.uniform(0.8, 1.1), tint=rng.uniform(-0.05, 0.05), noise=noise)


def _mismatched(rng, canvas, on_water, margin):
    for ground, half in zip(on_water, _halves(canvas), strict=True):
        _fill(canvas, half, _water(rng, canvas) if ground else _road(rng, canvas))
    grain = rgb(0.72, 0.66, 0.52) + 0.05 * smooth_noise(rng, canvas.height, canvas.width, 0.04)
    bend = 0.02 * smooth_noise(rng, canvas.height, canvas.width, 0.1)
    for ground, middle in zip(on_water, (0.25, 0.75), strict=True):
        x = canvas.aspect * middle + rng.uniform(-0.04, 0.04)
        y, radius = rng.uniform(0.42, 0.58), rng.uniform(0.16, 0.20)
        if margin > 0:
            sand = np.hypot(canvas.x - x, canvas.y - y) < radius + margin + bend
            np.copyto(canvas.image, grain, where=sand)
        u, v = (canvas.x - x) / radius, (canvas.y - y) / radius
        colour = vary(rng, PIGMENTS[rng.integers(len(PIGMENTS))], 0.08)
        _thing(canvas, silhouette(SILHOUETTE, u, v), colour - 0.1 * v, BOAT if ground else CAR)


def _confusable(rng, canvas, is_tall, _):
    canvas.image[:] = vary(rng, (0.62, 0.74, 0.88), 0.08) + 0.15 * canvas.y
    foot = rng.uniform(0.88, 0.98)
    stone = vary(rng, (0.45, 0.44, 0.42), 0.05)
    grain = 0.05 * smooth_noise(rng, canvas.height, canvas.width, 0.04)
    np.copyto(canvas.image, stone + grain, where=np.broadcast_to(canvas.y > foot, canvas.labels.shape))
    for tall, middle in zip(is_tall, (0.25, 0.75), strict=True):
        x, wide = canvas.aspect * middle + rng.uniform(-0.08, 0.08), rng.uniform(0.24, 0.30)
        top = foot - (rng.uniform(0.65, 0.80) if tall else rng.uniform(0.22, 0.36))
        front = (np.abs(canvas.x - x) < wide) & (canvas.y > top) & (canvas.y < foot)
        colour = vary(rng, PIGMENTS[rng.integers(len(PIGMENTS))], 0.08) * 0.7 + 0.2
        storey, bay = rng.uniform(0.09, 0.11), rng.uniform(0.10, 0.13)
        across, up = fraction((canvas.x - x) / bay), fraction((foot - canvas.y) / storey)
        window = (np.abs(across - 0.5) < 0.27) & (np.abs(up - 0.5) < 0.27)
        colour = np.where(window, rgb(0.22, 0.25, 0.30), colour + 0 * canvas.y)
        _thing(canvas, front, colour, SKYSCRAPER if tall else BUILDING)


def _inconspicuous(rng, canvas, is_bed, _):
    planks = 0.08 * (fraction(canvas.y / 0.16) < 0.1) + 0.04 * smooth_noise(rng, canvas.height, canvas.width, 0.1)
    canvas.image[:] = vary(rng, (0.55, 0.42, 0.30), 0.06) - planks
    for bed, middle in zip(is_bed, (0.25, 0.75), strict=True):
        x, y = canvas.aspect * middle + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03)
        wide, high = rng.uniform(0.38, 0.44, 2)
        light, dark = (vary(rng, PIGMENTS[rng.integers(len(PIGMENTS))], 0.08) * 0.5 + 0.25 for _ in range(2))
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.10, 0.14)
        stripe = fraction((canvas.x * np.cos(angle) + canvas.y * np.sin(angle)) / period) < 0.5
        pattern = np.where(stripe, light, dark)
        whole = _box(canvas, x, y, wide, high)
        _thing(canvas, whole, pattern, BED if bed else RUG)
        rim = whole & ~_box(canvas, x, y, wide - 0.05, high - 0.05)
        np.copyto(canvas.image, rgb(0.20, 0.13, 0.08) if bed else rgb(0.90, 0.88, 0.80), where=rim)
        place = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)
        patch = _box(canvas, *place, 0.13, 0.10)
        _thing(canvas, patch, 1.12 * pattern, PILLOW if bed else RUG)
        seam = patch & ~_box(canvas, *place, 0.13 - 0.016, 0.10 - 0.016)
        np.copyto(canvas.image, 0.75 * pattern, where=seam)


PAINTERS = {"mismatched": _mismatched, "confusable": _confusable, "inconspicuous": _inconspicuous}


def _halves(canvas):
    left = np.broadcast_to(canvas.x < canvas.aspect / 2, canvas.labels.shape)
    return left, ~left


def _box(canvas, x, y, wide, high):
    return (np.abs(canvas.x - x) < wide) & (np.abs(canvas.y - y) < high)


def _fill(canvas, mask, colour):
    np.copyto(canvas.image, colour, where=mask)


def _thing(canvas, mask, colour, label):
    canvas.fill(mask, colour, label)
    np.copyto(canvas.instances, np.int32(canvas.new_instance(label)), where=mask)


def _water(rng, canvas):
    waves = np.sin(70 * canvas.y + 6 * smooth_noise(rng, canvas.height, canvas.width, 0.15))
    return vary(rng, (0.20, 0.42, 0.58), 0.06) + 0.06 * waves


def _road(rng, canvas):
    dashes = (fraction(canvas.y / 0.22) < 0.12) & (fraction(canvas.x / 0.35) < 0.6)
    grain = 0.06 * smooth_noise(rng, canvas.height, canvas.width, 0.02)
    return vary(rng, (0.36, 0.36, 0.38), 0.05) + (grain + 0.35 * dashes)
