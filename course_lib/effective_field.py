"""Effective receptive fields: how strongly each pixel changes a cell, by its gradient.

Source: W. Luo, Y. Li, R. Urtasun, R. Zemel, "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks", NIPS 2016.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.suggest import did_you_mean
from course_lib.receptive_field import FieldError


class LayerReader:
    """Runs a network up to one of its layers and returns what that layer returned.

    Raises:
        FieldError: For a name that no layer has, or one that returns something else than one map.
    """

    def __init__(self, module: nn.Module, layer: str):
        names = dict(module.named_modules())
        if layer not in names:
            raise FieldError(f"no layer {layer!r}{did_you_mean(layer, names)}")
        self.module, self.layer, self.target = module, layer, names[layer]
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the layer's map (N, C, h, w) of images (N, 3, H, W); the layers behind it are not run."""
        found: list[Tensor] = []

        def keep(_, __, output):
            first = not self.calls and isinstance(output, Tensor)
            found.append(output.clone() if first else output)  # what comes next may write into it
            if len(found) == self.calls:
                raise _Reached

        hook = self.target.register_forward_hook(keep)
        try:
            self.module(images)
        except _Reached:
            pass
        finally:
            hook.remove()
        if not found or not isinstance(found[-1], Tensor) or found[-1].dim() != 4:
            raise FieldError(f"{self.layer!r} returns no map of shape (N, C, h, w)")
        self.calls = len(found)
        return found[-1]


class _Reached(Exception):
    """The layer has been run: nothing behind it is needed."""


def gradient_support(
    module: nn.Module, layer: str, cell: tuple[int, int], input_size: tuple[int, int] = (224, 224), *, channels: int = 3
) -> tuple[int, int, int, int]:
    """Return the box (top, left, bottom, right) of pixels that have a gradient to one cell: the field, measured.

    In a copy of the network every weight is made positive, so that nothing cancels and no ReLU closes, and
    max-pooling takes the mean, so that no cell is left out; then the pixels whose gradient is not zero
    are those that the cell can see. Bottom and right are the first that it does not see.
    """
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
            if parameter.dim() > 1:  # a mean over what it reads, so that numbers stay near 1
                parameter.div_(parameter[0].numel())
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.fill_(1.0 if name.endswith("var") else 0.0)
    images = torch.rand(1, channels, *input_size, dtype=torch.float64, requires_grad=True)
    with _MeanPooling():
        output = LayerReader(module, layer)(images)[0, :, cell[0], cell[1]].sum()
    (gradient,) = torch.autograd.grad(output, images)
    touched = gradient[0].abs().sum(dim=0) > 0
    rows, columns = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


class _MeanPooling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.max_pool2d, functional.max_pool2d):
            for name in ("dilation", "return_indices"):
                kwargs.pop(name, None)
            images, kernel, *rest = args
            stride = rest[0] if rest else kwargs.get("stride")
            padding = rest[1] if len(rest) > 1 else kwargs.get("padding", 0)
            ceil_mode = rest[3] if len(rest) > 3 else kwargs.get("ceil_mode", False)
            return functional.avg_pool2d(images, kernel, stride, padding, ceil_mode)
        return func(*args, **kwargs)


def effective_field(
    module: nn.Module,
    layer: str,
    images: Tensor,
    *,
    unit: int | None = None,
    cell: tuple[int, int] | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Return how strongly each pixel acts on one cell: (H, W), the mean over `images` of `|d cell / d pixel|`.

    The absolute values are added over the colour channels. The network is taken as in evaluation.

    Args:
        images: (N, 3, H, W), normalised as the network expects them.
        unit: Channel of the layer; None adds all of them up.
        cell: (row, column) in the layer's map; None takes the middle one.
    """
    reader, total = LayerReader(module, layer), torch.zeros(images.shape[-2:])
    with evaluating(module):
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size].detach().clone().requires_grad_(True)
            with torch.enable_grad():
                maps = reader(part)
                row, column = cell or (maps.shape[-2] // 2, maps.shape[-1] // 2)
                values = maps[:, :, row, column] if unit is None else maps[:, unit, row, column]
                (gradient,) = torch.autograd.grad(values.sum(), part)
            total += gradient.abs().sum(dim=(0, 1))
    return total / len(images)


def standard_deviations(values: Tensor) -> tuple[float, float]:
    """Return the standard deviation of a map of weights (H, W) along rows and columns, in cells of the map."""
    weights = values.double() / values.double().sum()
    found = []
    for share in (weights.sum(dim=1), weights.sum(dim=0)):
        where = torch.arange(len(share), dtype=torch.float64)
        mean = (share * where).sum()
        found.append(float((share * (where - mean) ** 2).sum().sqrt()))
    return found[0], found[1]


def measured_size(values: Tensor, *, step: float = 1.0, threshold: float = 0.5) -> float:
    """Return the side, in pixels, of a square as large as the area where a map is over a share of its maximum.

    Args:
        values: (h, w); 0 is returned where it is empty.
        step: Pixels between neighbouring cells of the map.
        threshold: The share, 0..1.
    """
    highest = values.max()
    if not highest > 0:
        return 0.0
    return float((values > threshold * highest).sum().sqrt()) * step
