"""Excerpts of notebooks for the browser's tests: what a cell needs and no more, in order, and it runs."""

import json

import pytest

from tests.browser.excerpt import excerpt

CELLS = [
    "import math\nunused = 1",
    "def double(x):\n    return factor * x",
    "factor = 2",
    "slow = sum(range(9))",
    "a, (b, c) = 1, (math.pi, 3)",
    "print(slow)",
    "found = [double(n) + b for n in range(3)]",
    "found",
]


@pytest.fixture
def notebook(tmp_path):
    cells = [{"cell_type": "code", "source": [source]} for source in CELLS]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "found = 3"}, *cells]}))
    return path


def test_the_cells_that_one_needs(notebook):
    needed = excerpt(notebook, "found =")
    assert needed == [CELLS[0], CELLS[1], CELLS[2], CELLS[4], CELLS[6]]


def test_what_is_not_needed_is_left_out(notebook):
    assert excerpt(notebook, "print(slow)") == [CELLS[3], CELLS[5]]


def test_a_text_that_no_cell_holds(notebook):
    with pytest.raises(ValueError, match=r"no cell of one\.ipynb holds 'widget\('"):
        excerpt(notebook, "widget(")
