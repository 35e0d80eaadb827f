"""Make the committed checkpoints again: `python -m course_lib.experiments.make_checkpoints`.

Each is the half-precision copy of a recorded run on generated images, so anyone can repeat it.
"""

from pathlib import Path

import torch

from course_lib.experiments.building import checkpoint_path
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.runs import train_or_load
from course_lib.experiments.table import Table, resolve
from course_lib.plumbing.checkpoint import save_weights

STREET_TABLES = ("fcn_street", "drn_street")
"""Row `a_b` of one of these becomes the checkpoint `a-b-street`."""

OTHERS = {
    "fcn-alexnet-objects": ("receptive_objects", "fcn_alexnet"),
    "deeplab-explicit-street": ("implicit_street", "explicit"),
    "deeplab-implicit-street": ("implicit_street", "implicit"),
    "deeplab-scribe-street": ("implicit_street", "scribe"),
    "cvae-ambiguous-objects": ("cvae_ambiguity", "codes"),
    "cvae-street": ("cvae_street", "product"),
    "cvae-street-concat": ("cvae_street", "concat"),
}
"""The checkpoints with names of their own, and the table and row that each is made from."""


def make_checkpoint(recipe: Recipe, name: str) -> Path:
    """Train by the recipe, record it, and write its weights in half precision as checkpoint `name`."""
    model, record = train_or_load(recipe)
    about = {"recipe": record.recipe, "recipe_hash": record.recipe_hash, "metrics": record.metrics}
    save_weights(checkpoint_path(name), model, about=about, dtype=torch.float16)
    return checkpoint_path(name)


def checkpoints() -> dict[str, tuple[str, str]]:
    """Return {name of a committed checkpoint: the table and the row that it is made from}."""
    streets = ((table, row) for table in STREET_TABLES for row in Table.read(table).rows)
    return OTHERS | {f"{row.replace('_', '-')}-street": (table, row) for table, row in streets}


if __name__ == "__main__":
    for name, (table, row) in checkpoints().items():
        path = make_checkpoint(resolve(table, row, "laptop"), name)
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
