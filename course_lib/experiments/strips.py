"""Strips: one image through every row of a table, as the runs of seed 0 answer it, kept beside their records.

`results/<table>/<row>-<profile>-seed0.png` is a row's answer, `picture-<set>-<split>-<profile>.png` and
`truth-<set>-<split>-<profile>.png` what it saw and what is true: at most 160 pixels wide, classes in the colours of
their set.
Those of fetched sets, which have owners, end in `.local.png`: git leaves them where they are made.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from course_lib.data.registry import DATASETS
from course_lib.data.sample import IGNORE, Sample, SegmentationDataset
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import record_path
from course_lib.models.ancillary import Ancillary, ancillary_logits
from course_lib.plumbing.files import atomic_write
from course_lib.train import predict

WIDTH = 160
AMONG = 100
"""The image is the one with most classes, and most boxes, among so many first ones."""


def strip_paths(recipe: Recipe, records: Path | None = None) -> dict[str, Path]:
    """Return the files of a row's part of its strip: "picture", "truth" and "answer"."""
    ending = ".png" if DATASETS[recipe.dataset].files is None else ".local.png"
    path = record_path(recipe, records).with_suffix(ending)
    seen = f"{recipe.dataset}-{recipe.val_split}-{recipe.profile}{ending}"
    return {**{name: path.with_name(f"{name}-{seen}") for name in ("picture", "truth")}, "answer": path}


def shown_sample(dataset: SegmentationDataset) -> Sample:
    """Return the image that a strip shows: it depends on labels and boxes alone."""
    samples = [dataset[index] for index in range(min(AMONG, len(dataset)))]
    return max(samples, key=lambda sample: (int((sample.labels.unique() != IGNORE).sum()), len(sample.boxes)))


@torch.no_grad()
def keep_answer(recipe: Recipe, model: nn.Module, measured_on: SegmentationDataset, records: Path | None) -> None:
    """Write what a trained network answers to the strip's image, the image and its truth."""
    sample = shown_sample(measured_on)
    sees_boxes = isinstance(model, Ancillary)
    answer = ancillary_logits(model, sample).argmax(0) if sees_boxes else predict(model, sample.image)
    table = torch.full((256, 3), 255, dtype=torch.uint8)
    table[: len(measured_on.palette)] = measured_on.palette
    pictures = {"picture": sample.image.permute(1, 2, 0)}
    pictures |= {"truth": table[sample.labels.as_subclass(Tensor).long()], "answer": table[answer]}
    for name, path in strip_paths(recipe, records).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            small(pictures[name], Image.Resampling.BOX if name == "picture" else Image.Resampling.NEAREST).save(
                partial, format="PNG", optimize=True
            )


def small(picture: Tensor, resample: Image.Resampling) -> Image.Image:
    """Return (H, W, 3) uint8 as an image of at most `WIDTH` pixels width."""
    image = Image.fromarray(picture.as_subclass(Tensor).cpu().numpy())
    height = round(image.height * WIDTH / image.width)
    return image.resize((WIDTH, height), resample) if image.width > WIDTH else image
