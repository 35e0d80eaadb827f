"""The explorer of resolution: what a network loses, and what it saves, on images that were shrunk before it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.costs import in_turn, multiply_adds
from course_lib.data.sample import SegmentationDataset
from course_lib.data.transforms import to_batch
from course_lib.metrics import ConfusionMatrix
from course_lib.models.blocks import resize_to
from course_lib.plotting import colourise, error_map
from course_lib.plumbing.modes import evaluating
from course_lib.widgets.explorer import Explorer, Panel, Slider, View, standing
from course_lib.widgets.pixels import hexes

SCALES = (0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class AtScale(NamedTuple):
    """A network on images that were shrunk.

    Attributes:
        size: (H, W) of what it reads.
        mean_iou: At the full size of the labels, 0 to 1.
        milliseconds: Of an image, alone.
        multiply_adds: Of an image.
        answer: The labels (H, W) of the first image, at full size.
    """

    size: tuple[int, int]
    mean_iou: float
    milliseconds: float
    multiply_adds: int
    answer: Tensor


@torch.inference_mode()
def at_scales(
    network: nn.Module, scenes: SegmentationDataset, scales: Sequence[float] = SCALES
) -> dict[float, AtScale]:
    """Return what `network` makes of all of `scenes` at each of `scales`, timed in turn."""
    images, labels = to_batch([scenes[index] for index in range(len(scenes))])
    full = images.shape[-2:]
    shrunk = {scale: resize_to(images, tuple(round(scale * side) for side in full)) for scale in scales}
    found = {}
    with evaluating(network):
        calls = {scale: lambda small=small: resize_to(network(small[:1]), full) for scale, small in shrunk.items()}
        seconds = in_turn(calls, repeats=5)
        for scale, small in shrunk.items():
            answers = resize_to(network(small), full).argmax(1)
            matrix = ConfusionMatrix(len(scenes.classes))
            matrix.update(answers, labels)
            computed = multiply_adds(network, small[:1])
            found[scale] = AtScale(
                tuple(small.shape[-2:]), matrix.mean_iou(), 1000 * seconds[scale], computed, answers[0]
            )
    return found


def resolution_view(found: dict[float, AtScale], scenes: SegmentationDataset, *, scale: float) -> View:
    """Show the answer to the first of `scenes` at one of the scales of `at_scales`, and where it is wrong."""
    sample, here, whole = scenes[0], found[scale], found[max(found)]
    zoom = min(2.0, 220 / sample.labels.shape[-1])
    saved = here.multiply_adds / whole.multiply_adds
    words = (
        f"It reads {here.size[0]}x{here.size[1]} pixels: mIoU {100 * here.mean_iou:.1f} % over {len(scenes)} images, "
        f"{here.milliseconds:.1f} ms an image, {saved:.0%} of the multiply-adds."
    )
    wrong = error_map(here.answer, sample.labels)
    return View(
        [
            Panel("image", sample.image, "the street at full size", zoom),
            Panel("answer", colourise(here.answer, scenes.palette), words, zoom),
            Panel("wrong pixels", wrong, "where the answer differs from the truth", zoom),
        ],
        words,
    )


def resolution_explorer(found: dict[float, AtScale], scenes: SegmentationDataset) -> Explorer:
    """Return `resolution_view` with a slider for the scale."""
    names = torch.cat([here.answer.flatten() for here in found.values()]).unique().tolist()
    return Explorer(
        standing(lambda scale: resolution_view(found, scenes, scale=scale)),
        [Slider("scale", "scale of the image", sorted(found), max(found))],
        title="How small may the image be?",
        legend=[(scenes.classes[index], hexes(scenes.palette)[index]) for index in names],
    )
