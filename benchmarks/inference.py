"""A prediction of each network at 360x480, in the size of its paper: how long, how many a second, and what it computes.

`python -m benchmarks.inference` writes the tables of README.md anew, from what `python -m benchmarks inference --out
benchmarks/inference_2_cores.json` has measured.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import Result, in_turn
from course_lib.costs import count_parameters, multiply_adds
from course_lib.models import MODELS
from course_lib.models.hrnet import HRNet

SIZE = (360, 480)
BATCH = 2
CLASSES = 11
REPEATS = 3

BASE = "fcn8s"
LEFT_OUT = {"cvae", "fcn_alexnet", "fcn16s", "fcn32s", "segnet_basic", "decouplednet"}
"""Networks that answer another question, smaller relatives, and one that runs once for each class."""

SMALL_HRNET = partial(HRNet, width=16, bottlenecks=1, bottleneck_width=32, modules=(1, 1, 1), units=2)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{name: make for name, make in MODELS.items() if name not in LEFT_OUT},
    "hrnet_w18_small_v1": SMALL_HRNET,
    "unet": partial(MODELS["unet"], padding="same"),
}
FASTER = {"enet": 4.0, "erfnet": 2.0, "fast_scnn": 15.0}
"""How many times as fast as FCN-8s those are to be that were made to be fast."""

PUBLISHED = {"enet": ((360, 640), 3.83 / 2), "erfnet": ((256, 512), 15.03 / 2), "hrnet": ((1024, 2048), 747.3)}
"""Size and 10^9 multiply-adds, 19 classes, as the ports of ENet and ERFNet count them and HRNet's paper does.

The ports' numbers are FLOPs, and count normalisation and activations too.
"""

PUBLISHED_PARAMETERS = {
    "enet": (11, 0.350508, "the port of davidtvs, slightly smaller than the authors' network"),
    "erfnet": (19, 2.07, "as others have profiled it"),
    "fast_scnn": (19, 1.11, "the paper, without batch normalisation"),
    "hrnet": (19, 65.8, "the authors' page, W48"),
    "hrnet_w18_small_v1": (19, 1.5, "the authors' page"),
}
"""Classes, 10^6 parameters, and who counts them."""

SECONDS = "prediction of "
KEPT, README = Path(__file__).parent / "inference_2_cores.json", Path(__file__).parent / "README.md"
BEGIN, END = "<!-- begin inference -->", "<!-- end inference -->"


def measure() -> Iterator[Result]:
    """The parameters and multiply-adds beside those published, then the times, all networks in turn."""
    for name, (classes, published, _) in PUBLISHED_PARAMETERS.items():
        with torch.device("meta"):
            ours = count_parameters(NETWORKS[name](classes)) / 1e6
        details = {"ours (10^6)": ours, "published (10^6)": published}
        yield Result(f"parameters of {name} over those published", ours / published, "times", 0.95, details)
    for name, (size, published) in PUBLISHED.items():
        with torch.device("meta"):
            ours = multiply_adds(MODELS[name](19), torch.zeros(1, 3, *size)) / 1e9
        details = {"ours (10^9)": ours, "published (10^9)": published}
        yield Result(f"multiply-adds of {name} over those published", ours / published, "times", 0.85, details)
    yield from times(NETWORKS)


def times(networks: dict[str, Callable[..., nn.Module]]) -> Iterator[Result]:
    """Time one picture and a batch, as ratios to FCN-8s."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    models = {
        name: make(CLASSES).eval().to(device, memory_format=torch.channels_last) for name, make in networks.items()
    }
    one, many = (torch.rand(count, 3, *SIZE, device=device) for count in (1, BATCH))
    with torch.inference_mode():
        latency, batch = (
            in_turn({name: partial(model, images) for name, model in models.items()}, repeats=REPEATS, warm_up=1)
            for images in (one.to(memory_format=torch.channels_last), many.to(memory_format=torch.channels_last))
        )
    for name, model in models.items():
        with torch.device("meta"):
            computed = multiply_adds(networks[name](CLASSES), torch.zeros(1, 3, *SIZE))
        details = {
            "ms": 1000 * latency[name],
            "images/s": BATCH / batch[name],
            "times as many a second": batch[BASE] / batch[name],
            "multiply-adds (10^9)": computed / 1e9,
            "parameters (10^6)": count_parameters(model) / 1e6,
        }
        what = f"{SECONDS}{name} at {SIZE[0]}x{SIZE[1]} on {device}, FCN-8s's time over its own"
        yield Result(what, latency[BASE] / latency[name], "times", FASTER.get(name, 0.0), details)


def tables(report: Mapping) -> str:
    """Return what a report holds as two tables in Markdown: each network's prediction, and counts beside published ones."""
    results, machine = report["results"], report["machine"]
    timed = [one for one in results if one["name"].startswith(SECONDS)]
    timed.sort(key=lambda one: one["details"]["ms"])
    device = "cuda" if " on cuda" in timed[0]["name"] else "cpu"
    where = machine["gpu"] if device == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    lines = [
        f"{where}, torch {report['versions']['torch']}, {report['date'][:10]}, commit {report['commit']}. "
        f"{SIZE[0]}x{SIZE[1]} pixels, {CLASSES} classes, float32; times are medians of {REPEATS} rounds.",
        "",
        *_table(
            ("network", "one image (ms)", f"{BASE} = 1", f"images/s in batches of {BATCH}", f"{BASE} = 1",
             "multiply-adds (10^9)", "parameters (10^6)"),
            ((_name(one), f"{d['ms']:.0f}", f"{one['value']:.3g}", f"{d['images/s']:.3g}",
              f"{d['times as many a second']:.3g}", f"{d['multiply-adds (10^9)']:.3g}", f"{d['parameters (10^6)']:.3g}")
             for one in timed for d in [one["details"]]),
        ),
        "",
    ]  # fmt: skip
    counted = []
    for one in results:
        if " over those published" in one["name"]:
            what, name = one["name"].removesuffix(" over those published").split(" of ")
            ours, published = one["details"].values()
            classes, _, who = PUBLISHED_PARAMETERS.get(name, (19, 0, ""))
            if what == "multiply-adds":
                height, width = PUBLISHED[name][0]
                classes, who = 19, f"{height}x{width}; " + ("the paper" if name == "hrnet" else "a port, everything")
            unit = {"parameters": "10^6 parameters", "multiply-adds": "10^9 multiply-adds"}[what]
            counted.append((name, unit, str(classes), f"{ours:.4g}", f"{published:.4g}", who))
    heads = ("network", "counted", "classes", "ours", "published", "where, by whom")
    return "\n".join([*lines, *_table(heads, counted)])


def _name(result: Mapping) -> str:
    return re.search(f"{SECONDS}(\\w+) at", result["name"])[1]


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def with_tables(text: str, report: Mapping) -> str:
    """Return the text of README.md with the tables of `report` between their marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables(report)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8"), json.loads(KEPT.read_text())), encoding="utf-8")
