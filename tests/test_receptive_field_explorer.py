"""The receptive-field explorer: both its languages give the same numbers and pixels, and the right ones."""

import random
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from course_lib.costs import count_parameters
from course_lib.models.dilated import ContextModule
from course_lib.models.drn import DRN
from course_lib.models.unet import UNet
from course_lib.models.vgg import vgg_stages
from course_lib.receptive_field import FieldError, Layer, Upsampling, map_lengths, path_counts, receptive_fields, stack
from course_lib.widgets import receptive_field as explorer
from course_lib.widgets.frame import bundle
from course_lib.widgets.receptive_field import COLOURS, field_panels, field_picture, live_html, receptive_field_explorer
from course_lib.widgets.stacks import PRESETS, conv, describe, flatten, pool, up
from tests.javascript import running

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = bundle("receptive_field")


def random_rows(generator: random.Random, ups: bool = False) -> list[dict]:
    rows = []
    for _ in range(generator.randint(1, 6)):
        kind = generator.random()
        kernel, stride = generator.choice([1, 2, 3, 3, 5, 7]), generator.choice([1, 1, 1, 2, 3])
        if ups and kind < 0.25:
            rows.append(up(generator.choice([2, 3]), generator.randint(1, 9)))
        elif kind < 0.4:
            rows.append(pool(min(kernel, 3), stride, generator.choice([0, 1, None])))
        else:
            rows.append(
                conv(
                    kernel,
                    generator.randint(1, 9),
                    stride=stride,
                    dilation=generator.choice([1, 1, 2, 4]),
                    padding=generator.choice([None, 0, 1, 4]),
                    times=generator.randint(1, 3),
                )
            )
    return rows


def fitting(count: int, size: tuple[int, int], ups: bool = False) -> list[list[dict]]:
    """Stacks that a picture of `size` is large enough for, with maps and fields the explorer shows."""
    generator, found = random.Random(7), []
    while len(found) < count:
        rows = random_rows(generator, ups)
        layers = flatten(rows)
        factor = 1
        for layer in layers:
            factor *= layer.factor if isinstance(layer, Upsampling) else 1
        try:
            longest = max(max(map_lengths(layers, side)) for side in size)
            field = max(len(path_counts(layers, cell)[1]) for cell in range(min(factor, 64)))
        except FieldError:
            continue
        if longest <= 1000 and field <= 2000 and factor <= 64 and (not ups or factor > 1):
            found.append(rows)
    return found


@pytest.fixture(scope="module")
def javascript(tmp_path_factory):
    """Runs lines of JavaScript with the module as `ep` and a value as `given`; returns what they return."""
    with running(MODULE, tmp_path_factory.mktemp("javascript")) as run:
        yield run


# -- the numbers are right ----------------------------------------------------------------------------


def module_of(layers, weight=1.0) -> nn.Sequential:
    """The stack as torch layers of one map, all weights alike, no bias."""
    network = nn.Sequential()
    for layer in layers:
        if isinstance(layer, Upsampling):
            part = nn.ConvTranspose2d(1, 1, layer.factor, stride=layer.factor, bias=False)
        else:
            kernel, stride, padding, dilation = layer
            part = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
        nn.init.constant_(part.weight, weight)
        network.append(part)
    return network.double()


@pytest.mark.parametrize("ups", [False, True])
def test_paths_are_the_gradient_of_equal_weights(ups):
    for rows in fitting(12, (47, 60), ups):
        layers = flatten(rows)
        picture = torch.zeros(1, 1, 47, 60, dtype=torch.float64, requires_grad=True)
        output = module_of(layers)(picture)
        generator = random.Random(len(rows))
        cell = generator.randrange(output.shape[-2]), generator.randrange(output.shape[-1])
        (gradient,) = torch.autograd.grad(output[0, 0, cell[0], cell[1]], picture)
        down, across = (path_counts(layers, place, side)[1] for place, side in zip(cell, (47, 60), strict=True))
        paths = torch.tensor(down, dtype=torch.float64)[:, None] * torch.tensor(across)
        assert torch.equal(gradient[0, 0], paths)


def test_paths_without_borders_fill_the_field():
    layers = [Layer(3, padding=2, dilation=2)] * 3
    first, counts = path_counts(layers, 10)
    assert (first, counts) == (4, [1, 0, 3, 0, 6, 0, 7, 0, 6, 0, 3, 0, 1])
    assert path_counts(layers, 1, 9)[1] == [0, 4, 0, 5, 0, 3, 0, 1, 0]  # by hand, with the border


