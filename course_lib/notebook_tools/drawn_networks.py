"""Descriptions of the course's networks, for `course_lib.notebook_tools.architectures.draw`.

Each function takes the options of the network that change its shape; the defaults are the paper's. A test compares
every description with the network of `course_lib.models`.
"""

from collections.abc import Sequence

from course_lib.notebook_tools.architectures import Architecture, Link, Stage, flow


def fcn(
    stride: int = 8, *, classes: int = 21, width: int = 64, fc_channels: int = 4096, all_three: bool = False
) -> Architecture:
    """Return `FCN` of stride 32, 16 or 8 with padding "same": each skip adds the scores of an earlier pooling.

    With `all_three` the logits of the coarser networks are drawn as well, as in the paper's figure 3.
    """
    stages = [Stage("image", (0, 0), 3, 1, "input")]
    for index, factor in enumerate((1, 2, 4, 8, 8)):
        channels, pool = factor * width, 2 ** (index + 1)
        stages.append(Stage(f"pool{index + 1}", (index + 1, 0), channels, pool, "encoder", f"stages.{index}"))
    stages += [
        Stage("fc6", (6, 0), fc_channels, 32, "encoder", "fc6"),
        Stage("fc7", (7, 0), fc_channels, 32, "encoder", "fc7"),
        Stage("score", (7, -1.2), classes, 32, "scores", "score"),
    ]
    links = flow("image", "pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc7", "score")
    last, row = "score", -1.2
    for number, finer in enumerate(range(16, stride - 1, -8)):  # 16, then 8
        if all_three:
            stages.append(Stage(f"FCN-{2 * finer}s", (9.8, row), classes, 1, "scores"))
            links.append(Link(last, f"FCN-{2 * finer}s", label=f"x{2 * finer}"))
        pool, row = 4 - number, row - 1.2
        name, joined = f"score pool{pool}", f"sum {pool}"
        stages += [
            Stage(name, (pool, row), classes, finer, "scores", f"score_pool{pool}"),
            Stage(joined, (7.8 + 0.8 * number, row), kind="sum"),
        ]
        links += [
            Link(f"pool{pool}", name, "skip"),
            Link(name, joined, "skip"),
            Link(last, joined, label="x2", bend="horizontal"),
        ]
        last = joined
    logits = f"FCN-{stride}s" if all_three else "logits"
    stages.append(Stage(logits, (9.8, row), classes, 1, "scores", ""))
    links.append(Link(last, logits, label=f"x{stride}"))
    return Architecture(stages, links)


def unet(*, classes: int = 2, in_channels: int = 1, width: int = 64, side: int = 572) -> Architecture:
    """Return the paper's `UNet` of five levels without padding, as a U."""
    stages = [Stage("image", (0, 0), in_channels, 1, "input", side=side)]
    links = [Link("image", "level 1")]
    for level in range(5):
        side = side if level == 0 else side // 2
        side -= 4
        module = f"contracting.{level}"
        place = (1 + 0.75 * level, -level)
        stages.append(Stage(f"level {level + 1}", place, width * 2**level, 2**level, "encoder", module, side))
    links += [Link(f"level {level}", f"level {level + 1}", bend="vertical") for level in range(1, 5)]
    for step in range(4):
        level = 3 - step
        side = 2 * side - 4
        place = (7.75 - 0.75 * level, -level)
        name = f"up {level + 1}"
        stages.append(Stage(name, place, width * 2**level, 2**level, "decoder", f"expanding.{step}", side))
        links.append(Link(f"up {level + 2}" if step else "level 5", name, bend="horizontal"))
        links.append(Link(f"level {level + 1}", name, "skip", "copy"))
    stages.append(Stage("logits", (8.75, 0), classes, 1, "scores", "score", side))
    links.append(Link("up 1", "logits"))
    return Architecture(stages, links)


