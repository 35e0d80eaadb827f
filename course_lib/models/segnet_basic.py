"""SegNet-Basic and the seven decoders that it was compared with.

V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", PAMI 2017 (arXiv 1511.00561): figure 3 (the two ways to upsample), section 3.1 and table 1
(SegNet-Basic and its variants).

Departures from the paper, besides those of `course_lib.models.segnet`

* What the paper leaves open about the variants follows from figure 3 and the storage column of table 1:
  maps that are added come after their pooling (strides 2, 4 and 8; nothing is added at full size); each
  1x1 reduction has a bias; without dimensionality reduction a 1x1 convolution classifies at the end. The
  8x8 kernels start as exact interpolation by 2, zero outside their middle 4x4. Bilinear-Interpolation
  reduces to class scores and enlarges these 16 times at once.
* The printed parameter counts are coarse: 0.625, 1.425, 0.65 and 1.625 M. Built, with 11 classes, it is
  0.613 M with fixed interpolation, 0.626 M with single-channel filters, 1.416 M (1,414,336 weights in
  7x7 convolutions) for the other two by indices, 0.646 M for FCN-Basic (0.644 M without addition), and
  1.661 M for both networks without dimensionality reduction.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import bilinear_kernel, conv_norm_relu, he_initialisation, resize_to
from course_lib.models.pooling_indices import Memory, Size, keep_positions
from course_lib.plumbing.precision import in_fp32


class Variant(NamedTuple):
    """A row of the paper's table 1.

    Attributes:
        upsampling: "bilinear" (fixed), "indices" (unpool, then convolve) or "deconvolution" (8x8, learned).
        adds: Encoder features are added to the decoder's.
        reduced: The decoder works on class scores, not on `width` maps.
        single: Each decoder filter reads its own map alone.
    """

    upsampling: Literal["bilinear", "indices", "deconvolution"]
    adds: bool = False
    reduced: bool = False
    single: bool = False


VARIANTS = {
    "bilinear_interpolation": Variant("bilinear", reduced=True),
    "segnet_basic": Variant("indices"),
    "segnet_basic_encoder_addition": Variant("indices", adds=True),
    "segnet_basic_single_channel_decoder": Variant("indices", single=True),
    "fcn_basic": Variant("deconvolution", adds=True, reduced=True),
    "fcn_basic_no_addition": Variant("deconvolution", reduced=True),
    "fcn_basic_no_dim_reduction": Variant("deconvolution", adds=True),
    "fcn_basic_no_addition_no_dim_reduction": Variant("deconvolution"),
}
"""The paper's eight decoders over one encoder, by the paper's names."""

LEVELS = 4


class SegNetBasic(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Four encoders (7x7 convolution, batch normalisation, ReLU, pooling) see 106 x 106 pixels; four decoders
    (by default: unpooling, 7x7 convolution, batch normalisation) lead back.

    Args:
        decoder: A key of `VARIANTS`.
        width: Maps of every layer.
    """

    def __init__(self, num_classes: int = 11, *, decoder: str = "segnet_basic", width: int = 64):
        super().__init__()
        if decoder not in VARIANTS:
            raise ValueError(f"decoder {decoder!r} is none of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[decoder]
        self.encoders = nn.ModuleList(conv_norm_relu(channels, width, 7) for channels in (3, width, width, width))
        maps = num_classes if self.variant.reduced else width
        levels = range(LEVELS)
        if self.variant.upsampling == "indices":
            groups = width if self.variant.single else 1
            self.decoders = nn.ModuleList(
                conv_norm_relu(width, width, 7, groups=groups)[:-1]
                for _ in levels  # no ReLU
            )
        elif self.variant.upsampling == "deconvolution":
            self.decoders = nn.ModuleList(Deconvolution(maps) for _ in levels)
        self.reduce = nn.ModuleList(nn.Conv2d(width, maps, kernel_size=1) for _ in levels if self.variant.reduced)
        if not self.variant.adds:
            self.reduce = self.reduce[-1:]
        self.classifier = nn.Identity() if self.variant.reduced else nn.Conv2d(width, num_classes, kernel_size=1)
        he_initialisation(self)

    def remember(self, images: Tensor) -> tuple[Tensor, Memory]:
        """Return the deepest maps (N, width or classes, H/16, W/16) and what the decoder will need."""
        features, memory = images, Memory([], [], [])
        for level, encoder in enumerate(self.encoders):
            features = encoder(features)  # (N, width, H, W) .. (N, width, H/8, W/8)
            if self.variant.upsampling == "indices":
                features = keep_positions(features, memory, packed=not self.training)
            else:
                memory.sizes.append(tuple(features.shape[-2:]))
                features = functional.max_pool2d(features, 2, stride=2, ceil_mode=True)
            if self.variant.adds and level < LEVELS - 1:
                kept = self.reduce[level](features) if self.variant.reduced else features
                memory.maps.append(kept)  # (N, width or classes, H/2, W/2) .. (.., H/8, W/8)
        if self.variant.reduced:
            features = self.reduce[-1](features)  # (N, classes, H/16, W/16)
        return features, memory

    def decode(self, features: Tensor, memory: Memory) -> Tensor:
        """Return the logits (N, classes, H, W) of the deepest maps."""
        if self.variant.upsampling == "bilinear":
            return resize_to(features, memory.sizes[0])  # (N, classes, H, W)
        for level in reversed(range(LEVELS)):
            if self.variant.upsampling == "indices":
                features = memory.unpool(features, level)
                features = self.decoders[level](features)
            else:
                features = self.decoders[level](features, memory.sizes[level])
            if self.variant.adds and level:
                features = features + memory.maps[level - 1]
        return self.classifier(features)  # (N, classes, H, W)

    def forward(self, images: Tensor) -> Tensor:
        features, memory = self.remember(images)
        return self.decode(features, memory)


class Deconvolution(nn.ConvTranspose2d):
    """FCN-Basic's learned upsampling: 8x8 kernels of stride 2 that start as bilinear interpolation by 2.

    `(N, C, h, w)` and a size of at most `(2h, 2w)` -> `(N, C, *size)`.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=8, stride=2, padding=3, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels), 2:6, 2:6] = bilinear_kernel(4)

    def forward(self, maps: Tensor, size: Size) -> Tensor:
        # some processors return garbage for 8x8 kernels in bfloat16 (benchmarks/README.md)
        return in_fp32(super().forward, maps)[..., : size[0], : size[1]]
