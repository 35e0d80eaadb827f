"""The task "detect": a recipe trained and measured, its record, and its weights read again."""

import pytest
import torch
from torch import Tensor

from course_lib.data.scenes import Objects, Street
from course_lib.data.splits import OneClass
from course_lib.detection import PaintedBoxes, proposal_grid
from course_lib.experiments.building import Sitting, build_detector, build_model, open_split, trained_model
from course_lib.experiments.check import problems_of
from course_lib.experiments.floors import floor_name
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.recipes import DetectRecipe, recipe_from
from course_lib.experiments.runs import complete
from course_lib.experiments.table import Table, read_tables
from course_lib.experiments.tasks import detect
from course_lib.models import DETECTORS

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "rfcn": {"bins": 2, "depth": 0, "width": 4, "reduced": 0},
    "pyramid_detector": {"bins": 2, "hidden": 8, "depth": 18, "width": 4, "channels": 4, "canonical_size": 24},
}


def tiny_recipe(**changes) -> DetectRecipe:
    settings = {"table": "test", "row": "plain", "profile": "laptop", "seed": 0, "dataset": "objects", "height": 32}
    settings |= {"width": 48, "model": "rfcn", "model_options": TINY["rfcn"], "steps": 3, "batch_size": 2}
    settings |= {"dataset_options": {"train_length": 4, "val_length": 3}, "proposal_sides": [12.0, 20.0]}
    return DetectRecipe(**settings | {"rois": 12, "checkpoint_every": 2} | changes)


@pytest.mark.parametrize("model", DETECTORS)
def test_a_run_and_its_record(model, tmp_path):
    recipe = tiny_recipe(model=model, model_options=TINY[model])
    sitting = Sitting(runs=tmp_path / "runs", records=tmp_path / "results", show_progress=False)
    record = complete(recipe, sitting)
    names = {f"{key}{size}" for key in ("ap", "ap50", "ap75") for size in ("", "_small", "_medium", "_large")}
    assert names <= record.metrics.keys()
    assert all(0 <= record.metrics[name] <= 1 for name in names)
    assert set(record.per_class) == {"background", "object"}
    assert record.data["measured_pictures"] == 3
    assert (tmp_path / "results" / "test" / "plain-laptop-seed0.png").exists()
    assert recipe_from(recipe.settings()) == recipe
    again = trained_model(recipe, tmp_path / "runs")
    assert again.network.bins == 2
    assert complete(recipe, sitting).date == record.date  # read, not made again


@pytest.mark.parametrize(("hardest", "chosen"), [(0.0, "random_rois"), (0.7, "hard_rois"), (1.0, "hard_rois")])
def test_which_boxes_are_learnt_from(hardest, chosen, tmp_path, monkeypatch):
    seen = []
    for name in ("random_rois", "hard_rois"):
        made = getattr(detect, name)
        monkeypatch.setattr(
            detect, name, lambda *args, made=made, name=name, **kw: seen.append((name, args)) or made(*args, **kw)
        )
    sitting = Sitting(runs=tmp_path / "runs", records=tmp_path / "results", show_progress=False)
    record = complete(tiny_recipe(hardest=hardest), sitting)
    assert seen == [(chosen, (12, hardest) if hardest else (12,))]
    assert len(record.losses) == 3


def test_what_a_recipe_must_be():
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(
            proposal_sides=[],
            rois=0,
            background_low=0.6,
            class_weighting="median_frequency",
            proposal_step=0,
            hardest=2,
        )
    words = str(caught.value)
    for key in ("proposal_sides", "rois", "background_low", "class_weighting", "proposal_step", "hardest"):
        assert key in words
    with pytest.raises(ValueError, match="model 'fcn8s' is none of rfcn, pyramid_detector"):
        build_detector(tiny_recipe(model="fcn8s"), 2)
    assert tiny_recipe().hash() != tiny_recipe(proposal_sides=[12.0, 22.0]).hash()


def test_the_seed_decides_the_start():
    first, second, other = (build_model(tiny_recipe(seed=seed), 2).network.scores.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_all_objects_are_of_one_class():
    scenes = Objects(2, (32, 48))
    one = OneClass(scenes)
    assert (len(one), one.classes) == (2, ("background", "object"))
    for index in range(2):
        plain, merged = scenes[index], one[index]
        assert merged.box_labels.tolist() == [1] * len(plain.boxes)
        assert torch.equal(merged.boxes, plain.boxes)
        assert torch.equal(merged.labels == 255, plain.labels == 255)
        assert torch.equal(merged.labels == 0, plain.labels == 0)
    with pytest.raises(ValueError, match="background"):
        OneClass(Street(2, (32, 48)))
    assert open_split(tiny_recipe(), "val").classes == ("background", "object")
    assert floor_name(tiny_recipe()).endswith("one class")


class TwoBoxes(torch.nn.Module):
    """Proposal 3 of picture 0 has the score 0.9, proposal 20 of picture 1 has 0.6, and 10 has 0.4."""

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.full((2, len(rois) // 2), 0.01)
        scores[0, 3], scores[1, 20], scores[1, 10] = 0.9, 0.6, 0.4
        logits = torch.stack([torch.zeros(len(rois)), scores.flatten().logit()], dim=1)
        return logits, torch.zeros(len(rois), 4)


def test_boxes_are_painted_where_their_score_is_above_a_half():
    proposals = proposal_grid((32, 48), sides=(12,))
    logits = PaintedBoxes(TwoBoxes(), proposals, 2)(torch.zeros(2, 3, 32, 48))
    expected = torch.zeros(2, 32, 48)
    for picture, number in ((0, 3), (1, 20)):
        left, top, right, bottom = proposals[number].int().tolist()
        expected[picture, top:bottom, left:right] = 1
    assert torch.equal(logits.argmax(1), expected.long())
    assert sorted({round(value, 3) for value in logits[1, 1].unique().tolist()}) == [0, 0.4, 0.6]


@pytest.mark.parametrize(
    "table",
    [table for table in read_tables() if table.name in ("rfcn_bins", "fpn_parts", "ohem_boxes")],
    ids=lambda table: table.name,
)
def test_the_tables_of_objects(table: Table):
    assert problems_of(table) == []
    for recipe in table.recipes.values():
        assert isinstance(recipe, DetectRecipe)
        with torch.device("meta"):
            DETECTORS[recipe.model](2, **recipe.model_options)
