"""Figures: the right colours in the right places, named, told apart by everyone, and none left open."""

import io
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from course_lib import plotting
from course_lib.data.camvid import CamVid, CamVidObjects
from course_lib.data.cityscapes import Cityscapes, CityscapesObjects
from course_lib.data.isbi_em import IsbiEM
from course_lib.data.penn_fudan import PennFudan
from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Objects, Street, Surroundings
from course_lib.data.voc import VOC2012
from course_lib.metrics import ConfusionMatrix
from course_lib.plumbing.alt_text import smallest_text

CLASSES = ("left", "middle", "right")
PALETTE = torch.tensor([[10, 20, 30], [200, 100, 0], [0, 90, 250]], dtype=torch.uint8)


@pytest.fixture
def labels():
    """(4, 6): class 0, class 1, and a column that is ignored; class 2 does not occur."""
    labels = torch.zeros(4, 6, dtype=torch.int64)
    labels[:, 3:] = 1
    labels[:, 5] = IGNORE
    return labels


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def rendered(figure: Figure) -> bytes:
    """The figure as PNG: it must draw without a warning."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def legend_of(figure: Figure) -> dict[str, tuple[float, ...]]:
    """The names in a figure's legend with their colours."""
    (legend,) = figure.legends
    return {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }


def colour(picture: torch.Tensor, row: int, column: int) -> list[int]:
    return picture[:, row, column].tolist()


# -- pictures ---------------------------------------------------------------------------------------


def test_labels_get_the_colours_of_the_palette_and_void_is_white(labels):
    picture = plotting.colourise(labels, PALETTE)
    assert picture.shape == (3, 4, 6)
    assert picture.dtype == torch.uint8
    assert colour(picture, 0, 0) == [10, 20, 30]
    assert colour(picture, 2, 3) == [200, 100, 0]
    assert colour(picture, 1, 5) == [255, 255, 255]


def test_an_error_map_shows_right_wrong_and_void(labels):
    prediction = torch.zeros(4, 6, dtype=torch.int64)
    picture = plotting.error_map(prediction, labels)
    assert colour(picture, 0, 0) == list(plotting.RIGHT)
    assert colour(picture, 0, 4) == list(plotting.WRONG)
    assert colour(picture, 0, 5) == list(plotting.VOID) == [255, 255, 255]
    assert picture.dtype == torch.uint8


def test_pictures_of_samples_can_be_painted():
    """Samples hold torchvision's own tensor types."""
    sample = Objects(2, (40, 48), void_border=2)[1]
    for picture in (
        plotting.colourise(sample.labels, Objects.palette),
        plotting.error_map(sample.labels, sample.labels),
    ):
        assert picture.shape == (3, 40, 48)
        assert picture.dtype == torch.uint8
    wrong = torch.tensor(plotting.WRONG)[:, None, None]
    assert not (plotting.error_map(sample.labels, sample.labels) == wrong).all(dim=0).any()


# -- figures ----------------------------------------------------------------------------------------


def test_a_gallery_names_the_classes_that_occur():
    scenes = Street(6, (48, 64), seed=1)
    figure = plotting.gallery(scenes, [4, 1], "Streets")
    assert rendered(figure)
    seen = torch.cat([scenes[index].labels.unique() for index in (4, 1)]).unique().tolist()
    names = legend_of(figure)
    assert list(names) == [scenes.classes[value] for value in seen]
    for name, shown in names.items():
        expected = scenes.palette[scenes.classes.index(name)] / 255
        assert shown == pytest.approx(expected.tolist())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["street-4", "street-1", "", ""]
    assert figure.get_suptitle() == "Streets"
    drawn = figure.axes[0].images[0].get_array()
    assert np.array_equal(drawn, scenes[4].image.permute(1, 2, 0).numpy())


def test_ignored_pixels_are_named_in_the_legend(labels):
    figure, _ = plotting.new_figure(1, 1, 3, 3)
    plotting.add_legend(figure, CLASSES, PALETTE, [labels])
    assert list(legend_of(figure)) == ["left", "middle", "ignored"]
    assert legend_of(figure)["ignored"] == (1, 1, 1)


