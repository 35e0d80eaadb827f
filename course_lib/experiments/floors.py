"""Floors: what an answer scores that looks at no image.

* the constant answer: the most frequent class of the training labels, everywhere;
* the mean label map: at each pixel, the class that is most frequent there in the training labels.

`experiments.make_floors` computes them from the labels; `results/floors.json` keeps them, so that a report needs no
data.
"""

import json
from pathlib import Path

from course_lib.experiments.recipe import Recipe
from course_lib.plumbing.paths import ROOT

Floors = dict[str, dict[str, float]]
"""{"constant answer" or "mean label map": {"overall_accuracy" and "mean_iou", 0..1}}"""


def floors_file() -> Path:
    """Return the path of the file that keeps all floors."""
    return ROOT / "results" / "floors.json"


def floor_name(recipe: Recipe) -> str:
    """Return what a floor depends on, in words: data set, split, size, options, the class left out."""
    options = [f"{key}={value}" for key, value in sorted(recipe.dataset_options.items())]
    unseen = getattr(recipe, "unseen", "")
    parts = [recipe.dataset, recipe.val_split, f"{recipe.height}x{recipe.width}", *options]
    parts += [f"without {unseen}"] if unseen else []
    return " ".join(parts + (["one class"] if recipe.task == "detect" else []))


def read_floors() -> dict[str, Floors]:
    """Return {`floor_name`: floors} of all tables."""
    path = floors_file()
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
