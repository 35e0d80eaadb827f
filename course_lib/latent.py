"""The code of a linear decoder: exact Jacobian, and refinement from partial truth.

P. Zhuang, Y. Sekikawa, K. Hara, H. Saito, "Learning an Optimisable Semantic Segmentation Map with Image
Conditioned Variational Autoencoder": section 3 (refinement).

A decoder without activations gives logits A + B c: the offset A is the map of the zero code, column k of
the Jacobian B is what code unit k adds. Both are known after code_size + 1 passes. From then on a new code
costs one matrix product, and fitting a code to what is known of an image is nonlinear least squares in
code_size unknowns: only the softmax is not linear.

Departures from the paper

* It minimises "the Euclidean distance" of softmax and one-hot, without a prior, and names no optimiser.
  Here it is half the squared distance, summed over the told pixels, plus a Gaussian prior on the code,
  minimised by Levenberg and Marquardt's damped Gauss-Newton method.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE
from course_lib.data.transforms import normalise
from course_lib.plumbing.exact import exact
from course_lib.plumbing.modes import in_evaluation
from course_lib.plumbing.progress import progress_bar


class Linearisation(NamedTuple):
    """The decoder for one image: logits = offset + code * jacobian, exactly.

    Attributes:
        offset: A, (C, H, W) float32: the logits of the zero code.
        jacobian: B, (code_size, C, H, W) float32: what one unit of each code unit adds.
    """

    offset: Tensor
    jacobian: Tensor

    @exact()
    def logits(self, code: Tensor) -> Tensor:
        """Return the logits (C, H, W) of a code (code_size,), or (n, C, H, W) of n codes, by one matrix product."""
        return self.offset + torch.tensordot(code, self.jacobian, dims=1)


class Refinement(NamedTuple):
    """What a refinement found.

    Attributes:
        code: (code_size,).
        objectives: Before the first step and after each one; they never rise for `refine`.
        seconds: Duration, linearisation and features not counted.
    """

    code: Tensor
    objectives: list[float]
    seconds: float


# -- the linear decoder -----------------------------------------------------------------------------


@torch.no_grad()
@exact()
@in_evaluation
def linearise(model: nn.Module, image: Tensor, *, jacobian: Tensor | None = None, chunk: int = 8) -> Linearisation:
    """Return offset and Jacobian of the decoder of `model` for one image, in float32.

    This is done in evaluation mode, where batch norm is linear; the model keeps the mode that it has.

    Args:
        image: (3, H, W) uint8, of the model's size.
        jacobian: That of another image, to compute the offset alone: with `conditioning="concat"` it is the
            same for every image.
        chunk: Unit codes decoded at once.

    Raises:
        TypeError: For a model without a code.
        ValueError: Where the decoder is not affine in the code, or `jacobian` cannot be another image's.
    """
    features = _features(model, image)
    size = model.code_size
    zero = torch.zeros(1, size, device=next(model.parameters()).device)
    offset = model.decode(zero, features)[0]  # (C, H, W)
    if jacobian is None:
        jacobian = offset.new_empty(size, *offset.shape)
        units = torch.eye(size, device=zero.device)
        for first in range(0, size, chunk):
            some = units[first : first + chunk]
            decoded = model.decode(some, _repeat(features, len(some)))  # (chunk, C, H, W)
            torch.sub(decoded, offset, out=jacobian[first : first + len(some)])
    elif getattr(model, "conditioning", "") != "concat":
        raise ValueError(
            'only with conditioning="concat" have all images one Jacobian; this model has '
            f'"{getattr(model, "conditioning", "another")}": leave `jacobian` out'
        )
    elif jacobian.shape != (size, *offset.shape):
        raise ValueError(f"jacobian is {tuple(jacobian.shape)}, but this model's is {(size, *offset.shape)}")
    found = Linearisation(offset, jacobian)
    probe = torch.linspace(-2, 2, size, device=zero.device)
    truth = model.decode(probe[None], features)[0]
    gap, scale = (found.logits(probe) - truth).abs().max(), 1 + (truth - offset).abs().max()
    rounding = torch.finfo(offset.dtype).eps * probe.abs().sum() * offset.abs().max()  # of the differences in A
    if not gap <= 1e-3 * scale + 4 * rounding:
        raise ValueError(_why_not_linear(model, features, probe, float(gap), float(scale)))
    return found


@exact()
def _features(model: nn.Module, image: Tensor) -> Sequence[Tensor]:
    if not all(hasattr(model, name) for name in ("condition", "encode", "decode", "code_size")):
        raise TypeError(f"{type(model).__name__} has no code to refine: this needs a CVAE (course_lib.models.cvae)")
    images = normalise(image)[None].to(next(model.parameters()).device)
    return model.condition(images)


def _why_not_linear(model: nn.Module, features: Sequence[Tensor], probe: Tensor, gap: float, scale: float) -> str:
    """Return the reason in words: float64 knows neither autocast nor TF32, so what is linear there was rounded here."""
    off = f"A + B c is off by {gap:.3g}"
    here = _bend(model, features, probe)
    model.double()
    try:
        in_float64 = _bend(model, _each(features, Tensor.double), probe.double())
    finally:
        model.float()
    if here > 1e-4 * scale and in_float64 < 1e-6 * scale:
        return (
            f"the decoder of this {type(model).__name__} is linear in the code in float64, but here it computes in a "
            f"reduced precision, and {off}: float32 keeps 23 bits, TF32 10 and bfloat16 7. `exact()` "
            "(course_lib.plumbing.exact) has switched both off around it; so take autocast and `fp32_precision` out of "
            "its forward, and NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE out of the environment"
        )
    return (
        f"the decoder of this {type(model).__name__} is not linear in the code: {off}. "
        "Is there an activation in it, or a jacobian of another model?"
    )


def _bend(model: nn.Module, features: Sequence[Tensor], probe: Tensor) -> float:
    """Return how far the logits of `probe`, the zero code and -`probe` are from a straight line."""
    codes = torch.stack([probe, torch.zeros_like(probe), -probe])
    one, middle, other = model.decode(codes, _repeat(features, 3))
    return float((one + other - 2 * middle).abs().max())


def _repeat(features: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Return the features of one image for a batch of `count` codes, without copies."""
    return _each(features, lambda feature: feature.expand(count, *feature.shape[1:]))


