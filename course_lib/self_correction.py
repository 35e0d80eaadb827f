"""Self-correcting networks: boxes where masks are missing, and a network that corrects what they suggest.

M. S. Ibrahim, A. Vahdat, M. Ranjbar, W. G. Macready, "Semi-Supervised Semantic Image Segmentation with
Self-correcting Networks", CVPR 2020, arXiv 1811.07073. Of the images some (F) have masks and boxes, the
others (W) only boxes. An *ancillary* network, which sees the boxes, learns on F and gives logits l_anc for
W. The *primary* network, which sees images alone, learns from F's masks and from soft labels q on W, in
which l_anc is mixed with its own logits l while it trains::

    none           q = softmax(l_anc)
    linear         q = softmax((l + alpha l_anc) / (1 + alpha)), alpha falling from 30 to 0.5
    convolutional  q = softmax of two 3x3 convolutions over both, learnt on F
    EM-fixed       the arg-max of l, with a bias for the classes whose box is there (no ancillary network)

One rule holds for all: a target is a constant. No gradient passes through q into the primary network, the
correction or the ancillary network.

Departures from the paper, and what it leaves open

* The ancillary network's are in `course_lib.models.ancillary`.
* Batches are half F and half W, whatever their sizes: an image of F counts `|W| / |F|` times as much as in the
  talk's sum over all images. Within a batch the loss is one mean over the counted pixels.
* Class weights, which the paper has none of, are possible: on the loss of the primary network alone, for masks
  and soft labels alike. Soft labels are meant without them, so that no class is weighted twice: the
  ancillary network and the correction learn unweighted, and linear correction and EM-fixed take log w off the
  logits of a primary network that learns with weights w. The convolutional correction sees these as they are.
* What the correction learns on F sends no gradient into the primary network.
* The correction has 128 maps between its convolutions and a ReLU, as a re-implementation has them; it learns
  in the stages that `course_lib.experiments.tasks.self_correction` describes.
* The biases of EM-fixed are our own; the paper that they come from (Papandreou et al., ICCV 2015) uses
  other networks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.boxes import box_batch
from course_lib.data.sample import IGNORE, SegmentationDataset, SoftSample
from course_lib.data.splits import Subset
from course_lib.data.transforms import for_any_device, to_batch
from course_lib.losses import counting_weights, one_hot
from course_lib.metrics import MaskQuality
from course_lib.models.ancillary import Ancillary, ancillary_logits
from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.progress import progress_bar

METHODS = ("none", "linear", "convolutional", "em_fixed")
# -- corrections


def linear_correction(logits: Tensor, ancillary_logits: Tensor, alpha: float) -> Tensor:
    """Return (l + alpha l_anc) / (1 + alpha): the logits of the q that minimises KL(q || p) + alpha KL(q || p_anc).

    That q is the normalised geometric mean (p p_anc^alpha)^(1 / (1 + alpha)).

    Raises:
        ValueError: For an alpha below 0 and for logits of different shapes.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha is 0 or more, not {alpha}")
    _require_same_shape(logits, ancillary_logits)
    return (logits + alpha * ancillary_logits) / (1 + alpha)


