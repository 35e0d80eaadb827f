"""Records and the way to them: written once, found only for their recipe, and edits are found out."""

import dataclasses
import json

import pytest
import torch
from training_helpers import street_recipe

from course_lib.experiments import building, records
from course_lib.experiments.building import Sitting, trained_model
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import (
    Record,
    RecordError,
    find_record,
    read_record,
    record_path,
    run_folder,
    write_record,
)
from course_lib.experiments.runs import make, train_or_load
from course_lib.experiments.table import resolve
from course_lib.experiments.tasks import train
from course_lib.losses import pixel_objective
from course_lib.train import Checkpoints, fit

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = street_recipe(profile="quick", model="fcn8s", steps=3)


QUIET = Sitting(show_progress=False)


def record(recipe: Recipe = RECIPE, **changes) -> Record:
    values = {
        "recipe": recipe.settings(),
        "recipe_hash": recipe.hash(),
        "metrics": {"mean_iou": 1 / 3, "overall_accuracy": 0.1 + 0.2},
        "per_class": {"Sky": {"iou": 0.5, "accuracy": None, "pixels": 12}},
        "data": {"set": "street", "size": "32x48"},
        "seconds": 1.5,
        "peak_memory_mib": 200.0,
        "parameters": 12,
        "device": "cpu",
        "precision": "32-true",
        "machine": {"cpu": "Prüfstand"},
        "versions": {"torch": "2"},
        "commit": "abc",
        "date": "2026-01-01T00:00:00+00:00",
        "losses": [2.4, 1 / 7],
    }
    return Record(**(values | changes))


def test_what_was_measured_on_the_way_is_kept_and_nothing_where_nothing_was(tmp_path):
    looked = record(evaluations=[{"step": 5, "target_mean_iou": 0.25}])
    write_record(looked, tmp_path / "looked.json")
    assert read_record(tmp_path / "looked.json") == looked
    assert "evaluations" not in record().content()
    assert looked.digest() != record().digest()


@pytest.fixture
def path(tmp_path):
    return record_path(RECIPE, tmp_path)


# -- reading and writing ----------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(tmp_path, path):
    write_record(record(), path)
    assert path == tmp_path / "test" / "plain-quick-seed0.json"
    assert read_record(path) == record()
    assert find_record(RECIPE, tmp_path) == record()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.3333333333333333", "0.3433333333333333"),
        ('"pixels": 12', '"pixels": 13'),
        ('"seconds": 1.5', '"seconds": 1.4'),
        ('"device": "cpu"', '"device": "gpu"'),
        ('"digest": "', '"digest": "0'),
    ],
)
def test_an_edit_is_found_out(tmp_path, path, old, new):
    write_record(record(), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RecordError, match=f"{path} was changed after it was written"):
        read_record(path)
    with pytest.raises(RecordError):
        find_record(RECIPE, tmp_path)


def test_another_layout_of_the_same_content_is_no_edit(path):
    write_record(record(), path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert read_record(path) == record()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"3", b'{"digest": "0"}', b'{"schema": 1}', b"\xff\xfe\x00garbage"]
)
def test_what_is_no_record_is_named(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=f"{path} is no readable record .*run its row again"):
        read_record(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_record_is_named(path, share):
    write_record(record(), path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(RecordError, match="is no readable record"):
        read_record(path)


@pytest.mark.parametrize("key", ["metrics", "recipe_hash", "machine"])
def test_a_record_without_a_part_is_named(path, key):
    write_record(record(), path)
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=f"no readable record .*{key}"):
        read_record(path)


def test_a_newer_schema_asks_for_a_newer_course(path):
    write_record(dataclasses.replace(record(), schema=records.SCHEMA + 1), path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "a_new_field": 1}))
    with pytest.raises(RecordError, match=r"has schema 2, .* reads up to 1: update the course"):
        read_record(path)


def test_the_record_of_a_changed_recipe_is_not_found(tmp_path, path):
    write_record(record(), path)
    assert find_record(RECIPE, tmp_path) is not None
    assert find_record(dataclasses.replace(RECIPE, steps=4), tmp_path) is None
    assert find_record(dataclasses.replace(RECIPE, checkpoint_every=9), tmp_path) is not None
    assert find_record(dataclasses.replace(RECIPE, seed=1), tmp_path) is None


# -- from a recipe to a record ----------------------------------------------------------------------

TABLE = """
title = "A table for tests"

[recipe]
dataset = "street"
height = 32
width = 48
model = "fcn16s"
steps = 6
batch_size = 2
class_weighting = "median_frequency"
scale = [0.8, 1.5]
crop = [32, 32]
precision = "32-true"

[recipe.dataset_options]
train_length = 6
val_length = 3
train_ambiguity = 1.0

[recipe.model_options]
width = 4
fc_channels = 8
norm = true
padding = "same"

[profiles.quick]

[profiles.laptop]
checkpoint_every = 2

[rows.plain]
label = "plain"
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe that keeps checkpoints; its runs and its records go to temporary folders."""
    (tmp_path / "test.toml").write_text(TABLE)
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    return resolve("test", "plain", "laptop", 1, tmp_path)


