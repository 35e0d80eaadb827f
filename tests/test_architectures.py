"""Every drawing of a network is compared with the network; and the comparison notices what a drawing gets wrong."""

import pytest
import torch
from torch import nn

from course_lib.models.ancillary import Ancillary
from course_lib.models.cvae import CVAE
from course_lib.models.decouplednet import DecoupledNet
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.drn import DRN
from course_lib.models.fcn import FCN
from course_lib.models.fpn import FPN
from course_lib.models.parsenet import ParseNet
from course_lib.models.pspnet import PSPNet
from course_lib.models.resnet import BasicBlock, Bottleneck
from course_lib.models.rfcn import RFCN
from course_lib.models.segnet import SegNet
from course_lib.models.unet import UNet
from course_lib.notebook_tools import drawn_networks
from course_lib.notebook_tools.architectures import KINDS, Architecture, Link, Stage, differences, draw
from course_lib.plumbing.alt_text import alt_text, smallest_text

IMAGE = torch.randn(1, 3, 64, 64)
BOXES = torch.rand(1, 5, 64, 64)
LABELS = torch.randint(5, (1, 64, 64))
NARROW = {"depth": 18, "width": 4}


def with_aux(network, images):
    return network.forward_with_aux(images)


def valid(network, images):
    return network.forward_valid(images)


def reconstruct(network, images, labels):
    return network.reconstruct(images, labels)


def one_class(network, images, asked):
    return network.masks(network.classifier.look(images), asked)


def all_maps(network, images, boxes):
    return network.maps(network.encode(images))


def levels(network, images):
    return network.encode(images)


def fcn(stride):
    return FCN(5, stride=stride, width=4, fc_channels=16, padding="same")


