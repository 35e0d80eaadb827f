"""Notebooks of the course in JupyterLab, run from the top: their explorers answer to mouse and keyboard."""

from base64 import b64decode

import numpy as np
import pytest

from course_lib.notebook_rules import committed
from course_lib.widgets.receptive_field import PRESETS, describe, field_picture

ROWS = "root => root.epExplorer.state.layers"
SHOWN = """root => btoa(Array.from(root.epExplorer.pixels(), code => String.fromCharCode(code)).join(""))"""
PICTURE = """root => root.epExplorer.picture"""
DRAWN = "([element, before]) => Number(element.dataset.draws) > before"


def explorers_of(name):
    (path,) = [path for path in committed() if path.stem == name]
    return path.read_text(encoding="utf-8")


class Field:
    """A receptive-field explorer in a notebook."""

    def __init__(self, notebook, number=0):
        self.page = notebook.page
        self.root = notebook.find(".ep-field-explorer").nth(number)
        self.root.wait_for()

    def data(self, name):
        return self.root.get_attribute(f"data-{name}")

    def after(self, move):
        before = int(self.data("draws"))
        move()
        self.page.wait_for_function(DRAWN, arg=[self.root.element_handle(), before])

    def pixels(self):
        return np.frombuffer(b64decode(self.root.evaluate(SHOWN)), np.uint8)

    def check(self, size, image=None):
        """The numbers, and where `image` is given every pixel, are those of the Python functions."""
        rows = self.root.evaluate(ROWS)
        inputs = self.root.evaluate("root => root.epExplorer.state.inputs")
        cell = [int(place) for place in self.data("cell").split(",")]
        found = describe(rows, size, cell, inputs=inputs)
        assert int(self.data("size")) == found.size
        assert int(self.data("parameters")) == found.parameters
        assert str(found.size) in self.root.locator(".ep-numbers").inner_text()
        if image is not None:
            expected = field_picture(image, found, self.data("mode")).permute(1, 2, 0).numpy()
            shown = self.pixels().reshape(*size, 4)[..., :3]
            assert np.abs(shown.astype(int) - expected.astype(int)).mean() < 0.02
        return found


@pytest.mark.parametrize("name", ["06_receptive_fields", "07_dilated_convolutions"])
def test_the_receptive_field_explorer(lab, screenshot, name):
    if "receptive_field_explorer" not in explorers_of(name):
        pytest.skip("this notebook has no explorer yet")
    notebook = lab(name)
    field = Field(notebook)
    size = tuple(int(side) for side in field.root.locator(".ep-picture").evaluate("c => [c.height, c.width]"))
    field.root.scroll_into_view_if_needed()
    screenshot(field.root, "start")
    seen = set()
    for preset in list(PRESETS)[:3]:
        if field.root.locator(".ep-preset").input_value() != preset:
            field.after(lambda: field.root.locator(".ep-preset").select_option(preset))
        seen.add(field.pixels().tobytes())
    assert len(seen) == 3
