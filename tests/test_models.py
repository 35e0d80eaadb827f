"""The contract that every network in MODELS keeps.

A new network needs one line in TINY: the arguments that make it small enough for a test.
"""

import inspect

import pytest
import torch
from torch import Tensor, nn
from training_helpers import learn_by_heart

from course_lib.cvae import CVAEObjective
from course_lib.losses import cross_entropy, levels_objective, presence_objective
from course_lib.models import MODELS
from course_lib.plumbing.checkpoint import load_weights, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
SMALL_FCN = {"width": 8, "fc_channels": 16, "norm": True, "padding": "same", "dropout": 0.1}
TINY: dict[str, dict[str, object]] = {
    "fcn32s": SMALL_FCN,
    "fcn16s": SMALL_FCN,
    "fcn8s": SMALL_FCN,
    "fcn_alexnet": {"width": 8, "fc_channels": 16, "norm": True, "dropout": 0.1},
    "dilated": SMALL_FCN,
    "deeplabv3plus": {"depth": 18, "width": 8, "channels": 16, "low_channels": 8},
    "parsenet": {"depth": 18, "width": 8},
    "pspnet": {"depth": 18, "width": 8},
    "unet": {"width": 4, "norm": True, "dropout": 0.1},
    "drn": {"arch": "C-26", "width": 2},
    "segnet": {"width": 8},
    "segnet_basic": {"width": 8},
    "cvae": {"width": 4, "code_size": 4, "code_channels": 4, "size": (65, 79)},
    "enet": {"width": 8, "dropout": 0.0},
    "erfnet": {"width": 8, "dropout": 0.0},
    "fast_scnn": {"width": 8},
    "encnet": {"depth": 18, "width": 8, "codewords": 4},
    "hrnet": {"width": 4, "stem": 8, "bottlenecks": 1, "bottleneck_width": 4, "modules": (1, 1, 1), "units": 1},
    "fpn": {"depth": 18, "width": 8, "channels": 16},
    "semantic_fpn": {"depth": 18, "width": 8, "channels": 16, "head_channels": 8},
    "decouplednet": {"width": 4, "hidden": 16, "kernel": 1, "norm": True},
    "deformable": {"depth": 18, "width": 8, "deformable": 2, "channels": 16},
    "deformable_stack": {"width": 8, "layers": 2, "deformable": 1},
}

JUMPING = {"segnet", "segnet_basic", "enet", "decouplednet"}
"""Networks that unpool by position: where rounding chooses another maximum, a few logits jump."""

OBJECTIVES = {"cvae": CVAEObjective(samples=2), "encnet": presence_objective(), "fpn": levels_objective()}
"""Losses of networks of which a part learns from the labels, and never shows in `forward`."""

ENCODING_LABELS = {"cvae"}
"""Networks whose `encode` makes a code of labels."""

every_model = pytest.mark.parametrize("name", MODELS)


