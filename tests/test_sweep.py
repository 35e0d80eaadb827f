"""The sweep runs what is not on file, under the precision and threads that it names, and keeps what it came to."""

import hashlib
import json
import os

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell
from typer.testing import CliRunner

from course_lib.cli import app, sweep
from course_lib.notebook_tools.cells import code_cells, expectations, parse
from course_lib.notebook_tools.sweep import OFTEN_ENOUGH, Recorded, Trial, excerpt, planned
from course_lib.plumbing.machine import best_precision
from course_lib.plumbing.paths import ROOT

ABOUT = {"machine": "m", "torch": "t", "commit": "c", "code": "k"}
EXPECTING = [
    ("SEED = 0", ["parameters"]),
    ("import os\nfrom course_lib.exercises import expect", []),
    ("score = SEED + int(os.environ['OMP_NUM_THREADS'])  # a comment", []),
    ("expect(score < 3, 'small', found=score, wanted=3)", []),
    ("1 / 0", []),
]


def write(path, cells=EXPECTING):
    cells = [new_code_cell(source, metadata={"tags": tags} if tags else {}) for source, tags in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_an_excerpt_ends_with_the_last_expectation_and_layout_is_no_other_code(tmp_path):
    text, code = excerpt(write(tmp_path / "01_one.ipynb"))
    assert "1 / 0" not in text
    assert nbformat.reads(text, as_version=4).cells[-1].source.startswith("expect(")
    split = [*EXPECTING[:1], ("import os", []), *EXPECTING[1:], ("2 / 0", [])]
    assert excerpt(write(tmp_path / "02_two.ipynb", split))[1] == code
    other = [(source.replace("SEED +", "SEED -"), tags) for source, tags in EXPECTING]
    assert excerpt(write(tmp_path / "03_three.ipynb", other))[1] != code
    with pytest.raises(ValueError, match="no expectation"):
        excerpt(write(tmp_path / "04_four.ipynb", EXPECTING[:3]))


def test_the_hash_of_code_is_that_of_its_text(tmp_path):
    """The same in every version of Python, which `ast.unparse` is not: 3.12 quotes f-strings otherwise."""
    cells = [*EXPECTING[:2], ("@cached\ndef f():\n    return  f'{\"a\"} {2}'", []), *EXPECTING[3:]]
    text = "SEED=0\n@cacheddeff():returnf'{\"a\"}{2}'\nexpect(score<3,'small',found=score,wanted=3)"
    assert excerpt(write(tmp_path / "01_one.ipynb", cells))[1] == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_an_excerpt_leaves_out_what_only_draws(tmp_path):
    drawing = [("figure = draw(score)", ["hide-input"]), ("shown = 3", ["hide-input"]), ("print(shown)", [])]
    text, _ = excerpt(write(tmp_path / "01_one.ipynb", [*EXPECTING[:3], *drawing, *EXPECTING[3:]]))
    sources = [cell.source for cell in nbformat.reads(text, as_version=4).cells]
    assert "figure = draw(score)" not in sources
    assert sources[-3:] == ["shown = 3", "print(shown)", EXPECTING[3][0]]


def test_threads_alternate_in_each_precision():
    trials = planned("01_one", 3, ("bf16", "fp32"), 8)
    assert len(set(trials)) == 6
    assert [(one.precision, one.threads) for one in trials[:4]] == [("bf16", 1), ("fp32", 8), ("bf16", 8), ("fp32", 1)]


def note(tmp_path, *lines):
    path = tmp_path / "noted.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def line(held, margin, statement="small"):
    return {"statement": statement, "held": held, "found": 1, "wanted": 3, "margin": margin}


def test_trials_are_kept_and_dropped_with_their_code(tmp_path):
    recorded, trial = Recorded(tmp_path / "expectations.json"), Trial("01_one", 0, "bf16", 1)
    noted = note(tmp_path, line(True, 0.5), line(False, -0.123456789), line(True, 0.2), line(True, None, "a name"))
    recorded.add(trial, noted, ABOUT)
    again = Recorded(tmp_path / "expectations.json")
    assert again.expectations == recorded.expectations
    assert again.expectations[0]["trials"] == [
        {"seed": 0, "precision": "bf16", "threads": 1, "held": False, "found": 1, "wanted": 3, "margin": -0.12346}
        | ABOUT
    ]
    assert again.has(trial)
    assert not again.has(Trial("01_one", 0, "bf16", 2))
    assert not again.has(Trial("01_one", 0, "fp32", 1))
    assert not again.has(Trial("02_two", 0, "bf16", 1))
    assert again.summary(["01_one"]) == ["01   0 of 1, margin -0.123 at least  TOO FEW  small", "01   1 of 1  a name"]
    again.keep("01_one", "k")
    assert again.has(trial)
    again.keep("01_one", "moved", moved=True)
    assert again.has(trial)
    again.keep("01_one", "k")
    assert not again.expectations


def test_a_sweep_is_resumed(tmp_path, monkeypatch):
    file = tmp_path / "results" / "expectations.json"
    monkeypatch.setattr(sweep, "Recorded", lambda: Recorded(file))
    monkeypatch.setattr(sweep, "build_root", lambda: tmp_path / "build")
    monkeypatch.setattr(sweep, "cores", lambda: 2)
    monkeypatch.setenv("COURSE_STRICT", "1")
    path = str(write(tmp_path / "01_one.ipynb"))
    arguments = ["notebooks", "sweep", path, "--precisions", "fp32", "--seeds"]
    assert CliRunner().invoke(app, [*arguments, "1"]).exit_code == 0
    before = file.read_text(encoding="utf-8")
    done = CliRunner().invoke(app, [*arguments, "2"])
    assert "01   1 of 2, margin +0 at least  TOO FEW  small" in done.output
    trials = json.loads(file.read_text(encoding="utf-8"))["expectations"][0]["trials"]
    assert [(one["seed"], one["threads"], one["found"], one["held"]) for one in trials] == [
        (0, 1, 1, True),
        (1, 2, 3, False),
    ]
    assert json.loads(before)["expectations"][0]["trials"] == trials[:1]
    assert CliRunner().invoke(app, [*arguments[:-2], "half", "--seeds", "1"]).exit_code == 2
    write(tmp_path / "01_one.ipynb", [(source.replace("score", "sum_of"), tags) for source, tags in EXPECTING])
    assert CliRunner().invoke(app, [*arguments, "2", "--moved"]).exit_code == 0
    moved = json.loads(file.read_text(encoding="utf-8"))["expectations"][0]["trials"]
    assert [one["found"] for one in moved] == [1, 3]
    assert moved[0]["code"] != trials[0]["code"]


@pytest.mark.parametrize(
    ("declared", "given"),
    [("SEED = 0", {"SEED": 2}), ("SEEDS = [0]", {"SEEDS": [2]}), ("SEEDS = [0, 1]", {"SEEDS": [4, 5]})],
)
def test_a_trial_has_as_many_seeds_as_the_notebook(tmp_path, declared, given):
    path = write(tmp_path / "01_one.ipynb", [(declared, ["parameters"]), *EXPECTING[1:]])
    assert sweep._job(Trial("01_one", 2, "fp32", 1), path).parameters == given


@pytest.mark.parametrize(("forced", "precision"), [("bf16", "bf16-mixed"), ("fp32", "32-true")])
def test_a_precision_can_be_forced(monkeypatch, forced, precision):
    monkeypatch.setenv("COURSE_PRECISION", forced)
    assert best_precision(torch.device("cpu")) == precision
    monkeypatch.setitem(os.environ, "COURSE_PRECISION", "half")
    with pytest.raises(ValueError, match="bf16 or fp32"):
        best_precision(torch.device("cpu"))


def test_what_the_course_expects_holds_often_enough():
    seldom = [
        f"{one['statement']}: {sum(trial['held'] for trial in one['trials'])} of {len(one['trials'])}"
        for one in Recorded().expectations
        if sum(trial["held"] for trial in one["trials"]) < OFTEN_ENOUGH * len(one["trials"])
    ]
    assert seldom == []


def test_what_is_on_file_is_still_expected():
    for one in Recorded().expectations:
        notebook = parse((ROOT / "notebooks" / f"{one['notebook']}.ipynb").read_text(encoding="utf-8"))
        written = [text for _, cell in code_cells(notebook) for text in expectations(cell)]
        assert repr(one["statement"]) in written or any(text.startswith("f") for text in written), one["statement"]
