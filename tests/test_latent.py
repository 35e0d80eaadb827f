"""The code of a linear decoder: exact Jacobian, refinement that never gets worse."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.nn import functional

from course_lib import latent
from course_lib.cvae import code_use, uncertainty_use
from course_lib.data.sample import IGNORE, make_sample
from course_lib.data.scenes import Street
from course_lib.data.transforms import normalise
from course_lib.experiments.refinement import evaluate_refinement, refinement_numbers
from course_lib.latent import (
    Linearisation,
    class_region,
    encode_truth,
    leading_directions,
    linearise,
    objective,
    refine,
    refine_by_adam,
)
from course_lib.metrics import ConfusionMatrix
from course_lib.models.cvae import CVAE
from course_lib.models.fcn import FCN

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, CLASSES, CODE = (32, 48), 11, 6


def small_model(conditioning: str = "product", seed: int = 0) -> CVAE:
    """A CVAE whose batch norms have seen something, so that eval mode is no identity."""
    torch.manual_seed(seed)
    model = CVAE(CLASSES, width=4, code_size=CODE, code_channels=4, size=SIZE, conditioning=conditioning)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    model.spread.weight.data *= 20  # an untrained code says little
    return model.eval()


def picture(index: int = 0) -> Tensor:
    return Street(4, SIZE)[index].image


@pytest.fixture(params=["concat", "product"])
def model(request) -> CVAE:
    return small_model(request.param)


@pytest.fixture
def problem() -> tuple[Linearisation, Tensor, Tensor]:
    """A linear decoder of random numbers, labels with some ignored pixels, and a region."""
    torch.manual_seed(1)
    linear = Linearisation(2 * torch.randn(4, 10, 12), torch.randn(5, 4, 10, 12))
    labels = torch.randint(4, (10, 12))
    labels[:2] = IGNORE
    region = torch.zeros(10, 12, dtype=torch.bool)
    region[:7, 3:] = True
    return linear, labels, region


# -- the linear decoder -----------------------------------------------------------------------------


def test_the_linearisation_is_the_decoder(model):
    linear = linearise(model, picture())
    assert linear.offset.shape == (CLASSES, *SIZE)
    assert linear.jacobian.shape == (CODE, CLASSES, *SIZE)
    torch.manual_seed(0)
    codes = 3 * torch.randn(4, CODE)
    features = model.condition(normalise(picture())[None])
    with torch.no_grad():
        decoded = model.decode(codes, [maps.expand(4, -1, -1, -1) for maps in features])
    torch.testing.assert_close(linear.logits(codes), decoded, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(linear.logits(codes[2]), decoded[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(normalise(picture())[None])[0], linear.offset, atol=1e-5, rtol=1e-5)


def test_the_jacobian_is_autograds_and_that_of_finite_differences(model):
    linear = linearise(model, picture(), chunk=4)
    features = [maps.detach() for maps in model.condition(normalise(picture())[None])]
    code = torch.randn(CODE, generator=torch.Generator().manual_seed(3))

    def decode(one: Tensor) -> Tensor:
        return model.decode(one[None], features)[0]

    for seed in range(4):  # v^T B for some v: all of B by autograd is half a minute
        v = torch.randn(linear.offset.shape, generator=torch.Generator().manual_seed(seed))
        _, by_autograd = torch.autograd.functional.vjp(decode, code, v)
        ours = linear.jacobian.flatten(1) @ v.flatten()
        torch.testing.assert_close(ours, by_autograd, atol=1e-2, rtol=1e-3)
    with torch.no_grad():
        differences = torch.stack([(decode(code + unit) - decode(code - unit)) / 2 for unit in torch.eye(CODE)])
    torch.testing.assert_close(linear.jacobian, differences, atol=1e-4, rtol=1e-4)
    assert linear.jacobian.abs().mean() > 1e-3


def test_all_pictures_have_one_jacobian_with_concat_only():
    for conditioning in ("concat", "product"):
        model = small_model(conditioning)
        first, second = (linearise(model, picture(index)) for index in (0, 1))
        gap = float((first.jacobian - second.jacobian).abs().max())
        assert (gap < 1e-5) == (conditioning == "concat")
        assert (first.offset - second.offset).abs().max() > 1e-3


def test_a_jacobian_can_be_handed_on_with_concat(monkeypatch):
    model = small_model("concat")
    first = linearise(model, picture(0))
    decoded = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda code, maps: decoded.append(len(code)) or decode(code, maps))
    second = linearise(model, picture(1), jacobian=first.jacobian)
    assert decoded == [1, 1]  # the zero code and the probe, no unit code
    assert second.jacobian is first.jacobian
    torch.testing.assert_close(second.offset, linearise(model, picture(1)).offset)


def test_a_jacobian_that_cannot_be_this_pictures_is_refused():
    concat, product = small_model("concat"), small_model("product")
    of_other_seed = linearise(small_model("concat", seed=9), picture()).jacobian
    with pytest.raises(ValueError, match=r'only with conditioning="concat".* this model has "product"'):
        linearise(product, picture(1), jacobian=linearise(product, picture()).jacobian)
    with pytest.raises(ValueError, match=r"jacobian is \(2, 11, 32, 48\), but this model's is \(6, "):
        linearise(concat, picture(), jacobian=of_other_seed[:2])
    with pytest.raises(ValueError, match="a jacobian of another model"):
        linearise(concat, picture(), jacobian=of_other_seed)


def test_only_an_affine_decoder_is_linearised(monkeypatch):
    with pytest.raises(TypeError, match="FCN has no code to refine: this needs a CVAE"):
        linearise(FCN(11, width=8, fc_channels=8), picture())
    model = small_model()
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda code, maps: functional.relu(decode(code, maps)))
    with pytest.raises(ValueError, match="the decoder of this CVAE is not linear in the code"):
        linearise(model, picture())


def test_large_logits_are_no_reduced_precision(monkeypatch):
    """The differences in A lose the bits of the offset; that is float32 itself."""
    model = small_model()
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda code, maps: decode(code, maps) + 1e5)
    found, picture_ = linearise(model, picture()), picture()
    truth = decode(torch.ones(1, CODE), model.condition(normalise(picture_)[None]))[0]
    torch.testing.assert_close(found.logits(torch.ones(CODE)) - 1e5, truth, atol=0.5, rtol=0)


def ten_bits(values: Tensor) -> Tensor:
    """Round float32 to TF32's mantissa; float64 stays, as it does on a card."""
    if values.dtype != torch.float32:
        return values
    mantissa, exponent = values.frexp()
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_decoder_in_tf32_is_refused_with_the_reason_and_the_cure(monkeypatch, seed):
    model = small_model("concat", seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(lambda _, inputs: tuple(map(ten_bits, inputs)))
    with pytest.raises(ValueError, match=r"is linear in the code in float64, but .* TF32 10 .*NVIDIA_TF32_OVERRIDE"):
        linearise(model, picture())
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)