def make(name: str, seed: int = 0) -> nn.Module:
    """A small network whose logits are not all zero: what starts at zero gets random values."""
    assert name in TINY, f"give {name} small options in TINY"
    torch.manual_seed(seed)
    model = MODELS[name](CLASSES, **TINY[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(0, 0.1)
    return model


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


def range_of(logits: Tensor) -> float:
    return float(logits.max() - logits.min())


def test_there_is_a_small_version_of_every_network():
    assert TINY.keys() == MODELS.keys()


def assert_same_logits(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """All logits (nine in ten of a network that jumps) agree within `tolerance` of their range."""
    assert found.shape == expected.shape
    if name in JUMPING:
        close = (found - expected).abs() <= tolerance * range_of(expected)
        assert close.float().mean() >= 0.9
    else:
        torch.testing.assert_close(found, expected, atol=tolerance * range_of(expected), rtol=0)


@every_model
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (97, 131)])
def test_logits_have_the_size_of_the_picture(name, size):
    model = make(name).eval()
    for count in (1, 2):
        logits = model(pictures(count, *size))
        assert type(logits) is Tensor
        assert logits.shape == (count, CLASSES, *size)
        assert logits.isfinite().all()


@every_model
def test_the_number_of_classes_comes_first(name):
    first = next(iter(inspect.signature(MODELS[name]).parameters))
    assert first == "num_classes"
    for classes in (2, 21):
        assert MODELS[name](classes, **TINY[name]).eval()(pictures(1, 32, 32)).shape[1] == classes


@every_model
def test_constructors_name_their_arguments(name):
    kinds = {parameter.kind for parameter in inspect.signature(MODELS[name]).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    with pytest.raises(TypeError, match="no_such_option"):
        MODELS[name](CLASSES, no_such_option=1)


@every_model
@pytest.mark.parametrize("size", [(2, 65, 79), (1, 97, 131)])
def test_the_gradient_reaches_every_parameter_that_learns(name, size):
    model = make(name).train()
    count, *sides = size
    if name in OBJECTIVES:
        sides = TINY[name].get("size", sides)
    images, labels = pictures(count, *sides), torch.randint(CLASSES, (count, *sides))
    outputs = [model(images)]
    if hasattr(model, "forward_with_aux"):
        outputs = list(model.forward_with_aux(images))
    assert all(logits.shape == (count, CLASSES, *sides) for logits in outputs)
    loss = sum(cross_entropy(logits, labels) for logits in outputs)
    if name in OBJECTIVES:
        loss = OBJECTIVES[name](model, images, labels)
    loss.backward()
    silent = [
        key
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@every_model
def test_a_network_learns_one_picture_by_heart(name):
    losses = learn_by_heart(make(name).train(), pictures(2, 64, 64), CLASSES, steps=25)
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]


@every_model
def test_weights_saved_and_loaded_give_the_same_logits(name, tmp_path):
    model, other = make(name), make(name, seed=1)
    model.train()(pictures(2, 64, 64))  # running statistics are part of what is saved
    save_weights(tmp_path / "weights.safetensors", model)
    load_weights(tmp_path / "weights.safetensors", other)
    images = pictures(1, 65, 79)
    assert torch.equal(model.eval()(images), other.eval()(images))


@every_model
def test_the_seed_decides_the_start(name):
    images = pictures(1, 48, 48)
    logits = [make(name, seed).eval()(images) for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@every_model
def test_evaluation_repeats_itself_and_draws_no_random_numbers(name):
    model, images = make(name).eval(), pictures(2, 65, 79)
    with torch.no_grad():
        first = model(images)
        state = torch.get_rng_state()
        assert torch.equal(first, model(images))
        assert torch.equal(state, torch.get_rng_state())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model(3 * images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@every_model
def test_in_evaluation_a_picture_does_not_see_the_others(name):
    model, images = make(name).eval(), pictures(3, 65, 79)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert_same_logits(name, alone, together, 1e-4)


@every_model
def test_bfloat16_stays_close(name):
    model, images = make(name).eval(), pictures(2, 65, 79)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = model(images)
    assert_same_logits(name, coarse.float(), exact, 0.04)


@every_model
def test_the_memory_order_does_not_matter(name):
    model, images = make(name).eval(), pictures(2, 65, 79)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        found = model(images.contiguous(memory_format=torch.channels_last))
    assert_same_logits(name, found, expected, 1e-4)


@every_model
def test_the_picture_is_not_written_to(name):
    images = pictures(1, 64, 64)
    before = images.clone()
    make(name).train()(pictures(2, 64, 64))
    make(name).eval()(images)
    assert torch.equal(images, before)


@every_model
def test_encoders_give_a_list_of_feature_maps(name):
    model = make(name).eval()
    if name in ENCODING_LABELS or not hasattr(model, "encode"):
        pytest.skip(f"nothing is built on {name}")
    features = model.encode(pictures(2, 64, 96))
    assert isinstance(features, list)
    assert all(maps.ndim == 4 and len(maps) == 2 for maps in features)
    heights = [maps.shape[-2] for maps in features]
    assert heights == sorted(heights, reverse=True)  # from fine to coarse
