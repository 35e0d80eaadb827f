"""Exercises answer without a traceback; expectations show their numbers and go on, unless one is strict."""

import ast
import json
import linecache
import sys

import numpy as np
import pytest
import torch

from course_lib import exercises
from course_lib.exercises import NotAsExpected, check, expect, margin, recorded_trials


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    monkeypatch.delenv("COURSE_EXPECTATIONS", raising=False)
    monkeypatch.setattr(exercises, "RECORDED", tmp_path / "expectations.json")


def record(tmp_path, statement: str, *held: bool) -> None:
    trials = [{"held": one} for one in held]
    text = json.dumps({"expectations": [{"notebook": "05", "statement": statement, "trials": trials}]})
    (tmp_path / "expectations.json").write_text(text, encoding="utf-8")


def test_exercises(capsys):
    check("one", lambda: True, lambda: 1 / 0)
    check("two", lambda: True)
    assert capsys.readouterr().out == (
        "one: not solved yet (check 2 of 2: ZeroDivisionError: division by zero)\ntwo: solved\n"
    )


def half(value: float) -> float:
    return value / 3  # wrong


def nothing() -> None:
    return None


def ill(words: str) -> None:
    raise ValueError(words)


SAID = [
    (lambda: half(9) == 4.5, "half(9) is 3.0, wanted 4.5"),
    (lambda: 4 < half(9) < 5, "half(9) is 3.0, wanted more than 4"),
    (lambda: 1 < half(9) < 2, "half(9) is 3.0, wanted less than 2"),
    (lambda: half(9) >= 3 and half(9) > 4, "half(9) is 3.0, wanted more than 4"),
    (lambda: abs(half(9) - 9 / 2) < 1e-6, "half(9) is 3.0, wanted 4.5"),
    (lambda: abs(half(9) + 4.5) < 1e-6, "half(9) is 3.0, wanted -4.5"),
    (lambda: (half(torch.ones(2)) - torch.tensor([0.5, 1])).abs().max() < 0.1,
     "(half(torch.ones(2)) - torch.tensor([0.5, 1])).abs().max() is 0.666667, wanted less than 0.1"),
    (lambda: not half(9), "half(9) is 3.0, wanted False"),
    (lambda: half(9) is None, "half(9) is 3.0, wanted None"),
    (lambda: torch.allclose(half(torch.ones(2, 1)), torch.full((2, 1), 0.5)),
     "half(torch.ones(2, 1)) is [[0.333333], [0.333333]], wanted [[0.5], [0.5]]"),
    (lambda: half(torch.ones(9, 9)).allclose(torch.full((9, 9), 0.5)),
     "half(torch.ones(9, 9)) is off by 0.166667 at its worst pixel or number"),
    (lambda: torch.equal(torch.ones(9, 9), torch.ones(9, 8)),
     "torch.ones(9, 9) is a tensor (9, 9), wanted a tensor (9, 8)"),
    (lambda: -1 < half(-9) < 1, "half(-9) is -3.0, wanted more than -1"),
    (lambda: half(9) in (1, 2), "half(9) is 3.0, wanted one of (1, 2)"),
    (lambda: half(9) not in (1, 3), "half(9) is 3.0, wanted none of (1, 3)"),
    (lambda: "Sky" in nothing(), "nothing() is None, wanted 'Sky' in it"),
    (lambda: nothing() is not None, "nothing() is None, wanted anything but None"),
    (lambda: abs(nothing() - 0.5) < 1e-6, "nothing() is None, wanted 0.5"),
    (lambda: nothing() > 0.5, "nothing() is None, wanted more than 0.5"),
    (lambda: torch.allclose(nothing(), torch.ones(9, 9)), "nothing() is None, wanted a tensor (9, 9)"),
    (lambda: nothing().tolist() == [1],
     "AttributeError: 'NoneType' object has no attribute 'tolist'; does each function return its answer?"),
    (lambda: half(0.3) * 3 + 0.6 == 0.9, "half(0.3) * 3 + 0.6 is 0.8999999999999999, wanted 0.9"),
    (lambda: abs(half(9) + 1e-8 - 3) < 1e-9, "half(9) + 1e-08 is 3.00000001, wanted 3"),
    (lambda: torch.arange(2) == [0, 1], "torch.arange(2) is [0, 1] (torch.int64), wanted [0, 1] (list)"),
    (lambda: np.arange(2) == [0, 2], "np.arange(2) is [0, 1], wanted [0, 2]"),
    (lambda: torch.ones(9, 9) == 0.5, "torch.ones(9, 9) is a tensor (9, 9), wanted 0.5"),
    (lambda: half(torch.ones(2)), "half(torch.ones(2)) is [0.333333, 0.333333], wanted True"),
    (lambda: torch.allclose(torch.ones(9).double(), torch.ones(9)),
     "torch.ones(9).double() is [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] (torch.float64), "
     "wanted [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] (torch.float32)"),
    (lambda: torch.allclose(torch.ones(99).double(), torch.ones(99)),
     "torch.ones(99).double() is of torch.float64, wanted torch.float32"),
    (lambda: torch.allclose(np.ones(99), torch.ones(99)), "np.ones(99) is an array of NumPy, wanted a tensor"),
    (lambda: torch.equal(torch.arange(99).byte() // 98, torch.ones(99).byte()),
     "torch.arange(99).byte() // 98 is not what is wanted at 98 of 99 places"),
    (lambda: torch.allclose(torch.full((99,), torch.nan), torch.ones(99)),
     "torch.full((99,), torch.nan) is nan at 99 of 99 places"),
    (lambda: torch.allclose(torch.ones(99, dtype=torch.bfloat16, requires_grad=True), torch.zeros(99).bfloat16()),
     "torch.ones(99, dtype=torch.bfloat16, requires_grad=True) is off by 1.0 at its worst pixel or number"),
    (lambda: torch.ones(2).allclose(torch.zeros(2), 1e-3), "torch.ones(2) is [1.0, 1.0], wanted [0.0, 0.0]"),
    (lambda: torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU()) == 3,
     "torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU()) is Sequential( (0): ReLU() (1): ReLU() ), wanted 3"),
    (lambda: ill("one\n  two"), "ValueError: one two"),
    (lambda: sys.exit(), "SystemExit"),
    (lambda: all(half(one) > 1 for one in (9, 1)), "all((half(one) > 1 for one in (9, 1))) is False, wanted True"),
]  # fmt: skip


