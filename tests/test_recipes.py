"""Recipes: layers of a table laid over one another, mistakes named, hashes that follow the values."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_helpers import street_recipe

from course_lib import losses
from course_lib.data.registry import dataset_info
from course_lib.experiments.building import make_objective
from course_lib.experiments.check import check_table, problems_of
from course_lib.experiments.measures import MEASURES
from course_lib.experiments.metric_names import MEASURE_NAMES, METRICS
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.recipes import SelfCorrectionRecipe, TrainRecipe, UpperBoundRecipe, recipe_from
from course_lib.experiments.table import PROFILES, Table, read_tables, resolve
from course_lib.metrics import ConfusionMatrix
from course_lib.models import MODELS

TABLES = read_tables()
TABLE = """
title = "A table for tests"

[recipe]
dataset = "street"
height = 96
width = 128
model = "fcn8s"
steps = 500
scale = [0.5, 2]
crop = [64, 96]

[recipe.model_options]
width = 64
norm = true

[profiles.quick]
steps = 20
learning_rate = 1

[profiles.quick.model_options]
width = 8

[profiles.laptop]
checkpoint_every = 50

[rows.plain]
label = "plain"

[rows.coarse]
label = "coarse"
recipe = { model = "fcn32s", steps = 30, model_options = { dropout = 0.0 } }
quick = { steps = 5 }
"""


@pytest.fixture
def table(tmp_path):
    """Write a table, changed by replacing one text by another."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in TABLE
        (tmp_path / "test.toml").write_text(TABLE.replace(old, new, 1) if old else TABLE)
        return tmp_path

    return write


def test_layers_lie_over_one_another(table):
    folder = table()
    plain = resolve("test", "plain", "quick", 3, folder)
    assert (plain.table, plain.row, plain.profile, plain.seed) == ("test", "plain", "quick", 3)
    assert (plain.steps, plain.model) == (20, "fcn8s")
    assert plain.model_options == {"width": 8, "norm": True}
    assert (plain.crop, plain.scale) == ((64, 96), (0.5, 2.0))
    laptop = resolve("test", "plain", "laptop", 0, folder)
    assert (laptop.steps, laptop.checkpoint_every, laptop.learning_rate) == (500, 50, 1e-3)
    assert laptop.model_options == {"width": 64, "norm": True}
    coarse = resolve("test", "coarse", "laptop", 0, folder)
    assert (coarse.model, coarse.steps) == ("fcn32s", 30)
    assert coarse.model_options == {"width": 64, "norm": True, "dropout": 0.0}
    assert resolve("test", "coarse", "quick", 0, folder).steps == 5


def test_whole_numbers_become_floats_where_a_float_is_meant(table):
    recipe = resolve("test", "plain", "quick", 0, table())
    assert isinstance(recipe.learning_rate, float)
    assert all(isinstance(factor, float) for factor in recipe.scale)


