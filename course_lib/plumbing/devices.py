"""One training on one device or on many: what Lightning Fabric does not do by itself."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from course_lib.plumbing.fabric import ClusterEnvironment, DDPStrategy, Fabric, LightningEnvironment, MixedPrecision
from course_lib.plumbing.machine import best_precision

OTHER_FORWARDS = ("forward_with_aux", "reconstruct")
"""Methods of networks that a loss may call instead of `forward`."""

STRANGE_LABELS = " (as it is on a GPU where labels name classes that the network has no channel for)"

LOOK_EVERY = {"cuda": 10}
"""Steps from one look at the losses to the next, by device; 1 on every other."""


class AutoPrecision(MixedPrecision):
    """Precision "auto" of a CPU with bfloat16: bf16-mixed, or 32-true after `precision` was set to that.

    `plumbing.auto_precision.settle` sets it for each training.
    """

    def __init__(self):
        super().__init__("bf16-mixed", "cpu")

    def forward_context(self) -> AbstractContextManager:
        return super().forward_context() if self.precision == "bf16-mixed" else nullcontext()

    def convert_input(self, data: object) -> object:
        return super().convert_input(data) if self.precision == "bf16-mixed" else data


def make_fabric(
    precision: str = "auto",
    *,
    devices: int | list[int] = 1,
    num_nodes: int = 1,
    environment: ClusterEnvironment | None = None,
    **options: object,
) -> Fabric:
    """Return Lightning Fabric on the best device: one GPU where there is one, else the CPU.

    Args:
        precision: Fabric's name ("32-true", "bf16-mixed"), or "auto": COURSE_PRECISION's, else bfloat16 where the
            hardware has it and, on a CPU, where it is faster for the network that is trained.
        devices: How many on each of `num_nodes` machines, or which GPUs. A function that is to run on several
            is called by `on_every_device`.
        num_nodes: Machines.
        environment: Who starts the processes of several devices; by default this process does.
        **options: Arguments of `Fabric`: accelerator, strategy.
    """
    accelerator = str(options.pop("accelerator", "cuda" if torch.cuda.is_available() else "cpu"))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each precision
    if precision == "auto":
        precision = best_precision(torch.device(accelerator))
    if environment is None:  # Fabric's own choice warns wherever Slurm is installed
        environment = LightningEnvironment()
    plugins = [environment, AutoPrecision()] if precision == "auto" else [environment]
    several = num_nodes * (devices if isinstance(devices, int) else len(devices)) > 1
    if several and "strategy" not in options:
        options["strategy"] = DDPStrategy(
            start_method="popen" if environment.creates_processes_externally else "spawn",
            find_unused_parameters=True,  # an auxiliary head may have no part in the loss
        )
    return Fabric(
        accelerator=accelerator,
        precision=None if precision == "auto" else precision,
        devices=devices,
        num_nodes=num_nodes,
        plugins=plugins,
        **options,
    )


def set_up(fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, object]:
    """Move model and optimiser to the device and return what a training calls: network and optimiser.

    The weights become channels-last, the memory order in which convolutions are fastest. On several GPUs batch
    norm takes the statistics of the whole batch.
    """
    model.to(memory_format=torch.channels_last)
    if fabric.world_size > 1 and fabric.device.type == "cuda":  # there is none for CPUs
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    network, stepper = fabric.setup(model, optimizer)
    for other_way in OTHER_FORWARDS:
        if hasattr(model, other_way):
            network.mark_forward_method(other_way)
    return network, stepper


@contextmanager
def tried_convolutions(worthwhile: bool) -> Iterator[None]:
    """Let cuDNN try its ways to compute each convolution and keep the fastest, or (not `worthwhile`) take its guess.

    It is worthwhile where many batches have one size.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = worthwhile
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


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
    """Call `function` on the first device alone; every device returns its result or raises its error."""
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


def on_any_device(fabric: Fabric, here: bool) -> bool:
    """Return on every device whether `here` is true on any."""
    return bool(fabric.all_reduce(torch.tensor(float(here)), reduce_op="sum"))


def share_of_loss(objective: Callable[..., Tensor], labels: Tensor, fabric: Fabric) -> Tensor | float:
    """Return the factor of this device's loss in the mean over the devices.

    It is the `objective.weight(labels)` of this device (its labelled pixels) over that of the average device, and
    1 for an objective without `weight`.
    """
    if fabric.world_size == 1 or not hasattr(objective, "weight"):
        return 1.0
    weight = objective.weight(labels).float()
    average = fabric.all_reduce(weight.clone(), reduce_op="mean")
    return weight / torch.where(average > 0, average, 1)


class Losses:
    """The losses of the last steps, left on the device: to look at them is to wait for it.

    A GPU would stand still while the next step is prepared, so its losses are looked at every few steps.

    Args:
        diverged: Makes the error for a loss that is not finite: (what it is, its step).
    """

    def __init__(self, fabric: Fabric, diverged: Callable[[str, int], Exception]):
        self.fabric, self.diverged, self.waiting = fabric, diverged, []
        self.every = LOOK_EVERY.get(fabric.device.type, 1)

    def add(self, loss: Tensor, done: int, look: bool) -> dict[int, float]:
        """Take the loss of this device's share in step `done` (from 1).

        Returns:
            The whole batches' losses since the last look, by step; none where it is not time for one and not `look`.

        Raises:
            Exception: `diverged`, where one of them is not finite.
        """
        self.waiting.append(loss.detach())
        if not (look or done % self.every == 0):
            return {}
        values = self.fabric.all_reduce(torch.stack(self.waiting), reduce_op="mean").tolist()
        self.waiting = []
        seen = dict(enumerate(values, done + 1 - len(values)))
        for step, value in seen.items():
            if not math.isfinite(value):
                known = math.isnan(value) and self.fabric.device.type != "cpu"
                raise self.diverged(f"the loss is {value}{STRANGE_LABELS * known}", step)
        return seen