def test_a_comparison_says_which_share_is_wrong(labels):
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    predictions = {"all left": torch.zeros(4, 6).long(), "all right": torch.full((4, 6), 2)}
    figure = plotting.compare(image, labels, predictions, CLASSES, PALETTE, "Who is right?")
    assert rendered(figure)
    assert [axes.get_title() for axes in figure.axes] == [
        "image",
        "all left",
        "all right",
        "ground truth",
        "wrong: 40.0 % of pixels",
        "wrong: 100.0 % of pixels",
    ]
    assert list(legend_of(figure)) == ["left", "middle", "right", "ignored", "right pixel", "wrong pixel"]
    assert legend_of(figure)["wrong pixel"] == pytest.approx(tuple(value / 255 for value in plotting.WRONG))


def test_curves_have_names_axes_and_the_values():
    lines = {"one": [3.0, 2.0, 1.0], "two": ([10, 20], [5.0, 6.0])}
    figure = plotting.curves(lines, x="step", y="loss", title="Falling")
    assert rendered(figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "loss", "Falling")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    first, second = axes.lines
    assert first.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert second.get_xydata().tolist() == [[10, 5], [20, 6]]
    assert first.get_marker() != second.get_marker()


def test_smoothing_is_a_running_mean():
    figure = plotting.curves({"loss": [1, 2, 3, 4, 5, 6]}, x="step", y="loss", smooth=3)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[3, 2], [4, 3], [5, 4], [6, 5]])
    assert figure.axes[0].get_legend() is None  # one line needs no name


def test_many_curves_stay_apart():
    lines = {str(index): [index, index] for index in range(20)}
    drawn = plotting.curves(lines, x="x", y="y").axes[0].lines
    styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn}
    assert len(styles) == 20


def test_bars_stand_at_their_values_and_missing_ones_say_so():
    groups = {"first": {"car": 0.25, "pole": None}, "second": {"car": 0.5, "pole": 0.75, "sky": 1}}
    figure = plotting.bars(groups, y="IoU", title="Per class")
    assert rendered(figure)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["car", "pole", "sky"]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    assert heights == [[0.25, 0, 0], [0.5, 0.75, 1]]
    written = [text.get_text() for text in axes.texts]
    assert written == ["0.25", "n/a", "n/a", "0.50", "0.75", "1.00"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert axes.get_ylabel() == "IoU"


def test_values_of_bars_do_not_run_into_each_other():
    told = ("road", "pavement", "building")
    figure = plotting.bars({str(way): dict.fromkeys(told, 90.26) for way in range(5)}, y="right pixels, %")
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.x0)
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert plotting.bars({"a": {"b": -0.001}}, y="points").axes[0].texts[0].get_text() == "0.00"


