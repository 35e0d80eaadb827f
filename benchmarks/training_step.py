"""One training step as the course takes it and as a plain loop does, on the same network and batch."""

import copy

import torch

from benchmarks.measure import Result, in_turn
from course_lib.data.scenes import Street
from course_lib.data.transforms import to_batch
from course_lib.losses import cross_entropy
from course_lib.models.fcn import FCN
from course_lib.plumbing.devices import make_fabric
from course_lib.plumbing.machine import best_precision


def measure() -> list[Result]:
    """The course: the best precision of the CPU and channels-last memory. Plain: fp32, contiguous."""
    torch.manual_seed(0)
    plain = FCN(11, stride=8, width=16, fc_channels=128, norm=True, padding="same")
    scenes = Street(8, (96, 128))
    images, labels = to_batch([scenes[index] for index in range(8)])
    fabric = make_fabric("auto", accelerator="cpu")
    bare = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    ours, optimizer = fabric.setup(bare, torch.optim.AdamW(bare.parameters(), lr=1e-3))
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)

    def course_step() -> None:
        batch = images.contiguous(memory_format=torch.channels_last)
        fabric.backward(cross_entropy(ours(batch), labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def plain_step() -> None:
        cross_entropy(plain(images), labels).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad(set_to_none=True)

    seconds = in_turn({"course": course_step, "plain": plain_step}, repeats=15, warm_up=4)
    details = {f"{name} (ms)": 1000 * value for name, value in seconds.items()}
    precision = best_precision(torch.device("cpu"))
    name = f"training step of FCN-8s, plain loop's time over ours ({precision}, channels-last)"
    return [Result(name, seconds["plain"] / seconds["course"], "times", 1.5, details)]
