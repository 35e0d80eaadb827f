"""Gates and floors: each closes on the records that it is for, and on no others."""

import dataclasses

import pytest
import torch

from course_lib.data.sample import DataError
from course_lib.experiments.building import open_split
from course_lib.experiments.floors import floor_name, read_floors
from course_lib.experiments.make_floors import floors
from course_lib.experiments.records import Record
from course_lib.experiments.report import gates
from course_lib.experiments.report.gates import closed_gate
from course_lib.experiments.report.scoreboard import Results
from course_lib.experiments.table import RESULT_PROFILES, Claim, Table, read_tables

TABLE = Table.read("fcn_skips")
CLAIM = TABLE.claims[0]  # fcn8s > fcn32s, which it contains
CLASSES = ("Sky", "Road", "Tree", "Car", "Pole")


def results(claim=CLAIM, **rows: dict) -> Results:
    """Return a table whose rows have three runs each, all gates open but for what `rows` changes."""
    values = {"iou": dict.fromkeys(CLASSES, 0.5), "loss": 0.4, "mean_iou": 0.5, "overall_accuracy": 0.8}
    made = Results(dataclasses.replace(TABLE, claims=(claim,)))
    for row in TABLE.rows:
        about = values | {"loss": 0.5 if row == claim.worse else 0.4} | rows.get(row, {})
        made.valid[row, "laptop"] = {
            seed: Record(
                recipe={"seed": seed},
                recipe_hash="",
                metrics={name: about[name] + 0.001 * seed for name in ("mean_iou", "overall_accuracy")},
                per_class={name: {"iou": iou, "pixels": 9} for name, iou in about["iou"].items()},
                losses=[1.0, about["loss"]],
                **{key: {} for key in ("data", "machine", "versions")},
                **dict.fromkeys(("seconds", "peak_memory_mib", "parameters"), 1),
                **dict.fromkeys(("device", "precision", "commit", "date"), ""),
            )
            for seed in range(3)
        }
    return made


@pytest.fixture(autouse=True)
def kept_floors(monkeypatch):
    low = {"overall_accuracy": 0.6, "mean_iou": 0.17}
    name = floor_name(TABLE.recipe("fcn8s", "laptop"))
    monkeypatch.setattr(gates, "read_floors", lambda: {name: {"mean label map": low}})


def reason(claim=CLAIM, **rows) -> str:
    return closed_gate(results(claim, **rows), claim, "laptop", (0, 1, 2))


def test_good_records_open_all_gates():
    assert reason() == ""


@pytest.mark.parametrize("metric", ["overall_accuracy", "mean_iou"])
def test_a_row_below_an_answer_that_looks_at_no_picture(metric):
    found = reason(fcn32s={metric: 0.1})
    assert found.startswith("FCN-32s is below the mean label map (")
    assert found.endswith(f"10.1 against {60 if metric == 'overall_accuracy' else 17}.0 %)")


def test_floors_say_nothing_of_a_metric_of_other_pictures(monkeypatch):
    below = {"overall_accuracy": 0.1}
    assert "is below" in reason(fcn32s=below)
    own = dataclasses.replace(CLAIM, metric="home_mean_iou")
    monkeypatch.setattr(gates, "ancillary_networks", lambda *_: 0)
    assert reason(own, fcn32s=below) == ""
    assert "is below" in reason(dataclasses.replace(CLAIM, metric="pedestrian_iou"), fcn32s=below)


def test_a_detector_has_no_floor_of_pixels(monkeypatch):
    below = {"overall_accuracy": 0.1}
    assert "is below" in reason(fcn32s=below)
    recipe = TABLE.recipe("fcn8s", "laptop")
    name = floor_name(recipe)
    monkeypatch.setattr(gates, "floor_name", lambda _: name)
    monkeypatch.setattr(type(recipe), "task", "detect")
    assert reason(fcn32s=below) == ""


def test_classes_that_no_row_finds():
    """Two of five classes, more than a third, are below 5 % in every row; in one row only, nothing is said."""
    poor = {"iou": dict.fromkeys(CLASSES, 0.5) | {"Car": 0.04, "Pole": None}}
    assert reason(fcn32s=poor, fcn16s=poor, fcn8s=poor) == "2 of 5 classes are below 5 % IoU in every row"
    assert reason(fcn32s=poor, fcn16s=poor) == ""


def test_a_network_that_contains_the_other_and_fits_worse():
    assert "contains FCN-32s and has the higher training loss (0.60, 0.50)" in reason(fcn8s={"loss": 0.6})
    assert reason(dataclasses.replace(CLAIM, nested=False), fcn8s={"loss": 0.6}) == ""


