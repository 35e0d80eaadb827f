"""Streets: CamVid's eleven classes laid out as a street is, seen through a pinhole camera.

The ground is a plane and the camera stands one unit above it (think 1.5 m). A point at depth z and
lateral position p on the ground appears at `y = horizon + 1/z`, `x = centre + p/z`; a thing of height h
standing there is h/z tall. Facades and fences are planes along the street, everything else is a card
that faces the camera, painted from the far end to the near one, so that near things hide far ones.
"""

from dataclasses import dataclass

import numpy as np

from course_lib.data.painters.painting import Canvas, film, fraction, rgb, smooth_noise, vary

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

FACADES = [(0.66, 0.55, 0.44), (0.55, 0.36, 0.30), (0.74, 0.70, 0.62), (0.50, 0.50, 0.53), (0.62, 0.62, 0.55)]
PAINTS = [(0.75, 0.12, 0.12), (0.15, 0.25, 0.60), (0.80, 0.80, 0.82), (0.12, 0.12, 0.14), (0.55, 0.57, 0.60)]
CLOTHES = [(0.70, 0.15, 0.20), (0.15, 0.20, 0.40), (0.20, 0.20, 0.20), (0.85, 0.80, 0.70), (0.20, 0.45, 0.35)]
SIGNS = [(0.85, 0.10, 0.10), (0.10, 0.25, 0.75), (0.95, 0.80, 0.10), (0.92, 0.92, 0.92)]
SKIN = rgb(0.80, 0.60, 0.50)
DARK = rgb(0.08, 0.08, 0.10)
GLASS = rgb(0.30, 0.38, 0.45)


@dataclass(frozen=True)
class View:
    """Where the camera looks and how wide the street is (lateral positions, in camera heights)."""

    horizon: float
    centre: float
    road: tuple[float, float]  # left (negative) and right edge of the road
    walls: tuple[float, float]  # left (negative) and right line of the facades


def paint_street(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    density: float,
    pole_width: float,
    object_scale: float,
    noise: float,
    ambiguity: float,
    first_label: bool | None = None,
) -> None:
    """Paint one street on `canvas`; the knobs are those of `scenes.Street`.

    Args:
        first_label: Whether the parking strip is labelled as road (True) or as pavement (False) instead of as the coin
            says; the image stays the same.
    """
    left, right = rng.uniform(1.3, 2.2), rng.uniform(1.3, 2.2)
    view = View(
        horizon=rng.uniform(0.38, 0.50),
        centre=canvas.aspect * rng.uniform(0.35, 0.65),
        road=(-left, right),
        walls=(-left - rng.uniform(0.9, 1.8), right + rng.uniform(0.9, 1.8)),
    )
    sky = vary(rng, (0.62, 0.74, 0.88), 0.08) if rng.random() < 0.6 else vary(rng, (0.82, 0.83, 0.85), 0.05)
    _sky(rng, canvas, view, sky)
    _ground(rng, canvas, view, ambiguity, first_label)
    for side in (0, 1):
        _facades(rng, canvas, view, side, sky)
    for side in (0, 1):
        if rng.random() < 0.45:
            _fence(rng, canvas, view, side)
    things = _cast(rng, view, density)
    for depth, lateral, painter, label in sorted(things, key=lambda thing: -thing[0]):
        scale = object_scale if label in (CAR, PEDESTRIAN, BICYCLIST, SIGN) else 1.0
        _stand(rng, canvas, view, depth, lateral, painter, label, scale, pole_width)
    film(rng, canvas, light=rng.uniform(0.70, 1.10), tint=rng.uniform(-0.07, 0.07), noise=noise)


def _sky(rng, canvas, view, sky):
    clouds = smooth_noise(rng, canvas.height, canvas.width, 0.3)
    brighter = 0.20 * (canvas.y / view.horizon) + 0.07 * clouds
    canvas.image[:] = sky + brighter * (1 - sky)
    canvas.labels[:] = SKY
    # the far end of the street: a hedge or a row of houses just above the horizon
    skyline = view.horizon - 0.03 - 0.025 * smooth_noise(rng, 2, canvas.width, 0.06)[0]
    far = (canvas.y > skyline) & (canvas.y < view.horizon + 0.02)
    wooded = rng.random() < 0.6
    colour = vary(rng, (0.28, 0.36, 0.24) if wooded else (0.50, 0.46, 0.42), 0.05)
    canvas.fill(far, 0.75 * colour + 0.25 * sky, TREE if wooded else BUILDING)


