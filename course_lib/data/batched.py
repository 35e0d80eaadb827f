"""The changes of `data.transforms` made to a whole batch at once, where its images lie: on a GPU.

Scaling, cropping and mirroring are one product with the weights of the rows and one with those of the columns, the
weights of torch's bilinear resize; labels are fetched by index. Elastic deformation is a sampling grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from course_lib.data.transforms import COLOURS, MEAN_COLOUR, Change, column

KINDS = {name: number for number, name in enumerate(COLOURS)}
GREY = (0.2989, 0.587, 0.114)
"""torchvision's weights of red, green and blue."""
AROUND = tuple(map(float, MEAN_COLOUR))


class Window:
    """Where each pixel of a batch of crops comes from: its place (`y`, `x`) in its rescaled image.

    Args:
        changes: What is done to each of N images.
        old: (H, W) of the images.
        new: (h, w) of the crops.
        device: Of the images.
    """

    def __init__(self, changes: Sequence[Change], old: tuple[int, int], new: tuple[int, int], device: torch.device):
        numbers = [[*change.size, *change.corner, change.mirrored] for change in changes]
        parts = to_device(torch.tensor(numbers, dtype=torch.float64), device).view(-1, 5, 1, 1)
        self.height, self.width, top, left, mirrored = parts.unbind(1)  # (N, 1, 1) each
        self.old = old
        self.canvas = tuple(max(sides) for sides in zip(*(change.size for change in changes), strict=True))
        columns = torch.arange(new[1], device=device)
        self.y = top + torch.arange(new[0], device=device)[:, None]  # (N, h, 1)
        self.x = left + torch.where(mirrored > 0, new[1] - 1 - columns, columns)  # (N, 1, w)
        self.inside = (self.y < self.height) & (self.x < self.width)  # (N, h, w)
        self.bent = changes[0].arrows is not None
        if self.bent:
            self._bend(to_device(torch.stack([change.arrows for change in changes]), device))

    def _bend(self, arrows: Tensor) -> None:
        """Add the displacements between `arrows` (N, 2, 3, 3) to the places, which become (N, h, w) each."""
        across = 2 * self.x / (self.width - 1).clamp(min=1) - 1
        down = 2 * self.y / (self.height - 1).clamp(min=1) - 1
        grid = torch.stack(torch.broadcast_tensors(across, down), dim=-1).float()  # (N, h, w, 2)
        moves = grid_sample(arrows, grid, "bicubic", "border", align_corners=True)
        self.x, self.y = self.x + moves[:, 0], self.y + moves[:, 1]

    def read(self, planes: Tensor, antialias: bool = True) -> Tensor:
        """Return planes (N, C, H, W) float read bilinearly, (N, C, h, w); 0 where the images have nothing."""
        if not self.bent:
            return self._resized(planes, self.y, self.x, antialias)
        if self.canvas != self.old:
            rows, columns = (torch.arange(side, device=planes.device) for side in self.canvas)
            planes = self._resized(planes, rows[None, :, None], columns[None, None], antialias)
        height, width = planes.shape[2:]
        grid = torch.stack([(2 * self.x + 1) / width - 1, (2 * self.y + 1) / height - 1], dim=-1)
        return grid_sample(planes, grid.float(), "bilinear", "zeros", align_corners=False) * self.inside[:, None]

    def _resized(self, planes: Tensor, y: Tensor, x: Tensor, antialias: bool) -> Tensor:
        rows = resize_weights(y, self.height, self.old[0], antialias)
        columns = resize_weights(x.mT, self.width, self.old[1], antialias)
        return rows[:, None] @ (planes @ columns[:, None].mT)

    def nearest(self, labels: Tensor, fill: int) -> Tensor:
        """Return labels (N, H, W) at the nearest pixels, (N, h, w) int64; `fill` where the images have nothing."""
        y, x, inside = self.y, self.x, self.inside
        if self.bent:
            y, x = y.round(), x.round()
            inside = inside & (y >= 0) & (x >= 0) & (y < self.height) & (x < self.width)
        pictures = torch.arange(len(labels), device=labels.device)[:, None, None]
        found = labels[pictures, nearest_pixel(y, self.height, self.old[0]), nearest_pixel(x, self.width, self.old[1])]
        return torch.where(inside, found.long(), fill)

    def images(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) uint8 as (N, 3, h, w) float of whole numbers, ImageNet's mean colour around them."""
        covered = pad(images, (0, 0, 0, 0, 0, 1), value=1)  # a fourth channel of ones
        found, share = self.read(covered.float()).split([3, 1], dim=1)
        colour = column(AROUND, found.device)
        return (share * (found - colour) + colour).round()


def resize_weights(places: Tensor, new: Tensor, old: int, antialias: bool) -> Tensor:
    """Return the weights of the `old` pixels of a row, (N, n, old), for `places` (N, n, 1) after resizing it to `new`.

    They are those of torch's bilinear resize, and 0 for places at `new` and behind.
    """
    ratio = old / new
    reach = ratio.clamp(min=1) if antialias else torch.ones_like(ratio)
    centres, reach = ((places + 0.5) * ratio).float(), reach.float()
    pixels = torch.arange(old, device=new.device) + 0.5
    weights = (1 - (pixels - centres).abs() / reach).clamp(min=0)
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6) * (places < new)


def nearest_pixel(places: Tensor, new: Tensor, old: int) -> Tensor:
    """Return which of `old` pixels torch's "nearest-exact" resize to `new` has at `places`, int64."""
    ratio = (old / new).float().double()  # torch computes it in float32
    return ((places + 0.5) * ratio).float().long().clamp(0, old - 1)


def jitter(images: Tensor, changes: Sequence[Change]) -> Tensor:
    """Return images (N, 3, h, w), whole numbers 0..255 in float, with the colours of each changed as it says.

    As in torchvision, brightness blends with black, contrast with the mean grey and saturation with the grey of the
    pixel, and each result is cut to a whole number.
    """
    if not changes[0].colours:
        return images
    numbers = [[(KINDS[name], factor) for name, factor in change.colours] for change in changes]
    for turn in to_device(torch.tensor(numbers), images.device).unbind(1):  # (N, 2)
        kind, factor = turn.view(-1, 2, 1, 1, 1).unbind(1)
        grey = (images * column(GREY, images.device)).sum(1, keepdim=True).floor()
        other = (kind == KINDS["saturation"]) * grey
        other = other + (kind == KINDS["contrast"]) * grey.mean((1, 2, 3), keepdim=True)
        images = (factor * images + (1 - factor) * other).clamp(0, 255).floor()
    return images


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a small CPU tensor on `device`, without waiting for what a GPU still computes."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