def same_weights(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_knobs_of_one_split_are_for_that_split(recipe):
    training, validation = building.open_splits(recipe)
    assert (len(training), len(validation)) == (6, 3)
    same_length = dataclasses.replace(recipe, dataset_options={"length": 3, "val_noise": 0.0, "noise": 0.5})
    training, validation = building.open_splits(same_length)
    assert training[0].image.float().diff().abs().mean() > 2 * (validation[0].image.float().diff().abs().mean())
    shorter = dataclasses.replace(recipe, train_length=2)
    assert len(building.open_splits(shorter)[0]) == 2
    with pytest.raises(ValueError, match="train_length is 7, but street has 6 images"):
        building.open_splits(dataclasses.replace(recipe, train_length=7))


def test_an_unknown_model_is_named(recipe):
    with pytest.raises(ValueError, match="model 'fcn4s' is none of fcn32s, fcn16s, fcn8s"):
        building.build_model(dataclasses.replace(recipe, model="fcn4s"), 11)


def test_a_run_says_what_it_measured_and_on_what(recipe, tmp_path):
    model, measured = make(recipe, QUIET)
    assert measured.recipe == recipe.settings()
    assert measured.recipe_hash == recipe.hash()
    assert set(measured.metrics) == {"overall_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"}
    assert sum(entry["pixels"] for entry in measured.per_class.values()) == 3 * 32 * 48
    assert measured.data["measured_on"] == "val"
    assert (measured.data["train_pictures"], measured.data["measured_pictures"]) == (6, 3)
    assert measured.data["size"] == "32x48"
    assert measured.precision == "32-true"
    assert len(measured.losses) == 6
    assert measured.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    path = tmp_path / "record.json"
    write_record(measured, path)
    assert read_record(path) == measured  # all of it is plain JSON
    again = trained_model(recipe)
    assert same_weights(again, model)
    assert not again.training


def test_an_interrupted_run_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    whole_model, whole = make(recipe, dataclasses.replace(QUIET, runs=tmp_path / "whole"))
    steps = []

    def interrupted(weights, _aux_weight):
        def objective(model, images, labels):
            steps.append(len(images))
            if len(steps) == 4:
                raise KeyboardInterrupt
            return pixel_objective(weights)(model, images, labels)

        return objective

    monkeypatch.setattr(building, "pixel_objective", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, QUIET)
    assert trained_model(recipe) is None
    assert (run_folder(recipe) / "checkpoint.safetensors").exists()
    model, measured = make(recipe, QUIET)
    assert len(steps) == 4 + 4  # from step 2 on
    assert same_weights(model, whole_model)
    assert (measured.losses, measured.metrics) == (whole.losses, whole.metrics)


def test_a_run_is_trained_once_and_then_loaded(recipe, tmp_path, monkeypatch):
    model, measured = train_or_load(recipe, show_progress=False)
    path = tmp_path / "results" / "test" / "plain-laptop-seed1.json"
    assert read_record(path) == measured

    def no_training(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "fit", no_training)
    loaded, found = train_or_load(recipe, show_progress=False)
    assert found == measured
    assert same_weights(loaded, model)
    with pytest.raises(AssertionError, match="trained again"):  # another seed is another run
        train_or_load(dataclasses.replace(recipe, seed=2), show_progress=False)


def test_a_record_from_another_machine_stays(recipe, tmp_path):
    """Where the weights are missing the run is repeated, but the committed record is not rewritten."""
    path = record_path(recipe)
    write_record(record(recipe), path)
    content = path.read_bytes()
    _, measured = train_or_load(recipe, show_progress=False)
    assert path.read_bytes() == content
    assert measured.metrics != record().metrics


def test_a_stale_record_is_replaced(recipe):
    path = record_path(recipe)
    write_record(record(dataclasses.replace(recipe, steps=99)), path)
    _, measured = train_or_load(recipe, show_progress=False)
    assert read_record(path) == measured


def test_the_quick_profile_leaves_nothing_behind(recipe, tmp_path):
    quick = resolve("test", "plain", "quick", 1, tmp_path)
    model, measured = train_or_load(quick, show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["test.toml"]
    assert trained_model(quick) is None
    kept_model, kept = make(recipe, QUIET)  # the same values, but for the profile's name
    assert measured.metrics == kept.metrics
    assert same_weights(model, kept_model)


def test_seeds_differ_and_repeat(recipe, tmp_path):
    quick = resolve("test", "plain", "quick", 1, tmp_path)
    _, first = make(quick, QUIET)
    _, again = make(quick, QUIET)
    _, other = make(dataclasses.replace(quick, seed=2), QUIET)
    assert (first.losses, first.metrics) == (again.losses, again.metrics)
    assert first.losses != other.losses


def test_the_recipe_reaches_the_training(recipe, monkeypatch):
    """Every value of a recipe that `fit` takes is handed on."""
    given = {}

    def watched(model, dataset, **options):
        given.update(options)
        return fit(model, dataset, **options)

    monkeypatch.setattr(train, "fit", watched)
    changed = dataclasses.replace(
        recipe,
        optimizer="sgd",
        learning_rate=0.03,
        momentum=0.7,
        weight_decay=0.02,
        warmup_steps=2,
        poly_power=0.5,
        checkpoint_every=0,
        flip=False,
        jitter=0.2,
        seed=5,
    )
    make(changed, QUIET)
    for key in (
        "steps",
        "batch_size",
        "optimizer",
        "learning_rate",
        "momentum",
        "weight_decay",
        "warmup_steps",
        "poly_power",
        "seed",
    ):
        assert given[key] == getattr(changed, key)
    transform = given["transform"]
    assert (transform.crop, transform.scale) == ((32, 32), (0.8, 1.5))
    assert (transform.flip, transform.jitter) == (False, 0.2)
    assert given["checkpoints"] == Checkpoints(None, 1, changed.hash())
