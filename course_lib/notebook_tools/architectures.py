"""Drawings of networks, and the check that a drawing is true of a network.

An `Architecture` is a plain list of stages and of links between them. `draw` makes a figure of it; `differences`
runs the network and compares: sizes, channels, and which stage reads which. Descriptions of the course's networks
stand in `course_lib.notebook_tools.drawn_networks`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.plotting import COLOURS, Axes, Figure, new_figure

KINDS = {
    "input": "0.75",
    "encoder": COLOURS[0],
    "decoder": COLOURS[2],
    "scores": COLOURS[4],
    "context": COLOURS[3],
    "code": COLOURS[1],
    "gate": COLOURS[5],
    "bridge": COLOURS[5],
}
"""The colour of a stage's block by its kind."""

SIGNS = {"sum": "+", "concat": "c", "product": "×"}
"""Kinds without a block of their own: they join what arrives, and are drawn as a sign in a circle."""

LINKS = {"flow": ("0.3", "-"), "skip": (COLOURS[0], "-"), "indices": (COLOURS[1], "--"), "auxiliary": ("0.6", ":")}
"""Colour and line of a link by its kind."""

LINE, LOOP = 0.135, 0.2  # rows: the height of a line of text, and of a shortcut around a block
SIZE = 8.5  # points; a figure at most 8 inches wide is shrunk to no less than 0.8 of its size


class Stage(NamedTuple):
    """A block of a drawing: what one module of the network returns.

    Attributes:
        name: Written above the block; links name it. A space behind it tells two blocks of one name apart.
        place: Column and row of its middle; rows count upwards.
        channels: Of its result; 0 writes none.
        stride: Pixels of the image from one position of the map to the next; 0 for a result without a map.
        kind: One of `KINDS` or `SIGNS`.
        module: Its dotted name in the network, "" for the network itself; None where nothing is checked.
        side: The map's side in positions, where it does not follow from the stride (a bin, an unpadded map).
        note: A further line below the block.
    """

    name: str
    place: tuple[float, float]
    channels: int = 0
    stride: int = 0
    kind: str = "encoder"
    module: str | None = None
    side: int = 0
    note: str = ""


class Link(NamedTuple):
    """An arrow from one stage to another.

    Attributes:
        kind: One of `LINKS`.
        label: Written beside it.
        bend: Between stages neither beside nor above each other: "" is straight, "vertical" leaves upwards or
            downwards and arrives sideways, "horizontal" the other way round.
            A link of a stage to itself is a shortcut around what is in it.
        over: Rows by which the link passes over (negative: under) the stages between its ends; 0 does not.
    """

    source: str
    target: str
    kind: str = "flow"
    label: str = ""
    bend: str = ""
    over: float = 0


class Architecture(NamedTuple):
    """The stages of a network and the links between them."""

    stages: Sequence[Stage]
    links: Sequence[Link]


def flow(*names: str) -> list[Link]:
    """Return the links of a chain: each name to the next."""
    return [Link(*pair) for pair in pairwise(names)]


def draw(architecture: Architecture, title: str = "") -> Figure:
    """Draw an architecture: blocks as high as their maps and as wide as their channels, on square root scales.

    Below each block stand its channels and the height of its map: H is the image's.

    Args:
        architecture: What is drawn; columns are at most an inch wide.
        title: Of the figure.

    Raises:
        ValueError: For a stage or a link of an unknown kind, and for a link to no stage.
    """
    stages = {stage.name: stage for stage in architecture.stages}
    _require_known(architecture, stages)
    columns = [stage.place[0] for stage in architecture.stages]
    widest = max(stage.channels for stage in architecture.stages)
    loops = {link.source for link in architecture.links if link.source == link.target}
    outlines = {name: _outline(stage, widest, name in loops) for name, stage in stages.items()}
    heights = [outline[side][1] for outline in outlines.values() for side in ("top", "bottom")]
    heights += [link.over + stages[link.source].place[1] for link in architecture.links if link.over]
    low, high = min(heights) - 0.08, max(heights) + 0.18
    size = min(8, max(max(columns) - min(columns) + 1.1, 5)), 1.05 * (high - low) + 1.1
    figure, ((axes,),) = new_figure(1, 1, *size)
    axes.set(xlim=(min(columns) - 0.55, max(columns) + 0.55), ylim=(low, high), xticks=[], yticks=[], title=title)
    relative = any(stage.stride and not stage.side for stage in architecture.stages)
    height = "height of its map (H: of the input)" if relative else "height and width of its map"
    axes.set_xlabel(f"below a block: channels, {height}", fontsize=SIZE)
    axes.spines[:].set_visible(False)
    for name, stage in stages.items():
        _draw_stage(axes, stage, outlines[name])
    for link in architecture.links:
        _draw_link(axes, link, stages[link.source].place, outlines[link.source], outlines[link.target])
    kinds = dict.fromkeys(stage.kind for stage in architecture.stages)
    for kind in kinds:
        if kind in KINDS:
            axes.plot([], [], "s", markersize=9, color=KINDS[kind], label=kind)
        else:
            axes.plot([], [], marker=f"${SIGNS[kind]}$", linestyle="", color="black", label=kind)
    for kind in dict.fromkeys(link.kind for link in architecture.links):
        colour, line = LINKS[kind]
        axes.plot([], [], line, color=colour, label=kind)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=SIZE + 0.5)
    return figure