def test_a_network_keeps_the_mode_that_it_has(model):
    labels = torch.full(SIZE, 3)
    for mode in (True, False):
        model.train(mode)
        model.encoder.eval()
        before = [part.training for part in model.modules()]
        linearise(model, picture())
        encode_truth(model, picture(), labels)
        refine_by_adam(model, picture(), labels, labels == 3, steps=1)
        code_use(model, [make_sample(picture(), labels, "one")], show_progress=False)
        uncertainty_use(model, [make_sample(picture(), labels, "one")], show_progress=False)
        assert [part.training for part in model.modules()] == before


def test_a_picture_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match="32x32, but this CVAE's fully connected layers are for 32x48"):
        linearise(model, torch.zeros(3, 32, 32, dtype=torch.uint8))


def test_training_mode_and_autocast_change_nothing(model):
    """Batch norm of a training batch is not linear, and bfloat16 has three digits."""
    labels = torch.full(SIZE, 3)

    def derived(linear: Linearisation) -> list[Tensor]:
        code = refine(linear, labels, labels == 3).code
        return [*linear, linear.logits(torch.ones(CODE)), leading_directions(linear, 2)[1], code]

    wanted = derived(linearise(model, picture()))
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = derived(linearise(model, picture()))
    assert model.training
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_leading_directions_are_the_singular_vectors(problem):
    linear = problem[0]
    p = linear.offset.flatten(1).softmax(0)  # (C, P)
    slope = torch.diag_embed(p.T) - p.T[:, :, None] * p.T[:, None]  # (P, C, C)
    moves = torch.einsum("pij,njp->npi", slope, linear.jacobian.flatten(2)).flatten(1)
    _, values, vectors = torch.linalg.svd(moves.T.double(), full_matrices=False)
    directions, gains = leading_directions(linear, 3, chunk=50)
    torch.testing.assert_close(gains, (values[:3] / 120**0.5).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(directions @ directions.T, torch.eye(3), atol=1e-5, rtol=0)
    cosines = (directions.double() * vectors[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3).double(), atol=1e-4, rtol=0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()
    with pytest.raises(ValueError, match="a code of 5 has 1 to 5 directions, not 6"):
        leading_directions(linear, 6)


# -- the objective ----------------------------------------------------------------------------------


def test_the_objective_by_hand():
    """Two pixels told, of classes 0 and 1, both predicted (0.5, 0.5); a third is ignored, a fourth untold."""
    logits = torch.zeros(2, 1, 4)
    logits[:, 0, 3] = torch.tensor([9.0, -9.0])
    labels = torch.tensor([[0, 1, IGNORE, 1]])
    region = torch.tensor([[True, True, True, False]])
    code = torch.tensor([1.0, 2.0])
    found = objective(logits, labels, region, code, prior_weight=0.1)
    assert float(found) == pytest.approx(2 * 0.5 / 2 + 0.1 * 5 / 2)


def test_the_normal_equations_are_those_of_the_objective(problem):
    linear, labels, region = problem
    told = region & (labels != IGNORE)
    code = torch.randn(5, generator=torch.Generator().manual_seed(2))
    pieces = latent._pieces(linear, labels, told, 7)
    assert len(pieces) > 3
    value, gradient, curvature = latent._normal_equations(pieces, code.double(), 0.3)

    def whole(at: Tensor) -> Tensor:
        return objective(linear.logits(at), labels, region, at, 0.3)

    def probabilities(at: Tensor) -> Tensor:
        return linear.logits(at)[:, told].softmax(0).flatten()

    assert value == pytest.approx(float(whole(code)), rel=1e-5)
    by_autograd = torch.autograd.functional.jacobian(whole, code)
    torch.testing.assert_close(gradient.float(), by_autograd, atol=1e-4, rtol=1e-4)
    slope = torch.autograd.functional.jacobian(probabilities, code, vectorize=True)
    expected = slope.T @ slope + 0.3 * torch.eye(5)
    torch.testing.assert_close(curvature.float(), expected, atol=1e-4, rtol=1e-4)


# -- refinement -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_weight", [0.0, 0.01, 1.0, 100.0])
def test_the_objective_never_rises(problem, prior_weight):
    linear, labels, region = problem
    found = refine(linear, labels, region, prior_weight=prior_weight, chunk=16)
    assert all(after <= before for before, after in zip(found.objectives, found.objectives[1:], strict=False))
    assert found.objectives[-1] < found.objectives[0]
    for code, value in ((torch.zeros(5), found.objectives[0]), (found.code, found.objectives[-1])):
        expected = objective(linear.logits(code), labels, region, code, prior_weight)
        assert value == pytest.approx(float(expected), rel=1e-5)


def test_a_step_that_would_raise_the_objective_is_not_taken():
    """Steep logits: from a far start the undamped Gauss-Newton step overshoots, and must be tried again."""
    torch.manual_seed(4)
    linear = Linearisation(torch.randn(3, 6, 6), 20 * torch.randn(4, 3, 6, 6))
    labels, region = torch.randint(3, (6, 6)), torch.ones(6, 6, dtype=torch.bool)
    found = refine(linear, labels, region, prior_weight=0.01, steps=60, start=torch.ones(4))
    pairs = list(zip(found.objectives, found.objectives[1:], strict=False))
    assert any(after == before for before, after in pairs)
    assert all(after <= before for before, after in pairs)


@pytest.mark.parametrize("prior_weight", [0.05, 2.0])
def test_it_finds_what_scipy_finds(problem, prior_weight):
    linear, labels, region = problem
    told = region & (labels != IGNORE)
    truth = functional.one_hot(labels[told], 4).T.double()
    offset, jacobian = linear.offset[:, told].double(), linear.jacobian[..., told].double()

    def residuals(code: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(code)
        p = (offset + torch.tensordot(at, jacobian, dims=1)).softmax(0)
        return torch.cat([(p - truth).flatten(), prior_weight**0.5 * at]).numpy()

    theirs = least_squares(residuals, np.zeros(5), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    ours = refine(linear, labels, region, prior_weight=prior_weight, steps=100, tolerance=1e-7)
    assert ours.objectives[-1] == pytest.approx(theirs.cost, rel=1e-5)
    np.testing.assert_allclose(ours.code.numpy(), theirs.x, atol=2e-3)


def test_a_known_code_is_found_again():
    torch.manual_seed(5)
    linear = Linearisation(torch.zeros(4, 16, 16), 2 * torch.randn(3, 4, 16, 16))
    code = torch.tensor([1.0, -0.5, 2.0])
    labels = linear.logits(code).argmax(0)
    found = refine(linear, labels, torch.ones(16, 16, dtype=torch.bool), prior_weight=1e-3)
    assert functional.cosine_similarity(found.code, code, dim=0) > 0.97
    assert (linear.logits(found.code).argmax(0) == labels).float().mean() > 0.95


def test_only_told_pixels_count(problem):
    linear, labels, region = problem
    expected = refine(linear, labels, region).code
    other = labels.clone()
    other[~region] = 77  # untold, so not even looked at
    assert torch.equal(refine(linear, other, region).code, expected)
    without_void = region & (labels != IGNORE)
    assert torch.equal(refine(linear, labels, without_void).code, expected)


def test_it_starts_where_it_is_told_to(problem):
    linear, labels, region = problem
    best = refine(linear, labels, region, tolerance=1e-7, steps=100)
    again = refine(linear, labels, region, start=best.code)
    assert again.objectives[0] == pytest.approx(best.objectives[-1], rel=1e-5)
    assert len(again.objectives) <= 2


def test_a_stronger_prior_gives_a_smaller_code(problem):
    norms = [float(refine(*problem, prior_weight=weight).code.norm()) for weight in (0.1, 3.0, 100.0)]
    assert norms[0] > 1.2 * norms[1] > 2 * norms[2] > 0


def test_chunks_bound_the_memory():
    """The temporaries are a few chunks, not a few Jacobians."""
    torch.manual_seed(0)
    linear = Linearisation(torch.randn(8, 64, 64), torch.randn(16, 8, 64, 64))
    labels, region = torch.randint(8, (64, 64)), torch.ones(64, 64, dtype=torch.bool)
    events = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        refine(linear, labels, region, chunk=128, steps=3)
    events = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = int(np.cumsum(events).max())
    assert peak < 1.4 * linear.jacobian.nbytes


def test_adam_through_the_decoder_goes_to_the_same_minimum(model):
    sample = Street(4, SIZE)[1]
    labels = sample.labels.as_subclass(Tensor)
    region = class_region(labels, 3, CLASSES)
    reference = refine_by_adam(model, sample.image, labels, region, prior_weight=0.1, steps=200)
    ours = refine(linearise(model, sample.image), labels, region, prior_weight=0.1, tolerance=1e-6)
    assert reference.objectives[0] == pytest.approx(ours.objectives[0], rel=1e-4)
    assert ours.objectives[-1] <= 1.001 * reference.objectives[-1]
    assert reference.objectives[-1] < 0.99 * reference.objectives[0]
    assert all(parameter.grad is None for parameter in model.parameters())


REGION = torch.ones(10, 12, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"region": torch.zeros(10, 12, dtype=torch.bool)}, "the region is empty: none of its 0 pixels"),
        ({"labels": torch.full((10, 12), IGNORE)}, "none of its 120 pixels has a label"),
        ({"region": REGION[:9]}, r"region \(9, 12\), but the model's image is \(10, 12\)"),
        ({"labels": torch.zeros(10, 13).long()}, r"labels \(10, 13\), but the model's image is"),
        ({"region": REGION.long()}, "it is torch.int64, not bool"),
        ({"labels": torch.full((10, 12), 4)}, "holds class 4: the model has the classes 0 to 3"),
        ({"labels": torch.full((10, 12), -1)}, "holds class -1: the model has the classes 0 to 3"),
        ({"prior_weight": -1.0}, "prior_weight is 0 or more, not -1"),
        ({"prior_weight": float("nan")}, "prior_weight is 0 or more, not nan"),
    ],
)
def test_what_cannot_be_refined_is_named(problem, change, words):
    usual = {"labels": problem[1], "region": REGION}
    with pytest.raises(ValueError, match=words):
        refine(problem[0], **{**usual, **change})


def test_adam_refuses_the_same(model):
    labels, region = torch.zeros(SIZE).long(), torch.zeros(SIZE, dtype=torch.bool)
    with pytest.raises(ValueError, match="the region is empty"):
        refine_by_adam(model, picture(), labels, region)
    with pytest.raises(ValueError, match=r"region \(3, 3\)"):
        refine_by_adam(model, picture(), labels, region[:3, :3])


def test_a_class_that_the_model_lacks_is_named():
    with pytest.raises(ValueError, match="class 11: the model has the classes 0 to 10"):
        class_region(torch.zeros(4, 4).long(), 11, CLASSES)


# -- what refinement gains --------------------------------------------------------------------------


def test_the_matrices_are_those_of_each_way(model):
    streets = Street(3, SIZE, seed=5)
    matrices = evaluate_refinement(model, streets, ("Road", "Sky"), prior_weight=0.5, steps=5)
    assert set(matrices) == {
        "zero_code",
        "encoded",
        "road_replaced",
        "road_optimised",
        "road_optimised_replaced",
        "road_zero_code_as_encoded",
        "road_optimised_as_encoded",
        "sky_zero_code_as_encoded",
        "sky_optimised_as_encoded",
        "sky_replaced",
        "sky_optimised",
        "sky_optimised_replaced",
    }
    expected = {name: ConfusionMatrix(CLASSES) for name in matrices}
    for index in range(3):
        labels = streets[index].labels.as_subclass(Tensor)
        linear = linearise(model, streets[index].image)
        zero, road = linear.offset.argmax(0), labels == 3
        code = refine(linear, labels, road, prior_weight=0.5, steps=5).code
        optimised = linear.logits(code).argmax(0)
        with torch.no_grad():
            features = model.condition(normalise(streets[index].image)[None])
            mean, _ = model.encode(labels[None], features)
            encoded = model.decode(mean, features).argmax(1)[0]
        maps = {
            "zero_code": zero,
            "encoded": encoded,
            "road_optimised": optimised,
            "road_replaced": torch.where(road, 3, zero),
            "road_optimised_replaced": torch.where(road, 3, optimised),
        }
        for name, prediction in maps.items():
            expected[name].update(prediction[None], labels[None])
        outside = encoded.where((labels != IGNORE) & ~road, IGNORE)[None]
        expected["road_zero_code_as_encoded"].update(zero[None], outside)
        expected["road_optimised_as_encoded"].update(optimised[None], outside)
    for name in (*maps, "road_zero_code_as_encoded", "road_optimised_as_encoded"):
        gap = (matrices[name].counts - expected[name].counts).abs().sum()
        assert gap <= 6, name  # a tie of two logits may fall either way
    assert len({str(matrix.counts.tolist()) for matrix in matrices.values()}) == 12


def test_a_picture_without_the_class_stays_as_it_is(model):
    empty = Street(2, SIZE, density=0)
    matrices = evaluate_refinement(model, empty, ("Car",), show_progress=False)
    for way in ("replaced", "optimised", "optimised_replaced"):
        assert torch.equal(matrices[f"car_{way}"].counts, matrices["zero_code"].counts)


def test_a_class_that_the_set_lacks_is_named(model):
    with pytest.raises(ValueError, match="class 'street' is none of Sky, Building"):
        evaluate_refinement(model, Street(1, SIZE), ("street",))


def test_the_numbers_of_the_matrices():
    zero = ConfusionMatrix.from_counts([[4, 2, 0], [0, 6, 0], [2, 0, 6]])
    better = ConfusionMatrix.from_counts([[6, 0, 0], [0, 6, 0], [1, 0, 7]])
    agreeing = {"b_optimised_as_encoded": ConfusionMatrix.from_counts([[3, 1, 0], [0, 0, 0], [0, 0, 1]])}
    numbers = refinement_numbers({"zero_code": zero, "b_optimised": better, **agreeing}, ("A", "B", "C"))
    assert numbers["b_optimised_as_encoded"] == pytest.approx(4 / 5)
    assert [numbers[f"b_optimised_{name}_iou"] for name in "abc"] == pytest.approx([6 / 7, 1, 7 / 8])
    assert numbers["zero_code_accuracy"] == pytest.approx(16 / 20)
    assert numbers["b_optimised_accuracy"] == pytest.approx(19 / 20)
    assert numbers["zero_code_mean_iou"] == pytest.approx((4 / 8 + 6 / 8 + 6 / 8) / 3)
    assert numbers["b_optimised_others_iou"] == pytest.approx((6 / 7 + 7 / 8) / 2)
    assert numbers["zero_code_others_than_b_iou"] == pytest.approx((4 / 8 + 6 / 8) / 2)
    assert len(numbers) == 13