@pytest.mark.parametrize(("test", "said"), SAID)
def test_what_was_got_stands_beside_what_was_wanted(test, said, capsys):
    check("one", test)
    assert capsys.readouterr().out == f"one: not solved yet (check 1 of 1: {said})\n"


def test_names_of_a_function_around_the_test_are_known(capsys):
    wanted = 7
    check("one", lambda: True, lambda: [half(value) for value in (wanted, 0)] == [3.5, 0], lambda: 1 / 0)
    assert "(check 2 of 3: [half(value) for value in (wanted, 0)] is [2.33333, 0.0]" in capsys.readouterr().out


def test_a_default_of_the_test_is_known(capsys):
    tests = []
    for wanted in (3, 4, 5):
        tests.append(lambda wanted=wanted: half(9) == wanted)
    check("one", *tests)
    assert "(check 2 of 3: half(9) is 3.0, wanted 4)" in capsys.readouterr().out


def test_a_test_is_computed_once(capsys):
    spent, called = iter([4, 5]), []

    def answer() -> int:
        called.append(1)
        print("called")
        return next(spent)

    check("one", lambda: answer() == 5 and answer() == 5)
    assert called == [1]
    assert capsys.readouterr().out == "called\none: not solved yet (check 1 of 1: answer() is 4, wanted 5)\n"
    check("two", lambda: answer() == 5 and len(called) == 2)
    assert capsys.readouterr().out == "called\ntwo: solved\n"


def test_each_statement_of_a_cell_is_compiled_by_itself(capsys, monkeypatch):
    source = "import torch\ncheck('one', lambda: torch.equal(torch.ones(1), torch.zeros(1)), lambda: 1 == 2)\n"
    monkeypatch.setitem(linecache.cache, "<cell>", (len(source), None, source.splitlines(True), "<cell>"))
    for parts in ([ast.parse(source)], [ast.Module([one], []) for one in ast.parse(source).body]):
        names = {"check": check}
        for part in parts:
            exec(compile(part, "<cell>", "exec"), names)
        assert "torch.ones(1) is [1.0], wanted [0.0]" in capsys.readouterr().out


def test_a_source_that_has_changed_is_not_believed(capsys, monkeypatch):
    for source, said in (("lambda: 1 == 2", ": 1 is 1, wanted 2"), ("lambda: 1 == 3", " does not hold")):
        monkeypatch.setitem(linecache.cache, "<cell>", (len(source), None, [source], "<cell>"))
        check("one", eval(compile("lambda: 1 == 2", "<cell>", "eval")))
        assert capsys.readouterr().out == f"one: not solved yet (check 1 of 1{said})\n"


def test_a_test_without_a_source_is_named_by_its_number(capsys):
    check("one", eval("lambda: 1 == 2"))
    check("two", bool)
    check("three", lambda: (named := half(9)) == 4 and named)
    assert capsys.readouterr().out == "".join(
        f"{name}: not solved yet (check 1 of 1 does not hold)\n" for name in ("one", "two", "three")
    )


def test_no_value_or_error_ends_the_check(capsys):
    class Unspeakable(Exception):
        def __repr__(self):
            raise OSError

        __str__ = __repr__

    def fail() -> None:
        raise Unspeakable

    check("one", lambda: Unspeakable() == 3)
    check("two", lambda: fail() == 3)
    assert capsys.readouterr().out == (
        "one: not solved yet (check 1 of 1 does not hold)\ntwo: not solved yet (check 1 of 1: Unspeakable)\n"
    )


def test_whether_an_exercise_is_solved_is_remembered(capsys):
    assert not exercises.solved("remembered")
    for answer in (1, 2, 1):
        check("remembered", lambda answer=answer: answer == 2)
        assert exercises.solved("remembered") == (answer == 2)


