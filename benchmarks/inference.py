"""A prediction of each network at 360x480, in the size of its paper: how long, how many a second, and what it computes."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.measure import Result, in_turn
from course_lib.costs import count_parameters, multiply_adds
from course_lib.models import MODELS
from course_lib.models.hrnet import HRNet

SIZE = (360, 480)
BATCH = 4
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


def measure() -> Iterator[Result]:
    """The multiply-adds beside those published, then the times, all networks in turn."""
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
        what = f"prediction of {name} at {SIZE[0]}x{SIZE[1]} on {device}, FCN-8s's time over its own"
        yield Result(what, latency[BASE] / latency[name], "times", FASTER.get(name, 0.0), details)
