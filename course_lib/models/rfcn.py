"""R-FCN: boxes scored by k x k maps, each of which knows one part of the object, and no layer for each box.

J. Dai, Y. Li, K. He, J. Sun, "R-FCN: Object Detection via Region-based Fully Convolutional Networks", NIPS 2016, arXiv
1605.06409: figures 1 and 2, section 2. A region of interest (RoI) is a row (image, left, top, right, bottom), in
pixels, right and bottom just outside.

Departures from the paper

* No region proposal network: the boxes come from elsewhere (`course_lib.detection.proposal_grid`).
* The vote is the mean of the bins. The text says "averaging" and the formula sums; the authors' code averages.
* There are 4 k^2 maps for the boxes, as in the text; the authors' code has twice as many and trains half of them.
* A ReLU follows the 1x1 convolution to 1024 maps, as in the authors' code. Batch normalisation is not frozen.
* `depth=0` is a small body for images of about a hundred pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import ps_roi_pool

from course_lib.models.blocks import conv_norm_relu
from course_lib.models.resnet import dilated_resnet
from course_lib.plumbing.precision import in_fp32

SMALL_STRIDE = 4


def bin_edges(rois: Tensor, bins: int, stride: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return left, top, right and bottom of each RoI's columns and rows of bins, (R, bins) int64, in cells.

    A RoI is rounded to whole cells and covers at least one. Bin i of w cells reaches from floor(i w / bins) to
    ceil((i + 1) w / bins): neighbours share a cell where the division leaves a rest. Bins end at the map's border, and
    one that lies beyond it is empty.

    Args:
        rois: (R, 5).
        stride: Pixels of a cell.
        size: (h, w) of the maps.
    """
    corners = torch.floor(rois[:, 1:] / stride + 0.5).long()  # torch.round would round 0.5 to 0 and 1.5 to 2
    number = torch.arange(bins, device=rois.device)
    edges = []
    for low, high, cells in ((0, 2, size[1]), (1, 3, size[0])):
        start = corners[:, low, None]
        length = (corners[:, high, None] - start).clamp(min=1)
        edges.append((start + number * length // bins).clamp(0, cells))
        edges.append((start - (-(number + 1) * length // bins)).clamp(0, cells))
    left, right, top, bottom = edges
    return left, top, right, bottom


def pool_bins(maps: Tensor, rois: Tensor, bins: int, stride: int, *, position_sensitive: bool) -> Tensor:
    """Return the mean of the maps in each of the bins x bins parts of each RoI, (R, C, bins, bins).

    Sums over rectangles come from a summed-area table: four look-ups, whatever the size. Exact and differentiable; in
    float32 the differences of large sums lose digits on large maps. Empty bins are 0.

    Args:
        maps: (N, C, h, w). Position-sensitive: (N, C bins^2, h, w), and channel (c bins + row) bins + column is what
            bin (row, column) of class c reads, and no other bin does.
        rois: (R, 5).
        stride: Pixels of a cell.
        position_sensitive: Whether each bin has maps of its own (R-FCN, equation 1), or all bins read all maps (the
            pooling of Fast R-CNN, with means).
    """
    left, top, right, bottom = bin_edges(rois, bins, stride, tuple(maps.shape[-2:]))
    maps = maps if maps.dtype == torch.float64 else maps.float()  # sums of a map in bfloat16 have three digits
    table = functional.pad(maps, (1, 0, 1, 0)).cumsum(dim=2).cumsum(dim=3)  # (N, channels, h + 1, w + 1)
    picture = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(maps.shape[1], device=maps.device)
    channel = channel.view(-1, bins, bins) if position_sensitive else channel.view(-1, 1, 1)

    def total(row: Tensor, column: Tensor) -> Tensor:  # of all cells above and to the left, (R, C, bins, bins)
        return table[picture, channel, row[:, None, :, None], column[:, None, None, :]]

    inside = total(bottom, right) - total(top, right) - total(bottom, left) + total(top, left)
    cells = (bottom - top)[:, None, :, None] * (right - left)[:, None, None, :]
    return inside / cells.clamp(min=1)


def position_sensitive_pool(maps: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """Return `pool_bins` of maps (N, C bins^2, h, w) by torchvision's operator, two to four times faster.

    `torchvision.ops.ps_roi_pool` leaves out the last row and column of the maps, and its gradient does not. A row and a
    column of zeros behind them, which no RoI inside the image reads, put both right. Computes in float32 under
    autocast.
    """
    height, width = maps.shape[-2:]
    limit = rois.new_tensor([width, height, width, height]) * stride
    inside = torch.cat([rois[:, :1], torch.minimum(rois[:, 1:].clamp(min=0), limit)], dim=1)
    padded = functional.pad(maps, (0, 1, 0, 1))
    return in_fp32(lambda all_maps, boxes: ps_roi_pool(all_maps, boxes.to(all_maps), bins, 1 / stride), padded, inside)


def assembled(maps: Tensor, boxes: Tensor) -> Tensor:
    """Return for each box the pixels of its bins, each from the map of its own bin, (n, H, W); -inf outside the box.

    So maps of parts become one map for each object. Source: J. Dai and others, "Instance-sensitive Fully Convolutional
    Networks", ECCV 2016, section 3.1.

    Args:
        maps: (k^2, H, W) of one class, at the image's size; map row * k + column belongs to bin (row, column).
        boxes: (n, 4) XYXY in pixels. A pixel belongs to the bin that its middle lies in.
    """
    bins, (height, width) = round(len(maps) ** 0.5), maps.shape[1:]
    y, x = torch.arange(height, device=maps.device) + 0.5, torch.arange(width, device=maps.device) + 0.5
    row = ((y - boxes[:, 1:2]) * bins / (boxes[:, 3:] - boxes[:, 1:2])).floor()  # (n, H)
    column = ((x - boxes[:, :1]) * bins / (boxes[:, 2:3] - boxes[:, :1])).floor()  # (n, W)
    inside = ((row >= 0) & (row < bins))[:, :, None] & ((column >= 0) & (column < bins))[:, None]
    channel = row.clamp(0, bins - 1)[:, :, None] * bins + column.clamp(0, bins - 1)[:, None]
    return torch.where(inside, maps.gather(0, channel.long()), -torch.inf)


class RFCN(nn.Module):
    """Images (N, 3, H, W) and RoIs (R, 5) -> class logits (R, num_classes) and shifts of the boxes (R, 4).

    Args:
        num_classes: C + 1; class 0 is "no object".
        bins: k. 1 is no position sensitivity: with it the paper's training does not converge.
        position_sensitive: With maps for each bin, and the mean of the bins as a vote. Without: bins x bins means of
            the features in the RoI, then one linear layer for the classes and one for the boxes (the "naive" network
            of the paper's table 2).
        depth: Of the ResNet, with `width` and `imagenet` as in `dilated_resnet`; 0 is five convolutions of `width`,
            2 `width` and 4 `width` maps with stride 4.
        output_stride: Of a ResNet.
        reduced: Maps that a 1x1 convolution makes of a ResNet's; 0 leaves it out.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        bins: int = 7,
        position_sensitive: bool = True,
        depth: int = 101,
        width: int = 64,
        output_stride: int = 16,
        reduced: int = 1024,
        imagenet: bool = False,
    ):
        super().__init__()
        self.num_classes, self.bins, self.position_sensitive = num_classes, bins, position_sensitive
        if depth:
            self.body = dilated_resnet(depth, width=width, output_stride=output_stride, imagenet=imagenet)
            self.stride, channels = output_stride, self.body.channels[-1]
        else:
            self.body, self.stride, channels = small_body(width), SMALL_STRIDE, 4 * width
        self.reduce = nn.Identity()
        if reduced:
            self.reduce = nn.Sequential(nn.Conv2d(channels, reduced, 1), nn.ReLU(inplace=True))
            channels = reduced
        if position_sensitive:
            self.scores = nn.Conv2d(channels, bins**2 * num_classes, 1)
            self.shifts = nn.Conv2d(channels, bins**2 * 4, 1)
        else:
            self.scores = nn.Linear(bins**2 * channels, num_classes)
            self.shifts = nn.Linear(bins**2 * channels, 4)
        for layer in (self.scores, self.shifts):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def encode(self, images: Tensor) -> Tensor:
        """Return the features that every RoI of an image shares, (N, D, H/stride, W/stride)."""
        features = self.body(images)
        return self.reduce(features[-1] if isinstance(features, list) else features)

    def score_maps(self, images: Tensor) -> Tensor:
        """Return the position-sensitive scores, (N, num_classes bins^2, H/stride, W/stride): see `pool_bins`."""
        return self.scores(self.encode(images))

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encode(images)
        if not self.position_sensitive:
            pooled = pool_bins(features, rois, self.bins, self.stride, position_sensitive=False).flatten(1)
            return self.scores(pooled), self.shifts(pooled)
        votes = (position_sensitive_pool(m, rois, self.bins, self.stride) for m in self.maps(features))
        logits, shifts = (bins.mean(dim=(2, 3)) for bins in votes)
        return logits, shifts

    def maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of the classes (N, num_classes bins^2, h, w) and of the boxes (N, 4 bins^2, h, w)."""
        return self.scores(features), self.shifts(features)


def small_body(width: int) -> nn.Sequential:
    """Return five 3x3 convolutions, (N, 3, H, W) -> (N, 4 width, H/4, W/4), of which the last two are dilated by 2."""
    return nn.Sequential(
        conv_norm_relu(3, width, stride=2),
        conv_norm_relu(width, 2 * width, stride=2),
        conv_norm_relu(2 * width, 2 * width),
        conv_norm_relu(2 * width, 4 * width, dilation=2),
        conv_norm_relu(4 * width, 4 * width, dilation=2),
    )
