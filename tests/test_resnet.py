"""Dilated ResNets: torchvision's names, counts and numbers; the stride that dilation takes the place of."""

import logging

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from course_lib.models.blocks import copy_in_order
from course_lib.models.resnet import RESNETS, BasicBlock, dilated_resnet

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS = {f"layer{group}": str(group) for group in (1, 2, 3, 4)}


def without_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)]
)
def test_the_weights_are_torchvisions_without_the_classifier(depth, parameters, output_stride):
    """In name, order and shape, at every output stride: dilation needs no parameter."""
    with torch.device("meta"):
        ours = dilated_resnet(depth, output_stride=output_stride)
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    expected = without_classifier(theirs.state_dict())
    found = ours.state_dict()
    assert list(found) == list(expected)
    assert all(found[name].shape == expected[name].shape for name in found)
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters


def with_random_statistics(network: nn.Module) -> nn.Module:
    """In evaluation, and with numbers in its normalisations that another order or place would show."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.bias, 0, 0.1)
    return network.eval()


@pytest.mark.parametrize(("depth", "output_stride"), [(18, 32), (34, 32), (50, 32), (50, 16), (50, 8), (101, 8)])
@torch.no_grad()
def test_the_features_are_torchvisions(depth, output_stride):
    dilated = [False, output_stride <= 8, output_stride <= 16]
    make = getattr(torchvision.models, f"resnet{depth}")
    options = {"replace_stride_with_dilation": dilated} if depth >= 50 else {}
    theirs = with_random_statistics(make(**options))
    ours = dilated_resnet(depth, output_stride=output_stride).eval()
    ours.load_state_dict(without_classifier(theirs.state_dict()))
    images = torch.randn(1, 3, 65, 97)
    expected = IntermediateLayerGetter(theirs, GROUPS)(images).values()
    for found, wanted, channels in zip(ours(images), expected, ours.channels, strict=True):
        assert found.shape[1] == channels
        assert wanted.std() > 0
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("depth", RESNETS)
@pytest.mark.parametrize(
    ("output_stride", "sides"), [(32, [24, 12, 6, 3]), (16, [24, 12, 6, 6]), (8, [24, 12, 12, 12])]
)
def test_what_is_not_strided_is_dilated(depth, output_stride, sides):
    net = dilated_resnet(depth, width=4, output_stride=output_stride).eval()
    assert [features.shape[-1] for features in net(torch.randn(1, 3, 96, 96))] == sides
    last = [layer.dilation[0] for layer in net.layer4.modules() if isinstance(layer, nn.Conv2d)]
    assert max(last) == 32 // output_stride


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_dilation_keeps_what_the_strided_network_computes(depth):
    """At every fourth cell the dilated network has the very features of the strided one."""
    strided = with_random_statistics(dilated_resnet(depth, width=8, output_stride=32))
    dilated = dilated_resnet(depth, width=8, output_stride=8).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 192, 192)
    coarse, fine = strided(images)[-1], dilated(images)[-1]
    assert coarse.shape[-1] == 6
    assert fine.shape[-1] == 24
    assert coarse.std() > 0
    torch.testing.assert_close(fine[..., ::4, ::4], coarse, rtol=1e-4, atol=1e-5)


def test_width_keeps_the_ratios():
    assert dilated_resnet(18, width=16).channels == [16, 32, 64, 128]
    assert dilated_resnet(50, width=16).channels == [64, 128, 256, 512]
    assert dilated_resnet(18, width=16).conv1.out_channels == 16


def test_imagenet_weights_come_from_the_data_folder(data_dir):
    folder = data_dir / "weights"
    folder.mkdir()
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, folder / "resnet18-f37072fd.pth")
    net = dilated_resnet(18, imagenet=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[name])


def test_without_the_file_it_trains_from_scratch_and_says_so(data_dir, caplog):
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        dilated_resnet(50, imagenet=True)
    assert "no ImageNet weights for resnet50" in caplog.text
    assert "training from scratch" in caplog.text


def test_every_resnet_can_be_fetched():
    from data_scripts import weights  # not at the top: only data_scripts opens the network

    assert {f"resnet{depth}" for depth in RESNETS} <= set(weights.FILES)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="depth 18, 34, 50, 101, not 20"):
        dilated_resnet(20)
    with pytest.raises(ValueError, match="output stride 32, 16 or 8, not 4"):
        dilated_resnet(18, output_stride=4)
    with pytest.raises(ValueError, match="width 64 only, not 32"):
        dilated_resnet(18, width=32, imagenet=True)


def test_weights_are_copied_in_order_under_other_names():
    theirs = torchvision.models.resnet18().layer2.train()
    theirs(torch.randn(2, 64, 8, 8))  # running statistics that are not those of the start
    ours = nn.Sequential(BasicBlock(64, 128, 2, 1, 1), BasicBlock(128, 128, 1, 1, 1))
    copy_in_order(theirs, ours)
    images = torch.randn(2, 64, 16, 16)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_weights_of_other_layers_are_refused():
    block = BasicBlock(8, 8, 1, 1, 1)
    with pytest.raises(ValueError, match="shorter"):
        copy_in_order(block, nn.Sequential(BasicBlock(8, 8, 1, 1, 1), nn.Conv2d(8, 8, 3)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        copy_in_order(block, BasicBlock(9, 9, 1, 1, 1))
