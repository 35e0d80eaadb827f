"""HRNet: keep the high resolution, beside lower ones, and let them talk again and again.

K. Sun, Y. Zhao, B. Jiang and others, "High-Resolution Representations for Labeling Pixels and Regions", arXiv
1904.04514 (HRNetV2): figure 1 (streams), figure 2 (exchange), figure 3 (the heads V1 and V2), section 4.4 (V1h).

Departures from the authors' code

* Convolutions start from He's weights, not from a standard deviation of 0.001.
* An exchange that no head reads is left out, as in V1: the last module then makes the finest maps alone.
* `exchange=False` leaves all exchanges out, so that the streams meet in the head alone; not in the paper.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.resnet import BasicBlock, Bottleneck, resnet_initialisation


class Exchange(nn.Module):
    """Every stream becomes the sum of all of them: maps of channels c_0, c_1, .. -> the same shapes.

    Finer maps come down by strided 3x3 convolutions, one for each halving; coarser ones come up by a 1x1 and
    interpolation.

    Args:
        channels: Of the streams, from fine to coarse.
        outputs: How many of the streams are made, the finest first.
    """

    def __init__(self, channels: Sequence[int], outputs: int):
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        mixed = []
        for target, paths in enumerate(self.paths):
            size = streams[target].shape[-2:]
            moved = [path(stream) for path, stream in zip(paths, streams, strict=True)]
            moved = [x if x.shape[-2:] == size else resize_to(x, size) for x in moved]
            mixed.append(torch.relu(sum(moved)))
        return mixed


def _path(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """Return what brings stream `source` to the channels of `target`, and down to its size."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm_relu(channels[source], channels[target], 1)[:-1]
    path = nn.Sequential()
    for _ in range(source, target - 1):
        path.append(conv_norm_relu(channels[source], channels[source], stride=2))
    return path.append(conv_norm_relu(channels[source], channels[target], stride=2)[:-1])


class Module(nn.Module):
    """Residual units on every stream alone, then an exchange: a list of maps -> a list of maps."""

    def __init__(self, channels: Sequence[int], units: int, outputs: int, exchange: bool):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(count, count, 1, 1, 1) for _ in range(units))) for count in channels
        )
        self.exchange = Exchange(channels, outputs) if exchange else None

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        streams = [branch(stream) for branch, stream in zip(self.branches, streams, strict=True)]
        return streams if self.exchange is None else self.exchange(streams)


class HRNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        width: C, maps of the finest stream (1/4 of the size); those of 1/8, 1/16, 1/32 have 2C, 4C, 8C.
        stem: Maps of the two convolutions before it.
        bottlenecks: In the first stage.
        bottleneck_width: Of these; they give four times as many maps.
        modules: In the stages of two, three and four streams.
        units: Residual units of each stream in a module.
        head: "v2" (all streams side by side, 15C maps), "v1" (the finest alone) or "v1h" (the finest alone, brought to
            15C maps: a control of the head's width).
        exchange: Let the streams exchange at the end of each module.

    Raises:
        ValueError: For another `head`.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        width: int = 48,
        stem: int = 64,
        bottlenecks: int = 4,
        bottleneck_width: int = 64,
        modules: tuple[int, int, int] = (1, 4, 3),
        units: int = 4,
        head: Literal["v2", "v1", "v1h"] = "v2",
        exchange: bool = True,
    ):
        super().__init__()
        self.stem = nn.Sequential(conv_norm_relu(3, stem, stride=2), conv_norm_relu(stem, stem, stride=2))
        self.stage1 = nn.Sequential()
        before = stem
        for _ in range(bottlenecks):
            self.stage1.append(Bottleneck(before, bottleneck_width, 1, 1, 1))
            before = 4 * bottleneck_width
        channels = [width * 2**stream for stream in range(4)]
        self.first = conv_norm_relu(before, width)
        self.new_streams = nn.ModuleList(
            conv_norm_relu(source, target, stride=2)
            for source, target in zip([before, *channels[1:3]], channels[1:], strict=True)
        )
        self.stages = nn.ModuleList()
        for streams, count in enumerate(modules, start=2):
            last = streams == 4 and head != "v2"
            outputs = [streams] * (count - 1) + [1 if last else streams]
            self.stages.append(nn.Sequential(*(Module(channels[:streams], units, n, exchange) for n in outputs)))
        all_maps = sum(channels)
        read, mixed = {"v2": (all_maps, all_maps), "v1": (width, width), "v1h": (width, all_maps)}.get(head, (0, 0))
        if not read:
            raise ValueError(f"head {head!r} is none of v2, v1, v1h")
        self.reads_all = head == "v2"
        self.mix = nn.Sequential(nn.Conv2d(read, mixed, 1), nn.BatchNorm2d(mixed), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(mixed, num_classes, 1)
        resnet_initialisation(self)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the streams after the last stage: (N, C, H/4, W/4), (N, 2C, H/8, W/8) .. (N, 8C, H/32, W/32)."""
        x = self.stage1(self.stem(images))  # (N, 256, H/4, W/4)
        streams, deepest = [self.first(x)], x
        for new_stream, stage in zip(self.new_streams, self.stages, strict=True):
            streams = stage([*streams, new_stream(deepest)])
            deepest = streams[-1]
        return streams

    def decode(self, streams: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/4, W/4)."""
        x = streams[0]
        if self.reads_all:
            x = torch.cat([x, *(resize_to(stream, x.shape[-2:]) for stream in streams[1:])], dim=1)  # (N, 15C, ..)
        return self.classifier(self.mix(x))

    def forward(self, images: Tensor) -> Tensor:
        scores = self.decode(self.encode(images))
        return resize_to(scores, images.shape[-2:])
