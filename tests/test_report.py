"""The scoreboard: every verdict, what is left out and said to be, and the README's generated parts."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.cli.reproduce import plan
from course_lib.experiments import records, table
from course_lib.experiments.records import Record, record_path, write_record
from course_lib.experiments.report import markdown, scoreboard
from course_lib.experiments.report.claims import judgements
from course_lib.experiments.report.scoreboard import ScoreRow, read_results
from course_lib.experiments.table import Table, read_tables, resolve
from course_lib.notebook_tools.readme import fill
from course_lib.plumbing.paths import ROOT

TABLE = """
title = "A table for tests"
paper = "A. Author, A Paper, 2020"
place = "table 1"
paper_data = "Some Streets val"
same_data = "street val 32x48"
metric = "mean_iou"
unit = "%"
departures = ["a narrower network"]

[recipe]
dataset = "street"
height = 32
width = 48
model = "fcn8s"
steps = 5
checkpoint_every = 2

[profiles.quick]
[profiles.laptop]
[profiles.gpu]
height = 64
width = 96

[rows.one]
label = "Network one"
paper_value = 62.7

[rows.two]
label = "Network two"
paper_value = 50.0

[rows.three]
label = "Network three"

[[claims]]
id = "first"
kind = "paper"
headline = true
statement = "one is better than two"
better = "one"
worse = "two"

