"""What this machine is and what it is good at; asked by the trainer, the records and `course doctor`."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import psutil
import torch
from torch.nn import functional

from course_lib.plumbing.exact import SWITCHES, exact, tf32
from course_lib.plumbing.paths import ROOT
from course_lib.plumbing.processes import cores


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; without it bf16 autocast is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def cpu_name() -> str:
    """The processor's marketing name where the system gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}
"""Fabric's names of the values of COURSE_PRECISION."""


def best_precision(device: torch.device) -> str:
    """Return Fabric's precision for a device: COURSE_PRECISION's, or bfloat16 where it runs in hardware.

    On a CPU with bfloat16 that is "auto", because which is faster depends on the network.

    Raises:
        ValueError: COURSE_PRECISION is neither "bf16" nor "fp32".
    """
    forced = os.environ.get("COURSE_PRECISION")
    if forced:
        if forced not in PRECISIONS:
            raise ValueError(f'COURSE_PRECISION is bf16 or fp32, not "{forced}"')
        return PRECISIONS[forced]
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "32-true"
    return "auto" if device.type == "cpu" and cpu_has_bf16() else "32-true"


def speeds(device: torch.device, *, size: int = 4096, seconds: float = 0.1) -> dict[str, dict[str, float]]:
    """Measure what a GPU computes in a second, in TFLOP/s: {"bf16", "TF32", "fp32": {"product", "convolution"}}.

    The first two only where it has them in hardware.

    Args:
        device: The GPU.
        size: Rows and columns of the product; a sixteenth of it are the channels of the 3x3 convolution, over 16
            images of 56x56.
        seconds: Time for each of the six measurements.
    """
    found: dict[str, dict[str, float]] = {}
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    reduced = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    for name in ("bf16", "TF32", "fp32") if reduced else ("fp32",):
        options = {"device": device, "dtype": torch.bfloat16 if name == "bf16" else torch.float32}
        matrix, images = torch.randn(size, size, **options), torch.randn(16, size // 16, 56, 56, **options)
        kernels = torch.randn(size // 16, size // 16, 3, 3, **options)
        images, kernels = (part.contiguous(memory_format=torch.channels_last) for part in (images, kernels))
        calls = {
            "product": (lambda a=matrix: a @ a, 2 * size**3),
            "convolution": (
                lambda x=images, w=kernels: functional.conv2d(x, w, padding=1),
                18 * size**2 * 16 * 56**2 / 256,
            ),
        }
        with torch.no_grad(), exact():
            for switch in SWITCHES.values() if name == "TF32" and device.type == "cuda" else ():
                switch.fp32_precision = "tf32"
            found[name] = {
                what: flops / seconds_of(call, wait, seconds) / 1e12 for what, (call, flops) in calls.items()
            }
    return found


def seconds_of(
    call: Callable[[], object], wait: Callable[[], None], most: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the mean seconds of `call` over a bit more than `most` seconds; `wait` waits for what was started."""
    for _ in range(2):  # the first chooses a kernel
        call()
    wait()
    began, calls, taken = clock(), 0, 0.0
    while taken < most:
        for _ in range(4):
            call()
        wait()
        calls, taken = calls + 4, clock() - began
    return taken / calls


def describe() -> dict[str, str | int | float]:
    """The machine as a record keeps it: hardware, operating system, and where TF32 is allowed (outside of `exact`)."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "gpus": torch.cuda.device_count(),
        "tf32": tf32(),
        "system": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """Versions of what a number depends on; "unknown" for a package that came without its metadata."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "lightning-fabric", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def code_commit() -> str:
    """The commit of the code, with "+changes" where the working tree differs; "unknown" outside git.

    A tree that `course pack` has written has no git and says its commit in a file.
    """
    packed = ROOT / "COMMIT"
    if packed.exists():
        return packed.read_text(encoding="utf-8").strip()[:12]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "course_lib"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit[:12] + ("+changes" if changed else "")
