"""The committed notebooks keep the rules, and each has its solutions."""

import re
from collections import Counter

import pytest

from course_lib.notebook_tools.rules import check, committed, kind
from course_lib.notebook_tools.shared import shared_definitions
from course_lib.plumbing.paths import ROOT

NOTEBOOKS = committed()
COURSE = [path for path in NOTEBOOKS if path.parent.name == "notebooks"]
SOLUTIONS = [path for path in NOTEBOOKS if path.parent.name == "solutions"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path):
    assert check(path) == []


def test_no_definition_stands_in_two_notebooks():
    assert shared_definitions(NOTEBOOKS) == []


def test_the_course_begins_with_its_first_notebooks():
    numbers = {path.stem[:2] for path in COURSE}
    assert {"00", "01", "02", "03"} <= numbers


def test_numbers_are_unique():
    repeated = [number for number, n in Counter(path.stem[:2] for path in COURSE).items() if n > 1]
    assert repeated == []


def test_nothing_else_lies_among_the_notebooks():
    strangers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "notebooks").rglob("*")
        if path.is_file() and path not in NOTEBOOKS and not {".ipynb_checkpoints", ".ruff_cache"} & set(path.parts)
    ]
    hidden = [one for one in strangers if re.fullmatch(r"notebooks/hidden/\d\d\.toml", one)]
    assert sorted(set(strangers) - set(hidden)) == ["notebooks/ruff.toml"]


def test_every_lecture_has_its_solutions_and_every_solution_its_notebook():
    lectures = {path.stem for path in COURSE if kind(path) == "lecture"}
    solved = {path.stem.removesuffix("_solutions") for path in SOLUTIONS}
    assert lectures - solved == set(), "without solutions"
    assert solved - {path.stem for path in COURSE} == set(), "solutions of no notebook"


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_linked_notebooks_exist(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w./-]+\.ipynb)[#)]", text)
    assert [link for link in links if not (path.parent / link).is_file()] == []
