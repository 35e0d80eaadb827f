"""FCN: the paper's counts and crops, a classifier that becomes convolutional, and outputs in their place."""

import logging

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import make_layers

from course_lib.models import fcn
from course_lib.models.blocks import BilinearUpsampling, bilinear_kernel, resize_to
from course_lib.models.fcn import FCN, fuse
from course_lib.models.imagenet import imagenet_weights, weights_file
from course_lib.models.vgg import vgg_stages

pytestmark = pytest.mark.usefixtures("one_thread")

STRIDES = (32, 16, 8)


def small(stride: int = 8, **options) -> FCN:
    usual = {"width": 4, "fc_channels": 8, "padding": "same"}
    return FCN(3, stride=stride, **(usual | options)).eval()


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# -- the paper's numbers ----------------------------------------------------------------------------


def test_the_papers_number_of_parameters():
    """134 M: VGG16 without its last layer (14,714,688 + 102,764,544 + 16,781,312), and the new layers."""
    with torch.device("meta"):
        nets = {stride: FCN(21, stride=stride) for stride in STRIDES}
    for net in nets.values():
        assert count(net.stages) == 14_714_688
        assert count(net.stages, net.fc6, net.fc7) == 134_260_544
    score = 4096 * 21 + 21
    extra = {32: score, 16: score + 512 * 21 + 21, 8: score + (512 + 256) * 21 + 2 * 21}
    learned = {32: 0, 16: 4**2, 8: 2 * 4**2}  # a kernel for each pair of classes
    frozen = {32: 64**2, 16: 32**2, 8: 16**2}  # a kernel for each class
    for stride, net in nets.items():
        upsampling = 21 * 21 * learned[stride] + 21 * frozen[stride]
        assert count(net) == 134_260_544 + extra[stride] + upsampling


def test_the_crops_of_the_released_code():
    nets = {stride: small(stride, padding="paper") for stride in STRIDES}
    assert [nets[stride].offset for stride in STRIDES] == [19, 27, 31]
    assert nets[32].skip_offsets == {}
    assert nets[16].skip_offsets == {16: 5}
    assert nets[8].skip_offsets == {16: 5, 8: 9}


def test_convolutions_are_vggs():
    """The same layers as torchvision's, but for the pooling, which rounds up."""
    with torch.device("meta"):
        ours = [layer for stage in vgg_stages() for layer in stage]
        theirs = list(torchvision.models.vgg16().features)
    for layer, reference in zip(ours, theirs, strict=True):
        if isinstance(layer, nn.MaxPool2d):
            assert layer.ceil_mode
            assert (layer.kernel_size, layer.stride) == (reference.kernel_size, reference.stride)
        else:
            assert str(layer) == str(reference)
    with torch.device("meta"):
        normed = [layer for stage in vgg_stages(norm=True) for layer in stage]
        names = [type(layer).__name__ for layer in torchvision.models.vgg16_bn().features]
    assert [type(layer).__name__ for layer in normed] == names


# -- bilinear upsampling ----------------------------------------------------------------------------


