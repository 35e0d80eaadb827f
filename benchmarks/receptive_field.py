"""Receptive fields: the occluder in batches against one place at a time, and the cost of a trace."""

import time

import torch
from torch import Tensor, nn

from benchmarks.measure import Result, in_turn
from course_lib.effective_field import LayerReader
from course_lib.empirical_field import discrepancy_map, grid_of, occluding_patch
from course_lib.models.alexnet import FCNAlexNet
from course_lib.receptive_field import receptive_fields

SIZE, OCCLUDER, STRIDE, PLACES = (224, 224), 11, 3, 60
LAYERS = {
    "features.pool1": (13, 13),
    "features.pool2": (6, 6),
    "features.conv3": (6, 6),
    "features.conv4": (6, 6),
    "features.pool5": (3, 3),
}


def measure() -> list[Result]:
    """On all cores, by the clock on the wall, as in a notebook: part of the gain is that batches use them."""
    torch.manual_seed(0)
    model = FCNAlexNet(9, width=16, fc_channels=64, norm=True).eval()
    return [occluder(model), trace(model)]


def occluder(model: nn.Module) -> Result:
    """A map of each of the five layers of Zhou et al.'s table. The loop is timed on some of its places."""
    image = torch.randn(3, *SIZE)
    patch, fields = occluding_patch(image[None], OCCLUDER), receptive_fields(model, SIZE)
    readers = {layer: LayerReader(model, layer) for layer in LAYERS}
    rows, columns = (grid_of(length, OCCLUDER, STRIDE) for length in SIZE)
    places = [(row, column) for row in rows for column in columns]
    some = places[:: len(places) // PLACES]

    def batched() -> list[Tensor]:
        return [
            discrepancy_map(readers[layer], 0, image, cell, patch, STRIDE, fields[layer])
            for layer, cell in LAYERS.items()
        ]

    def one_by_one() -> list[list[Tensor]]:
        """The same, as it is told: a copy of the picture, the patch on it, the network, the difference."""
        found = []
        for layer, cell in LAYERS.items():
            before = readers[layer](image[None])[0, 0, cell[0], cell[1]]
            values = []
            for row, column in some:
                covered = image.clone()
                covered[:, row : row + OCCLUDER, column : column + OCCLUDER] = patch
                after = readers[layer](covered[None])[0, 0, cell[0], cell[1]]
                values.append((after - before).abs())
            found.append(values)
        return found

    with torch.no_grad():
        for whole, part in zip(batched(), one_by_one(), strict=True):
            expected = torch.stack(part)
            found = whole.flatten()[:: len(places) // PLACES]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
        contestants = {"batched": batched, "some": one_by_one}
        seconds = in_turn(contestants, repeats=3, warm_up=0, clock=time.perf_counter)
    loop = seconds["some"] * len(places) / len(some)
    details = {"batched (s)": seconds["batched"], "loop (s)": loop, "places": len(places)}
    name = "discrepancy maps of five layers of AlexNet at 224x224, the loop's time over ours"
    return Result(name, loop / seconds["batched"], "times", 10, details)


def trace(model: nn.Module) -> Result:
    """What following the fields through a network costs, beside a forward pass of the same picture."""
    image = torch.randn(1, 3, *SIZE)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(image)

    contestants = {"trace": lambda: receptive_fields(model, SIZE), "forward": forward}
    seconds = in_turn(contestants, repeats=7)
    details = {f"{name} (ms)": 1000 * value for name, value in seconds.items()}
    name = "tracing the fields of FCN-AlexNet at 224x224"
    return Result(name, seconds["trace"], "s", 0.5, details, at_most=True)
