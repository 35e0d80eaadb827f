"""The explorers in JupyterLab: from a slider's move to the picture, the median of 30 moves by key."""

import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import Result
from tests.browser.lab import OpenNotebook, Server, browser, chromium, widget_notebook

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
alpha_explorer(logits, ancillary, streets[0].labels, classes=streets.classes, palette=streets.palette)
"""
FIELD = """
from course_lib.widgets import receptive_field_explorer
receptive_field_explorer()
"""


def small(name: str) -> str:
    return f"from course_lib.widgets import {name}\n{name}()"


# name: cell, slider, milliseconds at most
SUBJECTS = {
    "latent explorer, 96x128 with 11 classes and a code of 32": (LATENT, '[data-name="move1"] input', 50),
    "self-correction explorer, 96x128 with 11 classes": (ALPHA, '[data-name="alpha"] input', 50),
    "transposed convolution explorer": (small("transposed_explorer"), '[data-name="row"] input', 50),
    "unpooling explorer": (small("unpooling_explorer"), '[data-name="row"] input', 50),
    "implicit background explorer": (small("simplex_explorer"), '[data-name="shift"] input', 50),
    "metrics explorer": (small("metrics_explorer"), '[data-name="radius"] input', 50),
    "receptive field explorer, without the kernel": (FIELD, ".ep-row", 20),
}


def measure() -> list[Result]:
    """Nothing where there is no Chromium."""
    if chromium() is None:
        return []
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = widget_notebook(folder / "explorers.ipynb", *(cell for cell, _, _ in SUBJECTS.values()))
        with Server(folder / "jupyter") as server, browser(folder / "chromium") as context:
            notebook = server.open(context, path).run_all()
            for number, (name, (_, slider, target)) in enumerate(SUBJECTS.items()):
                times = moves(notebook, number, slider)
                details = {"fastest (ms)": min(times), "slowest (ms)": max(times)}
                results.append(
                    Result(f"slider to picture: {name}", statistics.median(times), "ms", target, details, at_most=True)
                )
            notebook.close()
    return results


def moves(notebook: OpenNotebook, number: int, slider: str) -> list[float]:
    """Milliseconds of each move of the explorer `number`, as it writes them down itself."""
    root = notebook.find("[data-draws]").nth(number)
    root.wait_for()
    element, control = root.element_handle(), root.locator(slider).first
    control.focus()
    times = []
    for move in range(MOVES + 3):
        before = int(root.get_attribute("data-draws"))
        control.press("ArrowRight" if move % 2 else "ArrowLeft")
        notebook.page.wait_for_function(
            "([element, before]) => Number(element.dataset.draws) > before", arg=[element, before]
        )
        last = root.evaluate("one => Number(one.dataset.lastMoveMs ?? one.dataset.lastDrawMs)")
        times.append(last)
    return times[3:]  # the first ones warm it up
