"""The receptive-field explorer as a page of its own: every control by mouse and keyboard, no kernel anywhere."""

import re

import pytest
import torch

from course_lib.widgets.receptive_field import example_picture, field_picture, live_html
from course_lib.widgets.stacks import PRESETS, conv, describe

ROOT_CLASS = ".ep-field-explorer"


@pytest.fixture
def page(context, tmp_path):
    """The page, opened from a file; what its console says stays empty."""
    path = tmp_path / "page.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Explorer</title>{live_html("gridding")}'
    )
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    ours = "willReadFrequently"  # what `on_canvas` causes
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.locator(ROOT_CLASS).wait_for()
    yield page
    page.close()
    assert [words for words in complaints if ours not in words] == []


def state(page) -> dict:
    return page.eval_on_selector(ROOT_CLASS, "root => ({...root.dataset})")


def shown(page) -> torch.Tensor:
    """(3, H, W): what the picture's canvas was painted with."""
    values = page.eval_on_selector(ROOT_CLASS, "root => [...root.epExplorer.pixels()]")
    height, width = example_picture().shape[-2:]
    return torch.tensor(values, dtype=torch.int).view(height, width, 4)[..., :3].permute(2, 0, 1)


def on_canvas(page, selector: str) -> int:
    """A number that changes with the pixels of a canvas."""
    return page.eval_on_selector(
        selector,
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, v, i) => (a * 31 + v) | 0, 0)",
    )


def assert_shows(page, rows, cell=None, mode="paths", inputs=3):
    image = example_picture()
    found = describe(rows, tuple(image.shape[-2:]), cell, inputs=inputs)
    data = state(page)
    assert (int(data["size"]), int(data["parameters"])) == (found.size, found.parameters)
    assert data["cell"] == ",".join(map(str, found.cell))
    difference = (shown(page) - field_picture(image, found, mode).int()).abs()
    assert difference.float().mean() < 0.02
    assert str(found.size) in page.locator(".ep-numbers").inner_text()
    assert page.locator(".ep-curve").count() == (mode == "weight")
    assert ("normal curve" in page.locator(ROOT_CLASS).inner_text()) == (mode == "weight")
    return found


def test_it_begins_with_its_preset_and_follows_another(page, screenshot):
    assert_shows(page, PRESETS["gridding"]["layers"])
    screenshot(page.locator(ROOT_CLASS), "gridding")
    seen = on_canvas(page, ".ep-picture")
    for name in PRESETS:
        page.locator(".ep-preset").select_option(name)
        cell = tuple(map(int, state(page)["cell"].split(",")))
        found = assert_shows(page, PRESETS[name]["layers"], cell, inputs=PRESETS[name]["inputs"])
        for axis, middle in enumerate((96, 128)):  # the unit stays where it was, as far as it can
            assert abs(sum(found.spans[axis]) / 2 - middle) <= 64
        assert page.locator(".ep-layers tbody tr").count() == len(PRESETS[name]["layers"])
    assert on_canvas(page, ".ep-picture") != seen
    page.locator(".ep-preset").select_option("vgg16")
    assert "larger than the image" in page.locator(".ep-message").inner_text()
    assert state(page)["state"] == "notice"


def test_keys_and_clicks_move_the_unit(page):
    rows = PRESETS["gridding"]["layers"]
    before = on_canvas(page, ".ep-picture")
    page.locator(".ep-picture").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert_shows(page, rows, (96 - 8, 129))
    assert on_canvas(page, ".ep-picture") != before
    page.locator(".ep-row").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".ep-column").focus()
    page.keyboard.press("ArrowLeft")
    assert_shows(page, rows, (89, 128))
    page.locator(".ep-column").fill("3")
    assert_shows(page, rows, (89, 3))
    box = page.locator(".ep-picture").bounding_box()
    page.locator(".ep-picture").click(position={"x": box["width"] / 4 + 1, "y": box["height"] / 2 + 1})
    assert_shows(page, rows, (96, 64))


def test_the_colours_can_show_the_effective_field(page):
    before = on_canvas(page, ".ep-zoom")
    page.locator(".ep-mode").focus()
    page.keyboard.press("ArrowDown")
    assert_shows(page, PRESETS["gridding"]["layers"], mode="weight")
    assert on_canvas(page, ".ep-zoom") != before


def test_layers_are_changed_added_and_removed(page):
    rows = [dict(row) for row in PRESETS["gridding"]["layers"]]
    dilation = page.locator("input.ep-dilation").nth(1)
    dilation.focus()
    page.keyboard.press("ArrowDown")
    rows[1]["dilation"] = 1
    found = assert_shows(page, rows)
    assert found.read_share == float(state(page)["read"]) == 1
    assert page.locator(".ep-preset").input_value() == ""
    page.locator(".ep-add").press("Enter")
    rows.append(dict(rows[-1]))
    assert_shows(page, rows)
    assert page.evaluate("document.activeElement.dataset.row") == "4"
    page.locator("input.ep-stride").nth(4).fill("2")
    rows[4]["stride"] = 2
    found = assert_shows(page, rows)  # the unit stays in the middle of the picture
    assert found.map == (96, 128)
    page.locator(".ep-kind").nth(4).select_option("up")
    rows[4] |= {"kind": "up"}
    assert_shows(page, rows, (192, 256))
    for _ in range(4):
        page.locator(".ep-remove").last.press("Enter")
        rows.pop()
    assert_shows(page, rows)
    assert page.evaluate("document.activeElement.className") == "ep-remove"


