"""The training loop: one for every model of the course, on one core or on many machines.

Picture, order and augmentation of every training step follow from (seed, step) alone, so a run that was
killed and resumed takes the same steps as one that was not: on the CPU it ends with the same bits.

On several devices, in a process each (`on_every_device`), a step takes the same pictures as on one: every
device has its share of the batch, and the gradient is that of the whole batch.
"""

import hashlib
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset
from course_lib.data.transforms import normalise, to_batch
from course_lib.implicit_background import implicit_background_cross_entropy, scribe_loss
from course_lib.losses import boundary_weights, connected_regions, counting_weights, cross_entropy
from course_lib.metrics import ConfusionMatrix
from course_lib.plumbing.checkpoint import CheckpointError, load_training, require_finite, save_training
from course_lib.plumbing.machine import best_precision
from course_lib.plumbing.progress import progress_bar
from course_lib.plumbing.reuse import made_once

Objective = Callable[..., Tensor]
"""(model, images (N, 3, H, W), labels (N, H, W)) -> scalar loss; what else a batch holds follows the labels.

On several devices the whole batch's loss is the mean of the devices' losses. An objective that divides by
something else than the number of pictures has a method `weight(labels) -> scalar`, what it divides by, and
the mean is weighted with it. There a model is called once a step, and dropout differs from one device's.
An objective that changes on the way has a method `at_step(step)`, which is told each step, from 0, before its
batch.
"""


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

    seconds          of training and evaluating, all sittings together
    evaluations      metrics of `ConfusionMatrix.summary`, and of `fit`'s `measure`, with their "step"
    """

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def pixel_objective(class_weights: Tensor | None = None, aux_weight: float = 0.0) -> Objective:
    """Cross-entropy over the pixels, the classes weighted by `class_weights` (C,) or equally.

    aux_weight  factor of a second cross-entropy, that of the auxiliary logits of a model which has
                `forward_with_aux`; 0 leaves them out (PSPNet, CVPR 2017: 0.4)
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        weights = None if class_weights is None else class_weights.to(images.device)
        if aux_weight == 0:
            return cross_entropy(model(images), labels, class_weights=weights)
        logits, aux_logits = model.forward_with_aux(images)
        loss = cross_entropy(logits, labels, class_weights=weights)
        return loss + aux_weight * cross_entropy(aux_logits, labels, class_weights=weights)

    def weight(labels: Tensor) -> Tensor:
        weights = None if class_weights is None else class_weights.to(labels.device)
        return counting_weights(labels, weights).sum()

    objective.weight = weight
    return objective


def boundary_objective(class_weights: Tensor | None = None, w0: float = 10.0, sigma: float = 5.0) -> Objective:
    """U-Net's: cross-entropy with the weight w_c + `boundary_weights` of each pixel, which separates objects.

    class_weights  w_c, (C,); every class counts 1 without
    w0, sigma      see `boundary_weights`; the objects are the connected regions of the classes from 1 on,
                   class 0 (membrane, background) lies between them
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        borders = [boundary_weights(connected_regions(one), w0=w0, sigma=sigma) for one in labels.cpu()]
        pixel_weights = 1 + torch.stack(borders).to(images.device)
        if class_weights is not None:
            of_class = class_weights.to(images.device)[labels * (labels != IGNORE)]
            pixel_weights = pixel_weights - 1 + of_class
        return cross_entropy(model(images), labels, pixel_weights=pixel_weights)

    objective.weight = lambda labels: counting_weights(labels).sum()
    return objective


def implicit_objective(*, scribe: bool = False) -> Objective:
    """Cross-entropy, or SCrIBE's sum of sigmoids, for a network that ends in `ImplicitBackground`."""
    loss = scribe_loss if scribe else implicit_background_cross_entropy

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return loss(model(images)[:, 1:], labels)  # the background's logit follows from the others

    objective.weight = lambda labels: counting_weights(labels).sum()
    return objective


def on_every_device(fabric: Fabric, function: Callable, *arguments: object) -> object:
    """Call `function(fabric, *arguments)` on every device of `fabric`; return what the first one returns.

    Several devices have a process each: function, arguments and result must be picklable, and an error of
    one process ends the others.
    """
    return fabric.launch(_call_and_leave, function, arguments)


