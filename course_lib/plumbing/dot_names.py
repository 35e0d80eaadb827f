"""Where the names of dots go in a figure: beside them, and over as little else as can be."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_STEPS = [(x, y) for x in (8, -8, 0, 16, -16, 26, -26) for y in (0, 8, -8, 14, -14, 20, -20, 28, -28) if x or y]
"""Points right and up from a dot, the places that are tried."""


def name_dots(
    axes: Axes, dots: Mapping[str, tuple[float, float]], *, halves: Mapping[str, float] | None = None
) -> None:
    """Write each dot's name beside it, where it covers as little of other dots, bars and names as can be.

    The last call on a figure: names are placed for the size that its axes have now. A name that finds no place
    close to its dot has a line to it.

    Args:
        axes: The dots are drawn there, and its limits are set.
        dots: {name: (x, y)} in the units of the axes.
        halves: {name: half the length of its vertical error bar}, where a dot has one.
    """
    figure = axes.get_figure()
    figure.draw_without_rendering()  # lays the figure out: before, nothing has a place
    frame, near = axes.get_window_extent(), 6 * figure.dpi / 72
    taken = []
    for name, (x, y) in dots.items():
        half = (halves or {}).get(name, 0.0)
        (middle, low), (_, level), (_, high) = axes.transData.transform([(x, y - half), (x, y), (x, y + half)])
        taken.append(Bbox.from_extents(middle - near / 2, low, middle + near / 2, high))
        taken.append(Bbox.from_extents(middle - near, level - near, middle + near, level + near))

    def covered(box: Bbox) -> float:
        """Return how much of a name lies on something else or outside, in square pixels."""
        shared = [Bbox.intersection(box, other) for other in taken]
        seen = Bbox.intersection(box, frame)
        hidden = sum(one.width * one.height for one in shared if one is not None)
        return hidden + box.width * box.height - (seen.width * seen.height if seen is not None else 0)

    places = axes.transData.transform(list(dots.values()))
    for number, (name, place) in enumerate(dots.items()):
        trials = [_text_at(axes, name, place, step) for step in _STEPS]
        extents = [text.get_window_extent() for text in trials]
        costs = [covered(box) + abs(x) + 1.5 * abs(y) for box, (x, y) in zip(extents, _STEPS, strict=True)]
        nearest = [np.hypot(*(places - np.clip(places, box.min, box.max)).T).argmin() for box in extents]
        costs = [cost + 200 * (dot != number) for cost, dot in zip(costs, nearest, strict=True)]
        best = costs.index(min(costs))
        taken.append(extents[best])
        for text in trials:
            text.remove()
        _text_at(axes, name, place, _STEPS[best], line=max(map(abs, _STEPS[best])) > 12)


def _text_at(
    axes: Axes, name: str, place: tuple[float, float], step: tuple[float, float], *, line: bool = False
) -> Annotation:
    """Write `name` at a distance of `step` points from a dot, with a line to it where asked."""
    across, up = (int(np.sign(part)) for part in step)
    sides = {"ha": ("center", "left", "right")[across], "va": ("center_baseline", "bottom", "top")[up]}
    arrow = {"arrowprops": {"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkB": 4}} if line else {}
    return axes.annotate(name, place, step, textcoords="offset points", fontsize=8.5, zorder=4, **sides, **arrow)
