"""Empirical receptive fields: how much a cell changes when a patch of the image is covered.

Source: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Object Detectors Emerge in Deep Scene CNNs", ICLR
2015.

Departures from the paper

* Zhou et al. read a size off the averaged map. How is not known here: ours is the square root of the area
  over half of the maximum (`measured_size`), which finds the true size of a unit that weighs all of its
  field alike, because an occluder that covers such a unit's rim by half of itself changes it by half.
* How many images they averaged is not known here: `top_k` is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib.effective_field import LayerReader, measured_size
from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.progress import progress_bar
from course_lib.receptive_field import Field, LayerField, ReceptiveFields, receptive_fields


@dataclass(frozen=True)
class EmpiricalField:
    """What covering the image patch by patch shows of one unit; maps are in steps of `stride` pixels.

    Attributes:
        average: (h, w) mean discrepancy, the unit's own place in the middle.
        maps: One (gy, gx) discrepancy map an image, by the place of the occluder, not moved.
        images: Which of the images were used: those that excite the unit most.
        cells: Where in its map the unit answered most strongly, (row, column) an image.
        activations: How strongly.
    """

    average: Tensor
    maps: list[Tensor]
    images: list[int]
    cells: list[tuple[int, int]]
    activations: list[float]
    stride: int

    def size(self, threshold: float = 0.5) -> float:
        """Return the size in pixels, see `measured_size`."""
        return measured_size(self.average, step=self.stride, threshold=threshold)


def empirical_field(
    module: nn.Module,
    layer: str,
    unit: int,
    images: Tensor,
    *,
    occluder: int = 11,
    stride: int = 3,
    top_k: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    fields: ReceptiveFields | None = None,
    show_progress: bool = True,
) -> EmpiricalField:
    """Return the empirical receptive field of channel `unit` of a layer, by Zhou et al.'s procedure.

    The images that excite the unit most are covered with a patch of random pixels, place by place; the change
    of the unit where it was most excited, by the patch's place, is the image's discrepancy map. The maps are
    moved so that the unit's place is in the middle, and averaged.

    The network is taken as in evaluation.

    Args:
        images: (N, 3, H, W), normalised as the network expects them.
        occluder: Side of the patch in pixels.
        stride: Pixels from one place of the patch to the next.
        top_k: How many images are used.
        fields: Of the module on images of this size, where they are known already.
    """
    if not 1 <= top_k <= len(images):
        raise ValueError(f"top_k is {top_k}, but must be between 1 and the {len(images)} images")
    reader = LayerReader(module, layer)
    fields = fields or receptive_fields(module, tuple(images.shape[-2:]), channels=images.shape[1])
    patch = occluding_patch(images, occluder, seed)
    with evaluating(module), torch.no_grad():
        best, cells = most_exciting(reader, unit, images, top_k, batch_size)
        maps, strengths = [], []
        for image, cell in progress_bar(
            list(zip(best, cells, strict=True)), f"occluding, {layer} unit {unit}", show=show_progress
        ):
            found = discrepancy_map(reader, unit, images[image], cell, patch, stride, fields[layer], batch_size)
            maps.append(found)
            strengths.append(float(reader(images[image][None])[0, unit, cell[0], cell[1]]))
    centres = [(fields[layer].rows.centre(row), fields[layer].columns.centre(column)) for row, column in cells]
    average = centred_average(maps, centres, occluder, stride)
    return EmpiricalField(average, maps, best, cells, strengths, stride)


def occluding_patch(images: Tensor, size: int, seed: int = 0) -> Tensor:
    """Return (3, size, size) random pixels, evenly distributed between the images' darkest and brightest values."""
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    noise = torch.rand(len(low), size, size, generator=torch.Generator().manual_seed(seed))
    return low[:, None, None] + noise.to(images) * (high - low)[:, None, None]


