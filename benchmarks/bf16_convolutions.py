"""`python -m benchmarks.bf16_convolutions`: this processor's bfloat16 convolutions against float32.

Tries over a thousand layers, forward and both gradients, each alone, and prints those that are wrong: a minute or
two on one core. `course doctor` tries forty.
"""

import sys
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from course_lib.plumbing import machine
from course_lib.plumbing.precision import PARTS, is_wrong, kernels_of, percent, scan

CHANNELS = (1, 2, 3, 4, 6, 8, 10, 11, 12, 13, 16, 20, 21, 24, 32, 48, 64)
CONVOLUTIONS = (
    (1, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4), (3, 1, 12), (5, 1, 1), (5, 2, 1), (7, 1, 1),
    (7, 2, 1), (7, 1, 4), (8, 1, 1), (8, 2, 1), (8, 4, 1), (16, 8, 1), (32, 16, 1),
)  # fmt: skip
"""Kernel, stride, dilation. No strided 1x1: oneDNN issue 6035 destroys memory there, in float32 too."""
TRANSPOSED = ((2, 2), (3, 2), (4, 2), (8, 2), (8, 4), (16, 8), (32, 16), (64, 32))
"""Kernel, stride."""
DEPTHWISE = ((3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4), (3, 1, 12), (5, 1, 1), (5, 1, 2))
"""Kernel, stride, dilation."""


def layers() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Yield every layer that is tried, with the size of its input."""
    for channels in CHANNELS:
        for kernel, stride, dilation in CONVOLUTIONS:
            padding = dilation * (kernel - 1) // 2
            for out in sorted({channels, 11, 16, 64}):
                yield nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False), (2, channels, 24, 32)
        for kernel, stride in TRANSPOSED:
            for out in sorted({channels, 11}):
                yield nn.ConvTranspose2d(channels, out, kernel, stride, bias=False), (2, channels, 8, 10)
    for channels in (8, 11, 12, 21, 24, 32, 48, 96):
        for kernel, stride, dilation in DEPTHWISE:
            padding = dilation * (kernel // 2)
            layer = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
            yield layer, (2, channels, 24, 32)
        yield nn.ConvTranspose2d(channels, channels, 8, 4, groups=channels), (2, channels, 8, 10)


def main() -> int:
    console = Console()
    console.print(kernels_of(torch.device("cpu")), highlight=False)
    if not machine.cpu_has_bf16():
        console.print("this processor has no bfloat16 in hardware: the course trains in float32 here")
    with console.status("trying layers"):
        found = scan(layers(), torch.bfloat16)
    wrong = {name: errors for name, errors in found.items() if is_wrong(errors)}
    right = [max(errors) for name, errors in found.items() if name not in wrong]
    console.print(f"{len(found)} tried, {len(wrong)} wrong; the others differ by at most {percent(max(right))}")
    if wrong:
        table = Table("relative error of", *PARTS)
        for name, errors in wrong.items():
            table.add_row(name, *map(percent, errors))
        console.print(table)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
