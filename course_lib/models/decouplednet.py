"""DecoupledNet: which classes are here is learnt from cheap labels, and where they are from few masks.

S. Hong, H. Noh, B. Han, "Decoupled Deep Neural Network for Semi-supervised Semantic Segmentation", NIPS 2015, arXiv
1506.04924: figure 1 (classification network, bridging layers, segmentation network). Layers as in the authors' code.

Departures from the authors' code

* The classes that are not present are not dropped at a probability of 0.5: `forward` weighs each by its probability,
  so that the logits stay finite. `segment` takes any weights: those of a threshold, or the true classes.
* `kernel`, `width`, `norm` and `stages` make networks for small images; 7, 64, False and 5 are the paper's.
* Poolings round up, so that unpooling restores any size; the authors pad images to squares of 320x320.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import he_initialisation
from course_lib.models.pooling_indices import Memory, keep_positions
from course_lib.models.vgg import VGG16_STAGES, vgg_stages


class Seen(NamedTuple):
    """What the classification network leaves for the bridge and the segmentation network.

    Attributes:
        features: The last pooling, (N, 512, H/32, W/32).
        hidden6: fc6 after its ReLU, (N, 4096, h, w).
        hidden7: fc7 after its ReLU.
        scores: Of every class at every place, (N, classes, h, w).
        memory: Positions of the maxima, for unpooling.
    """

    features: Tensor
    hidden6: Tensor
    hidden7: Tensor
    scores: Tensor
    memory: Memory


class Classifier(nn.Module):
    """VGG16 as a convolutional classifier of images (N, 3, H, W): the scores (N, classes) of what is somewhere."""

    def __init__(self, num_classes: int, width: int, hidden: int, kernel: int, norm: bool, stages: int):
        super().__init__()
        self.stages = nn.ModuleList(stage[:-1] for stage in vgg_stages(width, norm=norm)[:stages])
        channels = VGG16_STAGES[stages - 1][-1] * width // 64
        self.fc6 = nn.Conv2d(channels, hidden, kernel)
        self.fc7 = nn.Conv2d(hidden, hidden, kernel_size=1)
        self.score = nn.Conv2d(hidden, num_classes, kernel_size=1)

    def look(self, images: Tensor) -> Seen:
        """Return all that the other two parts read."""
        features, memory = images, Memory([], [], [])
        for stage in self.stages:
            features = keep_positions(stage(features), memory, packed=not self.training)
        hidden6 = torch.relu(self.fc6(features))
        hidden7 = torch.relu(self.fc7(hidden6))
        return Seen(features, hidden6, hidden7, self.score(hidden7), memory)

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images).scores.mean(dim=(2, 3))


class DecoupledNet(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W), class 0 the background; H and W >= 32 with kernel 1, else 224.

    Args:
        num_classes: The background counts as one; the classifier knows the others alone.
        width: Channels of VGG16's first stage.
        hidden: Channels of fc6 and fc7; the segmentation network has half as many there.
        kernel: Side of fc6's kernel.
        norm: Batch normalisation in the classifier; that of the segmentation network is always there.
        stages: Of VGG16's five.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        width: int = 64,
        hidden: int = 4096,
        kernel: int = 7,
        norm: bool = False,
        stages: int = 5,
    ):
        super().__init__()
        self.classifier = Classifier(num_classes - 1, width, hidden, kernel, norm, stages)
        channels = self.classifier.fc6.in_channels
        self.features_norm, self.map_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.bottom = nn.Sequential(
            *_layer(nn.Conv2d(2 * channels, hidden // 2, kernel)),
            *_layer(nn.Conv2d(hidden // 2, hidden // 2, kernel_size=1)),
            *_layer(nn.ConvTranspose2d(hidden // 2, channels, kernel)),
        )
        self.decoders = nn.ModuleList()
        plans = [[count * width // 64 for count in plan] for plan in VGG16_STAGES[:stages]]
        for stage, plan in enumerate(plans):
            after = plans[stage - 1][-1] if stage else width
            self.decoders.append(_decoder([*reversed(plan), after]))
        self.figure = nn.Conv2d(width, 2, kernel_size=1)
        he_initialisation(self)

    def bridge(self, seen: Seen, chosen: Tensor) -> Tensor:
        """Return the class-specific activation map, (N, 512, H/32, W/32): what made the classifier see the classes.

        It is the probability of each chosen class times the gradient of its greatest score, not that of its
        probability: where the classifier is sure, that one vanishes. The weights are those of the classifier.

        Args:
            seen: Of the classifier.
            chosen: (N, classes - 1), 1 for one class or several; between 0 and 1, their weights.
        """
        greatest, place = functional.max_pool2d(seen.scores, seen.scores.shape[-2:], return_indices=True)
        signal = greatest.sigmoid() * chosen.view(*chosen.shape, 1, 1)  # (N, classes - 1, 1, 1)
        signal = functional.max_unpool2d(signal, place, seen.scores.shape[-2:])
        signal = functional.conv_transpose2d(signal, self.classifier.score.weight) * (seen.hidden7 > 0)
        signal = functional.conv_transpose2d(signal, self.classifier.fc7.weight) * (seen.hidden6 > 0)
        return functional.conv_transpose2d(signal, self.classifier.fc6.weight)

    def masks(self, seen: Seen, chosen: Tensor) -> Tensor:
        """Return the scores of ground and figure, (N, 2, H, W), for the chosen classes (N, classes - 1) together."""
        maps = [self.features_norm(seen.features), self.map_norm(self.bridge(seen, chosen))]
        x = self.bottom(torch.cat(maps, dim=1))  # (N, 512, H/32, W/32)
        for level in reversed(range(len(self.decoders))):
            x = seen.memory.unpool(x, level)
            x = self.decoders[level](x)  # (N, 512, H/16, W/16) .. (N, 64, H, W)
        return self.figure(x)

    def segment(self, seen: Seen, present: Tensor) -> Tensor:
        """Return the logits (N, classes, H, W), given the weight (N, classes - 1) of every class.

        One pass of the segmentation network with all of them gives the background, one more for each its figure.
        """
        logits = [_log_probability(self.masks(seen, present), 0)]
        gates = present.clamp(min=1e-6).log().view(*present.shape, 1, 1)
        for number in range(present.shape[1]):
            chosen = torch.zeros_like(present)
            chosen[:, number] = 1
            logits.append(_log_probability(self.masks(seen, chosen), 1) + gates[:, number : number + 1])
        return torch.cat(logits, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.classifier.look(images)
        return self.segment(seen, seen.scores.mean(dim=(2, 3)).sigmoid())


class JointNet(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W): the rival of DecoupledNet, made of its parts.

    The same classifier's layers and the same decoder, without a bridge between them and with an output for each class:
    all classes at once. It may start from a classifier that has learnt already.

    Args:
        parts: A DecoupledNet, whose classifier and decoders this network takes as its own.
    """

    def __init__(self, parts: DecoupledNet):
        super().__init__()
        self.classifier, self.decoders = parts.classifier, parts.decoders
        fc7 = self.classifier.fc7
        channels, kernel = self.classifier.fc6.in_channels, self.classifier.fc6.kernel_size
        self.up = nn.Sequential(*_layer(nn.ConvTranspose2d(fc7.out_channels, channels, kernel)))
        self.last = nn.Conv2d(parts.figure.in_channels, self.classifier.score.out_channels + 1, kernel_size=1)
        he_initialisation(self.up)
        he_initialisation(self.last)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.classifier.look(images)
        x = self.up(seen.hidden7)  # (N, 512, H/32, W/32)
        for level in reversed(range(len(self.decoders))):
            x = seen.memory.unpool(x, level)
            x = self.decoders[level](x)  # (N, 512, H/16, W/16) .. (N, 64, H, W)
        return self.last(x)


def _log_probability(masks: Tensor, side: Literal[0, 1]) -> Tensor:
    """Return the logarithm of the probability of ground (0) or figure (1), (N, 1, H, W)."""
    ground, figure = masks[:, :1], masks[:, 1:]
    return -functional.softplus(figure - ground if side == 0 else ground - figure)


def _layer(layer: nn.Module) -> list[nn.Module]:
    outputs = layer.out_channels
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _decoder(channels: list[int]) -> nn.Sequential:
    """Return the transposed 3x3 convolutions after an unpooling, from the first of `channels` to the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += _layer(nn.ConvTranspose2d(before, after, kernel_size=3, padding=1))
    return nn.Sequential(*layers)
