"""The dilation and receptive-field explorer: stack layers, see which pixels reach one unit, in how many ways.

Its three forms::

    receptive_field_explorer("context")         the widget, in a notebook
    field_panels({"1, 2, 4": [conv(3, dilation=d) for d in (1, 2, 4)]})    panels of the same
    live_html("vgg16")                          the widget as a piece of a web page, without Python

The widget's arithmetic and drawing are in `receptive_field.js` and need no kernel. What it shows is also here
in Python, as pure functions: `stacks.describe` (the numbers) and `field_picture` (the pixels). A test holds both
languages equal.

Sources: the theoretical field as in `course_lib.receptive_field`; the number of paths is the gradient of a
network of equal weights, which W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive
Field in Deep Convolutional Neural Networks", NIPS 2016, call its effective field.

Departures from the paper
* Layers form one chain: shortcuts and skips, which see less than the chain, are left out of the presets.
* The field's effective size is four standard deviations of the paths.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence

import anywidget
import matplotlib
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from course_lib import plotting
from course_lib.data.scenes import Street
from course_lib.receptive_field import Layer, Upsampling, path_counts
from course_lib.widgets.frame import bundle, style_sheet
from course_lib.widgets.stacks import PRESETS, Description, Row, describe, flatten, preset_named

COLOURS = [
    [round(255 * channel) for channel in matplotlib.colormaps["viridis"](place)[:3]] for place in np.linspace(0, 1, 9)
]
"""Nine colours of viridis, from few paths to many."""


def _colour_table() -> np.ndarray:
    """Return 256 colours, (256, 3) uint8, between the nine `COLOURS`."""
    places = np.linspace(0, 8, 256)
    below = np.minimum(places.astype(int), 7)
    anchors = np.array(COLOURS, dtype=float)
    mixed = anchors[below] + (anchors[below + 1] - anchors[below]) * (places - below)[:, None]
    return np.floor(mixed + 0.5).astype(np.uint8)


def field_picture(image: Tensor, found: Description, mode: str = "paths") -> Tensor:
    """Return the image under the field of a unit: (3, H, W) uint8. Pixels with a path are coloured, others grey.

    Args:
        image: (3, H, W) uint8.
        mode: "paths": the logarithm of the number of paths; "weight": the share of the paths.
    """
    if mode not in ("paths", "weight"):
        raise ValueError(f'mode is "paths" or "weight", not {mode!r}')
    axes = [np.array([float(paths) for paths in axis]) for axis in found.counts]
    down, across = (axis > 0 for axis in axes)
    if mode == "weight":
        rows, columns = (axis / max(axis.max(), 1) for axis in axes)
        values = rows[:, None] * columns[None]
    else:
        rows, columns = (np.log(np.maximum(axis, 1)) for axis in axes)
        most = rows.max() + columns.max()
        values = (rows[:, None] + columns[None]) / most if most > 0 else np.ones(image.shape[-2:])
    pixels = image.as_subclass(Tensor).permute(1, 2, 0).numpy().astype(float)
    grey = pixels @ [0.299, 0.587, 0.114]
    painted = 0.7 * _colour_table()[np.floor(values * 255 + 0.5).astype(int)] + 0.3 * grey[..., None]
    seen = (down[:, None] & across[None])[..., None]
    result = np.floor(np.where(seen, painted, 0.35 * grey[..., None] + 130) + 0.5).astype(np.uint8)
    return torch.from_numpy(result).permute(2, 0, 1)


def example_picture() -> Tensor:
    """Return a generated street, (3, 192, 256) uint8."""
    return Street(20, (192, 256), seed=0)[3].image.as_subclass(Tensor)


def field_panels(
    stacks: Mapping[str, Sequence[Row]] | Sequence[str],
    image: Tensor | None = None,
    *,
    cell: Sequence[int] | None = None,
    mode: str = "paths",
    title: str = "",
) -> Figure:
    """Draw what the explorer shows: the image under each stack's field, and the field's profile.

    Around a small field only a part of the image is drawn, so that its pixels are seen.

    Args:
        stacks: {name: rows}, or names of `PRESETS`.
        image: (3, H, W) uint8; a generated street where there is none.
        mode: As of `field_picture`; "weight" draws a normal curve of the same spread over the profile, too.
    """
    if not isinstance(stacks, Mapping):
        stacks = {preset_named(name)["title"]: preset_named(name)["layers"] for name in stacks}
    image = example_picture() if image is None else image
    figure, axes = plotting.new_figure(2, len(stacks), 3.7 * len(stacks), 6.0)
    axes[0, 0].get_gridspec().set_height_ratios([1.9, 1])  # the pictures are what is looked at
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    for column, (name, rows) in enumerate(stacks.items()):
        found = describe(rows, tuple(image.shape[-2:]), cell)
        (top, bottom), (left, right) = found.spans
        panel = axes[0, column]
        height, width = image.shape[-2:]
        sides = f"{bottom - top + 1} x {right - left + 1} pixels, {found.read_share:.0%} read"
        plotting.draw(panel, field_picture(image, found, mode), f"{name}\n{sides}")
        side = min(4 * found.deviation, found.size)
        middle = (left + right) / 2, (top + bottom) / 2
        for corner, wide, high, colour, style in (
            ((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, "white", "-"),
            ((middle[0] - side / 2, middle[1] - side / 2), side, side, "#ffb454", "--"),
        ):
            panel.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=colour, linewidth=1.5, linestyle=style))
        tall = min(max(1.5 * found.size, 0.2 * height), height)
        wide = tall * width / height
        x = min(max(middle[0] - wide / 2, -0.5), width - 0.5 - wide)
        y = min(max(middle[1] - tall / 2, -0.5), height - 0.5 - tall)
        panel.set(xlim=(x, x + wide), ylim=(y + tall, y))
        _profile(axes[1, column], flatten(rows), found, curve=mode == "weight")
    axes[1, 0].set_ylabel("share of the paths,\nrelative to the most")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    return figure


def _profile(axes, layers: list[Layer | Upsampling], found: Description, *, curve: bool) -> None:
    first, counts = path_counts(layers, found.cell[1])
    weights = np.array([float(paths) for paths in counts])
    places = first + np.arange(len(weights))
    axes.axvspan(places[0] - 0.5, places[-1] + 0.5, color="0.88", label="can see (theoretical)")
    axes.bar(places, weights / weights.max(), width=1.0, color=plotting.COLOURS[0], label="share of the paths", lw=0)
    if curve and found.deviation > 0.5:
        mean = (weights * places).sum() / weights.sum()
        fine = np.linspace(places[0], places[-1], 201)
        peak = weights.sum() / weights.max() / (found.deviation * math.sqrt(2 * math.pi))
        values = peak * np.exp(-((fine - mean) ** 2) / (2 * found.deviation**2))
        axes.plot(fine, values, "--", color=plotting.COLOURS[4], label="normal curve of that spread")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel=f"column of the image\n4 standard deviations: {4 * found.deviation:.0f}")


# -- the widget -------------------------------------------------------------------------------------


class ReceptiveFieldExplorer(anywidget.AnyWidget):
    """The widget: `layers`, `inputs`, `cell` and `mode` are what it shows and may be set."""

    _esm = bundle("receptive_field")
    _css = style_sheet("receptive_field")

    presets = traitlets.Dict(PRESETS).tag(sync=True)
    colours = traitlets.List(COLOURS).tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)
    picture_size = traitlets.List().tag(sync=True)
    preset = traitlets.Unicode().tag(sync=True)
    layers = traitlets.List().tag(sync=True)
    inputs = traitlets.Int(3).tag(sync=True)
    cell = traitlets.List().tag(sync=True)
    mode = traitlets.Unicode("paths").tag(sync=True)

    def describe(self) -> Description:
        """Return the numbers that are shown now."""
        return describe(self.layers, tuple(self.picture_size), self.cell, inputs=self.inputs)


def receptive_field_explorer(
    preset: str | Sequence[Row] = "context",
    image: Tensor | None = None,
    *,
    cell: Sequence[int] = (),
    mode: str = "paths",
    inputs: int = 3,
) -> ReceptiveFieldExplorer:
    """Return the explorer as a widget: stack layers and see which pixels reach one unit, in how many ways.

    Args:
        preset: The stack it begins with: one of `PRESETS`, or rows made by `conv`, `pool` and `up`.
        image: (3, H, W) uint8; a generated street where there is none.
        cell: (row, column) of the unit; the middle one where empty.
        mode: "paths" (their number, log scale) or "weight" (their share: the effective field).
        inputs: Maps below the stack, for rows of your own.

    Raises:
        ValueError: For an unknown preset or mode or an image of another form.
        FieldError: (a ValueError) for rows that are impossible or do not fit the image.
    """
    image = example_picture() if image is None else image
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image is (3, H, W) uint8, not {tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
        )
    if mode not in ("paths", "weight"):
        raise ValueError(f'mode is "paths" or "weight", not {mode!r}')
    named = isinstance(preset, str)
    chosen = preset_named(preset) if named else {"inputs": inputs, "layers": list(preset)}
    describe(chosen["layers"], tuple(image.shape[-2:]), cell)
    return ReceptiveFieldExplorer(
        picture=image.as_subclass(Tensor).permute(1, 2, 0).contiguous().numpy().tobytes(),
        picture_size=list(image.shape[-2:]),
        preset=preset if named else "",
        layers=chosen["layers"],
        inputs=chosen["inputs"],
        cell=[int(place) for place in cell],
        mode=mode,
    )


def live_html(preset: str = "context", image: Tensor | None = None) -> str:
    """Return the explorer as a piece of a web page that needs no server, no kernel and no other file.

    Raises:
        ValueError: For an unknown preset.
    """
    preset_named(preset)
    image = example_picture() if image is None else image
    png = io.BytesIO()
    Image.fromarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy()).save(png, "PNG")
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
    options = json.dumps({"presets": PRESETS, "colours": COLOURS, "preset": preset})
    return "\n".join(
        [
            f"<style>\n{style_sheet('receptive_field')}</style>",
            f'<div class="ep-live" id="ep-live-{preset}"></div>',
            "<noscript>The explorer needs JavaScript.</noscript>",
            '<script type="module">',
            bundle("receptive_field"),
            f'const picture = await readPicture("{address}");',
            f'mountField(document.getElementById("ep-live-{preset}"), {{ picture, ...{options} }});',
            "</script>",
            "",
        ]
    )
