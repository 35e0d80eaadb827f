"""Dilated convolutions: the paper's counts and fields, a start that changes nothing, cells in their place."""

import logging

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from course_lib.models import dilated
from course_lib.models.dilated import DILATIONS, ContextModule, DilatedNet, FrontEnd, start_as_identity
from course_lib.models.vgg import copy_vgg16, vgg_stages

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("basic", "large")


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def small(context: str = "none", **options) -> DilatedNet:
    usual = {"width": 4, "fc_channels": 8, "padding": "same"}
    return DilatedNet(3, context=context, **(usual | options)).eval()


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def reach(maps: Tensor) -> tuple[slice, slice]:
    """The rows and columns between the first and the last number of (..., H, W) that is not zero."""
    touched = maps.flatten(0, -3).abs().sum(0)
    rows, columns = touched.sum(1).nonzero().flatten(), touched.sum(0).nonzero().flatten()
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@torch.no_grad()
def all_positive(module: nn.Module) -> nn.Module:
    """Weights above 0, so that no truncation is ever at work and no two paths cancel."""
    for layer in convolutions(module):
        layer.weight.fill_(1 / layer.weight[0].numel())
        if layer.bias is not None:
            layer.bias.zero_()
    return module.eval()


# -- the context module -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "parameters"), [("basic", 28_392), ("large", 6_803_139)])
def test_the_papers_number_of_parameters(kind, parameters):
    with torch.device("meta"):
        assert count(ContextModule(21, kind=kind)) == parameters


def test_the_layers_of_the_papers_table():
    with torch.device("meta"):
        basic, large = (convolutions(ContextModule(5, kind=kind)) for kind in KINDS)
        layers = ContextModule(5).layers
    for layers_of_kind in (basic, large):
        assert [layer.kernel_size[0] for layer in layers_of_kind] == [3] * 7 + [1]
        assert [layer.dilation[0] for layer in layers_of_kind] == [1, 1, 2, 4, 8, 16, 1, 1]
    assert [layer.out_channels for layer in basic] == [5] * 8
    assert [layer.out_channels for layer in large] == [10, 10, 20, 40, 80, 160, 160, 5]
    kinds = [type(layer) for layer in layers]
    assert kinds == [nn.Conv2d, nn.ReLU] * 7 + [nn.Conv2d]  # truncated, but for the last


def test_the_fields_of_the_papers_table():
    module = all_positive(ContextModule(2))
    features = torch.zeros(1, 2, 99, 99)
    features[..., 49, 49] = 1
    fields = []
    with torch.no_grad():
        for layer in module.layers:
            features = layer(features)
            rows, columns = reach(features)
            assert (rows.start, columns.start) == (99 - rows.stop, 99 - columns.stop)
            if isinstance(layer, nn.Conv2d):
                fields.append(rows.stop - rows.start)
    assert fields == [3, 5, 9, 17, 33, 65, 67, 67]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (15, 20)])
def test_the_context_module_keeps_the_shape(kind, size):
    features = torch.randn(2, 4, *size)
    assert ContextModule(4, kind=kind)(features).shape == features.shape


def test_the_basic_module_starts_as_the_identity():
    features = torch.rand(2, 5, 20, 24)
    assert torch.equal(ContextModule(5)(features), features)
    negative = features - 0.5
    assert torch.equal(ContextModule(5)(negative), negative.clamp(min=0))  # what is below 0 is lost


def test_the_large_module_starts_near_the_identity():
    torch.manual_seed(0)
    features = torch.rand(2, 5, 20, 24)
    module = ContextModule(5, kind="large")
    with torch.no_grad():
        error = (module(features) - features).square().mean().sqrt()
    assert 0 < error < 0.2 * features.std()
    assert len(module.layers[0].weight[:2].unique()) > 2  # twins that differ can learn different things


