"""The explorer of metrics: paint a prediction, and watch what each metric makes of it.

The definitions are those of `course_lib.metrics`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.metrics import ConfusionMatrix
from course_lib.plotting import colourise, error_map
from course_lib.widgets.explorer import Answer, Button, Choice, Event, Explorer, Panel, Slider, View
from course_lib.widgets.pixels import bytes_of, cells, headed, hexes, paint, tables

MATRIX, HEAD = 300, 18
"""Pixels that the matrix is wide, at most, and of the colours around it."""
GROUPS = {
    "sky": ("Sky",),
    "building": ("Building", "Fence"),
    "road": ("Road", "Pavement"),
    "tree": ("Tree",),
    "car": ("Car",),
    "person": ("Pedestrian", "Bicyclist"),
    "pole": ("Pole", "SignSymbol"),
}
"""The explorer's classes, and those of the generated street that each of them holds."""


class Truth(NamedTuple):
    """What a prediction is compared with.

    Attributes:
        labels: (H, W) int64, 255 where nothing counts.
        classes: Their names.
        palette: (C, 3) uint8.
    """

    labels: Tensor
    classes: Sequence[str]
    palette: Tensor


def grouped_street(index: int = 5, size: tuple[int, int] = (72, 96)) -> Truth:
    """Return the truth of a generated street in the seven classes of `GROUPS`."""
    streets = Street(index + 1, size, seed=2)
    fine = streets[index].labels.as_subclass(Tensor)
    labels = torch.full_like(fine, IGNORE)
    for number, names in enumerate(GROUPS.values()):
        for name in names:
            labels[fine == streets.classes.index(name)] = number
    first = [streets.classes.index(names[0]) for names in GROUPS.values()]
    return Truth(labels, list(GROUPS), streets.palette[first])


def beginnings(truth: Truth) -> dict[str, Tensor]:
    """Return predictions to begin with, (H, W) each: the truth, its largest class alone, blocks of 8, the truth moved.

    Where the truth is ignored the largest class stands.
    """
    labels = truth.labels
    height, width = labels.shape
    largest = int(torch.bincount(labels[labels != IGNORE]).argmax())
    filled = torch.where(labels == IGNORE, largest, labels)
    rows, columns = ((torch.arange(side) // 8 * 8 + 4).clamp(max=side - 1) for side in (height, width))
    return {
        "truth": filled,
        "largest": torch.full_like(labels, largest),
        "blocks": filled[rows[:, None], columns],
        "shifted": filled[:, (torch.arange(width) - 2).clamp(min=0)],
    }


def metrics_view(truth: Truth, prediction: Tensor, *, zoom: float = 2.5) -> View:
    """Show a prediction (H, W), the truth, the wrong pixels, and the confusion matrix in percent of each true class."""
    matrix = ConfusionMatrix(len(truth.classes))
    matrix.update(prediction[None], truth.labels[None])
    counts = matrix.counts.double()
    shares = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    counted = truth.labels != IGNORE
    wrong = int((prediction != truth.labels)[counted].sum())
    on_diagonal = ", ".join(
        f"{name} {share:.0f}" for name, share in zip(truth.classes, shares.diagonal().tolist(), strict=True)
    )
    side = MATRIX // len(truth.classes)
    grid = headed(cells(shares, side, low=0, high=100, style="{:.0f}", name="Blues"), truth.palette, side, HEAD)
    panels = [
        Panel(
            "prediction: paint here", colourise(prediction, truth.palette), f"{len(prediction.unique())} classes", zoom
        ),
        Panel(
            "ground truth",
            colourise(truth.labels, truth.palette),
            f"{len(truth.labels[counted].unique())} classes",
            zoom,
        ),
        Panel("wrong pixels", error_map(prediction, truth.labels), f"{wrong} pixels are wrong", zoom),
        Panel(
            "confusion matrix, %",
            grid,
            "of each true class: rows are true classes, columns predicted ones, in the order of the legend; on the diagonal: "
            f"{on_diagonal}",
        ),
    ]
    known = {name: iou for name, iou in zip(truth.classes, matrix.ious().tolist(), strict=True) if iou == iou}
    said = ", ".join(f"{name} {iou:.2f}" for name, iou in known.items())
    words = (
        f"OP {matrix.overall_accuracy():.3f}, PC {matrix.mean_accuracy():.3f}, mIoU {matrix.mean_iou():.3f}, "
        f"fwIoU {matrix.frequency_weighted_iou():.3f}. IoU: {said}."
    )
    return View(panels, words)


class Session:
    """The prediction that is painted on. `respond` is the explorer's; everything else is in pure functions."""

    def __init__(self, truth: Truth):
        self.truth, self.begin = truth, beginnings(truth)
        self.prediction = self.begin["shifted"]

    def respond(self, event: Event) -> Answer:
        if event.pressed:
            self.prediction = self.begin[event.pressed]
        if event.points:
            under = paint(torch.zeros(self.prediction.shape, dtype=torch.bool), event.points, event.values["radius"])
            label = self.truth.classes.index(event.values["class"])
            self.prediction = torch.where(under, label, self.prediction)
        return Answer(metrics_view(self.truth, self.prediction))


def metrics_explorer() -> Explorer:
    """Return the explorer: paint over a spoilt truth and watch OP, PC, IoU and the matrix move."""
    truth = grouped_street()
    return Explorer(
        Session(truth).respond,
        [
            Choice("class", "class to paint", truth.classes, "car"),
            Slider("radius", "brush radius", range(1, 13), 4),
            Button("shifted", "The truth, moved by 2 pixels"),
            Button("blocks", "Blocks of 8 pixels"),
            Button("largest", "The largest class everywhere"),
            Button("truth", "The truth"),
        ],
        title="Metrics: paint a prediction",
        legend=[*zip(truth.classes, hexes(truth.palette), strict=True), ("wrong", "#fa0ab9")],
        brush=0,
        module="metrics",
        data={
            "labels": bytes_of(truth.labels),
            "palette": bytes_of(truth.palette),
            "names": list(truth.classes),
            "size": list(truth.labels.shape),
            "zoom": 2.5,
            "blues": tables("Blues")["Blues"],
        },
    )
