"""Receptive fields: the published sizes, every way of joining maps against the gradient, and the occluder."""

import math
import random

import pytest
import torch
import torchvision
from test_models import TINY, make
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import models
from course_lib.effective_field import (
    LayerReader,
    effective_field,
    gradient_support,
    measured_size,
    standard_deviations,
)
from course_lib.empirical_field import (
    centred_average,
    discrepancy_map,
    empirical_field,
    grid_of,
    most_exciting,
    occluding_patch,
)
from course_lib.models.alexnet import FCNAlexNet
from course_lib.models.dilated import DilatedNet
from course_lib.models.drn import DRN
from course_lib.models.fcn import FCN
from course_lib.models.segnet_basic import SegNetBasic
from course_lib.models.unet import UNet
from course_lib.models.vgg import vgg_stages
from course_lib.receptive_field import Field, FieldError, Layer, receptive_fields, stack

pytestmark = pytest.mark.usefixtures("one_thread")

ALEXNET = [(11, 4, 2), (3, 2), (5, 1, 2), (3, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2)]
VGG = [layer for n in (2, 2, 3, 3, 3) for layer in [(3, 1, 1)] * n + [(2, 2)]]


def sizes(fields: list[Field]) -> list[float]:
    return [field.size for field in fields]


# -- the recurrence -----------------------------------------------------------------------------------


def test_the_recurrence_by_hand():
    first, second = stack([Layer(3, stride=2, padding=1), (3, 1, 1, 2)])
    assert (first.size, first.jump, first.start, first.padding) == (3, 2, 0, 1)
    assert (second.size, second.jump, second.start, second.padding) == (11, 2, 2, 3)
    assert second.span(1) == (-1, 9)
    assert second.centre(1) == 4


def test_alexnet_has_the_sizes_of_the_lecture():
    fields = stack(ALEXNET)
    assert [fields[i].size for i in (1, 3, 4, 5, 6, 7)] == [19, 67, 99, 131, 163, 195]
    assert [fields[i].jump for i in (1, 3, 4, 5, 6, 7)] == [8, 16, 16, 16, 16, 32]
    traced = receptive_fields(torchvision.models.alexnet())
    names = [f"features.{i}" for i in (0, 2, 3, 5, 6, 8, 10, 12)]
    assert [traced[name].rows for name in names] == fields
    assert traced["classifier.1"].whole


def test_dilations_that_double_give_the_lectures_sizes():
    fields = stack([(3, 1, 2**i, 2**i) for i in range(5)])
    assert sizes(fields) == [2 ** (i + 2) - 1 for i in range(5)]
    assert sizes(stack([(3, 1, d, d) for d in (1, 1, 2, 4, 8, 16, 1)])) == [3, 5, 9, 17, 33, 65, 67]


@pytest.mark.parametrize("layer", [(0,), (3, 0), (3, 1, -1), (3, 1, 0, 0)])
def test_impossible_layers_are_refused(layer):
    with pytest.raises(FieldError, match="layer 2"):
        stack([(3,), layer])


# -- published networks -------------------------------------------------------------------------------


def test_vgg16():
    field = receptive_fields(nn.Sequential(*vgg_stages(width=4)))["4"]
    assert (field.size, field.jump, field.padding) == (212, 32, 90)
    assert field.rows == stack(VGG)[-1]


def resnet(blocks: list[int], stride_on: str) -> nn.Module:
    """torchvision's bottleneck ResNet; the original has the stride on the first 1x1 convolution, Slim's
    ResNet v1 on the 3x3 of the last unit of a group.
    """
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, blocks, num_classes=5)
    groups = [model.layer1, model.layer2, model.layer3, model.layer4]
    for number, group in enumerate(groups):
        if stride_on == "1x1" and number > 0:
            group[0].conv1.stride, group[0].conv2.stride = (2, 2), (1, 1)
        elif stride_on == "last unit":
            group[0].conv2.stride = (1, 1)
            if group[0].downsample is not None:
                group[0].downsample[0].stride = (1, 1)
            if number < 3:
                group[-1].conv2.stride = (2, 2)
                group[-1].downsample = nn.MaxPool2d(1, stride=2)
    return model


