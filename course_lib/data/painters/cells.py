"""Cells under an electron microscope, in the manner of ISBI 2012 EM: packed tightly, dark membranes between.

The plane is divided among seeds (a power diagram, so that cells differ in size) in coordinates that smooth
noise has bent, so that borders curve. The membrane is what lies within half its width of a border. Dark
organelles inside the cells, and membranes that fade where they are cut at a slant, are what makes it hard.
"""

import numpy as np
from scipy import ndimage

from course_lib.data.painters.painting import Canvas, smooth_noise

MEMBRANE, CELL = range(2)
CLASSES = ("membrane", "cell")

SPECK = 6  # pixels; smaller pieces of a cell are membrane


def paint_cells(
    rng: np.random.Generator,
    canvas: Canvas,
    *,
    cell_size: float,
    membrane: float,
    organelles: float,
    fading: float,
    noise: float,
) -> None:
    """Paint one section of tissue on `canvas`; the knobs are those of `scenes.Cells`."""
    number, depth = _divide(rng, canvas, cell_size)
    thickness = membrane * (1 + 0.35 * smooth_noise(rng, canvas.height, canvas.width, 0.3))
    # cells stay apart by a pixel however thin the membrane is: neighbours must not touch
    apart = np.zeros(number.shape, dtype=bool)
    apart[:-1] |= number[:-1] != number[1:]
    apart[:, :-1] |= number[:, :-1] != number[:, 1:]
    pieces, count = ndimage.label((depth > thickness / 2) & ~apart)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= SPECK)
    names = np.zeros(count + 1, dtype=np.int32)
    names[kept] = [canvas.new_instance(CELL) for _ in kept]
    canvas.instances[:] = names[pieces]
    canvas.labels[:] = canvas.instances > 0

    grey = rng.uniform(0.56, 0.80, number.max() + 1).astype(np.float32)[number]
    grey += 0.05 * smooth_noise(rng, canvas.height, canvas.width, 0.06)
    grey += 0.06 * smooth_noise(rng, canvas.height, canvas.width, 0.018)
    for _ in range(rng.poisson(organelles * 2.2 * canvas.aspect)):
        _mitochondrion(rng, canvas, grey, depth, membrane)
    for _ in range(rng.poisson(organelles * 14 * canvas.aspect)):
        _vesicle(rng, canvas, grey)
    faded = np.clip(smooth_noise(rng, canvas.height, canvas.width, 0.16) * 2 - 0.4, 0, 1)
    profile = np.exp(-((depth / (0.55 * thickness + 0.004)) ** 2)) * (1 - 0.65 * fading * faded)
    grey += (rng.uniform(0.16, 0.26) - grey) * profile
    _microscope(rng, canvas, grey, noise)


def _divide(rng, canvas, cell_size):
    """(H, W) the number of each pixel's cell, and its distance from the nearest border, in heights."""
    stretch, angle = rng.uniform(1.0, 1.5), rng.uniform(0, np.pi)
    step = cell_size
    rows = np.arange(-0.5 * step, 1 + step, step)
    columns = np.arange(-0.5 * step, canvas.aspect + step, step)
    seeds = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    seeds = (seeds + rng.uniform(-0.45, 0.45, seeds.shape) * step).astype(np.float32)
    kept = rng.random(len(seeds)) < 0.7  # where one is missing, its neighbours grow
    kept[:2] = True
    seeds = seeds[kept]
    weights = (rng.uniform(0, 0.5, len(seeds)) * step**2).astype(np.float32)

    y, x = (
        place
        + 0.32 * cell_size * smooth_noise(rng, canvas.height, canvas.width, 0.14)
        + 0.06 * cell_size * smooth_noise(rng, canvas.height, canvas.width, 0.035)
        for place in (canvas.y, canvas.x)
    )
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=np.float32)
    metric = turned.T @ np.diag([stretch, 1 / stretch]).astype(np.float32) @ turned
    points = np.stack([y.ravel(), x.ravel()], axis=1).astype(np.float32) @ metric
    seeds = seeds @ metric
    squared = points @ (-2 * seeds.T) + ((seeds**2).sum(1) - weights)  # but for |point|^2
    every = np.arange(len(points))
    first = squared.argmin(axis=1)
    nearest = squared[every, first]
    squared[every, first] = np.inf
    second = squared.argmin(axis=1)
    apart = np.linalg.norm(seeds[first] - seeds[second], axis=1)
    depth = (squared[every, second] - nearest) / (2 * apart)
    shape = canvas.labels.shape
    return first.reshape(shape), depth.reshape(shape).astype(np.float32)


def _mitochondrion(rng, canvas, grey, depth, membrane):
    """A dark ellipse with a darker rim and stripes across, inside one cell."""
    middle = rng.uniform(0, 1), rng.uniform(0, canvas.aspect)
    long, short, angle = rng.uniform(0.045, 0.085), rng.uniform(0.028, 0.045), rng.uniform(0, np.pi)
    window = canvas.window(middle[1] - long, middle[0] - long, middle[1] + long, middle[0] + long)
    if window is None:
        return
    y, x = canvas.y[window[0]] - middle[0], canvas.x[:, window[1]] - middle[1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    distance = np.hypot(along / long, across / short)
    inside = (distance < 1) & (depth[window] > 0.8 * membrane)
    stripes = 0.05 * np.sin(2 * np.pi * along / 0.022)
    shade = np.where(distance > 0.80, 0.30, 0.44 + stripes)
    np.copyto(grey[window], shade.astype(np.float32), where=inside)


def _vesicle(rng, canvas, grey):
    """A dark dot or a small ring."""
    middle, radius = ((rng.uniform(0, 1), rng.uniform(0, canvas.aspect)), rng.uniform(0.008, 0.016))
    window = canvas.window(middle[1] - radius, middle[0] - radius, middle[1] + radius, middle[0] + radius)
    if window is None:
        return
    distance = np.hypot(canvas.y[window[0]] - middle[0], canvas.x[:, window[1]] - middle[1])
    hollow = 0.5 * radius if rng.random() < 0.5 else 0.0
    grey[window][(distance < radius) & (distance >= hollow)] -= 0.16


def _microscope(rng, canvas, grey, noise):
    """What the microscope adds: uneven contrast and brightness, a slight blur, noise."""
    contrast = 1 + 0.22 * smooth_noise(rng, canvas.height, canvas.width, 0.5)
    grey = 0.55 + (grey - 0.55) * contrast * rng.uniform(0.85, 1.2)
    grey += 0.07 * smooth_noise(rng, canvas.height, canvas.width, 0.6) + rng.uniform(-0.05, 0.05)
    grey = ndimage.uniform_filter(grey, 2) if canvas.height < 256 else ndimage.gaussian_filter(grey, 0.9)
    grey = grey + noise * rng.standard_normal(grey.shape, dtype=np.float32)
    canvas.image[:] = grey
