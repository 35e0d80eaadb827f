"""One network on several sizes of the same image, its predictions combined.

L.-C. Chen et al., "Attention to Scale: Scale-Aware Semantic Image Segmentation", CVPR 2016: the "share-net"
with average- or max-pooling over scales, against which the paper sets its attention. The network itself is
any other of the course; all sizes share its weights.

Departures from the paper
* Only the two plain ways of combining, no attention, and no extra loss for each scale.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import resize_to

SMALLEST = 32  # pixels a side: what every network of the course takes


class MultiScale(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, C, H, W), combined from all scales.

    Args:
        model: (N, 3, h, w) -> logits (N, C, h, w).
        scales: Factors on height and width. A field of r pixels at the factor s covers r / s pixels of the
            image itself. No side is made shorter than 32 pixels.
        combine: "average" of the logits (up to a constant the geometric mean of the probabilities) or their
            "max", class by class.

    Raises:
        ValueError: For no scale, a scale that is not above 0, or an unknown way to combine.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scales: Sequence[float] = (0.5, 0.75, 1.0),
        combine: Literal["average", "max"] = "average",
    ):
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales are one or more factors above 0, not {tuple(scales)}")
        if combine not in ("average", "max"):
            raise ValueError(f'combine is "average" or "max", not {combine!r}')
        self.model = model
        self.scales = tuple(scales)
        self.combine = combine

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack(self.predictions(images))  # (scales, N, C, H, W)
        return logits.mean(dim=0) if self.combine == "average" else logits.amax(dim=0)

    def predictions(self, images: Tensor) -> list[Tensor]:
        """Return the logits (N, C, H, W) of each scale, enlarged to the size of the image."""
        height, width = images.shape[-2:]
        found = []
        for scale in self.scales:
            size = (max(SMALLEST, round(scale * height)), max(SMALLEST, round(scale * width)))
            # without gaps for thin things, and in float32: torch has no other type for it on the CPU
            resized = functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
            found.append(resize_to(self.model(resized), (height, width)))
        return found
