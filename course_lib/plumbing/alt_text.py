"""What a figure shows, in words: the text of a picture for readers who cannot see it.

Figures are matplotlib's, which is not imported here.
"""

from collections.abc import Iterator
from typing import Any

MOST_BARS = 40
"""Figures with more bars than this keep their values to themselves."""


def alt_text(figure: Any) -> str:
    """Return a description of a figure, made of its titles, axes, legends and the values of its bars.

    Returns:
        Sentences on one line, such as "IoU by class. Bars of IoU: FCN-8s: Sky 0.87, Road 0.90."
    """
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    parts = [figure.get_suptitle()]
    titles = [axes.get_title() for axes in panels]
    if len(panels) > 1:
        parts.append(f"{len(panels)} panels" + (f": {'; '.join(filter(None, titles))}" if any(titles) else ""))
        rows = dict.fromkeys(axes.get_ylabel() for axes in panels if not len(axes.get_xticks()))
        parts.append(_listed("Rows", filter(None, rows)))
    else:
        parts += titles
    parts += dict.fromkeys(filter(None, map(_chart, panels)))
    bars = [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]
    parts.append(_listed("Colours show", dict.fromkeys(filter(None, bars))))
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in panels))]
    names = dict.fromkeys(text.get_text() for legend in legends for text in legend.get_texts())
    parts.append(_listed("Legend", names))
    sentences = [" ".join(part.split()) for part in parts if part]
    return " ".join(part if part[-1] in ".?!" else f"{part}." for part in sentences)


def _listed(what: str, names: object) -> str:
    text = ", ".join(names)
    return f"{what}: {text}" if text else ""


def _chart(axes: Any) -> str:
    """The axes and bars of a chart; nothing for a panel that is a picture."""
    x, y = axes.get_xlabel(), axes.get_ylabel()
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    if not bars:
        across = " over ".join(filter(None, (y, x))) if len(axes.get_xticks()) else x
        kind = "Lines" if axes.lines and not axes.images else "Axes"
        return f"{kind}: {across}" if across else ""
    categories = [label.get_text() for label in axes.get_xticklabels()]
    series = []
    if sum(len(one.patches) for one in bars) <= MOST_BARS and any(categories):
        for one in bars:
            values = [f"{name} {bar.get_height():.3g}" for name, bar in zip(categories, one.patches, strict=False)]
            prefix = "" if one.get_label().startswith("_") else f"{one.get_label()}: "
            series.append(prefix + ", ".join(values))
    heading = f"Bars of {y or x}" if y or x else "Bars"
    return ": ".join(filter(None, (heading, "; ".join(series))))


def smallest_text(figure: Any) -> float:
    """Return the size in points of the smallest text that a figure shows; infinity where it shows none."""
    return min((text.get_fontsize() for text in _texts(figure)), default=float("inf"))


def _texts(figure: Any) -> Iterator:
    for axes in figure.axes:  # the labels of ticks get their texts when they are asked for
        for axis in (axes.xaxis, axes.yaxis):
            if axes.get_visible() and axis.get_visible():
                yield from (label for label in axis.get_ticklabels() if label.get_visible() and label.get_text())
    for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")):
        axes = text.axes
        if text.get_visible() and text.get_text().strip() and (axes is None or axes.get_visible()):
            yield text
