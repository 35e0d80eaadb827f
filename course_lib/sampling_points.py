"""Where convolutions read: the sampling points of a unit through several layers, and effective dilation.

J. Dai and others, "Deformable Convolutional Networks", ICCV 2017: figures 5 and 6 (three 3x3 layers have 9^3 = 729
points), and section 4.1 with table 2 (effective dilation).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.models.deformable import DeformableConv2d, sample
from course_lib.plumbing.modes import evaluating


@torch.no_grad()
def layer_taps(model: nn.Module, layers: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """Return where the taps of each of `layers` lie around every cell, (N, k^2, 2, h, w): down and right, in cells.

    Args:
        model: Network that runs the layers; it keeps its mode.
        layers: Convolutions of stride 1, ordinary ones, whose taps are the same everywhere, or deformable ones.
        images: (N, 3, H, W), as the network takes them.

    Raises:
        ValueError: For a layer that the network does not run.
    """
    found: dict[int, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        plain = layer.convolution if isinstance(layer, DeformableConv2d) else layer
        side, dilation = plain.kernel_size[0], plain.dilation[0]
        steps = dilation * (torch.arange(side, device=output.device) - side // 2).float()
        regular = torch.stack([steps.repeat_interleave(side), steps.repeat(side)], dim=1)  # (k^2, 2)
        taps = regular[None, :, :, None, None].expand(len(output), -1, -1, *output.shape[-2:])
        if isinstance(layer, DeformableConv2d):
            taps = taps + layer.offsets(inputs[0]).unflatten(1, (side**2, 2))
        found[id(layer)] = taps

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) < len(layers):
        raise ValueError(f"the network runs {len(found)} of the {len(layers)} layers")
    return [found[id(layer)] for layer in layers]


def sampling_points(taps: Sequence[Tensor], cell: tuple[float, float]) -> Tensor:
    """Return all that a unit reads through several layers, (k^2 ** layers, 2): rows and columns in cells.

    A tap of the last layer lands between cells of the one before; its taps there are interpolated as its values are,
    and outside the map they are those of the nearest cell.

    Args:
        taps: From `layer_taps`, of one image, (1, k^2, 2, h, w) each, in the order of the network.
        cell: Row and column of the unit.
    """
    points = torch.tensor([cell], dtype=torch.float32, device=taps[0].device)  # (P, 2)
    for around in reversed(taps):
        height, width = around.shape[-2:]
        rows, columns = points[:, 0].clamp(0, height - 1), points[:, 1].clamp(0, width - 1)
        here = sample(around.flatten(1, 2), rows[None, None], columns[None, None])[0, :, 0]  # (2 k^2, P)
        points = (points[:, None] + here.unflatten(0, (-1, 2)).permute(2, 0, 1)).flatten(0, 1)  # (P k^2, 2)
    return points


def effective_dilation(taps: Tensor) -> Tensor:
    """Return the mean distance of neighbouring taps in every cell, (N, h, w), of taps (N, k^2, 2, h, w).

    Neighbours lie side by side or above each other in the kernel: for 3x3 they are twelve pairs. For a convolution of
    dilation d it is d.
    """
    side = round(taps.shape[1] ** 0.5)
    grid = taps.unflatten(1, (side, side))  # (N, k, k, 2, h, w)
    pairs = (grid[:, 1:] - grid[:, :-1]).flatten(1, 2), (grid[:, :, 1:] - grid[:, :, :-1]).flatten(1, 2)
    return torch.cat(pairs, dim=1).norm(dim=2).mean(dim=1)