@pytest.mark.parametrize(
    ("blocks", "stride_on", "size"),
    [
        ([3, 4, 6, 3], "3x3", 427),
        ([3, 4, 6, 3], "last unit", 483),
        ([3, 4, 23, 3], "last unit", 1027),
        ([3, 8, 36, 3], "last unit", 1507),
    ],
)
def test_resnets_depend_on_where_the_stride_is(blocks, stride_on, size):
    field = receptive_fields(resnet(blocks, stride_on))["layer4"]
    assert (field.size, field.jump) == (size, 32)
    assert field.misalignment == 0
    if stride_on == "3x3":  # the other published paddings are those of Slim's own pooling
        assert field.padding == 213


def test_inception_v3_has_the_size_and_padding_of_the_published_table():
    model = torchvision.models.inception_v3(init_weights=False)
    field = receptive_fields(model, (299, 299))["Mixed_7c"]
    assert (field.size, field.jump, field.padding) == (1311, 32, 618)


def test_fcns_fc7_sees_404_pixels():
    for padding in ("same", "paper"):
        field = receptive_fields(FCN(3, width=4, fc_channels=8, padding=padding))["fc7"]
        assert (field.size, field.jump) == (404, 32)
    assert receptive_fields(FCN(3, width=4, fc_channels=8, padding="same"))["stages.4"].padding == 90


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("padding", ["same", "paper"])
def test_fcns_skips_and_crops_are_aligned(stride, padding):
    model = FCN(3, stride=stride, width=4, fc_channels=8, padding=padding)
    fields = receptive_fields(model, (256, 256))
    assert fields[""].misalignment == 0
    middle = [fields[""].rows.centre(i) - i for i in range(96, 96 + 32)]
    assert abs(sum(middle)) / 32 < 0.01  # pixel i looks at pixel i


def test_fcn_alexnet_has_the_papers_57_million_weights_and_355_pixels():
    """Convolutions 2,469,696, fc6 37,752,832, fc7 16,781,312, scores 86,037, and frozen upsampling."""
    with torch.device("meta"):
        model = FCNAlexNet(21)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == 2_469_696 + 37_752_832 + 16_781_312 + 86_037
    model = FCNAlexNet(3, width=4, fc_channels=8)
    fields = receptive_fields(model)
    names = ("pool1", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [fields[f"features.{name}"].size for name in names] == [19, 67, 99, 131, 163, 195]
    assert (fields["fc6"].size, fields["fc6"].jump) == (355, 32)
    middle = [fields[""].rows.centre(i) - i for i in range(96, 96 + 32)]
    assert abs(sum(middle)) / 32 <= 0.5  # pixel i looks at pixel i


def chain(*layers: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(3, 3, k, *rest) for k, *rest in layers))


def test_unets_bottleneck():
    layers = [layer for _ in range(4) for layer in [(3,), (3,), (2, 2)]] + [(3,), (3,)]
    assert (stack(layers)[-1].size, stack(layers)[-1].jump) == (140, 16)
    field = receptive_fields(UNet(2, width=4), (252, 252))["contracting.4"]
    assert (field.size, field.jump) == (140, 16)


def test_segnet_basics_encoder():
    layers = [layer for _ in range(4) for layer in [(7, 1, 3), (2, 2)]]
    assert [field.size for field in stack(layers)[-2:]] == [98, 106]
    assert stack(layers)[-1].padding == 45
    model = SegNetBasic(3, width=4).eval()
    field = receptive_fields(model, (256, 256))["encoders.3"]
    assert (field.size, field.jump, field.padding) == (98, 8, 45)


