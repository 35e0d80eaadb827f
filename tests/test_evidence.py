"""`course evidence`: the order of what is missing, its estimates, and a given time spent on it."""

from dataclasses import replace

import pytest
import torch
from training_helpers import TINY_TABLE
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.cli import evidence as command
from course_lib.experiments import evidence, records, table
from course_lib.experiments.evidence import Planned
from course_lib.experiments.launch import slurm as cluster
from course_lib.experiments.launch.local import Outcome, run_all
from course_lib.experiments.records import Record, record_path, run_folder, write_record
from course_lib.experiments.table import Table

TABLE = (
    TINY_TABLE
    + """
[rows.a]
label = "a"

[rows.b]
label = "b"

[rows.long]
label = "many steps"
recipe = { steps = 60 }

[rows.alone]
label = "no claim asks for it"
recipe = { steps = 1 }

[[claims]]
id = "long_beats_a"
kind = "ours"
statement = "long beats a"
better = "long"
worse = "a"

[[claims]]
id = "a_beats_b"
kind = "ours"
statement = "a beats b"
better = "a"
worse = "b"
"""
)

CORRECTION = """
title = "Self-correction for tests"
[recipe]
task = "self_correction"
dataset = "street_objects"
model = "deeplabv3plus"
height = 32
width = 48
steps = 4
full_length = 5
[profiles.laptop]
checkpoint_every = 2
[rows.ancillary_5]
label = "ancillary"
recipe = { method = "ancillary" }
[rows.none_5]
label = "none"
recipe = { method = "none" }
[rows.full_only_5]
label = "masks alone"
recipe = { method = "full_only" }
[[claims]]
id = "boxes_pay"
kind = "ours"
statement = "boxes pay"
better = "none_5"
worse = "full_only_5"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Tables, runs, results and quick records in temporary folders."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/test.toml").write_text(TABLE)
    monkeypatch.setattr(table, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(records, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(records, "build_root", lambda: tmp_path / "build")
    monkeypatch.setattr("course_lib.experiments.report.scoreboard.results_root", lambda: tmp_path / "results")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    return tmp_path


def planned(*tables: Table, profile: str = "laptop", seeds=(0, 1), **options) -> list[str]:
    chosen = tables or (Table.read("test"),)
    return [run.recipe.title() for run in evidence.plan(chosen, profile, seeds, device="cpu", **options)]


def record(row: str, seed: int = 0, seconds: float = 10.0, device: str = "cpu", **changes) -> None:
    recipe = replace(Table.read("test").recipe(row, "laptop", seed), **changes)
    about = Record(
        recipe=recipe.settings(),
        recipe_hash=recipe.hash(),
        metrics={"mean_iou": {"long": 0.5, "a": 0.3}.get(row, 0.1) + 0.01 * seed},
        per_class={},
        data={"set": "street", "measured_on": "val", "size": "32x48"},
        seconds=seconds,
        peak_memory_mib=0,
        parameters=1,
        device=device,
        precision="32-true",
        machine={"cpu": "a", "cores": 1, "gpu": ""},
        versions={},
        commit="",
        date="2026-01-01",
    )
    write_record(about, record_path(recipe))


# -- the order --------------------------------------------------------------------------------------


def test_a_claim_is_seen_through_seed_by_seed_and_the_shortest_first(home):
    assert planned() == [
        *("a seed 0", "b seed 0", "a seed 1", "b seed 1"),
        *("long seed 0", "long seed 1"),
        *("alone seed 0", "alone seed 1"),
    ]


def test_what_is_half_measured_comes_before_what_is_short(home):
    record("long")
    assert planned()[:4] == ["a seed 0", "a seed 1", "long seed 1", "b seed 0"]


def test_what_was_stopped_comes_before_what_is_short(home):
    folder = run_folder(Table.read("test").recipe("long", "laptop", 0))
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").touch()
    assert planned()[:2] == ["a seed 0", "long seed 0"]


def test_headline_claims_come_first(home):
    (home / "tables/test.toml").write_text(TABLE.replace('"long_beats_a"', '"long_beats_a"\nheadline = true'))
    assert planned()[:5] == ["a seed 0", "long seed 0", "a seed 1", "long seed 1", "b seed 0"]
    runs = evidence.plan([Table.read("test")], "laptop", [0], device="cpu")
    assert [run.settles for run in runs] == ["headline claim long_beats_a"] * 2 + ["claim a_beats_b", "its own row"]


def test_what_there_is_to_win_belongs_to_the_claim(home):
    claim = replace(Table.read("test").claims[1], room=("long", "a"))
    table = replace(Table.read("test"), claims=(claim,))
    assert [question.rows for question in evidence.questions(table)] == [("a", "b", "long"), ("alone",)]


def test_an_ancillary_network_comes_before_what_learns_from_it(home):
    (home / "tables/correction.toml").write_text(CORRECTION)
    of_tables = planned(Table.read("correction"))
    assert of_tables[:3] == ["ancillary_5 seed 0", "full_only_5 seed 0", "none_5 seed 0"]
    assert of_tables.index("none_5 seed 1") < of_tables.index("ancillary_5 seed 1")


def test_what_is_recorded_or_not_here_is_not_planned(home):
    for row in ("a", "b"):
        record(row)
    recipe = Table.read("test").recipe("long", "laptop", 0)
    assert planned(seeds=[0], absent={recipe.key: "it is elsewhere"}) == ["alone seed 0"]
    record("a", steps=3)  # a changed recipe's
    assert planned(seeds=[0])[0] == "a seed 0"


# -- estimates --------------------------------------------------------------------------------------


def test_estimates_come_from_the_row_then_the_table_then_all_then_a_guess(home):
    text = TABLE.replace("batch_size = 2", "batch_size = 4")
    (home / "tables/other.toml").write_text(text)
    test, other = Table.read("test"), Table.read("other")

    def seconds(of: Table, row: str, device: str = "cpu") -> float:
        rates = evidence.recorded_rates([test, other], "laptop", device)
        return evidence.estimate(of.recipe(row, "laptop"), rates, device) - evidence.START

    pixels = 32 * 48 * 12 * 2
    assert seconds(test, "a") == pytest.approx(evidence.GUESS["cpu"][0] * pixels)
    record("a", seconds=24.0)
    record("b", seconds=72.0, steps=24)  # of a changed recipe: 36 s for 12 steps
    assert seconds(test, "a") == pytest.approx(24)
    assert seconds(test, "long") == pytest.approx(5 * 30)
    assert seconds(other, "a") == pytest.approx(2 * 30)
    assert seconds(test, "a", "cuda") == pytest.approx(
        evidence.GUESS["cuda"][1] * 12
    )  # small pictures wait for the launches


def test_when_runs_begin(home):
    recipe = Table.read("test").recipe("a", "laptop")
    runs = [Planned(recipe, seconds, "") for seconds in (10, 4, 3, 5)]
    assert evidence.beginnings(runs, 1) == [0, 10, 14, 17]
    assert evidence.beginnings(runs, 2) == [0, 0, 4, 7]


def test_a_run_without_steps_is_guessed_by_its_pictures():
    table = Table.read("fcn_upper_bound")
    recipe = table.recipe("factor_8", "laptop")
    assert evidence.pixels(recipe.settings()) == recipe.height * recipe.width * evidence.MEASURED


# -- the command ------------------------------------------------------------------------------------


def call(*arguments: str):
    return CliRunner().invoke(app, ["evidence", *arguments])


def test_a_dry_run_prints_the_plan_and_runs_nothing(home):
    done = call("--dry-run", "--minutes", "0.5", "--profile", "laptop", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "test a seed 0" in done.output
    assert "claim a_beats_b" in done.output
    assert "of 12 missing runs begin in 30 s, 1 at a time" in done.output
    assert not (home / "runs").exists()


def test_what_was_made_changes_the_scoreboard(home):
    for seed in (0, 1):
        record("long", seed)
        record("b", seed)
    record("a", 1)
    done = call("--minutes", "5", "--profile", "laptop", "--seeds", "2", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "3 runs: 3 done" in done.output
    assert "long beats a: " in done.output
    assert planned() == []


def test_a_bad_table_and_a_failed_run_stop_no_other(home):
    (home / "tables/bad.toml").write_text(TABLE.replace("fc_channels", "fc_chanels"))
    text = TABLE.replace('label = "b"', 'label = "b"\nrecipe = { start_from = "no-such" }')
    (home / "tables/test.toml").write_text(text)
    for row in ("long", "alone"):
        record(row)
    done = call("--minutes", "5", "--profile", "laptop", "--seeds", "1")
    assert done.exit_code == len([line for line in done.output.splitlines() if "fc_chanels" in line]) + 1
    assert "left out: bad.toml: row 'a' at 'laptop': model_options: fc_chanels" in done.output
    assert "CheckpointError" in done.output
    assert "2 runs: 1 done, 1 failed" in done.output


def test_at_the_limit_what_runs_stops_at_a_checkpoint_and_goes_on_next_time(home, monkeypatch):
    monkeypatch.setattr(command, "WORTH", 0.0)
    (home / "tables/test.toml").write_text(TABLE.replace("steps = 60", "steps = 100000"))
    for row in ("a", "b", "alone"):
        record(row)
    recipe = Table.read("test").recipe("long", "laptop")
    done = call("--minutes", "0.2", "--profile", "laptop", "--seeds", "1")
    assert done.exit_code == 0, done.output
    assert "stopped after step" in done.output
    assert list(run_folder(recipe).glob("checkpoint.safetensors"))
    assert not record_path(recipe).exists()


def test_nothing_is_begun_that_would_not_end(home, monkeypatch):
    """A quick run cannot be stopped and go on: it begins only where its estimate fits."""
    monkeypatch.setattr(evidence, "START", 100.0)
    done = call("--minutes", "1", "--profile", "quick", "--seeds", "1")
    assert done.exit_code == 0, done.output
    assert "4 runs: 4 waiting" in done.output
    assert not (home / "runs").exists()


def test_rows_without_their_pictures_are_named_with_the_command(home, data_dir):
    text = TABLE.replace('"street"', '"camvid"').replace(
        "[recipe.dataset_options]\ntrain_length = 6\nval_length = 3\n", ""
    )
    (home / "tables/real.toml").write_text(text)
    done = call("--dry-run", "--profile", "laptop")
    assert "left out, 4 rows" in done.output
    assert "real/a" in done.output
    assert "CamVid is not here: course data get camvid" in done.output


def test_a_row_is_left_out_where_its_split_is_not_here(home, data_dir):
    from tests.data_helpers import make_camvid

    folder = make_camvid(data_dir)
    text = TABLE.replace('"street"', '"camvid"').replace(
        "[recipe.dataset_options]\ntrain_length = 6\nval_length = 3\n", ""
    )
    (home / "tables/real.toml").write_text(text.replace('label = "a"', 'label = "a"\nlaptop = { val_split = "test" }'))
    for name in ("test", "testannot"):
        (folder / name).rename(folder / f"no-{name}")
    done = call("--dry-run", "--profile", "laptop", "--tables", "real")
    assert 'left out, 1 rows (real/a): CamVid has no images of "test" here' in done.output
    assert "course data get camvid" in done.output


def test_on_slurm_the_runs_that_begin_in_time_become_jobs(home, monkeypatch):
    given = {}

    def submit(recipes, **options):
        given.update(options, recipes=[recipe.title() for recipe in recipes])
        return [Outcome(recipe, "busy") for recipe in recipes]

    monkeypatch.setattr(cluster, "submit", submit)
    monkeypatch.setattr(evidence, "START", 100.0)
    arguments = ("--minutes", "2", "--profile", "laptop", "--on", "slurm", "--jobs", "2", "--slurm", "partition=gpu")
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert given["recipes"] == ["a seed 0", "b seed 0", "a seed 1", "b seed 1"]
    assert (given["jobs"], given["gpus"], given["slurm"], given["time_limit"]) == (2, 1, ["partition=gpu"], None)


@pytest.mark.parametrize("arguments", [("--on", "moon"), ("--profile", "lptop"), ("--seeds", "many")])
def test_what_it_does_not_understand_is_refused(home, arguments):
    done = call(*arguments)
    assert done.exit_code == 2
    assert "course evidence: " in done.output


def test_how_many_runs_share_a_card(monkeypatch):
    class Card:
        def __init__(self, gib):
            self.total_memory = gib * 2**30 + 1

    for gib, runs in (([80], 6), ([40], 6), ([24], 4), ([8], 1), ([80, 80], 12), ([], 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gib=gib: len(gib))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number, gib=gib: Card(gib[number]))
        assert command.runs_at_once() == runs


# -- what a pool does with it -----------------------------------------------------------------------


def test_who_learns_from_a_run_begins_when_it_has_ended(home, monkeypatch):
    from course_lib.experiments.launch import local

    (home / "tables/correction.toml").write_text(CORRECTION)
    table = Table.read("correction")
    recipes = [table.recipe(row, "laptop") for row in ("none_5", "ancillary_5", "full_only_5")]
    begun = []

    def start(self, place, slot):
        begun.append(self.recipes[place].row)
        raise OSError("no process")

    monkeypatch.setattr(local.RunPool, "start", start)
    outcomes = run_all(recipes, jobs=1)
    assert begun == ["ancillary_5", "none_5", "full_only_5"]
    assert {outcome.status for outcome in outcomes} == {"failed"}


def test_a_run_loads_with_its_share_of_the_cores(home, monkeypatch):
    from types import SimpleNamespace

    from course_lib.experiments import building
    from course_lib.experiments.launch import local

    on_card, on_cpu = (SimpleNamespace(device=torch.device(name)) for name in ("cuda", "cpu"))
    monkeypatch.setattr(building, "cores", lambda: 16)
    monkeypatch.setattr(local, "cores", lambda: 16)
    assert [building.loading_processes(on_card, share) for share in (0, 2, 16)] == [8, 2, 8]
    assert building.loading_processes(on_cpu, 2) == 0
    shares = []
    monkeypatch.setattr(local, "Child", lambda module, request, *rest: shares.append(request["cores"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_all([Table.read("test").recipe("a", "laptop")], jobs=6)
    assert shares == [2]
