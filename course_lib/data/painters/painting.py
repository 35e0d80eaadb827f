"""What generated scenes are painted with: a canvas, smooth noise, drawing in a box.

Everything is numpy on float32 colours in 0..1, because a scene is a few hundred small array operations
and numpy starts each of them faster than torch does.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

from course_lib.data.sample import IGNORE, Sample, make_sample


class Canvas:
    """An image being painted: colours (3, H, W), labels (H, W) and instance numbers (H, W).

    Coordinates are in units of the image's height: y runs from 0 to 1, x from 0 to W/H.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.aspect = width / height
        self.image = np.zeros((3, height, width), dtype=np.float32)
        self.labels = np.zeros((height, width), dtype=np.uint8)
        self.instances = np.zeros((height, width), dtype=np.int32)
        self.instance_labels: list[int] = []
        rows = (np.arange(height, dtype=np.float32) + 0.5) / height
        columns = (np.arange(width, dtype=np.float32) + 0.5) / height
        self.y, self.x = rows[:, None], columns[None, :]

    def fill(self, mask: np.ndarray, colour: np.ndarray, label: int) -> None:
        """Paint `mask` (H, W) bool in `colour` ((3, 1, 1) or (3, H, W)) and label it."""
        np.copyto(self.image, colour, where=mask)
        np.copyto(self.labels, np.uint8(label), where=mask)

    def fill_window(
        self, window: tuple[slice, slice], mask: np.ndarray, colour: np.ndarray, label: int, instance: int
    ) -> None:
        """`fill` within a `window`, marking the pixels as belonging to `instance` (0: to none)."""
        np.copyto(self.image[:, *window], colour, where=mask)
        np.copyto(self.labels[window], np.uint8(label), where=mask)
        np.copyto(self.instances[window], np.int32(instance), where=mask)

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice] | None:
        """Return the pixels of a rectangle as (rows, columns) slices, or None where it is outside."""
        r0, r1 = (max(int(top * self.height), 0), min(int(np.ceil(bottom * self.height)), self.height))
        c0, c1 = max(int(left * self.height), 0), min(int(np.ceil(right * self.height)), self.width)
        return None if r0 >= r1 or c0 >= c1 else (slice(r0, r1), slice(c0, c1))

    def new_instance(self, label: int) -> int:
        """Return a fresh instance number (from 1) for an object of class `label`."""
        self.instance_labels.append(label)
        return len(self.instance_labels)

    def sample(self, name: str, *, void_border: int = 0, min_box_area: int = 4) -> Sample:
        """Return the finished image as a `Sample`.

        `void_border` pixels along the outline of every instance become IGNORE, as in PASCAL VOC. Boxes enclose the
        visible pixels of an instance; what is hidden to fewer than `min_box_area` pixels has no box.
        """
        labels = self.labels.astype(np.int64)
        if void_border:
            size = 2 * void_border + 1
            high = ndimage.maximum_filter(self.instances, size=size)
            labels[high != ndimage.minimum_filter(self.instances, size=size)] = IGNORE
        boxes, box_labels = [], []
        areas = np.bincount(self.instances.ravel(), minlength=len(self.instance_labels) + 1)
        for number, found in enumerate(ndimage.find_objects(self.instances), start=1):
            if found is not None and areas[number] >= min_box_area:
                rows, columns = found
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                box_labels.append(self.instance_labels[number - 1])
        pixels = (np.clip(self.image, 0, 1) * 255 + 0.5).astype(np.uint8)
        return make_sample(
            torch.from_numpy(pixels),
            torch.from_numpy(labels),
            name,
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(box_labels, dtype=torch.int64),
        )


@lru_cache(maxsize=256)
def _interpolation(cells: int, length: int) -> np.ndarray:
    """(length, cells) matrix that interpolates `cells` values linearly at `length` points."""
    position = np.linspace(0, cells - 1, length, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32)[None, :]))


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """(height, width) noise in -1..1 that changes over about `cell` of the larger side (0 < cell <= 1)."""
    side = max(height, width)
    rows, columns = (max(2, round(length / (cell * side)) + 1) for length in (height, width))
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return _interpolation(rows, height) @ grid @ _interpolation(columns, width).T


def vary(rng: np.random.Generator, colour: tuple[float, float, float], amount: float) -> np.ndarray:
    """Return `colour` (three values in 0..1), each channel moved by up to `amount`, as (3, 1, 1) float32."""
    r, g, b = rng.uniform(-amount, amount, 3).tolist()
    return rgb(colour[0] + r, colour[1] + g, colour[2] + b)


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a colour as (3, 1, 1) float32 that broadcasts over pixels; values are clipped to 0..1."""
    return np.array([[[min(max(value, 0.0), 1.0)]] for value in (red, green, blue)], dtype=np.float32)


def fraction(value: np.ndarray) -> np.ndarray:
    """Return the part after the decimal point: where in its period a repeating pattern is."""
    return value - np.floor(value)


def film(rng: np.random.Generator, canvas: Canvas, *, light: float, tint: float, noise: float) -> None:
    """What the camera adds: exposure `light`, a warm (+) or cold (-) `tint`, and pixel `noise` (std)."""
    colour = np.array([1 + tint, 1, 1 - tint], dtype=np.float32)[:, None, None] * light
    grain = rng.standard_normal(canvas.image.shape, dtype=np.float32)
    canvas.image *= colour
    canvas.image += noise * grain
