"""Deformable ConvNets: layers that learn where to read.

J. Dai, H. Qi, Y. Xiong, Y. Li, G. Zhang, H. Hu, Y. Wei, "Deformable Convolutional Networks", ICCV 2017, arXiv
1703.06211: equations 2 to 4 and figure 2 (the convolution), equations 5 and 6 with figure 4 (position-sensitive
pooling), section 3.3 (DeepLab).

Departures from the paper

* A sample beyond the map reads a frame of zeros one cell wide, as the authors' operator does since the end of 2018;
  the paper has 0 and no gradient there.
* Offsets have one set for all channels; the authors' detectors have four, one for each quarter of the channels.
* Pooling averages a grid of samples in every bin, each in the middle of its part; the authors' samples stand at the
  parts' corners, and the paper averages all cells of a bin.
* Batch normalisation learns; the authors freeze it. DeepLab's logits are resized with pixel areas aligned.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.resnet import dilated_resnet
from course_lib.plumbing.precision import in_fp32


def sample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return maps (N, C, h, w) at fractional places: rows and columns (N, p, q) in cells -> (N, C, p, q).

    Bilinear; (0, 0) is the middle of the first cell, and beyond the map everything is 0. Source: equations 3 and 4.
    """
    height, width = maps.shape[-2:]
    grid = torch.stack([(2 * columns + 1) / width, (2 * rows + 1) / height], dim=-1) - 1  # -1 .. 1, x first
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def deform_conv(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Return y(p) = sum over taps n of w_n x(p + p_n + offset_n(p)): (N, C, h, w) -> (N, out, h, w), stride 1.

    With offsets of 0 it is the ordinary convolution with zeros around the map.

    Args:
        x: (N, C, h, w).
        offsets: (N, 2k^2, h, w) in cells: (down, right) of each tap, the taps row by row (torchvision's order).
        weight: (out, C, k, k), k odd.
        bias: (out,).
        dilation: Cells between the taps before they are moved.

    Raises:
        ValueError: For an even kernel and for offsets of another shape.

    Source: equation 2.
    """
    count, channels, height, width = x.shape
    side = weight.shape[-1]
    if side % 2 == 0:
        raise ValueError(f"the kernel has a middle: its side is odd, not {side}")
    if offsets.shape != (count, 2 * side**2, height, width):
        raise ValueError(f"offsets are {(count, 2 * side**2, height, width)}, not {tuple(offsets.shape)}")
    taps = dilation * (torch.arange(side, device=x.device) - side // 2)
    down, right = offsets.unflatten(1, (side**2, 2)).unbind(2)  # (N, k^2, h, w) each
    rows = torch.arange(height, device=x.device)[:, None] + taps.repeat_interleave(side)[:, None, None] + down
    columns = torch.arange(width, device=x.device) + taps.repeat(side)[:, None, None] + right
    read = sample(x, rows.flatten(1, 2), columns.flatten(1, 2))  # (N, C, k^2 h, w)
    read = read.reshape(count, channels * side**2, height * width)
    y = (weight.flatten(1) @ read).view(count, -1, height, width)
    return y if bias is None else y + bias.view(-1, 1, 1)


class DeformableConv2d(nn.Module):
    """A convolution of stride 1 whose taps move: (N, in, h, w) -> (N, out, h, w).

    The offsets come from a second convolution on the same maps, with the same kernel and dilation. It starts from
    zero, and the layer as the ordinary convolution `convolution`.

    Args:
        size: Side k of the kernel, odd.
        offset_rate: Factor on the learning rate of the offsets (the paper: 1); see `plumbing.rates`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        dilation: int = 1,
        bias: bool = True,
        offset_rate: float = 1.0,
    ):
        super().__init__()
        same = {"padding": dilation * (size // 2), "dilation": dilation}
        self.convolution = nn.Conv2d(inputs, outputs, size, bias=bias, **same)
        self.offsets = nn.Conv2d(inputs, 2 * size**2, size, **same)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)
        self.offsets.learning_rate_factor = offset_rate

    def forward(self, x: Tensor) -> Tensor:
        plain = self.convolution
        # an offset of 20 cells in bfloat16 is right to a tenth of a cell only
        offsets = in_fp32(self.offsets, x)
        return in_fp32(deform_conv, x, offsets, plain.weight, plain.bias, plain.dilation[0])


def deformed(convolution: nn.Conv2d, offset_rate: float = 1.0) -> DeformableConv2d:
    """Return a deformable convolution that starts as `convolution`, with its weights themselves.

    Raises:
        ValueError: For a convolution with a stride, groups, a kernel that is not square and odd, or other padding
            than "same".
    """
    side, dilation = convolution.kernel_size[0], convolution.dilation[0]
    same = {"stride": (1, 1), "groups": 1, "kernel_size": (side, side), "dilation": (dilation, dilation)}
    same["padding"] = (dilation * (side // 2),) * 2
    other = {name: getattr(convolution, name) for name, value in same.items() if getattr(convolution, name) != value}
    if other or side % 2 == 0:
        raise ValueError(f"only an odd square kernel with stride 1 and padding that keeps the size: {convolution}")
    bias = convolution.bias is not None
    layer = DeformableConv2d(
        convolution.in_channels, convolution.out_channels, side, dilation=dilation, bias=bias, offset_rate=offset_rate
    )
    layer.convolution = convolution
    return layer


# -- position-sensitive pooling -----------------------------------------------------------------------------------


def deform_ps_pool(
    maps: Tensor,
    rois: Tensor,
    bins: int,
    *,
    moves: Tensor | None = None,
    gamma: float = 0.1,
    scale: float = 1.0,
    samples: int = 2,
) -> Tensor:
    """Return what each bin of each box reads on its own map: (N, C k^2, h, w) and R boxes -> (R, C, k, k).

    Bin (i, j) of class c reads map (c k + i) k + j, at a grid of places in the bin. A place over half a cell outside
    the map reads 0, one nearer the cell at the border: without moves it is torchvision's `ps_roi_align`.

    Args:
        maps: (N, C k^2, h, w), the classes outermost, then the rows of bins.
        rois: (R, 5): the number of the image, and XYXY in pixels, right and bottom just outside.
        bins: k.
        moves: (R, C, 2, k, k), down and right of each bin, in box heights and widths over `gamma`; C may be 1.
        gamma: Factor of the moves (the paper: 0.1).
        scale: Cells a pixel.
        samples: Places a bin, each way.

    Source: equations 5 and 6, figure 4.
    """
    classes, (height, width) = maps.shape[1] // bins**2, maps.shape[-2:]
    if maps.shape[1] != classes * bins**2:
        raise ValueError(f"{maps.shape[1]} maps are no multiple of {bins}x{bins} bins")
    pictures, left, top, right, bottom = rois.unbind(1)
    left, top, right, bottom = (scale * side for side in (left, top, right, bottom))
    tall, wide = bottom - top, right - left  # (R,)
    moved = rois.new_zeros(len(rois), 1, 2, bins, bins) if moves is None else gamma * moves
    moved = moved.expand(-1, classes, -1, -1, -1)
    within = (torch.arange(samples, device=rois.device).to(rois) + 0.5) / samples
    rows = (torch.arange(bins, device=maps.device)[:, None] + within) / bins  # (k, s), as a part of the box
    own = maps.unflatten(1, (classes, bins, bins))
    result = maps.new_zeros(len(rois), classes, bins, bins)
    for picture in range(len(maps)):
        (here,) = torch.where(pictures == picture)
        for i, j in torch.cartesian_prod(torch.arange(bins), torch.arange(bins)).tolist():
            down, across = moved[here, :, :, i, j].permute(2, 1, 0)  # (C, R) each
            y = top[here] + (rows[i][:, None, None] + down) * tall[here] - 0.5  # (s, C, R) in cells
            x = left[here] + (rows[j][:, None, None] + across) * wide[here] - 0.5
            y, x = (one.movedim(0, -1) for one in (y, x))  # (C, R, s)
            outside = _outside(y, height)[..., :, None] | _outside(x, width)[..., None, :]  # (C, R, s, s)
            y = y.clamp(0, height - 1)[..., :, None].expand(outside.shape).flatten(2)
            x = x.clamp(0, width - 1)[..., None, :].expand(outside.shape).flatten(2)
            read = sample(own[picture, :, i, j][:, None], y, x)[:, 0]  # (C, R, s^2)
            result[here, :, i, j] = (read * ~outside.flatten(2)).mean(2).T
    return result


def _outside(places: Tensor, side: int) -> Tensor:
    return (places < -1) | (places > side)


class DeformablePSPooling(nn.Module):
    """Position-sensitive pooling whose bins move: (N, channels, h, w), score maps and R boxes -> (R, C, k, k).

    A 1x1 convolution makes 2 C k^2 offset maps, which are pooled in the ordinary way: a move of each bin for each
    class. It starts from zero.

    Args:
        channels: Of the features that the offset maps are made of.
        classes: C, the background included.
        bins: k.
        gamma: Factor of the moves.
        scale: Cells a pixel.
        offset_rate: Factor on the learning rate of the offset maps.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        bins: int,
        *,
        gamma: float = 0.1,
        scale: float = 1.0,
        offset_rate: float = 1.0,
    ):
        super().__init__()
        self.bins, self.gamma, self.scale = bins, gamma, scale
        self.offsets = nn.Conv2d(channels, 2 * classes * bins**2, 1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)
        self.offsets.learning_rate_factor = offset_rate

    def forward(self, features: Tensor, maps: Tensor, rois: Tensor) -> Tensor:
        moves = deform_ps_pool(self.offsets(features), rois, self.bins, scale=self.scale)  # (R, 2C, k, k)
        moves = moves.unflatten(1, (-1, 2))
        return deform_ps_pool(maps, rois, self.bins, moves=moves, gamma=self.gamma, scale=self.scale)


# -- networks -----------------------------------------------------------------------------------------------------


class DeformableDeepLab(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    A ResNet of output stride 16 whose last 3x3 convolutions are deformable, and a classifier of two 1x1.

    Args:
        depth: Of the backbone, as `width` and `imagenet`: see `dilated_resnet`.
        deformable: How many of the backbone's last blocks have a deformable 3x3 convolution (the paper: 3).
        dilation: Of the last group's 3x3 convolutions (the paper: 2, and 4, 6, 8 without deformable ones).
        channels: Of the classifier's first 1x1.
        offset_rate: Factor on the learning rate of the offsets.

    Raises:
        ValueError: For more deformable blocks than the last group has.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 101,
        width: int = 64,
        deformable: int = 3,
        dilation: int = 2,
        channels: int = 1024,
        offset_rate: float = 1.0,
        imagenet: bool = False,
    ):
        super().__init__()
        self.backbone = dilated_resnet(depth, width=width, output_stride=16, imagenet=imagenet)
        last = self.backbone.layer4
        if not 0 <= deformable <= len(last):
            raise ValueError(f"deformable is 0 to {len(last)} blocks of a ResNet-{depth}, not {deformable}")
        for block in last:
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (dilation, dilation)
        for block in last[len(last) - deformable :]:
            block.conv2 = deformed(block.conv2, offset_rate)
        self.reduce = nn.Sequential(nn.Conv2d(self.backbone.channels[-1], channels, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1]  # (N, 2048, H/16, W/16)
        return resize_to(self.classifier(self.reduce(features)), images.shape[-2:])


class DeformableStack(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W), of a few layers: small enough to see what an offset does.

    Two strided 3x3 convolutions, then `layers` 3x3 ones of one kind at a quarter of the size, then 1x1. Not the
    paper's: its networks see whole images without deformable layers.

    Args:
        width: Channels at a quarter of the size.
        layers: How many 3x3 convolutions there are.
        deformable: How many of them, the last ones, are deformable.
        dilation: Of all of them.
        offset_rate: Factor on the learning rate of the offsets.
    """

    def __init__(
        self,
        num_classes: int = 8,
        *,
        width: int = 32,
        layers: int = 3,
        deformable: int = 3,
        dilation: int = 1,
        offset_rate: float = 1.0,
    ):
        super().__init__()
        if not 0 <= deformable <= layers:
            raise ValueError(f"deformable is 0 to {layers} layers, not {deformable}")
        self.stem = nn.Sequential(
            *conv_norm_relu(3, width // 2, stride=2), *conv_norm_relu(width // 2, width, stride=2)
        )
        self.layers = nn.ModuleList(conv_norm_relu(width, width, dilation=dilation) for _ in range(layers))
        for layer in self.layers[layers - deformable :]:
            layer[0] = deformed(layer[0], offset_rate)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (N, width, H/4, W/4)
        for layer in self.layers:
            x = layer(x)
        return resize_to(self.classifier(x), images.shape[-2:])
