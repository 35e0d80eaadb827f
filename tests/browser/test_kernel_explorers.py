"""The explorers of lectures 18 and 19, whose kernel thinks: by mouse, finger and keys, in a wide window and a phone's."""

import pytest
from explorer_page import Page, move_everything

from tests.browser.lab import browser

WIDTHS = (1300, 390)
VOTING = """
import torch
from course_lib.data.scenes import Objects
from course_lib.data.transforms import normalise
from course_lib.models.rfcn import RFCN
from course_lib.widgets import evidence_maps, voting_explorer
torch.manual_seed(0)
image = Objects(1, (64, 96), seed=0)[0].image
networks = {bins: RFCN(2, bins=bins, depth=0, width=8, reduced=0) for bins in (1, 3)}
for network in networks.values():
    torch.nn.init.normal_(network.scores.weight)
maps = {bins: evidence_maps(network, normalise(image)[None]) for bins, network in networks.items()}
maps = {bins: 3 * some / some.std() for bins, some in maps.items()}
explorer = voting_explorer(maps, image.as_subclass(torch.Tensor), (20, 16, 60, 48))
explorer
"""
SAMPLING = """
import torch
from course_lib.data.scenes import Surroundings
from course_lib.models.deformable import DeformableStack
from course_lib.widgets import sampling_explorer
scenes = Surroundings(3, (48, 96), seed=0)
networks = {}
for name in ("before", "after"):
    torch.manual_seed(0)
    network = DeformableStack(len(scenes.classes), width=8, deformable=3).eval()
    layers = [layer[0] for layer in network.layers]
    for layer in layers if name == "after" else ():
        torch.nn.init.normal_(layer.offsets.weight, std=1.0)
    networks[name] = network, layers
explorer = sampling_explorer(networks, scenes)
explorer
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A Chromium that can be touched."""
    with browser(tmp_path_factory.mktemp("chromium"), has_touch=True) as opened:
        yield opened


@pytest.fixture
def opened(lab):
    """`opened(code, width)`: the explorer in Notebook 7, whose window has that width after it has run."""

    def run(code, width):
        space = {}
        exec(code, space)
        notebook = lab(code, "1", interface="notebook")
        notebook.page.set_viewport_size({"width": width, "height": 900})
        page = Page(notebook, space["explorer"])
        page.check()
        return page

    return run


def place_of(canvas, across, down):
    """Parts of a picture's width and height as (x, y) of the page, and as (row, column) of the picture."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    height, width = canvas.evaluate("canvas => [canvas.height, canvas.width]")
    return (box["x"] + across * box["width"], box["y"] + down * box["height"]), (down * height, across * width)


def move_by_hand(page, pixels, step):
    """A click, a drag, a finger and keys on the first picture; after each the pictures and two sliders are compared.

    pixels  of the first picture for each `step` of the sliders "row" and "column"
    """
    canvas, browser_page = page.root.locator("canvas").first, page.root.page

    def came_to(place):
        page.check(points=[place])
        for name, value in zip(("row", "column"), place, strict=True):
            page.read(name)  # what the page shows
            assert page.values[name] == step * round(value / pixels)

    at, place = place_of(canvas, 0.3, 0.25)
    page.after(lambda: browser_page.mouse.click(*at))
    came_to(place)

    start, _ = place_of(canvas, 0.25, 0.5)
    end, place = place_of(canvas, 0.7, 0.4)
    browser_page.mouse.move(*start)
    page.after(browser_page.mouse.down)
    page.after(lambda: browser_page.mouse.move(*end, steps=4))
    browser_page.mouse.up()
    browser_page.wait_for_timeout(300)
    came_to(place)

    at, place = place_of(canvas, 0.4, 0.75)
    page.after(lambda: browser_page.touchscreen.tap(*at))
    came_to(place)

    height, width = canvas.evaluate("canvas => [canvas.height, canvas.width]")
    canvas.focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowUp"):
        canvas.press(key)
    assert page.root.locator(".ep-cursor").is_visible()
    page.after(lambda: canvas.press("Space"))
    came_to((height // 2 - 8 + 0.5, width // 2 + 16 + 0.5))


def out_of_sight(page):
    """By how many pixels the explorer is wider than the cell's output that holds it."""
    return page.root.evaluate("root => root.scrollWidth - root.clientWidth")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_voting_explorer(opened, screenshot, width):
    page = opened(VOTING, width)
    drive(page, screenshot, width, choices=("bins", "k = 1", "k = 3"), hand=(6, 2), slider="height")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sampling_explorer(opened, screenshot, width):
    page = opened(SAMPLING, width)
    drive(page, screenshot, width, choices=("network", "before", "after"), hand=(12, 1), slider="picture")


def drive(page, screenshot, width, *, choices, hand, slider):
    """Every choice, the hand, and the sliders: all in a wide window, one on a phone."""
    screenshot(page.root, "start")
    name, *values = choices
    for value in values:
        page.select(name, value)
        page.check()
    pixels, step = hand
    move_by_hand(page, pixels=pixels, step=step)
    if width == 1300:
        move_everything(page)
    else:
        page.press(slider, "ArrowRight")
        page.check()
    assert out_of_sight(page) == 0
    screenshot(page.root, "moved")
