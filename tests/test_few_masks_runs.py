"""Runs with few masks: who gets which pictures, what is learnt of them, and that a record's network can be made again."""

import dataclasses

import pytest
import torch
from torch import Tensor

from course_lib.data.sample import IGNORE
from course_lib.data.textures import Textures
from course_lib.experiments.building import Sitting, build_model
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.recipes import FEW_MASKS_METHODS, FewMasksRecipe
from course_lib.experiments.runs import make
from course_lib.experiments.table import Table, resolve
from course_lib.experiments.tasks import few_masks
from course_lib.models.decouplednet import DecoupledNet, JointNet

pytestmark = pytest.mark.usefixtures("one_thread")


def small(row: str = "decoupled_5", **changes) -> FewMasksRecipe:
    recipe = resolve("decouplednet", row, "quick")
    usual = {"steps": 2, "classifier_steps": 3, "batch_size": 2, "masks": 1, "warmup_steps": 0}
    usual |= {"model_options": {"width": 4, "hidden": 8, "kernel": 1, "norm": True, "stages": 2}}
    return dataclasses.replace(recipe, **{**usual, "dataset_options": {"train_length": 12, "val_length": 4}, **changes})


def test_the_first_pictures_that_hold_every_class_so_often():
    pictures = Textures(40, (32, 48), seed=3)
    held = [set(pictures[index].labels.unique().tolist()) - {0, IGNORE} for index in range(40)]
    for number in (1, 3):
        count = len(few_masks.with_masks(pictures, number))
        often = {label: sum(label in some for some in held[:count]) for label in range(1, 7)}
        assert min(often.values()) == number
        last = held[count - 1]
        assert any(often[label] == number for label in last)  # one picture fewer would not do
    assert few_masks.with_masks(pictures, 0) is pictures
    with pytest.raises(ValueError, match="masks is 40, but a class is in only"):
        few_masks.with_masks(pictures, 40)


def test_the_classifier_learns_which_classes_are_there_and_nothing_else_of_the_masks():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :3, :3], labels[1, 2, 2], labels[1, 5, 5] = 2, 3, IGNORE
    scores = torch.full((2, 3), -20.0)
    scores[0, 1] = scores[1, 2] = 20.0
    loss = few_masks.classifier_objective(lambda images: scores, None, labels)
    assert loss < 1e-6
    labels[0, 4:, 4:] = 2  # more of the same
    assert few_masks.classifier_objective(lambda images: scores, None, labels) == loss
    labels[0, 4:, 4:] = 1
    assert few_masks.classifier_objective(lambda images: scores, None, labels) > 1


def test_the_masks_are_figure_and_ground_of_one_class_that_is_there(monkeypatch):
    """A stand-in answers with the map of the class it was asked for: right for a picture of that class alone."""
    recipe, asked = small(), []
    net = build_model(recipe, 7)
    labels = torch.zeros(3, 32, 48, dtype=torch.long)
    labels[0, :9], labels[1, 9:20], labels[2, :5] = 4, 1, 6
    labels[2, 5:8] = IGNORE
    known = labels.masked_fill(labels == IGNORE, 6)  # wrong there, which nobody counts

    def masks(seen, chosen: Tensor) -> Tensor:
        asked.append(chosen)
        figure = (known == chosen.argmax(1).view(-1, 1, 1) + 1).float()
        return 40 * torch.stack([1 - figure, figure], dim=1)

    monkeypatch.setattr(net, "masks", masks)
    net.train()
    loss = few_masks.mask_objective(net, torch.rand(3, 3, 32, 48), labels)
    assert loss < 1e-6
    assert (asked[0].argmax(1) + 1).tolist() == [4, 1, 6]
    assert not net.classifier.training


@pytest.mark.parametrize("method", FEW_MASKS_METHODS)
def test_a_run(method):
    recipe = small(f"{method}_5")
    start = build_model(recipe, 7)
    model, record = make(recipe, Sitting(show_progress=False))
    assert isinstance(model, DecoupledNet if method == "decoupled" else JointNet)
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 7, 32, 48)
    assert {"presence_accuracy", "told_mean_iou"} <= set(record.metrics) or method != "decoupled"
    others = record.data["with_classes_only"]
    assert record.data["train_pictures"] + others == 12 if method != "joint" else others == 0
    start.load_state_dict(model.state_dict())


def test_a_decoupled_classifier_is_what_the_labels_of_pictures_made_it_and_the_same_in_all_rows():
    """Its masks change nothing in it; the joint network starts from it, and changes it."""
    of = {}
    for masks in (1, 2):
        options = {"train_length": 30, "val_length": 4}
        model, _ = make(small(masks=masks, dataset_options=options), Sitting(show_progress=False))
        of[masks] = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    assert all(torch.equal(value, of[2][name]) for name, value in of[1].items())
    plain = build_model(small(), 7).classifier.state_dict()
    assert not torch.equal(plain["fc6.weight"], of[1]["fc6.weight"])
    joint = small("joint_from_classifier_5", masks=1, steps=1, dataset_options=options)
    model, _ = make(joint, Sitting(show_progress=False))
    moved, taught = (
        (of_it["fc6.weight"] - plain["fc6.weight"]).norm() for of_it in (model.classifier.state_dict(), of[1])
    )
    apart = (model.classifier.fc6.weight - of[1]["fc6.weight"]).norm()
    assert 0 < apart < min(moved, taught)  # a step away from the classifier, three or more from where that began


def test_told_the_truth_it_is_as_good_as_its_masks():
    """Of pictures without a class nothing can be missed, so both numbers are of answers, from 0 to 1."""
    net, pictures = build_model(small(), 7), Textures(6, (32, 48), seed=1)
    with torch.no_grad():
        net.classifier.score.weight.zero_()
        net.classifier.score.bias.fill_(-1.0)  # says of every class that it is not there
    found = few_masks.judge(net, pictures, 4)
    here = sum(len(set(pictures[i].labels.unique().tolist()) - {0, IGNORE}) for i in range(6))
    assert found["presence_accuracy"] == pytest.approx(1 - here / 36)
    assert 0 < found["told_mean_iou"] < 1


def test_the_table_asks_all_methods_for_the_same_steps_and_three_times_as_many_where_it_says_so():
    table = Table.read("decouplednet")
    for profile in table.profiles:
        recipes = {row: recipe for (row, of), recipe in table.recipes.items() if of == profile}
        assert len({recipe.classifier_steps for recipe in recipes.values()}) == 1
        longer = recipes.pop("joint_from_classifier_5_longer").steps
        (steps,) = {recipe.steps for recipe in recipes.values()}
        assert longer == 3 * steps
        assert all("three times the steps" not in table.rows[row].label for row in recipes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "apart"}, "method is 'apart', but must be one of decoupled"),
        ({"model": "unet"}, "model is 'unet'"),
        ({"masks": -1}, "masks is -1"),
        ({"classifier_steps": 0}, "classifier_steps is 0"),
        ({"class_weighting": "median_frequency"}, "class_weighting"),
    ],
)
def test_impossible_recipes_are_refused(changes, reason):
    with pytest.raises(RecipeError, match=reason):
        small(**changes)


def test_a_set_without_background_is_refused():
    recipe = small(dataset="street")
    with pytest.raises(ValueError, match="street has no background"):
        make(recipe, Sitting(show_progress=False))