def _ground(rng, canvas, view, ambiguity, first_label):
    below = np.maximum(canvas.y - view.horizon, 1e-3)
    depth = 1 / below
    lateral = (canvas.x - view.centre) / below
    ground = np.broadcast_to(canvas.y > view.horizon, canvas.labels.shape)
    left, right = view.road
    grain = 0.05 * smooth_noise(rng, canvas.height, canvas.width, 0.04)
    grain += 0.06 * smooth_noise(rng, canvas.height, canvas.width, 0.25)

    slab = vary(rng, (0.58, 0.56, 0.53), 0.06)
    joints = (fraction(lateral / 0.6) < 0.08) | (fraction(depth / 0.6) < 0.08)
    pavement = slab + (grain - 0.06 * joints)
    canvas.fill(ground, pavement, PAVEMENT)

    asphalt = vary(rng, (0.34, 0.34, 0.36), 0.05)
    middle = (left + right) / 2
    dashes = (np.abs(lateral - middle) < 0.05) & (fraction(depth / 2.0 + rng.random()) < 0.5)
    lines = dashes | (np.abs(lateral - left - 0.22) < 0.035) | (np.abs(lateral - right + 0.22) < 0.035)
    surface = asphalt + grain
    road = ground & (lateral > left) & (lateral < right)
    canvas.fill(road, surface, ROAD)
    canvas.fill(road & lines & (depth < 14), vary(rng, (0.80, 0.80, 0.78), 0.04), ROAD)
    kerb = ground & ((np.abs(lateral - left + 0.06) < 0.06) | (np.abs(lateral - right - 0.06) < 0.06))
    canvas.fill(kerb, vary(rng, (0.68, 0.67, 0.64), 0.04), PAVEMENT)
    if rng.random() < ambiguity:  # a parking strip: the image is the same, the label is a coin's
        strip = ground & (lateral > right) & (lateral < right + 0.75)
        coin = rng.random() < 0.5
        if first_label is not None:
            coin = first_label
        canvas.fill(strip, surface * np.float32(1.25), ROAD if coin else PAVEMENT)

    edge = rng.uniform(left, right) + 0.25 * smooth_noise(rng, canvas.height, 2, 0.2)[:, :1]
    shade = (lateral < edge) if rng.random() < 0.5 else (lateral > edge)
    canvas.image *= np.where(ground & shade, np.float32(rng.uniform(0.55, 0.85)), np.float32(1))


def _facades(rng, canvas, view, side, sky):
    """A row of houses along one side: blocks of different height and colour, with windows and gaps."""
    wall = abs(view.walls[side])
    middle = int(view.centre * canvas.height)
    columns = slice(0, middle) if side == 0 else slice(middle + 1, canvas.width)
    found = slice(0, canvas.height), columns
    near = np.maximum(np.abs(canvas.x[:, columns] - view.centre), 1e-3) / wall  # 1/z, (1, columns)
    depth = 1 / near
    blocks = 9
    block = np.searchsorted(np.cumsum(rng.uniform(1.5, 5.0, blocks - 1)), depth[0])
    tall = rng.uniform(3.5, 11.0, blocks).astype(np.float32)[block]
    built = (rng.random(blocks) > 0.22)[block] & (depth[0] < 26)
    storey = rng.uniform(1.6, 2.2, blocks).astype(np.float32)[block]
    bay = rng.uniform(0.7, 1.4, blocks).astype(np.float32)[block]
    above = (view.horizon + near - canvas.y) / near  # height above the ground in camera heights
    mask = built & (above > 0) & (above < tall)

    colours = np.stack([vary(rng, FACADES[rng.integers(len(FACADES))], 0.07) for _ in range(blocks)])
    across, up = fraction(depth / bay), fraction(above / storey)
    window = (np.abs(across - 0.5) < 0.26) & (np.abs(up - 0.54) < 0.26) & (above > 0.3)
    lit = 0.16 + 0.25 * rng.random()
    panes = rgb(lit, lit * 1.1, lit * 1.25)
    stone = 1 + 0.08 * smooth_noise(rng, *above.shape, 0.12)
    stone *= np.where(above > tall - 0.3, 0.7, 1.0).astype(np.float32)  # cornice
    haze = np.clip(depth / 45, 0, 0.6)
    shade = (1 - haze) * (0.82 if side == 0 else 1.0)
    colour = np.concatenate(colours, axis=2)[:, :, block] * shade * stone
    np.copyto(colour, panes * shade, where=window)
    colour += sky * haze
    canvas.fill_window(found, mask, colour, BUILDING, 0)


