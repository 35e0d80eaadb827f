"""From a recipe to its record: the only place that imports both tasks and records.

`complete` is the way of one run, wherever it is made: in a process of `course reproduce`, in a job of a
cluster. It locks the run, leaves it alone where there is a valid record, goes on from its last checkpoint,
and writes the record. `train_or_load` is the same for a notebook.
"""

import datetime
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from torch import nn

from course_lib.costs import count_parameters, peak_memory_mib, reset_peak_memory
from course_lib.experiments.building import HERE, Finished, Sitting, save_run_weights, trained_model
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import Record, find_record, record_path, run_folder, write_record
from course_lib.experiments.strips import keep_answer
from course_lib.experiments.table import RESULT_PROFILES
from course_lib.experiments.tasks import detect, few_masks, mixed_sets, self_correction, train, upper_bound
from course_lib.plumbing import machine
from course_lib.plumbing.devices import first_decides
from course_lib.plumbing.locks import only_one

log = logging.getLogger(__name__)

VOID = "label 255 is left out of loss and metrics"
TASKS: dict[str, Callable[[Recipe, Sitting], Finished]] = {
    "train": train.run,
    "upper_bound": upper_bound.run,
    "self_correction": self_correction.run,
    "detect": detect.run,
    "mix": mixed_sets.run,
    "few_masks": few_masks.run,
}
"""What a recipe's `task` means; the class of its recipes is in `experiments.recipes.RECIPES`."""


def make(recipe: Recipe, sitting: Sitting = HERE) -> tuple[nn.Module | None, Record]:
    """Make the run of `recipe` and write no record.

    Its weights are kept where it keeps checkpoints, and with seed 0 what it answers to one image
    (`experiments.strips`).

    Returns:
        The network, where there is one, and what was measured.

    Raises:
        Interrupted: When `sitting` asks to stop; the next call goes on from the checkpoint.
    """
    reset_peak_memory()
    finished = TASKS[recipe.task](recipe, sitting)
    record = record_of(recipe, finished, sitting)
    if finished.model is not None and recipe.checkpoint_every:
        first_decides(sitting.fabric, partial(save_run_weights, recipe, finished.model, sitting.runs))
        if recipe.seed == 0 and recipe.profile in RESULT_PROFILES:
            answered = partial(keep_answer, recipe, finished.model, finished.measured_on, sitting.records)
            try:
                first_decides(sitting.fabric, answered)
            except (OSError, ValueError) as error:  # a finished training is not lost over a picture
                log.warning("%s keeps no picture of its answer: %s", recipe.title(), error)
    if finished.model is not None:
        finished.model.eval()
    return finished.model, record


def complete(recipe: Recipe, sitting: Sitting = HERE) -> Record:
    """Return the record of `recipe`, measured now unless there is a valid one.

    Raises:
        Busy: Where another process is at the same run.
        RecordError: For a record that cannot be trusted, which is left as it is.
        Interrupted: When `sitting` asks to stop.
    """
    path = record_path(recipe, sitting.records)
    with ExitStack() as held:
        record = first_decides(sitting.fabric, partial(_begin, recipe, sitting, held))
        if record is None:
            _, record = make(recipe, sitting)
            first_decides(sitting.fabric, partial(write_record, record, path))
    return record


def train_or_load(recipe: Recipe, *, show_progress: bool = True) -> tuple[nn.Module | None, Record]:
    """Return the network and the record of `recipe`: read where this machine has both, else trained now.

    A recipe that keeps checkpoints writes its record to `results/` unless one of the same recipe is there; one
    that keeps none (the quick profile) leaves nothing behind.

    Raises:
        Busy: Where another process is training the same recipe.
    """
    sitting = Sitting(show_progress=show_progress)
    if not recipe.checkpoint_every:
        return make(recipe, sitting)
    with ExitStack() as held:
        record = _begin(recipe, sitting, held)
        model = None if record is None else trained_model(recipe)
        if model is not None:
            return model, record
        model, measured = make(recipe, sitting)
        if record is None:
            write_record(measured, record_path(recipe))
    return model, measured


def _begin(recipe: Recipe, sitting: Sitting, held: ExitStack) -> Record | None:
    """Lock the run, remove what a killed process left half-written, and return the valid record, if any."""
    home, path = run_folder(recipe, sitting.runs), record_path(recipe, sitting.records)
    held.enter_context(only_one(home / "lock", sitting.patience))
    for folder, name in ((home, ""), (path.parent, path.name)):
        for left in folder.glob(f".{name}*.partial"):
            left.unlink(missing_ok=True)
    return find_record(recipe, sitting.records)


def record_of(recipe: Recipe, finished: Finished, sitting: Sitting) -> Record:
    """Return the record of a run that ends now: what it measured, on what, where and with what."""
    fabric = finished.fabric
    return Record(
        recipe=recipe.settings(),
        recipe_hash=recipe.hash(),
        metrics=finished.matrix.summary()
        | {name: value for name, value in finished.measured.items() if not isinstance(value, list)},
        per_class=finished.matrix.per_class(finished.measured_on.classes),
        data={
            "set": recipe.dataset,
            **finished.data,
            "measured_on": recipe.val_split,
            "measured_pictures": len(finished.measured_on),
            "size": f"{recipe.height}x{recipe.width}",
            "void": VOID,
        },
        seconds=round(finished.history.seconds, 1),
        peak_memory_mib=round(peak_memory_mib(sitting.own_process), 1),
        parameters=0 if finished.model is None else count_parameters(finished.model),
        device="cpu" if fabric is None else str(fabric.device.type),
        precision="exact" if fabric is None else finished.history.precision or str(fabric._precision.precision),
        machine={**machine.describe(), "devices": 1 if fabric is None else fabric.world_size},
        versions=machine.versions(),
        commit=machine.code_commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        losses=mean_losses(finished.history.losses),
        pictures={name: value for name, value in finished.measured.items() if isinstance(value, list)},
        evaluations=finished.history.evaluations,
    )


def mean_losses(losses: list[float], count: int = 20) -> list[float]:
    """Return the mean training loss over about `count` consecutive parts of a run."""
    size = max(1, len(losses) // count)
    parts = [losses[first : first + size] for first in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 4) for part in parts]
