"""ParseNet: the average of a whole feature map as context for each of its cells.

W. Liu, A. Rabinovich, A. C. Berg, "ParseNet: Looking Wider to See Better", arXiv 1506.04579, 2015.

Departures from the paper

* The features come from a dilated ResNet at output stride 8, not from VGG16, so that this network and
  PSPNet differ in nothing but the way they add context.
* `context` and `normalise` switch its two ideas off for comparisons; the defaults are the paper's.
* The learned scales start at 10, which is our choice: from 1, unit vectors make timid logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import resize_to
from course_lib.models.resnet import dilated_resnet


class L2Norm(nn.Module):
    """Divide each cell's vector by its length, and scale each channel by a learned number, `scale` at first.

    (N, C, h, w) -> (N, C, h, w).
    """

    def __init__(self, channels: int, scale: float = 10.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        unit = functional.normalize(features.float(), dim=1)  # lengths overflow in half precision
        return unit * self.scale.view(1, -1, 1, 1)


class GlobalContext(nn.Module):
    """Global average, L2 normalisation, unpooling, concatenation: (N, C, h, w) -> (N, 2C, h, w).

    The first C channels are the features themselves, the last C are the same in every cell.

    Args:
        normalise: L2Norm of the features and of the context vector; without it both stay as they are.
        scale: What the learned scales start from.
    """

    def __init__(self, channels: int, *, normalise: bool = True, scale: float = 10.0):
        super().__init__()
        self.local_norm = L2Norm(channels, scale) if normalise else nn.Identity()
        self.context_norm = L2Norm(channels, scale) if normalise else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        context = features.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        context = self.context_norm(context)
        context = context.expand_as(features)  # (N, C, h, w): unpooled, every cell gets all of it
        local = self.local_norm(features)
        return torch.cat([local, context], dim=1)  # (N, 2C, h, w)


class ParseNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        depth: Of the backbone, as `width`, `output_stride` and `imagenet`: see `dilated_resnet`.
        context: Classify each cell by itself and the global average; off: by itself alone.
        normalise: L2 normalisation with learned scales, off for comparison.
        scale: What the learned scales start from.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 50,
        width: int = 64,
        output_stride: int = 8,
        context: bool = True,
        normalise: bool = True,
        scale: float = 10.0,
        imagenet: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = dilated_resnet(depth, width=width, output_stride=output_stride, imagenet=imagenet)
        channels = self.backbone.channels[-1]
        if context:
            self.head = GlobalContext(channels, normalise=normalise, scale=scale)
        else:
            self.head = L2Norm(channels, scale) if normalise else nn.Identity()
        self.classify = nn.Conv2d(2 * channels if context else channels, num_classes, kernel_size=1)
        nn.init.normal_(self.classify.weight, 0, 0.01)
        nn.init.zeros_(self.classify.bias)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of the backbone's four groups, strides 4, 8 and so on, at most `output_stride`."""
        return self.backbone(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/8, W/8), from the last features alone."""
        x = self.head(features[-1])  # (N, C or 2C, H/8, W/8)
        return self.classify(x)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.decode(self.encode(images))
        return resize_to(scores, images.shape[-2:])
