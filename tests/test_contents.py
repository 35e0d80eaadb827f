"""The contents and the statements of the lecture are what the notebooks hold."""

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.notebook_tools import contents
from course_lib.notebook_tools.contents import (
    contents_markdown,
    lectures,
    read_statement,
    statements,
    statements_markdown,
)
from course_lib.notebook_tools.needs import real_data

QUOTE = "> **The lecture says:** dilation keeps\n> the parameters | all.\n\n**Shown below:** three layers,\nas many weights."


def tagged(source: str):
    return new_markdown_cell(source, metadata={"tags": ["statement"]})


@pytest.fixture
def folder(tmp_path):
    first = new_notebook(
        cells=[
            new_markdown_cell("# 07 Dilation\n\n**How far\ndoes it see?**"),
            tagged(QUOTE),
            new_code_cell("assert True"),
            new_markdown_cell(QUOTE.replace("keeps", "loses")),
            tagged(QUOTE.replace("keeps", "spares")),
        ]
    )
    write(first, tmp_path / "07_dilation.ipynb")
    write(new_notebook(cells=[new_markdown_cell("# Plain")]), tmp_path / "08_plain.ipynb")
    return tmp_path


def test_titles_and_questions(folder):
    dilation, plain = lectures(folder)
    assert (dilation.number, dilation.title, dilation.question) == ("07", "Dilation", "How far does it see?")
    assert (plain.title, plain.question) == ("Plain", "")


def test_only_tagged_cells_are_statements(folder):
    dilation, plain = lectures(folder)
    found = statements(dilation)
    assert [s.says for s in found] == ["dilation keeps the parameters | all.", "dilation spares the parameters | all."]
    assert [s.anchor for s in found] == ["statement-07-1", "statement-07-2"]
    assert found[0].shown == "three layers, as many weights."
    assert statements(plain) == []


def test_the_page_lists_them_by_lecture(folder):
    page = statements_markdown(folder)
    row = r"| [dilation keeps the parameters \| all.](#statement-07-1) | three layers, as many weights. |"
    assert row in page.splitlines()
    assert "## 07 Dilation" in page
    assert "Plain" not in page


def test_what_a_talk_says_has_its_own_table(folder):
    talk = QUOTE.replace("The lecture", "The talk").replace("keeps", "says the talk, keeps")
    write(new_notebook(cells=[new_markdown_cell("# Plain"), tagged(QUOTE), tagged(talk)]), folder / "08_plain.ipynb")
    assert [s.source for s in statements(lectures(folder)[1])] == ["lecture", "talk"]
    lines = statements_markdown(folder).splitlines()
    head = lines.index("| the talk says | the cell shows |")
    assert lines[head + 2].startswith(r"| [dilation says the talk, keeps the parameters \| all.](#statement-08-2)")
    assert lines[lines.index("## 08 Plain") + 2] == "| the lecture says | the cell shows |"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (QUOTE.replace("\n\n", "\n"), "paragraphs: 1,"),
        (QUOTE + "\n\nMore.", "paragraphs: 3,"),
        (QUOTE.replace("lecture", "slide"), "lecture says"),
        (QUOTE.replace("Shown", "Seen"), "Shown below"),
    ],
)
def test_a_malformed_statement_says_what_is_wrong(source, reason):
    with pytest.raises(ValueError, match=reason):
        read_statement(source)


FOLDED = "<details><summary>The lecture says</summary>It\nkeeps them.</details>"
GUESSED = f"**Guess first:** does it keep them?\n\n{FOLDED}"
PLAIN = "## 2 Next\n\nThe paper says that it keeps 3.5 of them. All\nare counted.\n\nMore."


def test_a_statement_may_be_guessed_first_and_seen_later(folder):
    cells = [
        tagged(GUESSED),
        new_code_cell("assert True"),
        new_markdown_cell("So.\n\n**Seen:** all of\nthem.\n\nMore."),
    ]
    write(new_notebook(cells=[new_markdown_cell("# Plain"), *cells]), folder / "08_plain.ipynb")
    (found,) = statements(lectures(folder)[1])
    assert (found.says, found.shown, found.source) == ("It keeps them.", "Does it keep them? All of them.", "lecture")


def test_a_statement_may_be_a_plain_paragraph():
    found = read_statement(PLAIN)
    assert (found.says, found.shown, found.source) == ("it keeps 3.5 of them.", "All are counted.", "paper")


@pytest.mark.parametrize(
    ("source", "after", "reason"),
    [
        (GUESSED, "They are kept.", "no paragraph of the next text"),
        (GUESSED.replace("lecture", "slide"), "**Seen:** all.", "a guess folds"),
        (PLAIN.replace("paper", "slide"), "", "paragraphs: 3,"),
    ],
)
def test_a_malformed_guess_says_what_is_wrong(source, after, reason):
    with pytest.raises(ValueError, match=reason):
        read_statement(source, after)


def test_the_table_of_contents_has_every_notebook():
    table = contents_markdown()
    assert all(lecture.path.name in table for lecture in lectures())


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ('resolve("fcn_skips", row, PROFILE)', {"camvid"}),
        ('recipes.resolve("unet_isbi", row, PROFILE, SEED)', {"isbi_em"}),
        ('resolve("fcn_skips", row, "quick")', set()),
        ('SHOWN = "unet_isbi"\nTABLE = "fcn_skips"\nfor row in rows:\n    resolve(TABLE, row, PROFILE)', {"camvid"}),
        ('for table in ("fcn_skips", "unet_isbi"):\n    resolve(table, row, PROFILE)', {"camvid", "isbi_em"}),
        ('print("fcn_skips", PROFILE)', set()),
        ('resolve("start_here_is_no_table", row, PROFILE)', set()),
    ],
)
def test_the_real_data_that_a_notebook_needs(source, needed):
    found = real_data(new_notebook(cells=[new_markdown_cell('resolve("fcn_skips")'), new_code_cell(source)]))
    assert {one.name for one in found["laptop"]} == needed


def test_the_table_of_contents_says_what_a_notebook_takes(monkeypatch):
    assert "seconds" not in contents_markdown() or contents.read_times()
    names = {lecture.path.stem: 41.6 for lecture in lectures()}
    monkeypatch.setattr(contents, "read_times", lambda: {"make course": {"notebooks": names}})
    rows = {line.split(" | ")[0].strip("| "): line for line in contents_markdown().splitlines()}
    assert rows["04"].endswith("| `isbi_em` | 42 |")
    assert rows["30"].endswith("| none | 42 |")
    del names["30_scoreboard"]
    assert contents_markdown().splitlines()[-1].endswith("| none | not yet |")
