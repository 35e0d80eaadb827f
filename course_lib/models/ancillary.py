"""The ancillary network of self-correcting networks: a segmentation network that sees boxes beside the image.

M. S. Ibrahim, A. Vahdat, M. Ranjbar, W. G. Macready, "Semi-Supervised Semantic Image Segmentation with
Self-correcting Networks", CVPR 2020, arXiv 1811.07073, Figure 2. Images (N, 3, H, W) and box maps (N, C + 1, H, W)
-> logits (N, C + 1, H, W).

Departures from the paper, and what it leaves open

* A box marks the share of each cell of a feature map that it covers; re-implementations resize bilinearly.
* One gate for each channel of a feature map, from 3x3 weights with bias, no normalisation. The weights start
  with standard deviation 1: with torch's usual small ones all gates are near 1/2, and boxes are learnt late.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.boxes import box_batch
from course_lib.data.sample import Sample
from course_lib.models.blocks import resize_to
from course_lib.plumbing.modes import evaluating


class BoxEncoder(nn.Module):
    """The gate of one feature map: box map (N, C + 1, H, W) -> (N, channels, h, w), values 0 to 1.

    The feature map's size (h, w) is an argument of `forward`. Its cells have a side of s pixels, a power of two:
    the map's first cell is the image's upper left corner, its last one may reach beyond the image
    (background there).

    Raises:
        ValueError: For a feature map that reaches further, as those of networks that pad the image do.
    """

    def __init__(self, num_classes: int, channels: int, background: int = 0):
        super().__init__()
        self.background = background
        self.conv = nn.Conv2d(num_classes, channels, kernel_size=3, padding=1)
        nn.init.normal_(self.conv.weight)  # wide: a box opens or closes channels from the start

    def forward(self, box_maps: Tensor, size: tuple[int, int]) -> Tensor:
        shares = self.shares(box_maps, size)  # (N, C + 1, h, w)
        return torch.sigmoid(self.conv(shares))

    def shares(self, box_maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the share of each cell that is marked, (N, C + 1, h, w)."""
        height, width = box_maps.shape[-2:]
        stride = max(1, 2 ** math.ceil(math.log2(height / size[0])))
        below, right = stride * size[0] - height, stride * size[1] - width
        if not (0 <= below < 32 and 0 <= right < 32):
            raise ValueError(
                f"a feature map of {size[0]}x{size[1]} does not lie on an image of {height}x{width}: take a "
                'network that does not pad the image (padding="same")'
            )
        padded = functional.pad(box_maps, (0, right, 0, below))
        if below or right:
            outside = torch.ones_like(padded[:, 0])
            outside[:, :height, :width] = 0
            padded[:, self.background] += outside
        return functional.avg_pool2d(padded, stride)


class Ancillary(nn.Module):
    """A segmentation network that sees boxes: images (N, 3, H, W), box maps (N, C + 1, H, W) -> logits.

    The finest and the deepest features that `encode` gives are multiplied by a gate each (`BoxEncoder`)
    before they are decoded. The logits (N, C + 1, H, W) have the image's size.

    Args:
        model: Any network with `encode(images) -> features, from fine to coarse` and `decode(features)`: U-Net
            with padding "same", DeepLabV3+. Its encoder works as before, on the image alone.
        background: The background's class.

    Raises:
        ValueError: For a network without these methods.
    """

    def __init__(self, model: nn.Module, background: int = 0):
        super().__init__()
        self.model, self.num_classes = model, getattr(model, "num_classes", 0)
        features = _features_of(model)
        self.gates = nn.ModuleList(
            BoxEncoder(self.num_classes, features[scale].shape[1], background) for scale in (0, -1)
        )

    def forward(self, images: Tensor, box_maps: Tensor) -> Tensor:
        return resize_to(self.scores(images, box_maps), images.shape[-2:])

    def scores(self, images: Tensor, box_maps: Tensor) -> Tensor:
        """Return logits as they leave the decoder: at the image's size, or smaller (DeepLabV3+: a quarter)."""
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if tuple(box_maps.shape) != expected:
            raise ValueError(f"box maps {tuple(box_maps.shape)} must be {expected}")
        features = list(self.model.encode(images))
        for gate, scale in zip(self.gates, (0, -1), strict=True):
            features[scale] = features[scale] * gate(box_maps, tuple(features[scale].shape[-2:]))
        scores = self.model.decode(features)
        height, width = images.shape[-2:]
        first = getattr(self.model, "offset", 0)  # an FCN's scores begin before the image
        return scores[..., first : first + height, first : first + width]


def _features_of(model: nn.Module) -> list[Tensor]:
    """Return what `encode` makes of a small image.

    Raises:
        ValueError: Where there is nothing to put gates on.
    """
    try:
        with evaluating(model), torch.no_grad():
            features = model.encode(torch.zeros(1, 3, 64, 64))
        if not hasattr(model, "decode") or not isinstance(features, list) or len(features) < 2:
            raise AttributeError("decode, or two features from encode, are missing")
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} has no encode(images) -> features and decode(features) to put boxes "
            f"between ({error})"
        ) from error
    return features


@torch.no_grad()
def ancillary_logits(ancillary: Ancillary, sample: Sample, background: int = 0) -> Tensor:
    """Return the logits (C + 1, H, W) of one image and its boxes.

    Raises:
        ValueError: For an image without a box: nothing would distinguish the network from one that
            sees none.
    """
    if not len(sample.boxes):
        raise ValueError(f"{sample.name} has no box: the ancillary network needs at least one")
    device = next(ancillary.parameters()).device
    images, _, maps = box_batch([sample], ancillary.num_classes, background)
    with evaluating(ancillary):
        return ancillary(images.to(device), maps.to(device))[0].float().cpu()
