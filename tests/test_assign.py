"""An assignment: what students get holds no solution, and nbgrader and Gradescope take what is made for them."""

import json
import os
import subprocess
import sys
import zipfile

import nbformat
import pytest
from test_grade import CASES, RIGHT, STUBS, notebook
from typer.testing import CliRunner

from course_lib.cli import app, assign, grade
from course_lib.notebook_tools.assignments import solution, solutions_of, solved_version, student_version
from course_lib.notebook_tools.cells import parse
from course_lib.notebook_tools.exercises import exercises, exercises_of
from course_lib.notebook_tools.rules import committed, kind
from course_lib.notebook_tools.stored_form import EXERCISE

LECTURES = [path for path in committed() if kind(path) in ("lecture", "reproduce")]
READ = "def essay(x):\n    return None  # your turn"
WRITTEN = "def essay(x):\n    return LENGTH * x"
"""An exercise without hidden cases, and its solution, which needs a parameter that only the solutions have."""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A lecture whose cells all run, with its solutions and hidden cases."""
    folder = tmp_path / "course" / "notebooks"
    (folder / "hidden").mkdir(parents=True)
    (folder / "solutions").mkdir()
    lecture, solved = notebook(STUBS), notebook(RIGHT)
    for one in (lecture, solved):
        one.cells = [cell for cell in one.cells if cell.id != "training"]
    lecture.cells[0].source += "\n\n## Exercises\n\nThe solutions are in `notebooks/solutions/03_x.ipynb`."
    for cell in solved.cells:
        cell.metadata.pop(EXERCISE, None)
    nbformat.write(lecture, folder / "03_lecture.ipynb")
    nbformat.write(solved, folder / "solutions" / "03_lecture_solutions.ipynb")
    (folder / "hidden" / "03.toml").write_text(CASES, encoding="utf-8")
    monkeypatch.setattr(assign, "NOTEBOOKS", folder)
    monkeypatch.setattr(grade, "NOTEBOOKS", folder)
    return folder


def assign_to(out, words):
    """Assign lecture 3 to a folder and return it; the command says `words`."""
    ended = CliRunner().invoke(app, ["assign", "3", "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert words in ended.output
    return out


@pytest.fixture
def assigned(course, tmp_path):
    return assign_to(tmp_path / "out", "`03_lecture.ipynb`: 3 exercises, 6 points, about 15 minutes of work")


def test_what_students_get_holds_no_solution_and_no_hidden_case(assigned):
    texts = [path.read_text(encoding="utf-8") for path in (assigned / "student").rglob("*") if path.is_file()]
    assert sorted(path.name for path in (assigned / "student").iterdir()) == ["03_lecture.ipynb", "README.md"]
    assert not any(secret in text for text in texts for secret in ("return 2 * x", "double(21)", "notebooks/solutions"))
    given = nbformat.read(assigned / "student" / "03_lecture.ipynb", as_version=4)
    nbformat.validate(given)
    assert next(cell.source for cell in given.cells if EXERCISE in cell.metadata).startswith(STUBS["double"])


def test_with_an_address_the_first_cell_installs_the_course():
    given = student_version(notebook(), "https://github.com/us/every-pixel")
    assert "https://github.com/us/every-pixel" in given.cells[1].source
    assert student_version(notebook()).cells[1].source == 'PROFILE = "quick"'


def nbgrader(folder, *words):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    environment = os.environ | {"HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder), "IPYTHONDIR": str(folder)}
    environment["PATH"] = path
    command = [sys.executable, "-m", "nbgrader", *words]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stderr


def test_nbgrader_generates_and_grades(assigned):
    folder = assigned / "nbgrader"
    nbgrader(folder, "generate_assignment", "03_lecture")
    released = folder / "release" / "03_lecture" / "03_lecture.ipynb"
    text = released.read_text(encoding="utf-8")
    assert "return 2 * x" not in text
    assert "agree(plain(" not in text
    for name, answers in (("right", RIGHT), ("wrong", STUBS)):
        submitted = nbformat.read(released, as_version=4)
        for cell in submitted.cells:
            for function, answer in answers.items():
                if cell.metadata.get("nbgrader", {}).get("solution") and f"def {function}(" in cell.source:
                    cell.source = answer
        target = folder / "submitted" / name / "03_lecture" / "03_lecture.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(submitted, target)
    nbgrader(folder, "autograde", "03_lecture", "--create")
    nbgrader(folder, "export")
    rows = (folder / "grades.csv").read_text(encoding="utf-8").splitlines()
    head = rows[0].split(",")
    scores = {row.split(",")[head.index("student_id")]: float(row.split(",")[head.index("score")]) for row in rows[1:]}
    assert scores == {"right": 6.0, "wrong": 0.0}


@pytest.mark.skipif(sys.platform == "win32", reason="a script of a Linux container")
def test_the_autograder_writes_what_gradescope_reads(assigned, tmp_path):
    here = tmp_path / "autograder"
    with zipfile.ZipFile(assigned / "gradescope" / "03_lecture.zip") as archive:
        archive.extractall(here / "source")
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
    (here / "submission").mkdir()
    nbformat.write(notebook(RIGHT | {"half": STUBS["half"]}), here / "submission" / "answer.ipynb")
    environment = os.environ | {"AUTOGRADER": str(here), "PYTHON": sys.executable}
    script = ["bash", str(here / "source" / "run_autograder")]
    ended = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    results = json.loads((here / "results" / "results.json").read_text(encoding="utf-8"))
    assert results["score"] == 5, ended
    assert [test["score"] for test in results["tests"]] == [2, 0, 3]
    assert [test["max_score"] for test in results["tests"]] == [2, 1, 3]


@pytest.fixture
def lab(course, tmp_path):
    """An assignment of a lecture whose last exercise a person reads."""
    for path, answer in ((course / "03_lecture.ipynb", READ),
                         (course / "solutions" / "03_lecture_solutions.ipynb", WRITTEN)):  # fmt: skip
        one = nbformat.read(path, as_version=4)
        about = {"id": "03-4", "points": 4, "minutes": 5} if answer is READ else None
        metadata = {EXERCISE: about} if about else {}
        source = f"{answer}\n\n\ncheck('Exercise 4', lambda: essay(2) is not None)"
        one.cells.append(nbformat.v4.new_code_cell(source, id="exercise-4", metadata=metadata))
        if about is None:
            next(cell for cell in one.cells if cell.id == "parameters").source += "\nLENGTH = 3"
        nbformat.write(one, path)
    return assign_to(tmp_path / "lab", "4 exercises, 10 points, about 20 minutes of work; a person reads 03-4")


def test_what_a_person_reads_is_one_cell_for_nbgrader(lab):
    source = nbformat.read(lab / "nbgrader" / "source" / "03_lecture" / "03_lecture.ipynb", as_version=4)
    marked = {cell.metadata.nbgrader.grade_id: cell for cell in source.cells if "nbgrader" in cell.metadata}
    assert "tests-03-4" not in marked
    read = marked["answer-03-4"].metadata.nbgrader
    assert (read.grade, read.solution, read.locked, read.points) == (True, True, False, 4)
    nbgrader(lab / "nbgrader", "generate_assignment", "03_lecture")
    released = (lab / "nbgrader" / "release" / "03_lecture" / "03_lecture.ipynb").read_text(encoding="utf-8")
    assert "LENGTH" not in released
    assert "def essay" in released


def test_a_solution_takes_the_parameters_along_that_only_it_has(lab):
    solved = nbformat.read(lab / "instructor" / "03_lecture.ipynb", as_version=4)
    names = {}
    for cell in solved.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    assert names["essay"](2) == 6
    assert [cell.source.count("PROFILE =") for cell in solved.cells if cell.cell_type == "code"] == [
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One.\n\nSolutions of both: [27_x](solutions/27_x.ipynb).\n\n**1**", "One.\n\n**1**"),
        ("It is wrong. Solutions:\n[02_x](solutions/02_x.ipynb).\n\n**1**", "It is wrong.\n\n**1**"),
        ("It says so; the solutions are in `notebooks/solutions/03_x.ipynb`.", "It says so."),
        ("One. Solutions are in `notebooks/solutions`. Two.", "One. Two."),
        ("The solutions of the equation are two.", "The solutions of the equation are two."),
    ],
)
def test_of_a_text_only_the_words_on_solutions_go(text, kept):
    given = notebook()
    given.cells[0].source = text
    assert student_version(given).cells[0].source == kept


def test_refusals(course, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a", encoding="utf-8")
    for words, says in ((["03", "--out", str(tmp_path / "full")], "is not empty"), (["77"], "no notebook has the number"),
                        (["03", "99"], "no notebook has the number '99'")):  # fmt: skip
        out = [] if "--out" in words else ["--out", str(tmp_path / "new")]
        ended = CliRunner().invoke(app, ["assign", *words, *out])
        assert ended.exit_code == 2
        assert says in ended.output
    nbformat.write(notebook(), course / "20_lab.ipynb")
    ended = CliRunner().invoke(app, ["assign", "20", "--out", str(tmp_path / "new")])
    assert "20_lab has no hidden cases: its exercises are read by a person" in ended.output


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_every_lecture_can_be_assigned(path):
    lecture, solutions = parse(path.read_text(encoding="utf-8")), solutions_of(path)
    for one in exercises(lecture):
        assert one.rest.count("check(") == 1
        compile(solution(one, solutions), one.id, "exec")
    student = student_version(lecture)
    assert "solutions/" not in "".join(cell.source for cell in student.cells)
    assert "_solutions" not in "".join(cell.source for cell in student.cells)
    assert all(not cell.get("outputs") for cell in student.cells)
    solved = solved_version(lecture, solutions)
    assert [one.id for one in exercises(solved)] == [one.id for one in exercises_of(path)]
