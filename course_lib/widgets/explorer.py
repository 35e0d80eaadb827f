"""The frame of the explorers: controls, pictures as raw pixels and words, with the thinking in pure functions.

An explorer is a list of controls and a function that answers: from the controls' values it makes a `View`,
pictures and a sentence on them. The function has nothing to do with browsers, so that tests and `stills` call it as
the widget does. Most explorers have a twin of it in JavaScript, a `module` of this folder: they need no kernel, and
are on the site as they are in a notebook. `respond` is then the reference that the module is tested against.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import anywidget
import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from course_lib import plotting
from course_lib.widgets.frame import bundle, live_html, style_sheet


class Panel(NamedTuple):
    """One picture.

    Attributes:
        picture: (3, H, W) uint8.
        words: What a reader who cannot see it should know.
        zoom: Pixels of the screen for each of the picture's.
    """

    caption: str
    picture: Tensor
    words: str
    zoom: float = 1.0


class View(NamedTuple):
    """What an explorer shows: panels, and one or two sentences on them."""

    panels: Sequence[Panel]
    words: str


@dataclass(frozen=True)
class Slider:
    """A slider over `stops`, reached by arrow keys one by one, that starts at `value`, one of them."""

    name: str
    label: str
    stops: Sequence[float]
    value: float
    kind: str = "slider"

    def __post_init__(self):
        if self.value not in self.stops:
            raise ValueError(f"slider {self.name}: {self.value} is none of its stops")


@dataclass(frozen=True)
class Choice:
    """One of `options`."""

    name: str
    label: str
    options: Sequence[str]
    value: str
    kind: str = "choice"


@dataclass(frozen=True)
class Button:
    """Something to do once."""

    name: str
    label: str
    kind: str = "button"


@dataclass(frozen=True)
class Upload:
    """An image of the reader's, cut and resized to `size` (H, W) in the page; explorers with a module alone get it."""

    name: str
    label: str
    size: tuple[int, int]
    kind: str = "file"


Control = Slider | Choice | Button | Upload


class Event(NamedTuple):
    """The user's input.

    Attributes:
        values: Of all sliders and choices, by name.
        pressed: The name of a button, or None.
        points: (row, column) where the brush went, in pixels of the picture, outside of it as well.
    """

    values: Mapping[str, float | str]
    pressed: str | None = None
    points: Sequence[tuple[float, float]] = ()


class Answer(NamedTuple):
    """The new state of the widget: a view, values that controls take on, and words where something was wrong."""

    view: View
    values: Mapping[str, float | str] = {}
    problem: str = ""


def standing(view: Callable[..., View]) -> Callable[[Event], Answer]:
    """Return `view(name=value, ...)` as the answer of an explorer without buttons and brush."""
    return lambda event: Answer(view(**event.values))


class Explorer(anywidget.AnyWidget):
    """A widget of `controls` whose pictures `respond` makes.

    In a page its element has the class `ep-explorer` and data-draws, data-last-move-ms (from the change of a
    control to the pixels), data-state ("ok", "problem", "silent": the kernel does not answer).

    Args:
        respond: Event -> Answer. A ValueError of it is shown in words, and the pictures stay.
        legend: (name, "#rrggbb") of what the pictures' colours mean.
        brush: Number of the panel that can be painted on.
        module: The module of this folder that thinks in the page; without one the kernel is asked.
        data: What that module begins with: values for JSON, and bytes.
    """

    _css = style_sheet("explorer")
    title = traitlets.Unicode().tag(sync=True)
    controls = traitlets.List().tag(sync=True)
    legend = traitlets.List().tag(sync=True)
    brush = traitlets.Int(-1).tag(sync=True)
    start = traitlets.Dict().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)
    module = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        respond: Callable[[Event], Answer],
        controls: Sequence[Control],
        *,
        title: str,
        legend: Sequence[tuple[str, str]] = (),
        brush: int = -1,
        module: str = "",
        data: Mapping | None = None,
    ):
        values = {one.name: one.value for one in controls if isinstance(one, Slider | Choice)}
        start = {"values": values}
        if not module:
            content, buffers = pack(respond(Event(values)))
            start = {**content, **start, "buffers": buffers}
        self._esm = bundle(module or "kernel")
        super().__init__(
            title=title,
            controls=[_plain(one) for one in controls],
            legend=[list(one) for one in legend],
            brush=brush,
            start=start,
            data=dict(data or {}),
            module=module,
        )
        self.respond = respond
        self.on_msg(self._on_message)

    def live_html(self, name: str, *, files: Path | None = None, address: str = "") -> str:
        """Return the explorer as a piece of a web page (`frame.live_html`).

        Raises:
            ValueError: For one that asks the kernel.
        """
        if not self.module:
            raise ValueError(f"{self.title}: this explorer needs a kernel, and a page has none")
        return live_html(self.get_state(), name, files=files, address=address)

    def _on_message(self, _: object, message: dict, __: object) -> None:
        event = Event(message["values"], message["pressed"], [tuple(p) for p in message["points"]])
        content, buffers = pack(answer(self.respond, event))
        self.send({**content, "view": message["view"], "number": message["number"]}, buffers)

    def _repr_mimebundle_(self, **kwargs: object) -> object:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data:
            needs = "that needs a running kernel" if not self.module else "with controls to move"
            data["text/plain"] = (
                f"{self.title}: an explorer {needs}. Open the notebook in JupyterLab and "
                "run it; the pictures beside it show the same, standing still."
            )
        return bundle


