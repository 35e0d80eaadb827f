"""The overlap-tile strategy: an image of any size through a network whose output is smaller than its input.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, figure 2.

Departures from the paper
* Tiles overlap by a few pixels, so that their pooling grids coincide.
"""

import torch
from torch import Tensor

from course_lib.data.transforms import normalise
from course_lib.models.blocks import mirror
from course_lib.models.unet import UNet
from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.progress import progress_bar


@torch.no_grad()
def predict_tiles(model: UNet, image: Tensor, *, tile: int = 388, show_progress: bool = True) -> Tensor:
    """Return the logits (classes, H, W) of an image of any size, computed tile by tile.

    Every pixel sees all the context that it would see in one pass, so there are no seams. Tiles start at
    multiples of the network's stride, where their pooling grids coincide: the result is that of one pass,
    number for number.

    Args:
        model: A U-Net with padding "valid", taken as in evaluation.
        image: (3, H, W) uint8; the missing context at its border is mirrored.
        tile: Side of a tile of the output in pixels; it decides the memory that is needed, not the result.

    Raises:
        ValueError: For a padded network and for tiles that do not fit.
    """
    if model.padding != "valid":
        raise ValueError('tiles of a network with padding "same" have seams: use padding "valid"')
    step = tile - tile % model.stride
    if tile < model.stride or model.fitting(tile) != tile:
        raise ValueError(f"a tile of {tile} does not fit the network; {model.fitting(tile)} does")
    device = next(model.parameters()).device
    _, height, width = image.shape
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    last_top, last_left = corners[-1]
    border, side = model.border, tile + 2 * model.border
    padded = mirror(
        normalise(image)[None], border, last_top + tile + border - height, border, last_left + tile + border - width
    )
    logits = torch.zeros(model.num_classes, last_top + tile, last_left + tile)
    with evaluating(model):
        for top, left in progress_bar(corners, "tiles", show=show_progress, delay=2):
            part = padded[..., top : top + side, left : left + side].to(device)
            logits[:, top : top + tile, left : left + tile] = model.forward_valid(part)[0].float().cpu()
    return logits[:, :height, :width]
