"""The explorers' thinking, without a browser: what their pictures are, and what they say when asked for nonsense."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street, Surroundings
from course_lib.data.transforms import normalise
from course_lib.implicit_background import background_probability
from course_lib.latent import refine
from course_lib.models.cvae import CVAE
from course_lib.models.deformable import DeformableStack
from course_lib.models.pooling_indices import pool, unpool
from course_lib.models.rfcn import RFCN
from course_lib.plotting import WIDEST, colourise
from course_lib.train import evaluate
from course_lib.widgets import HOMES, alpha_view, simplex_view, stills, transposed_view, unpooling_view
from course_lib.widgets.explorer import Answer, Button, Choice, Event, Explorer, Panel, Slider, View, answer, pack
from course_lib.widgets.latent import EVERY_CLASS, Session, latent_explorer, latent_view, read_scene
from course_lib.widgets.pixels import VERMILION, cells, heat, outlined, paint
from course_lib.widgets.position_sensitive import RANGE, box_around, evidence_maps, mosaic, voting_explorer, voting_view
from course_lib.widgets.resolution import at_scales, resolution_explorer, resolution_view
from course_lib.widgets.sampling import read_picture, sampling_explorer, sampling_view
from course_lib.widgets.self_correction import alpha_explorer
from course_lib.widgets.simplex import place, probabilities, simplex_explorer
from course_lib.widgets.upsampling import PANEL, VALUES, street_patch, transposed_explorer, unpooling_explorer

PALETTE = torch.tensor([[0, 0, 0], [200, 10, 10], [10, 200, 10]], dtype=torch.uint8)


def colours_of(picture):
    return {tuple(colour) for colour in picture.flatten(1).T.tolist()}


# -- the frame ---------------------------------------------------------------------------------------


def dots(*, count, colour="red"):
    if count > 3:
        raise ValueError(f"{count} dots are too many")
    picture = torch.zeros(3, 4, 6, dtype=torch.uint8)
    picture[["red", "green", "blue"].index(colour), 0, :count] = 255
    return View([Panel("dots", picture, f"{count} dots")], f"There are {count}.")


def test_pixels_go_to_the_canvas_row_by_row_and_opaque():
    content, (pixels,) = pack(Answer(dots(count=2)))
    assert len(pixels) == 4 * 6 * 4
    assert pixels[:12] == bytes([255, 0, 0, 255, 255, 0, 0, 255, 0, 0, 0, 255])
    assert content["panels"] == [{"caption": "dots", "words": "2 dots", "zoom": 1.0, "height": 4, "width": 6}]


def test_an_error_becomes_words_and_no_pictures():
    def fails(event):
        return Answer(dots(count=9))

    assert answer(fails, Event({})).problem == "9 dots are too many"
    assert answer(fails, Event({})).view.panels == []
    assert answer(lambda event: 1 / 0, Event({})).problem == "ZeroDivisionError: division by zero"


def test_an_explorer_starts_with_its_controls_values_and_describes_itself_without_a_browser():
    explorer = Explorer(
        lambda event: Answer(dots(**event.values)),
        [
            Slider("count", "count", range(5), 2),
            Choice("colour", "colour", ["red", "blue"], "blue"),
            Button("again", "Again"),
        ],
        title="Dots",
    )
    assert explorer.start["values"] == {"count": 2, "colour": "blue"}
    assert explorer.start["buffers"] == pack(Answer(dots(count=2, colour="blue")))[1]
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "needs a running kernel" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_message_of_the_page_is_answered_with_its_number():
    sent = []
    explorer = Explorer(
        lambda event: Answer(dots(**event.values)), [Slider("count", "count", range(5), 2)], title="Dots"
    )
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))
    for number, count in enumerate([3, 4]):
        message = {"view": "v", "number": number, "values": {"count": count}, "points": [], "pressed": None}
        explorer._on_message(explorer, message, [])
    (good, pixels), (bad, nothing) = sent
    assert (good["view"], good["number"], good["words"]) == ("v", 0, "There are 3.")
    assert pixels == pack(Answer(dots(count=3)))[1]
    assert (bad["number"], bad["problem"], nothing) == (1, "4 dots are too many", [])


def test_stills_show_every_panel_of_every_view():
    view = View([*dots(count=1).panels, *dots(count=2).panels], "")
    figure = stills({"a": view, "b": dots(count=3)}, legend=[("on", "#ff0000")])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["a", "b"]
    in_a_row = stills({"a": dots(count=1), "b": dots(count=2)})
    assert [axes.get_title() for axes in in_a_row.axes] == ["a", "b"]
    assert (in_a_row.axes[1].images[0].get_array()[0, 1] == [255, 0, 0]).all()


@pytest.mark.parametrize("height", [2.2, 1.3, 5.0])
def test_stills_draw_every_pixel_a_whole_number_of_times(height):
    """Digits in the pictures would lose strokes otherwise."""
    views = {str(kernel): transposed_view(kernel=kernel, stride=2, row=1, column=1) for kernel in (3, 4)}
    figure = stills(views, height=height)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    shown = torch.from_numpy(np.array(Image.open(data).convert("RGB"))).permute(2, 0, 1)
    panels = [panel for view in views.values() for panel in view.panels]
    for axes, panel in zip(figure.axes, panels, strict=True):
        left, bottom, right, top = (round(value) for value in axes.get_window_extent().extents)
        drawn = shown[:, shown.shape[1] - top : shown.shape[1] - bottom, left:right]
        times = drawn.shape[2] // panel.picture.shape[2]
        assert torch.equal(drawn, panel.picture.repeat_interleave(times, 1).repeat_interleave(times, 2))
    assert figure.get_figwidth() <= WIDEST


def test_importing_the_names_is_light_and_all_of_them_are_there():
    code = "import sys, course_lib.widgets; print(sorted({'torch', 'anywidget', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    from course_lib import widgets

    for name in HOMES:
        assert callable(getattr(widgets, name)), name
    with pytest.raises(AttributeError, match="has no 'slider'"):
        widgets.slider  # noqa: B018


def test_pictures_of_numbers():
    values = torch.tensor([[0.0, 1], [2, 4]])
    picture = cells(values, 20, low=0, high=4)
    assert picture.shape == (3, 40, 40)
    assert (picture[:, 3, 3] == heat(values, 0, 4)[:, 0, 0]).all()
    framed = outlined(picture, [(0, 20, 20, 40)])
    assert tuple(framed[:, 0, 30].tolist()) == VERMILION
    assert (framed[:, 30, 10] == picture[:, 30, 10]).all()


# -- upsampling --------------------------------------------------------------------------------------


def test_the_output_is_that_of_torch_and_the_frame_is_the_stamp():
    view = transposed_view(kernel=3, stride=2, row=1, column=2)
    output = functional.conv_transpose2d(VALUES[None, None], torch.ones(1, 1, 3, 3), stride=2)[0, 0]
    assert output.shape == (9, 9)
    side = 270 // 9
    expected = outlined(
        cells(output, side, low=0, high=float(output.max()), style="{:.3g}"), [(2 * side, 4 * side, 5 * side, 7 * side)]
    )
    assert torch.equal(view.panels[2].picture, expected)
    assert "(4 - 1) x 2 + 3 = 9" in view.words
    assert "rows 2 to 4, columns 4 to 6" in view.words


@pytest.mark.parametrize(
    ("kernel", "stride", "said"),
    [
        (4, 2, "4 stamps meet in every cell: an even"),
        (3, 2, "(1, 2, 4)"),
        (2, 3, "cells stay empty"),
        (2, 2, "1 stamps"),
        (5, 3, "chequered"),
    ],
)
def test_what_is_said_of_overlaps_is_what_torch_counts(kernel, stride, said):
    view = transposed_view(kernel=kernel, stride=stride, row=0, column=0)
    assert said in view.words
    ones = torch.ones(1, 1, 9, 9)
    met = functional.conv_transpose2d(ones, torch.ones(1, 1, kernel, kernel), stride=stride)[0, 0]
    inside = met[kernel : -kernel or None, kernel : -kernel or None]
    assert (len(inside.unique()) == 1) == ("even" in view.words)
    assert (0 in inside) == ("empty" in view.words)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"stride": 0}, "1 or more, not 3 and 0"), ({"row": 4}, r"no cell \(4, 1\)"), ({"stamp": "star"}, "not 'star'")],
)
def test_an_impossible_transposed_convolution_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        transposed_view(**({"kernel": 3, "stride": 2, "row": 1, "column": 1} | wrong))


def test_unpooling_returns_each_maximum_to_its_place():
    picture = street_patch()
    view = unpooling_view(picture, poolings=1, row=0.5, column=0.5)
    maxima, indices = pool(picture[None, None])
    returned = unpool(maxima, indices, (48, 48))[0, 0]
    assert ((returned == picture) | (returned == 0)).all()
    side = PANEL // 48
    shown = view.panels[2].picture[:, ::side, ::side]
    elsewhere = torch.ones(48, 48, dtype=torch.bool)
    elsewhere[22:28, 22:28] = False  # the frame
    assert torch.equal(shown[:, elsewhere], heat(returned, 0, 1, "gray")[:, elsewhere])
    assert f"holds {maxima[0, 0, 12, 12]:.2f}" in view.words


def test_unpooling_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="5 poolings do not divide an image of 48x48"):
        unpooling_view(street_patch(), poolings=5, row=0, column=0)
    with pytest.raises(ValueError, match="parts of the map"):
        unpooling_view(street_patch(), poolings=1, row=2, column=0)


# -- implicit background ------------------------------------------------------------------------------


def test_a_shift_moves_implicit_background_alone():
    at_rest, moved = probabilities(1.0, -0.5, 0.0), probabilities(1.0, -0.5, 2.0)
    assert torch.allclose(*at_rest)
    assert torch.allclose(at_rest[0], moved[0])
    assert moved[1][0] < at_rest[1][0] / 5
    expected = background_probability(torch.tensor([[3.0, 1.5]]).double())[0]
    assert torch.isclose(moved[1][0], expected)


def test_the_simplex_shows_both_where_they_lie():
    p_explicit, p_implicit = probabilities(1.0, 0.0, -1.0)
    picture = simplex_view(x1=1.0, x2=0.0, shift=-1.0).panels[0].picture
    for p, colour in ((p_explicit, (213, 94, 0)), (p_implicit, (0, 0, 0))):
        x, y = (round(value) for value in place(p))
        assert tuple(picture[:, y, x].tolist()) == colour
    with pytest.raises(ValueError, match="finite"):
        simplex_view(x1=math.nan, x2=0.0, shift=0.0)


# -- self-correction ----------------------------------------------------------------------------------


def opinions():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8, 10, generator=generator)


def test_alpha_leads_from_the_primary_to_the_ancillary():
    logits, ancillary = opinions()
    alone = alpha_view(logits, ancillary, None, PALETTE, alpha=0)
    assert torch.equal(alone.panels[2].picture, alone.panels[0].picture)
    assert "the ancillary weighs 0%" in alone.words
    far = alpha_view(logits, ancillary, None, PALETTE, alpha=1e6)
    assert torch.equal(far.panels[2].picture, far.panels[1].picture)
    half = alpha_view(logits, ancillary, None, PALETTE, alpha=1)
    assert torch.equal(half.panels[2].picture, colourise((logits + ancillary).argmax(0), PALETTE))


def test_alpha_counts_what_is_right():
    logits, ancillary = opinions()
    labels = ancillary.argmax(0)
    labels[0] = IGNORE
    view = alpha_view(logits, ancillary, labels, PALETTE, alpha=1e6)
    assert "corrected 100.0%" in view.words
    assert len(view.panels) == 5
    with pytest.raises(ValueError, match="alpha is 0 or more"):
        alpha_view(logits, ancillary, labels, PALETTE, alpha=-1)
    with pytest.raises(ValueError, match=r"labels of \(4, 4\)"):
        alpha_view(logits, ancillary, labels[:4, :4], PALETTE, alpha=1)
    with pytest.raises(ValueError, match=r"one image are \(C, H, W\)"):
        alpha_explorer(torch.zeros(2, 3, 8, 10), ancillary, classes=["a", "b", "c"], palette=PALETTE)


# -- the latent code ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streets():
    return Street(3, (32, 48), seed=0)


@pytest.fixture(scope="module")
def model(streets):
    torch.manual_seed(0)
    model = CVAE(len(streets.classes), width=4, code_size=6, code_channels=4, size=(32, 48))
    for parameter in model.parameters():  # an opinion of its own, without a training
        torch.nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
    return model.eval()


def values(**changed):
    given = {"picture": 0, "told": "Road", "radius": 4, "prior": 1.0} | {f"move{n}": 0.0 for n in range(1, 5)}
    return given | changed


def test_the_panels_are_what_the_decoder_says(model, streets):
    scene = read_scene(model, streets[0], 4)
    code = torch.randn(6, generator=torch.Generator().manual_seed(2))
    region = streets[0].labels == 3
    view = latent_view(scene, code, region, streets.palette)
    from course_lib.data.transforms import normalise

    with torch.no_grad():
        decoded = model.decode(code[None], model.condition(normalise(streets[0].image)[None]))[0]
    expected = colourise(decoded.argmax(0), streets.palette)
    assert (view.panels[1].picture == expected).float().mean() > 0.999
    labels = torch.as_tensor(streets[0].labels)
    assert torch.equal(view.panels[0].picture[:, region], colourise(labels, streets.palette)[:, region])
    accuracy = float((decoded.argmax(0) == labels)[labels != IGNORE].float().mean())
    assert f"Pixel accuracy {accuracy:.1%}" in view.words


def test_sliders_move_the_code_along_the_leading_directions(model, streets):
    session = Session(model, streets, 4)
    still = session.respond(Event(values()))
    moved = session.respond(Event(values(move1=4.0)))
    scene = read_scene(model, streets[0], 4)
    expected = latent_view(scene, 4 * scene.directions[0], torch.zeros(32, 48, dtype=torch.bool), streets.palette)
    assert torch.equal(moved.view.panels[2].picture, expected.panels[2].picture)
    assert not torch.equal(moved.view.panels[2].picture, still.view.panels[2].picture)
    assert "Length of the code: 4.00" in moved.view.words


def test_telling_and_refining_follow_the_library(model, streets):
    session = Session(model, streets, 4)
    session.respond(Event(values()))
    told = session.respond(Event(values(move1=1.0), "tell"))
    assert not told.problem
    refined = session.respond(Event(values(move1=1.0), "refine"))
    assert refined.values["move1"] == 0  # the sliders start from the code that was found
    scene = read_scene(model, streets[0], 4)
    region = torch.as_tensor(streets[0].labels) == streets.classes.index("Road")
    assert region.any()
    code = refine(scene.linear, streets[0].labels, region, prior_weight=1.0).code
    assert code.norm() > 0.5
    expected = latent_view(scene, code, region, streets.palette)
    assert refined.view.words == expected.words
    forgotten = session.respond(Event(values(), "forget"))
    assert "Told: 0.0%" in forgotten.view.words
    assert "Length of the code: 0.00" in forgotten.view.words


def test_the_brush_tells_the_chosen_class_alone(model, streets):
    session = Session(model, streets, 4)
    session.respond(Event(values()))
    labels = torch.as_tensor(streets[0].labels)
    row, column = (labels == streets.classes.index("Road")).nonzero()[0].tolist()
    session.respond(Event(values(), points=[(row + 0.5, column + 0.5)]))
    disc = paint(torch.zeros(32, 48, dtype=torch.bool), [(row + 0.5, column + 0.5)], 4)
    assert torch.equal(session.region, disc & (labels == streets.classes.index("Road")))
    session.respond(Event(values(told=EVERY_CLASS), points=[(row + 0.5, column + 0.5)]))
    assert torch.equal(session.region, disc & (labels != IGNORE))


def test_another_picture_starts_afresh(model, streets):
    session = Session(model, streets, 4)
    session.respond(Event(values(), "tell"))
    other = session.respond(Event(values(picture=1, move1=2.0)))
    assert other.values["move1"] == 0
    assert not session.region.any()


def test_a_disc_has_its_radius():
    painted = paint(torch.zeros(21, 21, dtype=torch.bool), [(10.5, 10.5)], 5)
    rows, columns = painted.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 15, 5, 15)
    assert abs(int(painted.sum()) - math.pi * 25) < 8


def test_a_brush_outside_the_picture_says_so():
    nothing = torch.zeros(8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="brush is outside the image, at row -3, column 4 of 8x8"):
        paint(nothing, [(-3.0, 4.0)], 2)
    assert paint(nothing, [(-3.0, 4.0), (4.0, 4.0)], 2).any()


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(values(), "refine"), "Nothing is told yet"),
        (Event(values(told="Absent"), "tell"), "no pixel of Absent"),
        (Event(values(told="Absent"), points=[(4.0, 4.0)]), "no pixel of Absent under the brush"),
        (Event(values(), points=[(99.0, 4.0)]), "outside the image"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(model, streets, event, said):
    class WithAbsent:
        classes, palette = ([*streets.classes, "Absent"], torch.cat([streets.palette, streets.palette[:1]]))

        def __getitem__(self, index):
            return streets[index]

    session = Session(model, WithAbsent(), 4)
    session.respond(Event(values()))
    assert said in answer(session.respond, event).problem


def test_the_explorer_refuses_what_does_not_fit(model, streets):
    assert latent_explorer(model, streets, tell="Road").start["values"]["told"] == "Road"
    with pytest.raises(ValueError, match="class 'Moon' is none of"):
        latent_explorer(model, streets, tell="Moon")
    with pytest.raises(ValueError, match="image 3: the data set has 0 to 2"):
        latent_explorer(model, streets, picture=3)
    with pytest.raises(TypeError, match="no code to refine"):
        latent_explorer(torch.nn.Conv2d(3, 11, 1), streets)
    with pytest.raises(ValueError, match="32"):
        latent_explorer(model, Street(2, (48, 64), seed=0))


def test_a_picture_without_any_label_does_not_break_it(model, streets):
    blank = streets[0]._replace(labels=torch.full((32, 48), IGNORE))
    view = latent_view(
        read_scene(model, blank, 2), torch.zeros(6), torch.zeros(32, 48, dtype=torch.bool), streets.palette
    )
    assert "nan" not in view.words


@pytest.mark.parametrize("build", [transposed_explorer, unpooling_explorer, simplex_explorer])
def test_every_small_explorer_answers_each_stop_of_each_control(build):
    explorer = build()
    start = explorer.start["values"]
    for control in explorer.controls:
        for value in list(control.get("stops") or control["options"])[::3]:
            given = explorer.respond(Event(start | {control["name"]: value}))
            assert given.view.panels
            assert not given.problem


def test_a_slider_starts_at_one_of_its_stops():
    logits, ancillary = opinions()
    explorer = alpha_explorer(logits, ancillary, classes=["a", "b", "c"], palette=PALETTE, alpha=5.0)
    assert 5.0 in explorer.controls[0]["stops"]
    with pytest.raises(ValueError, match="slider n: 7 is none of its stops"):
        Slider("n", "n", range(5), 7)


# -- resolution --------------------------------------------------------------------------------------


def test_a_network_at_two_scales():
    """The full size is what `evaluate` measures; half the size costs a quarter."""
    streets = Street(2, (64, 96), seed=3)
    network = torch.nn.Conv2d(3, len(streets.classes), 1).train()
    found = at_scales(network, streets, (0.5, 1.0))
    assert found[0.5].size == (32, 48)
    assert found[0.5].multiply_adds * 4 == found[1.0].multiply_adds
    assert network.training
    view = resolution_view(found, streets, scale=0.5)
    assert "32x48" in view.words
    assert "25% of the multiply-adds" in view.words
    assert torch.equal(view.panels[1].picture, colourise(found[0.5].answer, streets.palette))
    assert float(found[1.0].mean_iou) == pytest.approx(evaluate(network, streets, show_progress=False).mean_iou())
    explorer = resolution_explorer(found, streets)
    given = explorer.respond(Event({"scale": 0.5}))
    assert given.view.words == view.words


# -- position-sensitive maps --------------------------------------------------------------------------


def objects_and_maps():
    picture = torch.randint(256, (3, 48, 64), dtype=torch.uint8)
    torch.manual_seed(0)
    networks = {bins: RFCN(3, bins=bins, depth=0, width=4, reduced=0).train() for bins in (1, 3)}
    for network in networks.values():
        torch.nn.init.normal_(network.scores.weight)
    images = normalise(picture)[None]
    return picture, images, networks, {k: evidence_maps(one, images, label=2) for k, one in networks.items()}


@pytest.mark.parametrize("bins", [1, 3])
def test_the_vote_is_what_the_network_says_of_the_box(bins):
    """Of two classes, that of the label and none: the softmax of the network's logits without the third."""
    picture, images, networks, maps = objects_and_maps()
    assert maps[bins].shape == (bins, bins, 12, 16)
    assert networks[bins].training
    view = voting_view(maps, picture, bins=bins, row=20, column=30, height=24, width=20)
    with torch.no_grad():
        logits, _ = networks[bins].eval()(images, torch.tensor([[0.0, 20, 8, 40, 32]]))
    probability = float(logits[0, [0, 2]].softmax(0)[1])
    assert f"probability {probability:.2f}" in view.words
    assert f"p = {probability:.2f}" in view.panels[2].caption