def test_what_holds_is_shown_with_its_numbers(capsys):
    assert expect(0.7 > 0.62, "skips help", found=0.7, wanted=0.62) is None  # a cell that ends in it shows one line
    assert capsys.readouterr().out == "as expected: skips help (found 0.7, expected more than 0.62)\n"


def test_what_does_not_hold_goes_on(capsys, tmp_path):
    expect(False, "skips help", found=0.61234, wanted=0.62)
    assert capsys.readouterr().out == (
        "expected: skips help; not on this machine this time: found 0.612, expected more than 0.62\n"
    )
    record(tmp_path, "skips help", *[True] * 19, False)
    expect(False, "skips help", found=0.61, wanted=0.62)
    assert capsys.readouterr().out.endswith("expected more than 0.62; it held in 19 of 20 recorded trials\n")
    expect(False, "skips hurt", found=0.61, wanted=0.62)
    assert "recorded" not in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"expectations": 3}', '{"expectations": [{"text": "one"}]}'])
def test_a_damaged_record_hides_no_expectation(capsys, monkeypatch, tmp_path, content):
    (tmp_path / "expectations.json").write_text(content, encoding="utf-8")
    expect(False, "one", found=0.61, wanted=0.62)
    assert (
        capsys.readouterr().out == "expected: one; not on this machine this time: found 0.61, expected more than 0.62\n"
    )
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(NotAsExpected):
        expect(False, "one", found=0.61, wanted=0.62)


def test_strict_raises_the_same_words(capsys, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    expect(True, "skips help", found=1, wanted=0)
    assert "as expected: skips help" in capsys.readouterr().out
    with pytest.raises(NotAsExpected, match=r"skips help; .*: found 0\.61, expected more than 0\.62"):
        expect(False, "skips help", found=0.61, wanted=0.62)
    assert issubclass(NotAsExpected, AssertionError)
    monkeypatch.setenv("COURSE_STRICT", "0")
    expect(False, "skips help", found=0.61, wanted=0.62)
    assert "expected: skips help; not on this machine" in capsys.readouterr().out


def test_html_says_the_same_and_escapes(tmp_path):
    line = exercises._Line(False, "a < b", 0.2, 0.1)
    assert (
        "a &lt; b: <span>not on this machine this time: found 0.2, expected less than 0.1</span>" in line._repr_html_()
    )
    assert exercises._Line(True, "a", 0.2, 0.1)._repr_html_().count("✓") == 1


@pytest.mark.parametrize(
    ("found", "wanted", "shown"),
    [
        (0.12345, 0.12346, "found 0.12345, expected less than 0.12346"),
        (12345, 3, "found 12,345, expected more than 3"),
        ("road", "sky", "found road, expected sky"),
        (0.5, 0.5, "found 0.5, expected 0.5"),
    ],
)
def test_numbers_differ_where_they_are_shown(capsys, found, wanted, shown):
    expect(True, "one", found=found, wanted=wanted)
    assert shown in capsys.readouterr().out


def test_numbers_of_numpy_and_torch(capsys):
    expect(np.float64(0.5) > 0.25, "one", found=np.float64(0.5), wanted=torch.tensor(0.25))
    assert "found 0.5, expected more than 0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("holds", "statement", "found", "wanted", "error"),
    [
        (1, "one", 1.0, 0.0, TypeError),
        ("yes", "one", 1.0, 0.0, TypeError),
        (True, " ", 1.0, 0.0, ValueError),
        (True, "one", None, 0.0, TypeError),
        (True, "one", True, 0.0, TypeError),
        (True, "one", 1.0, [0.0], TypeError),
        (True, "one", float("nan"), 0.0, ValueError),
    ],
)
def test_bad_arguments_are_refused(holds, statement, found, wanted, error):
    with pytest.raises(error):
        expect(holds, statement, found=found, wanted=wanted)


def test_each_call_is_noted_for_the_sweep(monkeypatch, tmp_path):
    file = tmp_path / "noted.jsonl"
    monkeypatch.setenv("COURSE_EXPECTATIONS", str(file))
    expect(True, "one", found=0.75, wanted=0.5)
    expect(False, "two", found=float("nan"), wanted=0.5)
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(NotAsExpected):
        expect(False, "three", found="road", wanted="sky")
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == [
        {"statement": "one", "held": True, "found": 0.75, "wanted": 0.5, "margin": 0.25},
        {"statement": "two", "held": False, "found": "nan", "wanted": 0.5, "margin": None},
        {"statement": "three", "held": False, "found": "road", "wanted": "sky", "margin": None},
    ]


def test_margins_and_records(tmp_path):
    assert margin(True, 0.75, 0.5) == 0.25
    assert margin(False, 0.5, 0.75) == -0.25
    assert margin(True, "a", "b") is None
    assert recorded_trials("one") is None
    record(tmp_path, "one", True, False, True)
    assert recorded_trials("one") == (2, 3)
    assert recorded_trials("two") is None
