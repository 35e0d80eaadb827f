"""The CVAE: an affine decoder, the mended losses against independent ones, and a training that resumes."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from course_lib.calibration import auroc
from course_lib.costs import count_parameters
from course_lib.cvae import (
    CVAEObjective,
    attenuated_log_likelihood,
    code_use,
    kl_divergence,
    kl_weight,
    uncertainty_use,
)
from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.data.transforms import to_batch
from course_lib.experiments.building import Sitting
from course_lib.experiments.measures import refinement
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.runs import make
from course_lib.experiments.table import resolve
from course_lib.losses import cross_entropy
from course_lib.models.cvae import CVAE
from course_lib.plumbing.checkpoint import CheckpointError, load_weights, save_weights
from course_lib.train import Checkpoints, Checks, evaluate, fit

QUIET = Sitting(show_progress=False)

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SIZE, CODE = 5, (33, 48), 6


def small(conditioning: str = "concat", **changes) -> CVAE:
    torch.manual_seed(0)
    usual = {"width": 4, "label_width": 3, "code_size": CODE, "code_channels": 4, "size": SIZE}
    model = CVAE(CLASSES, conditioning=conditioning, **{**usual, **changes})
    model.train()
    for _ in range(3):  # running statistics that are not those of the start
        model.reconstruct(*batch(4))
    return model.eval()


def batch(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *SIZE, generator=generator)
    return images, torch.randint(CLASSES, (count, *SIZE), generator=generator)


both = pytest.mark.parametrize("conditioning", ["concat", "product"])


# -- the network ------------------------------------------------------------------------------------


@both
def test_shapes(conditioning):
    model, (images, labels) = small(conditioning), batch(2)
    features = model.condition(images)
    assert [tuple(maps.shape[1:]) for maps in features] == [
        (4, 33, 48),
        (8, 17, 24),
        (16, 9, 12),
        (32, 5, 6),
        (64, 3, 3),
    ]
    assert model.uncertainty(features).shape == (2, 1, *SIZE)
    assert (model.uncertainty(features) > 0).all()
    mean, log_variance = model.encode(labels, features)
    assert mean.shape == log_variance.shape == (2, CODE)
    found = model.reconstruct(images, labels)
    assert found.logits.shape == (2, CLASSES, *SIZE)
    assert found.uncertainty.shape == (2, 1, *SIZE)
    assert torch.equal(found.mean, mean)


@both
def test_the_answer_without_labels_is_that_of_the_zero_code(conditioning):
    model, (images, _) = small(conditioning), batch(2)
    zero = model.decode(torch.zeros(2, CODE), model.condition(images))
    assert torch.equal(model(images), zero)


@torch.no_grad()
def responses(model: CVAE, images: Tensor, codes: Tensor) -> Tensor:
    """decode(code) - decode(0), (codes, C, H, W), in double precision, of one picture."""
    features = [maps.expand(len(codes), -1, -1, -1) for maps in model.condition(images)]
    return model.decode(codes, features) - model.decode(torch.zeros_like(codes), features)


@both
def test_logits_are_affine_in_the_code(conditioning):
    model, (images, _) = small(conditioning).double(), batch(1)
    basis = responses(model, images.double(), torch.eye(CODE).double())
    codes = 5 * torch.randn(4, CODE).double()
    expected = torch.einsum("nk,kchw->nchw", codes, basis)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(responses(model, images.double(), codes), expected)


def test_only_the_product_lets_the_picture_decide_what_the_code_does():
    (one, two), codes = batch(2)[0].double().split(1), torch.eye(CODE).double()
    difference = {}
    for conditioning in ("concat", "product"):
        model = small(conditioning).double()
        jacobians = [responses(model, image, codes) for image in (one, two)]
        difference[conditioning] = float((jacobians[0] - jacobians[1]).abs().max())
    assert difference["concat"] < 1e-9
    assert difference["product"] > 1e-2


def test_in_training_the_decoder_is_not_affine():
    """Batch norm divides by a deviation that depends on the code: the Jacobian holds in eval mode alone."""
    model, (images, _) = small().double().train(), batch(4)
    features = model.condition(images.double())
    code = torch.randn(4, CODE).double()
    zero = model.decode(0 * code, features)
    once, twice = (model.decode(factor * code, features) - zero for factor in (1, 2))
    assert (twice - 2 * once).abs().max() > 0.01 * once.abs().max()


def test_ignored_pixels_say_nothing_to_the_encoder():
    model, (images, labels) = small(), batch(1)
    features = model.condition(images)
    nothing = model.encode(torch.full_like(labels, IGNORE), features)[0]
    seen: list[Tensor] = []
    handle = model.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    labels[:, :7] = IGNORE
    something = model.encode(labels, features)[0]
    handle.remove()
    hot = seen[0][:, :CLASSES]
    assert not hot[:, :, :7].any()
    assert torch.equal(hot.sum(1), (labels != IGNORE).float())
    assert not torch.equal(nothing, something)


def test_dropout_weakens_the_decoders_conditioning_only():
    model = small(dropout=0.9).train()
    images, labels = batch(2)
    for module in model.modules():  # whatever else depends on the mode
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    features = model.condition(images)
    assert all(torch.equal(a, b) for a, b in zip(features, model.condition(images), strict=True))
    assert torch.equal(model.encode(labels, features)[0], model.encode(labels, features)[0])
    code = torch.zeros(2, CODE)
    assert not torch.equal(model.decode(code, features), model.decode(code, features))
    assert torch.equal(model.eval()(images), model(images))


def test_parameters_by_hand():
    """3x3 kernels and two numbers of batch norm a map; see the layers in the network's docstring."""
    w, v, n, c, k = 4, 3, CODE, CLASSES, 4  # width, label_width, code, classes, code_channels
    cells = k * 3 * 3

    def conv(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 2 * outputs

    unet = conv(3, w) + sum(
        conv(w * 2**i, w * 2 ** (i + 1)) + conv(w * 2 ** (i + 1), w * 2 ** (i + 1)) for i in range(4)
    )
    unet += 2 * conv(16 * w, 16 * w) + sum(conv(3 * w * 2**i, w * 2**i) for i in range(4)) + w + 1
    entering = [c, *(v * 2**i for i in range(1, 5))]
    encoder = sum(conv(entering[i] + w * 2**i, v * 2 ** (i + 1)) for i in range(4))
    encoder += conv(16 * v + 16 * w, k)
    dense = 2 * (cells * n + n) + n * cells + cells
    inputs, outputs = [v, 2 * v, 4 * v, 8 * v, k], [v, v, 2 * v, 4 * v, 8 * v]
    decoder = sum(conv(inputs[i] + w * 2**i, outputs[i]) for i in range(5)) + v * c + c
    assert count_parameters(small()) == unet + encoder + dense + decoder
    product = sum(9 * inputs[i] * outputs[i] + w * 2**i * inputs[i] + inputs[i] for i in range(5))
    assert count_parameters(small("product")) == unet + encoder + dense + decoder + product


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditioning": "sum"}, '"concat" or "product", not \'sum\''),
        ({"size": (31, 64)}, r"at least 32, not \(31, 64\)"),
        ({"size": (64,)}, r"size is \(height, width\)"),
        ({"code_size": 0}, "code_size and code_channels are at least 1"),
    ],
)
def test_impossible_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CVAE(CLASSES, **{"width": 4, **options})