def test_recipes_cannot_be_changed(table):
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve("test", "plain", "quick", 0, table()).steps = 7


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 500", "stepz = 500", r"\[recipe\] stepz: unknown key \(did you mean 'steps'\?\)"),
        ("steps = 20", "lerning_rate = 1", r"\[profiles.quick\] lerning_rate: .*'learning_rate'"),
        ("steps = 30", "sceal = [1, 1]", r"\[rows.coarse.recipe\] sceal: .*'scale'"),
        ("steps = 5 }", "stpes = 5 }", r"\[rows.coarse.quick\] stpes: .*'steps'"),
        ("steps = 500", "seed = 500", r"\[recipe\] seed: unknown key"),
        ("steps = 500", "qqq = 500", r"\[recipe\] qqq: unknown key(\n|$)"),
        ("steps = 500", 'steps = "many"', "steps is 'many', but must be of type int"),
        ("steps = 500", "steps = 1.5", "steps is 1.5, but must be of type int"),
        ("steps = 500", "steps = true", "steps is True, but must be of type int"),
        ("learning_rate = 1", "learning_rate = true", "is True, but must be of type float"),
        ("steps = 20", "flip = 1", "flip is 1, but must be of type bool"),
        ("crop = [64, 96]", "crop = 64", "crop is 64, but must be a pair of numbers"),
        ("crop = [64, 96]", "crop = [64, 96, 3]", "must be a pair of numbers"),
        ("crop = [64, 96]", "crop = [64.5, 96]", "must be a pair of numbers"),
        ("crop = [64, 96]", "crop = [true, true]", "must be a pair of numbers"),
        ('model = "fcn8s"', "model = 8", "model is 8, but must be of type str"),
        ("steps = 20", "dataset_options = 3", "dataset_options is 3, but must be a table"),
        ("crop = [64, 96]", "crop = [64, 300]", r"crop is \(64, 300\).*largest image, 192x256"),
        ("crop = [64, 96]", "crop = [0, 96]", r"crop is \(0, 96\), but must be \(0, 0\), or at least 32"),
        ("scale = [0.5, 2]", "scale = [2, 0.5]", "smallest and largest factor"),
        ("height = 96", "height = 31", "height is 31, but must be at least 32"),
        ("steps = 500", "steps = 500\nbatch_size = 0", "batch_size is 0, but must be at least 1"),
        ("steps = 500", "steps = 500\njitter = 1.5", "jitter is 1.5, but must be between 0 and 1"),
        ("steps = 500", "steps = 500\ntrain_length = -1", "train_length is -1"),
        ("learning_rate = 1", "learning_rate = 0", "learning_rate is 0.0, but must be above 0"),
        ("learning_rate = 1", "learning_rate = nan", "learning_rate is nan, but must be above 0"),
        ('dataset = "street"', "", "row '.*' at 'quick' does not say dataset"),
        ("[profiles.quick]", "[profiles.quik]", r"\[profiles.quik\]: unknown profile .*'quick'"),
        ("[profiles.laptop]", "[profiles.labtop]", r"\[profiles.labtop\]: unknown profile .*'laptop'"),
        ("[profiles.quick]", "[profiles.quick", "test.toml: "),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_reason(table, old, new, words):
    folder = table(old, new)
    with pytest.raises(RecipeError, match=words) as caught:  # noqa: PT012
        resolve("test", "plain", "quick", 0, folder)
        resolve("test", "coarse", "quick", 0, folder)
    assert str(caught.value).startswith("test.toml: ")


def test_unknown_names_come_with_a_suggestion(table):
    folder = table()
    with pytest.raises(RecipeError, match=r"no row 'plian' \(did you mean 'plain'\?\); .*coarse"):
        resolve("test", "plian", "quick", 0, folder)
    with pytest.raises(RecipeError, match=r"'quik' \(did you mean 'quick'\?\); .*laptop, gpu"):
        resolve("test", "plain", "quik", 0, folder)
    with pytest.raises(RecipeError, match=r"no table 'tset' \(did you mean 'test'\?\)"):
        resolve("tset", "plain", "quick", 0, folder)
    with pytest.raises(RecipeError, match=r"test.toml: \[profiles.gpu\] is missing"):
        resolve("test", "plain", "gpu", 0, folder)


# -- hashes -----------------------------------------------------------------------------------------

SMALL = street_recipe(profile="quick", model="fcn8s", steps=3, model_options={"width": 4, "norm": True})

NAMES = {"class_weighting": "log_frequency", "optimizer": "sgd", "background": "implicit", "measures": ["code"]}
NAMES |= {"hard_share": 0.5, "loss": "focal"}
"""Other values of the fields that take only some names or a part of the numbers."""
TOGETHER = {"crop": {"scale": (1.0, 2.0)}, "hard_threshold": {"hard_share": 0.25}, "hard_by_lot": {"hard_share": 0.25}}
"""What some fields need beside them."""
OTHER_VALUES = {
    str: lambda value: value + "x",
    int: lambda value: value + 1,
    float: lambda value: value / 3 + 1,
    bool: lambda value: not value,
    dict: lambda value: {**value, "new": 1},
    tuple: lambda value: (value[0] + 32, value[1] + 32),
    list: lambda value: [*value, 10.0],
}


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(TrainRecipe)])
def test_the_hash_follows_every_value_that_may_change_the_result(key):
    value = getattr(SMALL, key)
    other = NAMES.get(key) or OTHER_VALUES[type(value)](value)
    beside = TOGETHER.get(key, {})  # without which the value would be refused
    small = dataclasses.replace(SMALL, **beside)
    changed = dataclasses.replace(small, **{key: other})
    assert (changed.hash() == small.hash()) == (key == "checkpoint_every")


