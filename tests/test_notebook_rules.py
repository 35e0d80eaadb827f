"""Each rule of `course_lib.notebook_tools.rules` has a notebook that breaks it and only it."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from course_lib.notebook_tools.cells import CHECKED
from course_lib.notebook_tools.exercises import bound, exercises_of, split, state
from course_lib.notebook_tools.rules import check, check_all, kind
from course_lib.notebook_tools.stored_form import METADATA, refresh, tidy

OPENING, SETTINGS, IMPORTS, PROSE, SHAPE, ENDING = range(6)


def good(what: str = "lecture") -> NotebookNode:
    """A small notebook of the course that follows all rules; the constants above index its cells."""
    opening = "# Labels\n\nWhat is a label?\n\n**Time on a laptop:** 1 minute\n\n**Prerequisites:** none"
    settings = 'PROFILE = "quick"\nSTEPS: int = 20\nRATES = [1e-3, -0.5]'
    ending = "## Check yourself\n\n## Summary\n\n## Exercises\n\n## References"
    cells = [
        new_markdown_cell(opening if what == "lecture" else "# Labels"),
        new_code_cell(settings, metadata={"tags": ["parameters"]}),
        new_code_cell("import math"),
        new_markdown_cell("## An idea\n\nRead [the paper](https://example.org/home/a.pdf)."),
        new_code_cell(
            "print((STEPS, 3))",
            metadata={"tags": [CHECKED]},
            execution_count=3,
            outputs=[new_output("stream", name="stdout", text="(20, 3)\n")],
        ),
        new_markdown_cell(ending if what == "lecture" else "The end."),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def save(notebook: NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def lecture(tmp_path):
    """Writes a notebook as the lecture 01_labels; the path comes back."""
    return lambda notebook: save(notebook, tmp_path / "01_labels.ipynb")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("01_labels", "lecture"),
        ("19_more", "lecture"),
        ("20_reproduce_it", "reproduce"),
        ("30_scoreboard", "scoreboard"),
        ("solutions/01_labels_solutions", "solutions"),
    ],
)
def test_a_good_notebook_passes(tmp_path, name, what):
    path = save(good(what), tmp_path / f"{name}.ipynb")
    assert kind(path) == what
    assert check(path) == []
    assert not tidy(path)


@pytest.mark.parametrize("name", ["1_labels", "labels", "01-labels", "01_labels_solutions", "solutions/01_labels"])
def test_a_wrong_name_is_refused(tmp_path, name):
    problems = check(save(good(), tmp_path / f"{name}.ipynb"))
    assert len(problems) == 1
    assert Path(name).name in problems[0]


def edit(cell: int, source: str):
    def change(notebook):
        notebook.cells[cell].source = source

    return change


def replace(cell: int, old: str, new: str):
    def change(notebook):
        assert old in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)

    return change


def append(source: str, cell: str = "added", **more):
    def change(notebook):
        notebook.cells.append(new_code_cell(source, id=cell, **more))

    return change


def tag(cell: int, *tags: str):
    def change(notebook):
        notebook.cells[cell].metadata = {"tags": list(tags)} if tags else {}

    return change


def output(*outputs: NotebookNode):
    def change(notebook):
        notebook.cells[SHAPE].outputs = list(outputs)

    return change


def printed(text: str):
    return output(new_output("stream", name="stdout", text=text))


def result(**data: str):
    return output(new_output("execute_result", data=data, execution_count=3))


def count(value: int | None, cell: int = SHAPE):
    def change(notebook):
        notebook.cells[cell].execution_count = value

    return change


def metadata(key: str, value: object, cell: int | None = None):
    def change(notebook):
        (notebook if cell is None else notebook.cells[cell]).metadata[key] = value

    return change


BREAKS = {
    "no parameters": (tag(SETTINGS), '0 cells are tagged "parameters"'),
    "two parameters": (tag(IMPORTS, "parameters"), '2 cells are tagged "parameters" (cells 2, 3)'),
    "derived parameter": (replace(SETTINGS, "20", "4 * 5"), 'cell 2: "STEPS: int = 4 * 5"'),
    "parameter of two names": (replace(SETTINGS, "RATES", "A, B"), 'cell 2: "A, B = [0.001, -0.5]"'),
    "call among parameters": (replace(SETTINGS, "20", 'int("20")'), "cell 2: \"STEPS: int = int('20')\""),
    "statement among parameters": (replace(SETTINGS, "RATES", "print()\nR"), 'cell 2: "print()"'),
    "no profile": (replace(SETTINGS, "PROFILE", "SIZE"), "cell 2: PROFILE"),
    "another profile": (replace(SETTINGS, "quick", "gpu"), "cell 2: the committed PROFILE"),
    "long cell": (append("\n".join("_ = 1" for _ in range(26))), "cell 7: 26 lines"),
    "large file": (edit(PROSE, "## An idea\n\n" + "word " * 20_100), "bytes: at most 100,000"),
    "output untagged": (append("1", outputs=[new_output("stream", text="1\n")]), "cell 7: a stored output"),
    "count untagged": (count(1, IMPORTS), "cell 3: an execution count"),
    "tagged without output": (output(), "cell 5: tagged, but without an output"),
    "tagged with a blank output": (printed(" \n"), "cell 5: tagged, but without an output"),
    "tagged without count": (count(None), "cell 5: tagged, but without an execution count"),
    "tag on prose": (tag(PROSE, CHECKED), "cell 4: the tag"),
    "nothing tagged": (lambda notebook: notebook.cells.pop(SHAPE), f'no code cell is tagged "{CHECKED}"'),
    "image": (
        result(**{"image/png": "aGVsbG8=", "text/plain": "an image"}),
        "cell 5: the checked output holds image/png",
    ),
    "widget": (
        result(**{"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box()"}),
        "cell 5: the checked output holds application/vnd.jupyter.widget-view+json",
    ),
    "html": (result(**{"text/html": "<b>1</b>", "text/plain": "1"}), "cell 5: the checked output holds text/html"),
    "standard error": (
        output(new_output("stream", name="stderr", text="careful\n")),
        "cell 5: the checked output was written to stderr",
    ),
    "error": (
        output(new_output("error", ename="E", evalue="", traceback=[]), new_output("stream", text="1")),
        "cell 5: the checked output is an error",
    ),
    "figure": (result(**{"text/plain": "<Figure size 640x480 with 1 Axes>"}), "the text of a figure"),
    "address": (printed("<object at 0x7f00aa12bc90>"), "a memory address"),
    "progress bar": (printed(" 50%|█████     | 5/10"), "a progress bar"),
    "rate": (printed("5/10 [00:01<00:01, 4.9it/s]"), "a progress bar"),
    "traceback": (printed("Traceback (most recent call last):"), "a traceback"),
    "seconds": (printed("trained in 1.23 s"), "a time ('1.23 s')"),
    "milliseconds": (printed("12 ms a step"), "a time ('12 ms')"),
    "colours": (printed("\x1b[31mred"), "colour codes"),
    "printed path": (printed("saved to " + "/home" + "/me/x"), "a machine's path"),
    "long output": (printed("0123456789\n" * 200), "2,200 characters"),
    "shell": (append("!pip install torch"), 'cell 7: "!pip install torch"'),
    "shell assigned": (append("files = !ls"), 'cell 7: "!ls"'),
    "pip magic": (append("%pip install torch"), 'cell 7: "%pip"'),
    "bash cell": (append("%%bash\nls"), 'cell 7: "%%bash"'),
    "no title": (replace(OPENING, "# Labels", "Labels"), "cell 1: a notebook begins with its title"),
    "second title": (replace(PROSE, "## An", "# An"), "cell 4: a second title"),
    "no question": (replace(OPENING, "?", "."), "cell 1: the question"),
    "no time": (replace(OPENING, "Time on a laptop", "Duration"), '"Time on a laptop" is missing'),
    "no prerequisites": (replace(OPENING, "Prerequisites", "Before"), '"Prerequisites" is missing'),
    "no check": (replace(ENDING, "## Check yourself", ""), 'the section "Check yourself"'),
    "no summary": (replace(ENDING, "## Summary", ""), 'the section "Summary"'),
    "no exercises": (replace(ENDING, "## Exercises", ""), 'the section "Exercises"'),
    "fenced heading": (replace(ENDING, "## References", "```\n## References\n```"), 'the section "References"'),
    "no imports": (edit(IMPORTS, "1"), "exactly one cell imports; here: none"),
    "two imports": (append("from math import pi"), "exactly one cell imports; here: 3, 7"),
    "absolute path": (append('open("' + "/home" + '/me/x.png")'), "cell 7: an absolute path"),
    "windows path": (edit(PROSE, "In C:" + "\\Users\\me."), "cell 4: an absolute path"),
    "kernel": (metadata("kernelspec", {"name": "conda-env", "display_name": "Mine"}), "the kernel is 'conda-env'"),
    "syntax": (append("for x in"), "cell 7: does not parse"),
    "return outside": (append("return 1"), "cell 7: does not parse"),
    "doubtful escape": (append(r'print("\d")'), "cell 7: does not parse"),
    "skipped": (tag(IMPORTS, "nbval-skip"), 'cell 3: the tag "nbval-skip"'),
    "misspelt tag": (tag(IMPORTS, "nbval-check-outputs"), 'cell 3: the tag "nbval-check-outputs"'),
    "timing": (metadata("execution", {"start": "now"}, IMPORTS), "cell 3: volatile metadata (execution)"),
    "papermill": (metadata("papermill", {}), "volatile metadata of the notebook (papermill)"),
    "version": (metadata("language_info", {"name": "python", "version": "3.12.1"}), "names a Python version"),
}
EXERCISE = {"id": "01-1", "points": 2, "minutes": 15}
SOLVE = "def one():\n    return 0  # your turn\n\n\ncheck('Exercise 1', lambda: one() == 1)"


def both(*changes):
    def change(notebook):
        for one in changes:
            one(notebook)

    return change


def exercise(source: str = SOLVE, **about: object):
    """A cell with a check, and what its metadata says besides or instead."""
    return append(source, metadata={"every_pixel": EXERCISE | about})


BREAKS |= {
    "exercise without points": (append(SOLVE), "type: course notebooks exercises 01 POINTS:MINUTES"),
    "exercise of another lecture": (
        exercise(id="02-1"),
        'cell 7: exercise 1 has id, points and minutes, and the id "01-1"',
    ),
    "exercise with more to say": (exercise(level="hard"), "cell 7: exercise 1 has id, points and minutes"),
    "exercise for no points": (exercise(points=0), "cell 7: exercise 01-1 has 1 to 10 points"),
    "exercise of half a minute": (exercise(minutes=0.5), "cell 7: exercise 01-1 has 1 to 10 points"),
    "exercise without a check": (exercise("1 + 1"), "cell 7: an exercise"),
    "answer called before its check": (
        exercise(SOLVE.replace("check(", "found = one()\ncheck(")),
        "cell 7: one is called before the check",
    ),
    "answer used unasked": (both(exercise(), append("print(one())", cell="further")), "cell 8: goes on with one"),
}
SAYS = "> **The lecture says:** it grows.\n\n**Shown below:** from 3 to 7 pixels."


def quoted(source: str = SAYS, shown: str = "assert 3 + 4 == 7", **cell):
    """A cell tagged as a statement of the lecture, and the one after it."""

    def change(notebook):
        tagged = new_markdown_cell(source, id="quote", metadata={"tags": ["statement"]})
        notebook.cells += [tagged, new_code_cell(shown, id="added", **cell)]

    return change


def guesses(number: int):
    """That many guesses, each with its cell and what was seen."""

    def change(notebook):
        guess = "**Guess first:** does it?\n\n<details><summary>The lecture says</summary>it does.</details>"
        for place in range(number):
            notebook.cells += [
                new_markdown_cell(guess, id=f"guess-{place}", metadata={"tags": ["statement"]}),
                new_code_cell("1 + 1", id=f"draws-{place}"),
                new_code_cell("assert True", id=f"shows-{place}"),
                new_markdown_cell("**Seen:** it does.", id=f"seen-{place}"),
            ]

    return change


def test_seven_guesses_are_good(lecture):
    notebook = good()
    guesses(7)(notebook)
    assert check(lecture(notebook)) == []


BREAKS |= {
    "too many guesses": (guesses(8), "8 guesses in boxes: at most 7"),
    "statement not asserted": (quoted(shown="print(7)"), "cell 7: the code after it asserts and expects nothing"),
    "statement in one paragraph": (
        quoted(source=SAYS.replace("\n\n", "\n")),
        "cell 7: a statement of the lecture is a quote and what is shown: paragraphs: 1",
    ),
    "statement without quote": (
        quoted(source=SAYS.removeprefix("> ")),
        'a paragraph does not begin with "> **The lecture says:** "',
    ),
    "statement on code": (tag(IMPORTS, "statement"), 'cell 3: the tag "statement" belongs to'),
}
ALSO_UNTIDY = {"kernel", "output untagged", "count untagged"}


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_finds_its_breach(lecture, name):
    change, expected = BREAKS[name]
    notebook = good()
    change(notebook)
    problems = [p for p in check(lecture(notebook)) if not (name in ALSO_UNTIDY and "stored form" in p)]
    assert any(expected in problem for problem in problems), problems
    if name != "error":  # nbval's view of an error is two breaches
        assert len(problems) == 1, problems


def test_a_cell_that_asks_may_go_on_with_an_answer(lecture):
    notebook = good()
    exercise()(notebook)
    append('if solved("Exercise 1"):\n    print(one())', cell="further")(notebook)
    append("def later():\n    return one()", cell="function")(notebook)
    assert check(lecture(notebook)) == []


def test_an_exercise_that_states_its_worth_is_good(lecture):
    notebook = good()
    exercise()(notebook)
    path = lecture(notebook)
    assert check(path) == []
    state(path, [(3, 20)])
    (found,) = exercises_of(path)
    assert (found.id, found.points, found.minutes, found.names) == ("01-1", 3, 20, ("one",))
    assert found.answer == "def one():\n    return 0  # your turn"
    assert found.rest == "check('Exercise 1', lambda: one() == 1)"
    assert check(path) == []
    with pytest.raises(ValueError, match="has 1 exercises, not 2"):
        state(path, [(3, 20), (1, 5)])


@pytest.mark.parametrize(
    ("source", "answer", "names"),
    [
        ("order = [1]\ncheck('a', lambda: order)", "order = [1]", ("order",)),
        ("def a():\n    return 1\n\n\ndef b():\n    return 2  # your turn\n\n\ncheck('a', b)",
         "def a():\n    return 1\n\n\ndef b():\n    return 2  # your turn", ("a", "b")),
        ("def a():\n    return (\n        1\n    )  # your turn\n\n\nx = a()\ncheck('a', a)",
         "def a():\n    return (\n        1\n    )  # your turn", ("a",)),
    ],
)  # fmt: skip
def test_an_answer_ends_where_the_student_s_turn_does(source, answer, names):
    assert split(source)[0] == answer
    assert bound(ast.parse(answer)) == names


def test_an_asserted_statement_is_good(lecture):
    notebook = good()
    quoted()(notebook)
    assert check(lecture(notebook)) == []


@pytest.mark.parametrize("source", ["await thing()", "%matplotlib inline", "x = 32\nx?", "# only a comment"])
def test_what_ipython_understands_parses(lecture, source):
    notebook = good()
    append(source)(notebook)
    assert check(lecture(notebook)) == []


@pytest.mark.parametrize("text", ["FCN-32s, 16s, 8s", "torch.Size([2, 3])", "138,357,544 parameters", "0.125"])
def test_exact_text_is_no_breach(lecture, text):
    notebook = good()
    printed(text)(notebook)
    assert check(lecture(notebook)) == []


def test_cell_ids(lecture):
    notebook = good()
    path = lecture(notebook)
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["cells"][1]["id"] = raw["cells"][0]["id"]
    del raw["cells"][2]["id"]
    path.write_text(json.dumps(raw), encoding="utf-8")
    problems = check(path)
    assert any(problem.startswith("cell 2: the id 'cell-0' is that of cell 1") for problem in problems)
    assert any(problem.startswith("cell 3: no cell id") for problem in problems)
    assert tidy(path)
    assert check(path) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"nbformat": 3}'])
def test_no_notebook_at_all(tmp_path, text):
    path = tmp_path / "01_labels.ipynb"
    path.write_text(text, encoding="utf-8")
    assert len(check(path)) == 1


def test_an_invalid_notebook_names_the_cell(lecture):
    path = lecture(good())
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["cells"][2]["outputs"] = None
    raw["cells"][3]["colour"] = "red"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert any("cell 3: not a valid cell" in problem for problem in check(path))


def test_definitions_of_two_notebooks(tmp_path):
    first, second, renamed, solved = good(), good(), good(), good("solutions")
    append("def area(w, h):\n    return w * h")(first)
    append('def area(w, h):\n    """The area."""\n    return w * h  # as before')(second)
    append("def size(w, h):\n    return w * h")(renamed)
    append("def area(w, h):\n    return w * h")(solved)
    paths = [save(first, tmp_path / "01_one.ipynb"), save(solved, tmp_path / "solutions" / "01_one_solutions.ipynb")]
    assert check_all(paths) == []
    paths = [*paths[:1], save(second, tmp_path / "02_two.ipynb"), save(renamed, tmp_path / "03_three.ipynb")]
    problems = check_all(paths)
    assert len(problems) == 3
    assert problems[0] == ("02_two.ipynb: cell 7: area is also area in 01_one.ipynb, cell 7: move it to course_lib")


def test_different_functions_may_share_a_name(tmp_path):
    first, second = good(), good()
    append("def area(w, h):\n    return w * h")(first)
    append("def area(mask):\n    pixels = mask.flatten()\n    return pixels.sum()")(second)
    assert check_all([save(first, tmp_path / "01_one.ipynb"), save(second, tmp_path / "02_two.ipynb")]) == []


def test_tidy_keeps_checked_outputs_only(lecture):
    notebook = good()
    append("1", outputs=[new_output("stream", text="1\n")], execution_count=9)(notebook)
    metadata("execution", {"start": "now"}, SHAPE)(notebook)
    metadata("widgets", {"state": {}})(notebook)
    metadata("language_info", {"name": "python", "version": "3.12.1"})(notebook)
    path = lecture(notebook)
    assert tidy(path)
    assert check(path) == []
    assert not tidy(path)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[SHAPE].outputs[0].text == "(20, 3)\n"
    assert cells[SHAPE].execution_count == 3
    assert cells[-1].outputs == []
    assert cells[-1].execution_count is None


def test_refresh_runs_and_stores(lecture):
    notebook = good()
    edit(SHAPE, "print((STEPS + math.floor(1.5), 3))")(notebook)
    append("import os\n_ = math.pi\nprint(os.getpid())")(notebook)
    path = lecture(notebook)
    assert refresh(path)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[SHAPE].outputs[0].text == "(21, 3)\n"
    assert cells[SHAPE].execution_count == 3
    assert cells[-1].outputs == []
    assert not refresh(path)


def test_refresh_leaves_a_failing_notebook_alone(lecture):
    from nbclient.exceptions import CellExecutionError

    notebook = good()
    append("1 / 0")(notebook)
    path = lecture(notebook)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        refresh(path)
    assert path.read_bytes() == before


def test_the_patch_keeps_the_timeout(lecture):
    from nbclient.exceptions import CellTimeoutError

    from course_lib.notebook_tools.kernels import patch_nbclient

    patch_nbclient()
    patch_nbclient()
    notebook = good()
    append("while True:\n    pass")(notebook)
    with pytest.raises(CellTimeoutError):
        refresh(lecture(notebook), cell_timeout=1)


def test_a_widget_with_callbacks_runs(lecture):
    notebook = good()
    edit(IMPORTS, "from ipywidgets import interact")(notebook)
    append("@interact(x=(0, 5))\ndef show(x=2):\n    print(x)")(notebook)
    append("print(show.widget.children[0].value)", metadata={"tags": [CHECKED]})(notebook)
    notebook.cells[-1].id = "last"
    path = lecture(notebook)
    refresh(path, cell_timeout=30)
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].text == "2\n"
    assert check(path) == []


FIT = "fit(network, data)\nscore = evaluate(network)\n"
EXPECT = 'expect(score > 0.5, "it learns", found=score, wanted=0.5)'
OUTCOMES = {
    "bound": "history = fit(network, data)\nassert history.losses[-1] < 1",
    "changed in place": "fit(network, data)\nassert evaluate(network) > 0.5",
    "derived": FIT + "best = max(score, 0)\nassert best > 0.5",
    "loaded or trained": "network, record = train_or_load(recipe)\nassert record.metrics['mean_iou'] > 0.5",
    "a function that trains": "def learn(one):\n    fit(one, data)\n\n\nlearn(network)\nassert evaluate(network) > 0.5",
    "a function that reads": FIT + "def answer():\n    return score\n\n\nassert answer() > 0.5",
    "an optimizer's loop": (
        "optimizer = SGD(network.parameters(), lr=0.1)\nfor _ in range(9):\n    loss = network(x).sum()\n"
        "    loss.backward()\n    optimizer.step()\nassert network(x).sum() < 1"
    ),
    "in a list": "for one in networks:\n    fit(one, data)\nassert evaluate(networks[0]) > 0.5",
    "in a comprehension": "found = {row: fit(net, data) for row, net in all_of.items()}\nassert found['a'].seconds > 0",
    "kept by a method": FIT + "scores = []\nscores.append(score)\nassert scores[0] > 0.5",
    "kept under a key": FIT + "scores = {}\nscores['a'] = score\nassert scores['a'] > 0.5",
    "under a condition": FIT + "if STEPS > 3:\n    assert score > 0.5",
    "in a match": FIT + "match STEPS:\n    case 3:\n        assert score > 0.5",
    "trained by name": "fit(model=network, dataset=data)\nassert evaluate(network) > 0.5",
    "not the same": FIT + "assert not torch.allclose(score, other)",
}
EXACT = {
    "shape": FIT + "assert network(x).shape == (1, 2) and len(score) == 3",
    "parameters": FIT + "assert count_parameters(network) == 12",
    "formula and library": FIT + "assert torch.allclose(by_hand(network), library(network))",
    "each the same": FIT + "assert all(torch.equal(network(a), slow(network, a)) for a in score)",
    "marked": FIT + "assert abs(score - by_hand(network)) < 1e-9  # exact",
    "bound anew": FIT + "score = 3\nassert score == 3",
    "keys": "for name, net in all_of.items():\n    fit(net, data)\n    assert name in labels",
    "before it": "score = evaluate(network)\nassert score < 0.5\nfit(network, data)",
    "a committed network": "load_weights(path, network)\nassert evaluate(network) > 0.5",
    "expected": FIT + EXPECT,
    "expected of a committed network": "load_weights(path, network)\nscore = evaluate(network)\n" + EXPECT,
}
NOTHING_BEHIND = {
    "no training": ("score = 1\n" + EXPECT, "has no training behind it"),
    "before the training": ("score = evaluate(network)\n" + EXPECT + "\n" + FIT, "has no training behind it"),
    "constant": (FIT + 'expect(True, "it learns", found=score, wanted=0.5)', "has a constant condition"),
    "half constant": (
        FIT + 'expect(score > 0.5 or True, "it learns", found=score, wanted=0.5)',
        "has a constant in its",
    ),
    "typed by hand": (FIT + 'expect(score > 0.5, "it learns", found=0.7, wanted=0.5)', "a number typed by hand"),
    "nothing wanted": (FIT + 'expect(score > 0.5, "it learns", found=score)', "needs found=... and wanted=..."),
    "no statement": (FIT + "expect(score > 0.5, text, found=score, wanted=0.5)", "needs its statement"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_is_not_asserted(lecture, name):
    notebook = good()
    append(OUTCOMES[name])(notebook)
    problems = check(lecture(notebook))
    assert len(problems) == 1, problems
    assert problems[0].startswith('cell 7: "assert ')
    assert "is about the outcome of a training" in problems[0]


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_is_asserted(lecture, name):
    notebook = good()
    append(EXACT[name])(notebook)
    assert check(lecture(notebook)) == []


@pytest.mark.parametrize("name", NOTHING_BEHIND)
def test_an_expectation_has_a_training_behind_it(lecture, name):
    source, problem = NOTHING_BEHIND[name]
    notebook = good()
    append(source)(notebook)
    problems = check(lecture(notebook))
    assert len(problems) == 1, problems
    assert problems[0].startswith("cell 7: ")
    assert problem in problems[0]


def test_an_outcome_reaches_later_cells(lecture):
    notebook = good()
    append(FIT)(notebook)
    notebook.cells.append(new_code_cell("assert score > 0.5", id="later"))
    assert [problem[:22] for problem in check(lecture(notebook))] == ['cell 8: "assert score ']


def test_a_statement_may_be_expected(lecture):
    notebook = good()
    quoted(shown=FIT + EXPECT)(notebook)
    assert check(lecture(notebook)) == []


def test_an_expectation_is_no_checked_output(lecture):
    notebook = good()
    out = [new_output("stream", name="stdout", text="as expected")]
    append(FIT + EXPECT, metadata={"tags": [CHECKED]}, outputs=out, execution_count=4)(notebook)
    assert [problem[:22] for problem in check(lecture(notebook))] == ["cell 7: an expectation"]


def test_a_statement_is_expected_once(tmp_path):
    first, second = good(), good()
    append(FIT + EXPECT)(first)
    append(FIT + EXPECT)(second)
    paths = [save(first, tmp_path / "01_one.ipynb"), save(second, tmp_path / "02_two.ipynb")]
    assert check_all(paths) == ["02_two.ipynb: cell 7: 'it learns' is expected in 01_one.ipynb, cell 7 too"]