def test_other_sizes_classes_and_codes_are_refused():
    model, (images, labels) = small(), batch(2)
    features = model.condition(images)
    with pytest.raises(ValueError, match=r"images of 40x48, .*33x48: resize them, or build CVAE"):
        model.condition(torch.zeros(1, 3, 40, 48))
    with pytest.raises(ValueError, match="labels of 30x48"):
        model.encode(labels[:, :30], features)
    labels[0, 0, 0] = CLASSES
    with pytest.raises(ValueError, match="from 0 to 5, but the classes of this CVAE are 0 to 4"):
        model.encode(labels, features)
    with pytest.raises(ValueError, match=r"codes are \(N, 6\), not \(2, 7\)"):
        model.decode(torch.zeros(2, 7), features)


# -- the losses -------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_the_distributions():
    mean, log_variance = torch.randn(7, CODE), torch.randn(7, CODE)
    gaussians = Normal(mean, torch.exp(log_variance / 2))
    expected = reference_kl(gaussians, Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    printed = (-log_variance - 1 + log_variance.exp() + mean.square()).sum(1).mean()  # equation 2
    torch.testing.assert_close(2 * kl_divergence(mean, log_variance), printed)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_free_nats_are_free():
    mean = torch.tensor([[0.1, 2.0], [-0.1, 2.0]], requires_grad=True)
    kl = kl_divergence(mean, torch.zeros(2, 2), free_nats=0.5)
    kl.backward()
    assert kl.item() == pytest.approx(0.5 + 2.0)
    assert mean.grad.abs().sum(0).tolist() == [0.0, 2.0]


def test_the_weight_warms_up():
    found = [kl_weight(step, weight=0.4, warmup_steps=4) for step in (0, 1, 2, 4, 9)]
    assert found == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert kl_weight(0, weight=0.4) == 0.4


def test_the_attenuated_likelihood_against_a_loop():
    logits, labels = torch.randn(2, CLASSES, 3, 4), torch.randint(CLASSES, (2, 3, 4))
    labels[0, 0, 0] = IGNORE
    b = torch.rand(2, 1, 3, 4)
    noise = torch.randn((3, *logits.shape), generator=torch.Generator().manual_seed(4))
    found = attenuated_log_likelihood(logits, b, labels, samples=3, generator=torch.Generator().manual_seed(4))
    for n, i, j in [(0, 1, 2), (1, 0, 0), (1, 2, 3)]:
        probabilities = [
            float((logits[n, :, i, j] + b[n, 0, i, j] * noise[t, n, :, i, j]).softmax(0)[labels[n, i, j]])
            for t in range(3)
        ]
        assert found[n, i, j].item() == pytest.approx(math.log(sum(probabilities) / 3), abs=1e-5)
    assert found[0, 0, 0] == 0


def test_without_noise_it_is_minus_the_cross_entropy():
    logits, labels = torch.randn(2, CLASSES, 6, 7), torch.randint(CLASSES, (2, 6, 7))
    labels[:, :2] = IGNORE
    likelihood = attenuated_log_likelihood(logits, torch.zeros(2, 1, 6, 7), labels)
    mean = -likelihood.sum() / (labels != IGNORE).sum()
    torch.testing.assert_close(mean, cross_entropy(logits, labels))


def test_uncertainty_attenuates_the_loss_of_wrong_pixels_and_raises_that_of_right_ones():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0] = 8.0  # both pixels are said to be class 0
    labels = torch.tensor([[[0, 1]]])
    sure, unsure = (
        attenuated_log_likelihood(logits, torch.full((1, 1, 1, 2), b), labels, samples=2000)[0, 0] for b in (0.0, 8.0)
    )
    assert unsure[1] > sure[1] + 3
    assert unsure[0] < sure[0] - 0.1


