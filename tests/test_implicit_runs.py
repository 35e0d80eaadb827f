"""Runs with an implicit background: the recipe's switches, the unseen class, and what is measured of them."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from course_lib.data import on_device
from course_lib.data.corruptions import CORRUPTIONS
from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Objects, Street
from course_lib.data.splits import WithoutClass
from course_lib.experiments import measures
from course_lib.experiments.building import Sitting, build_model, make_objective, open_splits
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.runs import make
from course_lib.experiments.table import TABLES, resolve
from course_lib.implicit_background import ImplicitBackground, scribe_loss
from course_lib.losses import cross_entropy

QUIET = Sitting(show_progress=False)

pytestmark = pytest.mark.usefixtures("one_thread")


def small(row: str = "implicit", **changes):
    """The quick recipe of the table, made smaller still, on objects and from nothing."""
    recipe = resolve("implicit_background", row, "quick")
    usual = {
        "steps": 2,
        "batch_size": 2,
        "height": 48,
        "width": 64,
        "start_from": "",
        "dataset": "objects",
        "unseen": "triangle",
        "dataset_options": {"train_length": 3, "val_length": 3},
    }
    return dataclasses.replace(recipe, **{**usual, **changes})


# -- a class that is never labelled


def test_an_unseen_class_is_ignored_and_the_others_move_up():
    objects = Objects(12, (48, 64), seed=3)
    without = WithoutClass(objects, "square")
    gone = objects.classes.index("square")
    assert without.classes == tuple(name for name in objects.classes if name != "square")
    assert torch.equal(without.palette, objects.palette[[i for i in range(9) if i != gone]])
    assert without.background == 0
    seen = 0
    for index in range(len(objects)):
        whole, part = objects[index], without[index]
        truth, labels = whole.labels.as_subclass(Tensor), part.labels.as_subclass(Tensor)
        seen += int((truth == gone).sum())
        assert torch.equal(labels == IGNORE, (truth == IGNORE) | (truth == gone))
        kept = labels != IGNORE
        assert torch.equal(labels[kept], truth[kept] - (truth[kept] > gone).long())
        names = [objects.classes[int(i)] for i in whole.box_labels if int(i) != gone]
        assert [without.classes[int(i)] for i in part.box_labels] == names
        assert part.boxes.shape == (len(names), 4)
        assert torch.equal(part.image, whole.image)
    assert seen > 0


@pytest.mark.parametrize(("name", "reason"), [("zebra", "'zebra' is none of"), ("background", "is the background")])
def test_what_cannot_be_unseen(name, reason):
    with pytest.raises(ValueError, match=reason):
        WithoutClass(Objects(1, (48, 64)), name)


def test_streets_have_no_background_and_stay_without():
    without = WithoutClass(Street(2, (48, 64)), "Car")
    assert without.background is None
    assert len(without.classes) == 10


# -- recipes


@pytest.mark.parametrize(("row", "channels"), [("explicit", 8), ("implicit", 7), ("scribe", 7)])
def test_the_background_has_a_logit_of_its_own_or_none(row, channels):
    recipe = small(row)
    training, _ = open_splits(recipe)
    assert len(training.classes) == 8
    model = build_model(recipe, len(training.classes))
    network = model if row == "explicit" else model[0]
    assert network.score.out_channels == channels
    assert model.eval()(torch.randn(1, 3, 48, 64)).shape == (1, 8, 48, 64)


def test_each_background_has_its_loss():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 7, 1)
    model = nn.Sequential(network, ImplicitBackground())
    images, labels = torch.randn(2, 3, 4, 5), torch.randint(8, (2, 4, 5))
    labels[0, 0] = IGNORE
    loss = make_objective(small("implicit"), None)(model, images, labels)
    torch.testing.assert_close(loss, cross_entropy(model(images), labels))
    scribe = make_objective(small("scribe"), None)(model, images, labels)
    torch.testing.assert_close(scribe, scribe_loss(network(images), labels))
    assert (loss - scribe).abs() > 0.01


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"aux_weight": 0.4}, "one loss, without weights"), ({"boundary_weight": 10.0}, "one loss, without weights")],
)
def test_an_implicit_background_has_no_weights(changes, reason):
    with pytest.raises(RecipeError, match=reason):
        small(**changes)


def test_a_set_without_background_cannot_have_an_implicit_one():
    with pytest.raises(ValueError, match="street has no background as class 0"):
        open_splits(small(dataset="street", unseen=""))


def test_a_table_with_a_wrong_background_is_refused(tmp_path):
    text = (TABLES / "implicit_background.toml").read_text(encoding="utf-8")
    (tmp_path / "t.toml").write_text(text.replace('"implicit" }', '"implicid" }'), encoding="utf-8")
    with pytest.raises(RecipeError, match="background is 'implicid', but must be one of explicit"):
        resolve("t", "implicit", "quick", tables=tmp_path)


def test_the_settings_change_the_hash():
    hashes = {small(row).hash() for row in ("explicit", "implicit", "scribe")}
    assert len(hashes) == 3
    assert small(unseen="").hash() not in hashes


# -- what is measured


def test_a_record_holds_robustness():
    _, record = make(small(), QUIET)
    expected = {"end_1", "end_2", "ece", "unseen_auroc", "corrupted_mean_iou"}
    expected |= {f"corrupted_{kind}" for kind in CORRUPTIONS}
    assert expected <= set(record.metrics)
    assert all(0 <= record.metrics[name] <= 1 for name in expected)
    mean = sum(record.metrics[f"corrupted_{kind}"] for kind in CORRUPTIONS) / len(CORRUPTIONS)
    assert record.metrics["corrupted_mean_iou"] == pytest.approx(mean)


class Knows(nn.Module):
    """Sure of every pixel: the true class where it was learnt, and background on the unseen class."""

    def __init__(self, answers: list[Tensor], classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answers, self.classes, self.asked = answers, classes, 0

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.stack([self.answers[(self.asked + i) % len(self.answers)] for i in range(len(images))])
        self.asked += len(images)
        return 20 * nn.functional.one_hot(labels, self.classes).movedim(-1, 1).float()


def test_a_network_that_knows_everything_measures_so(monkeypatch):
    monkeypatch.setattr(measures, "CORRUPTIONS", ["fog", "jpeg"])
    recipe = small(dataset_options={"train_length": 3, "val_length": 6})
    _, validation = open_splits(recipe)
    answers = []
    for index in range(len(validation)):
        labels = validation[index].labels.as_subclass(Tensor)
        answers.append(labels.where(labels != IGNORE, 0))
    found = measures.robustness(Knows(answers, len(validation.classes)), validation, recipe)
    assert found["unseen_auroc"] == 1
    assert found["corrupted_mean_iou"] == 1
    assert found["ece"] < 1e-6
    assert found["end_1"] < 1e-6


def test_pictures_corrupted_where_they_are_kept_are_the_same(monkeypatch):
    monkeypatch.setattr(measures, "CORRUPTIONS", ["fog", "gaussian_noise", "jpeg"])
    recipe = small()
    _, validation = open_splits(recipe)
    model = build_model(recipe, len(validation.classes))
    expected = measures.robustness(model, validation, recipe)
    monkeypatch.setattr(on_device, "KEPT_ON", {"cpu"})
    assert measures.robustness(model, validation, recipe) == expected


def test_without_an_unseen_class_nothing_is_said_of_it(monkeypatch):
    monkeypatch.setattr(measures, "CORRUPTIONS", ["fog"])
    recipe = small(unseen="")
    model, _ = make(dataclasses.replace(recipe, measures=[]), QUIET)
    _, validation = open_splits(recipe)
    assert "unseen_auroc" not in measures.robustness(model, validation, recipe)


def test_an_unseen_class_that_no_picture_shows_is_an_error(monkeypatch):
    monkeypatch.setattr(measures, "CORRUPTIONS", ["fog"])
    recipe = small(dataset_options={"train_length": 3, "val_length": 1, "count": [1, 1]})
    _, validation = open_splits(recipe)
    shown = set(validation.dataset[0].labels.unique().tolist())
    validation.index = next(index for index in range(1, 9) if index not in shown)
    with pytest.raises(ValueError, match="no validation image shows a pixel of triangle"):
        measures.robustness(build_model(recipe, 8), validation, recipe)