[[claims]]
id = "second"
kind = "ours"
statement = "three is no worse than one"
better = "three"
worse = "one"
at_least = true
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Tables and records in temporary folders; the table can be written anew."""
    monkeypatch.setattr(table, "TABLES", tmp_path)
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(scoreboard, "results_root", lambda: tmp_path / "results")
    (tmp_path / "test.toml").write_text(TABLE)
    return tmp_path


def keep(row: str, seed: int, value: float, profile: str = "laptop", **changes) -> Record:
    """Write a record of `row` whose mIoU is `value` percent."""
    recipe = resolve("test", row, profile, seed)
    values = {
        "recipe": recipe.settings(),
        "recipe_hash": recipe.hash(),
        "metrics": {"mean_iou": value / 100, "overall_accuracy": 0.9, "mean_accuracy": 0.5},
        "per_class": {},
        "seconds": 90.0,
        "peak_memory_mib": 200.0,
        "parameters": 1234,
        "data": {
            "set": "street",
            "train": "train",
            "train_pictures": 6,
            "measured_on": "val",
            "measured_pictures": 3,
            "size": f"{recipe.height}x{recipe.width}",
            "void": "none",
        },
        "device": "cpu",
        "precision": "32-true",
        "machine": {"cpu": "Prüfstand", "cores": 2, "gpu": ""},
        "versions": {},
        "commit": "abc",
        "date": "2026-01-01T00:00:00+00:00",
    }
    record = Record(**(values | changes))
    write_record(record, record_path(recipe))
    return record


def line(row: str, profile: str | None = "laptop") -> ScoreRow:
    (found,) = [found for found in scoreboard.scoreboard("test", profile) if found.row == row]
    return found


# -- rows -------------------------------------------------------------------------------------------


def test_nothing_run_says_so(tables):
    assert [row.verdict for row in scoreboard.scoreboard("test")] == ["not run"] * 3
    assert {row.profile for row in scoreboard.scoreboard("test")} == {""}
    assert [judged.verdict for judged in judgements("test")] == ["not run"] * 2
    text = markdown.scoreboard_markdown("test")
    assert "| Network one | 62.7 |" in text
    assert "| one is better than two | not run | +12.7 |" in text


def test_mean_spread_and_difference(tables):
    for seed, value in enumerate([60.0, 61.0, 62.0]):
        keep("one", seed, value)
    row = line("one")
    assert row.mean == pytest.approx(61.0)
    assert row.spread == pytest.approx(1.0)
    assert row.difference == pytest.approx(-1.7)
    assert row.verdict == "too noisy to say"
    assert list(row.values) == [0, 1, 2]
    assert markdown.level_cell(row) == "61.0 ± 1.0 (3): -1.7 ± 2.5, too noisy to say"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([62.6, 62.62], "within 1 point"),
        ([62.0, 63.0], "too noisy to say"),
        ([64.0, 64.01], "higher"),
        ([61.0, 61.01], "lower"),
        ([62.7], "one run"),
        ([62.74, 62.74], "within 1 point"),
    ],
)
def test_verdicts_where_the_data_is_the_papers(tables, values, verdict):
    for seed, value in enumerate(values):
        keep("one", seed, value)
    assert line("one").verdict == verdict
    assert line("one").difference is not None


def test_a_row_without_a_published_number(tables):
    keep("three", 0, 30.0)
    assert (line("three").verdict, line("three").difference) == ("ours only", None)


@pytest.mark.parametrize(
    ("same", "verdict"),
    [
        ("", "other data"),
        ('same_data = "camvid val 32x48"', "other data"),
        ('same_data = "street test 32x48"', "other split"),
        ('same_data = "street val 360x480"', "other size"),
    ],
)
def test_no_difference_is_taken_between_other_data(tables, same, verdict):
    (tables / "test.toml").write_text(TABLE.replace('same_data = "street val 32x48"', same))
    keep("one", 0, 62.0)
    keep("one", 1, 62.5)
    row = line("one")
    assert (row.verdict, row.difference) == (verdict, None)
    text = markdown.scoreboard_markdown("test", "laptop")
    assert "-0.4" not in text
    assert "The paper's numbers are of Some Streets val" in text
    assert "Measured on the val split of street" in text


def test_profiles_stand_apart(tables):
    keep("one", 0, 60.0)
    keep("one", 0, 70.0, "gpu")
    keep("two", 0, 40.0, "gpu")
    rows = [(row.row, row.profile, row.verdict) for row in scoreboard.scoreboard("test")]
    assert rows == [
        ("one", "laptop", "one run"),
        ("one", "gpu", "other size"),
        ("two", "gpu", "other size"),
        ("three", "", "not run"),
    ]
    assert line("two", "laptop").verdict == "not run"


def test_a_task_without_chance_needs_one_run(tables):
    text = TABLE.replace('model = "fcn8s"\nsteps = 5\ncheckpoint_every = 2\n', "")
    text = text.replace("[recipe]", '[recipe]\ntask = "upper_bound"\nfactor = 8')
    (tables / "test.toml").write_text(text)
    keep("one", 0, 62.7)
    keep("two", 0, 62.6)
    assert (line("one").verdict, line("two").verdict) == ("within 1 point", "higher")
    judged, _ = judgements("test", "laptop")
    assert (judged.verdict, judged.half, judged.how) == ("open", 0.0, "exact")  # 0.1 points: too small


# -- what is not counted ----------------------------------------------------------------------------


def test_a_stale_record_is_listed_and_not_counted(tables):
    keep("one", 0, 60.0)
    keep("two", 0, 50.0)
    keep("two", 1, 51.0)
    stale = dataclasses.replace(resolve("test", "one", "laptop", 0), steps=99)
    keep("one", 0, 60.0, recipe_hash=stale.hash())
    assert (line("one").verdict, line("one").values) == ("stale", {})
    text = markdown.scoreboard_markdown("test")
    assert "stale: results/test/one-laptop-seed0.json is of a changed recipe" in text
    assert read_results(Table.read("test")).records("one", "laptop") == []
    judged, _ = judgements("test", "laptop")
    assert judged.verdict == "not run"


def test_a_stale_seed_leaves_the_others(tables):
    keep("one", 0, 60.0)
    keep("one", 1, 70.0, recipe_hash="0" * 12)
    assert line("one").values == {0: pytest.approx(60.0)}
    assert "stale: results/test/one-laptop-seed1.json" in markdown.scoreboard_markdown("test")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("0.6,", "0.66,"),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
    ],
)
def test_an_untrusted_record_is_listed_and_not_counted(tables, damage):
    keep("one", 0, 60.0)
    path = record_path(resolve("test", "one", "laptop", 0))
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    assert (line("one").verdict, line("one").values) == ("untrusted", {})
    text = markdown.scoreboard_markdown("test")
    assert "untrusted: results/test/one-laptop-seed0.json" in text
    assert str(tables) not in text


def test_files_of_no_row_are_named(tables):
    keep("one", 0, 60.0)
    folder = tables / "results" / "test"
    for name in ("gone-laptop-seed0.json", "one-quick-seed0.json", "notes.json"):
        (folder / name).write_text("{}")
    text = markdown.scoreboard_markdown("test")
    for name in ("gone-laptop-seed0.json", "one-quick-seed0.json", "notes.json"):
        assert f"results/test/{name} belongs to no row of test that has results" in text


def test_a_record_under_another_seeds_name_is_stale(tables):
    keep("one", 0, 60.0)
    path = record_path(resolve("test", "one", "laptop", 0))
    path.with_name("one-laptop-seed1.json").write_bytes(path.read_bytes())
    assert list(line("one").values) == [0]


# -- rows that read another row's runs ----------------------------------------------------------------

READING = """
[rows.accuracy]
label = "Network one, pixels"
metric = "overall_accuracy"
of = "one"
paper_value = 88.0

