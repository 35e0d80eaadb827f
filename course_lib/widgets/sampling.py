"""The explorer of sampling points: move a unit, and see which points of the image its layers read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import ImageDraw
from torch import Tensor, nn

from course_lib.data.sample import SegmentationDataset
from course_lib.data.transforms import normalise
from course_lib.sampling_points import effective_dilation, layer_taps, sampling_points
from course_lib.widgets.explorer import Answer, Choice, Event, Explorer, Panel, Slider, View
from course_lib.widgets.pixels import VERMILION, as_image, as_picture, enlarged, heat

TIMES = 3
"""How often a pixel of the image is drawn each way, so that points lie between pixels."""
UNIT = (0, 114, 178)


class Reading(NamedTuple):
    """What one network's layers read of one image.

    Attributes:
        image: (3, H, W) uint8.
        taps: Of each layer, (1, k^2, 2, h, w), from `layer_taps`.
        stride: Pixels a cell.
    """

    image: Tensor
    taps: Sequence[Tensor]
    stride: int


def read_picture(network: nn.Module, layers: Sequence[nn.Module], image: Tensor, stride: int = 4) -> Reading:
    """Return what `layers` of the network, at `stride` pixels a cell, read of an image (3, H, W) uint8."""
    device = next(network.parameters()).device
    taps = layer_taps(network, layers, normalise(image)[None].to(device))
    return Reading(image.as_subclass(Tensor), [one.cpu() for one in taps], stride)


def sampling_view(reading: Reading, *, row: int, column: int) -> View:
    """Show the sampling points of the unit in a cell on the image, and the last layer's effective dilation everywhere.

    Raises:
        ValueError: For a cell outside the map.
    """
    height, width = reading.taps[-1].shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"row {row}, column {column} is outside the map of {height}x{width} cells")
    points = sampling_points(reading.taps, (row, column))
    picture = as_image(enlarged((0.6 * reading.image.float() + 100).to(torch.uint8), TIMES))
    pen = ImageDraw.Draw(picture)
    for down, right in (TIMES * (reading.stride * points + 0.5)).tolist():
        pen.rectangle((right - 1, down - 1, right + 1, down + 1), fill=VERMILION)
    down, right = (TIMES * (reading.stride * place + 0.5) for place in (row, column))
    pen.ellipse((right - 6, down - 6, right + 6, down + 6), outline="white", width=3)
    pen.ellipse((right - 5, down - 5, right + 5, down + 5), outline=UNIT, width=3)
    dilation = effective_dilation(reading.taps[-1])[0]
    reach = float((points - torch.tensor([row, column])).norm(dim=1).mean()) * reading.stride
    high = max(4.0, float(dilation.max()))
    words = (
        f"The unit reads {len(points)} points, {reach:.0f} pixels away on average; the effective dilation of its last "
        f"layer is {dilation[row, column]:.1f}."
    )
    shown = enlarged(heat(dilation, 0, high), TIMES * reading.stride)
    return View(
        [
            Panel("sampling points", as_picture(picture), words),
            Panel(f"effective dilation, 0 to {high:.0f}", shown, f"mean {dilation.mean():.1f}, brighter is wider"),
        ],
        words,
    )


def sampling_explorer(
    networks: Mapping[str, tuple[nn.Module, Sequence[nn.Module]]],
    scenes: SegmentationDataset,
    *,
    picture: int = 0,
    stride: int = 4,
) -> Explorer:
    """Return `sampling_view` with a unit to move: click or drag on the image, or use the sliders.

    Args:
        networks: {name: (network, its layers)}; the last one is shown first.
        scenes: Images of one size.
        picture: The one it starts with.
        stride: Pixels a cell of the layers.
    """
    readings: dict[tuple[str, int], Reading] = {}

    def reading(name: str, index: int) -> Reading:
        if (name, index) not in readings:
            readings[name, index] = read_picture(*networks[name], scenes[index].image, stride)
        return readings[name, index]

    names = list(networks)
    height, width = reading(names[-1], picture).taps[-1].shape[-2:]

    def respond(event: Event) -> Answer:
        row, column = int(event.values["row"]), int(event.values["column"])
        if event.points:
            down, right = event.points[-1]
            row = min(max(round(down / TIMES / stride), 0), height - 1)
            column = min(max(round(right / TIMES / stride), 0), width - 1)
        shown = reading(event.values["network"], int(event.values["picture"]))
        return Answer(sampling_view(shown, row=row, column=column), {"row": row, "column": column})

    return Explorer(
        respond,
        [
            Choice("network", "network", names, names[-1]),
            Slider("picture", "image", range(len(scenes)), picture),
            Slider("row", "row of the unit", range(height), height // 2),
            Slider("column", "column of the unit", range(width), width // 4),
        ],
        title="What does this unit read?",
        brush=0,
        legend=[("the unit", "#0072b2"), ("a sampling point", "#d55e00")],
    )
