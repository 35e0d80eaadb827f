"""Full float32 in one place: no autocast and no TF32, whatever a training was told.

A card computes float32 convolutions in TF32 by default, with 10 bits of mantissa instead of 23. That is enough for
a training, and too little where two results are compared: A + B c with a decoder, one device with another.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

SWITCHES = {
    "convolutions": torch.backends.cudnn.conv,
    "recurrent layers": torch.backends.cudnn.rnn,
    "products": torch.backends.cuda.matmul,
    "convolutions of the CPU": torch.backends.mkldnn.conv,
    "products of the CPU": torch.backends.mkldnn.matmul,
}
"""What torch switches by `fp32_precision`. Its older `allow_tf32` must not be read or set beside it: torch raises."""


@contextmanager
def exact() -> Iterator[None]:
    """Compute in float32 as IEEE defines it inside the block (or the decorated function); restore all after it.

    Autocast is switched off in this thread, TF32 in the whole process. cuDNN does not try kernels meanwhile: that
    takes seconds in float32, and who compares makes few calls.
    """
    before = {switch: switch.fp32_precision for switch in SWITCHES.values()}
    tried = torch.backends.cudnn.benchmark
    with ExitStack() as stack:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        try:
            torch.backends.cudnn.benchmark = False
            for switch in before:
                switch.fp32_precision = "ieee"
            yield
        finally:
            torch.backends.cudnn.benchmark = tried
            for switch, precision in before.items():
                switch.fp32_precision = precision


def tf32() -> str:
    """Return which float32 operations of a card may use TF32 now: "convolutions", "off", or several with commas."""
    return ", ".join(name for name, switch in SWITCHES.items() if switch.fp32_precision == "tf32") or "off"
