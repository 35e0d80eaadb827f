"""The task "mix": two sets whose classes differ, mixed in one of six ways, tested on images of a third style.

Half of every batch is from each set. The words of the second set are read with the taxonomy "streets". Generated
streets at dusk are labelled with seven classes; since the generator knows the eleven, they can be relabelled.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.data.cache import Cached
from course_lib.data.camvid import CLASSES, PALETTE
from course_lib.data.corruptions import Corrupted
from course_lib.data.registry import dataset_info, open_dataset
from course_lib.data.sample import SegmentationDataset
from course_lib.data.splits import Alternating
from course_lib.experiments.building import Finished, Sitting, build_model, fit_options, mixing_words, open_split
from course_lib.experiments.recipes import MixRecipe
from course_lib.losses import Objective, pixel_objective
from course_lib.plumbing.devices import make_fabric
from course_lib.taxonomy import Taxonomy, Translated, set_objective
from course_lib.train import evaluate, fit

DUSK = ("darker", 3)
SECOND_SEED = 500_000
"""What is added to the seed of the second set of generated streets, so that no image is in both."""


class Lesson(NamedTuple):
    """What a network learns from: images, and the loss of their labels."""

    pictures: SegmentationDataset
    objective: Objective


def run(recipe: MixRecipe, sitting: Sitting) -> Finished:
    """Train by the recipe's way of mixing and measure in the eleven classes.

    Beside the mIoU, `pedestrian_iou`; and, where the first set is generated, `home_mean_iou`, on further images of it.
    """
    lesson, validation = lesson_of(recipe), open_split(recipe, recipe.val_split)
    if recipe.test_style:
        validation = Cached(Corrupted(validation, recipe.test_style, recipe.test_severity))
    fabric = sitting.fabric or make_fabric(recipe.precision)
    model = build_model(recipe, len(CLASSES)).to(fabric.device)
    options = fit_options(recipe, sitting, fabric)
    history = fit(model.model, lesson.pictures, objective=lesson.objective, **options)
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=sitting.show_progress, fabric=fabric)
        measured = {"pedestrian_iou": float(matrix.ious().nan_to_num()[CLASSES.index("Pedestrian")])}
        if recipe.test_style:
            home = open_split(recipe, recipe.val_split)
            measured["home_mean_iou"] = evaluate(model, home, show_progress=False, fabric=fabric).mean_iou()
    data = {"train": f"{recipe.first} and {recipe.second}", "train_pictures": len(lesson.pictures)}
    if recipe.mixing == "alone":
        data["train"] = recipe.first
    return Finished(model, matrix, validation, history, fabric, data, measured)


def lesson_of(recipe: MixRecipe) -> Lesson:
    """Return the images of both sets in turn, with labels as the recipe's way of mixing has them, and their loss."""
    size = (recipe.height, recipe.width)
    generated = {"length": recipe.first_length} if dataset_info(recipe.first).files is None else {}
    first = open_dataset(recipe.first, "train", size=size, **generated)
    if recipe.mixing == "alone":
        return Lesson(first, pixel_objective())
    if recipe.second == "penn_fudan":
        second = truth = open_dataset("penn_fudan", "train", size=size)
    else:
        bright = open_dataset("street", "train", size=size, length=recipe.first_length, seed=SECOND_SEED, cache=False)
        truth = Cached(Corrupted(bright, *DUSK))
        second = Translated(truth, _coarse_table(), tuple(Taxonomy.read("streets").sets["coarse"]), PALETTE[:7])
    if recipe.mixing == "relabelled":
        return Lesson(Alternating(first, truth), pixel_objective())
    tables, words, objective = tables_of(recipe)
    colours = PALETTE[torch.arange(len(words)) % len(PALETTE)]
    parts = (
        Translated(part, tables[name], words, colours) for part, name in ((first, "fine"), (second, recipe.second))
    )
    return Lesson(Alternating(*parts), objective)


def tables_of(recipe: MixRecipe) -> tuple[dict[str, Tensor], tuple[str, ...], Objective]:
    """Return the table of each set, the words of the labels that come out, and their loss."""
    streets, both = Taxonomy.read("streets"), ("fine", recipe.second)
    if recipe.mixing == "naive":
        spelt = mixing_words(recipe)
        return {name: spelt.table(name) for name in both}, spelt.classes, pixel_objective()
    if recipe.mixing == "sum_of_children":
        sets = streets.label_sets(both)
        return sets.tables, sets.classes, set_objective(sets.members)
    split = "first" if recipe.mixing == "one_child" else "ignore"
    return {name: streets.table(name, split) for name in both}, streets.classes, pixel_objective()


def _coarse_table() -> Tensor:
    """Return the label of the seven classes for each of the eleven."""
    table = torch.full((256,), 255)
    table[: len(CLASSES)] = Taxonomy.read("streets").members("coarse").argmax(0)
    return table
