"""The training loop: one for every model of the course, on one core or on many machines.

Image, order and augmentation of every training step follow from (seed, step) alone (`data.stream`), so a run
that was killed and resumed takes the same steps as one that was not: on the CPU it ends with the same bits. On
several devices (`plumbing.devices`) each has its share of a step's images, and the gradient is that of all.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from course_lib.data.on_device import made_ahead
from course_lib.data.sample import IGNORE, Sample, SegmentationDataset
from course_lib.data.stream import number_from, one_size, seed_all, training_batches
from course_lib.data.transforms import batch_on, normalise, to_batch
from course_lib.losses import Objective, pixel_objective
from course_lib.metrics import ONE_LOGIT, ConfusionMatrix
from course_lib.plumbing.auto_precision import settle
from course_lib.plumbing.checkpoint import CheckpointError, load_training, require_finite, save_training
from course_lib.plumbing.devices import (
    Losses,
    first_decides,
    make_fabric,
    on_any_device,
    set_up,
    share_of_loss,
    tried_convolutions,
)
from course_lib.plumbing.fabric import Fabric
from course_lib.plumbing.graphs import PAYS_AFTER, replaying
from course_lib.plumbing.modes import evaluating
from course_lib.plumbing.progress import progress_bar
from course_lib.plumbing.rates import learning_groups
from course_lib.plumbing.reuse import made_once

log = logging.getLogger(__name__)

NOTHING_LEARNT = (
    "the network has learnt nothing from its images: the mean of its last %d losses is %.4f, that of answering every "
    "pixel with the class frequencies %.4f. Try another learning_rate, more steps or another start, and look at a batch."
)


class TrainingDiverged(ArithmeticError):
    """The loss or a weight is no longer finite. The message names the step and the last good checkpoint."""


class Interrupted(Exception):
    """A training ended before its last step because it was asked to; its checkpoint goes on from `step`."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclass
class History:
    """What happened during a training, one entry a step (losses, learning_rates) or an evaluation.

    Attributes:
        losses: Loss of each step's whole batch.
        learning_rates: The rate each step was made with.
        evaluations: Metrics of `ConfusionMatrix.summary`, and of `Checks.measure`, with their "step".
        seconds: Time of training and evaluating, all sittings together.
        precision: Fabric's name, and how many layers compute in float32 because they are wrong in it or slow.
    """

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    precision: str = ""


@dataclass(frozen=True)
class Checks:
    """What is measured while a network trains.

    Attributes:
        validation: Images to evaluate on, after the last step too; None: only `measure` is asked.
        every: Steps between two evaluations; 0 leaves only the last one.
        measure: More numbers for each evaluation, such as whether a CVAE uses its code; called on every device.
    """

    validation: SegmentationDataset | None = None
    every: int = 0
    measure: Callable[[nn.Module], dict[str, float]] | None = None

    def due(self, done: int, steps: int) -> bool:
        """Return whether to evaluate after `done` of `steps` steps."""
        asked = self.validation is not None or self.measure is not None
        return asked and (done == steps or (self.every > 0 and done % self.every == 0))

    def after(self, done: int, steps: int, model: nn.Module, history: History, **options: object) -> None:
        """Evaluate `model` if that is due after `done` of `steps` steps. `options` go to `evaluate`."""
        if not self.due(done, steps):
            return
        with options["fabric"].autocast():
            found = {"step": done}
            if self.validation is not None:
                found |= evaluate(model, self.validation, show_progress=False, **options).summary()
            if self.measure is not None:
                found |= self.measure(model)
        model.train()
        history.evaluations.append(found)


