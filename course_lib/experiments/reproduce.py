"""From a recipe to a trained network and its record."""

import datetime
from pathlib import Path

import torch
from torch import nn

from course_lib import machine
from course_lib.checkpoint import load_weights, save_weights
from course_lib.data.registry import open_dataset
from course_lib.data.sample import SegmentationDataset
from course_lib.data.splits import Subset
from course_lib.data.transforms import train_transform
from course_lib.experiments.recipes import Recipe
from course_lib.experiments.records import Record, find_record, record_path, write_record
from course_lib.losses import class_weights
from course_lib.models import MODELS
from course_lib.paths import runs_root
from course_lib.train import (
    count_parameters,
    evaluate,
    fit,
    make_fabric,
    number_from,
    peak_memory_mib,
    pixel_objective,
)

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


def build_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network, initialised from its seed or from the checkpoint it names."""
    if recipe.model not in MODELS:
        raise ValueError(f"model {recipe.model!r} is none of {', '.join(MODELS)}")
    torch.manual_seed(number_from(recipe.seed, "weights"))
    model = MODELS[recipe.model](num_classes, **recipe.model_options)
    if recipe.start_from:
        load_weights(checkpoint_path(recipe.start_from), model)
    return model


def checkpoint_path(name: str) -> Path:
    """Where the committed checkpoint `name` lies."""
    return CHECKPOINTS / f"{name}.safetensors"


def make_checkpoint(recipe: Recipe, name: str) -> Path:
    """Train as `recipe` says, record it, and write its weights in half precision as checkpoint `name`."""
    model, record = train_or_load(recipe)
    about = {"recipe": record.recipe, "recipe_hash": record.recipe_hash, "metrics": record.metrics}
    save_weights(checkpoint_path(name), model, about=about, dtype=torch.float16)
    return checkpoint_path(name)


def open_splits(recipe: Recipe) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Training and validation pictures of the recipe, decoded into memory."""
    size = (recipe.height, recipe.width)
    splits = []
    for split in (recipe.train_split, recipe.val_split):
        options = dict(recipe.dataset_options)
        for name in [key for key in options if key.startswith(("train_", "val_"))]:
            value = options.pop(name)
            if name.startswith(f"{split}_"):
                options[name.removeprefix(f"{split}_")] = value
        splits.append(open_dataset(recipe.dataset, split, size=size, **options))
    training, validation = splits
    if recipe.train_length:
        if recipe.train_length > len(training):
            raise ValueError(
                f"train_length is {recipe.train_length}, but {recipe.dataset} has {len(training)} pictures"
            )
        training = Subset(training, range(recipe.train_length))
    return training, validation


def train_or_load(recipe: Recipe, *, show_progress: bool = True) -> tuple[nn.Module, Record]:
    """The network and the record of `recipe`: read where this machine has both, else trained now.

    A recipe that keeps checkpoints writes its record to `results/` unless one of the same recipe is
    there; one that keeps none (the quick profile) leaves nothing behind.
    """
    if not recipe.checkpoint_every:
        return run(recipe, show_progress=show_progress)
    record = find_record(recipe)
    if record is not None:
        model = trained_model(recipe)
        if model is not None:
            return model, record
    model, measured = run(recipe, show_progress=show_progress)
    if record is None:
        write_record(measured, record_path(recipe))
    return model, measured


def run(
    recipe: Recipe, *, show_progress: bool = True, folder: Path | None = None
) -> tuple[nn.Module, Record]:
    """Train and evaluate as `recipe` says; return the network and what it measured.

    With `checkpoint_every` the run resumes where the same recipe was interrupted, and keeps its weights,
    both under `runs/` (or `folder`).
    """
    training, validation = open_splits(recipe)
    model = build_model(recipe, len(training.classes))
    weights = class_weights(
        recipe.class_weighting,
        (training[index].labels for index in range(len(training)))
        if recipe.class_weighting != "none"
        else (),
        len(training.classes),
    )
    fabric = make_fabric(recipe.precision)
    workers = min(8, machine.cores() - 1) if fabric.device.type == "cuda" else 0
    home = run_folder(recipe, folder)
    history = fit(
        model, training,
        steps=recipe.steps, batch_size=recipe.batch_size, optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup_steps, poly_power=recipe.poly_power,
        transform=train_transform(
            crop=recipe.crop if recipe.crop != (0, 0) else None, flip=recipe.flip,
            scale=recipe.scale if recipe.scale != (1.0, 1.0) else None, jitter=recipe.jitter,
        ),
        objective=pixel_objective(weights), seed=recipe.seed, fabric=fabric, workers=workers,
        checkpoint=home / "checkpoint.safetensors" if recipe.checkpoint_every else None,
        checkpoint_every=max(recipe.checkpoint_every, 1), belongs_to=recipe.hash(),
        show_progress=show_progress, description=f"{recipe.row} seed {recipe.seed}",
    )  # fmt: skip
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=show_progress)
    record = Record(
        recipe=recipe.settings(),
        recipe_hash=recipe.hash(),
        metrics=matrix.summary(),
        per_class=matrix.per_class(validation.classes),
        data={
            "set": recipe.dataset, "train": recipe.train_split, "train_pictures": len(training),
            "measured_on": recipe.val_split, "measured_pictures": len(validation),
            "size": f"{recipe.height}x{recipe.width}", "void": "label 255 is left out of loss and metrics",
        },
        seconds=round(history.seconds, 1),
        peak_memory_mib=round(peak_memory_mib(), 1),
        parameters=count_parameters(model),
        device=str(fabric.device.type),
        precision=str(fabric._precision.precision),
        machine=machine.describe(),
        versions=machine.versions(),
        commit=machine.code_commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        losses=[round(sum(part) / len(part), 4) for part in _parts(history.losses, 20)],
    )  # fmt: skip
    if recipe.checkpoint_every:
        save_weights(home / "weights.safetensors", model, about={"recipe_hash": recipe.hash()})
    return model, record


def run_folder(recipe: Recipe, folder: Path | None = None) -> Path:
    """Where the checkpoint and the final weights of `recipe` are kept."""
    name = f"{recipe.row}-{recipe.profile}-seed{recipe.seed}-{recipe.hash()}"
    return (folder or runs_root()) / recipe.table / name


def trained_model(recipe: Recipe, folder: Path | None = None) -> nn.Module | None:
    """The network that `run` trained from `recipe` on this machine, or None."""
    path = run_folder(recipe, folder) / "weights.safetensors"
    if not path.exists():
        return None
    dataset = open_dataset(
        recipe.dataset, recipe.val_split, size=(recipe.height, recipe.width), cache=False
    )
    model = build_model(recipe, len(dataset.classes))
    load_weights(path, model)
    return model.eval()


def _parts(values: list[float], count: int) -> list[list[float]]:
    size = max(1, len(values) // count)
    return [values[first : first + size] for first in range(0, len(values), size)]