def test_the_dilated_front_end_and_its_context():
    for padding in ("paper", "same"):
        model = DilatedNet(3, width=4, fc_channels=8, context="basic", padding=padding)
        fields = receptive_fields(model, (256, 256))
        assert (fields["front_end"].size, fields["context"].size, fields["context"].jump) == (380, 908, 8)


def test_drn_d_22():
    model = DRN(3, arch="D-22", width=4)
    field = receptive_fields(model, (256, 256))["score"]
    assert (field.size, field.jump, field.padding) == (527, 8, 263)


# -- any module, against the gradient -----------------------------------------------------------------


def test_random_stacks_by_recurrence_trace_and_gradient():
    """Size and place: the box of pixels with a gradient, for stacks of random layers."""
    draw = random.Random(3)
    for _ in range(25):
        layers = [
            (draw.randint(1, 5), draw.choice([1, 1, 2, 3]), draw.randint(0, 2), draw.choice([1, 1, 2, 3]))
            for _ in range(draw.randint(1, 5))
        ]
        field = stack(layers)[-1]
        margin = math.ceil(field.size + abs(field.start)) + int(field.jump)
        cell = math.ceil(margin / field.jump)
        size = int(field.start + cell * field.jump + margin + 40)
        module = nn.Sequential(*(nn.Conv2d(1, 1, k, s, p, d) for k, s, p, d in layers))
        traced = receptive_fields(module, (size, size), channels=1)[""]
        assert traced.rows == traced.columns == field
        box = gradient_support(module, "", (cell, cell), (size, size), channels=1)
        assert box == traced.box((cell, cell), (size, size))
        assert box[2] - box[0] == field.size