def alpha_at(
    step: int,
    steps: int,
    *,
    start: float = 30.0,
    end: float = 0.5,
    shape: Literal["exponential", "linear"] = "exponential",
) -> float:
    """Return alpha in step `step` (from 0) of `steps`.

    Args:
        step: Of the training, from 0.
        steps: Of the whole training.
        start: alpha in the first step, above 0.
        end: alpha in the last step, above 0.
        shape: "exponential": the same factor every step; "linear": the same difference.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is none of 0 to {steps - 1}")
    if not (start > 0 and end > 0):
        raise ValueError(f"alpha runs from {start} to {end}, but both must be above 0")
    done = step / max(steps - 1, 1)
    if shape == "exponential":
        return start * (end / start) ** done
    if shape == "linear":
        return start + (end - start) * done
    raise ValueError(f'shape is "exponential" or "linear", not {shape!r}')


class ConvolutionalCorrection(nn.Module):
    """Two 3x3 convolutions over both logits: (N, C, H, W) twice -> corrected logits (N, C, H, W)."""

    def __init__(self, num_classes: int, width: int = 128):
        super().__init__()
        self.conv1 = nn.Conv2d(2 * num_classes, width, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)

    def forward(self, logits: Tensor, ancillary_logits: Tensor) -> Tensor:
        _require_same_shape(logits, ancillary_logits)
        both = torch.cat([logits, ancillary_logits], dim=1)  # (N, 2C, H, W)
        return self.conv2(self.relu(self.conv1(both)))


def em_fixed_labels(
    logits: Tensor, box_maps: Tensor, *, foreground_bias: float = 3.0, background_bias: float = 1.0, background: int = 0
) -> Tensor:
    """Return the E-step of EM-fixed: hard labels (N, H, W) from the network's own logits (N, C, H, W) and the boxes.

    Each pixel gets the class with the highest logit after `foreground_bias` is added to the classes whose box
    covers it and `background_bias` to the background; a class without a box there is impossible. Only the
    difference of the two biases matters, since the background is possible everywhere.
    """
    _require_same_shape(logits, box_maps)
    if not foreground_bias > background_bias:
        raise ValueError(
            f"the bias of the foreground, {foreground_bias}, must be larger than the background's, {background_bias}"
        )
    possible = box_maps > 0
    biased = logits.detach().float() + foreground_bias
    biased = biased.masked_fill(~possible, -math.inf)
    biased[:, background] = logits[:, background].detach().float() + background_bias
    return biased.argmax(dim=1)


def _require_same_shape(logits: Tensor, other: Tensor) -> None:
    if logits.shape != other.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} cannot be combined with {tuple(other.shape)}: other images or classes"
        )


# -- images of F and W


class Guided:
    """The images of `training` at `indices` with their suggestions, as soft samples (`SoftSample`).

    Args:
        labelled: False for W: the labels are taken away, and 0 on every pixel.
    """

    def __init__(
        self,
        training: SegmentationDataset,
        indices: list[int],
        labelled: bool,
        suggestions: Mapping[int, Tensor] | None,
    ):
        self.subset, self.labelled, self.suggestions = (Subset(training, indices), labelled, suggestions)
        self.classes, self.palette = training.classes, training.palette
        self.background = training.background

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, index: int) -> SoftSample:
        sample = self.subset[index]
        if not self.labelled:
            sample = sample._replace(labels=torch.zeros_like(sample.labels))
        logits = None if self.suggestions is None else self.suggestions[self.subset.indices[index]]
        return SoftSample(*sample, logits, self.labelled)


# -- losses


def self_correction_loss(
    logits: Tensor, labels: Tensor, target: Tensor, labelled: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean over the counted pixels of -log p(y) on F and -sum_y q(y) log p(y) on W (the talk's eq. 5).

    Where no pixel counts the loss is 0.

    Args:
        logits: (N, C, H, W) of the primary network.
        labels: (N, H, W): masks of F; of W any class where a pixel counts. IGNORE does not count in either.
        target: (N, C, H, W), q on W: a constant, whatever it was computed from. It is not used on F.
        labelled: (N,) bool, which images are of F.
        class_weights: (C,), factor of each class, in masks and in q alike (the paper has none); q is
            meant without them. The sum is divided by the number of pixels, not by their weights.
    """
    _require_same_shape(logits, target)
    truth = one_hot(labels, logits.shape[1])
    counted = (labels != IGNORE)[:, None]
    distribution = torch.where(labelled[:, None, None, None], truth, target.detach().float())
    if class_weights is not None:
        distribution = distribution * class_weights.to(logits.device, non_blocking=True)[:, None, None]
    log_p = functional.log_softmax(logits.float(), dim=1)
    return -(distribution * counted * log_p).sum() / counted.sum().clamp(min=1)


@for_any_device
def soft_batch(samples: Sequence[SoftSample]) -> tuple[Tensor, ...]:
    """Return images, labels (N, H, W), ancillary logits (N, C, H, W) and whether labelled (N,): a `collate` for `fit`."""
    images, labels = to_batch(samples)
    logits = torch.stack([sample.logits for sample in samples])
    return images, labels, logits, torch.tensor([sample.labelled for sample in samples])


