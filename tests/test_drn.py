"""DRN: the papers' counts, a ResNet whose strides became dilation, and the three degridding steps."""

import logging

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models import drn
from course_lib.models.blocks import PointwiseConv, copy_in_order
from course_lib.models.drn import ARCHS, DRN, classifier, load_resnet

pytestmark = pytest.mark.usefixtures("one_thread")

every_arch = pytest.mark.parametrize("arch", ARCHS)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions larger than 1x1, in order: those that make the field."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return [layer for layer in layers if layer.kernel_size != (1, 1)]


def positive(net: nn.Module) -> nn.Module:
    """Weights above zero everywhere, so that no path cancels another; double precision."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    return net.double().eval()


# -- the paper's numbers ----------------------------------------------------------------------------


def test_the_papers_numbers_of_parameters():
    """In millions, to two decimals where they were counted, to one where the paper's README has them."""
    millions = {
        "A-18": 11.7,
        "A-34": 21.8,
        "A-50": 25.56,
        "C-26": 21.13,
        "C-42": 31.23,
        "D-22": 16.39,
        "D-38": 26.50,
        "D-54": 35.81,
        "D-105": 54.8,
    }
    with torch.device("meta"):
        counted = {arch: count(classifier(arch)) / 1e6 for arch in ARCHS}
    for arch, published in millions.items():
        digits = 2 if published != round(published, 1) or arch == "D-38" else 1
        assert round(counted[arch], digits) == published, arch
    assert counted["B-26"] == counted["C-26"]  # a skip has no weights where no channels change
    unused = 2048 * 512 + 2 * 512  # the released code's shortcut without a use, and its norm
    assert round(counted["C-58"] + unused / 1e6, 1) == 41.6


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_dilation_changes_no_count(depth):
    with torch.device("meta"):
        resnet = getattr(torchvision.models, f"resnet{depth}")()
        assert count(classifier(f"A-{depth}")) == count(resnet)


@every_arch
def test_the_number_in_the_name_counts_the_layers(arch):
    """Convolutions but those of shortcuts, and the classifier."""
    with torch.device("meta"):
        net = classifier(arch)
    names = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    layers = [name for name in names if "downsample" not in name]
    assert len(layers) + 1 == int(arch.split("-")[1])


