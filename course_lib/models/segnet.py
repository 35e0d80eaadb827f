"""SegNet: a decoder that remembers where each maximum was, and the decoders it was compared with.

V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", PAMI 2017 (arXiv 1511.00561): figure 2 (SegNet), figure 3 (the two ways to upsample),
section 3.1 and table 1 (SegNet-Basic and its variants).

Every 2x2 max-pooling tells which of its four values was the largest. The decoder puts each value back
there, leaves zeros elsewhere, and convolves the sparse map into a dense one. torch counts such positions
in int64; in evaluation the networks here keep them in two bits each (`pack_indices`).

Departures from the paper
* Poolings round up, so that unpooling restores any size, odd ones included.
* The picture is normalised as everywhere in the course, not by local contrast; no dropout.
* The released code has biases in all convolutions, the paper none: none here, but in the last layer.
* `imagenet` takes torchvision's VGG16 with batch normalisation; the authors' VGG16 had none.
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

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.backbones import VGG16_STAGES, imagenet_weights, vgg_stages
from course_lib.models.blocks import bilinear_kernel, he_initialisation, resize_to
from course_lib.plumbing.precision import in_fp32

Size = tuple[int, int]


def pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pooling that rounds up, with the position of each maximum.

    (N, C, H, W) -> the maxima (N, C, h, w), h = ceil(H / 2), and int64 positions of the same shape, each
    row * W + column in the map (H, W) that was pooled.
    """
    return functional.max_pool2d(features, 2, stride=2, ceil_mode=True, return_indices=True)


def unpool(values: Tensor, indices: Tensor, size: Size) -> Tensor:
    """(N, C, h, w) -> (N, C, *size): each value at its position from `pool`, zeros elsewhere."""
    return functional.max_unpool2d(values, indices, 2, stride=2, output_size=size)


def pack_indices(indices: Tensor, width: int) -> Tensor:
    """Positions of 2x2 maxima in two bits each, four windows a byte.

    indices  (N, C, h, w) int64 from `pool`
    width    W of the map that was pooled

    Returns (N, C, ceil(h * w / 4)) uint8. The two bits are the row and the column within the window.
    """
    row, column = indices // width % 2, indices % width % 2
    corners = (2 * row + column).to(torch.uint8).flatten(2)  # (N, C, h * w), 0..3
    corners = functional.pad(corners, (0, -corners.shape[-1] % 4)).unflatten(-1, (-1, 4))
    first, second, third, fourth = corners.unbind(-1)
    return first | second << 2 | third << 4 | fourth << 6


def unpack_indices(packed: Tensor, size: Size) -> Tensor:
    """What `pack_indices` was given: (N, C, h, w) int64 positions in the map of `size` = (H, W).

    Raises ValueError where `packed` is not of a map of that size.
    """
    height, width = math.ceil(size[0] / 2), math.ceil(size[1] / 2)
    if packed.shape[-1] != math.ceil(height * width / 4):
        raise ValueError(
            f"{packed.shape[-1]} bytes a map are not those of {size[0]}x{size[1]} pixels, "
            f"whose {height}x{width} windows take {math.ceil(height * width / 4)}"
        )
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
    corners = (packed.unsqueeze(-1) >> shifts & 3).flatten(2)[..., : height * width].long()
    corners = corners.unflatten(-1, (height, width))  # (N, C, h, w)
    rows = 2 * torch.arange(height, device=packed.device)[:, None] + corners // 2
    columns = 2 * torch.arange(width, device=packed.device) + corners % 2
    return rows * size[1] + columns


class Memory(NamedTuple):
    """What waits for the decoder, from fine to coarse.

    sizes    (H, W) of the maps before each pooling
    indices  positions of the maxima: int64 in training, packed uint8 in evaluation
    maps     features (N, C, H/2, W/2), (.., H/4, ..), .. that will be added
    """

    sizes: list[Size]
    indices: list[Tensor]
    maps: list[Tensor]

    def nbytes(self) -> int:
        """Bytes of all tensors that are kept."""
        return sum(tensor.nbytes for tensor in (*self.indices, *self.maps))

    def unpool(self, values: Tensor, level: int) -> Tensor:
        """Undo the pooling `level` (0 is the finest): (N, C, h, w) -> (N, C, *sizes[level])."""
        indices, size = self.indices[level], self.sizes[level]
        if indices.dtype == torch.uint8:
            indices = unpack_indices(indices, size)
        return unpool(values, indices, size)


