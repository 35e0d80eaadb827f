"""Submissions are graded by what they compute: those that cheat, hang, flood, delete or crash, too."""

import csv
import io
import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from course_lib.cli import app, grade, grade_process, grade_report
from course_lib.cli.grade_report import Student, student_of
from course_lib.notebook_tools.graded import graded_notebook
from course_lib.notebook_tools.hidden import hidden_cases
from course_lib.notebook_tools.probe import MIME
from course_lib.notebook_tools.stored_form import EXERCISE, METADATA
from course_lib.plumbing import walls
from course_lib.plumbing.paths import ROOT

WALLS = walls.why_open()
behind_walls = pytest.mark.skipif(bool(WALLS), reason=WALLS or "walls")
POINTS = {"double": 2, "half": 1, "names": 3}
STUBS = {name: f"def {name}(x):\n    return None  # your turn" for name in POINTS}
RIGHT = {"double": "def double(x):\n    return 2 * x", "half": "def half(x):\n    return x / OFFSET",
         "names": "def names(x):\n    return sorted(x)"}  # fmt: skip
CASES = """
[[case]]
of = "03-1"
call = "double(21)"
gives = 42
[[case]]
of = "03-1"
call = "double(-0.5)"
gives = -1.0
[[case]]
of = "03-2"
call = "half(5)"
gives = 2.5
[[case]]
of = "03-3"
call = 'names({"b", "a"})'
gives = ["a", "b"]
"""


