"""Segmentation networks, one paper a file. `MODELS` names them for recipes; students import the classes."""

from collections.abc import Callable
from functools import partial

from torch import nn

from course_lib.models.fcn import FCN

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": partial(FCN, stride=32),
    "fcn16s": partial(FCN, stride=16),
    "fcn8s": partial(FCN, stride=8),
}
