"""Layers that several papers share."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.plumbing.precision import in_fp32


def conv_norm_relu(
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | Literal["same", "valid"] = "same",
    groups: int = 1,
    norm: bool = True,
) -> nn.Sequential:
    """Return a convolution, its batch normalisation and a ReLU.

    Args:
        inputs: Channels of the maps (N, inputs, h, w) that the convolution reads.
        outputs: Channels of its result, (N, outputs, h / stride, w / stride) with padding "same".
        size: Side of the kernel.
        stride: Cells from one place of the kernel to the next.
        dilation: Cells from one weight of the kernel to the next.
        padding: Zeros on each side: a number, "same" (dilation * (size // 2)) or "valid" (none).
        groups: Equal parts of the channels that are convolved apart.
        norm: Normalise; without it there is no such layer, and the convolution has a bias.
    """
    border = {"same": dilation * (size // 2), "valid": 0}.get(padding, padding)
    layers = nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, border, dilation, groups, bias=not norm))
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    return layers.append(nn.ReLU(inplace=True))


def bilinear_kernel(size: int) -> Tensor:
    """Return the (size, size) weights with which a transposed convolution interpolates bilinearly.

    With f = ceil(size / 2) and the middle at (size - 1) / 2 the weight falls linearly from 1 to 0 over f
    pixels. A stride of f and a size of 2f - f % 2 interpolate exactly. Source: FCN's surgery.py.
    """
    factor = (size + 1) // 2
    middle = factor - 1 if size % 2 else factor - 0.5
    weights = 1 - (torch.arange(size) - middle).abs() / factor
    return weights[:, None] * weights[None, :]


class BilinearUpsampling(nn.ConvTranspose2d):
    """Transposed convolution that starts as (and, frozen, stays) bilinear interpolation.

    (N, C, h, w) -> (N, C, factor * (h + 1), factor * (w + 1)): a kernel of 2 * factor, no padding, so the
    caller crops. Source: FCN, CVPR 2015, section 3.3.

    Args:
        channels: C, the classes.
        factor: How many times larger the maps become.
        learned: Whether the weights are trained. Class c reads class c only at the start; a learned layer may
            mix classes later, a frozen one cannot and therefore keeps one kernel a class.
    """

    def __init__(self, channels: int, factor: int, *, learned: bool):
        super().__init__(
            channels, channels, kernel_size=2 * factor, stride=factor, bias=False, groups=1 if learned else channels
        )
        with torch.no_grad():
            self.weight.zero_()
            diagonal = range(channels) if learned else 0
            self.weight[range(channels), diagonal] = bilinear_kernel(2 * factor)
        self.weight.requires_grad_(learned)

    def forward(self, scores: Tensor) -> Tensor:
        # in bfloat16 a grouped transposed convolution is ten times slower on the CPU, and less exact; with
        # kernels of 8x8 and larger some processors return garbage (benchmarks/README.md)
        if self.groups == 1 and self.kernel_size[0] < 8:
            return super().forward(scores)
        return in_fp32(super().forward, scores)


def resize_to(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample (N, C, h, w) bilinearly to `size` = (H, W), pixel areas aligned (not corners)."""
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def mirror(images: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Continue images (..., H, W) by `top`, ... pixels on each side, mirrored at the outermost pixel.

    Where more is asked for than the image has, it is mirrored again and again.
    """
    for dimension, before, after in ((-2, top, bottom), (-1, left, right)):
        if before or after:
            side = images.shape[dimension]
            position = torch.arange(-before, side + after, device=images.device)
            period = max(2 * (side - 1), 1)
            folded = (side - 1) - ((position % period) - (side - 1)).abs()
            images = images.index_select(dimension, folded)
    return images


def he_initialisation(module: nn.Module) -> None:
    """Give every convolution in `module` (transposed ones excepted) He's normal weights and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights and statistics of `source` into `target`, which has the same layers under other names.

    Args:
        source: The network that is read, such as one of a library.
        target: The network that is written to; its layers were made in the same order.

    Raises:
        ValueError: Where the number of tensors differs.
        RuntimeError: Where a shape does.
    """
    values = source.state_dict().values()
    target.load_state_dict(dict(zip(target.state_dict(), values, strict=True)))


class PointwiseConv(nn.Conv2d):
    """1x1 convolution without bias, (N, channels, h, w) -> (N, out, h/stride, w/stride), as shortcuts need it.

    It drops pixels before the convolution, not in it. The numbers are the same, but oneDNN 3.13, PyTorch
    2.15's convolutions on CPUs, destroys memory in the backward pass of a strided 1x1 convolution with fewer
    than 16 channels in channels-last order (its issue 6035): a wrong gradient, or a crash.
    """

    def __init__(self, channels: int, out: int, *, stride: int = 1):
        super().__init__(channels, out, kernel_size=1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        step = self.stride[0]
        return functional.conv2d(features[..., ::step, ::step], self.weight)
