"""Every row of every table at its gpu profile, on the card: built, trained four steps, measured on two pictures.

The sets of files are tiny copies of their layouts, enlarged to the recipes' sizes, so that no data is needed.
Warnings are no errors here, for they differ from machine to machine.
"""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import (
    camvid_mask,
    make_camvid,
    make_cityscapes,
    make_isbi_em,
    make_penn_fudan,
    make_voc,
    make_voc_animals,
    save_mask,
)
from PIL import Image

from course_lib import train
from course_lib.data.registry import dataset_info
from course_lib.experiments import building
from course_lib.experiments.building import Sitting
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.recipes import MixRecipe, SelfCorrectionRecipe, TrainRecipe
from course_lib.experiments.records import Record
from course_lib.experiments.runs import make
from course_lib.experiments.table import read_tables
from course_lib.plumbing.machine import best_precision

CARD = torch.cuda.is_available()
STEPS, BATCH = 4, 4


def rows(profile: str) -> dict[str, Recipe]:
    """The recipe of every row that has runs, by table and row."""
    tables = [table for table in read_tables() if profile in table.profiles]
    return {
        f"{table.name}-{row}": recipe
        for table in tables
        for (row, of), recipe in table.recipes.items()
        if of == profile
    }


def cut(recipe: Recipe) -> Recipe:
    """The same recipe with four steps, at most four pictures a step, and as few pictures as that needs."""
    options = dict(recipe.dataset_options)
    if dataset_info(recipe.dataset).files is None:
        options |= {"train_length": 6, "val_length": 2}
    changes = {"dataset_options": options}
    if recipe.steps:
        changes |= {"steps": STEPS, "warmup_steps": 0, "batch_size": min(recipe.batch_size, BATCH)}
        changes["checkpoint_every"] = 0
        changes["model_options"] = {key: value for key, value in recipe.model_options.items() if key != "imagenet"}
    if isinstance(recipe, TrainRecipe):
        changes["train_length"] = 0
    if isinstance(recipe, SelfCorrectionRecipe):
        changes["full_length"] = 2
    if isinstance(recipe, MixRecipe):
        changes["first_length"] = 6
    return replace(recipe, **changes)


def make_data(root: Path) -> None:
    """Every set of files that a table names: a few pictures to train on, two to measure."""
    for path in make_camvid(root, 6).glob("*annot/*.png"):
        values = camvid_mask()
        values[2:8, 16:30] = 10  # a bicyclist: the class that one table takes out
        save_mask(path, values)
    for split in ("val", "test"):
        for path in (root / "camvid").glob(f"{split}*/*_00[2-5].png"):
            path.unlink()
    make_voc(root, train=4, val=2, extra=2)
    for path in make_voc_animals(root, train=4, val=2, extra=2).rglob("SegmentationClass/*.png"):
        values = np.array(Image.open(path))
        values[14:20, 4:16] = 17  # a sheep: the class that one table takes out
        save_mask(path, values)
    for path in [*make_cityscapes(root).rglob("*_000019_*")]:
        for number in range(20, 26 if "train" in path.name else 21):
            shutil.copy(path, path.with_name(path.name.replace("_000019_", f"_0000{number}_")))
    make_isbi_em(root)
    make_penn_fudan(root)


@pytest.fixture(scope="module", autouse=True)
def _data(tmp_path_factory):
    """Tiny sets; and because several tests share a card, no other processes and no long search for kernels."""
    root = tmp_path_factory.mktemp("data")
    make_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(root))
        patch.setattr(building, "loading_processes", lambda *_: 0)
        patch.setattr(torch.backends.cudnn, "benchmark_limit", 1)
        patch.setattr(train, "PAYS_AFTER", 1)
        yield


def check(recipe: Recipe, record: Record) -> None:
    """What every record must hold, whatever four steps have learnt."""
    pictures = record.data["measured_pictures"]
    assert pictures == (6 if recipe.dataset == "isbi_em" else 2)  # its last six slices
    assert sum(entry["pixels"] for entry in record.per_class.values()) > 0
    for name in ("mean_iou", "overall_accuracy"):
        assert 0 <= record.metrics[name] <= 1, name
    if recipe.steps:
        assert len(record.losses) == STEPS
        assert all(map(math.isfinite, record.losses))
        assert record.parameters > 0


@pytest.mark.skipif(not CARD, reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", rows("gpu") if CARD else ["every row"])
def test_a_row_trains_and_is_measured(name):
    recipe = cut(rows("gpu")[name])
    _, record = make(recipe, Sitting(show_progress=False))
    check(recipe, record)
    if recipe.steps:
        assert record.device == "cuda"
        assert record.precision.startswith(best_precision(torch.device("cuda")))
    torch.cuda.empty_cache()  # for the tests beside this one
