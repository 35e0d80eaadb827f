"""The explorers in JupyterLab and on pages of the site: from a control's move to the picture, the median of 30 by key.

On the pages also looking for a code ("Refine the code" in the latent explorer), in all its pictures.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Result
from course_lib.widgets.receptive_field import live_html
from docs.live_pages import PAGES
from tests.browser.lab import Server, browser, chromium, widget_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Locator

MOVES = 30
LATENT = """
import torch
from course_lib.data.scenes import Street
from course_lib.models.cvae import CVAE
from course_lib.widgets import latent_explorer
torch.manual_seed(0)
model = CVAE(11, width=16, code_size=32, size=(96, 128))
latent_explorer(model, Street(2, (96, 128), seed=0))
"""
ALPHA = """
import torch
from course_lib.data.scenes import Street
from course_lib.widgets import alpha_explorer
streets = Street(2, (96, 128), seed=0)
logits, ancillary = torch.randn(2, 11, 96, 128, generator=torch.Generator().manual_seed(0))
explorer = alpha_explorer(logits, ancillary, streets[0].labels, classes=streets.classes, palette=streets.palette)
explorer
"""
NETWORK = """
from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model
from course_lib.experiments.table import resolve
from course_lib.widgets import fcn_explorer
recipe = resolve("fcn_skips", "fcn8s", "quick")
streets = Street(3, (recipe.height, recipe.width), seed=9)
fcn_explorer(build_model(recipe, len(streets.classes)).eval(), streets)
"""
FIELD = """
from course_lib.widgets import receptive_field_explorer
receptive_field_explorer()
"""


def small(name: str) -> str:
    return f"from course_lib.widgets import {name}\n{name}()"


# name: cell, slider or choice, milliseconds at most
SUBJECTS = {
    "latent explorer, 96x128 with 11 classes and a code of 32": (LATENT, '[data-name="move1"] input', 50),
    "self-correction explorer, 96x128 with 11 classes": (ALPHA, '[data-name="alpha"] input', 50),
    "transposed convolution explorer": (small("transposed_explorer"), '[data-name="row"] input', 50),
    "unpooling explorer": (small("unpooling_explorer"), '[data-name="row"] input', 50),
    "implicit background explorer": (small("simplex_explorer"), '[data-name="shift"] input', 50),
    "metrics explorer": (small("metrics_explorer"), '[data-name="radius"] input', 50),
    "skips of a network of the page": (NETWORK, '[data-name="skips"] select', 50),
    "receptive field explorer, without the kernel": (FIELD, ".ep-row", 20),
}


ON_PAGES = {
    "latent": '[data-name="move1"] input',
    "alpha": '[data-name="alpha"] input',
    "transposed": '[data-name="row"] input',
    "unpooling": '[data-name="row"] input',
    "simplex": '[data-name="shift"] input',
    "metrics": '[data-name="radius"] input',
    "network": '[data-name="skips"] select',
    "receptive_field": ".ep-row",
}
"""A control of each page; "network" is the skips of a network that has read its picture."""
MOVE, FIELD_MOVE, REFINEMENT = 50, 20, 500
"""Milliseconds at most."""
DRAWN = "([root, n]) => Number(root.dataset.draws) > n"


def measure() -> list[Result]:
    """Nothing where there is no Chromium."""
    if chromium() is None:
        return []
    with tempfile.TemporaryDirectory() as place:
        return [*in_lab(Path(place)), *on_pages(Path(place))]


def in_lab(folder: Path) -> list[Result]:
    """Return the moves of all explorers of one notebook."""
    results = []
    path = widget_notebook(folder / "explorers.ipynb", *(cell for cell, _, _ in SUBJECTS.values()))
    with Server(folder / "jupyter") as server, browser(folder / "chromium") as context:
        notebook = server.open(context, path).run_all()
        for number, (name, (_, slider, target)) in enumerate(SUBJECTS.items()):
            times = moves(notebook.find("[data-draws]").nth(number), slider)
            results.append(median(f"slider to picture: {name}", times, target))
        notebook.close()
    return results


def on_pages(folder: Path) -> list[Result]:
    """Return the moves of each explorer on a page of its own, opened from a file, and the refinements."""
    results = []
    with browser(folder / "pages") as context:
        for name, control in ON_PAGES.items():
            page = context.new_page()
            page.goto(write_page(folder, name).as_uri())
            if (closed := page.locator(".ep-closed button")).count():
                closed.click()
            root = page.locator(".ep-live > [data-draws]")
            root.wait_for()
            target = FIELD_MOVE if name == "receptive_field" else MOVE
            results.append(median(f"on a page: {name.replace('_', ' ')} explorer", moves(root, control), target))
            if name == "latent":
                results.append(median("on a page: refining a code", refinements(root), REFINEMENT))
            page.close()
    return results


def write_page(folder: Path, name: str) -> Path:
    """Write an explorer of the site as a page of its own, with its data beside it."""
    if name == "receptive_field":
        piece = live_html("context")
    else:
        if name == "alpha":  # on the site it is in a lecture, which trains
            exec(ALPHA, space := {})
        explorer = space["explorer"] if name == "alpha" else PAGES[name][0]()
        piece = explorer.live_html(name, files=folder / "data", address="data/")
    path = folder / f"{name}.html"
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{piece}', encoding="utf-8")
    return path


def median(name: str, times: list[float], target: float) -> Result:
    """Return a line of milliseconds."""
    details = {"fastest (ms)": min(times), "slowest (ms)": max(times)}
    return Result(name, statistics.median(times), "ms", target, details, at_most=True)


def after(root: "Locator", change: Callable[[], object]) -> float:
    """Do something, wait until the explorer has drawn, and return the milliseconds that it writes down itself."""
    before = int(root.get_attribute("data-draws"))
    change()
    root.page.wait_for_function(DRAWN, arg=[root.element_handle(), before])
    return root.evaluate("one => Number(one.dataset.lastMoveMs ?? one.dataset.lastDrawMs)")


def moves(root: "Locator", selector: str) -> list[float]:
    """Return the milliseconds of each move of a slider or a choice."""
    root.wait_for()
    control = root.locator(selector).first
    control.focus()
    keys = ("ArrowLeft", "ArrowRight") if control.evaluate("one => one.type") == "range" else ("ArrowUp", "ArrowDown")
    times = [after(root, lambda key=keys[move % 2]: control.press(key)) for move in range(MOVES + 3)]
    return times[3:]  # the first ones warm it up


def refinements(root: "Locator") -> list[float]:
    """Return the milliseconds of "Refine the code" in each picture, told each class that it has."""
    press = {name: root.get_by_role("button", name=name) for name in ("Forget", "Tell all", "Refine")}
    picture, told = root.locator('[data-name="picture"] input'), root.locator('[data-name="told"] select')
    times = []
    for number in range(int(picture.get_attribute("max")) + 1):
        after(root, lambda number=number: picture.fill(str(number)))
        for label in told.locator("option").all_inner_texts():
            if told.input_value() != label:
                after(root, lambda label=label: told.select_option(label))
            after(root, press["Forget"].click)
            after(root, press["Tell all"].click)
            if root.get_attribute("data-state") == "ok":  # else the picture has nothing of the class
                times.append(after(root, press["Refine"].click))
    return times
