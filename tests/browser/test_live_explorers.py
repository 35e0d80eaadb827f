"""The explorers on pages of their own, opened from a file, as wide as a window and as a phone: no kernel anywhere."""

import re
from base64 import b64decode, b64encode

import numpy as np
import pytest
import torch
from explorer_page import PIXELS, Page, Plain, move_everything
from PIL import Image

from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model, checkpoint_path
from course_lib.experiments.table import resolve
from course_lib.plumbing.checkpoint import load_weights
from course_lib.widgets.fcn import SKIPS, fcn_explorer, fcn_view
from course_lib.widgets.latent import latent_explorer
from course_lib.widgets.metrics import metrics_explorer
from course_lib.widgets.self_correction import alpha_explorer
from course_lib.widgets.simplex import simplex_explorer
from course_lib.widgets.upsampling import transposed_explorer, unpooling_explorer
from tests.browser.lab import browser

WIDTHS = (1300, 390)


def small_alpha():
    streets = Street(2, (32, 48), seed=0)
    logits, ancillary = torch.randn(2, 11, 32, 48, generator=torch.Generator().manual_seed(1))
    return alpha_explorer(logits, ancillary, streets[0].labels, classes=streets.classes, palette=streets.palette)


def street_code():
    recipe = resolve("cvae_street", "product", "laptop")
    streets = Street(3, (64, 96), seed=5)
    network = build_model(recipe, len(streets.classes)).eval()
    load_weights(checkpoint_path("cvae-street"), network)
    return latent_explorer(network, streets, tell="Road")


MAKERS = {
    "transposed": transposed_explorer,
    "unpooling": unpooling_explorer,
    "simplex": simplex_explorer,
    "alpha": small_alpha,
    "metrics": metrics_explorer,
}


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """A Chromium that can be touched."""
    with browser(tmp_path_factory.mktemp("chromium"), has_touch=True) as opened:
        yield opened


@pytest.fixture
def opened(phone, tmp_path):
    """`opened(explorer, width)`: its page, in a window of that width; nothing complains, nothing is asked of a network."""
    pages, said = [], []

    def open_page(explorer, width, style=""):
        piece = explorer.live_html("one", files=tmp_path / "data", address="data/")
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Explorer</title>'
        path = tmp_path / "page.html"
        path.write_text(f'<!doctype html><html lang="en">{head}<style>{style}</style>{piece}', encoding="utf-8")
        page = phone.new_page()
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert [words for words in said if "willReadFrequently" not in words] == []  # which the tests themselves cause