def test_the_confusion_matrix_shows_shares_of_the_true_class():
    matrix = ConfusionMatrix.from_counts([[6, 4, 0], [2, 18, 0], [0, 0, 0]])
    figure = plotting.confusion(matrix, CLASSES, "Confusions")
    assert rendered(figure)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.6, 0.4, 0], [0.1, 0.9, 0], [0, 0, 0]], atol=1e-12)
    assert [text.get_text() for text in axes.texts] == ["60", "40", "10", "90"]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(CLASSES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_heat_maps_and_numbers_draw_alone_and_into_axes(labels):
    heat = plotting.heat(torch.rand(4, 6), label="metres", title="Depth")
    assert rendered(heat)
    assert heat.axes[0].get_title() == "Depth"
    assert heat.axes[1].get_ylabel() == "metres"
    small = labels.clamp(max=2)
    written = plotting.numbers(small, palette=PALETTE, title="Labels")
    assert rendered(written)
    texts = [text.get_text() for text in written.axes[0].texts]
    assert texts == [str(value) for value in small.flatten().tolist()]
    assert rendered(plotting.numbers(torch.zeros(2, 2), style="{:.1f}"))
    figure, axes = plotting.new_figure(1, 2, 4, 2)
    assert plotting.heat(torch.rand(3, 3), label="x", axes=axes[0, 0]) is None
    assert plotting.numbers(torch.rand(3, 3), axes=axes[0, 1]) is None
    assert rendered(figure)


def test_numbers_can_be_read_on_dark_and_on_light_cells():
    palette = torch.tensor([[0, 0, 0], [255, 255, 255]], dtype=torch.uint8)
    figure = plotting.numbers(torch.tensor([[0, 1]]), palette=palette)
    assert [text.get_color() for text in figure.axes[0].texts] == ["white", "black"]


# -- on a page --------------------------------------------------------------------------------------

ARTICLE = 870
"""Pixels that a page has for a figure, at a window of 1300 (tests/browser/test_site_pages.py measures it)."""

MANY = torch.arange(21).repeat_interleave(8).reshape(12, 14)


def every_figure() -> dict[str, Figure]:
    """A figure of each function, as wide as it gets in the course or wider."""
    streets = Street(6, (48, 64), seed=1)
    sample = streets[0]
    names = [f"class {index}" for index in range(21)]
    predictions = {f"network {index}": sample.labels for index in range(6)}
    return {
        "gallery": plotting.gallery(streets, [0, 1, 2, 3, 4, 5], "Streets"),
        "compare": plotting.compare(sample.image, sample.labels, predictions, streets.classes, streets.palette),
        "curves": plotting.curves({"a": [1, 2], "b": [2, 1]}, x="step", y="loss", title="Falling"),
        "bars": plotting.bars({"a": dict.fromkeys(names, 0.5), "b": dict.fromkeys(names, 0.5)}, y="IoU", title="IoU"),
        "few bars": plotting.bars({"FCN": {"Sky": 0.5, "Road": None}}, y="IoU"),
        "confusion": plotting.confusion(ConfusionMatrix.from_counts(torch.eye(21).tolist()), names),
        "heat": plotting.heat(MANY, label="paths"),
        "numbers": plotting.numbers(MANY),
        "differences": plotting.differences(names, [1.0] * 21, [0.5] * 21, x="difference of mIoU"),
        "boxes": plotting.boxes(sample.image, {"seen": (1, 1, 9, 9)}),
        "simplex": plotting.simplex({"one": torch.eye(3)[:, None]}, CLASSES),
        "by hand": plotting.new_figure(3, 8, 16, 3)[0],
    }


def test_no_text_is_under_nine_pixels_on_a_page():
    small = {}
    for name, figure in every_figure().items():
        figure.canvas.draw()
        data = io.BytesIO()
        figure.savefig(data, format="png", bbox_inches="tight")  # as notebooks do
        width = int.from_bytes(data.getvalue()[16:20], "big")
        pixels = smallest_text(figure) * figure.dpi / 72 * min(1, ARTICLE / width)
        small |= {name: (round(pixels, 1), width)} if pixels < 9 or width > 1.5 * ARTICLE else {}
    assert small == {}


def test_maps_to_be_compared_can_share_their_colours():
    axes = plotting.new_figure(1, 2, 6, 3)[1]
    for panel, scale in zip(axes[0], (1, 2), strict=True):
        plotting.heat(scale * torch.eye(3), label="value", axes=panel, low=0, high=2)
    assert [panel.images[0].get_clim() for panel in axes[0]] == [(0, 2), (0, 2)]


# -- colours that everyone can tell apart -----------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) / np.array(
    [[0.9505], [1.0], [1.089]]
)


def test_boxes_stand_around_their_pixels():
    picture = torch.zeros(3, 10, 12, dtype=torch.uint8)
    figure = plotting.boxes(picture, {"small": (2, 3, 5, 7), "all": (0, 0, 10, 12)}, title="seen")
    small, everything = figure.axes[0].patches
    assert (*small.get_xy(), small.get_width(), small.get_height()) == (2.5, 1.5, 4, 3)
    assert (*everything.get_xy(), everything.get_width(), everything.get_height()) == (-0.5, -0.5, 12, 10)
    assert small.get_edgecolor() != everything.get_edgecolor()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "all"]
    rendered(figure)
    _, axes = plotting.new_figure(1, 1, 3, 3)
    assert plotting.boxes(picture, {"one": (1, 1, 2, 2)}, axes=axes[0, 0]) is None
    assert len(axes[0, 0].patches) == 1


