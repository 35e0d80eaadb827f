"""Figures in words, made of their titles, axes, legends and bars."""

import pytest
import torch

from course_lib import plotting
from course_lib.plumbing.alt_text import alt_text

LABELS = torch.tensor([[0, 0, 1, 255], [0, 1, 1, 255]])
CLASSES = ("left", "middle", "right")
PALETTE = torch.tensor([[10, 20, 30], [200, 100, 0], [0, 90, 250]], dtype=torch.uint8)


def test_a_notebook_keeps_the_description_of_a_figure():
    figure = plotting.bars({"FCN-8s": {"Sky": 0.875, "Pole": 0.25}}, y="IoU", title="IoU by class")
    data, metadata = figure._repr_mimebundle_()
    assert data == {}  # the picture itself is the backend's
    assert metadata["image/png"]["alt"] == "IoU by class. Bars of IoU: FCN-8s: Sky 0.875, Pole 0.25."
    assert metadata["image/png"]["text_px"] == pytest.approx(8.5 * 110 / 72, abs=0.1)


def test_descriptions_name_panels_axes_and_legends():
    image = torch.zeros(3, 2, 4, dtype=torch.uint8)
    compared = alt_text(plotting.compare(image, LABELS, {"FCN": LABELS}, CLASSES, PALETTE, "Who is right?"))
    assert compared == (
        "Who is right? 4 panels: image; FCN; ground truth; wrong: 0.0 % of pixels. "
        "Legend: left, middle, ignored, right pixel, wrong pixel."
    )
    lines = alt_text(plotting.curves({"a": [1, 2], "b": [2, 1]}, x="step", y="loss", title="Falling"))
    assert lines == "Falling. Lines: loss over step. Legend: a, b."
    figure, ((axes,),) = plotting.new_figure(1, 1, 3, 3)
    axes.imshow(torch.rand(2, 2).numpy())
    axes.plot([0, 1], [0, 1])
    axes.set(xlabel="width", ylabel="height")
    assert alt_text(figure) == "Axes: height over width."
    assert alt_text(plotting.heat(torch.rand(4, 6), label="paths", title="Field")) == "Field. Colours show: paths."


def test_whole_numbers_on_bars_stay_whole():
    figure = plotting.bars({"claims": {"seen here": 12, "open": 3}}, y="claims")
    assert [text.get_text() for text in figure.axes[0].texts] == ["12", "3"]
