"""FPN: a pyramid of features that is fine and knows what it sees on every level.

T.-Y. Lin, P. Dollar, R. Girshick, K. He, B. Hariharan, S. Belongie, "Feature Pyramid Networks for Object Detection",
CVPR 2017, arXiv 1612.03144: figure 3 and section 3; the semantic branch is that of A. Kirillov, R. Girshick, K. He,
P. Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv 1901.02446, figure 3.

Departures

* The semantic branch has batch norm, as the other networks of the course, and logits are resized with pixel areas
  aligned.
* `PyramidDetector` takes boxes from elsewhere; its features are pooled into `bins` x `bins` exact means, not 7x7
  samples, and its pyramid has neither a region proposal network nor P6 (`subsampled`).
* The size of 224 pixels that belongs to level 4 is one of ImageNet's images. Images of a hundred pixels hold no
  such box: it is an argument.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.resnet import dilated_resnet
from course_lib.models.rfcn import pool_bins

LOWEST, HIGHEST = 2, 5
"""Levels are named by their strides: 2^2 to 2^5 pixels."""


class FeaturePyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 with C_2 ... C_5 channels -> P_2 ... P_5, (N, channels, h, w) of the same sizes.

    M_5 is a 1x1 convolution of C_5, M_l the 1x1 convolution of C_l (lateral) plus M_{l+1} at twice its size (top-down),
    P_l a 3x3 convolution of M_l. None has a non-linearity.

    Args:
        in_channels: Of the maps, finest first.
        channels: d of all levels.
        top_down: With the path from the coarser level.
        lateral: With the path from the backbone's level; the coarsest level has it always.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, *, top_down: bool = True, lateral: bool = True):
        super().__init__()
        self.top_down, self.lateral = top_down, lateral
        last = len(in_channels) - 1
        self.laterals = nn.ModuleList(
            nn.Conv2d(inputs, channels, kernel_size=1) if lateral or level == last else nn.Identity()
            for level, inputs in enumerate(in_channels)
        )
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in in_channels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        merged = self.laterals[-1](features[-1])
        pyramid = [self.outputs[-1](merged)]
        for level in reversed(range(len(features) - 1)):
            above = functional.interpolate(merged, size=features[level].shape[-2:], mode="nearest")
            if not self.lateral:
                merged = above if self.top_down else torch.zeros_like(above)
            else:
                merged = self.laterals[level](features[level]) + (above if self.top_down else 0)
            pyramid.insert(0, self.outputs[level](merged))
        return pyramid


def subsampled(coarsest: Tensor) -> Tensor:
    """Return P_6: every second row and column of P_5."""
    return coarsest[..., ::2, ::2]


def roi_level(boxes: Tensor, canonical_size: float = 224, canonical_level: int = 4) -> Tensor:
    """Return the level that a box is pooled from, (R,) int64 from LOWEST to HIGHEST: equation 1 of the paper.

    It is floor(canonical_level + log2(sqrt(width * height) / canonical_size)): half the size is one level lower.

    Args:
        boxes: (R, 4) XYXY in pixels.
        canonical_size: Square root of the area of boxes of `canonical_level`, in pixels.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    levels = torch.floor(canonical_level + torch.log2(sides / canonical_size + 1e-6))
    return levels.clamp(LOWEST, HIGHEST).long()


