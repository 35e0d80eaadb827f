"""SegNet: positions of maxima in two bits, unpooling of any size, and the paper's counts and context."""

import logging

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import make_layers

from course_lib.losses import cross_entropy
from course_lib.models import pooling_indices, segnet
from course_lib.models.blocks import BilinearUpsampling
from course_lib.models.pooling_indices import pack_indices, pool, unpack_indices, unpool
from course_lib.models.segnet import SegNet
from course_lib.models.segnet_basic import VARIANTS, Deconvolution, SegNetBasic

pytestmark = pytest.mark.usefixtures("one_thread")

BY_INDICES = [name for name, variant in VARIANTS.items() if variant.upsampling == "indices"]
every_variant = pytest.mark.parametrize("decoder", VARIANTS)


def maps(count: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(count, channels, height, width, generator=generator)


def small(decoder: str = "segnet_basic", width: int = 8) -> SegNetBasic:
    torch.manual_seed(0)
    return SegNetBasic(5, decoder=decoder, width=width)


def count(module: nn.Module, kernel: int = 0) -> int:
    """Parameters of a network, or only the weights in its convolutions of one kernel size."""
    return sum(
        parameter.numel() for parameter in module.parameters() if not kernel or parameter.shape[-2:] == (kernel, kernel)
    )


# -- pooling, unpooling, packing --------------------------------------------------------------------


def test_the_lectures_example():
    features = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])
    maxima, indices = pool(features[None, None])
    assert maxima[0, 0].tolist() == [[5, 6], [7, 8]]
    assert indices[0, 0].tolist() == [[5, 2], [12, 15]]
    values = torch.tensor([[[[1.0, 2], [3, 4]]]])
    expected = [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert unpool(values, indices, (4, 4))[0, 0].tolist() == expected
    packed = pack_indices(indices, 4)
    assert packed.tolist() == [[[0b11_10_00_11]]]  # the corners 3, 0, 2, 3, the first in the low bits


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (5, 4), (4, 7), (1, 9), (33, 47), (45, 60)])
def test_packing_and_unpacking_give_every_position_back(size):
    features = maps(2, 3, *size)
    _, indices = pool(features)
    packed = pack_indices(indices, size[1])
    windows = indices.shape[-2] * indices.shape[-1]
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, 3, -(-windows // 4))
    assert torch.equal(unpack_indices(packed, size), indices)


def test_four_windows_share_a_byte():
    _, indices = pool(maps(1, 4, 16, 24))
    assert indices.nbytes == 4 * 8 * 12 * 8
    assert pack_indices(indices, 24).nbytes == 4 * 8 * 12 // 4


def test_every_corner_is_told_apart():
    """A map for each way to place two maxima side by side."""
    features = torch.zeros(1, 16, 2, 4)
    for number in range(16):
        left, right = divmod(number, 4)
        features[0, number, left // 2, left % 2] = 1
        features[0, number, right // 2, 2 + right % 2] = 1
    values, indices = pool(features)
    packed = pack_indices(indices, 4)
    assert len(packed.unique()) == 16
    assert torch.equal(unpool(values, unpack_indices(packed, (2, 4)), (2, 4)), features)


def test_bytes_of_another_size_are_refused():
    _, indices = pool(maps(1, 1, 16, 24))
    with pytest.raises(ValueError, match="24 bytes a map are not those of 16x40 pixels"):
        unpack_indices(pack_indices(indices, 24), (16, 40))


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (7, 10)])
def test_unpooling_puts_each_maximum_back_where_it_was(size):
    features = maps(2, 3, *size).abs() + 1
    maxima, indices = pool(features)
    sparse = unpool(maxima, indices, size)
    assert sparse.shape == features.shape
    kept = sparse != 0
    assert torch.equal(sparse[kept], features[kept])
    assert int(kept.sum()) == maxima.numel()  # one value a window, zeros elsewhere
    assert torch.equal(pool(sparse)[0], maxima)


# -- the networks -----------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 131)])
def test_every_variant_has_logits_of_the_pictures_size(decoder, size):
    logits = small(decoder).eval()(maps(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


@every_variant
def test_every_variant_learns_everywhere(decoder):
    network = small(decoder).train()
    loss = cross_entropy(network(maps(2, 3, 49, 62)), torch.randint(5, (2, 49, 62)))
    loss.backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


@pytest.mark.parametrize("network", [SegNet(3, width=8), *(small(name) for name in BY_INDICES)])
@pytest.mark.parametrize("size", [(64, 64), (49, 62)])
@torch.no_grad()
def test_packed_positions_change_no_bit_of_the_logits(network, size):
    images = maps(2, 3, *size)
    packed = network.eval().remember(images)[1]
    assert {indices.dtype for indices in packed.indices} == {torch.uint8}
    logits = network(images)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pooling_indices, "pack_indices", lambda indices, width: indices)
        unpacked = network.remember(images)[1]
        assert {indices.dtype for indices in unpacked.indices} == {torch.int64}
        assert torch.equal(network(images), logits)
    assert unpacked.nbytes() - sum(m.nbytes for m in unpacked.maps) == sum(
        indices.nbytes for indices in unpacked.indices
    )
    assert packed.nbytes() < unpacked.nbytes()


def test_in_training_positions_stay_as_they_are():
    memory = small().train().remember(maps(2, 3, 64, 64))[1]
    assert {indices.dtype for indices in memory.indices} == {torch.int64}


def test_a_decoder_that_forgets_the_positions_answers_otherwise():
    """The logits depend on where the maxima were, not only on what they were."""
    network, images = small().eval(), maps(1, 3, 64, 64)
    with torch.no_grad():
        features, memory = network.remember(images)
        zeros = memory._replace(indices=[torch.zeros_like(packed) for packed in memory.indices])
        assert not torch.allclose(network.decode(features, memory), network.decode(features, zeros))


@every_variant
def test_what_waits_for_the_decoder(decoder):
    """The storage column of the paper's table 1: nothing, positions, reduced maps or all maps."""
    variant = VARIANTS[decoder]
    images = maps(1, 3, 64, 96)
    with torch.no_grad():
        memory = small(decoder).eval().remember(images)[1]
    shapes = [tuple(kept.shape[1:]) for kept in memory.maps]
    channels = 5 if variant.reduced else 8
    expected = [(channels, 32, 48), (channels, 16, 24), (channels, 8, 12)] if variant.adds else []
    assert shapes == expected
    assert len(memory.indices) == (4 if variant.upsampling == "indices" else 0)
    positions = 8 * (64 * 96 // 4 + 32 * 48 // 4 + 16 * 24 // 4 + 8 * 12 // 4) // 4
    values = 4 * sum(channels * height * width for channels, height, width in expected)
    assert memory.nbytes() == values + (positions if memory.indices else 0)
    assert memory.sizes == [(64, 96), (32, 48), (16, 24), (8, 12)]


def test_maps_are_added_to_maps_of_their_size():
    """Erasing a stored map changes the logits: each of them is read."""
    for decoder in ("segnet_basic_encoder_addition", "fcn_basic", "fcn_basic_no_dim_reduction"):
        network = small(decoder).eval()
        with torch.no_grad():
            features, memory = network.remember(maps(1, 3, 49, 62))
            logits = network.decode(features, memory)
            for level in range(3):
                erased = [kept * (index != level) for index, kept in enumerate(memory.maps)]
                changed = network.decode(features, memory._replace(maps=erased))
                assert not torch.allclose(changed, logits)


@torch.no_grad()
def test_deconvolutions_start_as_interpolation():
    layer, coarse = Deconvolution(3), maps(2, 3, 9, 11)
    expected = functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    found = layer(coarse, (18, 22))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert torch.equal(layer(coarse, (17, 21)), found[..., :17, :21])


@pytest.mark.parametrize("layer", [Deconvolution(12), BilinearUpsampling(12, 4, learned=True)])
def test_large_transposed_kernels_are_computed_in_float32(layer):
    """With 8x8 kernels and 12 maps some processors return garbage in bfloat16."""
    size = [(18, 22)] if isinstance(layer, Deconvolution) else []
    with torch.no_grad():
        layer.weight.normal_()
    found = []
    for reduced in (True, False):
        coarse = maps(2, 12, 9, 11).bfloat16().float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
            raised = layer(coarse.bfloat16() if reduced else coarse, *size)
        assert raised.dtype == torch.float32
        found.append((raised.detach(), *torch.autograd.grad(raised.square().sum(), (coarse, layer.weight))))
    for reduced, exact in zip(*found, strict=True):
        torch.testing.assert_close(reduced, exact, rtol=1e-2, atol=1e-2 * float(exact.abs().max()))


def test_single_channel_filters_read_one_map_each():
    decoders = small("segnet_basic_single_channel_decoder").decoders
    assert [decoder[0].weight.shape for decoder in decoders] == [(8, 1, 7, 7)] * 4


# -- the paper's numbers ----------------------------------------------------------------------------

PRINTED = {
    "bilinear_interpolation": 0.625,
    "segnet_basic": 1.425,
    "segnet_basic_encoder_addition": 1.425,
    "segnet_basic_single_channel_decoder": 0.625,
    "fcn_basic": 0.65,
    "fcn_basic_no_addition": 0.65,
    "fcn_basic_no_dim_reduction": 1.625,
    "fcn_basic_no_addition_no_dim_reduction": 1.625,
}
BUILT = {
    "bilinear_interpolation": 612_747,
    "segnet_basic": 1_416_075,
    "segnet_basic_encoder_addition": 1_416_075,
    "segnet_basic_single_channel_decoder": 625_803,
    "fcn_basic": 645_868,
    "fcn_basic_no_addition": 643_723,
    "fcn_basic_no_dim_reduction": 1_661_323,
    "fcn_basic_no_addition_no_dim_reduction": 1_661_323,
}


@every_variant
def test_the_papers_number_of_parameters(decoder):
    """The printed millions are coarse; the built networks are within 2.3 % of them."""
    with torch.device("meta"):
        network = SegNetBasic(11, decoder=decoder)
    assert count(network) == BUILT[decoder]
    assert BUILT[decoder] == pytest.approx(1e6 * PRINTED[decoder], rel=0.023)


def test_the_weights_in_segnet_basics_convolutions():
    with torch.device("meta"):
        network = SegNetBasic(11)
    assert count(network, kernel=7) == (3 + 3 * 64 + 4 * 64) * 64 * 49 == 1_414_336
    assert [layer for layer in network.modules() if isinstance(layer, nn.ReLU)] == [
        encoder[-1] for encoder in network.encoders
    ]  # none in the decoder
    biased = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]
    assert biased == [network.classifier]


def test_segnets_number_of_parameters():
    """13 convolutions down (VGG16's 14,714,688 without biases), the same backwards, K classes for RGB."""
    with torch.device("meta"):
        network = SegNet(11)
    down = 14_714_688 - 4_224
    assert count(network.encoders, kernel=3) == down
    assert count(network.decoders, kernel=3) == down + (11 - 3) * 64 * 9
    for part in (network.encoders, network.decoders):
        assert len([layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]) == 13
    assert isinstance(network.decoders[0][-1], nn.Conv2d)  # logits: neither norm nor ReLU follows
    for encoder, decoder in zip(network.encoders, network.decoders, strict=True):
        convolutions = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
        mirrored = [layer for layer in decoder if isinstance(layer, nn.Conv2d)][::-1]
        assert [c.out_channels for c in convolutions] == [m.in_channels for m in mirrored]


def reach(encoders: nn.ModuleList, *, last_pooling: bool) -> tuple[int, int]:
    """Height and width of what one deepest unit sees, from the gradient of positive weights."""
    for parameter in encoders.parameters():
        nn.init.ones_(parameter)
    features = picture = torch.ones(1, 3, 320, 320, requires_grad=True)
    for number, encoder in enumerate(encoders, start=1):
        features = encoder[0](features)
        if number < len(encoders) or last_pooling:
            features = functional.avg_pool2d(features, 2)  # sees what max-pooling sees
    middle = features.shape[-1] // 2
    features[0, 0, middle, middle].backward()
    seen = picture.grad[0, 0] != 0
    return int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())


def test_the_papers_context_of_106_pixels():
    assert reach(small(width=2).encoders, last_pooling=False) == (98, 98)
    assert reach(small(width=2).encoders, last_pooling=True) == (106, 106)


def test_the_papers_memory():
    """64 maps at 180x240 in float32 take 11 MB, the positions of their maxima 0.17 MB."""
    features = torch.empty(1, 64, 180, 240)
    _, indices = pool(features.zero_())
    assert features.nbytes == 11_059_200
    assert pack_indices(indices, 240).nbytes == 172_800
    assert features.nbytes == 64 * pack_indices(indices, 240).nbytes
    assert indices.nbytes == 2 * 2_764_800  # half as much as the maps: int64 saves little


def test_an_unknown_decoder_is_named():
    with pytest.raises(ValueError, match=r"decoder 'unpool' is none of bilinear_interpolation, seg"):
        SegNetBasic(11, decoder="unpool")


# -- ImageNet ---------------------------------------------------------------------------------------


def narrow_vgg16_bn(width: int) -> nn.Module:
    """torchvision's features of vgg16_bn with fewer channels, every number different from the others."""
    plan = [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"]
    vgg = nn.Module()
    vgg.features = make_layers([step if step == "M" else step * width // 64 for step in plan], batch_norm=True)
    torch.manual_seed(1)
    for name, value in vgg.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5) if "var" in name else nn.init.normal_(value, 0, 0.2)
    return vgg.eval()


@torch.no_grad()
def test_the_encoder_takes_torchvisions_vgg16_bn():
    vgg, network = narrow_vgg16_bn(8), SegNet(3, width=8).eval()
    network.load_vgg16_bn(vgg.state_dict())
    images = maps(2, 3, 64, 96)
    expected = vgg.features(images)
    assert expected.std() > 0
    torch.testing.assert_close(network.remember(images)[0], expected)


def test_torchvisions_weights_fit_the_full_network(monkeypatch):
    with torch.device("meta"):
        weights = torchvision.models.vgg16_bn().state_dict()
        monkeypatch.setattr(segnet, "imagenet_weights", {"vgg16_bn": weights}.get)
        SegNet(21, imagenet=True)


def test_imagenet_weights_need_the_full_width(data_dir, caplog):
    with pytest.raises(ValueError, match="fit width 64 only, not 32"):
        SegNet(21, width=32, imagenet=True)
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        SegNet(21, imagenet=True)
    assert "no ImageNet weights for vgg16_bn" in caplog.text
