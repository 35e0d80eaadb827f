"""Objects over clutter, in the manner of PASCAL VOC: a background class, instances, boxes, a void border.

Shapes are silhouettes given in polar form around their middle, so each is one line; a class has its own
silhouette but shares colours and textures with the others, so that shape has to be learnt. Boat and car
are one silhouette on two grounds: what they are is decided by what is around them.
"""

import numpy as np

from course_lib.data.painters.painting import Canvas, film, fraction, rgb, smooth_noise, vary

CLASSES = ("background", "disc", "ring", "square", "triangle", "star", "flower", "boat", "car")
BACKGROUND, DISC, RING, SQUARE, TRIANGLE, STAR, FLOWER, BOAT, CAR = range(9)
PLAIN = (DISC, RING, SQUARE, TRIANGLE, STAR, FLOWER)

PIGMENTS = [
    (0.80, 0.25, 0.20),
    (0.20, 0.45, 0.75),
    (0.90, 0.75, 0.25),
    (0.35, 0.60, 0.35),
    (0.60, 0.35, 0.60),
    (0.85, 0.85, 0.80),
    (0.30, 0.28, 0.30),
    (0.85, 0.50, 0.25),
]


def paint_objects(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    count: tuple[int, int],
    scale_range: tuple[float, float],
    context: float,
    context_margin: float,
    ambiguity: float,
    noise: float,
    first_label: bool | None = None,
) -> None:
    """Paint one image of objects on `canvas`; the knobs are those of `scenes.Objects`.

    Args:
        first_label: Whether ambiguous objects are labelled as discs (True) or as rings (False) instead of as the coin
            says; the image stays the same.
    """
    on_water = rng.random() < 0.5
    ground_top = _clutter(rng, canvas, on_water if context > 0 else None)
    coin = rng.random() < 0.5
    if first_label is not None:
        coin = first_label
    for _ in range(rng.integers(count[0], count[1] + 1)):
        radius = 0.5 * float(np.exp(rng.uniform(*np.log(scale_range))))
        middle = rng.uniform(0.1, canvas.aspect - 0.1), rng.uniform(0.1, 0.9)
        kind = PLAIN[rng.integers(len(PLAIN))]
        if rng.random() < context:
            kind = BOAT if on_water else CAR
            middle = middle[0], rng.uniform(ground_top + 0.6 * radius, 0.95)
            _halo(rng, canvas, middle, radius, context_margin)
        elif rng.random() < ambiguity:  # a grey blob that is a disc or a ring: one coin for the image
            _paint(rng, canvas, DISC if coin else RING, middle, radius, rgb(0.55, 0.55, 0.55), True)
            continue
        _paint(rng, canvas, kind, middle, radius, vary(rng, PIGMENTS[rng.integers(len(PIGMENTS))], 0.08))
    film(rng, canvas, light=rng.uniform(0.75, 1.1), tint=rng.uniform(-0.06, 0.06), noise=noise)


def _clutter(rng, canvas, on_water):
    """The background: blurred colour, stripes and dashes; below a line, water or road if asked for."""
    first, second = (vary(rng, PIGMENTS[rng.integers(len(PIGMENTS))], 0.1) * 0.5 + 0.25 for _ in range(2))
    mix = 0.5 + 0.5 * smooth_noise(rng, canvas.height, canvas.width, 0.3)
    canvas.image[:] = first * mix + second * (1 - mix)
    canvas.image += 0.10 * smooth_noise(rng, canvas.height, canvas.width, 0.05)
    for _ in range(rng.integers(2, 6)):  # dashes that belong to no class
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.2, canvas.aspect)
        across = canvas.x * np.cos(angle) + canvas.y * np.sin(angle) - offset
        along = fraction((canvas.y * np.cos(angle) - canvas.x * np.sin(angle)) / rng.uniform(0.2, 0.8))
        dash = (np.abs(across) < rng.uniform(0.004, 0.02)) & (along < 0.6)
        np.copyto(canvas.image, vary(rng, (0.5, 0.5, 0.5), 0.3), where=dash)
    if on_water is None:
        return 0.1
    top = rng.uniform(0.15, 0.40)
    below = np.broadcast_to(canvas.y > top, canvas.labels.shape)
    if on_water:
        waves = np.sin(70 * canvas.y + 6 * smooth_noise(rng, canvas.height, canvas.width, 0.15))
        ground = vary(rng, (0.20, 0.42, 0.58), 0.06) + 0.06 * waves
    else:
        grain = 0.06 * smooth_noise(rng, canvas.height, canvas.width, 0.02)
        dashes = (fraction((canvas.y - top) / 0.22) < 0.08) & (fraction(canvas.x / 0.35) < 0.6)
        ground = vary(rng, (0.36, 0.36, 0.38), 0.05) + (grain + 0.35 * dashes)
    np.copyto(canvas.image, ground, where=below)
    return top