def segnet(*, classes: int = 11, width: int = 64) -> Architecture:
    """Return `SegNet`: each pooling of the encoder hands the positions of its maxima to the decoder."""
    factors = (1, 2, 4, 8, 8)
    stages, links = [Stage("image", (0, 0), 3, 1, "input")], []
    for level, factor in enumerate(factors):
        name, stride = f"stage {level + 1}", 2**level
        stages.append(Stage(name, (level + 1, 0), factor * width, stride, "encoder", f"encoders.{level}"))
        links.append(Link(name, name + " ", "indices", over=0.8 + 0.2 * (4 - level)))
    for level in reversed(range(5)):
        module = f"decoders.{level}" if level else "decoders.0.2"
        channels = factors[max(level - 1, 0)] * width
        stages.append(Stage(f"stage {level + 1} ", (10 - level, 0), channels, 2**level, "decoder", module))
    stages.append(Stage("logits", (11, 0), classes, 1, "scores", "decoders.0.3"))
    return Architecture(stages, [*flow(*(stage.name for stage in stages)), *links])


def residual_block(*, in_channels: int = 64, channels: int = 64, stride: int = 1, dilation: int = 1) -> Architecture:
    """Return `BasicBlock`, two convolutions beside a shortcut; H is the height of its input."""
    note = f"3x3\ndilation {dilation}" if dilation > 1 else "3x3"
    stages = [
        Stage("x", (0, 0), in_channels, 1, "input"),
        Stage("conv1", (1.2, 0), channels, stride, "encoder", "conv1", note=note),
        Stage("conv2", (2.4, 0), channels, stride, "encoder", "conv2", note=note),
        Stage("sum", (3.4, 0), kind="sum"),
        Stage("result", (4.4, 0), channels, stride, "encoder", ""),
    ]
    links = flow("x", "conv1", "conv2", "sum", "result")
    if stride == 1 and in_channels == channels:
        return Architecture(stages, [*links, Link("x", "sum", "skip", "shortcut", over=0.8)])
    stages.append(Stage("1x1", (1.8, 1.15), channels, stride, "encoder", "downsample"))
    links += [Link("x", "1x1", "skip", bend="vertical"), Link("1x1", "sum", "skip", bend="horizontal")]
    return Architecture(stages, links)


def drn(arch: str = "A-18", *, classes: int = 19, width: int = 16) -> Architecture:
    """Return a DRN of letter A, B or C with basic blocks: G1 to G5 are the groups of the ResNet it starts from.

    A loop is the shortcuts of the residual blocks in a level.
    """
    letter = arch[0]
    # name, channels / width, stride, dilation, with residual blocks
    groups = [("G2", 4, 4, 1), ("G3", 8, 8, 1), ("G4", 16, 8, 2), ("G5", 32, 8, 4)]
    if letter == "A":
        plan = [("G1: conv,\npool", 4, 4, 1, False), *((*group, True) for group in groups)]
    else:
        before = [("conv,\nblock", 1, 1, 1, True), ("block", 2, 2, 1, True)]
        after = [("added", 32, 8, 2, letter == "B"), ("added ", 32, 8, 1, letter == "B")]
        plan = [*before, *((*group, True) for group in groups), *after]
    stages, links = [Stage("image", (0, 0), 3, 1, "input")], []
    for index, (name, factor, stride, dilation, residual) in enumerate(plan):
        note = f"dilation {dilation}" if dilation > 1 else ""
        stages.append(Stage(name, (index + 1, 0), factor * width, stride, "encoder", f"levels.{index}", note=note))
        if residual:
            links.append(Link(name, name, "skip"))
    stages.append(Stage("score", (len(plan) + 1, 0), classes, 8, "scores", "score"))
    stages.append(Stage("logits", (len(plan) + 2, 0), classes, 1, "scores", ""))
    return Architecture(stages, [*flow(*(stage.name for stage in stages)), *links])


def _resnet(depth: int, width: int, output_stride: int) -> tuple[list[Stage], list[Link], int]:
    """Return the stages and links of `dilated_resnet` at row 0, columns 0 to 5, and its last channels."""
    wide = 4 if depth >= 50 else 1
    stages = [
        Stage("image", (0, 0), 3, 1, "input"),
        Stage("conv, pool", (1, 0), width, 4, "encoder", "backbone.maxpool"),
    ]
    stride, dilation = 4, 1
    for group in range(4):
        step = 1 if group == 0 else 2
        if stride * step > output_stride:
            dilation, step = dilation * step, 1
        stride *= step
        note = f"dilation {dilation}" if dilation > 1 else ""
        channels, module = wide * width * 2**group, f"backbone.layer{group + 1}"
        stages.append(Stage(f"group {group + 1}", (group + 2, 0), channels, stride, "encoder", module, note=note))
    return stages, flow(*(stage.name for stage in stages)), channels