def _each(features: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Sequence[Tensor]:
    changed = [change(feature) for feature in features]
    return type(features)(*changed) if hasattr(features, "_fields") else changed


@torch.no_grad()
@exact()
@in_evaluation
def encode_truth(model: nn.Module, image: Tensor, labels: Tensor) -> Tensor:
    """Return the code (code_size,) that the encoder gives for the whole truth.

    Args:
        model: A `CVAE`.
        image: (3, H, W) uint8, of the model's size.
        labels: (H, W) int64.
    """
    return model.encode(labels[None], _features(model, image))[0][0]


@exact()
def leading_directions(linear: Linearisation, count: int, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Return the unit codes that change the image's probabilities most, at the zero code: for sliders.

    They are directions (count, code_size), orthonormal, the strongest first, each with its largest entry
    positive; and gains (count,): by how much a pixel's probability vector moves per unit of code (root mean
    square over the pixels). They are the right singular vectors and singular values of softmax' B.

    Raises:
        ValueError: Where there are not that many.
    """
    size = len(linear.jacobian)
    if not 1 <= count <= size:
        raise ValueError(f"a code of {size} has 1 to {size} directions, not {count}")
    offset, jacobian = linear.offset.flatten(1), linear.jacobian.flatten(2)
    pixels = offset.shape[1]
    squares = offset.new_zeros(size, size, dtype=torch.float64)
    for first in range(0, pixels, chunk):
        part = slice(first, first + chunk)
        slope = _slope(offset[:, part].softmax(0), jacobian[..., part]).flatten(1)
        squares += slope @ slope.T
    values, vectors = torch.linalg.eigh(squares)
    directions = vectors.T.flip(0)[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    gains = (values.flip(0)[:count].clamp(min=0) / pixels).sqrt()
    return (directions * largest.sign()).float(), gains.float()


# -- refinement -------------------------------------------------------------------------------------


def objective(logits: Tensor, labels: Tensor, region: Tensor, code: Tensor, prior_weight: float) -> Tensor:
    """Return the sum over the region of `|softmax(logits) - one-hot|^2 / 2`, plus `prior_weight * |code|^2 / 2`.

    A sum, not a mean: each given pixel is one observation, and `prior_weight` is the variance of its error in
    units of the prior's. Scale it with the area when the image's size changes.

    Args:
        logits: (C, H, W).
        labels: (H, W) int64.
        region: (H, W) bool; its pixels of label 255 do not count.
        code: (code_size,).
        prior_weight: Of the Gaussian prior on the code.
    """
    told = region & (labels != IGNORE)
    truth = functional.one_hot(labels[told], len(logits)).T  # (C, told)
    distance = (logits[:, told].softmax(0) - truth).square().sum()
    return distance / 2 + prior_weight * code.square().sum() / 2


@torch.no_grad()
@exact()
def refine(
    linear: Linearisation,
    labels: Tensor,
    region: Tensor,
    *,
    prior_weight: float = 1.0,
    steps: int = 30,
    tolerance: float = 1e-3,
    start: Tensor | None = None,
    chunk: int = 4096,
) -> Refinement:
    """Return the code that minimises `objective` on what is given, by Levenberg and Marquardt's method.

    With r = softmax - one-hot and J = softmax' B (softmax' = diag(p) - p p^T at each pixel), a step solves
    (J^T J + prior_weight + damping) d = -(J^T r + prior_weight c). The damping falls when the objective
    falls as predicted and grows when it does not (Nielsen's rule).

    Args:
        labels: (H, W) int64, the truth; only what is in `region` is looked at.
        region: (H, W) bool: where the truth is given; label 255 gives nothing there.
        steps: Most steps; each is tried, and taken only where the objective falls.
        tolerance: Stop when a step promises, or has gained, less than this share of the objective.
        start: Code to start from; the zero code by default.
        chunk: Pixels taken at once: memory is the region's part of the Jacobian, and `chunk` pixels more.

    Raises:
        ValueError: For an empty region, other sizes, a class that the model lacks, and a negative `prior_weight`.
    """
    told = _told(linear.offset.shape, labels, region, prior_weight).to(linear.offset.device)
    began = time.perf_counter()
    pieces = _pieces(linear, labels, told, chunk)
    code = torch.zeros(len(linear.jacobian), dtype=torch.float64, device=told.device)
    if start is not None:
        code += start

    value, gradient, curvature = _normal_equations(pieces, code, prior_weight)
    objectives = [value]
    damping, growth = 1e-3 * float(curvature.diagonal().mean()), 2.0
    for _ in range(steps):
        # Try the step to the minimum of the damped quadratic model; stop where it promises too little.
        damped = curvature + damping * torch.eye(len(code), device=code.device)
        move = -torch.linalg.solve(damped, gradient)
        predicted = -float(gradient @ move + move @ curvature @ move / 2)
        if not predicted > tolerance * value:
            break
        # Where the objective rises there, stay, and damp more: the next step is shorter and steeper.
        found = _normal_equations(pieces, code + move, prior_weight)
        gain = (value - found[0]) / predicted
        if gain <= 0:
            damping, growth = damping * growth, 2 * growth
            objectives.append(value)
            continue
        # Where it falls, go there, and damp the less the better the prediction was.
        gained = value - found[0]
        code, (value, gradient, curvature) = code + move, found
        damping, growth = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
        objectives.append(value)
        if gained < tolerance * value:
            break
    return Refinement(code.float(), objectives, time.perf_counter() - began)


@exact()
@in_evaluation
def refine_by_adam(
    model: nn.Module,
    image: Tensor,
    labels: Tensor,
    region: Tensor,
    *,
    prior_weight: float = 1.0,
    steps: int = 200,
    learning_rate: float = 0.1,
    show_progress: bool = False,
) -> Refinement:
    """Refine by Adam through the decoder, pass by pass, without a Jacobian: the reference for `refine`.

    image (3, H, W) uint8; the other arguments and errors are those of `refine`. It starts at the zero code.
    """
    with torch.no_grad():
        features = _features(model, image)
    device = next(model.parameters()).device
    code = torch.zeros(1, model.code_size, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([code], lr=learning_rate)
    region, labels = region.to(device), labels.as_subclass(Tensor).to(device)

    def look() -> Tensor:
        logits = model.decode(code, features)[0]
        if not objectives:
            _told(logits.shape, labels, region, prior_weight)
        return objective(logits, labels, region, code, prior_weight)

    objectives: list[float] = []
    began = time.perf_counter()
    for _ in progress_bar(range(steps), "Adam", show=show_progress, delay=2):
        value = look()
        objectives.append(float(value.detach()))
        (code.grad,) = torch.autograd.grad(value, [code])
        optimizer.step()
    with torch.no_grad():
        objectives.append(float(look()))
    return Refinement(code.detach()[0], objectives, time.perf_counter() - began)


def class_region(labels: Tensor, index: int, num_classes: int) -> Tensor:
    """Return the true region of class `index`, (H, W) bool.

    Raises:
        ValueError: For a class that the model lacks.
    """
    if not 0 <= index < num_classes:
        raise ValueError(f"class {index}: the model has the classes 0 to {num_classes - 1}")
    return labels.as_subclass(Tensor) == index


def _told(shape: torch.Size, labels: Tensor, region: Tensor, prior_weight: float) -> Tensor:
    """Check everything that a caller may have wrong, and return the given pixels, (H, W) bool."""
    classes, *size = shape
    for name, given in (("region", region), ("labels", labels)):
        if [*given.shape] != size:
            raise ValueError(f"{name} {tuple(given.shape)}, but the model's image is {tuple(size)}")
    if region.dtype != torch.bool:
        raise ValueError(f"region is True where the truth is given; it is {region.dtype}, not bool")
    if not 0 <= prior_weight < math.inf:
        raise ValueError(f"prior_weight is 0 or more, not {prior_weight}")
    labels = labels.as_subclass(Tensor)
    told = region & (labels != IGNORE)
    if not told.any():
        raise ValueError(
            f"the region is empty: none of its {int(region.sum())} pixels has a label, so that nothing is given"
        )
    low, high = (int(value) for value in labels[told].aminmax())
    if low < 0 or high >= classes:
        wrong = high if high >= classes else low
        raise ValueError(f"the region holds class {wrong}: the model has the classes 0 to {classes - 1}")
    return told


def _pieces(linear: Linearisation, labels: Tensor, told: Tensor, chunk: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return offset (C, P), Jacobian (code, C, P) and truth (P,) of the given pixels, `chunk` at a time."""
    truth = labels.as_subclass(Tensor).to(told.device).flatten()
    offset, jacobian = linear.offset.flatten(1), linear.jacobian.flatten(2)
    return [
        (offset.index_select(-1, some), jacobian.index_select(-1, some), truth[some])
        for some in told.flatten().nonzero()[:, 0].split(chunk)
    ]


def _normal_equations(
    pieces: list[tuple[Tensor, Tensor, Tensor]], code: Tensor, prior_weight: float
) -> tuple[float, Tensor, Tensor]:
    """Return objective, gradient (code,) and Gauss-Newton matrix (code, code) at `code`, sums in float64."""
    value = prior_weight * float(code @ code) / 2
    gradient = prior_weight * code
    curvature = prior_weight * torch.eye(len(code), dtype=code.dtype, device=code.device)
    for offset, b, truth in pieces:
        p = (offset + torch.tensordot(code.float(), b, dims=1)).softmax(0)  # (C, P)
        residual = p - functional.one_hot(truth, len(p)).T
        slope = _slope(p, b).flatten(1)  # (code, C * P)
        value += float(residual.square().sum(dtype=torch.float64)) / 2
        gradient = gradient + slope @ residual.flatten()
        curvature += slope @ slope.T
    return value, gradient, curvature


def _slope(p: Tensor, b: Tensor) -> Tensor:
    """Return J = (diag(p) - p p^T) b at each pixel: p (C, P), b (code, C, P) -> (code, C, P)."""
    slope = b * p
    return slope.addcmul_(p, slope.sum(1, keepdim=True), value=-1)
