"""PSPNet: the pyramid by hand, its counts, the ablation's switches, one picture a batch, the auxiliary loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_helpers import street_recipe

from course_lib.data.scenes import Street
from course_lib.experiments.building import build_model
from course_lib.losses import cross_entropy, pixel_objective
from course_lib.models.blocks import resize_to
from course_lib.models.fcn import FCN
from course_lib.models.pspnet import PSPNet, PyramidNorm, PyramidPooling
from course_lib.plumbing.devices import make_fabric
from course_lib.train import fit

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**options) -> PSPNet:
    return PSPNet(3, **({"depth": 18, "width": 8} | options))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_sizes():
    """2048 features, four levels of 512, together 4096; a head of 512."""
    with torch.device("meta"):
        net = PSPNet(21)
    assert net.backbone.channels[-1] == 2048
    assert [level[1].out_channels for level in net.pyramid.levels] == [512] * 4
    assert [level[0].output_size for level in net.pyramid.levels] == [1, 2, 3, 6]
    assert net.pyramid.out_channels == 4096
    assert count(net.pyramid) == 4 * (2048 * 512 + 2 * 512)
    assert count(net.head) == 4096 * 512 * 9 + 2 * 512 + 512 * 21 + 21
    assert count(net.aux_head) == 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    assert net.head[3].p == 0.1


def test_a_short_backbone_sees_little_and_the_pyramid_the_rest():
    """The first group alone: stride 4, 43 pixels; with a pyramid every logit depends on the far corner."""
    picture = torch.randn(1, 3, 64, 128, requires_grad=True)
    for bins, reach in (((), 43), ((1,), 128)):
        net = small(groups=1, aux=False, bins=bins, reduce=False).eval()
        assert net.decode(net.encode(picture)).shape == (1, 3, 16, 32)
        scores = net.decode(net.encode(picture))[0, :, 8, 16]
        (slope,) = torch.autograd.grad(scores.sum(), picture)
        columns = slope.abs().amax(dim=(0, 1, 2)).nonzero()
        assert int(columns.max() - columns.min()) + 1 <= reach + 8  # the head's 3x3 adds a cell on either side
        assert bins == () or float(slope[..., :4].abs().max()) > 0
    assert not [name for name, _ in small(groups=1, aux=False).named_parameters() if "layer2" in name]


@pytest.mark.parametrize("options", [{"groups": 0, "aux": False}, {"groups": 5}, {"groups": 2}])
def test_a_backbone_of_an_impossible_length_is_refused(options):
    with pytest.raises(ValueError, match="groups is 1 to 4"):
        small(**options)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_pyramid_by_hand(pooling):
    """Bins of 1 and 2 without reduction on a 4x6 map: the whole map, then its quarters, enlarged again."""
    module = PyramidPooling(3, bins=(1, 2), pooling=pooling, reduce=False)
    assert count(module) == 0
    features = torch.randn(2, 3, 4, 6)
    found = module(features)
    assert found.shape == (2, 9, 4, 6)
    fold = torch.mean if pooling == "average" else torch.amax
    assert torch.equal(found[:, :3], features)
    whole = fold(features, dim=(2, 3), keepdim=True)
    torch.testing.assert_close(found[:, 3:6], whole.expand(2, 3, 4, 6))
    quarters = torch.stack(
        [torch.stack([fold(features[..., r : r + 2, c : c + 3], dim=(2, 3)) for c in (0, 3)], -1) for r in (0, 2)], -2
    )
    torch.testing.assert_close(found[:, 6:], resize_to(quarters, (4, 6)))


def test_reduction_makes_all_levels_together_as_wide_as_the_features():
    for bins in ((1,), (1, 2), (1, 2, 3, 6)):
        assert PyramidPooling(48, bins).out_channels == 96
        assert PyramidPooling(48, bins, reduce=False).out_channels == 48 * (1 + len(bins))
    assert PyramidPooling(48, ()).out_channels == 48
    level = PyramidPooling(48, (6,)).levels[0]
    assert [type(layer).__name__ for layer in level] == ["AdaptiveAvgPool2d", "Conv2d", "PyramidNorm", "ReLU"]


@torch.no_grad()
def test_finer_bins_know_where_things_are():
    """Mirrored features give the same bin 1, and mirrored quarters."""
    features = torch.randn(1, 3, 6, 6)
    pyramid = PyramidPooling(3, (1, 2), reduce=False)
    found, turned = pyramid(features), pyramid(features.flip(-1))
    torch.testing.assert_close(turned[:, 3:6], found[:, 3:6])
    torch.testing.assert_close(turned[:, 6:], found[:, 6:].flip(-1))
    assert (turned[:, 6:] - found[:, 6:]).abs().max() > 0.1


def test_one_picture_a_batch_trains_through_bin_one():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(4).train()(torch.randn(1, 4, 1, 1))  # what torch says to a 1x1 map
    torch.manual_seed(0)
    net = small(bins=(1,)).train()
    before = net.pyramid.levels[0][2].running_mean.clone()
    images, labels = torch.randn(1, 3, 64, 64), torch.randint(3, (1, 64, 64))
    cross_entropy(net(images), labels).backward()
    assert net.pyramid.levels[0][1].weight.grad.abs().max() > 0
    assert torch.equal(net.pyramid.levels[0][2].running_mean, before)


def test_elsewhere_the_norm_is_batch_normalisation():
    torch.manual_seed(0)
    ours, usual = PyramidNorm(4), nn.BatchNorm2d(4)
    for shape in ((2, 4, 1, 1), (1, 4, 2, 2), (3, 4, 5, 6)):
        x = torch.randn(shape)
        assert torch.equal(ours(x), usual(x))
    assert torch.equal(ours.running_var, usual.running_var)
    ours.eval(), usual.eval()
    alone = torch.randn(1, 4, 1, 1)
    assert torch.equal(ours(alone), usual(alone))
    single = functional.batch_norm(alone, usual.running_mean, usual.running_var)
    torch.testing.assert_close(ours.train()(alone), single)


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("bins", [(), (1,), (1, 2, 3, 6)])
@pytest.mark.parametrize("reduce", [True, False])
def test_every_network_of_the_ablation_runs(pooling, bins, reduce):
    net = small(pooling=pooling, bins=bins, reduce=reduce).eval()
    assert net(torch.randn(1, 3, 33, 47)).shape == (1, 3, 33, 47)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="not 'mean'"):
        small(pooling="mean")
    with pytest.raises(ValueError, match=r"at least 1, not \(1, 0\)"):
        small(bins=(1, 0))
    with pytest.raises(ValueError, match="built with aux=False"):
        small(aux=False).forward_with_aux(torch.randn(1, 3, 32, 32))


# -- the auxiliary loss -----------------------------------------------------------------------------


def test_the_auxiliary_head_reads_the_third_group():
    net = small().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, aux_logits = net.forward_with_aux(images)
        expected = resize_to(net.aux_head(net.encode(images)[2]), (64, 64))
        assert torch.equal(logits, net(images))
    assert torch.equal(aux_logits, expected)
    assert small(aux=False).aux_head is None


def test_the_loss_is_the_weighted_sum():
    net = small(dropout=0.0).train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    weights = torch.tensor([1.0, 2.0, 0.5])
    logits, aux_logits = net.forward_with_aux(images)
    parts = [cross_entropy(x, labels, class_weights=weights) for x in (logits, aux_logits)]
    found = pixel_objective(weights, aux_weight=0.4)(net, images, labels)
    torch.testing.assert_close(found, parts[0] + 0.4 * parts[1])
    found = pixel_objective(weights)(net, images, labels)
    torch.testing.assert_close(found, parts[0])


class Casts(nn.Module):
    """Looks at the type of what a convolution gives, in both ways forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 11, kernel_size=1)
        self.seen: set[tuple[str, torch.dtype]] = set()

    def forward(self, images):
        logits = self.layer(images)
        self.seen.add(("plain", logits.dtype))
        return logits

    def forward_with_aux(self, images):
        logits = self.layer(images)
        self.seen.add(("aux", logits.dtype))
        return logits, logits


