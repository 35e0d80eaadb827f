"""The whole site as `course site` built it, opened from files without a network: its weight, its pages, its explorers.

`make test` runs this behind its last step; by hand: COURSE_SITE=build/site pytest tests/browser/test_built_site.py
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from course_lib.plumbing.paths import ROOT
from tests.browser.lab import browser
from tests.browser.test_site_pages import LUMINANCE

SITE = ROOT / os.environ.get("COURSE_SITE", "no site")
MOST, MOST_OF_A_PAGE = 60_000_000, 2_000_000
"""Bytes of all files, and of what a browser loads of one page before its explorer is opened."""
EXPLORED = {"02", "03", "05", "06", "07", "11", "12", "14"}
"""Lectures with explorers that need no kernel."""
SCREENS = {"phone, dark": (390, "dark"), "window, light": (1300, "light")}

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").is_file(), reason="no whole site: COURSE_SITE names the folder where one was built"
)


def pages_of(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


def explored(site: Path) -> list[Path]:
    """Pages with explorers that need no kernel."""
    return [path for path in pages_of(site) if 'class="ep-live"' in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A Chromium that can be touched, and has no network."""
    with browser(tmp_path_factory.mktemp("chromium"), has_touch=True) as opened:
        opened.set_offline(True)
        yield opened


class Opened:
    """A page of the site: what it loads, by file, and what its scripts complain of."""

    def __init__(self, context, path: Path, width: int, scheme: str = "light"):
        self.asked, self.said = {path.as_uri()}, []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.asked.add(re.split("[?#]", request.url)[0]))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", self._hear)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_timeout(100)

    def _hear(self, message) -> None:
        if message.type == "error" and "Resetting to auto" not in message.text:  # the theme, where nobody has chosen
            self.said.append(message.text)

    def weight(self) -> int:
        files = [Path(unquote(urlparse(address).path)) for address in self.asked if address.startswith("file:")]
        return sum(file.stat().st_size for file in files)

    def foreign(self) -> list[str]:
        return [address for address in self.asked if not re.match("file:|data:|blob:", address)]

    def sideways(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_the_site_weighs_at_most_60_mb():
    files = [path for path in SITE.rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix in (".map", ".doctree", ".pickle")] == []
    assert sum(path.stat().st_size for path in files) <= MOST


def test_what_can_be_downloaded_has_a_link_and_is_the_courses_own():
    linked = set()
    for path in pages_of(SITE):
        for address in re.findall(r'href="([^"#]*_sources/[^"]*)"', path.read_text(encoding="utf-8")):
            linked.add((path.parent / unquote(address)).resolve())
    kept = {path.resolve() for path in (SITE / "_sources").rglob("*") if path.is_file()}
    assert linked == kept
    for path in (SITE / "_sources" / "notebooks").rglob("*.ipynb"):
        own = ROOT / "notebooks" / path.relative_to(SITE / "_sources" / "notebooks")
        assert path.read_bytes() == own.read_bytes()


def test_every_page_is_light_and_asks_for_nothing_elsewhere(offline):
    """Counted as it opens in a window: HTML, style, scripts, fonts, and the pictures that are near."""
    heavy, foreign, said = {}, {}, {}
    for path in pages_of(SITE):
        opened = Opened(offline, path, 1300)
        name = path.relative_to(SITE).as_posix()
        heavy[name], foreign[name], said[name] = opened.weight(), opened.foreign(), opened.said
        opened.page.close()
    assert {name: weight for name, weight in heavy.items() if weight > MOST_OF_A_PAGE} == {}
    assert {name: given for name, given in foreign.items() if given} == {}
    assert {name: given for name, given in said.items() if given} == {}
    print(f"the heaviest page: {max(heavy.values()) / 1e6:.2f} MB")


def test_the_lectures_with_explorers_have_them_on_their_pages():
    assert {path.name[:2] for path in explored(SITE) if path.parent.name == "notebooks"} >= EXPLORED
    own = {path.stem for path in explored(SITE) if path.parent.name == "explorers"}
    assert own == {path.stem for path in (ROOT / "docs" / "explorers").glob("*.md")}


def after(root, change) -> None:
    """Do something, and wait until the explorer has drawn."""
    before = int(root.get_attribute("data-draws"))
    change()
    root.page.wait_for_function(
        "([root, n]) => Number(root.dataset.draws) > n", arg=[root.element_handle(), before], timeout=20_000
    )


def tap(canvas, across: float, down: float) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.page.touchscreen.tap(box["x"] + across * box["width"], box["y"] + down * box["height"])


def use(root) -> None:
    """Move the first slider by a key, choose otherwise, and touch the picture that can be painted on."""
    slider = root.locator("input[type=range]").first
    key = "ArrowLeft" if slider.evaluate("one => one.value === one.max") else "ArrowRight"
    after(root, lambda: slider.press(key))
    if (choices := root.locator("select:visible")).count():
        options = choices.first.locator("option").all_inner_texts()
        label = "every class" if "every class" in options else options[1]
        after(root, lambda: choices.first.select_option(label=label))
    if (canvases := root.locator("canvas[tabindex]")).count():
        after(root, lambda: tap(canvases.first, 0.4, 0.6))


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("path", explored(SITE), ids=lambda path: path.stem)
def test_every_explorer_works_on_its_page(offline, screenshot, path, screen):
    """No network and no Python: opened, moved by keys and, where it can be painted on, by a finger."""
    opened = Opened(offline, path, *SCREENS[screen])
    try:
        page = opened.page
        assert opened.weight() <= MOST_OF_A_PAGE
        for closed in reversed(page.locator(".ep-closed button").all()):  # the last first: each goes when it is opened
            closed.press("Enter")
        roots, count = page.locator(".ep-live > [data-draws]"), page.locator(".ep-live").count()
        roots.nth(count - 1).wait_for()  # their data may take a moment
        for number in range(count):
            root = roots.nth(number)
            use(root)
            refused = root.locator(".ep-problem").inner_text() if root.locator(".ep-problem").count() else ""
            assert root.get_attribute("data-state") in ("ok", "notice"), refused
            words = root.locator("figcaption, label, output, li, .ep-words, dt, dd")
            assert min(words.evaluate_all(f"words => words.map({LUMINANCE})")) >= 4.5
            within = root.evaluate("root => root.getBoundingClientRect().right - document.documentElement.clientWidth")
            assert within <= 0
            screenshot(root, f"{number}")
        assert opened.sideways() == 0
        assert opened.foreign() == []
        assert opened.said == []
    finally:
        opened.page.close()