def test_maps_and_cells_that_are_not_there_are_named():
    with pytest.raises(FieldError, match=r"layer 2 reads 9 cells at once.* only 4"):
        map_lengths([Layer(2, 2), Layer(9)], 8)
    with pytest.raises(FieldError, match="cell 4 is not among the 4"):
        path_counts([Layer(2, 2)], 4, 8)


def test_presets_are_the_networks_they_name():
    traced = {
        "alexnet": (torchvision.models.alexnet().features, None),
        "vgg16": (nn.Sequential(*vgg_stages(width=64)), None),
        "resnet50": (torchvision.models.resnet50(), "layer4"),
        "unet": (UNet(2, padding="same"), ""),
        "drn_a18": (DRN(19, arch="A-18"), "levels"),
        "drn_c26": (DRN(19, arch="C-26"), "levels"),
    }
    for name, (network, layer) in traced.items():
        fields = receptive_fields(network, (192, 256))
        field = fields[layer if layer is not None else list(fields)[-1]]
        found = describe(PRESETS[name]["layers"], (192, 256))
        assert (found.size, found.jump) == (field.size, field.jump), name
        if name in ("alexnet", "vgg16"):
            assert found.parameters == count_parameters(network)
    context = describe(PRESETS["context"]["layers"], (192, 256), inputs=21)
    assert (context.size, context.parameters) == (67, count_parameters(ContextModule(21)))
    assert context.parameters == 28_392


def test_the_presets_show_what_they_say():
    shares = {name: describe(p["layers"], (192, 256)).read_share for name, p in PRESETS.items()}
    assert shares["gridding"] == (9 / 17) ** 2
    assert shares["context"] == shares["hybrid"] == shares["drn_c26"] == 1
    plain = describe(PRESETS["plain"]["layers"], (192, 256))
    assert plain.deviation == pytest.approx((2 * 8 / 3) ** 0.5)


# -- both languages say the same ------------------------------------------------------------------------


@pytest.mark.parametrize("ups", [False, True])
def test_a_hundred_random_stacks_agree(javascript, ups):
    size = (61, 84)
    generator, stacks = random.Random(3), fitting(100, size, ups)
    cells = [[generator.randrange(40), generator.randrange(40)] for _ in stacks]
    answers = javascript(
        """return given.stacks.map((rows, i) => {
            const fields = ep.stack(ep.flatten(rows));
            return { problems: ep.problems(rows, 61, 84), fields,
                     found: ep.describe(rows, 61, 84, given.cells[i], 5) };
        });""",
        {"stacks": stacks, "cells": cells},
    )
    for rows, cell, answer in zip(stacks, cells, answers, strict=True):
        assert answer["problems"] == []
        found, mine = answer["found"], describe(rows, size, cell, inputs=5)
        for name in ("size", "parameters"):
            assert found[name] == getattr(mine, name)
        assert (found["map"], found["cell"]) == (list(mine.map), list(mine.cell))
        assert found["spans"] == [list(span) for span in mine.spans]
        assert [list(map(int, axis)) for axis in found["counts"]] == list(mine.counts)
        for name, key in (
            ("jump", "jump"),
            ("start", "start"),
            ("read_share", "readShare"),
            ("deviation", "deviation"),
        ):
            assert found[key] == pytest.approx(getattr(mine, name), abs=1e-9)
        if not ups:
            fields = stack(flatten(rows))
            assert answer["fields"] == [{"size": f.size, "jump": f.jump, "start": f.start} for f in fields]


@pytest.mark.parametrize("mode", ["paths", "weight"])
@pytest.mark.parametrize("name", ["gridding", "vgg16", "unet"])
def test_pixels_agree(javascript, mode, name):
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    found = describe(PRESETS[name]["layers"], (48, 64), (1, 1))
    pixels = javascript(
        """const found = ep.describe(given.rows, 48, 64, [1, 1]);
        return [...ep.paint(given.image, 48, 64, found.counts, given.mode, ep.colourTable(given.colours))];""",
        {
            "rows": PRESETS[name]["layers"],
            "mode": mode,
            "colours": COLOURS,
            "image": image.permute(1, 2, 0).flatten().tolist(),
        },
    )
    theirs = torch.tensor(pixels).view(48, 64, 4)
    assert (theirs[..., 3] == 255).all()
    mine = field_picture(image, found, mode).permute(1, 2, 0)
    difference = (theirs[..., :3] - mine.int()).abs()
    assert difference.float().mean() < 0.02  # a value between two colours may fall to either
    assert difference.max() <= 4