def parsenet(*, classes: int = 21, depth: int = 50, width: int = 64) -> Architecture:
    """Return `ParseNet` at output stride 8: the mean of the whole map is given to every position."""
    stages, links, channels = _resnet(depth, width, 8)
    stages += [
        Stage("L2 norm", (6.5, 0), channels, 8, "encoder", "head.local_norm"),
        Stage("mean, L2 norm", (6.5, 1), channels, 0, "context", "head.context_norm", side=1, note="to every position"),
        Stage("concat", (7.5, 0), kind="concat"),
        Stage("score", (8.4, 0), classes, 8, "scores", "classify"),
        Stage("logits", (9.4, 0), classes, 1, "scores", ""),
    ]
    links += [
        *flow("group 4", "L2 norm", "concat", "score", "logits"),
        Link("group 4", "mean, L2 norm", bend="vertical"),
        Link("mean, L2 norm", "concat", bend="horizontal"),
    ]
    return Architecture(stages, links)


def pspnet(*, classes: int = 21, depth: int = 50, width: int = 64, aux: bool = False) -> Architecture:
    """Return `PSPNet` at output stride 8: means over 1, 2x2, 3x3 and 6x6 parts of the map beside the map itself.

    Each level passes a 1x1 convolution and is upsampled; the head is a 3x3 convolution and a 1x1 that classifies.
    """
    stages, links, channels = _resnet(depth, width, 8)
    stages += [
        Stage("concat", (8.6, 0), kind="concat"),
        Stage("3x3 conv", (9.4, 0), channels // 4, 8, "decoder", "head.2"),
        Stage("score:\n1x1 conv", (10.4, 0), classes, 8, "scores", "head.4"),
        Stage("logits", (11.4, 0), classes, 1, "scores", None if aux else ""),
    ]
    links += flow("group 4", "concat", "3x3 conv", "score:\n1x1 conv")
    links.append(Link("score:\n1x1 conv", "logits", label="x8"))
    for level, (bin, row) in enumerate(zip((1, 2, 3, 6), (1.9, 1.0, -1.0, -1.9), strict=True)):
        pooled, reduced, enlarged = f"bin {bin}", "1x1 conv" + " " * level, "upsample" + " " * level
        module = f"pyramid.levels.{level}"
        stages += [
            Stage(pooled, (5.9, row), channels, 0, "context", f"{module}.0", side=bin),
            Stage(reduced, (6.85, row), channels // 4, 0, "context", module, side=bin),
            Stage(enlarged, (7.8, row), channels // 4, 8, "context"),
        ]
        links += [
            Link("group 4", pooled, bend="vertical"),
            *flow(pooled, reduced, enlarged),
            Link(enlarged, "concat", bend="horizontal"),
        ]
    if aux:
        stages += [
            Stage("3x3 conv ", (4, -1.6), channels // 8, 8, "decoder", "aux_head.2"),
            Stage("score:\n1x1 conv ", (2.8, -1.6), classes, 8, "scores", "aux_head.4", note="second loss"),
        ]
        links += [Link("group 3", "3x3 conv ", "auxiliary"), Link("3x3 conv ", "score:\n1x1 conv ", "auxiliary")]
    return Architecture(stages, links)


def deeplab(
    *, classes: int = 21, depth: int = 101, width: int = 64, channels: int = 256, low: int = 48
) -> Architecture:
    """Return `DeepLabV3Plus` at output stride 16: five branches side by side, then a decoder that sees group 1."""
    stages, links, _ = _resnet(depth, width, 16)
    branches = [("1x1", "aspp.conv1x1")]
    branches += [(f"3x3, dilation {rate}", f"aspp.dilated.{index}") for index, rate in enumerate((6, 12, 18))]
    branches.append(("mean", "aspp.image_pooling"))
    for (name, module), row in zip(branches, (1.8, 0.9, 0, -0.9, -1.8), strict=True):
        side, stride = (1, 0) if name == "mean" else (0, 16)
        stages.append(Stage(name, (6.7, row), channels, stride, "context", module, side=side))
        bends = ("vertical", "horizontal") if row else ("", "")
        links += [Link("group 4", name, bend=bends[0]), Link(name, "concat", bend=bends[1])]
    stages += [
        Stage("concat", (7.9, 0), kind="concat"),
        Stage("1x1 ", (8.8, 0), channels, 16, "context", "aspp.project"),
        Stage("1x1  ", (2, -2.9), low, 4, "decoder", "reduce_low"),
        Stage("concat ", (8.8, -2.9), kind="concat"),
        Stage("3x3, 3x3", (9.8, -2.9), channels, 4, "decoder", "refine"),
        Stage("score", (10.8, -2.9), classes, 4, "scores", "score"),
        Stage("logits", (11.8, -2.9), classes, 1, "scores", ""),
    ]
    links += [
        *flow("concat", "1x1 "),
        Link("group 1", "1x1  ", "skip"),
        Link("1x1  ", "concat ", "skip"),
        Link("1x1 ", "concat ", label="x4"),
        *flow("concat ", "3x3, 3x3", "score"),
        Link("score", "logits", label="x4"),
    ]
    return Architecture(stages, links)


def ancillary(*, classes: int = 21, depth: int = 101, width: int = 64, channels: int = 256) -> Architecture:
    """Return `Ancillary` on DeepLabV3+: an encoder of the boxes opens and closes channels of two feature maps."""
    low = width * (4 if depth >= 50 else 1)
    stages = [
        Stage("image", (0, 0), 3, 1, "input"),
        Stage("group 1", (1.3, 0), low, 4, "encoder", "model.backbone.layer1"),
        Stage("groups 2 to 4,\nASPP", (3.3, 0), channels, 16, "encoder", "model.aspp"),
        Stage("boxes", (0, -2.6), classes, 1, "input"),
        Stage("gate", (2.3, -2.6), low, 4, "gate", "gates.0", note="3x3, sigmoid"),
        Stage("gate ", (4.3, -2.6), channels, 16, "gate", "gates.1", note="3x3, sigmoid"),
        Stage("product", (2.3, -1.2), kind="product"),
        Stage("product ", (4.3, -1.2), kind="product"),
        Stage("decoder", (5.8, -1.2), channels, 4, "decoder", "model.refine"),
        Stage("score", (6.9, -1.2), classes, 4, "scores", "model.score"),
        Stage("logits", (8, -1.2), classes, 1, "scores", ""),
    ]
    links = [
        *flow("image", "group 1", "groups 2 to 4,\nASPP"),
        Link("group 1", "product", bend="vertical"),
        Link("groups 2 to 4,\nASPP", "product ", bend="horizontal"),
        Link("boxes", "gate"),
        Link("boxes", "gate ", over=-0.95),
        *flow("gate", "product"),
        *flow("gate ", "product ", "decoder", "score", "logits"),
        Link("product", "decoder", "skip", over=0.5),
    ]
    return Architecture(stages, links)


def cvae(
    *,
    classes: int = 20,
    width: int = 32,
    label_width: int | None = None,
    code_size: int = 128,
    code_channels: int = 32,
    dilations: Sequence[int] = (2, 4),
) -> Architecture:
    """Return `CVAE` as it trains: a U-Net on the image conditions an encoder of the labels and a decoder of the code."""
    label_width = label_width or width
    bottom = f"dilations {', '.join(map(str, dilations))}"
    stages = [
        Stage("image", (0, 3.9), 3, 1, "input"),
        Stage("labels", (0, 1.3), 0, 1, "input"),
        Stage("noise b", (0, 2.6), 1, 1, "scores", "noise"),
    ]
    links = flow("image", "down 1")
    for level in range(5):
        x, stride, of_image = level + 1.2, 2**level, width * 2**level
        module = f"expand.{level}" if level < 4 else "bottleneck"
        wide = label_width * 2 ** max(level - 1, 0)
        reads = code_channels if level == 4 else label_width * 2 ** (level + 1)
        stages += [
            Stage(f"down {level + 1}", (x, 3.9), of_image, stride, "encoder", f"contract.{level}"),
            Stage(f"map {level + 1}", (x, 2.6), of_image, stride, "context", module, note=bottom if level == 4 else ""),
            Stage(f"enc {level + 1}", (x + 0.45, 1.3), reads, min(2 * stride, 16), "encoder", f"encoder.{level}"),
            Stage(f"dec {level + 1}", (x, 0), wide, stride, "decoder", f"decoder.{level}"),
        ]
        links += [
            Link(f"down {level + 1}", f"map {level + 1}", "skip" if level < 4 else "flow"),
            Link(f"map {level + 1}", f"enc {level + 1}", bend="vertical"),
            Link(f"map {level + 1}", f"dec {level + 1}"),
        ]
    stages += [
        Stage("mean", (7, 1.3), code_size, 0, "code", "mean"),
        Stage("log variance", (8.2, 1.3), code_size, 0, "code", "log_variance"),
        Stage("code", (7.6, 0), code_size, 0, "code"),
        Stage("logits", (0, 0), classes, 1, "scores", "classify"),
    ]
    links += [
        *flow(*(f"down {level}" for level in range(1, 6))),
        *flow(*(f"map {level}" for level in range(5, 0, -1)), "noise b"),
        *flow("labels", *(f"enc {level}" for level in range(1, 6)), "mean"),
        Link("enc 5", "log variance", over=0.8),
        Link("mean", "code", bend="vertical"),
        Link("log variance", "code", bend="vertical"),
        *flow("code", *(f"dec {level}" for level in range(5, 0, -1)), "logits"),
    ]
    return Architecture(stages, links)


def decouplednet(
    *, classes: int = 21, width: int = 64, hidden: int = 4096, kernel: int = 7, stages: int = 5
) -> Architecture:
    """Return `DecoupledNet`, one class asked for: the classifier above, the bridge in the middle, the masks below.

    The bridge reads the layers of the classifier backwards; where a ReLU was 0, it passes nothing.
    """
    plan = [factor * width for factor in (1, 2, 4, 8, 8)][:stages]
    deep, last, end = 2**stages, stages + 1, plan[-1]
    unpadded = f"H/{deep} - {kernel - 1}" if kernel > 1 else f"H/{deep}"
    x = [last + 1.45 * step for step in range(6)]
    square, back = f"{kernel}x{kernel}", f"{kernel}x{kernel},\ntransposed"
    of_score, of_fc7, of_fc6 = (f"{name},\ntransposed" for name in ("score", "fc7", "fc6"))
    blocks = [
        Stage("image", (0, 0), 3, 1, "input"),
        Stage("pooled", (last, 0), end, deep, "encoder"),
        Stage("fc6", (x[2], 0), hidden, 0, "encoder", "classifier.fc6", note=unpadded),
        Stage("fc7", (x[3], 0), hidden, 0, "encoder", "classifier.fc7", note=unpadded),
        Stage("score", (x[4], 0), classes - 1, 0, "scores", "classifier.score", note=unpadded),
        Stage("class\nasked for", (x[5], -1.6), classes - 1, 0, "input"),
        Stage("product", (x[4], -1.6), kind="product"),
        Stage(of_score, (x[3], -1.6), hidden, 0, "bridge", note=unpadded),
        Stage(of_fc7, (x[2], -1.6), hidden, 0, "bridge", note=unpadded),
        Stage(of_fc6, (x[1], -1.6), end, deep, "bridge", "map_norm"),
        Stage("concat", (last, -1.6), kind="concat"),
        Stage(square, (last, -3.1), hidden // 2, 0, "decoder", "bottom.2", note=unpadded),
        Stage("1x1", (x[1], -3.1), hidden // 2, 0, "decoder", "bottom.5", note=unpadded),
        Stage(back, (x[2], -3.1), end, deep, "decoder", "bottom.8"),
        Stage("figure,\nground", (x[3] + stages, -3.1), 2, 1, "scores", "figure"),
    ]
    down = [f"stage {level + 1}" for level in range(stages)]
    up = [f"unpool,\nstage {level + 1}" for level in reversed(range(stages))]
    links = [
        *flow("image", *down, "pooled", "fc6", "fc7", "score"),
        Link("score", "product", label="greatest:\nprobability"),
        *flow("class\nasked for", "product", of_score, of_fc7, of_fc6, "concat"),
        Link("fc7", of_score, "skip", "where > 0"),
        Link("fc6", of_fc7, "skip", "where > 0"),
        *flow("pooled", "concat", square, "1x1", back, *up, "figure,\nground"),
    ]
    for level, channels in enumerate(plan):
        before = plan[level - 1] if level else width
        blocks += [
            Stage(down[level], (level + 1, 0), channels, 2**level, "encoder", f"classifier.stages.{level}"),
            Stage(up[-1 - level], (x[3] + stages - 1 - level, -3.1), before, 2**level, "decoder", f"decoders.{level}"),
        ]
        links.append(Link(down[level], up[-1 - level], "indices", over=-4.1 - 0.2 * (stages - 1 - level)))
    return Architecture(blocks, links)


def rfcn(
    *, classes: int = 21, bins: int = 7, depth: int = 101, width: int = 64, reduced: int = 1024, output_stride: int = 16
) -> Architecture:
    """Return `RFCN`: maps for each bin of a box and each class, and a vote; no layer for a box. The class 0 is none."""
    if depth:
        stages, links, _ = _resnet(depth, width, output_stride)
        stages = [stage._replace(module=stage.module and stage.module.replace("backbone", "body")) for stage in stages]
        stride, last = output_stride, "group 4"
    else:
        factors, notes = (1, 2, 2, 4, 4), ("stride 2", "stride 2", "", "dilation 2", "dilation 2")
        stages = [Stage("image", (0, 0), 3, 1, "input")]
        for index, (factor, note) in enumerate(zip(factors, notes, strict=True)):
            name, stride = "3x3 conv" + " " * index, 4 if index else 2
            stages.append(Stage(name, (index + 1, 0), factor * width, stride, "encoder", f"body.{index}", note=note))
        links, last = flow(*(stage.name for stage in stages)), stages[-1].name
    x = stages[-1].place[0] + 1
    if reduced:
        stages.append(Stage("1x1 conv", (x, 0), reduced, stride, "encoder", "reduce"))
        links, last, x = [*links, Link(last, "1x1 conv")], "1x1 conv", x + 1
    stages.append(Stage("boxes", (x + 1.3, 0), 4, 0, "input"))
    for name, module, result, number, row in (
        ("score maps", "scores", "class scores", classes, 1.25),
        ("shift maps", "shifts", "shift of the box", 4, -1.25),
    ):
        parts, vote = f"{bins}x{bins} bins" + " " * (row < 0), "vote: mean" + " " * (row < 0)
        stages += [
            Stage(f"{name}:\n1x1 conv", (x, row), number * bins**2, stride, "scores", module),
            Stage(parts, (x + 1.3, row), number, 0, "context", side=bins, note="a map for\neach bin"),
            Stage(vote, (x + 2.6, row), number, 0, "scores", note=result),
        ]
        links += [
            Link(last, f"{name}:\n1x1 conv", bend="vertical"),
            *flow(f"{name}:\n1x1 conv", parts, vote),
            Link("boxes", parts),
        ]
    return Architecture(stages, links)


def fpn(*, depth: int = 50, width: int = 64, channels: int = 256) -> Architecture:
    """Return the pyramid of `FPN` on a ResNet: laterals upwards, the top-down path from right to left."""
    stages, links, _ = _resnet(depth, width, 32)
    for index in range(4):
        x, level, stride = index + 2, index + 2, 4 * 2**index
        lateral, joined, level_map = f"1x1 conv{' ' * index}", f"sum {level}", f"P{level}:\n3x3 conv"
        stages += [
            Stage(lateral, (x, 1.3), channels, stride, "decoder", f"pyramid.laterals.{index}"),
            Stage(level_map, (x, 3.2), channels, stride, "decoder", f"pyramid.outputs.{index}"),
        ]
        links.append(Link(f"group {index + 1}", lateral, "skip"))
        if index == 3:
            links += [Link(lateral, level_map), Link(lateral, "sum 4", label="x2", bend="vertical")]
        else:
            stages.append(Stage(joined, (x, 2.2), kind="sum"))
            links += flow(lateral, joined, level_map)
            links += [Link(joined, f"sum {level - 1}", label="x2")] if index else []
    return Architecture(stages, links)