@pytest.mark.parametrize("aux_weight", [0.0, 0.4])
def test_both_ways_forward_are_cast(aux_weight):
    model = Casts()
    fit(
        model,
        Street(4, (32, 48)),
        steps=1,
        batch_size=2,
        objective=pixel_objective(None, aux_weight),
        fabric=make_fabric("bf16-mixed"),
        show_progress=False,
    )
    assert model.seen == {("aux" if aux_weight else "plain", torch.bfloat16)}


@pytest.mark.parametrize("aux_weight", [0.0, 0.4])
def test_training_reaches_the_auxiliary_head_only_by_its_loss(aux_weight):
    torch.manual_seed(0)
    model = PSPNet(11, depth=18, width=4)
    before = model.aux_head[0].weight.detach().clone()
    fit(
        model,
        Street(4, (32, 48)),
        steps=1,
        batch_size=2,
        objective=pixel_objective(None, aux_weight),
        weight_decay=0.0,
        fabric=make_fabric("32-true"),
        show_progress=False,
    )
    assert torch.equal(model.aux_head[0].weight, before) == (aux_weight == 0)


def test_a_recipe_with_an_auxiliary_loss_needs_an_auxiliary_head():
    recipe = street_recipe(
        profile="quick", model="fcn8s", steps=1, model_options={"width": 4, "fc_channels": 8}, aux_weight=0.4
    )
    with pytest.raises(ValueError, match=r"aux_weight is 0\.4, but fcn8s has no auxiliary head"):
        build_model(recipe, 11)
    assert not hasattr(FCN, "forward_with_aux")
