"""Losses and training of the CVAE, whether it uses its code, and whether its uncertainty knows its errors.

P. Zhuang, Y. Sekikawa, K. Hara, H. Saito, "Learning an Optimisable Semantic Segmentation Map with Image
Conditioned Variational Autoencoder": equations 2 to 5. The network is `course_lib.models.cvae`; moving its code
until it agrees with what is known of an image is `course_lib.latent`.

The loss of a batch, in nats for each labelled pixel::

    ( - sum over pixels of log p(label)  +  kl_weight * sum over images of KL ) / labelled pixels

With kl_weight 1 its negative is the evidence lower bound, divided by the pixels. Both sums run over whole
pictures: four times the pixels weigh four times against the same code. The paper's equation 4 is a sum over
pixels; whether its W_k = 8 belongs to that sum or to a mean is not given.

The trap is posterior collapse: the encoder's Gaussian becomes the prior's, KL goes to 0, and the decoder, which
sees the image anyway, ignores the code. `code_use` shows it, and `fit(..., checks=Checks(images,
measure=lambda model: code_use(model, images)))` shows it at every evaluation. The table
`cvae_sweep` tries remedies one by one: a smaller weight of KL, its warm-up, free nats, and dropout of the
image's maps on their way to the decoder.

Departures from the paper

* Equation 2 lacks a factor 1/2 and calls sigma a variance; here KL = 1/2 sum(exp(v) + mean^2 - 1 - v) for the
  log-variance v. The printed sum is twice that, so W_k = 8 is a kl_weight of 16.
* Equation 4 is a log-likelihood, called a loss; here its negative is minimised.
* The number T of noise samples is not given: 10 by default.
* Warm-up of the weight and free nats are not in the paper.
"""

import math

import torch
from torch import Tensor, nn

from course_lib.calibration import auroc
from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.transforms import to_batch
from course_lib.losses import counting_weights, strange_labels
from course_lib.metrics import ConfusionMatrix
from course_lib.models.cvae import CVAE
from course_lib.plumbing.modes import in_evaluation
from course_lib.plumbing.progress import progress_bar


def attenuated_log_likelihood(
    logits: Tensor, uncertainty: Tensor, labels: Tensor, *, samples: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    """Return log (1/T) sum_t softmax(logits + b * noise_t)[label], (N, H, W), in nats; 0 for ignored pixels.

    A pixel that is wrong costs less where b is large, a pixel that is right costs more. Computed by log-sum-
    exp, finite for any logits. Source: equations 3 and 4, after Kendall and Gal, NIPS 2017.

    Args:
        logits: (N, C, H, W).
        uncertainty: b, (N, 1, H, W) or (N, C, H, W), at least 0: the standard deviation of Gaussian noise.
        labels: (N, H, W) int64.
        samples: T; the noise is drawn for each sample, class and pixel: the same for all classes would change
            no softmax.
        generator: Source of the noise; torch's own by default.

    Raises:
        ValueError: For shapes that do not fit, fewer than one sample, and on a CPU for a label without a channel.
    """
    if samples < 1:
        raise ValueError(f"samples is at least 1, not {samples}")
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"logits {tuple(logits.shape)} do not go with labels {tuple(labels.shape)}")
    logits, uncertainty = logits.float(), uncertainty.float()
    counted = labels != IGNORE
    index = labels.where(counted, 0)[None, :, None].expand(samples, -1, -1, -1, -1)
    noise = torch.randn((samples, *logits.shape), generator=generator, device=logits.device)
    noisy = logits + uncertainty * noise  # (T, N, C, H, W)
    try:
        chosen = noisy.gather(2, index)[:, :, 0] - noisy.logsumexp(2)  # (T, N, H, W)
    except RuntimeError:
        raise strange_labels(labels, logits.shape[1], IGNORE) from None
    return (chosen.logsumexp(0) - math.log(samples)) * counted


def kl_divergence(mean: Tensor, log_variance: Tensor, *, free_nats: float = 0.0) -> Tensor:
    """Return the KL of N(mean, exp(log_variance)) to N(0, I) in nats, summed over the code, mean over the images.

    Args:
        mean: (N, code).
        free_nats: Each number of the code counts at least this much, so that nothing is gained by saying less
            with it (free bits: Kingma et al., NIPS 2016, section 2.3).
    """
    each = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)  # (N, code)
    return each.mean(0).clamp(min=free_nats).sum()


def kl_weight(step: int, *, weight: float, warmup_steps: int = 0) -> float:
    """Return the weight of KL at `step` (from 0): it rises linearly from 0 over `warmup_steps` and then stays."""
    return weight * min(1.0, step / warmup_steps) if warmup_steps else weight


