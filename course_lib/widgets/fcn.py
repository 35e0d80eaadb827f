"""The explorer of a fully convolutional network: its scores at each stride, and what its skips do.

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, figure 3. The
network itself runs in the page (`fcn.js`), so that a reader's own image never leaves it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.transforms import normalise
from course_lib.models.fcn import FCN, fuse
from course_lib.plotting import colourise, error_map
from course_lib.plumbing.modes import evaluating
from course_lib.widgets.explorer import Answer, Button, Choice, Event, Explorer, Panel, Slider, Upload, View
from course_lib.widgets.pixels import bytes_of, enlarged, halves, heat, hexes, tables

SKIPS = ("none (as 32s)", "pool4 (as 16s)", "pool4 and pool3 (8s)")
WIDTH = 230
"""Pixels of the screen that a panel is wide."""


@torch.no_grad()
def scores_of(network: FCN, image: Tensor) -> dict[int, Tensor]:
    """Return the scores (C, h, w) at strides 32, 16 and 8 of an image (3, H, W) uint8."""
    with evaluating(network):
        pool3, pool4, fc7 = network.encode(normalise(image.as_subclass(Tensor))[None])
        return {32: network.score(fc7)[0], 16: network.score_pool4(pool4)[0], 8: network.score_pool3(pool3)[0]}


@torch.no_grad()
def joined(network: FCN, scores: dict[int, Tensor], skips: int, size: Sequence[int]) -> Tensor:
    """Return the logits (C, H, W) that scores give; of the two skips only the first `skips` add something."""
    fc7, pool4, pool3 = (scores[stride][None] for stride in (32, 16, 8))
    fused = fuse(network.upsample_fc(fc7), pool4 * (skips > 0), network.skip_offsets[16])
    fused = fuse(network.upsample_pool4(fused), pool3 * (skips > 1), network.skip_offsets[8])
    logits = network.upsample(fused)[0]
    return logits[:, network.offset : network.offset + size[0], network.offset : network.offset + size[1]]


def fcn_view(
    network: FCN,
    image: Tensor,
    labels: Tensor | None,
    classes: Sequence[str],
    palette: Tensor,
    *,
    label: int,
    skips: int,
) -> View:
    """Show an image (3, H, W) uint8, its prediction, the scores of one class at each stride, and the errors.

    Args:
        network: An FCN-8s.
        labels: The truth, (H, W), or None.
        classes: Their names.
        palette: (C, 3) uint8.
        label: The class whose scores are shown.
        skips: How many of the two skips are kept, 0 to 2.
    """
    size, zoom = image.shape[-2:], WIDTH / image.shape[-1]
    scores = scores_of(network, image)
    maps = [joined(network, scores, count, size).argmax(0) for count in range(3)]
    found = maps[skips]
    panels = [
        Panel("image", image.as_subclass(Tensor), "what the network reads", zoom),
        Panel("prediction", colourise(found, palette), f"{len(found.unique())} classes", zoom),
    ]
    for stride, least in ((32, 0), (16, 1), (8, 2)):
        cells = scores[stride][label]
        most = float(cells.abs().max())
        words = f"{cells.shape[0]}x{cells.shape[1]} cells" + (", left out" if skips < least else "")
        caption = f"score of {classes[label]}, stride {stride}"
        panels.append(Panel(caption, enlarged(heat(cells, -most, most), stride), words, zoom))
    counts = torch.bincount(found.flatten(), minlength=len(classes))
    order = sorted((index for index in range(len(classes)) if counts[index]), key=lambda index: -int(counts[index]))
    shares = ", ".join(f"{classes[index]} {int(counts[index]) / found.numel():.0%}" for index in order[:4])
    words = f"Predicted: {shares}."
    if labels is None:
        words += (
            " The truth is not known. The network has seen generated streets alone: of a photograph it can only guess."
        )
        return View(panels, words)
    labels = labels.as_subclass(Tensor)
    panels.append(Panel("errors", error_map(found, labels), "where prediction and truth differ", zoom))
    counted = labels != IGNORE
    right = [f"{float((one == labels)[counted].double().mean()):.1%}" for one in maps]
    words += f" Right pixels without skips {right[0]}, with pool4 {right[1]}, with pool4 and pool3 {right[2]}."
    return View(panels, words)


def packed(network: FCN) -> dict:
    """Return what the module runs: layers in their order, their weights in half precision, and sums behind them.

    Batch normalisation becomes a factor and a summand of each channel, in single precision.

    Raises:
        ValueError: For a network that is no FCN-8s with padding "same".
    """
    if network.stride != 8 or network.picture_padding != 1:
        raise ValueError('the page runs an FCN of stride 8 with padding="same"')
    layers, weights, sums, stages = [], [], [], []
    for number, stage in enumerate(network.stages):
        parts = [*stage, nn.Identity()]
        places = [place for place, layer in enumerate(stage) if isinstance(layer, nn.Conv2d)]
        stages.append([f"stage{number}.{place}" for place in places])
        layers += [(name, parts[at], parts[at + 1], True) for name, at in zip(stages[-1], places, strict=True)]
    layers += [("fc6", network.fc6, network.norm6, True), ("fc7", network.fc7, network.norm7, True)]
    layers += [(name, getattr(network, name), None, False) for name in ("score", "score_pool4", "score_pool3")]
    layers += [(name, getattr(network, name), None, False) for name in ("upsample_fc", "upsample_pool4", "upsample")]
    described = []
    for name, layer, norm, relu in layers:
        given = {"name": name, "kernel": layer.kernel_size[0], "count": layer.weight.numel()}
        weights.append(layer.weight.detach().flatten())
        if isinstance(layer, nn.ConvTranspose2d):
            described.append(given | {"kind": "up", "stride": layer.stride[0], "grouped": layer.groups > 1})
        else:
            kind = {"kind": "conv", "out": layer.out_channels, "padding": layer.padding[0], "relu": relu}
            described.append(given | kind)
            sums += _scale_and_shift(layer, norm)
    return {
        "layers": described,
        "stages": stages,
        "weights": halves(torch.cat(weights)),
        "sums": torch.cat(sums).float().numpy().tobytes(),
        "offsets": {"pool4": network.skip_offsets[16], "pool3": network.skip_offsets[8], "picture": network.offset},
    }


def _scale_and_shift(layer: nn.Conv2d, norm: nn.Module | None) -> list[Tensor]:
    """Return the factor and the summand of each channel behind a convolution without its bias."""
    scale = torch.ones(layer.out_channels)
    shift = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
    if isinstance(norm, nn.BatchNorm2d):
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias.detach() + (shift - norm.running_mean) * scale
    return [scale, shift]


def fcn_explorer(network: FCN, scenes: SegmentationDataset, *, pictures: Sequence[int] = (0, 1, 2)) -> Explorer:
    """Return the explorer: choose an image or bring one, a class, and how many skips are kept.

    Args:
        network: An FCN-8s with padding "same".
        scenes: Images of one size.
        pictures: Those to choose from.
    """
    network.eval()
    samples = {number: scenes[number] for number in pictures}
    height, width = samples[pictures[0]].labels.shape
    classes = list(scenes.classes)

    def respond(event: Event) -> Answer:
        sample, values = samples[int(event.values["picture"])], event.values
        label, skips = classes.index(values["class"]), SKIPS.index(values["skips"])
        view = fcn_view(network, sample.image, sample.labels, classes, scenes.palette, label=label, skips=skips)
        return Answer(view)

    return Explorer(
        respond,
        [
            Slider("picture", "generated image", list(pictures), pictures[0]),
            Choice("class", "scores of the class", classes, "Car" if "Car" in classes else classes[0]),
            Choice("skips", "skips that are kept", SKIPS, SKIPS[2]),
            Upload("own", "or an image of your own", (height, width)),
            Button("generated", "Back to the generated image"),
        ],
        title="A network in the page: scores and skips of FCN-8s",
        legend=[*zip(classes, hexes(scenes.palette), strict=True), ("wrong", "#fa0ab9")],
        module="fcn",
        data={
            **packed(network),
            "pictures": {
                str(number): {
                    "image": bytes_of(sample.image.as_subclass(Tensor).permute(1, 2, 0)),
                    "labels": bytes_of(sample.labels),
                }
                for number, sample in samples.items()
            },
            "names": classes,
            "skips": list(SKIPS),
            "palette": bytes_of(scenes.palette),
            "size": [height, width],
            "zoom": WIDTH / width,
            **tables("cividis"),
        },
    )