def test_the_large_modules_weights_follow_the_papers_formula():
    """Literally: C / c_out in the middle where floor(a C / c_in) = floor(b C / c_out), else noise."""
    layer = nn.Conv2d(6, 12, kernel_size=3, padding=1)
    start_as_identity(layer, 3, noise=0.01)
    central = torch.zeros(12, 6, 3, 3, dtype=torch.bool)
    for b in range(12):
        for a in range(6):
            central[b, a, 1, 1] = int(a * 3 / 6) == int(b * 3 / 12)
    assert torch.equal(layer.weight[central], torch.full((24,), 3 / 12))
    noise = layer.weight.detach()[~central]
    assert 0.5 * 0.0025 < noise.std() < 2 * 0.0025
    assert abs(float(noise.mean())) < 0.0005
    assert not layer.bias.any()


def test_each_signal_keeps_its_sum_through_any_widths():
    layers = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in [(2, 6), (6, 4), (4, 2)]))
    for layer in layers:
        start_as_identity(layer, 2)
    features = torch.rand(1, 2, 6, 6)
    torch.testing.assert_close(layers(features), features)


def test_a_random_start_is_no_identity():
    torch.manual_seed(0)
    features = torch.rand(2, 5, 20, 24)
    for kind in KINDS:
        module = ContextModule(5, kind=kind, initialisation="random")
        assert (module(features) - features).std() > 0.3 * features.std()
        first = convolutions(module)[0]
        assert float(first.weight.detach().std()) == pytest.approx((2 / 45) ** 0.5, rel=0.15)


# -- the front end ----------------------------------------------------------------------------------


def test_the_front_end_is_vgg16():
    """As many parameters as the classifier without its last layer, and the new scores."""
    with torch.device("meta"):
        net = DilatedNet(21, context="none")
        large = DilatedNet(21, context="large")
    assert count(net) == 134_260_544 + 4096 * 21 + 21
    assert count(large) - count(net) == 6_803_139


def test_poolings_and_strides_become_dilation():
    with torch.device("meta"):
        net = FrontEnd(21)
    poolings = [layer for layer in net.modules() if isinstance(layer, nn.MaxPool2d)]
    assert len(poolings) == 3
    assert [layer.dilation[0] for layer in convolutions(net)] == [1] * 10 + [2] * 3 + [4, 1, 1]
    assert {layer.padding[0] for layer in convolutions(net)} == {0}
    with torch.device("meta"):
        same = FrontEnd(21, padding="same")
    assert [layer.padding[0] for layer in convolutions(same)] == [1] * 10 + [2] * 3 + [12, 0, 0]


def averaging(net: DilatedNet) -> DilatedNet:
    """The same network with average pooling: the gradient then reaches every pixel that it can."""
    for stage in net.front_end.stages:
        for index, layer in enumerate(stage):
            if isinstance(layer, nn.MaxPool2d):
                stage[index] = nn.AvgPool2d(2, stride=2, ceil_mode=True)
    return all_positive(net).double()


@pytest.mark.parametrize(("context", "field"), [("none", 380), ("basic", 908)])
def test_the_field_of_one_score(context, field):
    """The paper's margins: a score reads 380 pixels, behind the context module 908, around its own eight."""
    net = averaging(small(context, width=1, fc_channels=1))
    picture = torch.ones(1, 3, 960, 960, dtype=torch.float64, requires_grad=True)
    scores = net.context(net.front_end(picture))
    assert scores.shape[-2:] == (120, 120)
    scores[0, 0, 60, 60].backward()
    rows, columns = reach(picture.grad)
    middle = 60 * 8 + 3.5
    assert (rows.start, rows.stop) == (middle - (field - 1) / 2, middle + (field + 1) / 2)
    assert (columns.start, columns.stop) == (rows.start, rows.stop)


