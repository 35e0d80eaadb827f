"""Strips: the runs of seed 0 keep one answer each, of the same picture, and a table's page shows them side by side."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import street_recipe

from course_lib.data.scenes import Street, StreetObjects
from course_lib.experiments import make_strips, runs
from course_lib.experiments.building import Sitting, open_split
from course_lib.experiments.report import steps
from course_lib.experiments.runs import make
from course_lib.experiments.strips import WIDTH, keep_answer, shown_sample, small, strip_paths
from course_lib.experiments.table import resolve
from course_lib.models import MODELS
from course_lib.models.ancillary import Ancillary, ancillary_logits
from course_lib.plumbing.paths import ROOT
from course_lib.train import predict

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"train_length": 4, "val_length": 3}
RECIPE = street_recipe(
    steps=2, checkpoint_every=2, dataset_options=OPTIONS, model_options={"width": 4, "fc_channels": 8}
)


def pixels(path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def test_a_run_of_seed_0_keeps_its_answer(tmp_path):
    model, _ = make(RECIPE, Sitting(runs=tmp_path / "runs", records=tmp_path, show_progress=False))
    paths = strip_paths(RECIPE, tmp_path)
    assert {path.name for path in (tmp_path / "test").iterdir()} == {path.name for path in paths.values()}
    validation = open_split(RECIPE, "val")
    sample = shown_sample(validation)
    assert len(sample.labels.unique()) == max(len(validation[index].labels.unique()) for index in range(3))
    assert (pixels(paths["picture"]) == sample.image.permute(1, 2, 0).numpy()).all()
    for name, labels in (("truth", sample.labels), ("answer", predict(model, sample.image))):
        seen = labels.as_subclass(torch.Tensor) != 255
        assert (pixels(paths[name])[seen] == validation.palette[labels.as_subclass(torch.Tensor)[seen]].numpy()).all()


@pytest.mark.parametrize("change", [{"val_split": "train"}, {"dataset": "street_stuff"}])
def test_rows_measured_on_another_split_or_set_have_another_picture(tmp_path, change):
    other = strip_paths(dataclasses.replace(RECIPE, row="other", **change), tmp_path)
    assert not set(other.values()) & set(strip_paths(RECIPE, tmp_path).values())


def test_a_training_is_not_lost_over_a_picture(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(runs, "keep_answer", full)
    _, record = make(RECIPE, Sitting(runs=tmp_path / "runs", records=tmp_path, show_progress=False))
    assert len(record.losses) == RECIPE.steps
    assert "plain seed 0 keeps no picture of its answer: No space left" in caplog.text


def test_other_seeds_keep_none(tmp_path):
    recipe = dataclasses.replace(RECIPE, seed=1)
    make(recipe, Sitting(runs=tmp_path / "runs", records=tmp_path, show_progress=False))
    assert not (tmp_path / "test").exists()


def test_an_ancillary_network_is_shown_the_boxes(tmp_path):
    torch.manual_seed(0)
    things = StreetObjects(3, (32, 48))
    network = Ancillary(MODELS["deeplabv3plus"](len(things.classes), depth=18, width=4, channels=8, low_channels=4))
    keep_answer(RECIPE, network.eval(), things, tmp_path)
    answer = ancillary_logits(network, shown_sample(things)).argmax(0)
    assert (pixels(strip_paths(RECIPE, tmp_path)["answer"]) == things.palette[answer].numpy()).all()


def test_a_large_picture_is_made_small_without_new_colours():
    labels = Street(1, (64, 512))[0].labels.as_subclass(torch.Tensor).clamp(max=10)
    coloured = Street(1, (64, 512)).palette[labels]
    image = small(coloured, Image.Resampling.NEAREST)
    assert image.size == (WIDTH, 20)
    assert {tuple(one) for one in np.array(image).reshape(-1, 3)} <= {
        tuple(one) for one in coloured.reshape(-1, 3).tolist()
    }


def test_a_page_shows_the_answers_that_are_there_in_the_order_of_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "strip_paths", lambda recipe: strip_paths(recipe, tmp_path))
    text = steps.answers_of_all_rows("fcn_skips", "fcn_street").data
    assert "<figure>" not in text
    assert "No run of these tables" in text
    for row in ("fcn8s", "fcn32s"):
        of_row = street_recipe(table="fcn_street", row=row, steps=1)
        for path in strip_paths(of_row, tmp_path).values():
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 3)).save(path)
    text = steps.answers_of_all_rows("fcn_skips", "fcn_street").data
    assert re.findall('alt="(.*?)"', text) == ["image", "ground truth", "FCN-32s", "FCN-8s"]
    assert "Generated streets val, laptop, seed 0" in text


def test_a_strip_names_the_colours_of_its_maps_and_no_other(data_dir):
    recipe = resolve("self_correction_street", "stuff_ancillary_25", "laptop")
    maps = [strip_paths(recipe)[name] for name in ("truth", "answer")]
    text = steps.colours_of(recipe, maps)
    names = re.findall(r"</span> (.*?)(?: &ensp;|</p>)", text)
    colours = re.findall(r"rgb\((.*?)\)", text)
    dataset = open_split(recipe, "val", cache=False)
    seen = {tuple(colour) for path in maps for colour in pixels(path).reshape(-1, 3).tolist()}
    assert {tuple(map(int, colour.split(", "))) for colour in colours} == seen
    assert {"Sky", "Road"} <= set(names) <= {*dataset.classes, "not counted"}
    away = dataclasses.replace(recipe, dataset="camvid", dataset_options={})
    assert steps.colours_of(away, maps) == ""


def test_pictures_of_a_set_with_owners_stay_out_of_git():
    assert strip_paths(RECIPE)["truth"].name == "truth-street-val-laptop.png"
    for name, path in strip_paths(dataclasses.replace(RECIPE, dataset="camvid")).items():
        assert path.name.endswith(".local.png"), name
    assert "*.local.png" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_a_recorded_run_gets_its_strip_from_the_committed_checkpoint(tmp_path, monkeypatch):
    recipe = resolve("drn_street", "drn_a18", "laptop")
    network = make_strips.network_of(recipe)
    assert make_strips.network_of(dataclasses.replace(recipe, steps=recipe.steps + 1)) is None  # of another recipe
    without = resolve("fcn_street", "fcn8s", "laptop", seed=1)
    assert make_strips.network_of(without) is None
    monkeypatch.setattr(make_strips, "train_or_load", lambda recipe: (recipe, None))
    assert make_strips.network_of(without, train=True) is without
    keep_answer(recipe, network, open_split(recipe, recipe.val_split), tmp_path)
    for name, path in strip_paths(recipe).items():
        assert (pixels(path) == pixels(strip_paths(recipe, tmp_path)[name])).mean() > 0.99, name
