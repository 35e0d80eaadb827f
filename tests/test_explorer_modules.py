"""The explorers that think in the page: what a module says and paints is what its Python twin says and paints."""

import base64
import re
from functools import partial

import numpy as np
import pytest
import torch

from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.data.transforms import normalise
from course_lib.experiments.building import build_model, checkpoint_path
from course_lib.experiments.table import resolve
from course_lib.latent import linearise, refine
from course_lib.models.fcn import FCN
from course_lib.plumbing.checkpoint import load_weights
from course_lib.widgets import fcn, metrics, pixels, simplex, upsampling
from course_lib.widgets.explorer import Event, answer, rgba
from course_lib.widgets.fcn import fcn_explorer
from course_lib.widgets.frame import HERE, IMPORT, bundle, live_html
from course_lib.widgets.latent import first_half, latent_explorer
from course_lib.widgets.pixels import paint
from course_lib.widgets.self_correction import alpha_explorer
from course_lib.widgets.simplex import end_picture, place, probabilities, simplex_explorer
from course_lib.widgets.upsampling import transposed_explorer, unpooling_explorer
from tests.javascript import running

pytestmark = pytest.mark.usefixtures("one_thread")

ANSWERS = """
const bytes = (value) => {
    if (Array.isArray(value)) return value.map(bytes);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.base64 === "string") return Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, bytes(one)]));
};
const text = (pixels) => {
    const parts = [];
    for (let at = 0; at < pixels.length; at += 8192) parts.push(String.fromCharCode(...pixels.subarray(at, at + 8192)));
    return btoa(parts.join(""));
};
const respond = ep.default.open(bytes(given.data));
const answers = [];
for (const event of given.events) {
    try {
        const said = await respond(event);
        const panels = said.panels.map((panel) => ({ ...panel, pixels: text(panel.pixels) }));
        answers.push({ ...said, panels, problem: said.problem ?? "" });
    } catch (error) {
        answers.push({ panels: [], words: "", problem: error.message });
    }
}
return answers;
"""


def packed(value):
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {name: packed(one) for name, one in value.items()}
    return [packed(one) for one in value] if isinstance(value, list) else value


def answers(explorer, events, folder):
    """What the explorer's module answers to `events`, in one run."""
    with running(bundle(explorer.module), folder) as run:
        plain = [event._asdict() | {"points": [list(point) for point in event.points]} for event in events]
        return run(ANSWERS, {"data": packed(explorer.data), "events": plain})


def compare(explorer, events, folder, *, off=0.0, painted=lambda panel: True):
    """Assert that both say the same, and that at most `off` of the pixels of a panel differ by more than rounding."""
    for event, there in zip(events, answers(explorer, events, folder), strict=True):
        here = answer(explorer.respond, event)
        assert there["words"] == here.view.words
        assert there["problem"] == here.problem
        assert there.get("values", {}) == dict(here.values)
        assert [panel["caption"] for panel in there["panels"]] == [panel.caption for panel in here.view.panels]
        for panel, twin in zip(there["panels"], here.view.panels, strict=True):
            assert panel["words"] == twin.words
            assert panel["zoom"] == twin.zoom
            assert [panel["height"], panel["width"]] == list(twin.picture.shape[1:])
            if painted(panel):
                shown = np.frombuffer(base64.b64decode(panel["pixels"]), np.uint8).reshape(-1, 4)
                wanted = np.frombuffer(rgba(twin.picture), np.uint8).reshape(-1, 4)
                differ = np.abs(shown.astype(int) - wanted.astype(int)).max(1) > 4
                assert differ.mean() <= off, (panel["caption"], event, differ.mean())


def moves(explorer, every=1):
    """The start, and every stop (or every third, ...) of every control with the others at their start."""
    start = explorer.start["values"]
    found = [Event(start)]
    for control in explorer.controls:
        for value in (control.get("stops") or control.get("options") or [])[::every]:
            found.append(Event(start | {control["name"]: value}))
    return found


@pytest.fixture
def without_digits(monkeypatch):
    """Python's pictures without the numbers in their cells, which a canvas writes in its own letters."""
    for module in (upsampling, metrics):
        monkeypatch.setattr(
            module, "cells", lambda *args, style="", **kwargs: pixels.cells(*args, **kwargs | {"style": ""})
        )


