"""Figures of images: labels in colour with class names, overlays, error maps, curves, matrices.

Functions return a matplotlib Figure that is closed for pyplot: a notebook shows it once, as the cell's value.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.losses import connected_regions
from course_lib.metrics import ConfusionMatrix
from course_lib.plumbing.alt_text import alt_text, smallest_text
from course_lib.plumbing.dot_names import name_dots as name_dots  # a part of what draws, in a file of its own

# Okabe and Ito's colours: told apart with every common kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RIGHT, WRONG, VOID = (222, 226, 230), (250, 10, 185), (255, 255, 255)
"""Colours of error maps. Of all colours this magenta is the farthest from the classes of every data set."""

WIDEST = 11.0
"""Inches: a wider figure would be shrunk on a page until its smallest text is under 9 pixels high."""

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "legend.fontsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "image.interpolation": "nearest",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


class DescribedFigure(Figure):
    """A figure that a notebook keeps with its description in words and the size of its smallest text."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        return {}, {"image/png": {"alt": alt_text(self), "text_px": round(smallest_text(self) * self.dpi / 72, 1)}}


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of `width` x `height` inches and its (rows, columns) axes, closed for pyplot.

    A figure that would be wider than `WIDEST` is made smaller, its height in proportion.
    """
    scale = min(1, WIDEST / width)
    options = {"figsize": (scale * width, scale * height), "layout": "constrained", "FigureClass": DescribedFigure}
    figure, axes = plt.subplots(rows, columns, squeeze=False, **options)
    plt.close(figure)
    return figure, axes


def colourise(labels: Tensor, palette: Tensor) -> Tensor:
    """Return labels (H, W) as (3, H, W) uint8 in the colours of `palette`; ignored pixels are white."""
    table = torch.full((256, 3), 255, dtype=torch.uint8)
    table[: len(palette)] = palette
    return table[labels.as_subclass(Tensor).long()].permute(2, 0, 1)


def error_map(prediction: Tensor, labels: Tensor) -> Tensor:
    """Return (3, H, W) uint8: right pixels light grey, wrong ones magenta, ignored ones white."""
    colours = torch.tensor([RIGHT, WRONG, VOID], dtype=torch.uint8)
    kind = torch.where(labels == IGNORE, 2, (prediction != labels).long())
    return colours[kind.as_subclass(Tensor)].permute(2, 0, 1)


def paint_regions(prediction: Tensor, labels: Tensor) -> Tensor:
    """Return each connected region of `prediction` in the colour of the true one that it mostly covers.

    Regions that have run together have one colour; class 0 is black. Regions are those of the classes from 1 on
    (`connected_regions`). Prediction and labels are (H, W), the result is (3, H, W) uint8.
    """
    truth, regions = connected_regions(labels), connected_regions(prediction)
    generator = torch.Generator().manual_seed(3)
    colours = torch.randint(70, 256, (int(truth.max()) + 2, 3), generator=generator)
    shared = torch.zeros(int(regions.max()) + 1, len(colours), dtype=torch.int64)
    shared.index_put_((regions, truth), torch.ones_like(regions), accumulate=True)
    most, colour = shared[:, 1:].max(dim=1)
    nowhere = len(colours) - 1  # the colour of what covers no true region
    colour = torch.where(most > 0, colour + 1, nowhere)
    painted = torch.where(regions[..., None] > 0, colours[colour[regions]], 0)
    return painted.to(torch.uint8).permute(2, 0, 1)


def draw(axes: Axes, picture: Tensor, title: str = "") -> None:
    """Put a (3, H, W) uint8 image on `axes`, without ticks."""
    axes.imshow(picture.as_subclass(Tensor).permute(1, 2, 0).numpy())
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)


def add_legend(
    figure: Figure, classes: Sequence[str], palette: Tensor, maps: Sequence[Tensor], *, errors: bool = False
) -> None:
    """Name the classes that occur in `maps` below the figure, in their colours; with `errors` those of error maps."""
    present = sorted({int(value) for labels in maps for value in labels.unique()})
    named = [(classes[value], palette[value].tolist()) for value in present if value < len(classes)]
    named += [("ignored", VOID)] if IGNORE in present else []
    named += [("right pixel", RIGHT), ("wrong pixel", WRONG)] if errors else []
    patches = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="0.4", linewidth=0.5, label=name) for name, colour in named
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), frameon=False)


def gallery(dataset: SegmentationDataset, indices: Sequence[int], title: str = "") -> Figure:
    """Draw images of a data set above their labels, with a legend of the classes."""
    samples = [dataset[index] for index in indices]
    height = 2 * 2.2 * samples[0].labels.shape[0] / samples[0].labels.shape[1] + 0.9
    figure, axes = new_figure(2, len(samples), 2.25 * len(samples), height)
    for column, sample in enumerate(samples):
        draw(axes[0, column], sample.image, sample.name)
        draw(axes[1, column], colourise(sample.labels, dataset.palette))
    add_legend(figure, dataset.classes, dataset.palette, [sample.labels for sample in samples])
    figure.suptitle(title)
    return figure


def compare(
    image: Tensor,
    labels: Tensor,
    predictions: Mapping[str, Tensor],
    classes: Sequence[str],
    palette: Tensor,
    title: str = "",
) -> Figure:
    """Draw predictions of one image in the upper row, their errors in the lower one, in the legend's colours.

    Image (3, H, W) uint8, labels (H, W), predictions {name: (H, W)}. The title of each error map gives the
    share of the counted pixels that is wrong.
    """
    columns = 1 + len(predictions)
    size = 2.3 if columns > 3 else 3.0
    height = 2 * size * labels.shape[0] / labels.shape[1] + 1.1
    figure, axes = new_figure(2, columns, size * columns, height)
    draw(axes[0, 0], image, "image")
    draw(axes[1, 0], colourise(labels, palette), "ground truth")
    counted = (labels != IGNORE).sum()
    for column, (name, prediction) in enumerate(predictions.items(), start=1):
        draw(axes[0, column], colourise(prediction, palette), name)
        wrong = ((prediction != labels) & (labels != IGNORE)).sum() / counted
        draw(axes[1, column], error_map(prediction, labels), f"wrong: {100 * wrong:.1f} % of pixels")
    add_legend(figure, classes, palette, [labels, *predictions.values()], errors=True)
    figure.suptitle(title)
    return figure


def curves(
    lines: Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    title: str = "",
    smooth: int = 1,
) -> Figure:
    """Draw one line per name: either y values (x counts from 1) or an (x values, y values) pair.

    With `smooth` the line is the mean over that many neighbours (a training loss is noisy).
    """
    figure, ((axes,),) = new_figure(1, 1, 6.4, 3.2)
    for index, (name, values) in enumerate(lines.items()):
        pair = isinstance(values, tuple)
        ys = np.asarray(values[1] if pair else values, dtype=float)
        xs = np.asarray(values[0] if pair else np.arange(1, len(ys) + 1), dtype=float)
        if smooth > 1 and len(ys) > smooth:
            ys, xs = np.convolve(ys, np.ones(smooth) / smooth, "valid"), xs[smooth - 1 :]
        marker = MARKERS[index % len(MARKERS)] if len(ys) <= 30 else None
        axes.plot(
            xs,
            ys,
            color=COLOURS[index % len(COLOURS)],
            marker=marker,
            markersize=4,
            label=name,
            linestyle=("-", "--", "-.")[index // len(COLOURS) % 3],
        )
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.25)
    if len(lines) > 1:
        axes.legend(facecolor="white", framealpha=0.85, edgecolor="none")
    return figure


def bars(groups: Mapping[str, Mapping[str, float | None]], *, y: str, title: str = "") -> Figure:
    """Draw grouped bars {series: {category: value}} with their values above; None is left out."""
    categories = list(dict.fromkeys(name for values in groups.values() for name in values))
    turn = len(categories) > 6
    letters = [max(map(len, name.splitlines()), default=0) for name in categories]
    pair = max((sum(two) for two in pairwise(letters)), default=0) / 2  # the longest two names side by side
    needed, width = 0.75 if turn else 0.12 + 0.064 * pair, 0.8 / len(groups)
    texts = {name: _bar_texts([values.get(one) for one in categories]) for name, values in groups.items()}
    written = len(groups) * len(categories) <= 16
    if written:  # no value runs into its neighbour's
        needed = max(needed, (0.06 + 0.076 * max(map(len, chain(*texts.values())), default=0)) / width)
    figure, ((axes,),) = new_figure(1, 1, max(6.0, needed * len(categories) + (0.0 if turn else 0.6)), 3.2)
    for index, (series, values) in enumerate(groups.items()):
        heights = [values.get(name) for name in categories]
        drawn = axes.bar(
            np.arange(len(categories)) + (index - (len(groups) - 1) / 2) * width,
            [0.0 if height is None else height for height in heights],
            width,
            label=series,
            color=COLOURS[index % len(COLOURS)],
            hatch=("", "///", "...", "xx")[index % 4],
            edgecolor="white",
            linewidth=0.4,
        )
        if written:
            axes.bar_label(drawn, labels=texts[series], fontsize=8.5, padding=1)
    axes.set_xticks(range(len(categories)), categories, rotation=35 if turn else 0, ha="right" if turn else "center")
    axes.set(ylabel=y)
    if any(height is not None and height < 0 for values in groups.values() for height in values.values()):
        axes.margins(y=0.1)  # room for a value below the lowest bar
    axes.set_title(title, pad=22 if len(groups) > 1 else 8)
    if len(groups) > 1:
        axes.legend(frameon=False, ncols=len(groups), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _bar_texts(heights: Sequence[float | None]) -> list[str]:
    """Return the values of bars as they are written, without a minus before a zero."""
    digits = 0 if all(isinstance(height, int) for height in heights) else 2
    return ["n/a" if height is None else f"{round(height, digits) + 0:.{digits}f}" for height in heights]


def confusion(matrix: ConfusionMatrix, classes: Sequence[str], title: str = "") -> Figure:
    """Draw the confusion matrix, each row divided by its true pixels: where the pixels of a class end up."""
    counts = matrix.counts.cpu().double()
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    side = 0.46 * len(classes) + 2.2
    figure, ((axes,),) = new_figure(1, 1, side + 0.6, side)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for row, column in np.ndindex(shares.shape):
        if shares[row, column] >= 0.005:
            colour = "black" if shares[row, column] > 0.55 else "white"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="share of the true pixels", shrink=0.8)
    return figure


def heat(
    values: Tensor,
    *,
    label: str,
    title: str = "",
    axes: Axes | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Figure | None:
    """Draw a map of numbers (H, W) with a colour bar, on `axes` where given, else as a figure.

    `low` and `high` are the numbers of the first and last colour (else those of `values`): maps to be
    compared share them. `label` names the numbers.
    """
    figure = None
    if axes is None:
        figure, ((axes,),) = new_figure(1, 1, 4.6, 4.6 * values.shape[0] / values.shape[1] + 0.3)
    image = axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure


def numbers(
    values: Tensor, *, palette: Tensor | None = None, title: str = "", axes: Axes | None = None, style: str = "{:g}"
) -> Figure | None:
    """Write out a small matrix (H, W), cell by cell, on the colours of `palette` (or of the values)."""
    figure = None
    if axes is None:
        figure, ((axes,),) = new_figure(1, 1, 0.34 * values.shape[1] + 0.4, 0.3 * values.shape[0] + 0.5)
    if palette is None:
        axes.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=2.2 * max(float(values.max()), 1e-9))
        dark = torch.zeros(values.shape, dtype=torch.bool)
    else:
        table = palette.float() / 255
        axes.imshow(ListedColormap(table.tolist())(values.numpy()))
        dark = (table @ torch.tensor([0.3, 0.6, 0.1]))[values.long()] < 0.45
    for row, column in np.ndindex(*values.shape):
        axes.text(
            column,
            row,
            style.format(values[row, column].item()),
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if dark[row, column] else "black",
        )
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    return figure


def differences(
    names: Sequence[str], means: Sequence[float], halves: Sequence[float | None], *, x: str, title: str = ""
) -> Figure:
    """Draw one dot a name at its mean difference, with its interval: `halves` is half of each one's width.

    A name without an interval (None: one run) has a hollow dot. A line marks zero.
    """
    names = [textwrap.fill(name, 56) for name in names]
    lines = sum(1 + name.count("\n") for name in names)
    figure, ((axes,),) = new_figure(1, 1, 9.0, 0.17 * lines + 0.22 * len(names) + 1.3)
    for row, (mean, half) in enumerate(zip(means, halves, strict=True)):
        inside = "white" if half is None else COLOURS[0]
        axes.errorbar(mean, row, xerr=half, color=COLOURS[0], fmt="o", capsize=4, markerfacecolor=inside)
    axes.axvline(0, color="0.4", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlabel=x, title=title)
    axes.grid(axis="x", alpha=0.25)
    return figure


def boxes(
    picture: Tensor, found: Mapping[str, tuple[int, int, int, int]], *, title: str = "", axes: Axes | None = None
) -> Figure | None:
    """Draw named boxes (top, left, bottom, right; the last two just outside) on a (3, H, W) uint8 image.

    A receptive field is such a box (`LayerField.box`). Drawn on `axes`, or as a figure with a legend.
    """
    figure = None
    if axes is None:
        figure, ((axes,),) = new_figure(1, 1, 5.2, 4.0 * picture.shape[-2] / picture.shape[-1])
    draw(axes, picture, title)
    for number, (name, (top, left, bottom, right)) in enumerate(found.items()):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                linewidth=2,
                label=name,
                edgecolor=COLOURS[number % len(COLOURS)],
                linestyle=("-", "--", "-.")[number // len(COLOURS) % 3],
            )
        )
    if figure is not None:
        figure.legend(loc="outside right center", frameon=False)
    return figure


def simplex(
    lines: Mapping[str, Tensor], corners: Sequence[str], *, title: str = "", axes: Axes | None = None
) -> Figure | None:
    """Draw predictions over three classes as points of a triangle: certainty at a corner, doubt in the middle.

    Args:
        lines: {name: (n, points, 3) probabilities}: n lines in one colour, or dots where a line has one point.
        corners: the names of the classes below left, below right and on top.
        title: of the panel.
        axes: where it is drawn; a figure of its own where None.
    """
    figure = None
    if axes is None:
        figure, ((axes,),) = new_figure(1, 1, 4.2, 3.9)
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    axes.plot(*places[[0, 1, 2, 0]].T.numpy(), color="0.4", linewidth=1)
    for (x, y), name, offset in zip(places.tolist(), corners, (-14, -14, 6), strict=True):
        axes.annotate(name, (x, y), (0, offset), textcoords="offset points", ha="center")
    for number, (name, probabilities) in enumerate(lines.items()):
        dots = probabilities.shape[1] == 1
        for index, points in enumerate(probabilities.float() @ places):  # (points, 2)
            axes.plot(
                *points.T.numpy(),
                color=COLOURS[number % len(COLOURS)],
                linewidth=1,
                label="" if index else name,
                marker=MARKERS[number % len(MARKERS)] if dots else None,
                linestyle="" if dots else "-",
                zorder=3 if dots else 2,
            )
    axes.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.12, 1.0))
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.2)
    return figure
