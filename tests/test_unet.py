"""U-Net: the paper's sizes and counts, mirrored borders, decoders that see their skips, seamless tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.data.transforms import normalise
from course_lib.models.blocks import mirror
from course_lib.models.tiling import predict_tiles
from course_lib.models.unet import UNet, crop_middle

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**options) -> UNet:
    torch.manual_seed(0)
    return UNet(3, **({"width": 4} | options)).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- the paper's numbers ----------------------------------------------------------------------------


def test_the_papers_number_of_parameters_and_layers():
    """31.03 M, summed by hand from the channels of figure 1; 23 convolutional layers."""
    with torch.device("meta"):
        net = UNet(2, in_channels=1)
    encoder = [
        (1, 64),
        (64, 64),
        (64, 128),
        (128, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
        (512, 1024),
        (1024, 1024),
    ]
    decoder = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    by_hand = sum(9 * before * after + after for before, after in encoder + decoder)
    by_hand += sum(4 * before * after + after for before, after in up) + 64 * 2 + 2
    assert count(net) == by_hand == 31_030_658
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 23
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_the_sizes_of_figure_1():
    """572 -> 388, and every map between."""
    net = small(in_channels=1)
    with torch.no_grad():
        features = net.contract(torch.zeros(1, 1, 572, 572))
        logits = net.forward_valid(torch.zeros(1, 1, 572, 572))
    assert [tuple(maps.shape[1:]) for maps in features] == [
        (4, 568, 568),
        (8, 280, 280),
        (16, 136, 136),
        (32, 64, 64),
        (64, 28, 28),
    ]
    assert logits.shape == (1, 3, 388, 388)
    assert net.border == 92


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_sides_that_fit_are_those_whose_every_pooling_is_even(depth):
    net = small(depth=depth, width=2)

    def survives(side: int) -> int | None:
        for level in range(depth):
            side -= 4
            if level < depth - 1:
                if side % 2 or side <= 0:
                    return None
                side //= 2
        for _ in range(depth - 1):
            side = 2 * side - 4
        return side if side > 0 else None

    for side in range(1, 260):
        output = survives(side)
        picture = torch.zeros(1, 3, side, side)
        if output is None:
            with pytest.raises(ValueError, match=f"input side of {side} does not halve evenly"):
                net.forward_valid(picture)
        elif side < 200:
            assert net.forward_valid(picture).shape[-2:] == (output, output)
            assert side - output == 2 * net.border


def test_a_side_that_does_not_fit_is_answered_with_one_that_does():
    with pytest.raises(ValueError, match="side of 512 does not halve evenly at each level; 524 does"):
        small().forward_valid(torch.zeros(1, 3, 572, 512))
    assert small().forward_valid(torch.zeros(1, 3, 524, 524)).shape[-1] == 340
    with pytest.raises(ValueError, match=r"side of 100 .* 188 does"):
        small().forward_valid(torch.zeros(1, 3, 100, 100))


def test_weights_start_as_the_paper_says():
    torch.manual_seed(0)
    net = UNet(2, width=16)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            inputs = layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            inputs = layer.weight.shape[0]
        else:
            continue
        assert not layer.bias.any()
        many = layer.weight.numel() > 1000
        if many:
            assert float(layer.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.1)


def test_dropout_is_at_the_end_of_the_encoder_only():
    net = small(dropout=0.5).train()
    features = [net.contract(torch.ones(1, 3, 188, 188)) for _ in range(2)]
    same = [torch.equal(*maps) for maps in zip(*features, strict=True)]
    assert same == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"padding": "paper"}, "not 'paper'"), ({"skips": "add"}, "not 'add'"), ({"depth": 1}, "not 1")],
)
def test_impossible_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        UNet(2, **options)


# -- borders ----------------------------------------------------------------------------------------


def test_mirroring_equals_numpys():
    picture = torch.arange(2 * 3 * 5).reshape(1, 2, 3, 5)
    for top, bottom, left, right in ((0, 0, 0, 0), (2, 1, 3, 4), (7, 0, 0, 11), (30, 31, 32, 33)):
        expected = np.pad(picture.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
        assert np.array_equal(mirror(picture, top, bottom, left, right).numpy(), expected)
    assert mirror(torch.ones(1, 1, 1, 1), 2, 3, 4, 5).shape == (1, 1, 6, 10)


def test_the_middle_is_cropped():
    features = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert crop_middle(features, torch.zeros(1, 1, 2, 4))[0, 0].tolist() == [[13, 14, 15, 16], [19, 20, 21, 22]]


@torch.no_grad()
def test_for_a_picture_that_fits_mirroring_is_all_that_forward_adds():
    net = small()
    picture = torch.randn(1, 3, 52, 68)  # outputs of 16k + 4
    mirrored = torch.from_numpy(np.pad(picture.numpy(), ((0, 0), (0, 0), (92, 92), (92, 92)), mode="reflect"))
    assert torch.equal(net(picture), net.forward_valid(mirrored))


@torch.no_grad()
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("skips", ["concat", "sum", "none"])
def test_every_variant_answers_at_the_pictures_size(padding, skips):
    net = small(padding=padding, skips=skips, depth=4, norm=True)
    for size in ((32, 32), (33, 47), (97, 131)):
        logits = net(torch.randn(2, 3, *size))
        assert logits.shape == (2, 3, *size)
        assert logits.std() > 0


@torch.no_grad()
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_moving_the_picture_moves_the_logits(padding):
    """By a whole cell of the deepest level; a decoder that cropped off the middle would fail here."""
    net = small(padding=padding)
    scene = torch.randn(1, 3, 384, 384)
    here, there = net(scene[..., 16:, 16:]), net(scene[..., :-16, :-16])
    inside, moved = slice(120, 250), slice(136, 266)  # no border in sight
    expected = here[..., inside, inside]
    assert expected.std() > 0
    torch.testing.assert_close(there[..., moved, moved], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("skips", ["concat", "sum"])
def test_a_bright_pixel_is_found_where_it_is(padding, skips):
    """The finest skip alone, with kernels that only look: the answer lies over its pixel, exactly."""
    net = small(padding=padding, skips=skips)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.zero_()
            if isinstance(layer, nn.Conv2d):
                layer.weight[0, 0, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
    for row, column in ((40, 40), (41, 55), (0, 63), (95, 7)):
        picture = torch.zeros(1, 3, 96, 97)
        picture[0, 0, row, column] = 1
        found = net(picture)[0, 0]
        assert found.argmax() == row * 97 + column
        assert found.sum() == 1


@torch.no_grad()
@pytest.mark.parametrize("skips", ["concat", "sum", "none"])
def test_what_reaches_the_decoder(skips):
    """Changing the finest map changes the answer of a network with skips, and no other's."""
    net = small(skips=skips, padding="same")
    features = net.encode(torch.randn(1, 3, 64, 64))
    before = net.decode(features)
    features[0] = features[0] + 1
    assert torch.equal(net.decode(features), before) == (skips == "none")