def test_a_simplex_puts_certainty_at_the_corners():
    corners = torch.eye(3)[:, None]  # three lines of one point: dots
    line = torch.tensor([[[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]])
    figure = plotting.simplex({"sure": corners, "unsure": line}, CLASSES, title="three classes")
    _, *dots, drawn = figure.axes[0].lines
    names = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert tuple(names) == CLASSES
    for dot, corner in zip(dots, names.values(), strict=True):
        assert dot.get_xydata()[0] == pytest.approx(corner)
    assert drawn.get_xydata() == pytest.approx(np.array([[0.5, 0], [0.5, 0.75**0.5 / 3]]))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["sure", "unsure"]
    assert dots[0].get_color() != drawn.get_color()
    rendered(figure)
    _, axes = plotting.new_figure(1, 1, 3, 3)
    assert plotting.simplex({"line": line}, CLASSES, axes=axes[0, 0]) is None


def test_regions_that_ran_together_have_one_colour():
    labels = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1, 1, 0, 1, 0, 1, 1]])
    truth = plotting.paint_regions(labels, labels)
    left, middle, right = truth[:, 0, 0], truth[:, 0, 3], truth[:, 0, 6]
    assert len({tuple(colour.tolist()) for colour in (left, middle, right)}) == 3
    assert not truth[:, :, [2, 4]].any()
    merged = torch.tensor([[1, 1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 0, 0, 1]])
    painted = plotting.paint_regions(merged, labels)
    assert torch.equal(painted[:, 0, :4], left[:, None].expand(3, 4))  # that of the larger
    assert torch.equal(painted[:, 0, 5], right)  # broken apart: both pieces are the true one's
    assert torch.equal(painted[:, 1, 6], right)
    assert not painted[:, 0, 4].any()


def seen_colours(colours: np.ndarray, vision: str) -> np.ndarray:
    """Colours (n, 3) in 0..1 as CIELAB (n, 3), as someone with that vision sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(VISION[vision] @ linear.T, 0, 1)
    f, g, h = (np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116) for part in (x, y, z))
    return np.stack([116 * g - 16, 500 * (f - g), 200 * (g - h)], axis=1)


def closest(colours: np.ndarray, vision: str) -> float:
    """The smallest CIELAB distance between two of the colours; about 2.3 is just noticed."""
    lab = seen_colours(colours, vision)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return float(distances[np.triu_indices(len(lab), 1)].min())


def test_the_distance_is_the_textbooks():
    red_and_green = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    np.testing.assert_allclose(seen_colours(red_and_green, "usual")[0], [53.2, 80.1, 67.2], atol=0.2)
    assert closest(red_and_green, "usual") > 2 * closest(red_and_green, "deuteranopia")


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("family", [Street, Objects])
def test_classes_can_be_told_apart(family, vision):
    threshold = 15 if family is Objects else 19
    assert closest(family.palette.numpy() / 255, vision) > threshold


@pytest.mark.parametrize("vision", VISION)
def test_lines_and_errors_can_be_told_apart(vision):
    lines = np.array([to_rgb(name) for name in plotting.COLOURS])
    assert closest(lines, vision) > 14
    kinds = np.array([plotting.RIGHT, plotting.WRONG, plotting.VOID]) / 255
    assert closest(kinds, vision) > 10


@pytest.mark.parametrize("vision", VISION)
def test_the_colour_of_errors_is_that_of_no_class(vision):
    sets = (CamVid, CamVidObjects, Cityscapes, CityscapesObjects, VOC2012, IsbiEM, PennFudan, Objects, Surroundings)
    palettes = torch.cat([dataset.palette for dataset in sets]).unique(dim=0).numpy() / 255
    wrong, *classes = seen_colours(np.concatenate([[np.array(plotting.WRONG) / 255], palettes]), vision)
    assert np.linalg.norm(np.array(classes) - wrong, axis=1).min() > 15


def test_names_stand_beside_their_dots_and_cover_nothing():
    figure, ((axes,),) = plotting.new_figure(1, 1, 4.0, 3.0)
    dots = {"one": (1.0, 1.0), "its neighbour": (1.05, 1.02), "the third": (1.0, 1.06), "at the edge": (1.96, 1.9)}
    axes.set(xlim=(0, 2), ylim=(0, 2))
    plotting.name_dots(axes, dots, halves={"one": 0.4})
    figure.draw_without_rendering()
    named = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert list(named) == list(dots)
    frame = axes.get_window_extent()
    for name, box in named.items():
        assert Bbox.union([box, frame]).bounds == frame.bounds
        places = axes.transData.transform(list(dots.values()))
        assert not any(box.contains(*place) for place in places)
        away = np.linalg.norm(places - np.clip(places, box.min, box.max), axis=1) / figure.dpi
        assert away.argmin() == list(dots).index(name)
        assert away.min() < 0.5  # inches
    assert not any(one.overlaps(other) for one, other in combinations(named.values(), 2))
    bar = Bbox(axes.transData.transform([(1.0, 0.6), (1.0, 1.4)]))
    assert not any(box.x0 < bar.x0 < box.x1 and box.y0 < bar.y1 and box.y1 > bar.y0 for box in named.values())
