"""The arithmetic behind the verdicts: paired steps with 95 % intervals, on arrays, so that a test can simulate it.

A block is (..., R, S): the values, in points, of R rows that were trained with the same S seeds. All rows of a table
share the recipe, so value = row + seed + residual, and what the rows have in common says how far a step may lie off::

    s^2 = sum (value - mean of the row - mean of the seed + mean)^2 / ((R - 1)(S - 1))
    step = mean over n seeds of (better - worse)
    standard error = s sqrt(2 / n), or that of the n differences themselves, whichever is larger
    degrees of freedom = (R - 1)(S - 1) where the residual is pooled, else n - 1 (Student's t)

It is pooled over the rows that are left when those far more variable than the rest are taken out, until none is, as long
as three rows and 4 degrees of freedom are left; of two seeds none is taken out: then one such row forbids it. A step to a
row outside has the s of all rows, and n - 1 degrees. Two rows that are about equally wild can hide each other in a small
table: then both stay, and the intervals of the others are too wide.
The half-width of an interval is the 97.5 % quantile of t times the standard error.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""How often a verdict may be wrong where there is no difference."""
DEGREES = 4
FAR_MORE = 3.0
"""A row is far more variable where its spread is this many times that of the other rows."""
RESAMPLES = 10_000


def residual(block: ArrayLike, kept: ArrayLike | None = None) -> tuple[NDArray, NDArray]:
    """Return (s, degrees of freedom), each (...), of a block (..., R, S), or of its `kept` (..., R) rows alone."""
    block = np.asarray(block, dtype=float)
    kept = np.ones(block.shape[:-1], dtype=bool) if kept is None else np.asarray(kept)
    weight, rows = kept[..., None], np.maximum(kept.sum(-1), 1)
    of_seed = (block * weight).sum(-2, keepdims=True) / rows[..., None, None]
    left = (block - block.mean(-1, keepdims=True) - of_seed + of_seed.mean(-1, keepdims=True)) * weight
    degrees = (rows - 1) * (block.shape[-1] - 1)
    return np.sqrt((left**2).sum((-2, -1)) / np.maximum(degrees, 1)), degrees


def pooled_rows(block: ArrayLike) -> NDArray:
    """Return which rows of a block (..., R, S) share their residual, (..., R): none where too few are left.

    A row's spread is that of its differences to the mean of the other rows, which holds the others' share 1 / (R - 1).
    """
    block = np.asarray(block, dtype=float)
    kept = np.ones(block.shape[:-1], dtype=bool)
    while True:
        rows = kept.sum(-1)
        enough = (rows >= 3) & ((rows - 1) * (block.shape[-1] - 1) >= DEGREES)
        far = enough[..., None] & (_times_the_others(block, kept) > FAR_MORE**2)
        if not far.any():
            return kept & enough[..., None]
        kept &= ~(far if block.shape[-1] > 2 else far.any(-1, keepdims=True))


def _times_the_others(block: NDArray, kept: NDArray) -> NDArray:
    """Return (..., R): a row's variance over that of the other rows of `kept`; 0 for one that is not kept."""
    times = np.zeros(kept.shape)
    for row in range(kept.shape[-1]):
        others = kept & (np.arange(kept.shape[-1]) != row)
        count = np.maximum(others.sum(-1), 1)
        mean = (block * others[..., None]).sum(-2) / count[..., None]
        own = (block[..., row, :] - mean).var(-1, ddof=1) * count / (count + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            times[..., row] = np.where(kept[..., row], np.nan_to_num(own / residual(block, others)[0] ** 2), 0.0)
    return times


def step_error(
    differences: ArrayLike, block: ArrayLike | None = None, pair: tuple[int, int] = (0, 1)
) -> tuple[NDArray, NDArray, NDArray]:
    """Return (standard error of the mean, degrees of freedom, whether pooled), each (...), of paired differences.

    Args:
        differences: (..., n), of n seeds; n >= 2.
        block: (..., R, S), of all rows of the table; None where there is none that could say more.
        pair: Which two rows of the block the differences are of.
    """
    differences = np.asarray(differences, dtype=float)
    count = differences.shape[-1]
    error = differences.std(-1, ddof=1) / np.sqrt(count)
    if block is None or min(np.shape(block)[-2:]) < 2:
        return error, np.full(error.shape, count - 1), np.zeros(error.shape, dtype=bool)
    kept = pooled_rows(block)
    pooled = kept[..., list(pair)].all(-1)
    kept = kept | ~pooled[..., None]
    spread, degrees = residual(block, kept)
    return np.maximum(error, spread * np.sqrt(2 / count)), np.where(pooled, degrees, count - 1), pooled


def half_width(error: ArrayLike, degrees: ArrayLike) -> NDArray:
    """Return the half-width of the 95 % interval."""
    return stdtrit(degrees, 1 - LEVEL / 2) * np.asarray(error)


def chance(distance: ArrayLike, error: ArrayLike, degrees: ArrayLike) -> NDArray:
    """Return the two-sided p: how often a mean lies this far from the line by chance alone."""
    distance, error = np.asarray(distance, dtype=float), np.asarray(error, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.abs(distance) / error, nan=0.0, posinf=np.inf)
    return 2 * stdtr(degrees, -ratio)


def holm(chances: ArrayLike) -> NDArray:
    """Return p (..., k) adjusted for k claims of one paper: Holm, Scand. J. Statist. 6, 1979.

    In rising order the first is taken k times, the second k - 1 times, and none is smaller than the one before it.
    """
    chances = np.asarray(chances, dtype=float)
    count = chances.shape[-1]
    order = chances.argsort(-1)
    times = np.take_along_axis(chances, order, -1) * np.arange(count, 0, -1)
    rising = np.minimum(np.maximum.accumulate(times, -1), 1.0)
    adjusted = np.empty_like(rising)
    np.put_along_axis(adjusted, order, rising, -1)
    return adjusted


def over_pictures(right: ArrayLike, worse: ArrayLike, pixels: ArrayLike, seed: int = 0) -> NDArray:
    """Return (RESAMPLES,) steps in points of pixel accuracy, each with as many images drawn anew as there are.

    Args:
        right: (runs, images) right pixels of the better way; `worse` of the other way, same networks and images.
        pixels: (images,) how many count.
    """
    gained = np.asarray(right, dtype=float).mean(0) - np.asarray(worse, dtype=float).mean(0)
    pixels = np.asarray(pixels, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(pixels), size=(RESAMPLES, len(pixels)))
    return 100 * gained[drawn].sum(1) / pixels[drawn].sum(1)