def sideways(page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def nameless(page) -> list[str]:
    """The controls and pictures that have no name to be read aloud."""
    return page.eval_on_selector(
        ".ep-explorer",
        """root => [...root.querySelectorAll('input, select, button, canvas')].filter(one =>
            !one.getAttribute('aria-label') && !one.labels?.length && !one.innerText).map(one => one.outerHTML)""",
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", MAKERS)
def test_by_mouse_and_keyboard(opened, screenshot, name, width):
    explorer = MAKERS[name]()
    shown = opened(explorer, width)
    page = Page(Plain(shown), MAKERS[name]())
    page.check()
    screenshot(page.root, "start")
    if width == 1300:
        move_everything(page)
    else:  # a control of each kind
        kinds = {one["kind"]: one["name"] for one in explorer.controls}
        page.press(kinds["slider"], "ArrowLeft")
        page.check()
        if "choice" in kinds:
            page.select(kinds["choice"], explorer.start["values"][kinds["choice"]])
            page.check()
    assert float(page.root.get_attribute("data-last-move-ms")) > 0
    assert sideways(shown) == 0
    assert nameless(shown) == []
    screenshot(page.root, "moved")


def touch(page, canvas, across, down):
    """A finger on a picture, at parts of its width and height; returns (row, column) in pixels of the picture."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + across * box["width"], box["y"] + down * box["height"])
    height, width = canvas.evaluate("canvas => [canvas.height, canvas.width]")
    return down * height, across * width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_prediction_is_painted_by_mouse_finger_and_keys(opened, screenshot, width):
    shown = opened(metrics_explorer(), width)
    page = Page(Plain(shown), metrics_explorer())
    canvas = page.root.locator("canvas").first
    page.after(lambda: page.root.get_by_role("button", name="The truth", exact=True).click())
    page.check("truth")
    page.select("class", "person")
    page.check()
    place = []
    page.after(lambda: place.append(touch(shown, canvas, 0.25, 0.5)))
    page.check(points=place)
    size = canvas.bounding_box()
    page.after(lambda: canvas.click(position={"x": size["width"] / 2, "y": size["height"] / 4}))
    page.check(points=[(18, 48)])
    canvas.press("Shift+ArrowDown")
    canvas.press("ArrowLeft")
    page.after(lambda: canvas.press("Space"))
    page.check(points=[(36 + 8 + 0.5, 48 - 2 + 0.5)])
    assert page.root.locator(".ep-cursor").is_visible()
    screenshot(page.root, "painted")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_latent_explorer(opened, screenshot, width):
    shown, twin = opened(street_code(), width), street_code()
    closed = shown.get_by_role("button", name=re.compile(r"Open the explorer \(it loads [23]\.\d MB\)"))
    screenshot(shown.locator(".ep-explorer"), "closed")
    assert shown.evaluate("globalThis.everyPixelData === undefined")  # nothing is loaded before
    closed.press("Enter")
    shown.locator("canvas").first.wait_for()
    assert len(shown.evaluate("Object.keys(everyPixelData)")) == 2  # Jacobian and offset of one picture of three
    page = Page(Plain(shown), twin)
    page.check()
    for name, label in (("half", "Tell half of this class"), ("refine", "Refine the code")):
        button = page.root.get_by_role("button", name=label)
        page.after(lambda button=button: button.click())
        page.check(name)
    assert float(page.root.get_attribute("data-last-move-ms")) > 00
    screenshot(page.root, "refined")
    page.press("move1", "ArrowRight")
    page.check()
    page.press("picture", "ArrowRight")
    page.check()
    page.select("told", "every class")
    page.check()
    canvas = page.root.locator("canvas").first
    place = []
    page.after(lambda: place.append(touch(shown, canvas, 0.5, 0.75)))
    page.check(points=place)
    assert sideways(shown) == 0
    assert nameless(shown) == []
    screenshot(page.root, "painted")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_network_reads_a_picture_of_the_readers_own(opened, screenshot, tmp_path, width):
    recipe = resolve("fcn_skips", "fcn8s", "quick")
    streets = Street(4, (recipe.height, recipe.width), seed=9)
    network = build_model(recipe, len(streets.classes)).eval()
    explorer = fcn_explorer(network, streets)
    shown = opened(explorer, width)
    shown.get_by_role("button", name="Open the explorer").click()
    shown.locator("canvas").first.wait_for()
    page = Page(Plain(shown), explorer)
    page.check()
    page.select("skips", SKIPS[0])
    page.check()
    screenshot(page.root, "no-skips")
    own = tmp_path / "own.png"
    Image.fromarray(streets[3].image.permute(1, 2, 0).numpy()).save(own)
    page.after(lambda: shown.get_by_label("or an image of your own").set_input_files(own))
    view = fcn_view(
        network, streets[3].image, None, streets.classes, streets.palette, label=streets.classes.index("Car"), skips=0
    )
    assert page.root.locator(".ep-words").inner_text() == view.words
    screenshot(page.root, "own")
    (tmp_path / "own.txt").write_text("no image")
    shown.get_by_label("or an image of your own").set_input_files(tmp_path / "own.txt")
    shown.locator(".ep-problem", has_text="own.txt is no image").wait_for()
    assert sideways(shown) == 0
    assert nameless(shown) == []
    page.after(lambda: shown.get_by_role("button", name="Back to the generated image").click())
    page.check("generated")


def enlarged(image: torch.Tensor) -> Image.Image:
    """An image (3, H, W) in the middle of a wider picture of twice its pixels: the page cuts and resizes it back."""
    twice = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((2 * image.shape[2], 2 * image.shape[1]), 0)
    wide = Image.new("RGB", (twice.width + 100, twice.height), "orange")
    wide.paste(twice, (50, 0))
    return wide


DROP = """([root, name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    const canvas = root.querySelector("canvas");
    const event = (kind) => new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
    return [canvas.dispatchEvent(event("dragover")), canvas.dispatchEvent(event("drop"))];
}"""


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_pictures_of_other_sizes_are_cut_resized_and_labelled(opened, screenshot, tmp_path, kind, how):
    recipe = resolve("fcn_skips", "fcn8s", "quick")
    streets = Street(4, (recipe.height, recipe.width), seed=9)
    network = build_model(recipe, len(streets.classes)).eval()
    shown = opened(fcn_explorer(network, streets), 390)
    shown.get_by_role("button", name="Open the explorer").click()
    shown.locator("canvas").first.wait_for()
    page = Page(Plain(shown), fcn_explorer(network, streets))
    file = tmp_path / f"own.{kind.lower()}"
    enlarged(streets[3].image).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    root, upload = page.root.element_handle(), shown.get_by_label("or an image of your own")

    def give(path, mime):
        if how == "chosen":
            upload.set_input_files(path)
        else:  # on the picture: a page that did not take it would be left for the file
            went_on = shown.evaluate(DROP, [root, path.name, mime, b64encode(path.read_bytes()).decode()])
            assert went_on == [False, False]

    page.after(lambda: give(file, f"image/{kind.lower()}"))
    assert page.root.get_attribute("data-state") == "ok"
    view = fcn_view(
        network, streets[3].image, None, streets.classes, streets.palette, label=streets.classes.index("Car"), skips=2
    )
    for number, differ in ((0, 0.1), (1, 0.05)):  # the picture's pixels, and its labels
        canvas = page.root.locator("canvas").nth(number)
        there = np.frombuffer(b64decode(canvas.evaluate(PIXELS)), np.uint8).reshape(*streets[3].labels.shape, 4)
        here = view.panels[number].picture.permute(1, 2, 0).numpy()
        assert (np.abs(there[..., :3].astype(int) - here) > 24).any(-1).mean() < differ, view.panels[number].caption
    words = page.root.locator(".ep-words").inner_text()
    assert words.startswith("Predicted: ")
    assert "The truth is not known" in words
    screenshot(page.root, "own")
    broken = tmp_path / f"broken.{kind.lower()}"
    broken.write_bytes(b"no image at all")
    page.after(lambda: give(broken, f"image/{kind.lower()}"))
    assert page.root.locator(".ep-problem").inner_text() == f"{broken.name} is no image that this browser reads."
    assert page.root.locator(".ep-words").inner_text() == words  # the pictures stay


DARK = (
    "html { --pst-color-background: #14181e; --pst-color-surface: #29313d; --pst-color-text-base: #ced6dd;"
    "--pst-color-text-muted: #9ca4af; --pst-color-border: #48566b; } body { background: #14181e; }"
)


def test_dark_pages(opened, screenshot):
    shown = opened(simplex_explorer(), 390, DARK)
    root = shown.locator(".ep-explorer")
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(20, 24, 30)"
    screenshot(root, "dark")


def test_what_is_missing_beside_a_page_is_said(opened, tmp_path):
    shown = opened(street_code(), 1300)
    for file in (tmp_path / "data").iterdir():
        file.write_text("", encoding="utf-8")
    shown.get_by_role("button").click()
    shown.locator(".ep-problem", has_text="is missing beside this page").wait_for()
