"""PSPNet: context from averages over the whole image, its quarters, ninths and thirty-sixths.

H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing Network", CVPR 2017: figure 3 (the pyramid),
figure 4 (the auxiliary loss).

Departures from the paper

* The hidden channels of both heads are a quarter of the features they read (512 and 256 for ResNet-50).
* Batch normalisation cannot train on one number a channel, which is what bin 1 makes of a single image.
  There, and only there, it uses its running statistics instead (`PyramidNorm`).
* `pooling`, `bins`, `reduce` and `aux` make the networks of the paper's ablation. Without bins the same
  head reads the features alone. `groups` shortens the backbone, for images that are smaller than its field.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.resnet import dilated_resnet


class PyramidNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains on a single number a channel, with its running statistics.

    (N, C, h, w) -> (N, C, h, w). Normalised by its own mean a single number would always become zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x[:, 0].numel() == 1:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class PyramidPooling(nn.Module):
    """(N, C, h, w) -> (N, C + the levels' channels, h, w): the features, then one level for each bin.

    Args:
        bins: Cells per side of each level: 1 is the whole map.
        pooling: "average" or "max".
        reduce: 1x1 convolution, normalisation and ReLU bring each level to C / len(bins) channels, so that all
            together weigh as much as the features; without it each level keeps C.
    """

    def __init__(
        self,
        channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        pooling: Literal["average", "max"] = "average",
        reduce: bool = True,
    ):
        super().__init__()
        if pooling not in ("average", "max"):
            raise ValueError(f'pooling is "average" or "max", not {pooling!r}')
        if any(bin < 1 for bin in bins):
            raise ValueError(f"bins are numbers of cells per side, at least 1, not {tuple(bins)}")
        kept = max(channels // len(bins), 1) if reduce and bins else channels
        pool = nn.AdaptiveAvgPool2d if pooling == "average" else nn.AdaptiveMaxPool2d
        self.levels = nn.ModuleList()
        for bin in bins:
            level = nn.Sequential(pool(bin))  # (N, C, bin, bin)
            if reduce:
                level.append(nn.Conv2d(channels, kept, kernel_size=1, bias=False))  # C -> C / levels
                level.append(PyramidNorm(kept))
                level.append(nn.ReLU(inplace=True))
            self.levels.append(level)
        self.out_channels = channels + kept * len(bins)

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[-2:]
        pyramid = [resize_to(level(features), size) for level in self.levels]
        return torch.cat([features, *pyramid], dim=1)


class PSPNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        depth: Of the backbone, as `width`, `output_stride` and `imagenet`: see `dilated_resnet`.
        groups: How many of the backbone's four groups of blocks there are; the first alone sees 43x43 pixels at depth
            18, so that only the pyramid sees the rest of an image.
        bins: Of the pyramid, as `pooling` and `reduce`: see `PyramidPooling`. () leaves it out.
        aux: With the auxiliary head on the third group of blocks, for `forward_with_aux`.
        dropout: Rate before both classifiers.

    Raises:
        ValueError: For `groups` outside 1 to 4, and for an auxiliary head on a backbone without a third group.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 50,
        width: int = 64,
        output_stride: int = 8,
        groups: int = 4,
        bins: Sequence[int] = (1, 2, 3, 6),
        pooling: Literal["average", "max"] = "average",
        reduce: bool = True,
        aux: bool = True,
        dropout: float = 0.1,
        imagenet: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = dilated_resnet(depth, width=width, output_stride=output_stride, imagenet=imagenet)
        self.backbone.shorten(groups, aux=aux)
        last = self.backbone.channels[-1]
        self.pyramid = PyramidPooling(last, bins, pooling=pooling, reduce=reduce)
        self.head = _head(self.pyramid.out_channels, last // 4, num_classes, dropout)
        middle = self.backbone.channels[-2] if aux else 0
        self.aux_head = _head(middle, middle // 4, num_classes, dropout) if aux else None

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of the backbone's four groups, strides 4, 8 and so on, at most `output_stride`."""
        return self.backbone(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/8, W/8), from the last features alone."""
        x = self.pyramid(features[-1])  # (N, 2C, H/8, W/8)
        return self.head(x)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.decode(self.encode(images))
        return resize_to(scores, images.shape[-2:])

    def forward_with_aux(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of both heads, (N, classes, H, W) each. The paper weights the second one's loss by 0.4.

        Raises:
            ValueError: Where the network was built with `aux=False`.
        """
        if self.aux_head is None:
            raise ValueError("this PSPNet has no auxiliary head: it was built with aux=False")
        size, features = images.shape[-2:], self.encode(images)
        scores, aux_scores = self.decode(features), self.aux_head(features[-2])
        return resize_to(scores, size), resize_to(aux_scores, size)


def _head(channels: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm_relu(channels, hidden), nn.Dropout2d(dropout), nn.Conv2d(hidden, num_classes, kernel_size=1)
    )
