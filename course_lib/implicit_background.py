"""Implicit background: a background logit that follows from those of the objects, and what that buys.

C. Lehman, D. Temel, G. AlRegib, "Implicit Background Estimation for Semantic Segmentation", ICIP 2019,
arXiv 1905.13306. A network gives K logits x, one for each class of object. Background has no logit of its
own: with L = logsumexp(x) it gets -L, so that::

    p_background = sigmoid(-2 L),        p_c = softmax(x)_c * sigmoid(2 L).

An ordinary softmax over K+1 logits does not change when a constant is added to all of them, so that many
logits mean one prediction. These K logits are as many as the prediction has degrees of freedom: the map is
one-to-one, and `foreground_logits` is its inverse.

Everywhere background is class 0 and the objects are classes 1..K, unless an argument says otherwise.

Departures from the authors' package

* `ExpectedNonDistinctiveness` leaves out the pixels of `ignore_index`, keeps no graph and refuses K = 1,
  where theirs divides by zero.
* The losses are our own: the closed form below is equal to `cross_entropy` of the K+1 logits.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE
from course_lib.losses import Objective, constant_answer_loss, counting_weights, one_hot


class ImplicitBackground(nn.Module):
    """K logits of objects -> K + 1 logits, background first. It has no parameters.

    x (N, K, ...) -> (N, 1 + K, ...) along `dim`: usable after any network, `nn.Sequential(network,
    ImplicitBackground())`. Put it after the upsampling, as the paper does: the other order makes the
    background's logit lower or equal everywhere, because logsumexp is convex (Jensen's inequality).
    """

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        background = -torch.logsumexp(x, self.dim, keepdim=True)
        return torch.cat([background, x], self.dim)


class OutputOf(nn.Module):
    """One output of a network that answers with a dict, as torchvision's segmentation networks do.

    images (N, 3, H, W) -> `network(images)[key]`, for torchvision (N, classes, H, W) at the images' size, so
    that `nn.Sequential(OutputOf(network), ImplicitBackground())` comes after the upsampling.
    """

    def __init__(self, network: nn.Module, key: str = "out"):
        super().__init__()
        self.network, self.key = network, key

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[self.key]


def background_probability(x: Tensor, dim: int = 1) -> Tensor:
    """Return sigmoid(-2 logsumexp(x)) of object logits x (N, K, ...): (N, ...), values 0 to 1."""
    return torch.sigmoid(-2 * torch.logsumexp(x, dim))


def background_wins(x: Tensor, dim: int = 1) -> Tensor:
    """Return where the arg-max is background, max(x) + logsumexp(x) < 0: (N, K, ...) -> (N, ...) bool.

    That all logits are negative is necessary, not sufficient: K equal ones must lie below -log(K) / 2.
    """
    return x.amax(dim) + torch.logsumexp(x, dim) < 0


def foreground_logits(probabilities: Tensor, dim: int = 1) -> Tensor:
    """Return the inverse map: probabilities (N, 1 + K, ...), background first, all above 0 -> x (N, K, ...).

    x_c = log(p_c / (1 - p_0)) + 1/2 log((1 - p_0) / p_0), where 1 - p_0 is the sum of the others.
    """
    background = probabilities.narrow(dim, 0, 1)
    objects = probabilities.narrow(dim, 1, probabilities.shape[dim] - 1)
    any_object = objects.sum(dim, keepdim=True)
    return torch.log(objects / any_object) + 0.5 * torch.log(any_object / background)


def bias_for_prior(num_objects: int, background: float = 0.5) -> float:
    """Return the bias b of all K last-layer logits at which p_background is `background` where features are 0.

    sigmoid(-2 (b + log K)) = background; without a bias p_background starts at 1 / (1 + K^2).

    Raises:
        ValueError: Unless 0 < background < 1.
    """
    if not 0 < background < 1:
        raise ValueError(f"the background's share is between 0 and 1, not {background}")
    odds = torch.tensor(background / (1 - background), dtype=torch.float64)
    return float(-0.5 * odds.log() - torch.tensor(num_objects, dtype=torch.float64).log())


class _PixelLoss(torch.autograd.Function):
    """The cross-entropy of each pixel, with the gradient in closed form. See the function below."""

    @staticmethod
    def forward(ctx, x: Tensor, labels: Tensor) -> Tensor:
        total = torch.logsumexp(x, 1)  # L, (N, H, W)
        object_index = (labels - 1).clamp(min=0)[:, None]
        chosen = x.gather(1, object_index)[:, 0]
        is_object = labels > 0
        ctx.save_for_backward(x, total, object_index, is_object)
        return functional.softplus(-2 * total) + torch.where(is_object, total - chosen, 2 * total)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, total, object_index, is_object = ctx.saved_tensors
        background = torch.sigmoid(-2 * total)
        # background: 2 (1 - p_0) s_k; class c: (1 - 2 p_0) s_k - [k = c], with s = softmax(x)
        factor = torch.where(is_object, 1 - 2 * background, 2 - 2 * background) * gradient
        result = (x - total[:, None]).exp_().mul_(factor[:, None])
        result.scatter_add_(1, object_index, torch.where(is_object, -gradient, 0.0)[:, None])
        return result, None


def implicit_background_cross_entropy(
    x: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, ignore_index: int = IGNORE
) -> Tensor:
    """Return the mean cross-entropy of `ImplicitBackground()(x)` over the counted pixels, without building it.

    With L = logsumexp(x): softplus(-2 L) + 2 L for background, softplus(-2 L) + L - x_c for class c (object or
    not, and then which). Finite and exact for logits of +-1e4. Where no pixel counts the loss is 0. It can be
    differentiated once.

    Args:
        x: (N, K, H, W), the logits of the objects.
        labels: (N, H, W) int64: 0 background, 1..K objects, `ignore_index` not counted.
        class_weights: (1 + K,), factor of each class; the mean is then the weighted mean, as in torch.
        ignore_index: Label of the pixels that do not count.

    Raises:
        ValueError: For shapes that do not fit and labels that are no class.
    """
    if labels.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"logits {tuple(x.shape)} go with labels {(x.shape[0], *x.shape[2:])}, not {tuple(labels.shape)}"
        )
    if labels.is_floating_point():
        raise ValueError(f"labels are whole numbers, not {labels.dtype}")
    labels = labels.long()
    counted = labels != ignore_index
    known = labels.where(counted, 0)
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) <= x.shape[1]:
        raise ValueError(
            f"labels are 0 (background) to {x.shape[1]} or {ignore_index}, "
            f"but here from {int(known.min())} to {int(known.max())}"
        )
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    per_pixel = _PixelLoss.apply(x, known)
    weights = counted.to(x.dtype) if class_weights is None else class_weights[known] * counted
    total = weights.sum()
    return (per_pixel * weights).sum() / torch.where(total > 0, total, 1)


def scribe_loss(x: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """Return SCrIBE: a sigmoid and a binary cross-entropy for each of the 1 + K logits of implicit background.

    x (N, K, H, W), labels (N, H, W) as above -> scalar, the mean over the counted pixels of the sum over the
    classes. Source: Lehman, Temel, AlRegib, ICIP 2020, arXiv 2009.00817.

    Departure: their code makes a one-hot target of every label and so turns pixels of `ignore_index` into
    background; here they do not count.
    """
    logits = ImplicitBackground()(x.float())
    counted = labels != ignore_index
    target = one_hot(labels, logits.shape[1], ignore_index)
    per_class = functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return (per_class.sum(1) * counted).sum() / counted.sum().clamp(min=1)


def implicit_objective(*, scribe: bool = False) -> Objective:
    """Return the objective for a network that ends in `ImplicitBackground`: cross-entropy, or SCrIBE's sum of sigmoids."""
    loss = scribe_loss if scribe else implicit_background_cross_entropy

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return loss(model(images)[:, 1:], labels)  # the background's logit follows from the others

    objective.weight = lambda labels: counting_weights(labels).sum()
    if not scribe:  # the map from logits to distributions is one-to-one: the best constant is the same
        objective.of_constant_answer = constant_answer_loss
    return objective