def _require_known(architecture: Architecture, stages: dict[str, Stage]) -> None:
    for stage in architecture.stages:
        if stage.kind not in KINDS and stage.kind not in SIGNS:
            raise ValueError(f"{stage.name} is of kind {stage.kind!r}: kinds are {', '.join([*KINDS, *SIGNS])}")
    for link in architecture.links:
        if link.kind not in LINKS:
            raise ValueError(f"a link is of kind {link.kind!r}: kinds are {', '.join(LINKS)}")
        for name in (link.source, link.target):
            if name not in stages:
                raise ValueError(f"a link names {name!r}: stages are {', '.join(stages)}")


def _facts(stage: Stage) -> list[str]:
    """Return the lines below a stage's block: channels, height of the map, note."""
    size = f"{stage.side}x{stage.side}" if stage.side else "H" if stage.stride == 1 else f"H/{stage.stride}"
    lines = [str(stage.channels)] * bool(stage.channels) + [size] * bool(stage.stride or stage.side)
    return [*lines, *filter(None, stage.note.split("\n"))]


def _outline(stage: Stage, widest: int, looped: bool) -> dict[str, tuple[float, float]]:
    """Return a stage's corner above right, and where links touch it: beyond its texts above and below."""
    x, y = stage.place
    if stage.kind in SIGNS:
        width = height = above = below = 0.12
    else:
        width = 0.07 + 0.25 * math.sqrt(stage.channels / max(widest, 1))
        height = 0.06 + 0.28 / math.sqrt(stage.stride) if stage.stride else 0.08
        above = height + 0.03 + LOOP * looped
        below = height + 0.03 + LINE * len(_facts(stage))
    top = above + 0.02 + LINE * len(stage.name.split("\n")) if stage.kind in KINDS else above
    return {
        "corner": (x + width, y + height),
        "name": (x, y + above),
        "left": (x - width, y),
        "right": (x + width, y),
        "top": (x, y + top),
        "bottom": (x, y - below),
    }


def _draw_stage(axes: Axes, stage: Stage, outline: dict) -> None:
    x, y = stage.place
    (left, _), (right, up) = outline["left"], outline["corner"]
    if stage.kind in SIGNS:
        axes.plot(x, y, "o", markersize=14, color="white", markeredgecolor="0.3", zorder=3)
        axes.text(x, y, SIGNS[stage.kind], ha="center", va="center", fontsize=SIZE + 2, zorder=4)
        return
    corners = [left, right, right, left], [2 * y - up, 2 * y - up, up, up]
    axes.fill(*corners, facecolor=KINDS[stage.kind], edgecolor="0.2", linewidth=0.7, zorder=3)
    axes.text(*outline["name"], stage.name.strip(), ha="center", va="bottom", fontsize=SIZE, linespacing=1)
    facts = "\n".join(_facts(stage))
    axes.text(x, 2 * y - up - 0.03, facts, ha="center", va="top", fontsize=SIZE, color="0.3", linespacing=1)


def _draw_link(axes: Axes, link: Link, place: tuple[float, float], source: dict, target: dict) -> None:
    colour, line = LINKS[link.kind]
    leaves, arrives, bent = _sides(link, source, target)
    start, end = source[leaves], target[arrives]
    label = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    lane = None
    if link.source == link.target:  # from the arrow that arrives at the stage to the one that leaves it
        lane = source["corner"][1] + LOOP / 2
        start, end = (start[0] - 0.1, start[1]), (end[0] + 0.1, end[1])
    elif link.over:
        lane = place[1] + link.over
    if lane is not None:
        axes.plot([start[0], start[0], end[0]], [start[1], lane, lane], line, color=colour, linewidth=1.3)
        label, start = (label[0], lane), (end[0], lane)
    elif link.bend:
        label = (label[0], end[1]) if link.bend == "vertical" else (end[0], label[1])
    arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 1}
    axes.annotate("", end, start, arrowprops=arrow | ({"connectionstyle": bent} if bent else {}))
    upright = lane is None and label[0] == end[0]
    beside = {"ha": "left", "va": "center"} if upright else {"ha": "center", "va": "bottom"}
    axes.annotate(link.label, label, (3, 1), textcoords="offset points", fontsize=SIZE, color=colour, **beside)