def _call_and_leave(fabric: Fabric, function: Callable, arguments: tuple) -> object:
    result = function(fabric, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result


def first_decides(fabric: Fabric | None, function: Callable[[], object]) -> object:
    """Call `function` on the first device alone; what it returns or raises, every device does."""
    if fabric is None or fabric.world_size == 1:
        return function()
    result = error = None
    if fabric.is_global_zero:
        try:
            result = function()
        except Exception as caught:
            error = caught
    result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result


def make_fabric(
    precision: str = "auto",
    *,
    devices: int | list[int] = 1,
    num_nodes: int = 1,
    environment: ClusterEnvironment | None = None,
    **options: object,
) -> Fabric:
    """Lightning Fabric on the best device: one GPU where there is one, else the CPU.

    precision    Fabric's name ("32-true", "bf16-mixed"), or "auto": bfloat16 where the hardware has it
    devices      how many on each of `num_nodes` machines, or which GPUs; what is to run on several is
                 called by `on_every_device`
    environment  who starts the processes of several devices: this one unless said otherwise (Slurm does
                 when the run is a job of several tasks)
    options      go to `Fabric`: accelerator, strategy
    """
    accelerator = str(options.pop("accelerator", "cuda" if torch.cuda.is_available() else "cpu"))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each precision
    if precision == "auto":
        precision = best_precision(torch.device(accelerator))
    if environment is None:  # Fabric's own choice warns wherever Slurm is installed
        environment = LightningEnvironment()
    several = num_nodes * (devices if isinstance(devices, int) else len(devices)) > 1
    if several and "strategy" not in options:
        options["strategy"] = DDPStrategy(
            start_method="popen" if environment.creates_processes_externally else "spawn",
            find_unused_parameters=True,  # an auxiliary head may have no part in the loss
        )
    return Fabric(
        accelerator=accelerator,
        precision=precision,
        devices=devices,
        num_nodes=num_nodes,
        plugins=[environment],
        **options,
    )


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
    validation: SegmentationDataset | None = None,
    evaluate_every: int = 0,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    channels_last: bool = True,
    workers: int = 0,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    belongs_to: str = "",
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    show_progress: bool = True,
    description: str = "training",
) -> History:
    """Train `model` in place for `steps` steps and return what happened.

    dataset         training pictures; `transform` (data.transforms.train_transform) changes each one. A set
                    with a method `order(generator)` says itself in which order an epoch takes its pictures
    batch_size      pictures a step, over all devices together
    optimizer       "adamw" (betas 0.9, 0.999) or "sgd" (with `momentum`)
    learning_rate   at its highest; it rises linearly over `warmup_steps` and then falls to 0 as
                    (1 - step/steps) ** `poly_power` (DeepLab's "poly" schedule; 0 keeps it constant)
    collate         makes a batch of samples: images, labels and whatever else `objective` takes
    objective       loss of a batch; plain cross-entropy over the pixels by default
    validation      evaluated every `evaluate_every` steps (0: never) and after the last one
    measure         more numbers for each of these evaluations, such as whether a CVAE uses its code; called
                    on every device
    fabric          devices and precision, from `make_fabric`
                    On several GPUs batch norm takes the statistics of the whole batch; several CPU
                    processes take each its own share's, so their result differs from one process's
    channels_last   memory order of pictures and weights; faster for convolutions on CPU and GPU
    workers         processes that load pictures (0: in this one); the result does not depend on it
    checkpoint      file to resume from and to write every `checkpoint_every` steps; a run that is killed
                    loses at most that many steps
    belongs_to      what run the checkpoint is of; resuming one that says otherwise is refused
    on_step         told the number of steps done and the loss, after each step
    should_stop     asked after each step but the last; when it says yes, on any device, a checkpoint is
                    written and Interrupted is raised, on all

    Raises TrainingDiverged when the loss or a weight is not finite (weights are looked at whenever a
    checkpoint is due), CheckpointError for a checkpoint of another run, ValueError for impossible arguments.
    """
    if min(steps, batch_size, checkpoint_every) < 1:
        raise ValueError(
            f"steps, batch_size and checkpoint_every are at least 1, not {steps}, {batch_size} and {checkpoint_every}"
        )
    if len(dataset) == 0:
        raise ValueError("the training set is empty")
    fabric = fabric or make_fabric()
    if batch_size % fabric.world_size:
        raise ValueError(f"a batch of {batch_size} does not divide over {fabric.world_size} devices")
    objective = objective or pixel_objective()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if fabric.world_size > 1 and fabric.device.type == "cuda":  # there is none for CPUs
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    bare_optimizer = make_optimizer(optimizer, model, learning_rate, momentum, weight_decay)
    trained, stepper = fabric.setup(model, bare_optimizer)
    for other_way in ("forward_with_aux", "reconstruct"):
        if hasattr(model, other_way):
            trained.mark_forward_method(other_way)

    history, start = History(), 0
    if checkpoint is not None:

        def load() -> dict | None:
            return load_training(checkpoint, model, bare_optimizer, belongs_to)

        progress = first_decides(fabric, load)
        if progress is not None:
            if not fabric.is_global_zero and load() != progress:
                raise CheckpointError(f"{checkpoint} is not the same on every machine")
            history, start = History(**progress["history"]), progress["step"]

    def save(step: int) -> None:
        if checkpoint is None:
            require_finite(model)
        else:
            progress = {"step": step, "belongs_to": belongs_to, "history": asdict(history)}
            save_training(checkpoint, model, bare_optimizer, progress)

    batches = training_batches(dataset, transform, collate, steps, batch_size, start, seed, fabric, workers)
    bar = progress_bar(
        range(start, steps), description, total=steps, initial=start, show=show_progress and fabric.is_global_zero
    )
    began, spent = time.perf_counter(), history.seconds
    trained.train()
    for step in bar:
        images, labels, *others = fabric.to_device(next(batches))
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        rate = learning_rate * schedule(step, steps, warmup_steps, poly_power)
        for group in bare_optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(number_from(seed, "step", step, fabric.global_rank))  # dropout
        if hasattr(objective, "at_step"):
            objective.at_step(step)
        with fabric.autocast():  # for `forward_with_aux`, which Fabric does not cast by itself
            loss = objective(trained, images, labels, *others)
            loss = loss * share_of_loss(objective, labels, fabric)
        fabric.backward(loss)
        value = fabric.all_reduce(loss.detach().clone(), reduce_op="mean").item()
        if not math.isfinite(value):
            raise TrainingDiverged(_diverged(f"the loss is {value}", step, checkpoint))
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        history.losses.append(value)
        history.learning_rates.append(rate)
        done = step + 1
        if show_progress and done % 5 == 0:
            bar.set_postfix_str(f"loss {sum(history.losses[-10:]) / len(history.losses[-10:]):.3f}", refresh=False)
        history.seconds = spent + time.perf_counter() - began
        if validation is not None and (done == steps or (evaluate_every and done % evaluate_every == 0)):
            with fabric.autocast():
                matrix = evaluate(
                    model, validation, batch_size=batch_size, collate=collate, show_progress=False, fabric=fabric
                )
                more = measure(model) if measure else {}
            history.evaluations.append({"step": done, **matrix.summary(), **more})
            history.seconds = spent + time.perf_counter() - began
            trained.train()
        if on_step is not None:
            on_step(done, value)
        wanted = should_stop is not None and done < steps and should_stop()
        stopping = bool(fabric.all_reduce(torch.tensor(float(wanted)), reduce_op="sum"))
        if done == steps or done % checkpoint_every == 0 or stopping:
            try:
                first_decides(fabric, partial(save, done))
            except FloatingPointError as error:
                raise TrainingDiverged(_diverged(str(error), step, checkpoint)) from error
        if stopping:
            raise Interrupted(done)
    return history


