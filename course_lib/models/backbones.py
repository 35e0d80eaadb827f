"""Classification networks that segmentation networks grow out of, and their ImageNet weights.

Weights are data: `python -m data_scripts.weights vgg16` (or `course data get weights`) puts torchvision's
files into `data/weights`. Where they are absent a network trains from scratch, and says so.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.paths import data_root

log = logging.getLogger(__name__)

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG16's 13 convolutions; a 2x2 max-pooling ends each stage."""


def vgg_stages(width: int = 64, norm: bool = False, padding: int = 1) -> nn.ModuleList:
    """The five convolutional stages of VGG16, each ending in its pooling: strides 2, 4, 8, 16, 32.

    width    channels of the first stage; 64 is VGG16, the others keep their ratio to it
    norm     batch normalisation after each convolution (torchvision's vgg16_bn)
    padding  of the very first convolution; FCN pads the picture by 100 there

    Pooling rounds up (Caffe's rule), so that no border pixel is dropped at odd sizes.
    """
    stages, channels = nn.ModuleList(), 3
    for stage, plan in enumerate(VGG16_STAGES):
        layers: list[nn.Module] = []
        for index, planned in enumerate(plan):
            out = planned * width // 64
            border = padding if stage == index == 0 else 1
            layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=border, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.ReLU(inplace=True))
            channels = out
        layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        stages.append(nn.Sequential(*layers))
    return stages


def weights_file(name: str) -> Path | None:
    """The file of torchvision's weights for `name` in data/weights, or None where it was not fetched."""
    found = sorted((data_root() / "weights").glob(f"{name}-*.pth"))
    return found[-1] if found else None


def imagenet_weights(name: str) -> dict[str, Tensor] | None:
    """torchvision's ImageNet weights for `name` ("vgg16"), or None, with a log line, where absent."""
    file = weights_file(name)
    if file is None:
        log.warning(
            "no ImageNet weights for %s in %s: training from scratch "
            '(get them with "python -m data_scripts.weights %s")', name, data_root() / "weights", name,
        )  # fmt: skip
        return None
    return torch.load(file, map_location="cpu", weights_only=True)
