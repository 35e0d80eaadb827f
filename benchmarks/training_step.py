"""One training step as the course takes it and as a plain loop does, on the same network and batch."""

import copy

import torch
from torch import nn

from benchmarks.measure import Result, in_turn
from course_lib.data.scenes import Street
from course_lib.data.transforms import to_batch
from course_lib.losses import cross_entropy, pixel_objective
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.fcn import FCN
from course_lib.plumbing.auto_precision import settle
from course_lib.plumbing.devices import make_fabric, set_up
from course_lib.train import make_optimizer


def measure() -> list[Result]:
    """The course: what "auto" chooses, and channels-last memory. Plain: fp32, contiguous."""
    torch.manual_seed(0)
    return [
        compare("FCN-8s", FCN(11, stride=8, width=16, fc_channels=128, norm=True, padding="same")),
        compare("DeepLabV3+ with ResNet-18", DeepLabV3Plus(11, depth=18)),
    ]


def compare(name: str, plain: nn.Module) -> Result:
    """Time both ways to train a network."""
    scenes = Street(8, (96, 128))
    images, labels = to_batch([scenes[index] for index in range(8)])
    batch = images.contiguous(memory_format=torch.channels_last)
    fabric = make_fabric("auto", accelerator="cpu")
    bare = copy.deepcopy(plain)
    ours, optimizer = set_up(fabric, bare, make_optimizer("adamw", bare, 1e-3, 0.0, 1e-2))
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    precision = settle(fabric, bare, pixel_objective(), (batch, labels))

    def course_step() -> None:
        fabric.backward(cross_entropy(ours(batch), labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def plain_step() -> None:
        cross_entropy(plain(images), labels).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad(set_to_none=True)

    seconds = in_turn({"course": course_step, "plain": plain_step}, repeats=15, warm_up=4)
    details = {f"{way} (ms)": 1000 * value for way, value in seconds.items()}
    what = f"training step of {name}, plain loop's time over ours ({precision}, channels-last)"
    return Result(what, seconds["plain"] / seconds["course"], "times", 1.5, details)