CASES = {
    **{
        f"fcn{stride}s": (drawn_networks.fcn(stride, classes=5, width=4, fc_channels=16), fcn(stride), (IMAGE,), None)
        for stride in (32, 16, 8)
    },
    "fcn_all": (drawn_networks.fcn(8, classes=5, width=4, fc_channels=16, all_three=True), fcn(8), (IMAGE,), None),
    "unet": (drawn_networks.unet(width=4), UNet(2, in_channels=1, width=4), (torch.randn(1, 1, 572, 572),), valid),
    "segnet": (drawn_networks.segnet(classes=5, width=4), SegNet(5, width=4), (IMAGE,), None),
    "residual": (
        drawn_networks.residual_block(in_channels=4, channels=4),
        BasicBlock(4, 4, 1, 1, 1),
        (torch.randn(1, 4, 16, 16),),
        None,
    ),
    "projected": (
        drawn_networks.residual_block(in_channels=4, channels=8, stride=2),
        BasicBlock(4, 8, 2, 1, 1),
        (torch.randn(1, 4, 16, 16),),
        None,
    ),
    **{
        f"drn_{arch}": (drawn_networks.drn(arch, classes=5, width=2), DRN(5, arch=arch, width=2), (IMAGE,), None)
        for arch in ("A-18", "B-26", "C-26")
    },
    "parsenet": (drawn_networks.parsenet(classes=5, **NARROW), ParseNet(5, **NARROW), (IMAGE,), None),
    "pspnet": (drawn_networks.pspnet(classes=5, **NARROW), PSPNet(5, **NARROW, aux=False), (IMAGE,), None),
    "pspnet_aux": (drawn_networks.pspnet(classes=5, **NARROW, aux=True), PSPNet(5, **NARROW), (IMAGE,), with_aux),
    "deeplab": (
        drawn_networks.deeplab(classes=5, **NARROW, channels=8, low=6),
        DeepLabV3Plus(5, **NARROW, channels=8, low_channels=6),
        (IMAGE,),
        None,
    ),
    "ancillary": (
        drawn_networks.ancillary(classes=5, **NARROW, channels=8),
        Ancillary(DeepLabV3Plus(5, **NARROW, channels=8, low_channels=6)),
        (IMAGE, BOXES),
        None,
    ),
    **{
        f"decouplednet_{kernel}_{stages}": (
            drawn_networks.decouplednet(classes=5, width=4, hidden=16, kernel=kernel, stages=stages),
            DecoupledNet(5, width=4, hidden=16, kernel=kernel, norm=True, stages=stages),
            (IMAGE, torch.rand(1, 4)),
            one_class,
        )
        for kernel, stages in ((3, 2), (1, 5))
    },
    "rfcn": (
        drawn_networks.rfcn(classes=5, bins=3, depth=0, width=4, reduced=0),
        RFCN(5, bins=3, depth=0, width=4, reduced=0),
        (IMAGE, torch.rand(1, 5)),
        all_maps,
    ),
    "rfcn_resnet": (
        drawn_networks.rfcn(classes=5, **NARROW, reduced=6),
        RFCN(5, **NARROW, reduced=6),
        (IMAGE, torch.rand(1, 5)),
        all_maps,
    ),
    "fpn": (drawn_networks.fpn(**NARROW, channels=6), FPN(5, **NARROW, channels=6), (IMAGE,), levels),
    "cvae": (
        drawn_networks.cvae(classes=5, width=2, label_width=3, code_size=6, code_channels=4),
        CVAE(5, width=2, label_width=3, code_size=6, code_channels=4, size=(64, 64)),
        (IMAGE, LABELS),
        reconstruct,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_drawing_agrees_with_its_network(name):
    drawing, network, inputs, run = CASES[name]
    assert differences(drawing, network, *inputs, run=run) == []


@pytest.mark.parametrize("name", CASES)
def test_every_drawing_is_legible(name):
    drawing, *_ = CASES[name]
    figure = draw(drawing, name)
    figure.canvas.draw()
    width, _ = figure.get_size_inches()
    assert width <= 8
    assert smallest_text(figure) * figure.dpi / 72 * min(1, 704 / (width * figure.dpi)) >= 9
    assert name in alt_text(figure)


@pytest.mark.parametrize("arch", ["A-18", "B-26", "C-26"])
def test_a_level_of_a_drn_has_a_loop_where_it_has_residual_blocks(arch):
    drawing, network, *_ = CASES[f"drn_{arch}"]
    loops = {link.source for link in drawing.links if link.source == link.target}
    modules = {stage.name: network.get_submodule(stage.module) for stage in drawing.stages if stage.module}
    residual = {
        name
        for name, module in modules.items()
        if any(isinstance(part, BasicBlock | Bottleneck) for part in module.modules())
    }
    assert loops == residual


def changed(drawing: Architecture, name: str, **fields: object) -> Architecture:
    stages = [stage._replace(**fields) if stage.name == name else stage for stage in drawing.stages]
    return drawing._replace(stages=stages)


def test_wrong_channels_strides_and_links_are_found():
    drawing, network, inputs, _ = CASES["fcn16s"]
    assert "pool3 is (1, 16, 8, 8), drawn with 17 channels of height 8" in differences(
        changed(drawing, "pool3", channels=17), network, *inputs
    )
    assert "pool3 is (1, 16, 8, 8), drawn with 16 channels of height 4" in differences(
        changed(drawing, "pool3", stride=16), network, *inputs
    )
    without = [link for link in drawing.links if link.target != "score pool4"]
    assert differences(drawing._replace(links=without), network, *inputs) == [
        "score pool4 reads pool4, which is not drawn"
    ]
    more = [*drawing.links, Link("pool3", "sum 4", "skip")]
    assert differences(drawing._replace(links=more), network, *inputs) == ["logits does not read pool3, as drawn"]


def test_a_module_that_is_never_run_is_found():
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    network.idle = nn.Identity()
    network.forward = network[0].forward
    drawing = Architecture([Stage("image", (0, 0), 3, 1, "input"), Stage("idle", (1, 0), 2, 1, module="idle")], [])
    assert differences(drawing, network, IMAGE) == ["idle is never computed"]


def test_the_network_itself_is_left_as_it_is():
    _, network, inputs, _ = CASES["fcn32s"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    differences(CASES["fcn32s"][0], network, *inputs)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize(
    ("stages", "links", "message"),
    [
        ([Stage("a", (0, 0), kind="ring")], [], "a is of kind 'ring'"),
        ([Stage("a", (0, 0))], [Link("a", "b")], "a link names 'b'"),
        ([Stage("a", (0, 0))], [Link("a", "a", "thread")], "a link is of kind 'thread'"),
    ],
)
def test_unknown_kinds_and_stages_are_named(stages, links, message):
    with pytest.raises(ValueError, match=message):
        draw(Architecture(stages, links))


def test_a_larger_map_is_a_higher_block_and_more_channels_a_wider_one():
    stages = [Stage("fine", (0, 0), 16, 1), Stage("coarse", (1, 0), 64, 16)]
    figure = draw(Architecture(stages, [Link("fine", "coarse")]))
    fine, coarse = (patch.get_xy() for patch in figure.axes[0].patches[:2])
    (width, height), (wide, low) = (points.max(0) - points.min(0) for points in (fine, coarse))
    assert width < wide
    assert height > low
    assert figure.axes[0].patches[0].get_facecolor()[:3] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))
    assert set(KINDS) & {"encoder", "decoder"}


def test_a_cvae_names_the_dilations_of_its_bottleneck():
    stages = {stage.name: stage for stage in drawn_networks.cvae(dilations=(2, 8)).stages}
    assert stages["map 5"].note == "dilations 2, 8"
    assert not any(stages[f"map {level}"].note for level in range(1, 5))
    default = {stage.name: stage for stage in drawn_networks.cvae().stages}["map 5"]
    assert default.note == f"dilations {', '.join(str(part[0].dilation[0]) for part in CVAE(width=1).bottleneck)}"
