"""JupyterLab in a headless Chromium. Screenshots go to build/browser/."""

import re

import pytest

from course_lib.plumbing.paths import ROOT, build_root
from tests.browser.lab import Server, browser, chromium, widget_notebook

NEEDED = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on the path: apt-get install chromium (or chromium-browser, google-chrome)"
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "browser"):
            item.add_marker(NEEDED)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("jupyter")) as started:
        yield started


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A Chromium for the tests of one file: Playwright's event loop ends with it."""
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def lab(server, context):
    """`lab(cell, cell)` opens a notebook of these code cells, runs it and returns it.

    `interface="notebook"` takes Notebook 7 instead of JupyterLab.
    """
    opened = []

    def open_and_run(*cells, interface="lab", seconds=180):
        path = widget_notebook(server.folder / f"cells{len(list(server.work.iterdir()))}.ipynb", *cells)
        opened.append(server.open(context, path, interface))
        return opened[-1].run_all(seconds)

    yield open_and_run
    complaints = [complaint for notebook in opened for complaint in notebook.complaints]
    for notebook in opened:
        notebook.close()
    assert complaints == []


@pytest.fixture
def screenshot(request):
    """`screenshot(locator, "name")` keeps a picture in build/browser/<test>-name.png and returns its path."""
    folder = build_root() / "browser"
    folder.mkdir(parents=True, exist_ok=True)

    def take(locator, name):
        test = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
        path = folder / f"{test}-{name}.png"
        locator.screenshot(path=path)
        return path

    return take