def test_the_hash_does_not_depend_on_the_order_of_options_or_on_the_process():
    turned = dataclasses.replace(SMALL, model_options={"norm": True, "width": 4})
    assert turned.hash() == SMALL.hash()
    assert len(SMALL.hash()) == 12
    int(SMALL.hash(), 16)
    code = f"from course_lib.experiments.recipes import recipe_from; print(recipe_from({SMALL.settings()}).hash())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == SMALL.hash()


def test_hashes_of_recorded_recipes_stay():
    """A field that is added later must leave the hash of what was recorded before as it was."""
    assert SMALL.hash() == "d5bd58dfb8a2"
    keys = {"table": "test", "row": "plain", "profile": "quick", "seed": 0, "dataset": "street"}
    assert UpperBoundRecipe(**keys, height=32, width=48, factor=8).hash() != SMALL.hash()


def test_settings_are_plain_json_and_make_the_recipe_again():
    settings = SMALL.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert recipe_from(settings) == SMALL


def test_options_of_a_split():
    options = {"noise": 0.1, "train_length": 6, "val_length": 3, "val_noise": 0.0}
    recipe = dataclasses.replace(SMALL, dataset_options=options)
    assert recipe.options_of("train") == {"noise": 0.1, "length": 6}
    assert recipe.options_of("val") == {"noise": 0.0, "length": 3}
    assert recipe.options_of("test") == {"noise": 0.1}


# -- tasks ------------------------------------------------------------------------------------------

BOUND = """
title = "A bound"
[recipe]
task = "upper_bound"
dataset = "street"
height = 32
width = 48
factor = 8
[profiles.quick]
[rows.plain]
label = "plain"
"""


def test_an_upper_bound_needs_no_network(tmp_path):
    (tmp_path / "test.toml").write_text(BOUND)
    recipe = resolve("test", "plain", "quick", 0, tmp_path)
    assert (recipe.task, recipe.factor, recipe.steps, recipe.chance) == ("upper_bound", 8, 0, False)
    assert not hasattr(recipe, "model")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("factor = 8", "", "row 'plain' at 'quick' does not say factor"),
        ("factor = 8", "factor = 0", "factor is 0, but must be at least 1"),
        ("factor = 8", "factor = 8\nsteps = 3", r"\[recipe\] steps: has no meaning for .* 'upper_bound'"),
        ('"upper_bound"', '"uper_bound"', r"\[recipe\] task is 'uper_bound' \(did you mean 'upper_bound'"),
        ('task = "upper_bound"', "", r"\[recipe\] factor: has no meaning for the task 'train'"),
    ],
)
def test_a_task_takes_its_own_keys(tmp_path, old, new, words):
    assert old in BOUND
    (tmp_path / "test.toml").write_text(BOUND.replace(old, new, 1))
    with pytest.raises(RecipeError, match=words):
        resolve("test", "plain", "quick", 0, tmp_path)


# -- whole tables -----------------------------------------------------------------------------------

PAPER = """
title = "A table for tests"
paper = "A. Author, A Paper, 2020"
place = "table 1"
paper_data = "CamVid test"
same_data = "camvid test 360x480"
metric = "mean_iou"
unit = "%"
departures = ["a narrower network"]

[recipe]
dataset = "street"
height = 32
width = 48
model = "fcn8s"
steps = 5
dataset_options = { val_length = 3 }

[recipe.model_options]
width = 8

[profiles.quick]

[profiles.laptop]
checkpoint_every = 2

[rows.one]
label = "one"
paper_value = 62.7

[rows.two]
label = "two"
recipe = { model = "fcn32s" }

[[claims]]
id = "first"
kind = "paper"
statement = "one is better than two"
better = "one"
worse = "two"
"""