def test_noise_is_drawn_for_each_class():
    """One number for all classes would leave the softmax, and so the likelihood, as it is."""
    logits, labels = torch.randn(1, CLASSES, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    plain, noisy = (
        attenuated_log_likelihood(logits, torch.full((1, 1, 2, 2), b), labels, samples=1) for b in (0.0, 3.0)
    )
    assert (plain - noisy).abs().min() > 1e-3


def test_the_likelihood_is_finite_for_any_logits():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = attenuated_log_likelihood(logits, torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1).long())
    loss.sum().backward()
    assert loss.item() < -1e4
    assert logits.grad.isfinite().all()


def test_likelihoods_of_other_shapes_are_refused():
    logits, b = torch.zeros(2, 3, 4, 5), torch.ones(2, 1, 4, 5)
    with pytest.raises(ValueError, match=r"do not go with labels \(2, 4, 4\)"):
        attenuated_log_likelihood(logits, b, torch.zeros(2, 4, 4).long())
    with pytest.raises(ValueError, match="samples is at least 1, not 0"):
        attenuated_log_likelihood(logits, b, torch.zeros(2, 4, 5).long(), samples=0)


# -- training ---------------------------------------------------------------------------------------


def test_the_loss_is_nats_for_each_labelled_pixel():
    model, (images, labels) = small(), batch(2)
    labels[0, :9] = IGNORE
    torch.nn.init.constant_(model.mean.bias, 3.0)  # a KL that counts
    objective = CVAEObjective(kl_weight=0.3, warmup_steps=10, samples=2)
    objective.at_step(5)
    torch.manual_seed(3)
    loss = objective(model, images, labels)
    torch.manual_seed(3)
    found = model.reconstruct(images, labels)
    likelihood = attenuated_log_likelihood(found.logits, found.uncertainty, labels, samples=2)
    kl = kl_divergence(found.mean, found.log_variance)
    expected = (0.15 * 2 * kl - likelihood.sum()) / (labels != IGNORE).sum()
    torch.testing.assert_close(loss, expected)
    assert objective.weight(labels) == (labels != IGNORE).sum()