[[claims]]
id = "third"
kind = "ours"
statement = "more pixels are right than the mIoU says"
better = "accuracy"
worse = "one"
"""


@pytest.fixture
def reading(tables):
    (tables / "test.toml").write_text(TABLE + READING)
    return tables


def test_a_row_may_read_another_metric_of_another_rows_runs(reading):
    for seed, value in enumerate([60.0, 61.0]):
        keep("one", seed, value)
    row = line("accuracy")
    assert (row.metric, row.values, row.paper_value) == ("overall_accuracy", {0: 90.0, 1: 90.0}, 88.0)
    assert row.verdict == "higher"
    assert line("one").values == {0: 60.0, 1: 61.0}
    assert resolve("test", "accuracy", "laptop", 1) == resolve("test", "one", "laptop", 1)
    assert len(read_results(Table.read("test")).records("accuracy", "laptop")) == 2
    assert "Network one, pixels" not in markdown.results_markdown("test", "laptop")
    third = judgements("test", "laptop")[2]
    assert third.mean == pytest.approx(29.5)
    assert third.verdict == "leans"


def test_a_row_that_reads_is_never_run(reading):
    assert [recipe.row for recipe in plan(Table.read("test"), ["accuracy", "one"], "laptop", [0])] == ["one"]
    assert [recipe.row for recipe in plan(Table.read("test"), [], "laptop", [0])] == ["one", "two", "three"]
    path = record_path(resolve("test", "one", "laptop"))
    path.parent.mkdir(parents=True)
    path.with_name("accuracy-laptop-seed0.json").write_text("{}")
    assert "belongs to no row of test" in read_results(Table.read("test")).troubles["", ""][0]
    assert line("accuracy").verdict == "not run"


def test_quick_numbers_stand_beside_no_papers(tables):
    for ask in (scoreboard.scoreboard, judgements, markdown.scoreboard_markdown):
        with pytest.raises(ValueError, match="stand beside no paper's"):
            ask("test", "quick")


# -- claims -----------------------------------------------------------------------------------------


def test_claims_are_judged_on_the_records(tables):
    for seed, (one, two) in enumerate([(60.0, 50.0), (61.0, 51.5), (62.0, 52.2)]):
        keep("one", seed, one)
        keep("two", seed, two)
    keep("three", 0, 59.5)
    first, second = judgements("test")
    assert (first.profile, first.verdict, first.seeds) == ("laptop", "seen here", (0, 1, 2))
    assert first.mean == pytest.approx((10 + 9.5 + 9.8) / 3)
    assert first.paper_step == pytest.approx(12.7)
    assert (second.verdict, second.reason, second.seeds) == ("open", "one run", (0,))
    text = markdown.claims_markdown("test", "laptop")
    assert (
        "| one is better than two | seen here | +12.7 | +9.8 ± 0.6 | 3 | laptop | its floors are not computed |" in text
    )
    assert "| three is no worse than one | open |  | -0.50 | 1 | laptop | one run |" in text


def test_no_column_of_claims_is_empty():
    """The claims of this table are ours: no paper has a step to show."""
    heads, line, *claims = markdown.claims_markdown("architectures_street", "laptop").splitlines()
    assert heads.startswith("| claim | verdict | our step, 95 % |")
    assert len(claims) == 4
    columns = list(zip(*(claim.split("|")[1:-1] for claim in claims), strict=True))
    assert heads.count("|") == line.count("|") == len(columns) + 1
    assert all(any(text.strip() for text in column) for column in columns)


# -- texts ------------------------------------------------------------------------------------------


def test_results_of_a_table(tables):
    keep("one", 0, 60.0)
    keep("one", 1, 61.0)
    keep("two", 0, 40.0)
    keep("two", 1, 40.5)
    text = markdown.results_markdown("test", "laptop")
    assert "| Network one | 60.5 ± 0.7 |" in text
    assert "Of 1 claims of the paper: leans 1." in text
    assert "- one is better than two: **leans** (+20.2 ± 3.2, the paper +12.7): two runs" in text
    assert "| Network three | not run |" in text
    assert "Measured on the val split of street (3 images), trained on its train split" in text


def test_a_notebook_counts_rows_without_a_run_and_folds_claims(tables):
    keep("one", 0, 60.0)
    keep("two", 0, 40.0)
    text = markdown.results_table("test", "laptop").data
    assert "| Network one | 60.0 |" in text
    assert "Network three" not in text
    assert "1 more row of this table: not run." in text
    before, folded = text.split("<details><summary>Of 1 claims of the paper: open 1.</summary>\n\n")
    assert "one is better than two" not in before
    assert "**open**: one run\n\n- one is better than two (+20.0, the paper +12.7)\n\n" in folded
    assert folded.endswith("\n\n</details>")


def test_a_notebook_shows_every_row_of_a_table_without_runs(tables):
    text = markdown.results_table("test", "laptop").data
    assert text.count("| not run |") == 3
    assert "more row" not in text


def test_results_of_a_table_with_few_masks():
    text = markdown.results_markdown("self_correction", "laptop")
    files = (ROOT / "results/self_correction").glob("*-laptop-*.json")
    data = [json.loads(file.read_text(encoding="utf-8"))["data"] for file in files]
    *first, last = map(str, sorted({one.get("train_pictures", one.get("with_masks")) for one in data}))
    assert f"(masks of {', '.join(first)} or {last} images), from scratch, at" in text


def test_results_say_which_weights_and_machines_they_are_from(tables):
    keep("one", 0, 60.0)
    changed = resolve("test", "two", "laptop").settings()
    other = {"cpu": "Workstation", "cores": 1, "gpu": ""}
    keep("two", 0, 50.0, recipe={**changed, "start_from": "fcn8s-street"}, machine=other)
    keep("three", 0, 50.0, recipe={**changed, "model_options": {"imagenet": True}})
    text = markdown.results_markdown("test", "laptop")
    assert "(6 images), from scratch, from a committed checkpoint or from ImageNet weights, at 32x48 pixels" in text
    assert "Prüfstand, 2 cores, 32-true; Workstation, 1 core, 32-true, 2026-01-01." in text


def test_a_scoreboard_reads_every_table_and_every_record_once(tables, monkeypatch):
    keep("one", 0, 60.0)
    (tables / "other.toml").write_text(TABLE)
    read, opened = [], []
    loads, read_record = table.tomllib.loads, records.read_record
    monkeypatch.setattr(table.tomllib, "loads", lambda text: read.append(1) or loads(text))
    monkeypatch.setattr(records, "read_record", lambda path: opened.append(path) or read_record(path))
    markdown.scoreboard_markdown()
    assert (len(read), len(opened)) == (2, 1)


def test_the_command_shows_the_scoreboard(tables):
    keep("one", 0, 60.0)
    keep("two", 0, 50.0)
    path = record_path(resolve("test", "two", "laptop", 0))
    path.write_text(path.read_text()[:100])
    runner = CliRunner()
    done = runner.invoke(app, ["report"])
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines() if not line.startswith("not counted")) <= 100
    words = ("1 paper. Claims of theirs: 1 asked", "Not run", "test: 2 claims", "untrusted", "not counted")
    assert [word for word in words if word not in done.output] == []
    done = runner.invoke(app, ["report", "--table", "test"])
    assert "| Network one | 62.7 | 60.0 (1): -2.7, one run |" in done.output
    done = runner.invoke(app, ["report", "--json"])
    found = json.loads(done.output)
    assert [(one["claim"]["id"], one["words"]) for one in found] == [("first", "not run"), ("second", "not run")]
    target = tables / "out" / "scoreboard.md"
    done = runner.invoke(app, ["report", "--out", str(target)])
    assert done.exit_code == 0, done.output
    assert target.read_text().startswith("# Scoreboard\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "tset"], "did you mean 'test'"),
        (["--profile", "quick"], "no results"),
        (["--profile", "lptop"], "did you mean 'laptop'"),
    ],
)
def test_the_command_refuses(tables, arguments, words):
    done = CliRunner().invoke(app, ["report", *arguments])
    assert done.exit_code == 2
    assert words in done.output


def test_the_command_names_a_mistake_in_a_table(tables):
    (tables / "test.toml").write_text(TABLE.replace("place =", "plase ="))
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 2
    assert "test.toml: plase: unknown key (did you mean 'place'?)" in done.output


# -- the committed records and the README -------------------------------------------------------------


def test_every_committed_record_is_valid():
    """A changed recipe makes its records stale: run them again, or take them away."""
    troubles = [text for one in read_tables() for texts in read_results(one).troubles.values() for text in texts]
    assert troubles == []
    folders = {path.parent.name for path in (ROOT / "results").glob("*/*.json")}
    assert folders <= {one.name for one in read_tables()}


def test_the_scoreboard_has_every_table_that_is_scored():
    page = markdown.scoreboard_markdown()
    for one in read_tables():
        assert (f"## {one.title}" in page) == one.scored
    assert "quick" not in page


def test_the_generated_parts_of_the_readme_are_up_to_date():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- begin results" in text
    assert fill(text) == text, "type: make readme"


def test_an_unknown_part_of_the_readme_is_an_error():
    with pytest.raises(ValueError, match="nothing is generated for 'resluts a b'"):
        fill("<!-- begin resluts a b -->\n<!-- end results -->")


def test_claims_and_scoreboards_can_be_filled_in(tables):
    text = fill("<!-- begin claims test laptop -->\nold\n<!-- end claims -->")
    assert "| one is better than two |" in text
    assert "old" not in text
    assert fill(text) == text
    assert "Network one" in fill("<!-- begin scoreboard test laptop -->\n<!-- end scoreboard -->")


def test_how_a_recipe_trains_is_said_in_words_and_what_it_does_not_do_is_left_out():
    plain = resolve("fcn_skips", "fcn8s", "quick", 0)
    text = markdown.training_in_words(plain)
    assert max(map(len, text.splitlines())) <= 88
    entries = text.replace("\n" + " " * 11, " ").splitlines()
    steps, optimiser, images, loss, network = entries
    assert steps.split(maxsplit=1) == ["steps:", "40 batches of 8 images"]
    assert "adamw, learning rate 0.0005 after 20 steps of warm-up, falling to 0 (power 0.9)" in optimiser
    assert images.split(maxsplit=1)[1] == "96x128, mirrored at random"
    assert loss.split(maxsplit=1)[1] == "cross-entropy of the pixels"
    for row, words in {"focal": "focal loss of the pixels (gamma 2)", "dice": "Dice loss of the classes"}.items():
        assert words in markdown.training_in_words(resolve("class_weights", row, "quick", 0))
    assert "(norm=True, padding=same, dropout=0.1, width=12, fc_channels=64)" in network
    assert network.endswith("from the checkpoint fcn8s-street")

    changed = {"jitter": 0.2, "elastic": 3.0, "crop": (64, 96), "scale": (0.5, 2.0), "flip": False, "start_from": ""}
    changed |= {"class_weighting": "median_frequency", "boundary_weight": 10.0, "optimizer": "sgd", "poly_power": 0.0}
    text = " ".join(markdown.training_in_words(dataclasses.replace(plain, **changed, warmup_steps=0)).split())
    for words in (
        "times 1 ± 0.2", "bent (sigma 3 pixels)", "cut to 64x96", "resized by 0.5 to 2", "from random weights",
        "classes weighted by median frequency", "border weights (w0 10)", "sgd (momentum 0.9)",
    ):  # fmt: skip
        assert words in text
    for words in ("mirrored", "warm-up", "falling", "checkpoint", "hardest", "KL"):
        assert words not in text
    text = markdown.training_in_words(resolve("implicit_street", "scribe", "laptop", 0))
    assert "loss:      a binary cross-entropy for each logit (SCrIBE)\n" in text
