"""The explorers of the course's notebooks in JupyterLab, after the cells they need: by mouse and by keyboard."""

from base64 import b64decode

import numpy as np
import pytest
from explorer_page import Page, move_everything

from course_lib.data.registry import open_dataset
from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model, checkpoint_path
from course_lib.experiments.table import resolve
from course_lib.plumbing.checkpoint import load_weights
from course_lib.plumbing.paths import ROOT
from course_lib.widgets.fcn import fcn_explorer
from course_lib.widgets.latent import latent_explorer
from course_lib.widgets.metrics import metrics_explorer
from course_lib.widgets.receptive_field import example_picture, field_picture
from course_lib.widgets.stacks import describe
from tests.browser.excerpt import excerpt

SHOWN = """root => {
    const parts = [], pixels = root.epExplorer.pixels();
    for (let at = 0; at < pixels.length; at += 8192)
        parts.push(String.fromCharCode(...pixels.subarray(at, at + 8192)));
    return btoa(parts.join(""));
}"""
CANVAS = "canvas => canvas.toDataURL()"
DRAWN = "([element, before]) => Number(element.dataset.draws) > before"
NOTEBOOKS = ROOT / "notebooks"
PICTURES = {
    "06_receptive_fields": lambda: Street(20, (224, 224), seed=0)[3].image,
    "07_dilated_convolutions": example_picture,
}


class Field:
    """The receptive-field explorer of a notebook."""

    def __init__(self, notebook, image):
        self.page, self.image = notebook.page, image
        self.root = notebook.find(".ep-field-explorer").first
        self.root.wait_for()
        self.root.scroll_into_view_if_needed()

    def part(self, selector):
        return self.root.locator(selector).first

    def state(self, name):
        return self.root.evaluate("(root, name) => root.epExplorer.state[name]", name)

    def data(self, name):
        return self.root.get_attribute(f"data-{name}")

    def move(self, action):
        """Do something that changes the picture: what is drawn then is what the Python functions say."""
        seen, before = self.part(".ep-picture").evaluate(CANVAS), int(self.data("draws"))
        action()
        self.page.wait_for_function(DRAWN, arg=[self.root.element_handle(), before])
        assert self.part(".ep-picture").evaluate(CANVAS) != seen
        self.check()

    def check(self):
        height, width = self.image.shape[-2:]
        cell = [int(place) for place in self.data("cell").split(",")]
        found = describe(self.state("layers"), (height, width), cell, inputs=self.state("inputs"))
        assert int(self.data("size")) == found.size
        assert int(self.data("parameters")) == found.parameters
        assert str(found.size) in self.part(".ep-numbers").inner_text()
        expected = field_picture(self.image, found, self.data("mode")).permute(1, 2, 0).numpy()
        shown = np.frombuffer(b64decode(self.root.evaluate(SHOWN)), np.uint8)
        shown = shown.reshape(height, width, 4)[..., :3]
        assert np.abs(shown.astype(int) - expected.astype(int)).mean() < 0.02


@pytest.mark.parametrize("name", PICTURES)
def test_the_receptive_field_explorer(lab, screenshot, name):
    cells = excerpt(NOTEBOOKS / f"{name}.ipynb", "receptive_field_explorer(")
    field = Field(lab(*cells), PICTURES[name]())
    field.check()
    screenshot(field.root, "start")

    # by keyboard
    for selector, key in ((".ep-mode", "ArrowDown"), (".ep-mode", "ArrowUp"), (".ep-preset", "ArrowDown")):
        field.part(selector).focus()
        field.move(lambda key=key: field.page.keyboard.press(key))
    for selector, key in (
        (".ep-row", "ArrowRight"),
        (".ep-column", "ArrowLeft"),
        (".ep-picture", "ArrowUp"),
        (".ep-add", "Enter"),
        ("input.ep-kernel", "ArrowUp"),
    ):
        field.move(lambda selector=selector, key=key: field.part(selector).press(key))
    field.move(lambda: field.root.locator(".ep-remove").last.press("Enter"))
    screenshot(field.root, "keys")

    # by mouse
    for selector, across, down in ((".ep-picture", 0.25, 0.3), (".ep-row", 0.7, 0.5), (".ep-column", 0.7, 0.5)):
        part = field.part(selector)
        box = part.bounding_box()
        at = {"x": across * box["width"], "y": down * box["height"]}
        field.move(lambda part=part, at=at: part.click(position=at))
    field.move(lambda: field.part(".ep-preset").select_option("vgg16"))
    field.move(lambda: field.part(".ep-remove").click())
    field.move(lambda: field.part(".ep-add").click())
    field.move(lambda: field.part(".ep-mode").select_option("weight"))
    screenshot(field.root, "mouse")

    # what is impossible is said in words
    field.part("input.ep-stride").fill("0")
    assert field.data("state") == "error"
    assert "stride" in field.part(".ep-message").inner_text()
    screenshot(field.root, "impossible")


def test_the_latent_explorer(lab, screenshot):
    """Notebook 14: the same network and streets are opened here."""
    recipe = resolve("cvae_street", "product", "laptop")
    options = recipe.options_of("val") | {"length": 24}
    streets = open_dataset(recipe.dataset, "val", size=(64, 96), cache=False, **options)
    network = build_model(recipe, len(streets.classes)).eval()
    load_weights(checkpoint_path("cvae-street"), network)

    notebook = lab(*excerpt(NOTEBOOKS / "14_latent_optimisation.ipynb", "= latent_explorer("))

    def says(name):
        return notebook.find(f'.ep-control[data-name="{name}"] output').inner_text()

    twin = latent_explorer(
        network, streets, picture=int(says("picture")), tell="Pavement", prior_weight=float(says("prior"))
    )
    page = Page(notebook, twin)
    page.check()
    for name, label in (("tell", "Tell all of this class"), ("refine", "Refine the code")):
        button = page.root.get_by_role("button", name=label)
        page.after(lambda button=button: button.click())
        page.check(name)
    screenshot(page.root, "refined")
    move_everything(page)
    screenshot(page.root, "moved")


def committed_fcn():
    """The network and streets of notebook 03."""
    recipe = resolve("fcn_skips", "fcn8s", "quick")
    streets = Street(3, (recipe.height, recipe.width), seed=9)
    return fcn_explorer(build_model(recipe, len(streets.classes)).eval(), streets)


@pytest.mark.parametrize(
    ("name", "call", "make"),
    [
        ("02_metrics", "explorer = metrics_explorer(", metrics_explorer),
        ("03_fcn", "explorer = widgets.fcn_explorer(", committed_fcn),
    ],
)
def test_metrics_and_the_network(lab, screenshot, name, call, make):
    page = Page(lab(*excerpt(NOTEBOOKS / f"{name}.ipynb", call)), make())
    page.check()
    if name == "02_metrics":
        canvas = page.root.locator("canvas").first
        page.after(lambda: canvas.press("Space"))
        page.check(points=[(36.5, 48.5)])
    move_everything(page)
    screenshot(page.root, "moved")