class Branches(nn.Module):
    """Addition and concatenation of branches that differ in reach, place and kind of operation."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.wide = nn.Conv2d(1, 2, 5, padding=2)
        self.dilated = nn.Conv2d(1, 2, 3, padding=3, dilation=3)
        self.shifted = nn.Conv2d(1, 2, 2)
        self.down = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
        self.up_small = nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.end = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        match self.kind:
            case "add":
                return self.end(wide + self.dilated(x))
            case "add in place":
                total = self.dilated(x)
                total += wide
                return self.end(F.relu_(total))
            case "cat":
                return torch.cat([wide, self.dilated(x), torch.zeros_like(wide)], dim=1)
            case "shifted":
                return wide[..., :-1, :-1] + self.shifted(x)
            case "skip":
                return self.end(self.up(self.down(wide)) + wide)
            case "unet":
                return self.end(self.up_small(self.down(wide)) * wide)
            case "pad and crop":
                padded = F.pad(wide, (3, 2, 1, 4))[:, :, 2:, 1:]
                return self.end(padded)[..., ::2, ::3]
            case "mirrored by hand":
                order = torch.arange(-3, wide.shape[-1] + 4).abs()
                order = torch.where(order < wide.shape[-1], order, 2 * wide.shape[-1] - 2 - order)
                return self.end(wide.index_select(3, order))[..., 2:]
            case "reflection":
                return self.end(F.pad(wide, (1, 1, 1, 1), mode="reflect"))
            case "bilinear":
                size = wide.shape[-2:]
                return self.end(F.interpolate(self.down(wide), size=size, mode="bilinear"))
            case "bilinear factor":
                return F.interpolate(self.down(wide), scale_factor=2, mode="bilinear")
            case "corners":
                return F.interpolate(self.down(wide), (40, 33), mode="bilinear", align_corners=True)
            case "nearest":
                return self.end(F.interpolate(self.down(wide), scale_factor=3))
            case "pools":
                pooled = F.max_pool2d(F.avg_pool2d(wide, 3, 2, 1), 3, 2, 1, ceil_mode=True)
                return self.end(pooled)
            case "channel means":
                return self.end(F.normalize(wide + 1, dim=1) + wide.mean(dim=1, keepdim=True))
            case "adaptive":
                return self.end(F.adaptive_avg_pool2d(wide, (wide.shape[-2] // 4, 6)))
        raise ValueError(self.kind)


KINDS = [
    "add",
    "add in place",
    "cat",
    "shifted",
    "skip",
    "unet",
    "pad and crop",
    "mirrored by hand",
    "reflection",
    "bilinear",
    "bilinear factor",
    "corners",
    "nearest",
    "pools",
    "channel means",
    "adaptive",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_field_is_where_the_gradient_is(kind):
    """Every cell in the middle of the map, so that each phase of an upsampling is looked at."""
    model, size = Branches(kind), (96, 108) if kind == "adaptive" else (48, 54)
    field = receptive_fields(model, size, channels=1)[""]
    with torch.no_grad():
        height, width = model(torch.zeros(1, 1, *size)).shape[-2:]
    seen = 0
    for number in range(6):
        cell = (height // 2 - 3 + number, width // 2 - 2 + number % 5)
        box = field.box(cell, size)
        if min(box[0], box[1]) <= 0 or box[2] >= size[0] or box[3] >= size[1]:
            continue
        assert gradient_support(model, "", cell, size, channels=1) == box
        seen += 1
    assert seen >= 2


def test_the_gradient_of_real_networks_has_the_traced_support():
    vgg = nn.Sequential(*vgg_stages(width=2))
    field = receptive_fields(vgg, (288, 288))["4"]
    assert gradient_support(vgg, "4", (4, 4), (288, 288)) == field.box((4, 4), (288, 288))
    assert field.box((4, 4), (288, 288)) == (38, 38, 250, 250)
    alexnet = torchvision.models.alexnet().features
    field = receptive_fields(alexnet, (256, 256))["10"]
    assert gradient_support(alexnet, "10", (7, 7), (256, 256)) == field.box((7, 7), (256, 256))
    resnet18 = torchvision.models.resnet18()
    field = receptive_fields(resnet18, (160, 160))["layer2"]
    assert gradient_support(resnet18, "layer2", (10, 9), (160, 160)) == field.box((10, 9), (160, 160))


def test_misaligned_branches_are_reported_in_pixels():
    assert receptive_fields(Branches("add"), channels=1)[""].misalignment == 0
    assert receptive_fields(Branches("shifted"), channels=1)[""].misalignment == 0.5
    # stride 2 keeps even pixels, the transposed convolution expects what lies between two pixels
    assert receptive_fields(Branches("skip"), channels=1)[""].misalignment == 0.5

    class Drifting(Branches):
        def forward(self, x):
            wide = self.wide(x)
            coarse = self.down(wide)[..., :-1, :-1]
            return wide + F.interpolate(coarse, size=wide.shape[-2:], mode="bilinear")

    assert receptive_fields(Drifting("add"), channels=1)[""].misalignment > 0.5


def test_axes_that_differ_are_asked_one_by_one():
    field = receptive_fields(nn.Conv2d(3, 1, (3, 5), stride=(1, 2), padding=(1, 2)))[""]
    assert (field.rows.size, field.columns.size, field.columns.jump) == (3, 5, 2)
    assert field.start == 0
    with pytest.raises(FieldError, match="3 along the rows and 5 along the columns"):
        _ = field.size


def test_unpooling_reaches_as_far_as_its_pooling():
    class Unpool(nn.Module):
        def forward(self, x):
            pooled, indices = F.max_pool2d(x, 2, return_indices=True)
            return F.max_unpool2d(pooled, indices, 2, output_size=x.shape)

    field = receptive_fields(Unpool(), (64, 64), channels=1)[""]
    assert (field.size, field.jump) == (2, 1)
    assert [field.rows.span(i) for i in (10, 11, 12)] == [(10, 11), (10, 11), (12, 13)]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(dim=(2, 3), keepdim=True) * x,
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.adaptive_max_pool2d(x, (5, 9)),
        lambda x: x.flatten(1) @ torch.ones(3 * 224 * 224, 4),
        lambda x: F.instance_norm(x),
        lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 1), size=(8, 8), mode="bilinear") + 1,
    ],
)
def test_the_whole_picture_is_called_so(function):
    assert receptive_fields(Function(function))[""].whole


def write_through_a_view(x):
    total = torch.zeros_like(x)
    total[..., 1:] = x[..., :-1]
    return total


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: x.flip(3), "aten.flip"),
        (lambda x: torch.roll(x, 1, 3), "aten.roll"),
        (lambda x: x.sort(dim=1).values, "aten.sort"),
        (lambda x: F.unfold(x, 3), "aten.im2col"),
        (lambda x: x / x.max().item(), ".item()"),
        (lambda x: F.relu(F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False)), "aten.grid_sampler"),
        (lambda x: torch.cat([x, x], dim=2), "side by side"),
        (lambda x: x.view(1, 3, 112, 2, 224).amax(dim=3), "cuts an axis"),
        (lambda x: F.relu(x.index_select(3, torch.tensor([3, 1, 2]))), "one by one"),
        (write_through_a_view, "aten.copy_"),
        (lambda x: F.pixel_unshuffle(x, 2), "aten.pixel_unshuffle"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "aten.upsample_bicubic2d"),
        (lambda x: F.group_norm(x, 1), "aten.native_group_norm"),
        (lambda x: x.softmax(dim=1), "aten._softmax"),
        (lambda x: x.permute(0, 2, 3, 1), "aten.permute"),
        (lambda x: torch.stack([x, x]).sum(dim=0), "aten.stack"),
        (lambda x: x.flatten(1) @ x.flatten(1).view(-1, 1), "second factor"),
    ],
)
def test_what_is_not_known_is_named_and_never_guessed(function, operation):
    fields = receptive_fields(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Function(function), nn.ReLU()))
    assert fields["0"].size == 3
    assert "2" not in fields
    with pytest.raises(FieldError) as caught:
        _ = fields["2"]
    assert operation in str(caught.value)
    assert set(fields.unknown) >= {"1", "2", ""}


def test_a_trace_leaves_the_network_as_it_was():
    model = torchvision.models.resnet18().train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    receptive_fields(model, (64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.layer1.training
    assert not any(module._forward_hooks for module in model.modules())


def test_errors_say_what_to_do():
    with pytest.raises(FieldError, match="choose another input_size"):
        receptive_fields(nn.Conv2d(3, 1, 9), (4, 4))
    fields = receptive_fields(torchvision.models.alexnet())
    with pytest.raises(KeyError, match=r"did you mean 'features.2'"):
        _ = fields["feature.2"]
    with pytest.raises(FieldError, match="did you mean"):
        LayerReader(torchvision.models.alexnet(), "feature.2")


def test_a_field_larger_than_the_first_margin():
    layers = [(3, 1, 500, 500)] * 6
    assert receptive_fields(chain(*layers))[""].rows == stack(layers)[-1]
    assert stack(layers)[-1].size == 6001


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_of_the_course_can_be_traced(name, monkeypatch):
    if "size" in TINY[name]:
        monkeypatch.setitem(TINY, name, {**TINY[name], "size": (256, 256)})
    fields = receptive_fields(make(name), (256, 256), training=True)
    if name == "encnet":  # its codewords weigh by a softmax, which is not followed
        assert fields["context.project"].size > 1
        assert "aten._softmax" in fields.unknown[""]
        return
    if name in ("deformable", "deformable_stack"):  # where they read depends on the picture
        assert "not known here" in fields.unknown[""]
        return
    zero_code = {"spread": "it does not depend on the image"}
    assert fields.unknown == (zero_code if name == "cvae" else {})
    assert fields[""].whole or fields[""].jump == 1


def test_packed_pooling_positions_are_not_guessed():
    fields = receptive_fields(make("segnet_basic"), (64, 64))
    with pytest.raises(FieldError, match="the output"):
        _ = fields[""]


# -- the gradient -------------------------------------------------------------------------------------


def test_uniform_weights_spread_as_the_formula_says():
    """n layers of k x k equal weights: variance n (k^2 - 1) / 12 along each axis."""
    for count, kernel in ((1, 3), (6, 3), (4, 5)):
        layers = [nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(count)]
        for layer in layers:
            nn.init.constant_(layer.weight, 1.0)
        effect = effective_field(nn.Sequential(*layers), str(count - 1), torch.rand(2, 1, 61, 61))
        expected = math.sqrt(count * (kernel**2 - 1) / 12)
        assert standard_deviations(effect) == pytest.approx((expected, expected), rel=1e-5)
        assert int((effect > 0).any(dim=0).sum()) == stack([(kernel,)] * count)[-1].size


def test_the_effective_field_is_the_mean_over_pictures_of_one_unit():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2)).train()
    images = torch.randn(5, 3, 20, 22)
    found = effective_field(model, "2", images, unit=1, cell=(3, 4), batch_size=2)
    total = torch.zeros(20, 22)
    for image in images:
        picture = image[None].clone().requires_grad_(True)
        model(picture)[0, 1, 3, 4].backward()
        total += picture.grad[0].abs().sum(dim=0)
    torch.testing.assert_close(found, total / 5)
    assert model.training
    assert all(parameter.grad is not None for parameter in model.parameters())  # of backward() above


def test_sizes_are_read_off_a_map():
    values = torch.zeros(20, 20)
    values[4:12, 5:13] = 1.0
    values[0, 0] = 0.4
    assert measured_size(values) == 8
    assert measured_size(values, step=3) == 24
    assert measured_size(values, threshold=0.3) == pytest.approx(math.sqrt(65))
    assert measured_size(torch.zeros(4, 4)) == 0


# -- the occluder -------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        nn.Conv2d(8, 8, 3, padding=1),
    ).eval()


def one_at_a_time(module, layer, unit, image, cell, patch, stride):
    """Zhou et al.'s procedure as it is told: cover, run everything, compare."""
    size = patch.shape[-1]
    before = LayerReader(module, layer)(image[None])[0, unit, cell[0], cell[1]]
    rows = range(0, image.shape[-2] - size + 1, stride)
    columns = range(0, image.shape[-1] - size + 1, stride)
    found = torch.zeros(len(rows), len(columns))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            covered = image.clone()
            covered[:, row : row + size, column : column + size] = patch
            after = LayerReader(module, layer)(covered[None])[0, unit, cell[0], cell[1]]
            found[y, x] = (after - before).abs()
    return found