def test_sum_and_none_need_fewer_weights():
    counts = {skips: count(small(skips=skips)) for skips in ("concat", "sum", "none")}
    assert counts["concat"] > counts["sum"] == counts["none"]


# -- overlap-tile -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("size", "tile"), [((150, 210), 68), ((40, 33), 100), ((132, 196), 20), ((5, 70), 36)])
def test_tiles_equal_one_pass(size, tile):
    net = small(in_channels=3)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    whole = net(normalise(image)[None])[0]
    tiles = predict_tiles(net, image, tile=tile)
    assert tiles.shape == (3, *size)
    torch.testing.assert_close(tiles, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@torch.no_grad()
def test_tiles_beside_one_another_without_a_common_grid_differ():
    """Why tiles start at multiples of 16: shifted by 4, the same pixel is pooled with other neighbours."""
    net = small()
    image = torch.randint(0, 256, (3, 150, 150), dtype=torch.uint8)
    whole = net(normalise(image)[None])[0]
    padded = mirror(normalise(image)[None], 92, 92 + 36 + 68, 92, 92)
    shifted = net.forward_valid(padded[..., 68 : 68 + 68 + 184, : 68 + 184])[0]
    difference = (shifted - whole[:, 68:136, :68]).abs().max()
    assert difference > 1e-3 * whole.abs().max()


def test_tiles_that_do_not_fit_and_padded_networks_are_refused():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match="tile of 64 does not fit the network; 68 does"):
        predict_tiles(small(), image, tile=64)
    with pytest.raises(ValueError, match="tile of 4 does not fit"):
        predict_tiles(small(), image, tile=4)
    with pytest.raises(ValueError, match='padding "same" have seams'):
        predict_tiles(small(padding="same"), image)