def test_a_front_end_of_three_stages_sees_44_pixels():
    net = averaging(small(width=1, fc_channels=1, stages=3, fc_kernel=1))
    picture = torch.ones(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    scores = net.front_end(picture)
    assert scores.shape[-2:] == (20, 20)
    scores[0, 0, 10, 10].backward()
    rows, columns = reach(picture.grad)
    assert rows == columns == slice(80 + 4 - 22, 80 + 4 + 22)


@pytest.mark.parametrize("options", [{"stages": 4}, {"fc_kernel": 2}, {"stages": 3, "padding": "paper"}])
def test_other_front_ends_are_refused(options):
    with pytest.raises(ValueError, match="3 or 5 stages and an odd fc_kernel"):
        small(**options)


def test_the_field_of_the_papers_padding_starts_at_the_margin():
    net = averaging(small(width=1, fc_channels=1, padding="paper"))
    assert net.front_end(torch.zeros(1, 3, 65, 47).double()).shape[-2:] == (9, 6)
    # without a mirror the first score reads exactly the 186 + 8 + 186 pixels around the first cell
    net.front_end.padding = "same"
    assert net.front_end(torch.zeros(1, 3, 380, 388).double()).shape[-2:] == (1, 2)


@pytest.mark.parametrize("size", [(32, 40), (33, 47)])
def test_the_picture_is_continued_by_its_mirror_image_to_a_multiple_of_8(size):
    net, seen = FrontEnd(3, width=4, fc_channels=8), []
    net.stages[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    picture = torch.randn(2, 3, *size)
    with torch.no_grad():
        net(picture)
    height, width = (186 + 8 * -(-side // 8) - side for side in size)
    expected = np.pad(picture.numpy(), ((0, 0), (0, 0), (186, height), (186, width)), mode="reflect")
    assert torch.equal(seen[0], torch.from_numpy(expected))


@torch.no_grad()
def test_both_paddings_agree_inside():
    torch.manual_seed(4)
    same, paper = small(padding="same"), small(padding="paper")
    paper.load_state_dict(same.state_dict())
    picture = torch.randn(1, 3, 480, 480)
    inside = (..., slice(216, 264), slice(216, 264))  # further from the border than half a field
    expected = same(picture)[inside]
    assert expected.std() > 0
    torch.testing.assert_close(paper(picture)[inside], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "paper"])
@torch.no_grad()
def test_a_bright_pixel_is_found_where_it_is(padding):
    """Every convolution hands on its middle alone: the answer lies around the pixel's own cell of 8x8."""
    net = small(padding=padding)
    for layer in convolutions(net):
        layer.weight.zero_()
        layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
        layer.bias.zero_()
    offsets = []
    for shift in range(8):
        row, column = 40 + shift, 64 + shift
        picture = torch.zeros(1, 3, 121, 133)
        picture[0, 0, row, column] = 1
        answer = net(picture)[0, 0]
        offsets.append(float(answer.sum(1) @ torch.arange(121.0) / answer.sum()) - row)
        offsets.append(float(answer.sum(0) @ torch.arange(133.0) / answer.sum()) - column)
    assert max(map(abs, offsets)) <= 3.5 + 1e-3
    assert abs(sum(offsets)) < 1e-2


class Ramp(nn.Module):
    """Scores that are the number of their column."""

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (-(-side // 8) for side in images.shape[-2:])
        return torch.arange(float(columns)).expand(len(images), 3, rows, columns)


def test_scores_are_interpolated_from_the_middle_of_their_cells():
    net = small()
    net.front_end = Ramp()
    logits = net(torch.zeros(1, 3, 40, 47))
    expected = ((torch.arange(47.0) - 3.5) / 8).clamp(0, 5)
    torch.testing.assert_close(logits, expected.expand(1, 3, 40, 47))


@torch.no_grad()
def test_it_agrees_with_the_classifier_read_at_every_eighth_pixel():
    """Dilation instead of stride: the same weights, the same numbers, at eight times as many places each way.

    VGG16's own layers, with strides, on the picture shifted by (8 i, 8 j), are the reference. Poolings are
    taken out of both (their strides stay as subsampling), since a maximum over cells has no dilated twin
    in the paper's front end.
    """
    torch.manual_seed(1)
    net = small(width=8, fc_channels=12, padding="same")
    strided = vgg_stages(8)
    fc6 = nn.Conv2d(64, 12, kernel_size=7)
    for ours, theirs in zip(convolutions(net.front_end.stages), convolutions(strided), strict=True):
        theirs.load_state_dict(ours.state_dict())
        theirs.padding = (0, 0)
    fc6.load_state_dict(net.front_end.fc6.state_dict())
    for layer in convolutions(net.front_end):
        layer.padding = (0, 0)
    for stage in (3, 4):
        strided[stage][-1] = nn.MaxPool2d(1, stride=2)
    picture = torch.randn(1, 3, 420, 420)
    maps = picture
    for stage in net.front_end.stages:
        maps = stage(maps)
    dense = net.front_end.fc6(maps)
    assert dense.shape[-1] == 6
    for i, j in [(0, 0), (1, 0), (2, 3), (5, 5)]:
        window = picture[..., 8 * i :, 8 * j :][..., :380, :380]
        for stage in strided:
            window = stage(window)
        torch.testing.assert_close(fc6(window)[..., 0, 0], dense[..., i, j], rtol=1e-4, atol=1e-4)


# -- ImageNet weights -------------------------------------------------------------------------------


def test_torchvisions_weights_fit_the_full_network(monkeypatch):
    with torch.device("meta"):
        weights = torchvision.models.vgg16().state_dict()
        monkeypatch.setattr(dilated, "imagenet_weights", lambda name: weights)
        net = DilatedNet(21, imagenet=True)
    assert net.front_end.fc6.weight.shape == (4096, 512, 7, 7)


def test_weights_of_vgg_are_copied_number_for_number():
    net = small().front_end
    weights = {}
    for index, layer in enumerate(convolutions(net.stages)):
        weights[f"features.{index}.weight"] = torch.randn_like(layer.weight)
        weights[f"features.{index}.bias"] = torch.randn_like(layer.bias)
    for name, layer in (("classifier.0", net.fc6), ("classifier.3", net.fc7)):
        weights[f"{name}.weight"] = torch.randn(layer.weight.flatten(1).shape)
        weights[f"{name}.bias"] = torch.randn_like(layer.bias)
    copy_vgg16(weights, net.stages, net.fc6, net.fc7)
    assert torch.equal(net.stages[4][-2].weight, weights["features.12.weight"])
    assert torch.equal(net.stages[0][0].bias, weights["features.0.bias"])
    assert torch.equal(net.fc6.weight.flatten(1), weights["classifier.0.weight"])
    assert torch.equal(net.fc7.bias, weights["classifier.3.bias"])


def test_without_the_file_it_trains_from_scratch_and_says_so(data_dir, caplog):
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        DilatedNet(21, imagenet=True)
    assert f"no ImageNet weights for vgg16 in {data_dir / 'weights'}" in caplog.text


# -- the whole network ------------------------------------------------------------------------------


@torch.no_grad()
def test_the_basic_module_changes_nothing_at_first():
    """Where no score is negative the logits are the front end's."""
    torch.manual_seed(2)
    plain, context = small("none"), small("basic")
    context.front_end.load_state_dict(plain.front_end.state_dict())
    nn.init.constant_(plain.front_end.score.bias, 4)  # far above 0
    nn.init.constant_(context.front_end.score.bias, 4)
    picture = torch.randn(1, 3, 64, 80)
    assert plain.front_end(picture).min() > 0
    assert torch.equal(context(picture), plain(picture))


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_module_of_either_kind_learns(kind):
    """The right answer of a cell stands four cells to its left: a front end alone cannot know it."""
    torch.manual_seed(0)
    module = ContextModule(3, kind=kind)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    features = torch.rand(8, 3, 12, 12)
    target = features.roll(4, dims=-1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (module(features) - target)[..., 4:].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DilatedNet(21, context="huge"), "not 'huge'"),
        (lambda: DilatedNet(21, padding="valid"), "not 'valid'"),
        (lambda: ContextModule(21, kind="none"), "not 'none'"),
        (lambda: ContextModule(21, initialisation="zero"), "not 'zero'"),
        (
            lambda: DilatedNet(21, imagenet=True, width=8),
            "fit width 64, 4096 fc channels, no norm and all of VGG16 only",
        ),
        (lambda: start_as_identity(nn.Conv2d(6, 8, 3), 3), "3 signals do not divide 6 inputs and 8 outputs"),
    ],
)
def test_impossible_arguments_are_named(make, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        make()


def test_the_dilations_add_up_to_the_margin_of_33():
    assert sum(DILATIONS) == 33
    assert 2 * dilated.MARGIN + dilated.STRIDE == 380
