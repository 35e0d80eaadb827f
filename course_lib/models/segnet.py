"""SegNet: a decoder that remembers where each maximum was.

V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", PAMI 2017 (arXiv 1511.00561): figure 2 (SegNet), figure 3 (unpooling), section 3. The decoder
unpools (see `pooling_indices`) and convolves the sparse maps into dense ones.

Departures from the paper
* Poolings round up, so that unpooling restores any size, odd ones included.
* The image is normalised as everywhere in the course, not by local contrast; no dropout.
* The released code has biases in all convolutions, the paper none: none here, but in the last layer.
* `imagenet` takes torchvision's VGG16 with batch normalisation; the authors' VGG16 had none.
"""

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, he_initialisation
from course_lib.models.imagenet import imagenet_weights
from course_lib.models.pooling_indices import Memory, keep_positions
from course_lib.models.vgg import VGG16_STAGES, vgg_stages


class SegNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        width: Channels of VGG16's first stage.
        imagenet: Start from torchvision's vgg16_bn (only at width 64).
    """

    def __init__(self, num_classes: int = 11, *, width: int = 64, imagenet: bool = False):
        super().__init__()
        self.encoders = nn.ModuleList(stage[:-1] for stage in vgg_stages(width, norm=True))
        self.decoders = nn.ModuleList()
        before = 3
        for plan in VGG16_STAGES:
            channels = [planned * width // 64 for planned in plan]
            self.decoders.append(_mirrored(channels, before))
            before = channels[-1]
        last = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)
        self.decoders[0] = nn.Sequential(*_mirrored([width], width), last)
        he_initialisation(self)
        if imagenet:
            if width != 64:
                raise ValueError(f"ImageNet weights fit width 64 only, not {width}")
            weights = imagenet_weights("vgg16_bn")
            if weights is not None:
                self.load_vgg16_bn(weights)

    def remember(self, images: Tensor) -> tuple[Tensor, Memory]:
        """Return the features (N, 8 * width, H/32, W/32) and what the decoder will need."""
        features, memory = images, Memory([], [], [])
        for encoder in self.encoders:
            features = encoder(features)
            features = keep_positions(features, memory, packed=not self.training)
        return features, memory  # (N, 512, H/32, W/32)

    def decode(self, features: Tensor, memory: Memory) -> Tensor:
        """Return the logits (N, classes, H, W) of the deepest features."""
        for level in reversed(range(len(self.decoders))):
            features = memory.unpool(features, level)
            features = self.decoders[level](features)  # (N, 512, H/16, W/16) .. (N, classes, H, W)
        return features

    def forward(self, images: Tensor) -> Tensor:
        features, memory = self.remember(images)
        return self.decode(features, memory)

    @torch.no_grad()
    def load_vgg16_bn(self, weights: dict[str, Tensor]) -> None:
        """Copy torchvision's vgg16_bn. Its convolutions have biases, which go into the running means."""
        layers = [layer for encoder in self.encoders for layer in encoder]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
        places = sorted({int(name.split(".")[1]) for name in weights if name.startswith("features")})
        for layer, place in zip(convolutions, places[::2], strict=True):
            layer.weight.copy_(weights[f"features.{place}.weight"])
        for layer, place in zip(norms, places[1::2], strict=True):
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(layer, name).copy_(weights[f"features.{place}.{name}"])
            layer.running_mean -= weights[f"features.{place - 1}.bias"]


def _mirrored(channels: list[int], after: int) -> nn.Sequential:
    """Return the decoder of a VGG stage with these channels: its convolutions backwards, the last to `after`."""
    layers: list[nn.Module] = []
    for before, following in zip(reversed(channels), [*reversed(channels[:-1]), after], strict=True):
        layers += conv_norm_relu(before, following)
    return nn.Sequential(*layers)