def test_nothing_to_win():
    """The room between two rows must surely be more than two points."""
    claim = dataclasses.replace(CLAIM, room=("fcn8s", "fcn16s"))
    assert reason(claim).startswith("nothing to win: FCN-8s is not surely 2 points above FCN-16s")
    assert reason(claim, fcn8s={"mean_iou": 0.6}) == ""
    made = results(claim, fcn8s={"mean_iou": 0.6})
    made.valid["fcn16s", "laptop"].clear()
    assert closed_gate(made, claim, "laptop", (0, 1, 2)).startswith(
        "what there is to win is not known: FCN-8s and FCN-16s"
    )


def test_of_an_error_there_is_to_win_what_it_falls():
    claim = dataclasses.replace(CLAIM, room=("fcn8s", "fcn16s"), metric="pixel_error")
    for fell, opens in ((0.1, True), (-0.1, False)):
        made = results(claim)
        for row in TABLE.rows:
            for record in made.valid[row, "laptop"].values():
                record.metrics["pixel_error"] = 0.3 - fell * (row == "fcn8s")
        assert (closed_gate(made, claim, "laptop", (0, 1, 2)) == "") == opens


def test_methods_with_different_teachers():
    """One recipe of an ancillary network, made on two machines, is two networks: their suggestions differ."""
    table = Table.read("self_correction_objects")
    claim = next(one for one in table.claims if (one.better, one.worse) == ("linear_25", "none_25"))
    one = results().valid["fcn8s", "laptop"][0]

    def reasons(claim: Claim, seeds: tuple[int, ...] = (0, 1, 2), **suggestions: str) -> str:
        made = Results(table)
        for row, of_seeds in suggestions.items():
            made.valid[row, "laptop"] = {
                seed: dataclasses.replace(one, recipe={"seed": seed}, data={"suggestions": digest})
                for seed, digest in enumerate(of_seeds)
            }
        return " ".join(gates._reasons(made, claim, "laptop", seeds))

    words = "the rows learnt from 2 ancillary networks of one recipe"
    assert words not in reasons(claim, linear_25="aaa", none_25="aaa")
    assert words in reasons(claim, linear_25="aaa", none_25="aab")
    assert words in reasons(claim, linear_25="aaa", none_25="bbb")
    assert words not in reasons(claim, seeds=(0, 1), linear_25="aaa", none_25="aab")
    half_of_f = next(one for one in table.claims if (one.better, one.worse) == ("linear_25", "convolutional_25"))
    assert words not in reasons(half_of_f, linear_25="aaa", convolutional_25="bbb")  # another recipe


def test_floors_by_hand():
    """Two training pictures: below, class 1 is as frequent as void; the map has 1 there, the constant answer is 0."""
    training = [torch.tensor([[0, 0], [1, 255]]), torch.tensor([[0, 0], [255, 255]])]
    validation = [torch.tensor([[0, 1], [1, 1]])]

    class Labels(list):
        classes = ("a", "b")

    samples = [
        Labels(type("Sample", (), {"labels": labels}) for labels in labels_of) for labels_of in (training, validation)
    ]
    found = floors(*samples)
    assert found["constant answer"] == {"overall_accuracy": 0.25, "mean_iou": pytest.approx((1 / 4 + 0) / 2)}
    assert found["mean label map"] == {"overall_accuracy": 0.5, "mean_iou": pytest.approx((1 / 3 + 1 / 3) / 2)}


def test_the_committed_floors_are_those_of_the_labels():
    recipe = Table.read("cvae_ambiguity").recipe("codes", "laptop")
    sets = [open_split(recipe, split) for split in (recipe.train_split, recipe.val_split)]
    kept = read_floors()[floor_name(recipe)]
    assert kept.keys() == floors(*sets).keys()
    for name, scores in floors(*sets).items():
        assert kept[name] == pytest.approx(scores)


def test_every_recorded_recipe_has_floors():
    """Of the sets that are here; `course data get` brings the others."""
    kept, missing = read_floors(), {}
    for table in read_tables():
        for (_, profile), recipe in table.recipes.items():
            if profile in RESULT_PROFILES and table.scored and recipe.chance and floor_name(recipe) not in kept:
                missing[floor_name(recipe)] = recipe
    for recipe in missing.values():  # python -m course_lib.experiments.make_floors computes them
        with pytest.raises(DataError):
            [open_split(recipe, split, cache=False) for split in (recipe.train_split, recipe.val_split)]
