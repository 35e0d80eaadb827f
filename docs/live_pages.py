"""The explorers' own pages: each one live, as a piece of HTML, and standing still, as a picture."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure

from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model, checkpoint_path
from course_lib.experiments.table import resolve
from course_lib.latent import class_region, refine
from course_lib.models.cvae import CVAE
from course_lib.models.fcn import FCN
from course_lib.plumbing.checkpoint import load_weights
from course_lib.widgets.explorer import Explorer, stills
from course_lib.widgets.fcn import fcn_explorer, fcn_view
from course_lib.widgets.latent import latent_explorer, latent_view, read_scene
from course_lib.widgets.metrics import beginnings, grouped_street, metrics_explorer, metrics_view
from course_lib.widgets.pixels import hexes
from course_lib.widgets.receptive_field import field_panels, live_html
from course_lib.widgets.simplex import simplex_explorer, simplex_view
from course_lib.widgets.upsampling import (
    street_patch,
    transposed_explorer,
    transposed_view,
    unpooling_explorer,
    unpooling_view,
)

ADDRESS = "../_static/explorers/"
"""Of their data, seen from a page of theirs."""


def metrics_stills() -> Figure:
    """Draw the predictions that the buttons begin with."""
    truth = grouped_street()
    legend = [*zip(truth.classes, hexes(truth.palette), strict=True), ("wrong", "#fa0ab9")]
    names = {"shifted": "moved by 2", "blocks": "blocks of 8", "largest": "largest class"}
    begin = beginnings(truth)
    return stills({said: metrics_view(truth, begin[name]) for name, said in names.items()}, legend=legend, height=1.3)


def transposed_stills() -> Figure:
    """Draw a stride that divides the kernel, and one that does not."""
    return stills(
        {f"kernel {kernel}, stride 2": transposed_view(kernel=kernel, stride=2, row=1, column=1) for kernel in (3, 4)}
    )


def unpooling_stills() -> Figure:
    """Draw one pooling and three."""
    patch = street_patch()
    views = {
        name: unpooling_view(patch, poolings=n, row=0.4, column=0.6) for name, n in (("one pooling", 1), ("three", 3))
    }
    return stills(views, height=1.5)


def simplex_stills() -> Figure:
    """Draw three shifts of the same two logits."""
    views = {f"shift {shift:g}": simplex_view(x1=1.0, x2=0.0, shift=shift, show_end=True) for shift in (-1.5, 0.0, 1.0)}
    return stills(views, height=3)


@cache
def street_network() -> tuple[FCN, Street]:
    """Return the course's FCN-8s and generated streets that it has not seen."""
    recipe = resolve("fcn_skips", "fcn8s", "quick")
    streets = Street(3, (recipe.height, recipe.width), seed=9)
    return build_model(recipe, len(streets.classes)).eval(), streets


def network_stills() -> Figure:
    """Draw what no skip, one and two make of a street."""
    network, streets = street_network()
    sample, label = streets[0], streets.classes.index("Car")
    views = {
        f"{skips} skips": fcn_view(
            network, sample.image, sample.labels, streets.classes, streets.palette, label=label, skips=skips
        )
        for skips in range(3)
    }
    return stills(views, legend=[*zip(streets.classes, hexes(streets.palette), strict=True)], height=0.9)


@cache
def street_code() -> tuple[CVAE, Street]:
    """Return the course's network with a code, and generated streets that it has not seen."""
    recipe = resolve("cvae_street", "product", "laptop")
    streets = Street(3, (64, 96), seed=5)
    network = build_model(recipe, len(streets.classes)).eval()
    load_weights(checkpoint_path("cvae-street"), network)
    return network, streets


def latent_stills() -> Figure:
    """Draw a street with nothing told, with its pavement told, and refined."""
    network, streets = street_code()
    scene, labels = read_scene(network, streets[1], 4), streets[1].labels
    region = class_region(labels, streets.classes.index("Pavement"), len(streets.classes))
    zero = torch.zeros(network.code_size)
    codes = {
        "nothing told": (zero, torch.zeros_like(region)),
        "pavement told": (zero, region),
        "refined": (refine(scene.linear, labels, region).code, region),
    }
    views = {name: latent_view(scene, code, told, streets.palette) for name, (code, told) in codes.items()}
    return stills(views, legend=[*zip(streets.classes, hexes(streets.palette), strict=True)], height=1.3)


PAGES: dict[str, tuple[Callable[[], Explorer], Callable[[], Figure]]] = {
    "metrics": (metrics_explorer, metrics_stills),
    "transposed": (transposed_explorer, transposed_stills),
    "unpooling": (unpooling_explorer, unpooling_stills),
    "simplex": (simplex_explorer, simplex_stills),
    "latent": (lambda: latent_explorer(*street_code(), picture=1, tell="Pavement"), latent_stills),
    "network": (lambda: fcn_explorer(*street_network()), network_stills),
}
"""What makes the explorer of a page of docs/explorers, and what draws its picture."""


def write(folder: Path, files: Path, names: Sequence[str]) -> None:
    """Write NAME.html and NAME.png of each of `names` to `folder`, and large data to `files`."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name == "receptive_field":
            piece, figure = live_html("context"), field_panels(["context", "gridding", "vgg16"])
        else:
            make, draw = PAGES[name]
            piece, figure = make().live_html(name, files=files, address=ADDRESS), draw()
        (folder / f"{name}.html").write_text(piece, encoding="utf-8")
        figure.savefig(folder / f"{name}.png", dpi=100)