@dataclass(frozen=True)
class Checkpoints:
    """Where, how often and under which name the state of a training is kept.

    Attributes:
        path: File to resume from and to write; None keeps nothing.
        every: Steps between two writes: what a run that is killed loses at most.
        belongs_to: The run's name. The checkpoint of a run with another name is refused.
    """

    path: Path | None = None
    every: int = 100
    belongs_to: str = ""

    def resume(self, fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> int:
        """Restore model, optimiser and history where there is a checkpoint; return the step to go on with."""
        if self.path is None:
            return 0
        load = partial(load_training, self.path, model, optimizer, self.belongs_to)
        if (progress := first_decides(fabric, load)) is None:
            return 0
        if not fabric.is_global_zero and load() != progress:
            raise CheckpointError(f"{self.path} is not the same on every machine")
        vars(history).update(progress["history"])
        return progress["step"]

    def keep(
        self, done: int, fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, history: History
    ) -> None:
        """Write the state after `done` steps, from the first device; raise TrainingDiverged if it is not finite."""

        def write() -> None:
            if self.path is None:
                require_finite(model)
            else:
                progress = {"step": done, "belongs_to": self.belongs_to, "history": asdict(history)}
                save_training(self.path, model, optimizer, progress)

        try:
            first_decides(fabric, write)
        except FloatingPointError as error:
            raise self.diverged(str(error), done) from error

    def due(self, done: int, steps: int) -> bool:
        """Return whether the state after `done` of `steps` steps is kept."""
        return done == steps or done % self.every == 0

    def diverged(self, what: str, step: int) -> TrainingDiverged:
        """Return the error for a training that is not finite at `step` (from 1)."""
        kept = "no checkpoint was written"
        if self.path is not None and self.path.exists():
            kept = f"the last good checkpoint is {self.path}"
        what = f"training diverged at step {step}: {what}; {kept}"
        return TrainingDiverged(f"{what}. Try a lower learning_rate or a longer warm-up.")


class ConstantAnswer:
    """Notices a training that ends where it could without its images: at one answer for every pixel.

    The mean of the last losses (a tenth of the steps, 10 to 100) is compared with the least one that such an answer
    has on the same batches. Not judged are trainings of less than twice as many steps, and objectives without
    `of_constant_answer`: `boundary_objective`, SCrIBE, those of the CVAE and of self-correction, and one's own.
    """

    def __init__(self, objective: Objective, steps: int):
        self.of = getattr(objective, "of_constant_answer", None)
        self.last = min(max(steps // 10, 10), 100)
        self.first = steps - self.last if self.of and steps >= 2 * self.last else steps
        self.counts: list[Tensor] = []

    def see(self, step: int, labels: Tensor) -> None:
        """Count the classes of a batch, where `step` (from 0) is one of the last."""
        if step >= self.first and not labels.is_floating_point():
            self.counts.append(torch.bincount(labels[labels != IGNORE], minlength=IGNORE))

    def warn(self, losses: list[float], fabric: Fabric) -> None:
        """Log a warning if the last losses are not below that of the constant answer."""
        if len(self.counts) < self.last:  # also after a resumption within the last steps
            return
        counts = fabric.all_reduce(torch.stack(self.counts), reduce_op="sum")
        reached, constant = fmean(losses[-self.last :]), self.of(counts.cpu())
        if reached >= constant and fabric.is_global_zero:
            log.warning(NOTHING_LEARNT, self.last, reached, constant)


@made_once
def fit(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    steps: int,
    batch_size: int = 8,
    optimizer: str = "adamw",
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    warmup_steps: int = 0,
    poly_power: float = 0.9,
    transform: Callable[[Sample], Sample] | None = None,
    collate: Callable[[list[Sample]], tuple[Tensor, ...]] = to_batch,
    objective: Objective | None = None,
    checks: Checks = Checks(),
    checkpoints: Checkpoints = Checkpoints(),
    seed: int = 0,
    fabric: Fabric | None = None,
    workers: int = 0,
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    show_progress: bool = True,
    description: str = "training",
) -> History:
    """Train `model` in place for `steps` steps and return what happened.

    Args:
        model: Network; its weights become channels-last, the fastest memory order of convolutions.
        dataset: Training images. A set with a method `order(generator)` chooses the order of an epoch.
        steps: Batches to train on.
        batch_size: Images a step, over all devices together.
        optimizer: "adamw" (betas 0.9, 0.999) or "sgd" (with `momentum`).
        learning_rate: The highest rate: it rises linearly over `warmup_steps`, then falls to 0 as `schedule` does.
        momentum, weight_decay: Of "sgd"; of either optimiser.
        warmup_steps: Steps over which the rate rises.
        poly_power: Exponent of the fall, DeepLab's "poly" schedule; 0 keeps the rate.
        transform: Changes each image (`data.transforms.train_transform`).
        collate: Makes a batch of samples: images, labels and whatever else `objective` takes.
        objective: Loss of a batch; by default plain cross-entropy over the pixels.
        checks, checkpoints: Evaluations on the way; where the state is kept, to resume from.
        seed: Decides the order of the images, their changes, and dropout.
        fabric: Devices and precision, from `make_fabric`. In bfloat16 every layer is tried first, and one that is
            wrong on this machine computes in float32 (see `History.precision`). On several GPUs batch norm takes
            the statistics of the whole batch; on several CPU processes those of each one's share, so that the
            result differs.
        workers: Processes that load images (0: this one), where these do not lie on a GPU (`training_batches`); the
            result does not depend on it.
        on_step: Called after each step with the number of steps done and the loss; on a GPU for ten steps at once.
        should_stop: Called after each step but the last, on a GPU after each tenth; if it returns True on any device,
            a checkpoint is written and Interrupted is raised on all.
        show_progress, description: Whether a progress bar is drawn, and its text.

    Raises:
        TrainingDiverged: The loss or a weight is not finite; weights are looked at when a checkpoint is due.
        Interrupted: See `should_stop`.
        CheckpointError: The checkpoint is of another run.
        ValueError: An argument is impossible.
    """
    fabric, objective = fabric or make_fabric(), objective or pixel_objective()
    _refuse_the_impossible(dataset, steps, batch_size, checkpoints.every, fabric.world_size)
    on_gpu = fabric.device.type == "cuda"
    plain_optimizer = make_optimizer(optimizer, model, learning_rate, momentum, weight_decay)
    network, stepper = set_up(fabric, model, plain_optimizer)
    history = History()
    start = checkpoints.resume(fabric, model, plain_optimizer, history)
    order = {"transform": transform, "collate": collate, "seed": seed, "workers": workers, "fabric": fabric}
    batches = training_batches(dataset, steps=steps, batch_size=batch_size, start=start, **order)
    constant, losses = ConstantAnswer(objective, steps), Losses(fabric, checkpoints.diverged)
    show_progress = show_progress and fabric.is_global_zero
    bar = progress_bar(range(start, steps), description, total=steps, initial=start, show=show_progress)
    began = time.perf_counter() - history.seconds
    network.train()
    with tried_convolutions(on_gpu and one_size(transform)), replaying(model) as replay:
        for step in bar:
            batch = next(batches)
            images, labels, *others = fabric.to_device(batch)
            images = images.contiguous(memory_format=torch.channels_last)
            rate = learning_rate * schedule(step, steps, warmup_steps, poly_power)
            for group in plain_optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1)
            seed_all(number_from(seed, "step", step, fabric.global_rank), fabric.device)  # dropout
            if hasattr(objective, "at_step"):
                objective.at_step(step)
            if step == start:
                history.precision = settle(fabric, model, objective, (images, labels, *others))
                if batch[0].is_cuda and fabric.world_size == 1 and steps - start >= PAYS_AFTER:
                    replay()
            with fabric.autocast():  # for `forward_with_aux`, which Fabric does not cast by itself
                loss = objective(network, images, labels, *others) * share_of_loss(objective, labels, fabric)
            fabric.backward(loss)
            done = step + 1
            seen = losses.add(loss, done, checks.due(done, steps) or checkpoints.due(done, steps))
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            constant.see(step, labels)
            history.losses += seen.values()
            history.learning_rates.append(rate)
            if seen and done % 5 == 0:
                bar.set_postfix_str(f"loss {fmean(history.losses[-10:]):.3f}", refresh=False)
            checks.after(done, steps, model, history, fabric=fabric, batch_size=batch_size, collate=collate)
            history.seconds = time.perf_counter() - began
            for seen_step, value in seen.items() if on_step else ():
                on_step(seen_step, value)
            stopping = seen and on_any_device(fabric, done < steps and should_stop is not None and should_stop())
            if stopping or checkpoints.due(done, steps):
                checkpoints.keep(done, fabric, model, plain_optimizer, history)
            if stopping:
                raise Interrupted(done)
    constant.warn(history.losses, fabric)
    return history


def _refuse_the_impossible(dataset: SegmentationDataset, steps: int, batch_size: int, every: int, devices: int) -> None:
    if min(steps, batch_size, every) < 1:
        raise ValueError(f"steps, batch_size and every are 1 or more, not {steps}, {batch_size} and {every}")
    if not len(dataset):
        raise ValueError("the training set is empty")
    if batch_size % devices:
        raise ValueError(f"a batch of {batch_size} does not divide over {devices} devices")


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW ("adamw") or SGD ("sgd") over the `learning_groups`, fused: one pass over the weights, not ten."""
    parameters = learning_groups(model)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
    raise ValueError(f'optimizer {name!r} is neither "adamw" nor "sgd"')


def schedule(step: int, steps: int, warmup_steps: int, poly_power: float) -> float:
    """Return the factor on the learning rate at `step` (from 0): linear warm-up, then (1 - t) ** poly_power."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (1 - (step - warmup_steps) / max(steps - warmup_steps, 1)) ** poly_power


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 8,
    collate: Callable[[list[Sample]], tuple[Tensor, ...]] = to_batch,
    show_progress: bool = True,
    fabric: Fabric | None = None,
) -> ConfusionMatrix:
    """Return the confusion matrix of `model` over all of `dataset`, at the resolution of its labels.

    Args:
        model: Network; it keeps its mode.
        dataset: Images and labels. The sizes within a batch must be one; use `batch_size=1` where they differ.
        batch_size: Images at once.
        collate: Makes a batch of samples: images, labels and whatever else the model takes beside images.
        show_progress: Draw a progress bar.
        fabric: Devices, which share the batches out and add their counts; one by default.
    """
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(len(dataset.classes), device=device)
    rank, devices = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    if devices > 1:
        for buffer in model.buffers():  # running statistics: those that a checkpoint keeps
            torch.distributed.broadcast(buffer, src=0)
    starts = range(rank * batch_size, len(dataset), devices * batch_size)
    samples = ([dataset[index] for index in range(at, min(at + batch_size, len(dataset)))] for at in starts)
    batches = (batch_on(device, some, collate) for some in samples)
    if device.type == "cuda":
        batches = made_ahead(batches, device)
    bar = progress_bar(batches, "evaluating", total=len(starts), show=show_progress and rank == 0, delay=2)
    with evaluating(model):
        for images, labels, *others in bar:
            logits = model(images.contiguous(memory_format=torch.channels_last), *others)
            matrix.update(logits, labels)
    if devices > 1:
        fabric.all_reduce(matrix.counts, reduce_op="sum")
    if warning := matrix.one_class(dataset.classes):
        log.warning(warning)
    return matrix


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> Tensor:
    """Return the most likely class of each pixel: image (3, H, W) uint8 -> (H, W) int64. The network keeps its mode.

    Raises:
        ValueError: For an image that is not (3, H, W) uint8, and a network with one logit a pixel.
    """
    if not isinstance(image, Tensor) or image.ndim != 3:
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image)
        raise ValueError(f"predict takes one image, a tensor (3, H, W), not {found}")
    with evaluating(model):
        logits = model(normalise(image)[None].to(next(model.parameters()).device))
    if logits.shape[1] == 1:
        raise ValueError(f"the network gives one logit a pixel{ONE_LOGIT}")
    return logits.argmax(dim=1)[0].cpu()
