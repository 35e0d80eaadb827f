"""The pictures of the README: `python -m docs.pictures`.

Generated streets, committed checkpoints, and the receptive-field explorer in a headless Chromium.
"""

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from course_lib import plotting
from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model
from course_lib.experiments.table import resolve
from course_lib.train import predict
from course_lib.widgets.receptive_field import live_html
from tests.browser.lab import browser

HERE = Path(__file__).parent / "pictures"


def photograph_explorer(path: Path) -> None:
    """Write a picture of the explorer as it is on the site to `path`."""
    with tempfile.TemporaryDirectory() as folder:
        page_file = Path(folder) / "page.html"
        page_file.write_text(f'<!doctype html><meta charset="utf-8">{live_html("gridding")}', encoding="utf-8")
        with browser(Path(folder) / "profile", viewport={"width": 1000, "height": 900}) as context:
            page = context.new_page()
            page.goto(page_file.as_uri())
            root = page.locator(".ep-field-explorer")
            root.wait_for()
            root.locator(".ep-preset").select_option("context")
            shot = page.screenshot(clip={**root.bounding_box(), "height": 840})  # without the list of layers
    Image.open(BytesIO(shot)).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    photograph_explorer(HERE / "explorer.png")
    streets = Street(length=40, size=(192, 256), seed=11)
    figure = plotting.gallery(streets, [0, 1, 4, 5])
    figure.savefig(HERE / "streets.png", dpi=90)

    scenes = Street(length=40, size=(96, 128), seed=2_000_000)
    shown = scenes[12]
    predictions = {}
    for row, name in (("fcn32s", "FCN-32s"), ("fcn16s", "FCN-16s"), ("fcn8s", "FCN-8s")):
        network = build_model(resolve("fcn_skips", row, "quick"), len(scenes.classes))
        predictions[name] = predict(network, shown.image)
    figure = plotting.compare(shown.image, shown.labels, predictions, scenes.classes, scenes.palette)
    figure.savefig(HERE / "fcn_strides.png", dpi=90)
