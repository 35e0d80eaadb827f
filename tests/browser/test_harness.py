"""The harness itself: a notebook opens, runs and is seen, in JupyterLab and in Notebook 7."""

import pytest


@pytest.mark.parametrize("interface", ["lab", "notebook"])
def test_cells_run_and_their_output_is_in_the_page(lab, screenshot, interface):
    notebook = lab("x = 20", "print('answer', x + 1)", interface=interface)
    assert "answer 21" in notebook.find(".jp-OutputArea-output").inner_text()
    assert screenshot(notebook.find(".jp-Notebook"), "notebook").stat().st_size > 1000


def test_a_cell_that_fails_is_reported(lab):
    with pytest.raises(AssertionError, match="missing_name"):
        lab("missing_name", "1")