def test_bilinear_kernels_by_hand():
    even = torch.tensor([0.25, 0.75, 0.75, 0.25])
    odd = torch.tensor([1, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(bilinear_kernel(4), even[:, None] * even)
    torch.testing.assert_close(bilinear_kernel(5), odd[:, None] * odd)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_upsampling_starts_as_interpolation(factor):
    layer = BilinearUpsampling(3, factor, learned=True)
    maps = torch.randn(2, 3, 5, 6)
    raised = layer(maps)
    assert raised.shape == (2, 3, factor * 6, factor * 7)
    half = factor // 2
    cropped = raised[..., half : half + 5 * factor, half : half + 6 * factor]
    expected = functional.interpolate(maps, scale_factor=factor, mode="bilinear")
    inside = (..., slice(half, -half), slice(half, -half))  # outside a border cell has no neighbour
    torch.testing.assert_close(cropped[inside], expected[inside])


def test_resizing_aligns_pixel_areas():
    maps = torch.randn(1, 2, 4, 5)
    expected = functional.interpolate(maps, size=(9, 13), mode="bilinear", align_corners=False)
    assert torch.equal(resize_to(maps, (9, 13)), expected)


def test_only_the_last_upsampling_is_frozen():
    net = small(8)
    learned = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {"upsample_fc.weight", "upsample_pool4.weight"} <= learned
    assert "upsample.weight" not in learned


def test_maps_are_summed_where_they_overlap():
    coarse, skip = torch.arange(6.0).view(1, 1, 1, 6), torch.zeros(1, 1, 1, 5)
    assert fuse(coarse, skip + 10, 0).flatten().tolist() == [10, 11, 12, 13, 14]
    assert fuse(coarse.expand(1, 1, 3, 6), skip.expand(1, 1, 4, 5), 2).shape == (1, 1, 2, 3)
    assert fuse(coarse.expand(1, 1, 3, 6), skip.expand(1, 1, 4, 5), -1)[0, 0, 0].tolist() == [1, 2, 3, 4, 5]


# -- from a classifier to a dense network -----------------------------------------------------------


class NarrowVGG(nn.Module):
    """torchvision's VGG16 with fewer channels: the same attributes, hence the same names of weights."""

    def __init__(self, width: int, fc_channels: int):
        super().__init__()
        plan = [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"]
        plan = [step if step == "M" else step * width // 64 for step in plan]
        self.features = make_layers(plan)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(8 * width * 49, fc_channels),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(fc_channels, fc_channels),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(fc_channels, 1000),
        )


def test_the_imitation_has_torchvisions_names():
    with torch.device("meta"):
        assert list(NarrowVGG(4, 8).state_dict()) == list(torchvision.models.vgg16().state_dict())


def test_a_classifier_applied_everywhere_is_a_convolution():
    """The middle cell of fc7 sees all of a 224 x 224 picture: it gives the classifier's own numbers."""
    torch.manual_seed(0)
    vgg, net = NarrowVGG(8, 32).eval(), small(8, width=8, fc_channels=32)
    for parameter in vgg.parameters():  # every number differs from every other
        nn.init.normal_(parameter, 0, 0.1)
    net.load_vgg16(vgg.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        maps = vgg.features(images)
        expected = vgg.classifier[:6](vgg.avgpool(maps).flatten(1))
        pool3, pool4, fc7 = net.encode(images)
    assert expected.std() > 0
    assert fc7.shape == (2, 32, 7, 7)
    scale = float(expected.abs().max())
    torch.testing.assert_close(fc7[..., 3, 3], expected, atol=1e-5 * scale, rtol=1e-4)
    torch.testing.assert_close(pool3, vgg.features[:17](images))
    torch.testing.assert_close(pool4, vgg.features[:24](images))


def test_torchvisions_weights_fit_the_full_network(monkeypatch):
    """Names and shapes, on tensors without memory; the copied numbers are tested on a narrow one."""
    with torch.device("meta"):
        weights = torchvision.models.vgg16().state_dict()
        monkeypatch.setattr(fcn, "imagenet_weights", lambda name: weights)
        net = FCN(21, imagenet=True)
    assert net.fc6.weight.shape == (4096, 512, 7, 7)


def test_imagenet_weights_come_from_the_data_folder(data_dir):
    assert weights_file("vgg16") is None
    folder = data_dir / "weights"
    folder.mkdir()
    vgg = NarrowVGG(4, 8)
    torch.save(vgg.state_dict(), folder / "vgg16-397923af.pth")
    torch.save({}, folder / "vgg16_bn-6c64b313.pth")
    assert weights_file("vgg16") == folder / "vgg16-397923af.pth"
    found = imagenet_weights("vgg16")
    net = small(8)
    net.load_vgg16(found)
    assert torch.equal(net.stages[0][0].weight, vgg.features[0].weight)
    assert torch.equal(net.stages[4][4].bias, vgg.features[28].bias)
    assert torch.equal(net.fc6.weight.flatten(1), vgg.classifier[0].weight)
    assert torch.equal(net.fc7.bias, vgg.classifier[3].bias)


def test_without_the_file_it_trains_from_scratch_and_says_so(data_dir, caplog):
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        FCN(21, imagenet=True)
    assert f"no ImageNet weights for vgg16 in {data_dir / 'weights'}" in caplog.text
    assert "training from scratch" in caplog.text
    assert "python -m data_scripts.weights vgg16" in caplog.text


@pytest.mark.parametrize("options", [{"width": 32}, {"fc_channels": 1024}, {"norm": True}])
def test_imagenet_weights_fit_the_papers_network_only(options):
    with torch.device("meta"), pytest.raises(ValueError, match="fit width 64, 4096 fc channels and no norm only"):
        FCN(21, imagenet=True, **options)


@pytest.mark.parametrize("padding", ["same", "paper"])
@pytest.mark.parametrize("stride", STRIDES)
def test_scores_start_at_zero(stride, padding):
    logits = small(stride, padding=padding)(torch.randn(1, 3, 33, 47))
    assert torch.equal(logits, torch.zeros(1, 3, 33, 47))


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="stride 32, 16 or 8, not 4"):
        FCN(21, stride=4)
    with pytest.raises(ValueError, match="not 'valid'"):
        FCN(21, padding="valid")


# -- every output lies over its own pixel -----------------------------------------------------------


@torch.no_grad()
def pass_through(stride: int, padding: str, path: str) -> FCN:
    """A network that only looks: one channel is handed on unchanged, and `path` alone scores it."""
    net = small(stride, padding=padding)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.zero_()
            layer.bias.zero_()
            if layer.out_channels != 3:
                layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
    getattr(net, path).weight[1, 0] = 1
    return net


def middle_of(response: Tensor) -> tuple[float, float]:
    """The centroid (row, column) of a map (H, W) of numbers >= 0."""
    total = response.sum()
    rows, columns = (torch.arange(side, dtype=response.dtype, device=response.device) for side in response.shape)
    return float(response.sum(1) @ rows / total), float(response.sum(0) @ columns / total)


@pytest.mark.parametrize("padding", ["same", "paper"])
@pytest.mark.parametrize(
    ("stride", "path", "cell"),
    [
        (32, "score", 32),
        (16, "score", 32),
        (8, "score", 32),
        (16, "score_pool4", 16),
        (8, "score_pool4", 16),
        (8, "score_pool3", 8),
    ],
)
def test_a_bright_pixel_is_found_where_it_is(padding, stride, path, cell):
    """A pooled pixel is known to one cell: at most half a cell off, and on average not at all."""
    net = pass_through(stride, padding, path)
    offsets = []
    for shift in range(0, cell, cell // 8):
        row, column = 96 + shift, 112 + shift
        picture = torch.zeros(1, 3, 224, 224)
        picture[0, 0, row, column] = 1
        found = middle_of(net(picture)[0, 1].detach())
        offsets += [found[0] - row, found[1] - column]
    offsets = torch.tensor(offsets)
    assert offsets.abs().max() <= cell / 2 - 0.5 + 1e-3
    step = cell // 8
    assert abs(float(offsets.mean())) <= (step - 1) / 2 + 1e-3  # every step-th pixel was tried


def with_scores(padding: str) -> FCN:
    """Weights that depend on the seed alone, all scores at work."""
    torch.manual_seed(4)
    net = small(8, padding=padding)
    for layer in (net.score, net.score_pool4, net.score_pool3):
        nn.init.normal_(layer.weight, 0, 0.5)
    return net


@torch.no_grad()
def test_moving_the_picture_moves_the_logits():
    net = with_scores("same")
    scene = torch.randn(1, 3, 608, 608)
    here, there = net(scene[..., 32:, 32:]), net(scene[..., :-32, :-32])
    inside = slice(256, 320)  # no border within half a receptive field of 404 pixels
    moved = slice(256 + 32, 320 + 32)
    expected = here[..., inside, inside]
    assert expected.std() > 0
    torch.testing.assert_close(there[..., moved, moved], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_both_paddings_agree_inside():
    """The paper's cells start three pixels further left; with the picture moved by three they coincide."""
    same, paper = with_scores("same"), with_scores("paper")
    assert all(map(torch.equal, same.parameters(), paper.parameters()))
    scene = torch.randn(1, 3, 576, 576)
    moved = functional.pad(scene, (3, 0, 3, 0))
    inside, beside = slice(256, 320), slice(259, 323)
    expected = paper(scene)[..., inside, inside]
    assert expected.std() > 0
    torch.testing.assert_close(same(moved)[..., beside, beside], expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