class SegNet(nn.Module):
    """images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    width     channels of VGG16's first stage
    imagenet  start from torchvision's vgg16_bn (only at width 64)
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
        """Features (N, 8 * width, H/32, W/32) and what the decoder will need."""
        features, memory = images, Memory([], [], [])
        for encoder in self.encoders:
            features = encoder(features)
            features = keep_positions(features, memory, packed=not self.training)
        return features, memory  # (N, 512, H/32, W/32)

    def decode(self, features: Tensor, memory: Memory) -> Tensor:
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


class Variant(NamedTuple):
    """A row of the paper's table 1.

    upsampling  "bilinear" (fixed), "indices" (unpool, then convolve) or "deconvolution" (8x8, learned)
    adds        encoder features are added to the decoder's
    reduced     the decoder works on class scores, not on `width` maps
    single      each decoder filter reads its own map alone
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
    """images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Four encoders (7x7 convolution, batch normalisation, ReLU, pooling) see 106 x 106 pixels; four decoders
    (by default: unpooling, 7x7 convolution, batch normalisation) lead back.

    decoder  a key of VARIANTS
    width    maps of every layer
    """

    def __init__(self, num_classes: int = 11, *, decoder: str = "segnet_basic", width: int = 64):
        super().__init__()
        if decoder not in VARIANTS:
            raise ValueError(f"decoder {decoder!r} is none of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[decoder]
        self.encoders = nn.ModuleList(
            nn.Sequential(*_convolution(channels, width, 7), nn.ReLU(inplace=True))
            for channels in (3, width, width, width)
        )
        maps = num_classes if self.variant.reduced else width
        levels = range(LEVELS)
        if self.variant.upsampling == "indices":
            groups = width if self.variant.single else 1
            self.decoders = nn.ModuleList(nn.Sequential(*_convolution(width, width, 7, groups)) for _ in levels)
        elif self.variant.upsampling == "deconvolution":
            self.decoders = nn.ModuleList(Deconvolution(maps) for _ in levels)
        self.reduce = nn.ModuleList(nn.Conv2d(width, maps, kernel_size=1) for _ in levels if self.variant.reduced)
        if not self.variant.adds:
            self.reduce = self.reduce[-1:]
        self.classifier = nn.Identity() if self.variant.reduced else nn.Conv2d(width, num_classes, kernel_size=1)
        he_initialisation(self)

    def remember(self, images: Tensor) -> tuple[Tensor, Memory]:
        """The deepest maps (N, width or classes, H/16, W/16) and what the decoder will need."""
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

    (N, C, h, w) and a size of at most (2h, 2w) -> (N, C, *size)
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=8, stride=2, padding=3, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels), 2:6, 2:6] = bilinear_kernel(4)

    def forward(self, maps: Tensor, size: Size) -> Tensor:
        # some processors return garbage for 8x8 kernels in bfloat16 (benchmarks/README.md)
        return in_fp32(super().forward, maps)[..., : size[0], : size[1]]


def keep_positions(features: Tensor, memory: Memory, *, packed: bool) -> Tensor:
    """Pool, and write into `memory` what unpooling will need: (N, C, H, W) -> (N, C, H/2, W/2)."""
    size = tuple(features.shape[-2:])
    features, indices = pool(features)
    memory.sizes.append(size)
    memory.indices.append(pack_indices(indices, size[1]) if packed else indices)
    return features


def _convolution(before: int, after: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, and its batch normalisation."""
    return [nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]


def _mirrored(channels: list[int], after: int) -> nn.Sequential:
    """The decoder of a VGG stage with these channels: its convolutions backwards, the last to `after`."""
    layers: list[nn.Module] = []
    for before, following in zip(reversed(channels), [*reversed(channels[:-1]), after], strict=True):
        layers += [*_convolution(before, following, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
