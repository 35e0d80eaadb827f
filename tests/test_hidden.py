"""Hidden cases: every exercise of a lecture has two, its solution passes them, and its stub does not.

Of a lab only those that need no training have them; a person reads the others.
"""

import warnings

import pytest

from course_lib.notebook_tools.assignments import solutions_of, solved_version, student_version
from course_lib.notebook_tools.cells import parse
from course_lib.notebook_tools.exercises import exercises, exercises_of
from course_lib.notebook_tools.graded import graded_notebook
from course_lib.notebook_tools.hidden import Case, agree, as_assertion, hidden_cases, read_by_a_person, solved
from course_lib.notebook_tools.probe import plain
from course_lib.notebook_tools.rules import committed, kind
from course_lib.notebook_tools.stored_form import EXERCISE
from course_lib.plumbing.paths import ROOT

LECTURES = [path for path in committed() if kind(path) in ("lecture", "reproduce")]
READ = {f"{number}-2" for number in range(20, 30)}
"""Exercises that a person reads: each trains networks in a lab."""
TRAINED = {"15-3", "16-3", "17-3", "18-3", "19-3"}
"""Exercises whose solution trains networks: their stub is run here with --full, and else nothing of them.

The stub too reads what the lecture has trained. The solutions are executed as notebooks.
"""


def values(graded) -> dict[str, object]:
    """What the probes of a graded notebook give, in this process."""
    names: dict[str, object] = {}
    found = {}
    for cell in graded.cells:
        about = cell.metadata[EXERCISE]
        try:
            if about["kind"] == "probe":
                found[about["call"]] = plain(eval(about["call"], names))
            else:
                exec(compile(cell.source, "cell", "exec"), names)
        except Exception as error:
            if about["kind"] == "lecture":
                raise AssertionError(f"a cell of the lecture needs what was left out: {error}") from error
    return found


def outcome(notebook, submitted, cases) -> dict[str, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = values(graded_notebook(notebook, submitted, cases))
    of = {one.id: [case for case in cases if case.of == one.id] for one in exercises(notebook)}
    return {one: solved(some, found) for one, some in of.items()}


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_every_exercise_has_two_hidden_cases(path):
    cases = hidden_cases(path.name[:2])
    counted = {one.id: sum(case.of == one.id for case in cases) for one in exercises_of(path)}
    assert counted == {one: 0 if one in READ else 2 for one in counted}
    assert {case.of for case in cases} == set(counted) - READ
    assert set(read_by_a_person(counted, cases)) == set(counted) & READ


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_solutions_pass_the_hidden_cases_and_stubs_do_not(path, capsys, full):
    notebook, cases = parse(path.read_text(encoding="utf-8")), hidden_cases(path.name[:2])
    trained = TRAINED & {one.id for one in exercises(notebook)}
    if not trained:
        assert set(outcome(notebook, student_version(notebook), cases).values()) == {False}
        capsys.readouterr()
    solutions = solved_version(notebook, solutions_of(path))
    stubs = {one.id: one.cell.source for one in exercises(notebook)}
    for one in exercises(solutions):
        if one.id in trained:
            one.cell.source = stubs[one.id] if full else ""
    cases = [case for case in cases if full or case.of not in trained]
    found = outcome(notebook, solutions, cases)
    assert {one for one, right in found.items() if right} - trained == stubs.keys() - trained - READ
    assert not full or not any(found[one] for one in trained)
    assert capsys.readouterr().out.count("not solved yet") == (len(trained) if full else 0)


@pytest.mark.parametrize(
    ("value", "wanted", "same"),
    [
        (1.0, 1, True),
        (0.333333, 1 / 3, True),
        (0.34, 1 / 3, False),
        ([1, [2.0]], (1, (2,)), True),
        ([1], [1, 2], False),
        (True, True, True),
        ("Pole", "Pole", True),
        ("2", 2, False),
        (None, 0, False),
        ("nan", 1.0, False),
    ],
)
def test_values_agree(value, wanted, same):
    assert agree(value, wanted) is same


def test_a_condition_takes_the_place_of_a_value():
    case = Case("01-1", "f()", holds="value is None or abs(value) < 1")
    assert case.passed(None)
    assert not case.passed(2)
    assert not case.passed("a")  # abs of a text
    assert not Case("01-1", "f()", holds="__import__('os')").passed(1)


def test_a_case_becomes_an_assertion():
    names = {"Case": Case, "agree": agree, "plain": plain, "f": lambda: (1, 2)}
    for case, right in ((Case("01-1", "f()", [1, 2]), True), (Case("01-1", "f()", [1, 3]), False),
                        (Case("01-1", "f()", holds="len(value) == 2"), True)):  # fmt: skip
        if right:
            exec(as_assertion(case), names)
        else:
            with pytest.raises(AssertionError):
                exec(as_assertion(case), names)


@pytest.mark.parametrize("text", ["case = 3", '[[case]]\nof = "01-1"', '[[case]]\nof = "01-1"\ncall = "f("\ngives = 1',
                                  '[[case]]\nof = "01-1"\ncall = "f()"', "[["])  # fmt: skip
def test_a_file_of_no_cases_is_named(tmp_path, text):
    (tmp_path / "01.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"01\.toml"):
        hidden_cases("01", tmp_path)


def test_plain_values():
    import torch

    assert plain((torch.ones(2), {"a": {3, 1}}, None, float("inf"))) == [[1.0, 1.0], {"a": [1, 3]}, None, "inf"]
    with pytest.raises(TypeError, match="object is no plain value"):
        plain([object()])
    with pytest.raises(ValueError, match="numbers are no answer"):
        plain(torch.zeros(30_000))
    with pytest.raises(ValueError, match="are no answer"):
        plain([0] * 30_000)


def test_hidden_cases_are_in_no_notebook():
    """A call of a hidden case stands in no lecture: it would be no secret."""
    for path in LECTURES:
        text = "".join(cell.source for cell in parse(path.read_text(encoding="utf-8")).cells)
        assert [case.call for case in hidden_cases(path.name[:2]) if case.call in text and "(" in case.call
                and case.call != "crops_of_fcn4s()[1]"] == [], path.stem  # fmt: skip
    assert (ROOT / "notebooks" / "hidden").is_dir()