def test_each_map_has_the_frame_of_its_own_bin():
    maps = torch.zeros(2, 2, 6, 8)
    drawn = mosaic(maps, [0, 0, 16, 16], 4)
    times, gap = 16, 6
    assert drawn.shape == (3, 2 * 6 * times + gap, 2 * 8 * times + gap)
    row, column = 6 * times + gap, 8 * times + gap
    framed = [tuple(int(value) for value in place) for place in [(0, 0), (0, column + 2 * times), (row + 2 * times, 0)]]
    for y, x in framed:
        assert tuple(drawn[:, y, x].tolist()) == VERMILION
    assert tuple(drawn[:, 0, column].tolist()) != VERMILION
    assert (drawn[:, 1, column + 1] == heat(torch.zeros(1, 1), -RANGE, RANGE)[:, 0, 0]).all()


def test_a_box_stays_inside_the_picture():
    assert box_around(0, 64, 20, 16, (48, 64)) == [48, 0, 64, 20]
    assert box_around(24, 32, 60, 16, (48, 64)) == [24, 0, 40, 48]


def test_the_box_can_be_dragged():
    picture, _, _, maps = objects_and_maps()
    explorer = voting_explorer(maps, picture, (10, 8, 30, 28))
    values = dict(explorer.start["values"])
    assert values == {"bins": "k = 3", "row": 18, "column": 20, "height": 20, "width": 20}
    times = 4  # 190 // 48
    given = explorer.respond(Event(values, None, [(3.0, 3.0), (30.0 * times, 40.0 * times)]))
    assert given.values == {"row": 30, "column": 40}
    still = voting_view(maps, picture, bins=3, row=30, column=40, height=20, width=20)
    assert torch.equal(given.view.panels[0].picture, still.panels[0].picture)
    outside = explorer.respond(Event(values, None, [(-50.0, 4000.0)]))
    assert outside.values == {"row": 0, "column": 64}
    one_bin = explorer.respond(Event(values | {"bins": "k = 1"}))
    assert one_bin.view.panels[1].caption == "1x1 maps, each with its bin"