# -- bad input, in words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "The stack is empty"),
        ([conv(3), conv(3, stride=0)], "Row 2: stride is 0; it is a whole number from 1 to 8."),
        ([{**conv(3), "kernel": None}], "Row 1: kernel is empty"),
        ([{**conv(3), "dilation": 1.5}], "Row 1: dilation is 1.5"),
        ([conv(3, stride=2, times=3), conv(25, padding=0)], "Row 2 reads 25 cells at once.* only 12 high"),
        ([conv(31, stride=2, times=7)], "In row 1 the field grows beyond 2,048"),
        ([conv(3, times=50), conv(3, times=50), conv(3, times=50)], "150 layers are too many"),
        ([up(8), up(8), up(8)], "Upsampling by 512"),
    ],
)
def test_what_is_wrong_is_said(javascript, rows, words):
    found = javascript("return ep.problems(given, 96, 128);", rows)
    assert len(found) == 1
    assert re.search(words, found[0]["text"]), found


def test_presets_are_without_problems(javascript):
    layers = [p["layers"] for p in PRESETS.values()]
    assert javascript("return given.flatMap((rows) => ep.problems(rows, 192, 256));", layers) == []


def test_the_function_refuses_what_cannot_be_shown():
    with pytest.raises(ValueError, match="did you mean 'vgg16'"):
        receptive_field_explorer("vgg19")
    with pytest.raises(ValueError, match="mode is"):
        receptive_field_explorer(mode="colour")
    with pytest.raises(ValueError, match=r"image is \(3, H, W\) uint8, not \(8, 8\) float32"):
        receptive_field_explorer(image=torch.zeros(8, 8))
    with pytest.raises(FieldError, match="row 1 is"):
        receptive_field_explorer([conv(3, stride=0)])
    with pytest.raises(FieldError, match="empty"):
        receptive_field_explorer([])
    with pytest.raises(FieldError, match="larger image"):
        receptive_field_explorer([conv(9, padding=0)], torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mode is"):
        field_picture(torch.zeros(3, 8, 8, dtype=torch.uint8), describe([conv(3)], (8, 8)), "none")


# -- the widget, the panels, the piece of a page ----------------------------------------------------------


def test_the_widget_carries_what_the_page_needs():
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    widget = receptive_field_explorer([conv(3, dilation=2), pool()], image, cell=(3, 4), inputs=7)
    assert widget.picture == image.permute(1, 2, 0).numpy().tobytes()
    state = widget.get_state()
    assert {"picture_size", "layers", "presets", "colours", "cell", "mode", "inputs"} <= set(state)
    assert widget.describe().cell == (3, 4)
    assert widget.describe().parameters == 64 * (7 * 9 + 1)
    widget.layers = [*widget.layers, conv(3)]
    assert widget.describe().size == 5 + 1 + 2 * 2


def test_panels_say_the_numbers():
    figure = field_panels(["context", "gridding"], title="Two stacks")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].endswith("67 x 67 pixels, 100% read")
    assert titles[1].endswith("17 x 17 pixels, 28% read")
    assert field_panels({"mine": [conv(5)]}, mode="weight").axes[0].get_title().startswith("mine")


@pytest.mark.parametrize(("mode", "curves"), [("paths", 0), ("weight", 1)])
def test_the_normal_curve_is_drawn_over_shares_only(mode, curves):
    figure = field_panels(["plain"], mode=mode)
    assert len(figure.axes[1].get_lines()) == curves
    (legend,) = figure.legends
    assert ("normal curve of that spread" in [text.get_text() for text in legend.get_texts()]) == bool(curves)


def test_the_page_is_all_in_one_piece():
    page = live_html("gridding")
    assert "https:" not in page
    assert "http:" not in page
    assert page.count("</script>") == 1
    assert MODULE in page
    with pytest.raises(ValueError, match="no preset 'grid'"):
        live_html("grid")


def test_importing_the_widgets_is_light():
    code = "import sys, course_lib.widgets; print('anywidget' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert explorer.receptive_field_explorer
