"""Slides: question and goals, statements with what was shown, figures, summary; one file that fetches nothing."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_site import PIXEL, load
from typer.testing import CliRunner

from course_lib.cli import app, slides

OPENING = "# 03 Nets\n\n**What is a net?**\n\nYou can, at the end:\n\n* draw one, with $x^2$;\n* run one.\n\n**Prerequisites:** none"
ENDING = "## Check yourself\n\n<details><summary>A</summary>secret</details>\n\n## Summary\n\n* It is a [net](02_x.ipynb).\n\n## Exercises\n\nMore."


def notebook():
    picture = new_output("display_data", data={"image/png": PIXEL, "text/plain": "<Figure>"})
    return new_notebook(
        cells=[
            new_markdown_cell(OPENING),
            new_code_cell("import x", outputs=[new_output("stream", name="stdout", text="not shown\n")]),
            new_markdown_cell("## 1 Layers\n\nProse."),
            new_markdown_cell("> **The lecture says:** it grows.\n\n**Shown below:** from 3 to 7.", metadata={"tags": ["statement"]}),
            new_code_cell("1", outputs=[new_output("stream", name="stdout", text="3 < 7\n"), ]),
            new_code_cell("draw()", outputs=[picture]),
            new_markdown_cell(ENDING),
        ]
    )  # fmt: skip


@pytest.fixture
def deck():
    pytest.importorskip("sphinx_revealjs")
    return load("slides")


def test_slides_follow_the_tags(deck):
    found = deck.slides_of(notebook())
    assert [(one.kind, one.heading) for one in found] == [
        ("title", ""), ("statement", "1 Layers"), ("figure", "1 Layers"), ("summary", "Summary")]  # fmt: skip
    title, statement, figure, summary = (one.body for one in found)
    assert "03 Nets" in title
    assert "What is a net?" in title
    assert "run one." in title
    assert "<math" in title
    assert "it grows." in statement
    assert "3 &lt; 7" in statement
    assert "data:image/png;base64," in figure
    assert "It is a net." in summary
    assert not any("secret" in one or "not shown" in one for one in (title, statement, summary))


def test_the_file_needs_no_network(deck):
    text = deck.page(notebook())
    assert text.count("<section ") == 4
    body = text.split("<script>")[0]
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)|@import|url\((?!data:)", body)
    assert "Reveal.initialize" in text


def test_a_lecture_that_was_not_run_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr(slides, "build_root", lambda: tmp_path)
    ended = CliRunner().invoke(app, ["slides", "03"])
    assert ended.exit_code == 2
    assert "type  course run 03" in ended.output
    nbformat.write(notebook(), _made(tmp_path / "executed" / "quick") / "03_fcn.ipynb")
    pytest.importorskip("sphinx_revealjs")
    ended = CliRunner().invoke(app, ["slides", "03"])
    assert ended.exit_code == 0, ended.output
    assert "4 slides" in ended.output
    assert (tmp_path / "slides" / "03_fcn.html").is_file()


def _made(folder):
    folder.mkdir(parents=True)
    return folder