def test_a_good_table_has_no_problem(tmp_path):
    (tmp_path / "test.toml").write_text(PAPER)
    assert check_table("test", tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("place =", "plase =", "plase: unknown key (did you mean 'place'?)"),
        ("title =", "titel =", "title is missing"),
        ('title = "A table for tests"', "title = 3", "title is 3, but must be a text"),
        ('place = "table 1"', "", "paper_value is given, but the table does not say place"),
        ('paper_data = "CamVid test"', "", "does not say paper_data"),
        ('"camvid test 360x480"', '"camvid"', "same_data is 'camvid', but must be"),
        ('metric = "mean_iou"', 'metric = "mean_iuo"', "'mean_iuo', which no run measures (did you mean 'mean_iou'?)"),
        ('unit = "%"', 'unit = "points"', "unit is 'points', but must be"),
        ('["a narrower network"]', "[3]", "departures must be a list of texts"),
        ("[profiles.laptop]", "[profiles.lptop]", "[profiles.lptop]: unknown profile (did you mean 'laptop'?)"),
        ("[rows.one]\nlabel", "[rows.one]\nlable", "[rows.one] lable: unknown key (did you mean 'label'?)"),
        ('label = "one"', "", "[rows.one] label is missing"),
        ("[rows.two]", "[rows.a-b]", "[rows.a-b] has a name that is not"),
        ("paper_value = 62.7", "paper_vaule = 62.7", "paper_vaule: unknown key (did you mean 'paper_value'?)"),
        (
            '"two"\n',
            '"two"\nof = "one"\nmetric = "mean_iou"\n',
            "[rows.two] recipe: a row that reads the runs of 'one' has none",
        ),
        (
            '"two"\nrecipe = { model = "fcn32s" }',
            '"two"\nof = "one"',
            "[rows.two] metric is missing: what does it read of 'one'?",
        ),
        (
            '"two"\nrecipe = { model = "fcn32s" }',
            '"two"\nof = "two"\nmetric = "mean_iou"',
            "[rows.two] of is 'two', which is no row with runs",
        ),
        (
            '"two"\nrecipe = { model = "fcn32s" }',
            '"two"\nof = "oen"\nmetric = "mean_iou"',
            "of is 'oen', which is no row with runs (did you mean 'one'?)",
        ),
        (
            '"two"\nrecipe = { model = "fcn32s" }',
            '"two"\nof = "one"\nmetric = "rand_error"',
            "row 'one' at 'quick': metric 'rand_error' needs measures = ['membranes']",
        ),
        (
            'label = "one"',
            'label = "one"\nmetric = "mean_iuo"',
            "[rows.one] metric is 'mean_iuo', which no run measures",
        ),
        ("steps = 5", "steps = 5\nkl_weight = -1", "kl_weight is -1.0, but must be 0 (none) or more"),
        ("steps = 5", "steps = 5\nnoise_samples = 0", "noise_samples is 0, but must be at least 1"),
        ("62.7", "627", "paper_value is 627, but must be between 0 and 100 %"),
        ("62.7", '"62.7"', "paper_value is '62.7', but must be a number"),
        ('kind = "paper"', "", "[[claims]] 1: kind is missing"),
        ('kind = "paper"', 'kind = "papers"', "kind is 'papers', but must be one of paper, control, ours"),
        ('worse = "two"', 'worse = "two"\nroom = ["one"]', "room is ['one'], but must be two rows"),
        ('worse = "two"', 'worse = "two"\nroom = ["one", "tow"]', "room is ['one', 'tow'], but must be two rows"),
        ("[recipe]", "[setting.laptop]\nsize = '3'\n[recipe]", "[setting.laptop] size: unknown key"),
        ("[recipe]", "[setting.quick]\nnetwork = 'x'\n[recipe]", "[setting.quick] must be a table"),
        ('better = "one"', 'beter = "one"', "[[claims]] 1: beter: unknown key (did you mean 'better'?)"),
        ('better = "one"', 'better = "noe"', "better is 'noe', which is no row (did you mean 'one'?)"),
        ('worse = "two"', 'worse = "one"', "better and worse are the same row"),
        ('worse = "two"', 'worse = "two"\nmargin = 1', "margin is for claims with at_least = true"),
        ('worse = "two"', 'worse = "two"\nat_least = 1', "at_least is 1, but must be true or false"),
        ('worse = "two"', 'worse = "two"\nmetric = "iou"', "metric is 'iou', which no run measures"),
        ("steps = 5", "stepz = 5", "[recipe] stepz: unknown key (did you mean 'steps'?)"),
        ('model = "fcn32s"', 'model = "fcn23s"', "model 'fcn23s' is unknown (did you mean 'fcn32s'?)"),
        ('dataset = "street"', 'dataset = "steet"', "dataset 'steet' is unknown (did you mean 'street'?)"),
        ("width = 8", "widht = 8", "model_options: widht: fcn8s has no such option (did you mean 'width'?)"),
        (
            "val_length = 3",
            "val_lenght = 3",
            "dataset_options: lenght: street has no such option (did you mean 'length'?)",
        ),
        ("val_length = 3", "noise = 7", "dataset_options: noise"),
        ("steps = 5", 'steps = 5\nval_split = "vla"', "street has no split 'vla' (did you mean 'val'?)"),
        ("checkpoint_every = 2", "", "'laptop': checkpoint_every is missing"),
        (
            "steps = 5",
            'steps = 5\nmeasures = ["membrane"]',
            "measure 'membrane' is unknown (did you mean 'membranes'?)",
        ),
        ("steps = 5", "steps = 5\nmeasures = [3]", "measures is [3], but must be a list of names"),
        ("steps = 5", 'steps = 5\nmeasures = "membranes"', "measures is 'membranes', but must be a list"),
        ("steps = 5", "steps = 5\nelastic = -1", "elastic is -1.0, but must be 0 (none) or more pixels"),
        ("steps = 5", "steps = 5\nboundary_weight = -1", "boundary_weight is -1.0, but must be 0"),
        ("steps = 5", "steps = 5\nhard_share = 1.5", "hard_share is 1.5, but must be above 0 and at most 1"),
        ("steps = 5", "steps = 5\nhard_by_lot = true", "hard_by_lot is True, but must be false: hard_share = 1"),
        ('metric = "mean_iou"', 'metric = "rand_error"', "metric 'rand_error' needs measures = ['membranes']"),
        ('worse = "two"', 'worse = "two"\nmetric = "pixel_error"', "'pixel_error' needs measures = ['membranes']"),
        ("[recipe]", "[recipe", "test.toml: "),
    ],
)
def test_every_mistake_in_a_table_is_named(tmp_path, old, new, words):
    assert old in PAPER
    (tmp_path / "test.toml").write_text(PAPER.replace(old, new, 1))
    problems = check_table("test", tmp_path)
    assert any(words in problem for problem in problems), problems
    assert all(problem.startswith("test.toml: ") for problem in problems)