def test_the_papers_channels_and_dilations():
    with torch.device("meta"):
        net = DRN(arch="D-22")
        levels = net.encode(torch.zeros(1, 3, 224, 224))
    assert [maps.shape[1] for maps in levels] == [16, 32, 64, 128, 256, 512, 512, 512]
    assert [224 // maps.shape[2] for maps in levels] == [1, 2, 4, 8, 8, 8, 8, 8]
    dilations = [{layer.dilation for layer in convolutions(level)} for level in net.levels]
    assert dilations == [{(d, d)} for d in (1, 1, 1, 1, 2, 4, 2, 1)]


def field(net: nn.Module) -> tuple[int, int]:
    """Receptive field and stride by the recurrence: each layer adds (kernel - 1) * dilation * stride so far."""
    reach, stride = 1, 1
    for layer in convolutions(net):
        reach += (layer.kernel_size[0] - 1) * layer.dilation[0] * stride
        stride *= layer.stride[0]
    return reach, stride


def test_the_field_of_d22_is_527_by_recurrence_and_by_gradient():
    with torch.device("meta"):
        assert field(DRN(arch="D-22").levels) == (527, 8)
    net = positive(DRN(2, arch="D-22", width=1))
    strip = torch.ones(1, 3, 8, 800, dtype=torch.float64, requires_grad=True)
    net.levels(strip)[..., 0, 50].sum().backward()
    seen = strip.grad.sum(dim=(0, 1, 2)).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (400 - 263, 400 + 263)


# -- striding becomes dilation ----------------------------------------------------------------------


def resnet(depth: int, width: int) -> torchvision.models.ResNet:
    """torchvision's ResNet, narrow, with statistics as if it had been trained."""
    torch.manual_seed(0)
    kinds = torchvision.models.resnet
    block = kinds.Bottleneck if depth == 50 else kinds.BasicBlock
    layers = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
    net = NarrowResNet(block, layers, width)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return net.eval()


class NarrowResNet(torchvision.models.ResNet):
    """torchvision's own class, built with fewer channels."""

    def __init__(self, block: type, layers: list[int], width: int):
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for group, count in enumerate(layers):
            made = self._make_layer(block, width * 2**group, count, stride=1 if group == 0 else 2)
            self.add_module(f"layer{group + 1}", made)
        self.fc = nn.Linear(width * 8 * block.expansion, 10)


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_every_answer_of_the_resnet_is_one_of_drn_as(depth, size):
    """The same weights: every fourth cell of the dilated network's map is the strided network's map."""
    theirs = resnet(depth, width=8)
    ours = DRN(5, arch=f"A-{depth}", width=2).eval()
    load_resnet(ours.levels, theirs.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        coarse = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        fine = ours.encode(images)[-1]
    assert fine.shape[-1] == -(-size[1] // 8)
    scale = float(coarse.abs().max())
    assert scale > 0
    torch.testing.assert_close(fine[..., ::4, ::4], coarse, atol=1e-5 * scale, rtol=1e-4)


def test_torchvisions_weights_fit_the_full_network(monkeypatch):
    with torch.device("meta"):
        for depth in (18, 34, 50):
            weights = getattr(torchvision.models, f"resnet{depth}")().state_dict()
            monkeypatch.setattr(drn, "imagenet_weights", lambda name, weights=weights: weights)
            DRN(arch=f"A-{depth}", imagenet=True)
        with pytest.raises((ValueError, RuntimeError)):
            load_resnet(DRN(arch="A-18").levels, weights)  # those of ResNet-50


def test_imagenet_weights_are_asked_for_by_name(data_dir, caplog):
    """Where they are absent the network trains from scratch and says so; a narrow one cannot take them."""
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        DRN(arch="A-18", imagenet=True)
    assert "no ImageNet weights for resnet18" in caplog.text
    with pytest.raises(ValueError, match="A-18, A-34 and A-50 of width 16, not for A-18 of width 4"):
        DRN(arch="A-18", width=4, imagenet=True)
    with pytest.raises(ValueError, match="not for D-22 of width 16"), torch.device("meta"):
        DRN(arch="D-22", imagenet=True)


# -- the three steps of degridding ------------------------------------------------------------------


@every_arch
def test_letters_say_which_steps_are_taken(arch):
    with torch.device("meta"):
        net = DRN(arch=arch)
    letter = arch.split("-")[0]
    pooled = any(isinstance(part, nn.MaxPool2d) for part in net.modules())
    assert pooled == (letter == "A")  # step 1
    last = [max(layer.dilation[0] for layer in convolutions(level)) for level in net.levels]
    assert last[-1] == (4 if letter in ("A", "B1") else 1)  # step 2
    assert letter in ("A", "B1") or last[-4:] == [2, 4, 2, 1]
    skips = ["BasicBlock" in str(level) or "Bottleneck" in str(level) for level in net.levels]
    with_skips = {"A": "01111", "B1": "111111", "B": "11111111", "C": "11111100", "D": "00111100"}  # step 3
    assert "".join(str(int(skip)) for skip in skips) == with_skips[letter]


def test_a_narrow_body_can_have_a_stem_of_full_width():
    a, b = (DRN(2, arch=arch, width=4, stem=stem) for arch, stem in (("A-18", None), ("B-26", 16)))
    assert a.levels[0][0].weight.shape == (16, 3, 7, 7) == b.levels[0][0].weight.shape
    assert b.levels[2][0].conv1.weight.shape[:2] == (16, 32)  # 2 * stem maps become 4 * width
    assert count(a.levels[4]) == count(b.levels[5])  # the groups behind are the same
    assert a.eval()(torch.zeros(1, 3, 33, 40)).shape == b.eval()(torch.zeros(1, 3, 33, 40)).shape


def test_c_is_b_without_the_last_skips():
    """The same weights in both; with the skipped features at zero, the same numbers."""
    b, c = (DRN(2, arch=arch, width=1).eval() for arch in ("B-26", "C-26"))
    copy_in_order(b, c)
    features = torch.rand(1, 32, 8, 8)
    for with_skip, without in zip(b.levels[-2:], c.levels[-2:], strict=True):
        (block,) = with_skip
        assert not torch.allclose(with_skip(features), without(features))
        block.downsample = ToZero()
        torch.testing.assert_close(with_skip(features), without(features))


class ToZero(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return torch.zeros_like(features)


@every_arch
def test_every_network_learns_everywhere_and_keeps_the_size(arch):
    torch.manual_seed(0)
    net = DRN(3, arch=arch, width=1)
    logits = net(torch.randn(2, 3, 65, 79))
    assert logits.shape == (2, 3, 65, 79)
    logits.square().sum().backward()
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learned)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match=r"arch is one of A-18, .*, not 'D-18'"):
        DRN(arch="D-18")


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_strided_shortcut_is_an_ordinary_convolution(order):
    """And its gradient is right where oneDNN's strided 1x1 convolution writes out of bounds."""
    torch.manual_seed(0)
    ours, features = PointwiseConv(4, 8, stride=2), torch.randn(8, 4, 97, 128)
    ours.to(memory_format=order)
    ours(features.contiguous(memory_format=order)).square().sum().backward()
    weight = ours.weight.detach().double().contiguous().requires_grad_()
    expected = functional.conv2d(features.double(), weight, stride=2)
    expected.square().sum().backward()
    assert expected.shape == (8, 8, 49, 64)
    torch.testing.assert_close(ours(features).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.weight.grad.double(), weight.grad, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("arch", ["A-34", "A-50", "C-26", "C-58"])
def test_all_strided_shortcuts_are_of_the_safe_kind(arch):
    with torch.device("meta"):
        net = DRN(arch=arch)
    strided = [
        part
        for part in net.modules()
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.stride != (1, 1)
    ]
    assert strided
    assert all(isinstance(part, PointwiseConv) for part in strided)


# -- scores become logits ---------------------------------------------------------------------------


def middle(weights: Tensor) -> float:
    return float((weights * torch.arange(len(weights))).sum() / weights.sum())


@pytest.mark.parametrize("arch", ["A-18", "C-26", "D-22"])
def test_outputs_lie_where_their_pixels_are(arch):
    """Equal weights: what a logit depends on is centred on its pixel, to the half pixel of an even kernel."""
    net = positive(DRN(2, arch=arch, width=1))
    for level in net.levels:
        for number, part in enumerate(level):
            if isinstance(part, nn.MaxPool2d):
                level[number] = nn.AvgPool2d(3, stride=2, padding=1)
    strip = torch.ones(1, 3, 8, 1600, dtype=torch.float64)
    centres = []
    for column in range(800, 808):
        wanted = strip.clone().requires_grad_()
        net(wanted)[0, 0, 0, column].backward()
        centres.append(middle(wanted.grad.sum(dim=(0, 1, 2))) - column)
    assert max(abs(centre) for centre in centres) < 0.51


def test_the_upsampling_is_fixed():
    net = DRN(3, arch="A-18", width=1)
    assert not net.upsample.weight.requires_grad
    assert net.upsample.weight.shape == (3, 1, 16, 16)
