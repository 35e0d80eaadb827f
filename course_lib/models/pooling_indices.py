"""Max-pooling that remembers where each maximum was, and its inverse, unpooling.

V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation", PAMI 2017 (arXiv 1511.00561), section 3. Every 2x2 max-pooling remembers which of its four
values was the largest. Unpooling puts each value back there and leaves zeros elsewhere. torch counts such positions
in int64; `pack_indices` keeps them in two bits each.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


def pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """Pool 2x2, rounding up, with the position of each maximum.

    Returns:
        Of (N, C, H, W) the maxima (N, C, h, w), h = ceil(H / 2), and int64 positions of the same shape, each
        row * W + column in the map (H, W) that was pooled.
    """
    return functional.max_pool2d(features, 2, stride=2, ceil_mode=True, return_indices=True)


def unpool(values: Tensor, indices: Tensor, size: Size) -> Tensor:
    """Put each value of (N, C, h, w) at its position from `pool`, zeros elsewhere: `(N, C, *size)`."""
    return functional.max_unpool2d(values, indices, 2, stride=2, output_size=size)


def pack_indices(indices: Tensor, width: int) -> Tensor:
    """Pack the positions of 2x2 maxima into two bits each, four windows a byte.

    Args:
        indices: (N, C, h, w) int64 from `pool`.
        width: W of the map that was pooled.

    Returns:
        (N, C, ceil(h * w / 4)) uint8. The two bits are the row and the column within the window.
    """
    row, column = indices // width % 2, indices % width % 2
    corners = (2 * row + column).to(torch.uint8).flatten(2)  # (N, C, h * w), 0..3
    corners = functional.pad(corners, (0, -corners.shape[-1] % 4)).unflatten(-1, (-1, 4))
    first, second, third, fourth = corners.unbind(-1)
    return first | second << 2 | third << 4 | fourth << 6


def unpack_indices(packed: Tensor, size: Size) -> Tensor:
    """Undo `pack_indices`: (N, C, h, w) int64 positions in the map of `size` = (H, W).

    Raises:
        ValueError: Where `packed` is not of a map of that size.
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

    Attributes:
        sizes: (H, W) of the maps before each pooling.
        indices: Positions of the maxima: int64 in training, packed uint8 in evaluation.
        maps: Features (N, C, H/2, W/2), (.., H/4, ..), .. that will be added.
    """

    sizes: list[Size]
    indices: list[Tensor]
    maps: list[Tensor]

    def nbytes(self) -> int:
        """Return the bytes of all tensors that are kept."""
        return sum(tensor.nbytes for tensor in (*self.indices, *self.maps))

    def unpool(self, values: Tensor, level: int) -> Tensor:
        """Undo the pooling `level` (0 is the finest): `(N, C, h, w) -> (N, C, *sizes[level])`."""
        indices, size = self.indices[level], self.sizes[level]
        if indices.dtype == torch.uint8:
            indices = unpack_indices(indices, size)
        return unpool(values, indices, size)


def keep_positions(features: Tensor, memory: Memory, *, packed: bool) -> Tensor:
    """Pool, and write into `memory` what unpooling will need: (N, C, H, W) -> (N, C, H/2, W/2)."""
    size = tuple(features.shape[-2:])
    features, indices = pool(features)
    memory.sizes.append(size)
    memory.indices.append(pack_indices(indices, size[1]) if packed else indices)
    return features