def share_of_loss(objective: Objective, labels: Tensor, fabric: Fabric) -> Tensor | float:
    """The factor of this device's loss in the mean over the devices: what it counts (its labelled pixels)
    over what a device counts on average.
    """
    if fabric.world_size == 1 or not hasattr(objective, "weight"):
        return 1.0
    weight = objective.weight(labels).float()
    average = fabric.all_reduce(weight.clone(), reduce_op="mean")
    return weight / torch.where(average > 0, average, 1)


def _diverged(what: str, step: int, checkpoint: Path | None) -> str:
    kept = (
        f"the last good checkpoint is {checkpoint}"
        if checkpoint and checkpoint.exists()
        else "no checkpoint was written"
    )
    return f"training diverged at step {step + 1}: {what}; {kept}. Try a lower learning_rate or a longer warm-up."


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW or SGD over the parameters that learn."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    raise ValueError(f'optimizer {name!r} is neither "adamw" nor "sgd"')


def schedule(step: int, steps: int, warmup_steps: int, poly_power: float) -> float:
    """The factor on the learning rate at `step` (from 0): linear warm-up, then (1 - t) ** poly_power."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (1 - (step - warmup_steps) / max(steps - warmup_steps, 1)) ** poly_power


def number_from(*parts: object) -> int:
    """A seed below 2**63 that follows from `parts` and looks like no other."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _Stream(Dataset):
    """The endless sequence of training pictures: draw n is picture `order[n]`, changed by its own seed."""

    def __init__(self, dataset: SegmentationDataset, transform: Callable[[Sample], Sample] | None, seed: int):
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.epoch, self.order = -1, torch.empty(0)

    def __getitem__(self, draw: int) -> Sample:
        epoch, position = divmod(draw, len(self.dataset))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(number_from(self.seed, "epoch", epoch))
            if hasattr(self.dataset, "order"):
                self.order = self.dataset.order(generator)
            else:
                self.order = torch.randperm(len(self.dataset), generator=generator)
            self.epoch = epoch
        sample = self.dataset[int(self.order[position])]
        if self.transform is None:
            return sample
        torch.manual_seed(number_from(self.seed, "draw", draw))
        return self.transform(sample)