class PyramidOfResNet(nn.Module):
    """A ResNet and its pyramid, with the arguments of `dilated_resnet` and `FeaturePyramid`; what reads it is a subclass."""

    def __init__(
        self,
        depth: int,
        width: int,
        channels: int,
        *,
        top_down: bool = True,
        lateral: bool = True,
        imagenet: bool = False,
    ):
        super().__init__()
        self.backbone = dilated_resnet(depth, width=width, output_stride=32, imagenet=imagenet)
        self.pyramid = FeaturePyramid(self.backbone.channels, channels, top_down=top_down, lateral=lateral)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return P_2 ... P_5, (N, channels, h, w) with strides 4, 8, 16 and 32."""
        return self.pyramid(self.backbone(images))


class FPN(PyramidOfResNet):
    """Images (N, 3, H, W) -> logits (N, classes, H, W) of the finest level; `forward_levels` gives those of all.

    One classifier, a 1x1 convolution, reads every level: so it shows what each of them knows. That is how the paper's
    region proposal network shares its head.

    Args:
        depth: Of the ResNet, with `width` and `imagenet` as in `dilated_resnet`.
        channels: d of the pyramid, with `top_down` and `lateral` as in `FeaturePyramid`.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 50,
        width: int = 64,
        channels: int = 256,
        top_down: bool = True,
        lateral: bool = True,
        imagenet: bool = False,
    ):
        super().__init__(depth, width, channels, top_down=top_down, lateral=lateral, imagenet=imagenet)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        return resize_to(self.classifier(self.encode(images)[0]), images.shape[-2:])

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the logits (N, classes, H, W) of each level, finest first; `losses.levels_objective` trains on all."""
        return [resize_to(self.classifier(level), images.shape[-2:]) for level in self.encode(images)]


class SemanticFPN(PyramidOfResNet):
    """Images (N, 3, H, W) -> logits (N, classes, H, W): all levels of the pyramid at stride 4, in sum.

    The level of stride s goes through log2(s / 4) blocks of a 3x3 convolution and bilinear enlargement by 2; that of
    stride 4 through one convolution.

    Args:
        depth: Of the ResNet, with `width` and `imagenet` as in `dilated_resnet`.
        channels: d of the pyramid.
        head_channels: Maps of the branch.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 50,
        width: int = 64,
        channels: int = 256,
        head_channels: int = 128,
        imagenet: bool = False,
    ):
        super().__init__(depth, width, channels, imagenet=imagenet)
        self.branches = nn.ModuleList(
            nn.ModuleList(
                conv_norm_relu(head_channels if block else channels, head_channels) for block in range(max(level, 1))
            )
            for level in range(len(self.backbone.channels))
        )
        self.classifier = nn.Conv2d(head_channels, num_classes, kernel_size=1)

    def sum_levels(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the sum of the branches of P_2 ... P_5, (N, head_channels, H/4, W/4)."""
        sizes = [level.shape[-2:] for level in levels]
        total = torch.zeros((), device=levels[0].device)
        for number, (level, branch) in enumerate(zip(levels, self.branches, strict=True)):
            for step, block in enumerate(branch):
                level = block(level)
                if number:  # to the next finer level's size, which is twice its own but where sides are odd
                    level = resize_to(level, sizes[number - 1 - step])
            total = total + level
        return total

    def forward(self, images: Tensor) -> Tensor:
        return resize_to(self.classifier(self.sum_levels(self.encode(images))), images.shape[-2:])


class PyramidDetector(PyramidOfResNet):
    """Images (N, 3, H, W) and RoIs (R, 5) -> class logits (R, num_classes) and shifts of the boxes (R, 4).

    Fast R-CNN on the pyramid: each box is pooled from the level of its size (`roi_level`), and one head of two layers
    reads what comes from any of them. RoIs are as in `models.rfcn`.

    Args:
        num_classes: C + 1; class 0 is "no object".
        bins: Parts of a box per side.
        hidden: Width of the head's two layers.
        depth: Of the ResNet, with `width` and `imagenet` as in `dilated_resnet`.
        channels: d of the pyramid, with `top_down` and `lateral` as in `FeaturePyramid`.
        finest_only: Pool every box from P_2 (row f of the paper's tables 1 and 2).
        canonical_size: As in `roi_level`.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        bins: int = 7,
        hidden: int = 1024,
        depth: int = 50,
        width: int = 64,
        channels: int = 256,
        top_down: bool = True,
        lateral: bool = True,
        finest_only: bool = False,
        canonical_size: float = 224,
        imagenet: bool = False,
    ):
        super().__init__(depth, width, channels, top_down=top_down, lateral=lateral, imagenet=imagenet)
        self.bins, self.finest_only, self.canonical_size = bins, finest_only, canonical_size
        self.head = nn.Sequential(
            nn.Linear(channels * bins**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.scores, self.shifts = nn.Linear(hidden, num_classes), nn.Linear(hidden, 4)
        for layer, spread in ((self.scores, 0.01), (self.shifts, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def pool(self, levels: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return what each box holds on its level, (R, channels, bins, bins)."""
        chosen = roi_level(rois[:, 1:], self.canonical_size)
        if self.finest_only:
            chosen = torch.full_like(chosen, LOWEST)
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], self.bins, self.bins)
        for number, level in enumerate(levels, start=LOWEST):
            rows = (chosen == number).nonzero().flatten()
            here = pool_bins(level, rois[rows], self.bins, 2**number, position_sensitive=False)
            pooled = pooled.index_copy(0, rows, here.to(pooled.dtype))
        return pooled

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.pool(self.encode(images), rois)
        hidden = self.head(pooled.flatten(1))
        return self.scores(hidden), self.shifts(hidden)