def _plain(control: Control) -> dict:
    """Return a control as values for JSON."""
    given = asdict(control)
    return {name: list(value) if name in ("stops", "options") else value for name, value in given.items()}


def answer(respond: Callable[[Event], Answer], event: Event) -> Answer:
    """Return the answer of `respond`; an error becomes words without pictures."""
    try:
        return respond(event)
    except ValueError as error:
        return Answer(View([], ""), {}, str(error))
    except Exception as error:
        return Answer(View([], ""), {}, f"{type(error).__name__}: {error}")


def pack(given: Answer) -> tuple[dict, list[bytes]]:
    """Return an answer as values for JSON and the raw RGBA pixels of its panels."""
    panels = [
        {
            "caption": panel.caption,
            "words": panel.words,
            "zoom": panel.zoom,
            "height": panel.picture.shape[1],
            "width": panel.picture.shape[2],
        }
        for panel in given.view.panels
    ]
    content = {"panels": panels, "words": given.view.words, "values": dict(given.values), "problem": given.problem}
    return content, [rgba(panel.picture) for panel in given.view.panels]


def rgba(picture: Tensor) -> bytes:
    """Return the bytes of a canvas, row by row, opaque, of (3, H, W) uint8."""
    opaque = picture.new_full((1, *picture.shape[1:]), 255)
    return torch.cat([picture, opaque]).permute(1, 2, 0).contiguous().numpy().tobytes()


TITLE, GAP, ROW_NAME = 24, 14, 28
"""Pixels of a line of text above a panel, between panels, and for the name of a row."""


def stills(views: Mapping[str, View], *, legend: Sequence[tuple[str, str]] = (), height: float = 2.2) -> Figure:
    """Draw the panels of several views: what a reader without a kernel sees.

    A row for each view, with its name; views of one panel are side by side instead. Every pixel of a panel is
    drawn a whole number of times, so that digits keep all their strokes.

    Args:
        views: by name.
        legend: (name, "#rrggbb"), drawn below.
        height: of a row in inches, about.
    """
    rows = [[(panel.caption, panel.picture) for panel in view.panels] for view in views.values()]
    names = list(views)
    if all(len(row) == 1 for row in rows):
        rows = [[(name, picture) for name, ((_, picture),) in zip(names, rows, strict=True)]]
        names = [""]
    figure = plotting.DescribedFigure(dpi=plt.rcParams["figure.dpi"])
    dpi, left = figure.dpi, ROW_NAME * any(names)
    room = height * dpi
    while any(_width(row, room) > plotting.WIDEST * dpi - left for row in rows) and room > 1:
        room *= 0.9
    placed, top, right = [], 0, 0
    for row, name in zip(rows, names, strict=True):
        sizes = [[_times(picture, room) * side for side in picture.shape[1:]] for _, picture in row]
        titles = [
            textwrap.fill(caption, max(14, width // 8)) for (caption, _), (_, width) in zip(row, sizes, strict=True)
        ]
        top += TITLE * (1 + max(title.count("\n") for title in titles))
        x = left
        for (tall, wide), title, (_, picture) in zip(sizes, titles, row, strict=True):
            placed.append((x, top, wide, tall, title, picture, name if x == left else ""))
            x += max(wide, 110) + GAP
        top, right = top + max(tall for tall, _ in sizes) + GAP, max(right, x - GAP)
    lines = -(-len(legend) // 6)
    total = top + TITLE * lines
    figure.set_size_inches(right / dpi, total / dpi)
    for x, y, wide, tall, title, picture, name in placed:
        axes = figure.add_axes((x / right, 1 - (y + tall) / total, wide / right, tall / total))
        plotting.draw(axes, picture, title)
        axes.set_ylabel(name)
    if legend:
        patches = [Patch(facecolor=colour, edgecolor="0.4", label=name) for name, colour in legend]
        figure.legend(handles=patches, loc="lower center", ncols=min(len(patches), 6), frameon=False)
    return figure


def _times(picture: Tensor, height: float) -> int:
    """Return how often each pixel of a picture is drawn, once or more, for about `height` pixels in all."""
    return max(1, round(height / picture.shape[1]))


def _width(row: Sequence[tuple[str, Tensor]], height: float) -> int:
    return sum(_times(picture, height) * picture.shape[2] + GAP for _, picture in row)