def _fence(rng, canvas, view, side):
    line = abs(view.road[side]) + 0.65 * (abs(view.walls[side]) - abs(view.road[side]))
    aside = (view.centre - canvas.x) if side == 0 else (canvas.x - view.centre)
    near = np.maximum(aside, 1e-3) / line
    depth = 1 / near
    start = rng.uniform(1.2, 4.0)
    above = (view.horizon + near - canvas.y) / near
    tall = rng.uniform(0.55, 0.95)
    mask = (aside > 0) & (depth > start) & (depth < start + rng.uniform(2.5, 8)) & (above > 0) & (above < tall)
    bars = (fraction(depth / 0.16) < 0.55) | (above > tall - 0.12) | (above < 0.08)
    colour = vary(rng, (0.32, 0.28, 0.24) if rng.random() < 0.5 else (0.60, 0.62, 0.63), 0.06)
    gaps = mask & ~bars
    np.copyto(canvas.image, 0.55 * canvas.image + 0.27 * colour, where=gaps)
    np.copyto(canvas.image, colour, where=(mask & bars))
    np.copyto(canvas.labels, np.uint8(FENCE), where=mask)
    np.copyto(canvas.instances, np.int32(canvas.new_instance(FENCE)), where=mask)


def _cast(rng, view, density):
    """Who stands in the street: (depth, lateral position, painter, class) of each thing."""
    (left, right), (wall_left, wall_right) = view.road, view.walls
    things = []

    def place(expected, painter, label, laterals, nearest, farthest):
        for _ in range(rng.poisson(expected * density)):
            depth = 1 / rng.uniform(1 / farthest, 1 / nearest)  # even over the image's rows
            things.append((depth, laterals(), painter, label))

    def kerbside():
        return right + rng.uniform(0.15, 0.4) if rng.random() < 0.5 else left - rng.uniform(0.15, 0.4)

    def pavement():
        return rng.uniform(right + 0.3, wall_right) if rng.random() < 0.5 else rng.uniform(wall_left, left - 0.3)

    def lane():
        return left * rng.uniform(0.25, 0.75) if rng.random() < 0.5 else right * rng.uniform(0.25, 0.75)

    def roadside():
        return right - rng.uniform(0.15, 0.5) if rng.random() < 0.5 else left + rng.uniform(0.15, 0.5)

    place(1.6, _tree, TREE, pavement, 2.0, 16)
    place(1.6, _pole, POLE, kerbside, 1.3, 10)
    place(1.5, _sign, SIGN, kerbside, 1.5, 9)
    place(1.2, _car_rear, CAR, lane, 2.0, 14)
    place(1.2, _car_side, CAR, roadside, 2.2, 12)
    place(2.0, _pedestrian, PEDESTRIAN, pavement, 1.8, 9)
    place(0.4, _pedestrian, PEDESTRIAN, lane, 2.2, 9)
    place(1.0, _bicyclist, BICYCLIST, roadside, 1.9, 8)
    return things


def _stand(rng, canvas, view, depth, lateral, painter, label, scale, pole_width):
    """Paint one thing as a card standing at (depth, lateral): u across and v up, in camera heights."""
    near = 1 / depth
    across, up = (reach * scale * near for reach in EXTENT[painter])
    foot, middle = view.horizon + near, view.centre + lateral * near
    if near * canvas.height < 1.5:
        return
    found = canvas.window(middle - across, foot - up, middle + across, foot + 0.1 * scale * near)
    if found is None:
        return
    rows, columns = found
    u = (canvas.x[:, columns] - middle) / (near * scale)
    v = (foot - canvas.y[rows]) / (near * scale)
    pixel = 1 / (near * scale * canvas.height)
    if label in (CAR, BICYCLIST) and scale == 1.0:
        shadow = (np.abs(v) < 0.08) & (np.abs(u) < (1.3 if painter is _car_side else 0.6))
        canvas.image[:, *found] *= np.where(shadow, np.float32(0.5), np.float32(1))
    numbers: dict[int, int] = {TREE: 0}  # trees are no instances: nobody counts them
    for part, colour, part_label in painter(rng, u, v, max(pole_width, 0.75 * pixel)):
        if part_label not in numbers:
            numbers[part_label] = canvas.new_instance(part_label)
        mask = np.broadcast_to(part, (rows.stop - rows.start, columns.stop - columns.start))
        canvas.fill_window(found, mask, colour, part_label, numbers[part_label])


