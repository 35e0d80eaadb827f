"""Make the strips (`experiments.strips`) of runs of seed 0 that kept none, from their weights.

`python -m course_lib.experiments.make_strips` takes the weights that this machine has in `runs/`, or the committed
checkpoint that is the half-precision copy of the recorded run. Of the tables named behind it, such as `pspnet_context`,
it trains the runs whose weights nobody kept: the same recipe and seed on this machine, the record stays as it is.
"""

import sys
from collections.abc import Collection

from torch import nn

from course_lib.experiments.building import build_model, checkpoint_path, open_split, trained_model
from course_lib.experiments.make_checkpoints import checkpoints
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import record_state
from course_lib.experiments.runs import train_or_load
from course_lib.experiments.strips import keep_answer, strip_paths
from course_lib.experiments.table import RESULT_PROFILES, read_tables
from course_lib.plumbing.checkpoint import load_weights


def network_of(recipe: Recipe, *, train: bool = False) -> nn.Module | None:
    """Return the network of a run: of its weights here, or of a committed checkpoint of the same recipe.

    Args:
        train: Whether it is trained where there is neither; else the answer is None.
    """
    names = {row: name for name, row in checkpoints().items()}
    model, name = trained_model(recipe), names.get((recipe.table, recipe.row))
    if model is None and name is not None:
        made = build_model(recipe, len(open_split(recipe, recipe.val_split, cache=False).classes))
        model = made.eval() if load_weights(checkpoint_path(name), made)["recipe_hash"] == recipe.hash() else None
    return train_or_load(recipe)[0] if model is None and train else model


def write_strips(train: Collection[str] = ()) -> None:
    """Write the missing answers of all recorded runs of seed 0 whose network is kept, or of a table in `train`."""
    for table in read_tables():
        for (_, profile), recipe in table.recipes.items():
            recorded = profile in RESULT_PROFILES and recipe.chance and record_state(recipe)[0] == "valid"
            if not recorded or strip_paths(recipe)["answer"].exists():
                continue
            model = network_of(recipe, train=table.name in train)
            if model is not None:
                keep_answer(recipe, model, open_split(recipe, recipe.val_split), None)
                print(strip_paths(recipe)["answer"])


if __name__ == "__main__":
    write_strips(sys.argv[1:])