def most_exciting(
    reader: LayerReader, unit: int, images: Tensor, top_k: int, batch_size: int = 256
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return which images excite a unit most, strongest first, and the cell (row, column) where each does."""
    strongest, places, width = [], [], 1
    for first in range(0, len(images), batch_size):
        maps = reader(images[first : first + batch_size])[:, unit]
        width = maps.shape[-1]
        values, where = maps.flatten(1).max(dim=1)
        strongest.append(values)
        places.append(where)
    best = torch.cat(strongest).topk(top_k).indices.tolist()
    where = torch.cat(places)[best].tolist()
    return best, [divmod(place, width) for place in where]


def grid_of(length: int, occluder: int, stride: int) -> list[int]:
    """Return the first pixels of the occluder along an axis: 72 of them for 224 pixels, 11 and 3."""
    if occluder > length:
        raise ValueError(f"an occluder of {occluder} pixels does not fit into {length}")
    return list(range(0, length - occluder + 1, stride))


def discrepancy_map(
    reader: LayerReader,
    unit: int,
    image: Tensor,
    cell: tuple[int, int],
    patch: Tensor,
    stride: int,
    field: LayerField,
    batch_size: int = 32,
) -> Tensor:
    """Return `|change of one cell|`, (gy, gx), by the place of `patch` (3, n, n) on `image` (3, H, W).

    The same numbers as covering the image at one place after another, but for two savings that change
    nothing. A patch that is outside the cell's theoretical field cannot change it, so the answer there is
    0 without asking. And the cell reads nothing outside its field, so that only this part of the image
    goes through the network, cut at a multiple of the jump so that the cells stay where they were. What is
    left runs in batches, channels-last, which poolings like on the CPU.
    """
    size, occluder = tuple(image.shape[-2:]), patch.shape[-1]
    rows, columns = (grid_of(length, occluder, stride) for length in size)
    top, left, bottom, right = field.box(cell, size)
    places = [
        (y, x, row, column)
        for y, row in enumerate(rows)
        if top - occluder < row < bottom
        for x, column in enumerate(columns)
        if left - occluder < column < right
    ]
    up, cell_row = _cut(field.rows, top, cell[0])
    across, cell_column = _cut(field.columns, left, cell[1])
    if not _can_be_cut(field):
        up, across, bottom, right = 0, 0, *size
        cell_row, cell_column = cell
    part = image[None, :, up:bottom, across:right].to(memory_format=torch.channels_last)
    before = reader(part)[0, unit, cell_row, cell_column]
    found = torch.zeros(len(rows), len(columns))
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        copies = part.expand(len(batch), -1, -1, -1).clone(memory_format=torch.channels_last)
        for copy_, (_, _, row, column) in zip(copies, batch, strict=True):
            _cover(copy_, patch, row - up, column - across)
        after = reader(copies)[:, unit, cell_row, cell_column]
        at = torch.tensor([place[:2] for place in batch])
        found[at[:, 0], at[:, 1]] = (after - before).abs().float().cpu()
    return found


def _cover(picture: Tensor, patch: Tensor, row: int, column: int) -> None:
    """Put `patch` on `picture` in place, cut off where it sticks out."""
    size = patch.shape[-1]
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + size, picture.shape[-2]), min(column + size, picture.shape[-1])
    picture[:, top:bottom, left:right] = patch[:, top - row : bottom - row, left - column : right - column]


def _can_be_cut(field: LayerField) -> bool:
    """Whether the cells are on a grid of whole pixels, so that the image may be moved under them."""
    return all(
        not axis.whole and axis.jump >= 1 and axis.jump == int(axis.jump) for axis in (field.rows, field.columns)
    )


def _cut(field: Field, first: int, cell: int) -> tuple[int, int]:
    """Return where to cut the image before pixel `first`, and the number of `cell` in what is left."""
    if field.whole or field.jump < 1:
        return 0, cell
    cells = first // int(field.jump)
    return cells * int(field.jump), cell - cells


def centred_average(
    maps: Sequence[Tensor], centres: Sequence[tuple[float, float]], occluder: int, stride: int
) -> Tensor:
    """Return the mean of discrepancy maps (gy, gx), each moved so that its unit's centre (y, x) is in the middle.

    A place of the result that no map covers is 0; elsewhere the mean is over the maps that cover it. The
    result is (2 gy - 1, 2 gx - 1), and moving is by whole steps of the grid.
    """
    height, width = maps[0].shape
    total = torch.zeros(2 * height - 1, 2 * width - 1)
    count = torch.zeros_like(total)
    for values, centre in zip(maps, centres, strict=True):
        y, x = (round((c - (occluder - 1) / 2) / stride) for c in centre)
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        part = slice(height - 1 - y, 2 * height - 1 - y), slice(width - 1 - x, 2 * width - 1 - x)
        total[part] += values
        count[part] += 1
    return total / count.clamp(min=1)