# The painters: given u across and v up from the foot of the thing (camera heights), they yield
# (mask, colour, class) part by part. `thin` is the width of a pole, never below a visible pixel.


def _disc(u, v, middle_u, middle_v, radius_u, radius_v=None):
    return ((u - middle_u) / radius_u) ** 2 + ((v - middle_v) / (radius_v or radius_u)) ** 2 < 1


def _bar(u, v, left, right, low, high):
    return (u > left) & (u < right) & (v > low) & (v < high)


def _tree(rng, u, v, thin):
    trunk, radius = rng.uniform(0.9, 1.7), rng.uniform(0.8, 1.6)
    bark = vary(rng, (0.30, 0.23, 0.17), 0.05)
    yield _bar(u, v, -0.5 * thin - 0.05, 0.5 * thin + 0.05, 0, trunk + 0.3), bark, TREE
    leaves = vary(rng, (0.22, 0.36, 0.15), 0.08)
    ragged = 0.35 * smooth_noise(rng, len(v), u.shape[1], 0.08)
    distance = (u / radius) ** 2 + ((v - trunk - radius) / (1.1 * radius)) ** 2
    speckle = 1 + 0.45 * smooth_noise(rng, len(v), u.shape[1], 0.05) + 0.18 * (v - trunk - radius)
    yield distance + ragged < 0.95, leaves * np.clip(speckle, 0.35, 1.6), TREE


def _pole(rng, u, v, thin):
    tall = rng.uniform(2.6, 4.6)
    colour = vary(rng, (0.42, 0.43, 0.42), 0.10)
    yield _bar(u, v, -0.5 * thin, 0.5 * thin, 0, tall), colour, POLE
    if rng.random() < 0.5:  # a street lamp's arm
        side = 1 if rng.random() < 0.5 else -1
        yield _bar(side * u, v, -0.5 * thin, 0.8, tall - thin, tall), colour, POLE


def _sign(rng, u, v, thin):
    tall, radius = rng.uniform(1.5, 2.4), rng.uniform(0.22, 0.36)
    yield _bar(u, v, -0.5 * thin, 0.5 * thin, 0, tall), vary(rng, (0.50, 0.50, 0.50), 0.08), POLE
    kind = rng.integers(4)
    if kind == 3:  # traffic light
        yield _bar(u, v, -0.16, 0.16, tall - 0.25, tall + 0.35), DARK, SIGN
        lamp = rgb(0.95, 0.2, 0.1) if rng.random() < 0.5 else rgb(0.2, 0.9, 0.4)
        yield _disc(u, v, 0, tall + rng.choice([-0.12, 0.2]), 0.1), lamp, SIGN
        return
    colour = vary(rng, SIGNS[rng.integers(len(SIGNS))], 0.05)
    shapes = [
        lambda r: _disc(u, v, 0, tall, r),
        lambda r: _bar(u, v, -r, r, tall - r, tall + r),
        lambda r: (np.abs(u) < 0.6 * (tall + r - v)) & (v > tall - r),
    ]
    yield shapes[kind](radius), colour, SIGN
    yield shapes[kind](0.55 * radius), 1 - 0.5 * colour, SIGN


def _car_rear(rng, u, v, thin):
    paint = vary(rng, PAINTS[rng.integers(len(PAINTS))], 0.06)
    yield _bar(np.abs(u), v, 0.36, 0.56, 0, 0.3), DARK, CAR
    yield (np.abs(u) < 0.62 - 0.05 * (v > 0.55)) & (v > 0.13) & (v < 0.66), paint, CAR
    yield (np.abs(u) < 0.60 - 0.5 * (v - 0.6)) & (v >= 0.6) & (v < 1.02), paint * 0.9, CAR
    yield ((np.abs(u) < 0.50 - 0.5 * (v - 0.6)) & (v >= 0.66) & (v < 0.95), GLASS * rng.uniform(0.5, 1.3), CAR)
    yield (_bar(np.abs(u), v, 0.42, 0.58, 0.42, 0.55), rgb(0.85, 0.10, 0.08), CAR)
    yield _bar(u, v, -0.22, 0.22, 0.28, 0.38), rgb(0.85, 0.85, 0.75), CAR
    yield (np.abs(u) < 0.6) & (v > 0.13) & (v < 0.2), paint * 0.4, CAR