class ExpectedNonDistinctiveness:
    """END: how far a network is at once sure of an object and sure of background. Low is good.

    Each pixel has, from its logits v of K objects and background::

        object confidence      (max softmax(v_objects) - 1/K) / (1 - 1/K), 0 to 1
        background confidence  mode 1: softmax of all K + 1 logits at the background
                               mode 2: sigmoid(v_background - max v_objects)

    and END is the mean of their product over all pixels seen. Mode 2 is never below mode 1. Values of
    different K, or of different modes, cannot be compared.

    `metric(logits, labels)` adds a batch and returns END so far: logits (N, 1 + K, H, W), with the background
    at `background_index`; labels (N, H, W) decide only which pixels are left out (`ignore_index`).

    Raises:
        ValueError: For K < 2: the best of one is always sure.
    """

    def __init__(self, mode: Literal[1, 2] = 1, *, background_index: int = 0, ignore_index: int = IGNORE):
        if mode not in (1, 2):
            raise ValueError(f"END has mode 1 or 2, not {mode!r}")
        self.mode, self.background_index, self.ignore_index = mode, background_index, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget every pixel seen."""
        self.total = torch.zeros((), dtype=torch.float64)
        self.pixels = torch.zeros((), dtype=torch.int64)

    def compute(self) -> Tensor:
        """Return END over all pixels since the last reset, a scalar; nan where there was none."""
        return self.total / self.pixels

    @torch.no_grad()
    def pixel_map(self, logits: Tensor) -> Tensor:
        """Return the product of the two confidences at each pixel: (N, 1 + K, ...) -> (N, ...), values 0 to 1."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        objects = logits.shape[1] - 1
        if objects < 2:
            raise ValueError(
                f"END needs at least two classes of objects, not {objects}: with one, the share of the "
                "best object is always 1"
            )
        if not -objects - 1 <= self.background_index <= objects:
            raise ValueError(f"background_index {self.background_index} is none of {objects + 1} logits")
        background_index = self.background_index % (objects + 1)
        background = logits[:, background_index]
        others = torch.cat([logits[:, :background_index], logits[:, background_index + 1 :]], 1)
        best = others.amax(1)
        share = torch.exp(best - torch.logsumexp(others, 1))  # of the best object among the objects
        sure_of_object = (share - 1 / objects) / (1 - 1 / objects)
        if self.mode == 1:
            sure_of_background = torch.exp(background - torch.logsumexp(logits, 1))
        else:
            sure_of_background = torch.sigmoid(background - best)
        return sure_of_object * sure_of_background

    def __call__(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        values = self.pixel_map(logits)
        if labels is not None:
            if labels.shape != values.shape:
                raise ValueError(f"logits of {tuple(values.shape)} pixels, labels of {tuple(labels.shape)}")
            values = values[labels != self.ignore_index]
        self.total = self.total + values.sum(dtype=torch.float64).cpu()
        self.pixels = self.pixels + values.numel()
        return self.compute()
