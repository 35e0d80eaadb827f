"""The explorer of R-FCN's voting: a box to move, the map that each of its bins reads, and the vote.

J. Dai, Y. Li, K. He, J. Sun, "R-FCN", NIPS 2016, arXiv 1605.06409, figures 3 and 4.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib.models.rfcn import RFCN, bin_edges, pool_bins
from course_lib.plumbing.modes import evaluating
from course_lib.widgets.explorer import Answer, Choice, Event, Explorer, Panel, Slider, View
from course_lib.widgets.pixels import cells, enlarged, heat, outlined

RANGE = 4.0
"""Evidence beyond this has the last colour: a probability of 0.98."""
SIDE, GAP = 190, 6
"""Pixels that a panel is high, about, and between maps."""


@torch.no_grad()
def evidence_maps(network: RFCN, image: Tensor, label: int = 1) -> Tensor:
    """Return how much each position-sensitive map speaks for class `label` against "no object", (k, k, h, w).

    It is the difference of two logits. The mean of a box's bins is the logit of the class among these two.

    Args:
        image: (1, 3, H, W), normalised.
    """
    with evaluating(network):
        maps = network.score_maps(image)[0]  # (C + 1) k^2 maps
    maps = maps.view(network.num_classes, network.bins, network.bins, *maps.shape[-2:])
    return maps[label] - maps[0]


def pooled_evidence(maps: Tensor, box: Sequence[float], stride: int) -> Tensor:
    """Return what each bin of `box` (left, top, right, bottom, in pixels) finds on its own map, (k, k)."""
    bins = len(maps)
    roi = torch.tensor([[0.0, *box]])
    return pool_bins(maps.flatten(0, 1)[None], roi, bins, stride, position_sensitive=True)[0, 0]


def box_around(row: float, column: float, height: float, width: float, size: tuple[int, int]) -> list[float]:
    """Return the box (left, top, right, bottom) around a middle, moved so that it lies inside an image of `size`."""
    tall, wide = size
    top = min(max(row - height / 2, 0), max(tall - height, 0))
    left = min(max(column - width / 2, 0), max(wide - width, 0))
    return [left, top, min(left + width, wide), min(top + height, tall)]


def voting_view(
    maps: Mapping[int, Tensor], image: Tensor, *, bins: int, row: float, column: float, height: float, width: float
) -> View:
    """Show a box on the image, the part of each map that its bin reads, and the bins' means with their vote.

    Args:
        maps: `evidence_maps` of one image by k.
        image: (3, H, W) uint8.
        bins: k.
        row: Of the box's middle, as `column` in pixels of the image.
        height: Of the box, as `width` in pixels.
    """
    evidence, size = maps[bins], tuple(image.shape[-2:])
    stride = size[0] // evidence.shape[-2]
    box = box_around(row, column, height, width, size)
    found = pooled_evidence(evidence, box, stride)
    vote = float(found.mean())
    probability = torch.sigmoid(found.mean()).item()
    times = max(1, round(SIDE / size[0]))
    frame = tuple(round(times * box[side]) for side in (1, 0, 3, 2))
    words = (
        f"The mean of the {bins**2} bins is {vote:.2f}: an object with probability {probability:.2f}. "
        f"{int((found > 0).sum())} of {bins**2} bins speak for one."
    )
    return View(
        [
            Panel("the box", outlined(enlarged(image, times), [frame]), f"a box of {height:g}x{width:g} pixels"),
            Panel(f"{bins}x{bins} maps, each with its bin", mosaic(evidence, box, stride), words),
            Panel(
                f"bins, p = {probability:.2f}",
                cells(found, SIDE // bins, low=-RANGE, high=RANGE, style="{:.1f}"),
                words,
            ),
        ],
        words,
    )


def mosaic(maps: Tensor, box: Sequence[float], stride: int) -> Tensor:
    """Return the k x k maps beside and below each other, on each the cells that its bin of the box reads framed."""
    bins = len(maps)
    times = max(2, round((SIDE / bins) / maps.shape[-2]))
    edges = bin_edges(torch.tensor([[0.0, *box]]), bins, stride, tuple(maps.shape[-2:]))
    left, top, right, bottom = (times * edge[0] for edge in edges)
    rows = []
    for i in range(bins):
        row = []
        for j in range(bins):
            drawn = enlarged(heat(maps[i, j], -RANGE, RANGE), times)
            frame = tuple(int(value) for value in (top[i], left[j], bottom[i], right[j]))
            row.append(nn.functional.pad(outlined(drawn, [frame]), (0, GAP, 0, GAP), value=255))
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)[:, :-GAP, :-GAP]


def voting_explorer(maps: Mapping[int, Tensor], image: Tensor, box: Sequence[float]) -> Explorer:
    """Return `voting_view` with a box to drag on the image (or to move by arrow keys and Space, or by sliders).

    Args:
        maps: `evidence_maps` of one image by k.
        image: (3, H, W) uint8.
        box: Where it lies at first: (left, top, right, bottom) in pixels.
    """
    size = tuple(image.shape[-2:])
    zoom = max(1, round(SIDE / size[0]))
    left, top, right, bottom = (round(side) for side in box)

    def respond(event: Event) -> Answer:
        values = dict(event.values)
        moved = {}
        if event.points:  # the brush: the box's middle goes where it went last
            row, column = (value / zoom for value in event.points[-1])
            moved = {
                name: min(max(2 * round(value / 2), 0), side)
                for name, value, side in (("row", row, size[0]), ("column", column, size[1]))
            }
        values |= moved
        bins = int(str(values.pop("bins")).split()[-1])
        return Answer(voting_view(maps, image, bins=bins, **values), moved)

    options = [f"k = {bins}" for bins in sorted(maps)]
    return Explorer(
        respond,
        [
            Choice("bins", "bins", options, options[-1]),
            Slider("row", "middle: row", range(0, size[0] + 1, 2), 2 * ((top + bottom) // 4)),
            Slider("column", "middle: column", range(0, size[1] + 1, 2), 2 * ((left + right) // 4)),
            Slider("height", "height", range(8, size[0] + 1, 2), max(8, 2 * ((bottom - top + 1) // 2))),
            Slider("width", "width", range(8, size[1] + 1, 2), max(8, 2 * ((right - left + 1) // 2))),
        ],
        title="Position-sensitive maps: drag the box",
        brush=0,
    )