@pytest.mark.parametrize("layer", ["3", "4", "6", "7"])
@pytest.mark.parametrize("place", [(0, 0), (0.5, 0.5), (1, 1), (0.3, 1)])
def test_batched_and_cut_discrepancies_are_those_of_the_loop(layer, place):
    module, image = network(), torch.randn(3, 75, 82)
    patch = occluding_patch(image[None], 7, seed=4)
    field = receptive_fields(module, (75, 82))[layer]
    reader = LayerReader(module, layer)
    with torch.no_grad():
        height, width = reader(image[None]).shape[-2:]
        cell = round(place[0] * (height - 1)), round(place[1] * (width - 1))
        unit = int(LayerReader(module, layer)(image[None])[0, :, cell[0], cell[1]].argmax())
        expected = one_at_a_time(module, layer, unit, image, cell, patch, 4)
        found = discrepancy_map(reader, unit, image, cell, patch, 4, field, batch_size=50)
    assert expected.max() > 0
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_layer_is_read_before_the_next_one_writes_into_it():
    reader, images = LayerReader(network(), "4"), torch.randn(1, 3, 40, 40)
    first, second = reader(images), reader(images)
    assert first.min() < 0  # the ReLU behind it works in place
    assert torch.equal(first, second)


def test_a_network_that_sees_the_whole_picture_is_not_cut():
    module = nn.Sequential(network(), Function(lambda x: x - x.mean(dim=(2, 3), keepdim=True))).eval()
    image = torch.randn(3, 40, 40)
    patch = occluding_patch(image[None], 5)
    field = receptive_fields(module, (40, 40))[""]
    assert field.whole
    with torch.no_grad():
        expected = one_at_a_time(module, "", 1, image, (1, 2), patch, 5)
        found = discrepancy_map(LayerReader(module, ""), 1, image, (1, 2), patch, 5, field)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_procedure_from_end_to_end():
    """A unit that adds up a 9x9 square: what is measured is its square, wherever the image excites it."""
    module = nn.Conv2d(1, 2, 9, padding=4, bias=False).train()
    nn.init.constant_(module.weight, 1.0)
    nn.init.constant_(module.weight[0], 0.0)
    images = torch.zeros(6, 1, 60, 60)
    for number, (row, column) in enumerate([(20, 20), (30, 41), (41, 25)]):
        images[number, 0, row - 4 : row + 5, column - 4 : column + 5] = 1.0 + number
    found = empirical_field(module, "", 1, images, occluder=5, stride=1, top_k=3, show_progress=False)
    assert found.images == [2, 1, 0]
    assert found.cells == [(41, 25), (30, 41), (20, 20)]
    assert found.activations == pytest.approx([3 * 81, 2 * 81, 81])
    assert len(found.maps) == 3
    assert found.size() == pytest.approx(9, abs=1)
    middle = [size // 2 for size in found.average.shape]
    assert found.average[middle[0], middle[1]] > 0.6 * found.average.max()
    assert module.training
    again = empirical_field(module, "", 1, images, occluder=5, stride=1, top_k=3, show_progress=False)
    assert torch.equal(found.average, again.average)
    with pytest.raises(ValueError, match="top_k is 7"):
        empirical_field(module, "", 1, images, top_k=7)


def test_the_grid_has_zhous_5184_places():
    assert len(grid_of(224, 11, 3)) ** 2 == 5184
    with pytest.raises(ValueError, match="does not fit"):
        grid_of(10, 11, 3)


def test_the_patch_is_random_between_the_darkest_and_the_brightest():
    images = torch.randn(4, 3, 30, 30)
    patch = occluding_patch(images, 11, seed=1)
    assert patch.shape == (3, 11, 11)
    for channel in range(3):
        assert images[:, channel].min() <= patch[channel].min()
        assert patch[channel].max() <= images[:, channel].max()
    assert torch.equal(patch, occluding_patch(images, 11, seed=1))
    assert not torch.equal(patch, occluding_patch(images, 11, seed=2))


def test_maps_are_moved_before_they_are_averaged():
    maps = [torch.zeros(9, 9), torch.zeros(9, 9)]
    maps[0][2, 3] = 2.0
    maps[1][6, 5] = 4.0
    # an occluder of 5 pixels at place (i, j) of a grid of 3 has its middle at (3 i + 2, 3 j + 2)
    average = centred_average(maps, [(8.0, 11.0), (20.0, 17.0)], occluder=5, stride=3)
    assert average.shape == (17, 17)
    assert average[8, 8] == 3.0
    assert average.sum() == 3.0


def test_most_exciting_finds_images_and_cells():
    module, images = nn.Conv2d(1, 1, 1, bias=False), torch.zeros(5, 1, 4, 6)
    nn.init.constant_(module.weight, 1.0)
    images[3, 0, 2, 5], images[1, 0, 0, 4] = 2.0, 1.0
    with torch.no_grad():
        best, cells = most_exciting(LayerReader(module, ""), 0, images, 2, batch_size=2)
    assert (best, cells) == ([3, 1], [(2, 5), (0, 4)])
