"""The fused loss of implicit background against concatenating the background logit and cross-entropy."""

import torch
from torch.nn import functional

from benchmarks.measure import Result, in_turn
from course_lib.data.sample import IGNORE
from course_lib.implicit_background import ImplicitBackground, implicit_background_cross_entropy

SHAPE = (8, 20, 360, 480)


def measure() -> list[Result]:
    """Forward and backward on logits of VOC's classes and CamVid's size; both must find the same gradient."""
    torch.manual_seed(0)
    x = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(SHAPE[1] + 1, (SHAPE[0], *SHAPE[2:]))
    labels[:, :20] = IGNORE
    layer = ImplicitBackground()
    losses = {
        "fused": lambda: implicit_background_cross_entropy(x, labels),
        "concatenated": lambda: functional.cross_entropy(layer(x), labels, ignore_index=IGNORE),
    }
    gradients = {name: torch.autograd.grad(loss(), x)[0] for name, loss in losses.items()}
    torch.testing.assert_close(gradients["fused"], gradients["concatenated"], atol=1e-9, rtol=1e-4)
    seconds = in_turn(
        {name: lambda loss=loss: torch.autograd.grad(loss(), x) for name, loss in losses.items()}, repeats=7
    )
    memory = {name: peak_mib(lambda loss=loss: torch.autograd.grad(loss(), x)) for name, loss in losses.items()}
    name = f"implicit background's loss at {SHAPE}, concatenation over fused"
    return [
        Result(
            f"{name}: time",
            seconds["concatenated"] / seconds["fused"],
            "times",
            1.3,
            {f"{key} (ms)": 1000 * value for key, value in seconds.items()},
        ),
        Result(
            f"{name}: peak memory",
            memory["concatenated"] / memory["fused"],
            "times",
            1.0,
            {f"{key} (MiB)": value for key, value in memory.items()},
        ),
    ]


def peak_mib(call) -> float:
    """The most memory that tensors made within `call` took at one time, in MiB, as torch's profiler counts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20
