"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s on VGG16.

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015:
figure 3 (the skips), section 3.3 (upsampling is transposed convolution), section 4 (the recipe).

Departures from the paper

* `padding="same"` keeps VGG's padding of 1 and pads fc6, instead of padding the image by 100 pixels:
  the same alignment at a fraction of the cost. "paper", the default, is the paper's.
* `width`, `fc_channels` and `norm` make networks that train from scratch on a laptop. The defaults are
  VGG16's; batch normalisation came after the paper.
* Dropout after fc6 and fc7 leaves out whole maps (`Dropout2d`), not single values.
* The released FCN-8s freezes all its upsampling layers. Here, as the paper says, only the last one is
  frozen and those in between are learned.
"""

from typing import Literal

from torch import Tensor, nn

from course_lib.models.blocks import BilinearUpsampling, he_initialisation
from course_lib.models.imagenet import imagenet_weights
from course_lib.models.vgg import copy_vgg16, vgg_stages

Stride = Literal[32, 16, 8]


class FCN(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        stride: Of the finest prediction: 32 (no skip), 16 (adds pool4), 8 (adds pool4 and pool3).
        width: Channels of VGG's first stage.
        fc_channels: Channels of fc6 and fc7.
        norm: Batch normalisation.
        padding: "paper" (100 pixels around the image) or "same".
        dropout: Rate after fc6 and fc7.
        imagenet: Start from torchvision's VGG16 (only at full width without norm).
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        stride: Stride = 8,
        width: int = 64,
        fc_channels: int = 4096,
        norm: bool = False,
        padding: Literal["paper", "same"] = "paper",
        dropout: float = 0.5,
        imagenet: bool = False,
    ):
        super().__init__()
        if stride not in (32, 16, 8):
            raise ValueError(f"an FCN has stride 32, 16 or 8, not {stride}")
        if padding not in ("paper", "same"):
            raise ValueError(f'padding is "paper" or "same", not {padding!r}')
        self.stride = stride
        self.num_classes = num_classes
        self.picture_padding = 100 if padding == "paper" else 1
        self.fc_padding = 0 if padding == "paper" else 3
        deep, pool4, pool3 = 512 * width // 64, 512 * width // 64, 256 * width // 64

        self.stages = vgg_stages(width, norm, self.picture_padding)
        self.fc6 = nn.Conv2d(deep, fc_channels, kernel_size=7, padding=self.fc_padding, bias=not norm)
        self.norm6 = nn.BatchNorm2d(fc_channels) if norm else nn.Identity()
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, kernel_size=1, bias=not norm)
        self.norm7 = nn.BatchNorm2d(fc_channels) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.score = _zero_score(fc_channels, num_classes)
        if stride <= 16:
            self.upsample_fc = BilinearUpsampling(num_classes, 2, learned=True)
            self.score_pool4 = _zero_score(pool4, num_classes)
        if stride <= 8:
            self.upsample_pool4 = BilinearUpsampling(num_classes, 2, learned=True)
            self.score_pool3 = _zero_score(pool3, num_classes)
        self.upsample = BilinearUpsampling(num_classes, stride, learned=False)
        self._align()
        self._start(width, fc_channels, norm, imagenet)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features at strides 8, 16 and 32: pool3, pool4 and fc7."""
        features = images
        pools = []
        for stage in self.stages:
            features = stage(features)
            pools.append(features)  # (N, 64 .. 512, H/2 .. H/32)
        features = self.activation(self.norm6(self.fc6(features)))  # (N, fc, H/32, W/32)
        features = self.dropout(features)
        features = self.activation(self.norm7(self.fc7(features)))
        features = self.dropout(features)
        return [pools[2], pools[3], features]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return scores (N, classes, about H, about W), still uncropped."""
        pool3, pool4, fc7 = features
        scores = self.score(fc7)  # (N, classes, H/32, W/32)
        if self.stride <= 16:
            scores = fuse(self.upsample_fc(scores), self.score_pool4(pool4), self.skip_offsets[16])
        if self.stride <= 8:
            scores = fuse(self.upsample_pool4(scores), self.score_pool3(pool3), self.skip_offsets[8])
        return self.upsample(scores)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        scores = self.decode(self.encode(images))
        rows = slice(self.offset, self.offset + height)
        columns = slice(self.offset, self.offset + width)
        return scores[..., rows, columns]

    def _align(self) -> None:
        """Work out how many cells to crop, from the place of cell 0 of each map in the image (in pixels).

        A stage of stride s has its cell 0 at (s - 1) / 2 + 1 - padding; fc6's 7x7 kernel moves it by three
        cells of 32 less its own padding; upsampling by f to stride s moves it back by s * (f - 0.5). With
        the paper's padding the crops are 5, 9 and 31 (19 for 32s, 27 for 16s), as in the released code.
        """
        start = 15.5 + 1 - self.picture_padding + 32 * (3 - self.fc_padding)
        stride = 32
        self.skip_offsets = {}
        while stride > self.stride:
            stride //= 2
            skip = (stride - 1) / 2 + 1 - self.picture_padding
            start -= stride * (2 - 0.5)
            self.skip_offsets[stride] = round((start - skip) / stride)
            start = max(start, skip)
        self.offset = round(stride - 0.5 - start)

    def _start(self, width: int, fc_channels: int, norm: bool, imagenet: bool) -> None:
        for part in (self.stages, self.fc6, self.fc7):
            he_initialisation(part)
        if not imagenet:
            return
        if (width, fc_channels, norm) != (64, 4096, False):
            raise ValueError("ImageNet weights fit width 64, 4096 fc channels and no norm only")
        weights = imagenet_weights("vgg16")
        if weights is not None:
            self.load_vgg16(weights)

    def load_vgg16(self, weights: dict[str, Tensor]) -> None:
        """Copy torchvision's VGG16: its fully connected layers become convolutions, number for number."""
        copy_vgg16(weights, self.stages, self.fc6, self.fc7)


def fuse(coarse: Tensor, skip: Tensor, offset: int) -> Tensor:
    """Sum two score maps of one stride after cropping both to where they overlap.

    `offset` is by how many cells `coarse` starts further in than `skip` (negative: the other way round).
    """
    if offset >= 0:
        skip = skip[..., offset:, offset:]
    else:
        coarse = coarse[..., -offset:, -offset:]
    height = min(coarse.shape[-2], skip.shape[-2])
    width = min(coarse.shape[-1], skip.shape[-1])
    return coarse[..., :height, :width] + skip[..., :height, :width]


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