@for_any_device
def boxed_batch(samples: Sequence[SoftSample], num_classes: int, background: int = 0) -> tuple[Tensor, ...]:
    """Return what `soft_batch` does, with box maps in place of the ancillary logits, for EM-fixed."""
    images, labels, maps = box_batch(samples, num_classes, background)
    return images, labels, maps, torch.tensor([sample.labelled for sample in samples])


class AncillaryObjective:
    """The ancillary network's cross-entropy on F, on batches of `box_batch`; an objective of `fit`."""

    def weight(self, labels: Tensor) -> Tensor:
        return counting_weights(labels).sum()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, box_maps: Tensor) -> Tensor:
        logits = model(images, box_maps)
        loss = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")
        return loss / (labels != IGNORE).sum().clamp(min=1)


class PrimaryWithCorrection(nn.Module):
    """The primary network and the convolutional correction, trained together; alone it is the primary's.

    `forward(images)` gives the primary's logits; `forward(images, ancillary_logits)` these and the corrected
    ones, which send no gradient back into the primary or the ancillary network.
    """

    def __init__(self, primary: nn.Module, correction: ConvolutionalCorrection):
        super().__init__()
        self.primary, self.correction = primary, correction

    def forward(self, images: Tensor, ancillary_logits: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.primary(images)
        if ancillary_logits is None:
            return logits
        return logits, self.correction(logits.detach(), ancillary_logits.detach().to(logits.dtype))


class PrimaryObjective:
    """The loss of the primary network on batches of F and W, by method; an objective of `fit`.

    none, linear, convolutional  take the batches of `soft_batch`, EM-fixed those of `boxed_batch`;
                                 convolutional trains a `PrimaryWithCorrection`, the others the network itself

    For convolutional the loss has the correction's cross-entropy on F, unweighted, beside that of the primary.

    Args:
        steps: Of the training, over which alpha falls.
        alpha_start: Of linear, as `alpha_end` and `alpha_shape`: see `alpha_at`.
        foreground_bias: Of EM-fixed, as `background_bias`: see `em_fixed_labels`.
        class_weights: (C,), of the primary network's loss, see `self_correction_loss`.
    """

    def __init__(
        self,
        method: str,
        *,
        steps: int = 1,
        alpha_start: float = 30.0,
        alpha_end: float = 0.5,
        alpha_shape: str = "exponential",
        foreground_bias: float = 3.0,
        background_bias: float = 1.0,
        background: int = 0,
        class_weights: Tensor | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
        self.method, self.steps, self.background = method, steps, background
        self.class_weights = class_weights
        self.schedule = {"start": alpha_start, "end": alpha_end, "shape": alpha_shape}
        self.biases = {"foreground_bias": foreground_bias, "background_bias": background_bias}
        self.alpha = self.schedule["start"]
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Set the step of the next batch, from which alpha follows, also in a run that was resumed."""
        if self.method == "linear":
            self.alpha = alpha_at(step, self.steps, **self.schedule)

    def weight(self, labels: Tensor) -> Tensor:
        return counting_weights(labels).sum()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, guide: Tensor, labelled: Tensor) -> Tensor:
        loss = partial(self_correction_loss, class_weights=self.class_weights)
        if self.method != "convolutional":
            logits = model(images)
            return loss(logits, labels, self.target(logits, guide), labelled)
        logits, corrected = model(images, guide)
        target = corrected.detach().float().softmax(1)
        of_f = labels.masked_fill(~labelled[:, None, None], IGNORE)
        share = (of_f != IGNORE).sum() / (labels != IGNORE).sum().clamp(min=1)
        everywhere = torch.ones_like(labelled)
        of_correction = share * self_correction_loss(corrected, of_f, corrected, everywhere)
        return loss(logits, labels, target, labelled) + of_correction

    @torch.no_grad()
    def answers(self, model: nn.Module, images: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Return the primary's logits and the q of a batch, both (N, C, H, W), as the current step has them."""
        if self.method == "convolutional":
            logits, corrected = model(images, guide)
            return logits, corrected.float().softmax(1)
        logits = model(images)
        return logits, self.target(logits, guide)

    @torch.no_grad()
    def target(self, logits: Tensor, guide: Tensor) -> Tensor:
        """Return q (N, C, H, W) of none, linear and EM-fixed, from the primary's logits and the ancillary's or box maps."""
        guide = guide.float()
        if self.method == "none":
            return guide.softmax(1)
        logits = self.without_weights(logits.float())
        if self.method == "linear":
            return linear_correction(logits, guide, self.alpha).softmax(1)
        chosen = em_fixed_labels(logits, guide, background=self.background, **self.biases)
        return one_hot(chosen, logits.shape[1])

    def without_weights(self, logits: Tensor) -> Tensor:
        """Return the logits (N, C, H, W) without class weights of a network that learns with them.

        Cross-entropy with weights w is least where p is proportional to w times the classes' frequencies. A
        class of weight 0 keeps its logit: nothing is known of it.
        """
        if self.class_weights is None:
            return logits
        weights = self.class_weights.to(logits.device, non_blocking=True)
        return logits - weights.where(weights > 0, 1.0).log()[:, None, None]


class HiddenMasks:
    """What masks of W that no training sees say of suggestion, q and primary network: a `measure` of `train.Checks`.

    The networks answer as in use (batch norm in evaluation mode), q with the alpha of the step.

    Args:
        objective: Of the training, as `collate`.
        pictures: Of W, with their masks: `Guided(..., labelled=True)`.
    """

    def __init__(self, objective: PrimaryObjective, pictures: Guided, collate: Callable, batch_size: int = 8):
        self.objective, self.pictures, self.collate, self.batch_size = objective, pictures, collate, batch_size

    def __call__(self, model: nn.Module) -> dict[str, float]:  # "target_mean_iou" and so on
        judged = self.judge(model)
        return {f"{who}_{what}": value for who, one in judged.items() for what, value in one.summary().items()}

    @torch.no_grad()
    def judge(self, model: nn.Module) -> dict[str, MaskQuality]:
        """Return how good "suggestion", "target" (q) and "primary" are; EM-fixed has no suggestion."""
        device = next(model.parameters()).device
        who = ("target", "primary") if self.objective.method == "em_fixed" else ("suggestion", "target", "primary")
        found = {name: MaskQuality(len(self.pictures.classes)) for name in who}
        for first in range(0, len(self.pictures), self.batch_size):
            samples = [self.pictures[index] for index in range(len(self.pictures))[first : first + self.batch_size]]
            images, _, guide, _ = self.collate(samples)
            with evaluating(model):
                logits, target = self.objective.answers(model, images.to(device), guide.to(device))
            maps = {"suggestion": guide, "target": target, "primary": logits}
            for name, quality in found.items():
                for scores, sample in zip(maps[name].cpu(), samples, strict=True):
                    truth = sample.labels.as_subclass(Tensor)
                    quality.update(scores.argmax(0), truth, sample.boxes, sample.box_labels)
        return found


# -- what the ancillary network repairs


@torch.no_grad()
def label_repair(
    ancillary: Ancillary, dataset: SegmentationDataset, *, show_progress: bool = True
) -> tuple[MaskQuality, MaskQuality]:
    """Return how good faulty labels are, and how good the ancillary network's are, against the clean ones.

    Images without a box are not counted in either.

    Args:
        dataset: Images with `clean_labels(index)`, such as `Objects(label_noise=0.5)`.
    """
    if not hasattr(dataset, "clean_labels"):
        raise ValueError("this set has no clean_labels: use Objects(label_noise=...)")
    background = dataset.background or 0
    noisy, repaired = (MaskQuality(len(dataset.classes)) for _ in range(2))
    for index in progress_bar(range(len(dataset)), "repairing", show=show_progress, delay=2):
        sample = dataset[index]
        if not len(sample.boxes):
            continue
        truth = dataset.clean_labels(index).as_subclass(Tensor), sample.boxes, sample.box_labels
        repaired.update(ancillary_logits(ancillary, sample, background).argmax(0), *truth)
        given = sample.labels.as_subclass(Tensor)
        noisy.update(given.where(given != IGNORE, background), *truth)
    return noisy, repaired
