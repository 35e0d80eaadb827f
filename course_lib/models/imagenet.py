"""torchvision's ImageNet weights, which are data like any other.

`python -m data_scripts.weights vgg16` (or `course data get weights`) puts the files into `data/weights`. Where they
are absent a network trains from scratch, and a log line says so.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor

from course_lib.data.sample import DataError
from course_lib.plumbing.paths import data_root

log = logging.getLogger(__name__)


def weights_file(name: str) -> Path | None:
    """Return the file of torchvision's weights for `name` in data/weights, or None where it was not fetched."""
    found = sorted((data_root() / "weights").glob(f"{name}-*.pth"))
    return found[-1] if found else None


def imagenet_weights(name: str) -> dict[str, Tensor] | None:
    """Return torchvision's ImageNet weights for `name` ("vgg16"), or None, with a log line, where absent."""
    file = weights_file(name)
    if file is None:
        log.warning(
            "no ImageNet weights for %s in %s: training from scratch "
            '(get them with "python -m data_scripts.weights %s")',
            name,
            data_root() / "weights",
            name,
        )
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: torch has many of its own
        again = f'move it away and run "python -m data_scripts.weights {name}"'
        raise DataError(f"{file} is damaged ({type(error).__name__}): {again}") from error
