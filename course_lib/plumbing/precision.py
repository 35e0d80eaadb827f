"""Where a fast precision is used: only where it is right, and only where it is faster."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_fp32(forward: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Call `forward` outside autocast, with its half-precision tensors cast to float32."""
    device = next(value.device.type for value in arguments if isinstance(value, Tensor))
    widened = map(_widened, arguments)
    if not torch.amp.is_autocast_available(device):  # "meta", where sizes are counted
        return forward(*widened)
    with torch.autocast(device, enabled=False):
        return forward(*widened)


def _widened(value: object) -> object:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