# -- modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["transposed", "unpooling", "simplex", "alpha", "metrics", "latent", "fcn", "receptive_field", "kernel"]
)
def test_a_bundle_is_one_module_that_imports_nothing_and_names_nothing_twice(name):
    text = bundle(name)
    assert not re.search(r"^\s*import\b", text, re.MULTILINE)
    assert "</script" not in text
    assert len(re.findall(r"^export .* as default", text, re.MULTILINE)) == 1
    named = re.findall(r"^(?:export )?(?:async )?(?:function|const|let) (\w+)", text, re.MULTILINE)
    assert len(named) == len(set(named))
    for part in IMPORT.findall((HERE / f"{name}.js").read_text(encoding="utf-8")):
        assert not IMPORT.search((HERE / f"{part}.js").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", sorted(HERE.glob("*.js")), ids=lambda path: path.stem)
def test_no_module_asks_the_network(text):
    assert not re.search(r"https?:|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon", text.read_text(encoding="utf-8"))


def test_a_page_has_small_data_in_it_and_large_data_beside_it(tmp_path):
    state = {
        "_esm": "x",
        "_css": "y",
        "title": "</script>",
        "data": {"small": b"abc", "large": bytes(range(256)) * 500},
    }
    page = live_html(state, "one", files=tmp_path / "data", address="../data/")
    (file,) = (tmp_path / "data").iterdir()
    assert f'"../data/{file.name}"' in page
    assert base64.b64encode(b"abc").decode() in page
    assert base64.b64encode(bytes(range(256)) * 500).decode() in file.read_text()
    assert len(page) < 2000
    assert page.count("</script>") == 1
    assert ", 0.2);" in page  # megabytes that will be loaded
    assert base64.b64encode(bytes(range(256))).decode()[:80] in live_html(state, "one")


# -- one explorer after another ----------------------------------------------------------------------


def test_transposed_convolution(without_digits, tmp_path):
    explorer = transposed_explorer()
    events = moves(explorer, 2)
    start = explorer.start["values"]
    stamps = {"stamp": "bilinear"}
    events += [Event(start | stamps | {"kernel": k, "stride": s}) for k in (1, 2, 5, 6) for s in (1, 2, 3)]
    compare(explorer, events, tmp_path)


def test_digits_stand_in_cells_that_have_room(tmp_path):
    explorer = transposed_explorer()
    (small,) = answers(explorer, [Event(explorer.start["values"])], tmp_path)
    assert [mark["text"] for mark in small["panels"][0]["marks"]] == [f"{v:g}" for v in upsampling.VALUES.flatten()]
    (large,) = answers(explorer, [Event(explorer.start["values"] | {"kernel": 6, "stride": 4})], tmp_path)
    texts = {mark["text"] for mark in large["panels"][1]["marks"]}
    assert texts == {"1", "2", "4"}


def test_unpooling(tmp_path):
    compare(unpooling_explorer(), moves(unpooling_explorer(), 3), tmp_path, off=0.001)


def test_the_simplex_and_end(tmp_path):
    explorer = simplex_explorer()
    events = moves(explorer, 8)
    for event, there in zip(events, answers(explorer, events, tmp_path), strict=True):
        here = answer(explorer.respond, event)
        assert there["words"] == here.view.words
        marks = {mark["kind"]: mark for mark in there["panels"][0]["marks"]}
        explicit, implicit = probabilities(**event.values)
        assert marks["disc"]["points"][0] == pytest.approx(place(explicit), abs=1e-3)
        assert marks["square"]["points"][0] == pytest.approx(place(implicit), abs=1e-3)
        assert marks["line"]["points"][60] == pytest.approx(
            place(probabilities(event.values["x1"], event.values["x2"], 2.0)[1]), abs=1e-3
        )
    shown = np.frombuffer(base64.b64decode(there["panels"][1]["pixels"]), np.uint8)
    wanted = np.frombuffer(rgba(end_picture()), np.uint8)
    assert (np.abs(shown.astype(int) - wanted.astype(int)) > 3).mean() < 0.001


def test_end_in_the_triangle_is_that_of_the_library():
    x, y = (round(value) for value in place(torch.tensor([0.5, 0.4, 0.1])))
    expected = pixels.heat(torch.tensor([[0.6 * 0.5]]), 0, 1)[:, 0, 0]
    assert (end_picture()[:, y, x].int() - expected.int()).abs().max() <= 3
    assert "END of this pixel" in simplex.simplex_view(x1=1.0, x2=0.0, shift=0.0, show_end=True).words


def test_alpha(tmp_path):
    streets = Street(2, (32, 48), seed=0)
    logits, ancillary = torch.randn(2, 11, 32, 48, generator=torch.Generator().manual_seed(1))
    make = partial(alpha_explorer, logits, ancillary, classes=streets.classes, palette=streets.palette)
    labelled = make(streets[0].labels)
    compare(labelled, moves(labelled), tmp_path, off=0.001)
    compare(make(), moves(make()), tmp_path, off=0.001)


@pytest.fixture(scope="module")
def street_code():
    """The course's network with a code, and generated streets."""
    recipe = resolve("cvae_street", "product", "laptop")
    streets = Street(3, (64, 96), seed=5)
    network = build_model(recipe, len(streets.classes)).eval()
    load_weights(checkpoint_path("cvae-street"), network)
    return network, streets


def test_a_packed_code_answers_as_the_library(street_code, tmp_path):
    """On a hundred random codes and twenty tellings at most 0.1 % of the pixels differ."""
    network, streets = street_code
    explorer = latent_explorer(network, streets, pictures=[1], picture=1)
    scene, labels = linearise(network, streets[1].image), streets[1].labels.as_subclass(torch.Tensor)
    generator = torch.Generator().manual_seed(0)
    codes = 2 * torch.randn(100, network.code_size, generator=generator)
    centres = torch.rand(20, 2, generator=generator) * torch.tensor([64.0, 96.0])
    regions = [paint(torch.zeros(64, 96, dtype=torch.bool), [c.tolist()], 3 + n) for n, c in enumerate(centres)]
    refined = [refine(scene, labels, region, prior_weight=1.0).code for region in regions]
    given = {
        "picture": packed(explorer.data["pictures"]["1"]),
        "codes": codes.tolist(),
        "regions": [region.flatten().int().tolist() for region in regions],
    }
    assert len(given["picture"]["jacobian"]["base64"]) < 4e6
    code = """
        const bytes = (value) => Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
        const jacobian = ep.halves(bytes(given.picture.jacobian));
        const scene = { classes: 11, offset: ep.singles(bytes(given.picture.offset)), jacobian };
        const labels = bytes(given.picture.labels);
        const map = (code) => Array.from(ep.read(ep.logitsOf(scene, code), 11).labels);
        const moves = given.codes.map(map);
        const tellings = given.regions.map((region) => map(ep.refine(scene, labels, region, 1)));
        return { moves, tellings };
    """
    with running(bundle("latent"), tmp_path) as run:
        there = run(code, given)
    for name, wanted in (("moves", codes), ("tellings", refined)):
        found = torch.tensor(there[name]).view(-1, 64, 96)
        differ = (found != torch.stack([scene.logits(code).argmax(0) for code in wanted])).double().mean((1, 2))
        assert differ.max() <= 0.001, (name, differ.max())
        assert (found != found[:1]).any()


def test_the_latent_explorer(street_code, tmp_path):
    """Telling all, a half and a stroke, refining, sliding and forgetting: both say and show the same."""
    explorer = latent_explorer(*street_code, tell="Road")
    start = explorer.start["values"]
    moved = start | {"move1": 2.0, "move3": -1.5}
    other = start | {"picture": 2, "told": "every class", "prior": 10.0}
    events = [
        Event(start),
        Event(start, "refine"),
        Event(start, "half"),
        Event(start | {"move2": 1.0}, "refine"),
        Event(moved),
        Event(start, "tell"),
        Event(start, "refine"),
        Event(start, "forget"),
        Event(other),
        Event(other, None, [(30.5, 40.5), (33.0, 50.0), (-3.0, 2.0)]),
        Event(other, "refine"),
        Event(other | {"told": "Bicyclist"}, None, [(1.0, 1.0)]),
        Event(other, None, [(-3.0, 4.0)]),
    ]
    compare(explorer, events, tmp_path, off=0.001)


@pytest.fixture(scope="module")
def street_network():
    """The course's FCN-8s, and generated streets."""
    recipe = resolve("fcn_skips", "fcn8s", "quick")
    streets = Street(3, (recipe.height, recipe.width), seed=9)
    return build_model(recipe, len(streets.classes)).eval(), streets


def test_the_network_in_the_page_is_that_of_torch(street_network, tmp_path):
    """Logits within a thousandth, with all skips, with one and with none."""
    network, streets = street_network
    explorer = fcn_explorer(network, streets, pictures=[1])
    code = """
        const bytes = (value) => Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0));
        const layers = ep.assembled(given.layers, ep.halves(bytes(given.weights)), ep.singles(bytes(given.sums)));
        const byName = Object.fromEntries(layers.map((layer) => [layer.name, layer]));
        const { stages, offsets } = given;
        const scores = ep.scoresOf({ byName, stages }, ep.normalised(bytes(given.pictures["1"].image), 96, 128));
        return [0, 1, 2].map((skips) => Array.from(ep.joined({ byName, offsets }, scores, skips, 96, 128).values));
    """
    with running(bundle("fcn"), tmp_path) as run:
        there = torch.tensor(run(code, packed(explorer.data))).view(3, 11, 96, 128)
    with torch.inference_mode():
        whole = network(normalise(streets[1].image)[None])[0]
    assert (there[2] - whole).abs().max() < 1e-3
    scores = fcn.scores_of(network, streets[1].image)
    for skips in (0, 1):
        here = fcn.joined(network, scores, skips, (96, 128))
        assert (there[skips] - here).abs().max() < 1e-3
        assert (here - whole).abs().max() > 0.1


def test_dropping_no_skip_is_the_network_itself(street_network):
    network, streets = street_network
    joined = fcn.joined(network, fcn.scores_of(network, streets[0].image), 2, (96, 128))
    with torch.inference_mode():
        assert torch.allclose(joined, network(normalise(streets[0].image)[None])[0], atol=1e-5)
    with pytest.raises(ValueError, match="stride 8"):
        fcn_explorer(FCN(11, stride=16, width=4, fc_channels=8, padding="same"), streets)


def test_the_explorer_of_the_network(street_network, tmp_path):
    explorer = fcn_explorer(*street_network)
    start = explorer.start["values"]
    events = [Event(start), *(Event(start | {"skips": skips}) for skips in fcn.SKIPS[:2])]
    events += [Event(start | {"class": "Pole", "picture": 2}), Event(start, "generated")]
    compare(explorer, events, tmp_path, off=0.001)


def test_half_of_a_region_is_its_left_half():
    region = torch.zeros(4, 6, dtype=torch.bool)
    region[1:3, 1:5] = True
    half = first_half(region)
    assert half.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert first_half(region[:, :2]).sum() == 1


def test_metrics(without_digits, tmp_path):
    explorer = metrics.metrics_explorer()
    start = explorer.start["values"]
    events = [Event(start)]
    events += [Event(start, name) for name in ("blocks", "largest", "truth", "shifted")]
    events += [
        Event(start | {"class": "pole", "radius": 7}, None, [(10.5, 20.25), (30.0, 90.0), (-4.0, 7.0)]),
        Event(start | {"class": "sky", "radius": 1}, None, [(71.9, 0.1)]),
        Event(start, None, [(-3.0, 4.0)]),
    ]
    compare(explorer, events, tmp_path)


def test_the_buttons_of_metrics_are_worth_what_they_say():
    truth = metrics.grouped_street()
    begin = metrics.beginnings(truth)
    assert "OP 1.000, PC 1.000, mIoU 1.000" in metrics.metrics_view(truth, begin["truth"]).words
    largest = int(begin["largest"][0, 0])
    counted = truth.labels != IGNORE
    share = float((truth.labels == largest)[counted].double().mean())
    words = metrics.metrics_view(truth, begin["largest"]).words
    assert f"OP {share:.3f}, PC {1 / 7:.3f}, mIoU {share / 7:.3f}" in words
    assert (begin["shifted"][:, 2:] == begin["truth"][:, :-2]).all()
    assert torch.equal(begin["blocks"][:8, :8].unique(), begin["truth"][4, 4][None])
