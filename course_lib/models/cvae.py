"""CVAE: a segmentation that a short code can change, an image-conditioned variational auto-encoder.

P. Zhuang, Y. Sekikawa, K. Hara, H. Saito, "Learning an Optimisable Semantic Segmentation Map with Image
Conditioned Variational Autoencoder": figures 1 and 2, section 2.1. The "product" conditioning is that of
CodeSLAM (M. Bloesch et al., CVPR 2018). Losses and training are in `course_lib.cvae`.

A U-Net on the image (top of figure 2) gives feature maps of every resolution and the uncertainty b. A
variational auto-encoder on the one-hot labels (bottom) squeezes them into a code of N numbers, and sees the
U-Net's maps at every resolution, on its way down and on its way up. Its decoder has no activations: with the
image fixed, the logits are an affine function of the code, S' = A + B c (in `eval()` mode; in `train()` batch
norm divides by what depends on the code). With "concat" B is the same for every image; with "product" each
layer also sees the code's maps times the image's, and B depends on the image.

Departures from the paper

* It gives no channels, kernel sizes, dilations or image size. Here: 3x3 kernels, `width` doubling from level
  to level, dilations 2 and 4, 256x512.
* The second fully connected layer gives the logarithm of the variance, which may be negative; the printed
  "variance" may not.
* The maps that the fully connected layers read and write have `code_channels` channels: with the hundreds
  of the level the three layers would hold most of the weights.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE
from course_lib.losses import one_hot
from course_lib.models.blocks import conv_norm_relu, he_initialisation, resize_to

LEVELS = 5  # strides 1, 2, 4, 8, 16


class Reconstruction(NamedTuple):
    """What one training step of a CVAE sees.

    Attributes:
        logits: (N, C, H, W), decoded from a code drawn from the encoder's Gaussian.
        uncertainty: b, (N, 1, H, W), above 0.
        mean: Of the Gaussian, (N, code).
        log_variance: Of the Gaussian, (N, code).
    """

    logits: Tensor
    uncertainty: Tensor
    mean: Tensor
    log_variance: Tensor


class CVAE(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W) of the zero code, the network's answer without labels.

    Args:
        width: Channels of the U-Net's finest level; each of the four further levels has twice as many.
        label_width: The same of the auto-encoder on the labels; None: as the U-Net.
        code_size: N, numbers in the code.
        code_channels: Channels of the maps at stride 16 that the fully connected layers read and write.
        size: (H, W) of the images: the fully connected layers fix it. `forward` alone takes images of any
            size: it resizes them to this one and the logits back.
        conditioning: How a decoder layer sees the U-Net's maps f beside its own x: "concat" (the paper),
            [x, f], or "product" (CodeSLAM), [x, f, x * f].
        dilations: Of the 3x3 convolutions at stride 16.
        dropout: Rate of whole maps of the U-Net left out on their way to the decoder, in training: a weaker
            image leaves more to the code; 0 is the paper's.

    Raises:
        ValueError: For impossible arguments, and for images, labels and codes of another size.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        width: int = 32,
        label_width: int | None = None,
        code_size: int = 128,
        code_channels: int = 32,
        size: Sequence[int] = (256, 512),
        conditioning: Literal["concat", "product"] = "concat",
        dilations: Sequence[int] = (2, 4),
        dropout: float = 0.0,
    ):
        super().__init__()
        if conditioning not in ("concat", "product"):
            raise ValueError(f'conditioning is "concat" or "product", not {conditioning!r}')
        if len(size) != 2 or min(size) < 32:
            raise ValueError(f"size is (height, width), both at least 32, not {tuple(size)}")
        label_width = width if label_width is None else label_width
        if min(num_classes, width, label_width, code_size, code_channels) < 1:
            raise ValueError("num_classes, widths, code_size and code_channels are at least 1")
        self.num_classes, self.code_size, self.conditioning = num_classes, code_size, conditioning
        self.size = (int(size[0]), int(size[1]))
        self.coarse = tuple(math.ceil(side / 2 ** (LEVELS - 1)) for side in self.size)  # H/16, W/16
        of_picture = [width * 2**level for level in range(LEVELS)]
        of_labels = [label_width * 2**level for level in range(LEVELS)]

        self.contract = nn.ModuleList([conv_norm_relu(3, width)])
        self.contract += [
            nn.Sequential(conv_norm_relu(channels, 2 * channels, stride=2), conv_norm_relu(2 * channels, 2 * channels))
            for channels in of_picture[:-1]
        ]
        deep = of_picture[-1]
        self.bottleneck = nn.Sequential(*(conv_norm_relu(deep, deep, dilation=rate) for rate in dilations))
        self.expand = nn.ModuleList(conv_norm_relu(3 * channels, channels) for channels in of_picture[:-1])
        self.noise = nn.Conv2d(width, 1, kernel_size=1)

        inputs = [num_classes, *of_labels[1:]]
        self.encoder = nn.ModuleList(
            conv_norm_relu(inputs[level] + of_picture[level], of_labels[level + 1], stride=2)
            for level in range(LEVELS - 1)
        )
        self.encoder.append(conv_norm_relu(of_labels[-1] + deep, code_channels))
        cells = code_channels * math.prod(self.coarse)
        self.mean = nn.Linear(cells, code_size)
        self.log_variance = nn.Linear(cells, code_size)

        self.spread = nn.Linear(code_size, cells)
        outputs = [of_labels[0], *of_labels[: LEVELS - 1]]  # of each level's layer
        inputs = [*of_labels[: LEVELS - 1], code_channels]
        self.decoder = nn.ModuleList(
            LinearLayer(inputs[level], of_picture[level], outputs[level], conditioning, dropout)
            for level in range(LEVELS)
        )
        self.classify = nn.Conv2d(of_labels[0], num_classes, kernel_size=1)
        self._start()

    def condition(self, images: Tensor) -> list[Tensor]:
        """Return the U-Net's feature maps at strides 1, 2, 4, 8 and 16, from images (N, 3, H, W) of `size`."""
        self._require_size("images", images.shape[-2:])
        skips = []
        features = images
        for level in self.contract:
            features = level(features)
            skips.append(features)  # (N, width * 2^level, H/2^level, W/2^level)
        features = self.bottleneck(features)  # (N, 16 width, H/16, W/16)
        maps = [features]
        for level in reversed(range(LEVELS - 1)):
            features = resize_to(features, skips[level].shape[-2:])
            features = self.expand[level](torch.cat([features, skips[level]], dim=1))
            maps.append(features)
        return maps[::-1]

    def uncertainty(self, features: list[Tensor]) -> Tensor:
        """Return b of each pixel, (N, 1, H, W), above 0: the standard deviation of noise on the logits."""
        return functional.softplus(self.noise(features[0]).float())

    def encode(self, labels: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the code, (N, code) each, from labels (N, H, W); 255 is no class."""
        self._require_size("labels", labels.shape[-2:])
        self._require_known(labels)
        x = one_hot(labels, self.num_classes)  # (N, C, H, W)
        for layer, maps in zip(self.encoder, features, strict=True):
            x = layer(torch.cat([x, maps], dim=1))  # (N, 2 label_width .. , H/2 .. H/16)
        x = x.flatten(1)
        return self.mean(x).float(), self.log_variance(x).float()

    def decode(self, code: Tensor, features: list[Tensor]) -> Tensor:
        """Return the logits (N, C, H, W) of codes (N, code); affine in the code in `eval()` mode."""
        if code.ndim != 2 or code.shape[1] != self.code_size:
            raise ValueError(f"codes are (N, {self.code_size}), not {tuple(code.shape)}")
        x = self.spread(code).unflatten(1, (-1, *self.coarse))  # (N, code_channels, H/16, W/16)
        for level in reversed(range(LEVELS)):
            x = resize_to(x, features[level].shape[-2:])
            x = self.decoder[level](x, features[level])  # (N, label_width * 2^(level-1), H/2^level, ..)
        return self.classify(x)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        logits = self.decode(
            images.new_zeros(len(images), self.code_size),
            self.condition(images if size == self.size else resize_to(images, self.size)),
        )
        return logits if size == self.size else resize_to(logits, size)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Reconstruction:
        """Pass labels (N, H, W) through a code drawn from the encoder's Gaussian, and back."""
        features = self.condition(images)
        mean, log_variance = self.encode(labels, features)
        code = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return Reconstruction(self.decode(code, features), self.uncertainty(features), mean, log_variance)

    def _require_size(self, what: str, size: Sequence[int]) -> None:
        if tuple(size) != self.size:
            raise ValueError(
                f"{what} of {size[0]}x{size[1]}, but this CVAE's fully connected layers are for "
                f"{self.size[0]}x{self.size[1]}: resize them, or build CVAE(size={tuple(size)})"
            )

    def _require_known(self, labels: Tensor) -> None:
        known = labels[labels != IGNORE]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.num_classes:
            raise ValueError(
                f"labels hold values from {int(known.min())} to {int(known.max())}, but the classes of this CVAE "
                f"are 0 to {self.num_classes - 1}, and {IGNORE} for none"
            )

    def _start(self) -> None:
        he_initialisation(self)
        for layer in self.decoder:  # no ReLU halves the variance here
            nn.init.kaiming_normal_(layer.convolution.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(self.classify.weight, nonlinearity="linear")
        nn.init.zeros_(self.log_variance.weight)


class LinearLayer(nn.Module):
    """A decoder layer without activation: x (N, inputs, h, w) and the U-Net's maps -> (N, outputs, h, w)."""

    def __init__(self, inputs: int, maps: int, outputs: int, conditioning: str, dropout: float):
        super().__init__()
        self.product = conditioning == "product"
        self.project = nn.Identity()
        if self.product and maps != inputs:
            self.project = nn.Conv2d(maps, inputs, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)
        self.convolution = nn.Conv2d(
            inputs + maps + self.product * inputs, outputs, kernel_size=3, padding=1, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        maps = self.dropout(maps)
        seen = [x, maps]
        if self.product:
            seen.append(x * self.project(maps))
        return self.norm(self.convolution(torch.cat(seen, dim=1)))
