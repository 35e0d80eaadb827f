"""The explorers in JupyterLab: every control by mouse and by keyboard, and the canvas is what the function says."""

import re

import pytest
from explorer_page import PIXELS, Page, move_everything

from course_lib.widgets.latent import latent_explorer
from course_lib.widgets.simplex import simplex_explorer
from course_lib.widgets.upsampling import transposed_explorer

MODEL = """
import torch
from course_lib.data.scenes import Street
from course_lib.models.cvae import CVAE
streets = Street(3, (48, 64), seed=0)
torch.manual_seed(0)
model = CVAE(11, width=4, code_size=6, code_channels=4, size=(48, 64))
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
"""
LATENT = (
    MODEL
    + """
from course_lib.widgets import latent_explorer
latent_explorer(model, streets, tell="Road")
"""
)


def test_a_small_explorer(lab, screenshot):
    notebook = lab("from course_lib.widgets import transposed_explorer\ntransposed_explorer()", "1")
    page = Page(notebook, transposed_explorer())
    page.check()
    screenshot(page.root, "start")
    move_everything(page)
    assert float(page.root.get_attribute("data-last-move-ms")) > 0
    screenshot(page.root, "moved")


@pytest.fixture(scope="module")
def latent_twin():
    def make():
        space = {}
        exec(MODEL, space)
        return latent_explorer(space["model"], space["streets"], tell="Road")

    return make


def test_latent_explorer(lab, screenshot, latent_twin):
    page = Page(lab(LATENT, "1"), latent_twin())
    page.check()
    canvas = page.root.locator("canvas").first

    # refine before anything is told: words
    page.after(lambda: page.root.get_by_role("button", name="Refine the code").click())
    assert "Nothing is told yet" in page.check("refine").problem

    # tell by keyboard, refine by mouse
    tell = page.root.get_by_role("button", name="Tell all of this class")
    tell.focus()
    page.after(lambda: tell.press("Enter"))
    page.check("tell")
    screenshot(page.root, "told")
    page.after(lambda: page.root.get_by_role("button", name="Refine the code").click())
    page.check("refine")
    screenshot(page.root, "refined")
    move_everything(page)
    screenshot(page.root, "moved")

    # the brush by mouse and by keyboard
    page.after(lambda: page.root.get_by_role("button", name="Forget everything told").click())
    page.check("forget")
    page.select("told", "every class")
    page.check()
    size = canvas.bounding_box()
    page.after(lambda: canvas.click(position={"x": size["width"] / 4, "y": size["height"] / 2}))
    height, width = canvas.evaluate("canvas => [canvas.height, canvas.width]")
    page.check(points=[(height / 2, width / 4)])
    for _ in range(3):
        canvas.press("ArrowRight")
    page.after(lambda: canvas.press("Space"))
    page.check(points=[(height // 2 + 0.5, width // 2 + 6 + 0.5)])
    screenshot(page.root, "painted")

    # a stroke that ends outside the picture
    mouse = page.root.page.mouse
    box = canvas.bounding_box()
    mouse.move(box["x"] + 5, box["y"] + 5)
    page.after(mouse.down)
    mouse.move(box["x"] - 60, box["y"] + 5)
    mouse.up()
    page.root.locator(".ep-problem", has_text="The brush is outside the image").wait_for()
    screenshot(page.root, "outside")


SHADES = """
import torch
from course_lib.widgets.explorer import Explorer, Panel, Slider, View, standing
def shades(*, grey):
    picture = torch.full((3, 20, 30), grey, dtype=torch.uint8)
    return View([Panel("grey", picture, f"{grey} of 255")], f"All of it is {grey}.")
explorer = Explorer(standing(shades), [Slider("grey", "grey", range(256), 100)], title="Shades")
explorer
"""


def test_an_explorer_without_a_module_asks_its_kernel_which_may_be_lost(lab, screenshot):
    notebook = lab(SHADES, "1")
    space = {}
    exec(SHADES, space)
    page = Page(notebook, space["explorer"])
    page.check()
    move_everything(page)
    before = page.root.locator("canvas").evaluate(PIXELS)
    notebook.end_kernel()
    page.slider("grey").press("ArrowRight")
    page.root.locator(".ep-problem", has_text="The kernel does not answer").wait_for(timeout=10_000)
    assert page.root.get_attribute("data-state") == "silent"
    assert page.root.locator("canvas").evaluate(PIXELS) == before
    screenshot(page.root, "silent")


def test_notebook_7(lab, screenshot):
    notebook = lab("from course_lib.widgets import simplex_explorer\nsimplex_explorer()", "1", interface="notebook")
    page = Page(notebook, simplex_explorer())
    page.check()
    move_everything(page)
    screenshot(page.root, "moved")


def test_it_can_be_read_aloud_and_reached_by_keys_alone(lab):
    notebook = lab("from course_lib.widgets import transposed_explorer\ntransposed_explorer()", "1")
    page = Page(notebook, transposed_explorer())
    for name, control in page.controls.items():
        found = page.root.get_by_label(control["label"], exact=True)
        assert found.count() == 1, name
    assert page.root.locator("[role=status]").inner_text()
    page.slider("kernel").focus()
    page.slider("kernel").press("Tab")
    focused = page.root.page.evaluate("document.activeElement.closest('.ep-control').dataset.name")
    assert focused == "stride"
    # arrows in here move no cell of the notebook
    active = notebook.find(".jp-Cell.jp-mod-active").count()
    page.after(lambda: page.slider("stride").press("ArrowUp"))
    assert notebook.find(".jp-Cell.jp-mod-active").count() == active
    assert re.match(r"\d", page.slider("stride").get_attribute("aria-valuetext"))
