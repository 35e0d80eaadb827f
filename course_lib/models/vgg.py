"""VGG16's convolutional stages, which FCN, SegNet and the dilated front end grow out of.

K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1.
"""

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG16's 13 convolutions; a 2x2 max-pooling ends each stage."""


def vgg_stages(width: int = 64, norm: bool = False, padding: int = 1) -> nn.ModuleList:
    """Return the five convolutional stages of VGG16, each ending in its pooling: strides 2, 4, 8, 16, 32.

    Pooling rounds up (Caffe's rule), so that no border pixel is dropped at odd sizes.

    Args:
        width: Channels of the first stage; 64 is VGG16, the others keep their ratio to it.
        norm: Batch normalisation after each convolution (torchvision's vgg16_bn).
        padding: Of the very first convolution; FCN pads the image by 100 there.
    """
    stages, channels = nn.ModuleList(), 3
    for stage, plan in enumerate(VGG16_STAGES):
        layers: list[nn.Module] = []
        for index, planned in enumerate(plan):
            out = planned * width // 64
            layers += conv_norm_relu(channels, out, padding=padding if stage == index == 0 else 1, norm=norm)
            channels = out
        layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        stages.append(nn.Sequential(*layers))
    return stages


@torch.no_grad()
def copy_vgg16(weights: dict[str, Tensor], stages: nn.ModuleList, fc6: nn.Conv2d, fc7: nn.Conv2d) -> None:
    """Copy torchvision's VGG16; its fully connected layers become convolutions, number for number."""
    layers = [layer for layer in stages.modules() if isinstance(layer, nn.Conv2d)]
    names = [name for name in weights if name.startswith("features") and name.endswith("weight")]
    for layer, name in zip(layers, names, strict=True):
        layer.weight.copy_(weights[name])
        layer.bias.copy_(weights[name.replace("weight", "bias")])
    for layer, name in ((fc6, "classifier.0"), (fc7, "classifier.3")):
        layer.weight.copy_(weights[f"{name}.weight"].view_as(layer.weight))
        layer.bias.copy_(weights[f"{name}.bias"])
