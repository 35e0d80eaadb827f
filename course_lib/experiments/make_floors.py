"""Compute the floors under every table (`experiments.floors`) from labels alone.

What is new: python -m course_lib.experiments.make_floors; all anew: remove `results/floors.json` first.
"""

import json

import torch

from course_lib.data.sample import IGNORE, DataError, SegmentationDataset
from course_lib.experiments.building import open_split
from course_lib.experiments.floors import Floors, floor_name, floors_file, read_floors
from course_lib.experiments.recipes import UpperBoundRecipe
from course_lib.experiments.table import RESULT_PROFILES, read_tables
from course_lib.metrics import ConfusionMatrix
from course_lib.plumbing.files import write_text
from course_lib.plumbing.progress import progress_bar


def floors(training: SegmentationDataset, validation: SegmentationDataset) -> Floors:
    """Return the floors of `validation`, both sets of one size, learnt from the labels of `training`."""
    classes = len(training.classes)
    height, width = training[0].labels.shape
    seen = torch.zeros(classes, height, width, dtype=torch.int32)
    for index in range(len(training)):
        labels = training[index].labels.as_subclass(torch.Tensor)
        counted = (labels != IGNORE).int()
        seen.scatter_add_(0, torch.where(labels == IGNORE, 0, labels)[None], counted[None])
    constant = seen.sum((1, 2), dtype=torch.int64).argmax()
    answers = {
        "constant answer": torch.full((height, width), int(constant)),
        "mean label map": torch.where(seen.sum(0) > 0, seen.argmax(0), constant),
    }
    found = {name: ConfusionMatrix(classes) for name in answers}
    for index in range(len(validation)):
        labels = validation[index].labels.as_subclass(torch.Tensor)
        for name, answer in answers.items():
            found[name].update(answer[None], labels[None])
    names = ("overall_accuracy", "mean_iou")
    return {name: {key: matrix.summary()[key] for key in names} for name, matrix in found.items()}


def write_floors() -> None:
    """Compute the floors that are missing under the recorded profiles of all tables; say whose data are not here."""
    kept = read_floors()
    recipes = {
        floor_name(recipe): recipe
        for table in read_tables()
        for (_, profile), recipe in table.recipes.items()
        if table.scored and profile in RESULT_PROFILES and not isinstance(recipe, UpperBoundRecipe)
    }
    missing = {name: recipe for name, recipe in recipes.items() if name not in kept}
    for name, recipe in progress_bar(missing.items(), "floors"):
        try:
            sets = (open_split(recipe, split, cache=False) for split in (recipe.train_split, recipe.val_split))
            kept[name] = floors(*sets)
        except DataError as error:
            print(f"{name}: {error}")
    content = {name: kept[name] for name in sorted(kept) if name in recipes}
    write_text(floors_file(), json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write_floors()