def streets(count: int) -> Street:
    return Street(count, (48, 64), seed=2)


def trained(steps: int, **options) -> tuple[CVAE, object]:
    torch.manual_seed(0)
    model = CVAE(11, width=4, code_size=4, code_channels=4, size=(48, 64))
    torch.nn.init.constant_(model.mean.bias, 3.0)  # a KL that counts
    objective = CVAEObjective(kl_weight=0.5, warmup_steps=6, samples=2)
    history = fit(model, streets(8), steps=steps, batch_size=2, objective=objective, show_progress=False, **options)
    return model, history


def test_every_evaluation_may_say_whether_the_code_is_used():
    val = streets(3)
    _, history = trained(
        4, checks=Checks(val, every=2, measure=lambda model: code_use(model, val, show_progress=False))
    )
    assert [found["step"] for found in history.evaluations] == [2, 4]
    for found in history.evaluations:
        assert {"kl", "encoded_accuracy", "code_gain", "mean_iou"} <= set(found)
        assert found["zero_accuracy"] == pytest.approx(found["overall_accuracy"], abs=0.01)
    assert trained(4)[1].losses == history.losses  # it changes nothing


class Stop:
    def __init__(self):
        self.steps: list[int] = []

    def __call__(self, step: int, loss: float) -> None:
        self.steps.append(step)
        if step == 4:
            raise KeyboardInterrupt