def _sides(link: Link, source: dict, target: dict) -> tuple[str, str, str]:
    """Return the side at which a link leaves, that at which it arrives, and matplotlib's name for its bend."""
    across, upwards = target["left"][0] - source["left"][0], target["left"][1] - source["left"][1]
    up, down = ("top", "bottom") if (link.over or upwards) > 0 else ("bottom", "top")
    ahead, back = ("right", "left") if across > 0 else ("left", "right")
    if link.source == link.target:
        return "left", "right", ""
    if link.over:
        return up, up, ""
    if source["top"][0] == target["top"][0]:
        return up, down, ""
    if link.bend == "vertical":
        return up, back, "angle,angleA=90,angleB=0,rad=3"
    if link.bend == "horizontal":
        return ahead, down, "angle,angleA=0,angleB=90,rad=3"
    return ahead, back, ""


@torch.no_grad()
def differences(
    architecture: Architecture, network: nn.Module, *inputs: Tensor, run: Callable[..., object] | None = None
) -> list[str]:
    """Return where a drawing and a network disagree, one sentence each; an empty list where they agree.

    Sizes and channels are compared with what the modules return. Then each stage's result is changed while all
    other stages keep theirs: exactly the modules whose own result changes read that stage. The weights of a copy
    are drawn at random for it, since layers that start at zero would hide what they read.

    Args:
        architecture: The drawing.
        network: Any network whose modules the stages name.
        inputs: One for each stage of kind "input", in their order: images (N, 3, H, W), labels (N, H, W).
        run: Called as `run(network, *inputs)`; the network itself where None.
    """
    network = _randomised(network)
    entries = [stage.name for stage in architecture.stages if stage.kind == "input"]
    modules = {stage.name: stage.module for stage in architecture.stages if stage.module is not None}

    def results(fixed: dict[str, Tensor]) -> dict[str, Tensor]:
        found, hooks = {}, []
        for name, module in modules.items():

            def hook(module: nn.Module, read: object, result: Tensor, name: str = name) -> Tensor | None:
                found[name] = result.clone()
                return fixed[name].clone() if name in fixed else None

            hooks.append(network.get_submodule(module).register_forward_hook(hook))
        torch.manual_seed(0)
        given = [fixed.get(name, value) for name, value in zip(entries, inputs, strict=True)]
        (run or nn.Module.__call__)(network, *given)
        for handle in hooks:
            handle.remove()
        return found

    known = results({})
    problems = _wrong_shapes(architecture, known, inputs[0].shape[-2])
    drawn = _readers(architecture, {*modules, *entries})
    values = dict(zip(entries, inputs, strict=True)) | known
    for source, value in values.items():
        changed = value.flip(-1) if not value.is_floating_point() else value + torch.randn_like(value)
        found = results(known | {source: changed})
        readers = {name for name, result in found.items() if name != source and not torch.equal(result, known[name])}
        problems += [f"{name} reads {source}, which is not drawn" for name in sorted(readers - drawn[source])]
        problems += [f"{name} does not read {source}, as drawn" for name in sorted(drawn[source] - readers)]
    return problems


def _randomised(network: nn.Module) -> nn.Module:
    """Return a copy with random weights, in evaluation mode."""
    network = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        spread = 1 if weight.ndim < 2 else 1 / math.sqrt(weight[0].numel())
        weight.copy_(spread * torch.randn(weight.shape, generator=generator))
    return network


def _wrong_shapes(architecture: Architecture, found: dict[str, Tensor], height: int) -> list[str]:
    problems = []
    for stage in architecture.stages:
        if stage.module is None:
            continue
        if stage.name not in found:
            problems.append(f"{stage.name} is never computed")
            continue
        shape = tuple(found[stage.name].shape)
        side = stage.side or (math.ceil(height / stage.stride) if stage.stride else None)
        if shape[1] != stage.channels or (side is not None and shape[2] != side):
            problems.append(f"{stage.name} is {shape}, drawn with {stage.channels} channels of height {side}")
    return problems


def _readers(architecture: Architecture, checked: set[str]) -> dict[str, set[str]]:
    """Return for each checked stage the checked ones that links lead to, directly or through unchecked ones."""
    following = {stage.name: [] for stage in architecture.stages}
    for link in architecture.links:
        following[link.source].append(link.target)
    readers = {}
    for name in checked:
        reached, ahead = set(), list(following[name])
        while ahead:
            stage = ahead.pop()
            if stage in checked:
                reached.add(stage)
            else:
                ahead += following[stage]
        readers[name] = reached - {name}
    return readers