def _car_side(rng, u, v, thin):
    paint = vary(rng, PAINTS[rng.integers(len(PAINTS))], 0.06)
    u = u if rng.random() < 0.5 else -u
    yield (np.abs(u) < 1.35 - 0.25 * (v - 0.5) ** 2) & (v > 0.16) & (v < 0.62), paint, CAR
    cabin = (u > -1.05 + 0.5 * (v - 0.6)) & (u < 0.75 - 0.9 * (v - 0.6)) & (v >= 0.6)
    yield cabin & (v < 1.0), paint * 0.95, CAR
    glass = (u > -0.93 + 0.5 * (v - 0.6)) & (u < 0.64 - 0.9 * (v - 0.6)) & (np.abs(u + 0.12) > 0.05)
    yield glass & (v > 0.64) & (v < 0.94), GLASS * rng.uniform(0.5, 1.3), CAR
    for wheel in (-0.82, 0.82):
        yield _disc(u, v, wheel, 0.21, 0.22), DARK, CAR
        yield _disc(u, v, wheel, 0.21, 0.10), rgb(0.6, 0.6, 0.6), CAR


def _pedestrian(rng, u, v, thin):
    tall = rng.uniform(0.98, 1.22)
    u, v = u / tall, v / tall
    trousers, jacket = (vary(rng, CLOTHES[rng.integers(len(CLOTHES))], 0.08) for _ in range(2))
    stride = rng.uniform(0.03, 0.13)
    leg = (np.abs(np.abs(u) - stride * (0.48 - v) / 0.48 - 0.045) < 0.05) & (v > 0) & (v < 0.5)
    yield leg, trousers * 0.8, PEDESTRIAN
    yield _disc(u, v, 0, 0.64, 0.145, 0.22), jacket, PEDESTRIAN
    yield _disc(u, v, 0, 0.92, 0.075, 0.09), SKIN * rng.uniform(0.6, 1.1), PEDESTRIAN
    yield (_disc(u, v, 0, 0.93, 0.08, 0.09)) & (v > 0.94), DARK * rng.uniform(1, 4), PEDESTRIAN


def _bicyclist(rng, u, v, thin):
    u = u if rng.random() < 0.5 else -u
    jacket = vary(rng, CLOTHES[rng.integers(len(CLOTHES))], 0.08)
    frame = vary(rng, PAINTS[rng.integers(len(PAINTS))], 0.08)
    for wheel in (-0.36, 0.36):
        yield _disc(u, v, wheel, 0.23, 0.23) & ~_disc(u, v, wheel, 0.23, 0.15), DARK, BICYCLIST
        yield (_disc(u, v, wheel, 0.23, 0.15), rgb(0.42, 0.42, 0.43), BICYCLIST)
    yield (np.abs(v - 0.36 - 0.25 * np.abs(u)) < 0.05) & (np.abs(u) < 0.34), frame, BICYCLIST
    yield (np.abs(u + 0.05 - 0.2 * (v - 0.5)) < 0.06) & (v > 0.15) & (v < 0.7), DARK * 2, BICYCLIST
    yield _disc(u - 0.35 * (v - 0.8), v, 0, 0.82, 0.13, 0.22), jacket, BICYCLIST
    yield (np.abs(v - 0.72 + 0.15 * u) < 0.045) & (u > 0) & (u < 0.35), jacket * 0.9, BICYCLIST
    yield _disc(u, v, 0.12, 1.1, 0.085, 0.10), SKIN * rng.uniform(0.6, 1.1), BICYCLIST


# How far each thing reaches to either side and upwards, in camera heights.
EXTENT = {
    _tree: (2.4, 5.4),
    _pole: (0.9, 4.8),
    _sign: (0.6, 2.9),
    _car_rear: (0.66, 1.05),
    _car_side: (1.42, 1.05),
    _pedestrian: (0.3, 1.3),
    _bicyclist: (0.65, 1.25),
}