def training_batches(
    dataset: SegmentationDataset,
    transform: Callable[[Sample], Sample] | None,
    collate: Callable[[list[Sample]], tuple[Tensor, ...]],
    steps: int,
    batch_size: int,
    start: int,
    seed: int,
    fabric: Fabric,
    workers: int,
) -> Iterator[tuple[Tensor, ...]]:
    """This device's share of the batches of steps `start` .. `steps` - 1."""
    share = batch_size // fabric.world_size
    draws = [
        step * batch_size + fabric.global_rank * share + position
        for step in range(start, steps)
        for position in range(share)
    ]
    return iter(
        DataLoader(
            _Stream(dataset, transform, seed),
            batch_size=share,
            sampler=draws,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=fabric.device.type == "cuda",
            persistent_workers=False,
        )
    )


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
    """The confusion matrix of `model` over all of `dataset`, at the resolution of its labels.

    Pictures of a batch must have one size; use `batch_size=1` for sets whose sizes differ.

    collate  makes a batch of samples: images, labels and whatever else the model takes beside images
    fabric   whose devices share the batches out and add their counts; by default there is one
    """
    model.eval()
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(len(dataset.classes), device=device)
    rank, devices = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    if devices > 1:
        for buffer in model.buffers():  # running statistics: those that a checkpoint keeps
            torch.distributed.broadcast(buffer, src=0)
    for first in progress_bar(
        range(rank * batch_size, len(dataset), devices * batch_size),
        "evaluating",
        show=show_progress and rank == 0,
        delay=2,
    ):
        samples = [dataset[index] for index in range(first, min(first + batch_size, len(dataset)))]
        images, labels, *others = collate(samples)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        logits = model(images, *(other.to(device) for other in others))
        matrix.update(logits, labels.to(device))
    if devices > 1:
        fabric.all_reduce(matrix.counts, reduce_op="sum")
    return matrix


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> Tensor:
    """The most likely class of each pixel: image (3, H, W) uint8 -> (H, W) int64."""
    model.eval()
    device = next(model.parameters()).device
    return model(normalise(image)[None].to(device)).argmax(dim=1)[0].cpu()


def peak_memory_mib() -> float:
    """The most memory used so far, in MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def count_parameters(module: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
