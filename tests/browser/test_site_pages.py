"""Pages of the site in a browser, at the widths of a window and of a phone: menus, figures, dark colours."""

import base64
import io
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from course_lib.experiments.report.pages import scoreboard_html
from course_lib.plumbing.paths import ROOT
from tests.test_site import load

WIDTHS = (1300, 390)
ARTICLE = load("prepare").ARTICLE
CODE = "x = " + "1" * 84
"""A line of 88 characters, the longest that notebooks have."""


def figure(width: int, height: int) -> nbformat.NotebookNode:
    data = io.BytesIO()
    Image.new("RGB", (width, height), (250, 10, 185)).save(data, "PNG")
    png = base64.b64encode(data.getvalue()).decode()
    metadata = {"image/png": {"alt": f"A figure of {width} pixels"}}
    return new_output("display_data", data={"image/png": png}, metadata=metadata)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A site of one notebook, built as `course site` does; the folder of its pages."""
    folder = tmp_path_factory.mktemp("site")
    source, target = folder / "docs", folder / "html"
    cells = [
        new_markdown_cell("# 01 Pages\n\n**What is on a page?**\n\n## A heading"),
        new_code_cell(CODE, outputs=[figure(1232, 300)], execution_count=1),
        new_code_cell("draw()", outputs=[figure(400, 300)], execution_count=2, metadata={"tags": ["hide-input"]}),
        new_markdown_cell("| " + " | ".join(["a wide column"] * 12) + " |\n" + "|---" * 12 + "|\n" + "| 1 " * 12 + "|"),
    ]
    (folder / "executed").mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "executed" / "01_pages.ipynb")
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("notebooks", "generated", "__pycache__"))
    for page in [source / "api.rst", *(source / "explorers").glob("*.md")]:  # the slow ones
        page.write_text("A page\n======\n", encoding="utf-8")
    load("prepare").prepare(folder / "executed", source / "notebooks", folder / "no course")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        "-D",
        "exclude_patterns=generated/*,notebooks/g*,notebooks/c*",
    ]
    subprocess.run([*command, str(source), str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(params=WIDTHS)
def page(request, context, pages):
    """The notebook's page in a window of that width."""
    opened = context.new_page()
    opened.set_viewport_size({"width": request.param, "height": 900})
    opened.goto((pages / "notebooks" / "01_pages.html").as_uri())
    yield opened
    opened.close()


def width_of(page) -> int:
    return page.viewport_size["width"]


def sideways(page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_the_menu_button_shows_and_hides_the_menu(page):
    sidebar, phone = page.locator(".bd-sidebar-primary").first, width_of(page) == 390
    inside = page.locator("dialog .sidebar-primary-items__start, .bd-sidebar-primary").first
    shown = page.locator("nav[aria-label] a:has-text('01 Pages'):visible, .bd-links a:has-text('01 Pages'):visible")
    assert (shown.count() > 0) is not phone
    page.locator(
        ".article-header-buttons .primary-toggle:visible, .header-article-item .primary-toggle:visible"
    ).first.click()
    page.wait_for_timeout(400)
    assert (shown.count() > 0) is phone, (sidebar.is_visible(), inside.is_visible())


def test_the_contents_button_shows_the_headings(page):
    button = page.locator(".secondary-toggle:visible")
    assert button.count() > 0
    button.first.click()
    page.locator("a[href='#a-heading']:visible").first.wait_for(timeout=2000)


def test_the_page_is_not_wider_than_the_window(page):
    assert sideways(page) == 0


def test_code_of_88_characters_fits_a_window_and_what_scrolls_says_so(page):
    block = page.locator(".cell_input pre").first
    over = block.evaluate("pre => pre.scrollWidth - pre.clientWidth")
    assert (over > 0) is (width_of(page) == 390)
    page.wait_for_timeout(100)
    assert ("more-right" in (block.get_attribute("class") or "")) is (over > 0)


def test_figures_have_a_text_and_open_by_click_and_key(page):
    wide = page.get_by_role("button", name="A figure of 1232 pixels")
    box = wide.bounding_box()
    if width_of(page) == 1300:
        assert box["width"] >= ARTICLE
    wide.click()
    dialog = page.locator("dialog.ep-lightbox")
    assert dialog.is_visible()
    shown = dialog.locator("img").bounding_box()
    if width_of(page) == 1300:
        assert 0.9 * 1300 <= shown["width"] <= 1300
    else:  # at its own size, in a box that scrolls
        assert shown["width"] == 1232
        assert dialog.locator("div").evaluate("box => box.scrollWidth > box.clientWidth")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.get_by_role("button", name="A figure of 400 pixels").press("Enter")
    assert dialog.is_visible()
    dialog.locator("button").click()
    assert not dialog.is_visible()


def test_code_that_draws_is_folded(page):
    assert page.get_by_text("show the code of this figure").is_visible()
    assert not page.get_by_text("draw()").is_visible()
    page.get_by_text("show the code of this figure").click()
    assert page.get_by_text("draw()").is_visible()


LUMINANCE = r"""element => {
    const channels = colour => colour.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let ground = element;
    while (channels(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
        .map(colour => light(channels(colour)));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cards_can_be_read_and_figures_keep_their_colours(context, pages, theme):
    page = context.new_page()
    try:
        page.emulate_media(color_scheme=theme)
        page.goto((pages / "index.html").as_uri())
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        for selector in (".gallery .card strong", ".gallery .card p", ".bd-article p a"):
            assert page.locator(selector).first.evaluate(LUMINANCE) >= 4.5, selector
        picture = page.locator(".gallery .card img")
        assert picture.evaluate("image => getComputedStyle(image).filter") == "none"
        page.goto((pages / "notebooks" / "01_pages.html").as_uri())
        style = page.locator(".cell_output img").first.evaluate(
            "image => [getComputedStyle(image).filter, getComputedStyle(image).backgroundColor]"
        )
        assert style[0] == "none"
        assert theme == "light" or style[1] == "rgb(255, 255, 255)"
    finally:
        page.close()


def test_the_search_finds_a_synonym(context, pages):
    page = context.new_page()
    page.goto((pages / "search.html").as_uri() + "?q=ELBO")
    page.locator("#search-results a[href*='term-ELBO']").first.wait_for(timeout=5000)
    page.close()


@pytest.mark.parametrize("width", [704, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_scoreboard_fits_a_column_and_a_phone(context, tmp_path, width, theme):
    """At most 6,000 pixels high, nothing sideways, and every word of a verdict with a contrast of 4.5 or more."""
    ground = "#fff;color:#222832" if theme == "light" else "#14181e;color:#ced6dd"
    body = f"<body style='margin:8px;font:16px/1.5 sans-serif;background:{ground}'>{scoreboard_html()}"
    file = tmp_path / "scoreboard.html"
    file.write_text(f"<!doctype html><html data-theme={theme}><meta charset=utf-8>{body}", encoding="utf-8")
    opened = context.new_page()
    opened.set_viewport_size({"width": width, "height": 900})
    opened.goto(file.as_uri())
    assert sideways(opened) == 0
    assert opened.evaluate("document.documentElement.scrollHeight") <= 6000
    assert min(opened.eval_on_selector_all(".claims .v", f"words => words.map({LUMINANCE})")) >= 4.5
    opened.close()