def _halo(rng, canvas, middle, radius, margin):
    """A patch of neutral sand around an object: the nearest water or road is `margin` away from it."""
    if margin <= 0:
        return
    distance = np.hypot(canvas.x - middle[0], canvas.y - middle[1])
    patch = distance < radius + margin + 0.02 * smooth_noise(rng, canvas.height, canvas.width, 0.1)
    grain = 0.05 * smooth_noise(rng, canvas.height, canvas.width, 0.04)
    np.copyto(canvas.image, rgb(0.72, 0.66, 0.52) + grain, where=patch)


def silhouette(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return where the shape of class `kind` is, for u across and v down in units of its radius ((H, W) bool)."""
    if kind == SQUARE:
        return np.maximum(np.abs(u), np.abs(v)) < 0.80
    if kind == TRIANGLE:
        return (v < 0.6) & (np.abs(u) < 0.58 * (v + 1.0))
    if kind in (BOAT, CAR):
        hull = (v > 0.0) & (v < 0.45) & (np.abs(u) < 0.95 - 0.4 * v)
        return hull | ((v <= 0.0) & (v > -0.42) & (np.abs(u + 0.1) < 0.5 + 0.35 * v))
    distance = np.hypot(u, v)
    if kind == RING:
        return (distance < 0.95) & (distance > 0.50)
    angle = np.arctan2(v, u)
    if kind == STAR:
        return distance < 0.45 + 0.5 * (2 * np.abs(fraction(5 * angle / (2 * np.pi) + 0.25) - 0.5)) ** 1.3
    if kind == FLOWER:
        return distance < 0.70 + 0.25 * np.cos(6 * angle)
    return distance < 0.9


def _paint(rng, canvas, kind, middle, radius, colour, ambiguous=False):
    found = canvas.window(middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    if found is None:
        return
    rows, columns = found
    u, v = (canvas.x[:, columns] - middle[0]) / radius, (canvas.y[rows] - middle[1]) / radius
    u, v = u + 0 * v, v + 0 * u
    if kind not in (BOAT, CAR) and not ambiguous:  # things that stand on a ground stay upright
        angle = rng.uniform(0, 2 * np.pi)
        u, v = np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v
    texture = 1 + 0.2 * smooth_noise(rng, *u.shape, 0.3)
    style = rng.integers(4)
    if style == 1 and not ambiguous:
        texture = texture * np.where(fraction(3 * u) < 0.5, 1.0, 0.62)
    elif style == 2 and not ambiguous:
        texture = texture * np.where(np.hypot(fraction(3 * u) - 0.5, fraction(3 * v) - 0.5) < 0.28, 0.55, 1.0)
    number = canvas.new_instance(kind)
    painted = silhouette(DISC if ambiguous else kind, u, v)
    # cut to what is painted: the outline of a ring must not tell it from a disc
    labelled = silhouette(kind, u, v) & painted if ambiguous else painted
    shaded = colour * np.clip(texture - 0.15 * v, 0, 1.4).astype(np.float32)
    canvas.fill_window(found, painted, shaded, BACKGROUND, 0)
    canvas.fill_window(found, labelled, shaded, kind, number)
