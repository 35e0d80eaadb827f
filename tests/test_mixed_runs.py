"""Runs of two sets with different words: what each way of mixing trains on, and that its record can be read again."""

import dataclasses

import pytest
import torch
from data_helpers import make_penn_fudan
from torch import Tensor

from course_lib.data.camvid import CLASSES
from course_lib.data.sample import IGNORE
from course_lib.experiments.building import Sitting, build_model, mixing_words
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.recipes import MixRecipe
from course_lib.experiments.runs import make
from course_lib.experiments.table import resolve
from course_lib.experiments.tasks.mixed_sets import lesson_of

pytestmark = pytest.mark.usefixtures("one_thread")

CHILDREN = {  # of the labels of the second set, by way of mixing: construction, object, flat, nature
    "naive": ("construction", "object", "flat", "nature"),
    "one_child": ("building", "pole", "road", "tree"),
    "ignored": (None, None, None, "tree"),
    "sum_of_children": ("building or fence", "pole or sign", "road or pavement", "tree"),
}


def small(row: str, **changes) -> MixRecipe:
    recipe = resolve("mseg_street", row, "quick")
    usual = {"steps": 2, "batch_size": 2, "height": 32, "width": 48, "first_length": 4}
    return dataclasses.replace(recipe, **{**usual, "dataset_options": {"val_length": 2}, **changes})


@pytest.mark.parametrize("mixing", CHILDREN)
def test_the_words_of_the_second_set(mixing):
    recipe = small(mixing)
    pictures, _ = lesson_of(recipe)
    plain, _ = lesson_of(small("relabelled"))
    assert len(pictures) == 8
    for index in range(8):
        found, true = (part[index].labels.as_subclass(Tensor) for part in (pictures, plain))
        assert torch.equal(pictures[index].image, plain[index].image)
        if index % 2 == 0:
            assert torch.equal(found, true)  # the first set keeps its words, in the order of the outputs
            continue
        for name, child in zip(("Building", "Pole", "Road", "Tree"), CHILDREN[mixing], strict=True):
            here = found[true == CLASSES.index(name)].unique().tolist()
            assert [None if label == IGNORE else pictures.classes[label] for label in here] in ([child], [])


def test_dusk_is_darker_and_shares_no_street_with_day():
    pictures, _ = lesson_of(small("relabelled"))
    day, dusk = (torch.stack([pictures[i].image.float() for i in range(start, 8, 2)]) for start in (0, 1))
    assert dusk.mean() < 0.6 * day.mean()
    labels = [pictures[i].labels.as_subclass(Tensor) for i in range(8)]
    assert not any(torch.equal(a, b) for a in labels[::2] for b in labels[1::2])


@pytest.mark.parametrize("mixing", ["alone", "naive", "sum_of_children"])
def test_a_run(mixing):
    """It is measured in the eleven classes, whatever the network's outputs are."""
    recipe = small(mixing)
    model, record = make(recipe, Sitting(show_progress=False))
    assert set(record.per_class) == set(CLASSES)
    assert {"home_mean_iou", "pedestrian_iou", "mean_iou"} <= set(record.metrics)
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 11, 32, 48)
    outputs = len(mixing_words(recipe).classes)
    assert outputs == (17 if mixing == "naive" else 11)
    build_model(recipe, 11).load_state_dict(model.state_dict())


@pytest.mark.parametrize("mixing", ["naive", "ignored", "sum_of_children"])
def test_people_beside_streets(tmp_path, monkeypatch, mixing):
    make_penn_fudan(tmp_path)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    pictures, _ = lesson_of(small(mixing, second="penn_fudan"))
    labels = pictures[1].labels.as_subclass(Tensor)
    words = {IGNORE if label == IGNORE else pictures.classes[label] for label in labels.unique().tolist()}
    others = " or ".join(name for name in mixing_words(small("alone")).classes if name != "pedestrian")
    background = {"naive": "background", "ignored": IGNORE, "sum_of_children": others}[mixing]
    assert words == {background, "pedestrian"}
    assert pictures[0].labels.shape == labels.shape


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mixing": "blend"}, "mixing is 'blend', but must be one of alone"),
        ({"second": "voc"}, "second is 'voc'"),
        ({"second": "penn_fudan", "mixing": "relabelled"}, "nobody has relabelled"),
        ({"first_length": 0}, "first_length is 0"),
        ({"test_severity": 6}, "test_severity is 6"),
        ({"class_weighting": "median_frequency"}, "class_weighting"),
    ],
)
def test_impossible_recipes_are_refused(changes, reason):
    with pytest.raises(RecipeError, match=reason):
        small("alone", **changes)