def test_claims_of_a_table_have_ids_of_their_own(tmp_path):
    claim = PAPER[PAPER.index("[[claims]]") :]
    (tmp_path / "test.toml").write_text(PAPER + claim)
    assert check_table("test", tmp_path) == ["test.toml: [[claims]] 2: the id 'first' is taken"]


def test_all_problems_of_a_table_are_reported_together(tmp_path):
    text = (
        PAPER.replace('place = "table 1"', "")
        .replace("steps = 5", "stepz = 5")
        .replace('better = "one"', 'better = "x"')
    )
    text = text.replace('recipe = { model = "fcn32s" }', "recipe = { crop = [0, 40], jitter = 2.0, steps = 3 }")
    (tmp_path / "test.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        Table.read("test", tmp_path)
    words = (
        "does not say place",
        "[recipe] stepz: unknown key",
        "better is 'x'",
        "row 'one' at 'quick' does not say steps",
    )
    assert [word for word in words if word not in str(caught.value)] == []
    (tmp_path / "test.toml").write_text(text.replace("stepz = 5", "steps = 5"))
    problems = check_table("test", tmp_path)
    assert "test.toml: row 'two': jitter is 2.0, but must be between 0 and 1" in problems
    assert "test.toml: row 'two': crop is (0, 40), but must be (0, 0), or at least 32 both ways" in problems
    assert len(problems) == len(set(problems)) == 4


def test_a_run_has_one_loss():
    for change, words in (
        (
            {"aux_weight": 0.4, "boundary_weight": 10.0},
            "aux_weight is 0.4, but must be 0: boundary_weight = 10.0 has one loss",
        ),
        (
            {"hard_share": 0.25, "boundary_weight": 10.0},
            "hard_share is 0.25, but must be 1: boundary_weight = 10.0 has one loss",
        ),
        ({"hard_share": 0.25, "aux_weight": 0.4}, "aux_weight is 0.4, but must be 0: hard_share = 0.25 has one loss"),
        (
            {"background": "implicit", "boundary_weight": 10.0},
            "boundary_weight is 10.0, but must be 0: background = 'implicit'",
        ),
        (
            {"kl_weight": 1.0, "class_weighting": "log_frequency"},
            "class_weighting is 'log_frequency', but must be 'none'",
        ),
        (
            {"loss": "dice", "class_weighting": "log_frequency"},
            "class_weighting is 'log_frequency', but must be 'none'",
        ),
        (
            {"loss": "focal", "background": "implicit"},
            "background is 'implicit', but must be 'explicit': loss = 'focal'",
        ),
        ({"loss": "focal", "aux_weight": 0.4}, "aux_weight is 0.4, but must be 0: loss = 'focal'"),
        ({"loss": "focal", "hard_share": 0.5}, "hard_share is 0.5, but must be 1: loss = 'focal'"),
        ({"loss": "tversky"}, "loss is 'tversky', but must be one of cross_entropy, focal, dice"),
    ):
        with pytest.raises(RecipeError, match=words):
            dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("row", ["focal", "dice"])
def test_a_recipe_trains_by_the_loss_that_it_names(row):
    recipe = resolve("class_weights", row, "quick", 0)
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    loss = {"focal": losses.focal_loss, "dice": losses.dice_loss}[row](logits, labels)
    assert torch.equal(make_objective(recipe, None)(lambda _: logits, None, labels), loss)


def test_settings_of_no_recipe_are_named():
    with pytest.raises(RecipeError, match=r"stepz: unknown key \(did you mean 'steps'\?\)\nsteps is missing"):
        recipe_from({("stepz" if key == "steps" else key): value for key, value in SMALL.settings().items()})
    with pytest.raises(RecipeError, match=r"task is 'trian' \(did you mean 'train'\?\)"):
        recipe_from({**SMALL.settings(), "task": "trian"})


def test_metrics_of_tables_are_those_that_runs_measure():
    always = {name for name, metric in METRICS.items() if not metric.measure}
    of_tasks = {"home_mean_iou", "pedestrian_iou", "told_mean_iou", "presence_accuracy"}
    of_tasks |= {*(name for name in METRICS if name.startswith(("w_", "ap")))}
    assert always == {*ConfusionMatrix(2).summary(), *of_tasks}
    assert set(MEASURE_NAMES) == set(MEASURES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_committed_table_is_right(table):
    assert problems_of(table) == []


# -- the committed tables ---------------------------------------------------------------------------

RECIPES = {recipe.hash(): recipe for table in TABLES for recipe in table.recipes.values()}
NETWORKS = {repr((r.model, r.model_options)): r for r in RECIPES.values() if isinstance(r, TrainRecipe)}


def test_every_committed_table_has_a_quick_profile_that_needs_no_files():
    for table in TABLES:
        assert set(table.profiles) <= set(PROFILES)
        assert all(row.label for row in table.rows.values())
        for (_, profile), recipe in table.recipes.items():
            if profile == "quick":
                assert not dataset_info(recipe.dataset).folder
                assert recipe.checkpoint_every == 0
        assert "quick" in table.profiles


def test_every_recipe_of_every_committed_table_is_made_again_by_its_settings():
    for recipe in RECIPES.values():
        assert recipe_from(recipe.settings()) == recipe
        if isinstance(recipe, SelfCorrectionRecipe) and recipe.needs_ancillary:
            assert recipe.ancillary().hash() in RECIPES


@pytest.mark.parametrize(
    "recipe", NETWORKS.values(), ids=lambda recipe: f"{recipe.table}-{recipe.row}-{recipe.profile}"
)
def test_the_network_of_every_recipe_is_built(recipe):
    options = {key: value for key, value in recipe.model_options.items() if key != "imagenet"}  # weights may be absent
    with torch.device("meta"):
        model = MODELS[recipe.model](11, **options)
    assert isinstance(model, torch.nn.Module)