# -- sampling points ---------------------------------------------------------------------------------


def test_the_unit_moves_where_one_clicks():
    scenes = Surroundings(2, (32, 64), seed=3)
    network = DeformableStack(8, width=4, layers=2, deformable=1)
    layers = [layer[0] for layer in network.layers]
    explorer = sampling_explorer({"plain": (network, layers[:1]), "both": (network, layers)}, scenes)
    values = {"network": "both", "picture": 1, "row": 4, "column": 4}
    given = explorer.respond(Event(values, points=[(0, 0), (61.0, 121.0)]))  # of 96x192 pixels, 12 a cell
    assert given.values == {"row": 5, "column": 10}
    still = sampling_view(read_picture(network, layers, scenes[1].image), row=5, column=10)
    assert torch.equal(given.view.panels[0].picture, still.panels[0].picture)
    assert "81 points" in given.view.words
    assert "dilation of its last layer is 1.0" in given.view.words  # no offsets yet
    assert "9 points" in explorer.respond(Event(values | {"network": "plain"})).view.words
    outside = explorer.respond(Event(values, points=[(-50.0, 5000.0)]))
    assert outside.values == {"row": 0, "column": 15}
    with pytest.raises(ValueError, match="row 8, column 0 is outside the map of 8x16 cells"):
        sampling_view(read_picture(network, layers, scenes[1].image), row=8, column=0)