def notebook(answers=STUBS, extra=(), stored=""):
    """The course's notebook, or a student's: three exercises, after a lecture whose training nobody needs."""
    cells = [
        new_markdown_cell("# 03 A lecture\n\n**Does it work?**", id="title"),
        new_code_cell('PROFILE = "quick"', id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell("import math\n\nfrom course_lib.exercises import check", id="imports"),
        new_code_cell("OFFSET = 2", id="offset"),
        new_code_cell("raise SystemExit('the long training')", id="training"),
    ]
    for place, (name, points) in enumerate(POINTS.items(), start=1):
        about = {"id": f"03-{place}", "points": points, "minutes": 5}
        source = f"{answers[name]}\n\n\ncheck('Exercise {place}', lambda: {name}(2) is not None)"
        cells.append(new_code_cell(source, id=f"exercise-{place}", metadata={EXERCISE: about}))
        if stored:
            cells[-1].outputs = [new_output("stream", text=stored)]
    cells[5:5] = [new_code_cell(source, id=f"added-{n}") for n, source in enumerate(extra)]
    return new_notebook(cells=cells, metadata=METADATA)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one lecture with hidden cases; a folder for submissions lies beside it."""
    folder = tmp_path / "course" / "notebooks"
    (folder / "hidden").mkdir(parents=True)
    nbformat.write(notebook(), folder / "03_lecture.ipynb")
    (folder / "hidden" / "03.toml").write_text(CASES, encoding="utf-8")
    monkeypatch.setattr(grade, "NOTEBOOKS", folder)
    monkeypatch.setattr(grade, "HIDDEN", folder / "hidden")
    (tmp_path / "submissions").mkdir()
    return folder


def hand_in(course, name, **more):
    path = course.parents[1] / "submissions" / name
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook(**more), path)
    return path


def graded(course, tmp_path, timeout=20, memory=1024, **more):
    """The last report of the process that grades one submission, run here."""
    submission, folder = hand_in(course, "one_03_lecture.ipynb", **more), tmp_path / "work"
    folder.mkdir(exist_ok=True)
    job = {"notebook": str(course / "03_lecture.ipynb"), "submission": str(submission), "memory": memory}
    job |= {"hidden": str(course / "hidden"), "folder": str(folder), "timeout": timeout, "walls": not WALLS}
    reports: list[dict] = []
    result = grade_process.work(job, None, reports.append)
    assert result["status"] == "ok", result
    return {one["id"]: one for one in result["exercises"]}, result["notes"]


def test_of_the_lecture_only_what_an_answer_reads_is_run(course):
    cases = hidden_cases("03", course / "hidden")
    whole = graded_notebook(notebook(), notebook(RIGHT, extra=["unused = 1 / 0", "more = 3"]), cases)
    sources = [cell.source for cell in whole.cells]
    assert sources[:3] == ['PROFILE = "quick"', "import math\n\nfrom course_lib.exercises import check", "OFFSET = 2"]
    kinds = [cell.metadata[EXERCISE]["kind"] for cell in whole.cells[3:]]
    assert kinds == ["answer", "probe", "probe", "answer", "probe", "answer", "probe"]
    bound_anew = graded_notebook(notebook(), notebook(RIGHT, extra=["OFFSET = 3"]), cases)
    assert "OFFSET = 3" in [cell.source for cell in bound_anew.cells]


def test_lecture_cells_of_a_student_are_not_run(course):
    theirs = notebook(RIGHT)
    theirs.cells[3].source = "OFFSET = 1  # changed"
    whole = graded_notebook(notebook(), theirs, hidden_cases("03", course / "hidden"))
    assert "OFFSET = 2" in [cell.source for cell in whole.cells]
    assert not any("changed" in cell.source for cell in whole.cells)


def test_an_answer_in_a_cell_of_its_own_counts(course):
    theirs = notebook(STUBS)
    theirs.cells.append(new_code_cell(RIGHT["names"], id="mine"))
    whole = graded_notebook(notebook(), theirs, hidden_cases("03", course / "hidden"))
    sources = [cell.source for cell in whole.cells]
    assert sources.index(RIGHT["names"]) < len(sources) - 1  # before the probe


def test_what_has_no_hidden_case_is_not_run(course):
    cases = [case for case in hidden_cases("03", course / "hidden") if case.of != "03-1"]
    whole = graded_notebook(notebook(), notebook(RIGHT), cases)
    kinds = [(cell.metadata[EXERCISE]["kind"], cell.metadata[EXERCISE]["exercise"]) for cell in whole.cells[3:]]
    assert kinds == [("answer", "03-2"), ("probe", "03-2"), ("answer", "03-3"), ("probe", "03-3")]
    needed = graded_notebook(notebook(), notebook(RIGHT | {"half": "def half(x):\n    return double(x) / 4"}), cases)
    assert RIGHT["double"] in needed.cells[2].source


@behind_walls
def test_a_person_reads_what_has_no_hidden_case(course, tmp_path):
    (course / "hidden" / "03.toml").write_text(CASES[CASES.index('[[case]]\nof = "03-2"') :], encoding="utf-8")
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT | {"double": LEAVE})
    (tmp_path / "submissions" / "broken_03_lecture.ipynb").write_text("{", encoding="utf-8")
    out = tmp_path / "grades.csv"
    ended = CliRunner().invoke(app, ["grade", str(tmp_path / "submissions"), "--out", str(out), "-j", "1"])
    assert "right 03: 4 of 4 points, 2 more for a person to give" in ended.output
    rows = list(csv.DictReader(io.StringIO((tmp_path / "grades_exercises.csv").read_text(encoding="utf-8"))))
    found = {(row["student"], row["exercise"]): row for row in rows}
    for student in ("right", "broken"):
        assert found[student, "03-1"]["points"] == ""
        assert found[student, "03-1"]["of"] == "2"
    assert found["right", "03-1"]["reason"] == "it has no hidden cases: a person reads it"
    assert found["broken", "03-2"]["points"] == "0"
    report = (tmp_path / "grades" / "03_lecture" / "right.html").read_text(encoding="utf-8")
    assert "4 of 4 points" in report
    assert "A person reads the rest and gives up to 2 points more." in report
    assert "Exercise 03-1: ? of 2 points" in report
    assert "os._exit(0)" in report  # what the person reads


HANG = "def double(x):\n    while True:\n        pass"
FLOOD = "def half(x):\n    while True:\n        print('x' * 10_000)"
LEAVE = "import os\n\n\ndef double(x):\n    os._exit(0)"
HOG = "def half(x):\n    return [bytearray(2**27) for _ in range(100)]"
FAKE = f"""
from IPython.display import display
from course_lib import exercises
from course_lib.notebook_tools import hidden, probe
def check(*anything): print("Exercise 1: solved")
exercises.check = check
hidden.agree = lambda *anything: True
hidden.Case.passed = lambda *anything: True
def double(x):
    display({{"{MIME}": {{"value": True, "passed": True}}}}, raw=True)
    class Same(float):
        def __eq__(self, other): return True
    return Same(7)
"""


@behind_walls
def test_each_gets_what_it_deserves(course, tmp_path):
    found, notes = graded(course, tmp_path, timeout=8, answers=RIGHT | {"double": HANG, "half": FLOOD})
    assert found["03-1"]["reason"] == "it took longer than 8 s"
    assert found["03-2"]["reason"] == "it printed too much"
    assert found["03-3"]["solved"]
    assert notes == []


@behind_walls
def test_what_ends_the_kernel_or_takes_all_memory(course, tmp_path):
    found, _ = graded(course, tmp_path, answers=RIGHT | {"double": LEAVE, "half": HOG})
    assert found["03-1"]["reason"] == "it ended the kernel"
    assert not found["03-2"]["solved"]
    assert "memory" in found["03-2"]["reason"].lower()
    assert found["03-3"]["solved"]


@behind_walls
def test_fake_results_count_nothing(course, tmp_path):
    found, _ = graded(course, tmp_path, answers=STUBS | {"double": FAKE}, stored="Exercise 1: solved\n")
    assert [one["solved"] for one in found.values()] == [False, False, False]
    assert "Exercise 1: solved" in found["03-1"]["printed"]  # the report shows it, and gives nothing for it


@behind_walls
def test_nothing_outside_is_seen_or_touched(course, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("here", encoding="utf-8")
    places = [victim, course, tmp_path / "submissions", ROOT / "notebooks", ROOT / ".git"]
    delete = (
        "import os, pathlib, shutil, socket\n"
        f"seen = [str(p) for p in map(pathlib.Path, {[str(place) for place in places]!r})"
        " if p.exists()]\n"
        f"for place in [*seen, {str(ROOT / 'course_lib')!r}]:\n    shutil.rmtree(place, ignore_errors=True)\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), timeout=2)\nexcept OSError as error:\n"
        "    seen.append(type(error).__name__ + str(error.errno))\n"
        "seen += [name for name in os.environ if 'SECRET' in name]\n"
        "def names(x):\n    return seen"
    )
    (course / "hidden" / "03.toml").write_text(
        CASES + '[[case]]\nof = "03-3"\ncall = "seen"\ngives = ["OSError101"]\n', encoding="utf-8"
    )
    found, _ = graded(course, tmp_path, answers=RIGHT | {"names": delete})
    assert found["03-3"]["passed"] == [False, True], found["03-3"]
    assert (victim / "kept").read_text(encoding="utf-8") == "here"
    assert (ROOT / "course_lib" / "exercises.py").is_file()
    assert (course / "03_lecture.ipynb").is_file()
    assert found["03-1"]["solved"]


@pytest.mark.parametrize(
    ("table", "reports"), [("grades.csv", "grades"), ("week2.csv", "week2_reports"), ("week2/deep.csv", "week2/deep")]
)
def test_reports_never_lie_where_the_submissions_are(tmp_path, table, reports):
    folder = grade.reports_folder(tmp_path / table, tmp_path / "week2")
    assert folder == tmp_path / reports


@behind_walls
def test_a_table_of_the_name_of_the_submissions(course, tmp_path):
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT)
    words = ["grade", str(tmp_path / "submissions"), "--out", str(tmp_path / "submissions.csv"), "-j", "1"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "submissions_reports" / "03_lecture" / "right.html").exists()


@behind_walls
def test_a_folder_of_submissions(course, tmp_path):
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT)
    hand_in(course, "Ann Wrong_4711_assignsubmission_file_/03_lecture.ipynb", stored="Exercise 1: solved\n")
    hand_in(course, "hostile_LATE_12_99_03_lecture-1.ipynb", answers=RIGHT | {"double": LEAVE})
    (tmp_path / "submissions" / "broken_03_lecture.ipynb").write_text("{", encoding="utf-8")
    out = tmp_path / "grades.csv"
    words = ["grade", str(tmp_path / "submissions"), "--out", str(out), "-j", "1", "--timeout", "20"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    rows = {row["Student"]: row for row in csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))}
    column = "03 A lecture"
    assert {name: row[column] for name, row in rows.items()} == {
        "right": "6", "Ann Wrong": "0", "hostile": "4", "broken": "0"}  # fmt: skip
    assert rows["Ann Wrong"]["ID"] == "4711"
    assert rows["hostile"]["ID"] == "12"
    report = (tmp_path / "grades" / "03_lecture" / "hostile_12.html").read_text(encoding="utf-8")
    assert "it ended the kernel" in report
    assert "4 of 6 points" in report
    again = CliRunner().invoke(app, words)
    assert "4 were graded before" in again.output
    assert " 03: " not in again.output
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT | {"half": STUBS["half"]})
    changed = CliRunner().invoke(app, words)
    assert "right 03: 5 of 6 points" in changed.output
    assert changed.output.count(" points, ") == 1


def test_without_walls_nothing_is_run_unasked(course, tmp_path, monkeypatch):
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT)
    monkeypatch.setattr(grade, "why_open", lambda: "no walls here")
    words = ["grade", str(tmp_path / "submissions"), "--out", str(tmp_path / "grades.csv")]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2
    assert "no walls here" in ended.output
    assert "--without-walls" in ended.output


@pytest.mark.skipif(sys.platform == "win32", reason="a shell sets the limits")
def test_without_walls_it_grades_with_the_limits_of_a_shell(course, tmp_path, monkeypatch):
    hand_in(course, "right_03_lecture.ipynb", answers=RIGHT)
    monkeypatch.setattr(grade, "why_open", lambda: "no walls here")
    out = tmp_path / "grades.csv"
    words = ["grade", str(tmp_path / "submissions"), "--out", str(out), "--without-walls"]
    ended = CliRunner().invoke(app, words)
    assert "WITHOUT walls" in ended.output
    assert "right 03: 6 of 6 points" in ended.output


def test_refusals_name_what_to_type(course, tmp_path):
    ended = CliRunner().invoke(app, ["grade", str(tmp_path / "nowhere")])
    assert ended.exit_code == 2
    nbformat.write(new_notebook(), tmp_path / "submissions" / "mine.ipynb")
    ended = CliRunner().invoke(app, ["grade", str(tmp_path / "submissions"), "--out", str(tmp_path / "g.csv")])
    assert ended.exit_code == 2
    assert "mine.ipynb: of which notebook?" in ended.output


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("doejane_12345_67890_03_fcn.ipynb", Student("doejane", "12345")),
        ("doejane_LATE_12345_67890_03_fcn-2.ipynb", Student("doejane", "12345")),
        ("Jane Doe_4711_assignsubmission_file_/03_fcn.ipynb", Student("Jane Doe", "4711")),
        ("jane/03_fcn.ipynb", Student("jane")),
        ("jane_03_fcn.ipynb", Student("jane")),
        ("jane.ipynb", Student("jane")),
    ],
)
def test_whose_a_file_is(tmp_path, name, student):
    assert student_of(tmp_path / name, tmp_path) == student


@pytest.mark.parametrize("text", ["{", "[]", '{"nbformat": 4, "cells": 3}', '{"nbformat": 4, "cells": [3]}',
                                  '{"nbformat": 4, "cells": [{"source": 3}]}', "[" * 100_000])  # fmt: skip
def test_what_is_no_notebook_is_said(tmp_path, text):
    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="no notebook that can be read"):
        grade_process.read_submission(path)


def test_a_report_shows_what_came_from_a_student_as_text():
    exercise = {"id": "03-1", "points": 2, "solved": False, "passed": [True, False], "reason": "<b>",
                "printed": "<script>alert(1)</script>", "source": "</pre><img src=x>"}  # fmt: skip
    result = {"student": "<i>jane</i>", "id": "", "notebook": "03", "exercises": [exercise], "notes": ["<u>"]}
    text = grade_report.page(result, "03")
    assert not any(tag in text for tag in ("<script", "<img", "<i>", "<b>", "<u>"))
    assert "Hidden cases passed: 1 of 2" in text


def test_a_table_runs_nothing_in_a_spreadsheet():
    result = {"student": "=cmd()", "id": "", "notebook": "03", "exercises": [], "notes": []}
    assert "'=cmd()" in grade_report.table([result], {"03": "03 FCN"})
    assert json.loads(json.dumps(result)) == result