def test_what_is_impossible_is_said_in_words(page, screenshot):
    stride = page.locator("input.ep-stride").first
    stride.fill("0")
    message = page.locator(".ep-message")
    assert message.inner_text() == "Row 1: stride is 0; it is a whole number from 1 to 8."
    assert message.get_attribute("aria-live") == "polite"
    assert stride.get_attribute("aria-invalid") == "true"
    assert state(page)["state"] == "error"
    screenshot(page.locator(ROOT_CLASS), "stride-0")
    stride.fill("")
    assert "stride is empty" in message.inner_text()
    stride.fill("1")
    assert message.inner_text() == ""
    assert_shows(page, PRESETS["gridding"]["layers"])
    page.locator("input.ep-padding").last.fill("0")
    page.locator("input.ep-dilation").last.fill("64")
    page.locator("input.ep-kernel").last.fill("5")
    assert "Row 4 reads 257 cells at once, but the map before it is only 192 high" in message.inner_text()
    while page.locator(".ep-remove").count():
        page.locator(".ep-remove").first.click()
    assert message.inner_text() == "The stack is empty: add a layer."
    page.locator(".ep-add").click()
    assert_shows(page, [conv(3)])


def test_paths_are_counted_at_the_pointer_and_by_keys(page):
    counts = describe(PRESETS["gridding"]["layers"], (192, 256)).counts
    zoom = page.locator(".ep-zoom")
    zoom.focus()
    page.keyboard.press("ArrowRight")  # to the middle of the field
    assert f"Pixel (96, 128): {counts[0][96] * counts[1][128]} paths" in page.locator(".ep-probe").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator(".ep-probe").inner_text() == "Pixel (96, 129): no path to the unit."
    assert "no path" in zoom.get_attribute("aria-label")
    box = zoom.bounding_box()
    zoom.hover(position={"x": 3, "y": 3})
    assert page.locator(".ep-probe").inner_text() == "Pixel (88, 120): 1 path to the unit."
    assert box["width"] > 200


def test_every_control_has_a_name_and_is_reached_by_tab(page):
    nameless = page.eval_on_selector(
        ROOT_CLASS,
        """root => [...root.querySelectorAll('input, select, button, canvas')].filter(one =>
            !one.disabled && !one.getAttribute('aria-label') && !one.labels?.length && !one.innerText)
            .map(one => one.className)""",
    )
    assert nameless == []
    words = page.locator(".ep-picture").get_attribute("aria-label")
    assert "17 by 17 pixels, rows 88 to 104, columns 120 to 136" in words
    assert "28 % of its pixels are read" in words
    page.locator(".ep-preset").focus()
    order = []
    for _ in range(7):
        order.append(page.evaluate("document.activeElement.className"))
        page.keyboard.press("Tab")
    assert order[:6] == ["ep-preset", "ep-mode", "ep-picture", "ep-row", "ep-column", "ep-zoom"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_and_zoomed_pages(page, screenshot, scheme):
    if scheme == "dark":
        page.add_style_tag(
            content="body { background: #111; --jp-ui-font-color1: #ffffffde; --jp-ui-font-color2: #ffffffb3;"
            "--jp-layout-color1: #111111; --jp-layout-color2: #424242; --jp-border-color1: #616161; }"
        )
    for name in ("context", "resnet50"):
        page.locator(".ep-preset").select_option(name)
        screenshot(page.locator(ROOT_CLASS), name)
    page.set_viewport_size({"width": 390, "height": 900})
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    screenshot(page.locator(ROOT_CLASS), "narrow")


def test_it_needs_nothing_else(page):
    fetched = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in fetched if re.match("https?:", name)] == []
    assert float(state(page)["lastDrawMs"]) > 0


CELL = """
import ipywidgets
from course_lib.widgets import receptive_field_explorer
explorer = receptive_field_explorer("gridding")
said = ipywidgets.Label()
def say(_):
    said.value = f"field {explorer.describe().size}, cell {explorer.cell}, {explorer.mode}, {explorer.preset!r}"
explorer.observe(say, ["layers", "cell", "mode", "preset"])
wider = ipywidgets.Button(description="wider")
wider.on_click(lambda _: explorer.set_trait("layers", [{**row, "dilation": 4} for row in explorer.layers]))
ipywidgets.VBox([explorer, said, wider])
"""


def test_in_jupyterlab_python_follows_and_leads_and_may_die(lab, screenshot):
    notebook = lab("1", CELL)
    page = notebook.page
    page.locator(ROOT_CLASS).wait_for()
    assert_shows(page, PRESETS["gridding"]["layers"])
    assert page.locator(".widget-label", has_text="field").count() == 0  # looking changes nothing
    page.locator(".ep-picture").focus()
    page.keyboard.press("ArrowDown")
    page.locator(".widget-label", has_text="field 17, cell [97, 128], paths, 'gridding'").wait_for()
    page.locator("input.ep-dilation").first.fill("3")
    page.locator(".widget-label", has_text="field 19, cell [97, 128], paths, ''").wait_for()
    page.get_by_role("button", name="wider").click()
    page.wait_for_function("document.querySelector('.ep-field-explorer').dataset.size === '33'", timeout=10_000)
    assert page.locator("input.ep-dilation").first.input_value() == "4"
    screenshot(page.locator(ROOT_CLASS), "lab")
    notebook.end_kernel()
    page.locator("input.ep-kernel").first.fill("5")
    page.locator(".ep-picture").click(position={"x": 40, "y": 40})
    rows = [conv(5, dilation=4)] + [conv(3, dilation=4) for _ in range(3)]
    assert state(page)["size"] == "41"
    assert_shows(page, rows, tuple(map(int, state(page)["cell"].split(","))))