def test_a_training_that_was_killed_goes_on_with_the_right_weight(tmp_path):
    """The weight of KL depends on the step: a count that began again would end elsewhere."""
    through, history = trained(8)
    options = {"checkpoints": Checkpoints(tmp_path / "c.safetensors", 2)}
    with pytest.raises(KeyboardInterrupt):
        trained(8, on_step=Stop(), **options)
    resumed, rest = trained(8, **options)
    assert rest.losses == history.losses
    assert all(
        torch.equal(a, b) for a, b in zip(through.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_code_use_of_a_decoder_that_listens_and_of_one_that_does_not():
    dataset = streets(3)

    class Listens(nn.Module):
        """The code is the number of the picture in the set; the decoder knows all labels by heart."""

        num_classes = 11

        def __init__(self, listens: bool):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.listens = listens

        def condition(self, images: Tensor) -> list[Tensor]:
            return [images]

        def encode(self, labels: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
            number = [next(i for i in range(3) if torch.equal(dataset[i].labels, one)) for one in labels]
            mean = torch.tensor(number)[:, None] + 1.0
            return (mean, torch.zeros_like(mean)) if self.listens else (0 * mean, 0 * mean)

        def decode(self, code: Tensor, features: list[Tensor]) -> Tensor:
            answers = [dataset[int(c) - 1].labels if c in (1, 2, 3) else torch.zeros(48, 64).long() for c in code[:, 0]]
            return nn.functional.one_hot(torch.stack(answers), 11).movedim(-1, 1).float()

    found = code_use(Listens(True), dataset, batch_size=2, show_progress=False)
    sky = sum(float((dataset[i].labels == 0).float().mean()) for i in range(3)) / 3
    assert found["encoded_accuracy"] == 1
    assert found["zero_accuracy"] == pytest.approx(sky)
    assert found["random_accuracy"] == pytest.approx(sky)
    assert found["code_gain"] == pytest.approx(1 - sky)
    assert found["kl"] == pytest.approx((1 + 4 + 9) / 2 / 3)
    collapsed = code_use(Listens(False), dataset, show_progress=False)
    assert collapsed["kl"] == collapsed["code_gain"] == 0


def test_uncertainty_is_judged_by_the_errors_of_both_codes():
    """By hand: b, and the entropy of each map's own softmax, of wrong against right labelled pixels."""
    (model, _), dataset = trained(2), streets(3)
    parts: dict[str, list[Tensor]] = {}
    for index in range(3):
        images, labels = to_batch([dataset[index]])
        with torch.no_grad():
            features = model.eval().condition(images)
            mean = model.encode(labels, features)[0]
            for kind, code in (("zero", 0 * mean), ("encoded", mean)):
                share = model.decode(code, features).softmax(1)
                counted = labels != IGNORE
                parts.setdefault(f"wrong_{kind}", []).append((share.argmax(1) != labels)[counted])
                parts.setdefault(f"entropy_{kind}", []).append(torch.special.entr(share).sum(1)[counted])
                parts.setdefault(f"b_{kind}", []).append(model.uncertainty(features)[:, 0][counted])
    whole = {name: torch.cat(some) for name, some in parts.items()}
    found = uncertainty_use(model, dataset, show_progress=False)
    assert set(found) == {f"{score}_auroc_{kind}" for score in ("b", "entropy") for kind in ("zero", "encoded")}
    for name, value in found.items():
        score, kind = name.split("_auroc_")
        expected = auroc(whole[f"{score}_{kind}"], whole[f"wrong_{kind}"])
        assert value == pytest.approx(expected, abs=1e-3), name


def test_code_use_agrees_with_the_evaluation_of_the_network():
    model, dataset = trained(2)[0], streets(3)
    found = code_use(model, dataset, batch_size=2, show_progress=False)
    again = code_use(model, dataset, batch_size=3, show_progress=False)
    matrix = evaluate(model, dataset, show_progress=False)
    assert found["zero_accuracy"] == pytest.approx(matrix.overall_accuracy(), abs=1e-3)
    assert found == pytest.approx(again, abs=1e-3)


# -- runs -------------------------------------------------------------------------------------------


def quick(**changes):
    """The quick recipe of the paper's table, made smaller still."""
    usual = {
        "steps": 2,
        "batch_size": 2,
        "height": 48,
        "width": 64,
        "start_from": "",
        "dataset_options": {"train_length": 4, "val_length": 2, "density": 0.5},
        "model_options": {"width": 4, "code_size": 4, "code_channels": 4},
    }
    return dataclasses.replace(resolve("cvae", "zero_code", "quick"), **{**usual, **changes})


def test_a_run_measures_the_papers_table_and_its_controls():
    model, record = make(quick(refine_priors=[1.0, 10.0]), QUIET)
    assert model.size == (48, 64)
    needed = {name for name, metric in METRICS.items() if metric.measure in ("code", "refinement")}
    assert needed <= set(record.metrics)
    assert record.metrics["zero_code_accuracy"] == pytest.approx(record.metrics["overall_accuracy"], abs=0.01)
    replaced = record.metrics["road_replaced_accuracy"]
    assert replaced >= record.metrics["zero_code_accuracy"]
    assert record.metrics["road_replaced_accuracy_prior_10"] == replaced
    assert record.metrics["road_optimised_accuracy_prior_10"] > 0
    counted = record.pictures["pixels"]
    for way in ("zero_code", "encoded", "road_replaced", "building_optimised", "pavement_optimised_replaced"):
        assert len(record.pictures[way]) == 2
        assert sum(record.pictures[way]) / sum(counted) == pytest.approx(record.metrics[f"{way}_accuracy"])
    assert not [name for name in record.pictures if "prior" in name or "sidewalk" in name]


@pytest.mark.parametrize(
    "change", [{"kl_weight": 50.0}, {"kl_warmup": 9}, {"free_nats": 9.0}, {"noise_samples": 1}, {"kl_weight": 0.0}]
)
def test_the_settings_of_the_loss_reach_the_training(change):
    usual, other = (make(quick(measures=[], **settings), QUIET)[1].losses for settings in ({}, change))
    assert usual != other


def test_a_code_needs_a_network_that_has_one():
    with pytest.raises(ValueError, match=r"kl_weight is 0\.5, but unet has no code"):
        make(quick(model="unet", model_options={"width": 4}, kl_weight=0.5), QUIET)
    with pytest.raises(ValueError, match="one loss, without weights"):
        make(quick(class_weighting="median_frequency"), QUIET)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    save_weights(tmp_path / "weights.safetensors", small("product"))
    with pytest.raises(CheckpointError, match="holds another architecture"):
        load_weights(tmp_path / "weights.safetensors", small("concat"))


def test_sidewalks_are_pavements():
    """Cityscapes' name for it; numbers of both sets have one name."""
    scenes = streets(2)
    scenes.classes = tuple("sidewalk" if name == "Pavement" else name for name in scenes.classes)
    found = refinement(trained(1)[0], scenes, quick())
    assert "pavement_optimised_accuracy" in found
    assert "zero_code_others_than_pavement_iou" in found
    assert not [name for name in found if "sidewalk" in name]