class CVAEObjective:
    """The loss of a CVAE as `course_lib.train.fit` takes it; see the first lines of this file.

    weight        of KL; 1 is the evidence lower bound

    `fit` calls `at_step` before each batch, so that a run that is resumed goes on with the right weight.

    Args:
        warmup_steps: Over which it rises from 0.
        samples: T of `attenuated_log_likelihood`.
        free_nats: See `kl_divergence`.
    """

    def __init__(self, *, kl_weight: float = 1.0, warmup_steps: int = 0, samples: int = 10, free_nats: float = 0.0):
        self.kl_weight, self.warmup_steps = kl_weight, warmup_steps
        self.samples, self.free_nats = samples, free_nats
        self.step = 0

    def at_step(self, step: int) -> None:
        """Set the step (from 0) of the next batch, from which the weight of KL follows."""
        self.step = step

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        found = model.reconstruct(images, labels)
        likelihood = attenuated_log_likelihood(found.logits, found.uncertainty, labels, samples=self.samples)
        kl = kl_divergence(found.mean, found.log_variance, free_nats=self.free_nats)
        weight = kl_weight(self.step, weight=self.kl_weight, warmup_steps=self.warmup_steps)
        return (weight * len(images) * kl - likelihood.sum()) / self.weight(labels).clamp(min=1)

    def weight(self, labels: Tensor) -> Tensor:
        """Return what the loss divides by: the labelled pixels."""
        return counting_weights(labels).sum()


@torch.no_grad()
@in_evaluation
def code_use(
    model: CVAE, dataset: SegmentationDataset, *, batch_size: int = 8, seed: int = 0, show_progress: bool = True
) -> dict[str, float]:
    """Return what the decoder makes of its code: pixel accuracies over `dataset`, 0 to 1, and KL in nats.

    Returns:
        kl: Mean over the images.
        encoded_accuracy: With the mean that the encoder gives for the true labels.
        zero_accuracy: With the zero code.
        random_accuracy: With codes from N(0, I), drawn from `seed`.
        code_gain: Encoded - zero: near 0 where the posterior has collapsed.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    kinds = ("encoded", "zero", "random")
    matrices = {kind: ConfusionMatrix(model.num_classes) for kind in kinds}
    kl = 0.0
    for first in progress_bar(
        range(0, len(dataset), batch_size), "with and without the code", show=show_progress, delay=2
    ):
        last = min(first + batch_size, len(dataset))
        images, labels = to_batch([dataset[index] for index in range(first, last)])
        features = model.condition(images.to(device))
        mean, log_variance = model.encode(labels.to(device), features)
        kl += float(kl_divergence(mean, log_variance)) * len(labels)
        random = torch.randn(mean.shape, generator=generator).to(device)
        for kind, code in zip(kinds, (mean, torch.zeros_like(mean), random), strict=True):
            matrices[kind].update(model.decode(code, features).float().cpu(), labels)
    found = {f"{kind}_accuracy": matrices[kind].overall_accuracy() for kind in kinds}
    gain = found["encoded_accuracy"] - found["zero_accuracy"]
    return {"kl": kl / len(dataset), **found, "code_gain": gain}


@torch.no_grad()
@in_evaluation
def uncertainty_use(model: CVAE, dataset: SegmentationDataset, *, show_progress: bool = True) -> dict[str, float]:
    """Return whether uncertainty is larger where the network errs: AUROC over all labelled pixels, 0.5 is guessing.

    Returns:
        {b, entropy}_auroc_{zero, encoded}: b, or the entropy of that map's softmax, against the errors of the zero
        code's map, and against those of the encoded code's, with which b has learnt.
    """
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {}
    for index in progress_bar(range(len(dataset)), "uncertainty", show=show_progress, delay=2):
        images, labels = to_batch([dataset[index]])
        counted, features = labels != IGNORE, model.condition(images.to(device))
        code = model.encode(labels.to(device), features)[0]
        spread = model.uncertainty(features)[:, 0].cpu()
        for kind, one in (("encoded", code), ("zero", torch.zeros_like(code))):
            logits = model.decode(one, features).float().cpu()
            log_p = logits.log_softmax(1)
            seen = {"b": spread, "entropy": -(log_p.exp() * log_p).sum(1), "wrong": logits.argmax(1) != labels}
            for name, values in seen.items():
                found.setdefault(f"{name}_{kind}", []).append(values[counted])
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    return {
        f"{score}_auroc_{kind}": auroc(whole[f"{score}_{kind}"], whole[f"wrong_{kind}"])
        for score in ("b", "entropy")
        for kind in ("zero", "encoded")
    }
