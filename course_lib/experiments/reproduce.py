"""From a recipe to a trained network and its record.

`complete` is the way of one run, wherever it is made: in a process of `course reproduce`, in a job of a
cluster. It locks the run, leaves it alone where a valid record lies, goes on from its last checkpoint, and
writes the record. `run` measures and writes no record; `TASKS` says what there is to measure.
"""

import datetime
import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from course_lib.costs import count_parameters, peak_memory_mib
from course_lib.cvae import CVAEObjective
from course_lib.data.registry import open_dataset
from course_lib.data.sample import SegmentationDataset
from course_lib.data.splits import Subset, WithoutClass
from course_lib.data.stream import number_from
from course_lib.data.transforms import train_transform
from course_lib.experiments.measures import measure, require_measures
from course_lib.experiments.recipes import Recipe
from course_lib.experiments.records import Record, find_record, record_path, run_folder, write_record
from course_lib.implicit_background import ImplicitBackground, implicit_objective
from course_lib.losses import Objective, boundary_objective, class_weights, pixel_objective
from course_lib.metrics import ConfusionMatrix, rescaling_upper_bound
from course_lib.models import MODELS
from course_lib.models.ancillary import Ancillary
from course_lib.plumbing import machine
from course_lib.plumbing.checkpoint import load_weights, save_weights
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.plumbing.locks import only_one
from course_lib.plumbing.progress import progress_bar
from course_lib.train import Checkpoints, History, evaluate, fit

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
VOID = "label 255 is left out of loss and metrics"


def build_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network, initialised from its seed or from the checkpoint it names."""
    if recipe.model not in MODELS:
        raise ValueError(f"model {recipe.model!r} is none of {', '.join(MODELS)}")
    torch.manual_seed(number_from(recipe.seed, "weights"))
    implicit = recipe.background != "explicit"
    options = dict(recipe.model_options)
    if "size" in inspect.signature(MODELS[recipe.model]).parameters:  # a network for one size
        options.setdefault("size", (recipe.height, recipe.width))
    model = MODELS[recipe.model](num_classes - implicit, **options)
    if implicit:
        model = nn.Sequential(model, ImplicitBackground())
    if recipe.aux_weight and not hasattr(model, "forward_with_aux"):
        raise ValueError(f"aux_weight is {recipe.aux_weight:g}, but {recipe.model} has no auxiliary head: leave it out")
    if recipe.kl_weight and not hasattr(model, "reconstruct"):
        raise ValueError(f"kl_weight is {recipe.kl_weight:g}, but {recipe.model} has no code: leave it out")
    if recipe.method == "ancillary":
        model = Ancillary(model)
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


def open_split(recipe: Recipe, split: str) -> SegmentationDataset:
    """One split of the recipe's data set, decoded into memory."""
    size = (recipe.height, recipe.width)
    opened = open_dataset(recipe.dataset, split, size=size, **recipe.options_of(split))
    if recipe.background != "explicit" and opened.background != 0:
        raise ValueError(f"{recipe.dataset} has no background as class 0 that could be implicit")
    return WithoutClass(opened, recipe.unseen) if recipe.unseen else opened


def open_splits(recipe: Recipe) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Training and validation pictures of the recipe, decoded into memory."""
    training = open_split(recipe, recipe.train_split)
    validation = open_split(recipe, recipe.val_split)
    if recipe.train_length:
        if recipe.train_length > len(training):
            raise ValueError(
                f"train_length is {recipe.train_length}, but {recipe.dataset} has {len(training)} pictures"
            )
        training = Subset(training, range(recipe.train_length))
    return training, validation


def train_or_load(recipe: Recipe, *, show_progress: bool = True) -> tuple[nn.Module | None, Record]:
    """The network and the record of `recipe`: read where this machine has both, else trained now.

    A recipe that keeps checkpoints writes its record to `results/` unless one of the same recipe is
    there; one that keeps none (the quick profile) leaves nothing behind. Raises Busy where another
    process is training the same recipe.
    """
    if not recipe.checkpoint_every:
        return run(recipe, show_progress=show_progress)
    with only_one(run_folder(recipe) / "lock"):
        record = find_record(recipe)
        if record is not None:
            model = trained_model(recipe)
            if model is not None:
                return model, record
        model, measured = run(recipe, show_progress=show_progress)
        if record is None:
            write_record(measured, record_path(recipe))
    return model, measured


def complete(
    recipe: Recipe,
    *,
    records: Path | None = None,
    runs: Path | None = None,
    patience: float = 0.0,
    fabric: Fabric | None = None,
    **options: object,
) -> Record:
    """The record of `recipe`, measured now unless a valid one lies there; see the module's first lines.

    records, runs  other folders than `results/` and `runs/`
    patience       seconds to wait for another process that is at the same run
    fabric         devices and precision. Of several devices each calls this (`on_every_device`); the
                   first one holds the lock and writes
    options        go to `run`

    Raises Busy; RecordError for a record that cannot be trusted, which is left as it is; Interrupted;
    and whatever ends the training.
    """
    home, path = run_folder(recipe, runs), record_path(recipe, records)
    with ExitStack() as held:

        def begin() -> Record | None:
            held.enter_context(only_one(home / "lock", patience))
            for folder, name in ((home, ""), (path.parent, path.name)):
                # of a process that was killed
                for left in folder.glob(f".{name}*.partial"):
                    left.unlink(missing_ok=True)
            return find_record(recipe, records)

        record = first_decides(fabric, begin)
        if record is None:
            _, record = run(recipe, folder=runs, fabric=fabric, **options)
            first_decides(fabric, partial(write_record, record, path))
    return record


def run(
    recipe: Recipe,
    *,
    show_progress: bool = True,
    folder: Path | None = None,
    fabric: Fabric | None = None,
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[nn.Module | None, Record]:
    """Do what `recipe` says; return the network, where there is one, and what was measured.

    With `checkpoint_every` the run resumes where the same recipe was interrupted, and keeps its weights,
    both under `runs/` (or `folder`).

    fabric                devices and precision; by default one device in the recipe's precision
    on_step, should_stop  see `course_lib.train.fit`, whose Interrupted is raised
    """
    task = TASKS[recipe.task]
    return task(
        recipe, show_progress=show_progress, folder=folder, fabric=fabric, on_step=on_step, should_stop=should_stop
    )


def make_objective(recipe: Recipe, weights: Tensor | None) -> Objective:
    """The loss that the recipe trains with; `weights` are those of the classes."""
    if recipe.background != "explicit":
        if weights is not None or recipe.boundary_weight or recipe.aux_weight:
            raise ValueError(f"{recipe.background} background has one loss, without weights of any kind")
        return implicit_objective(scribe=recipe.background == "scribe")
    if recipe.kl_weight:
        if weights is not None or recipe.boundary_weight:
            raise ValueError("a CVAE has one loss, without weights of classes or boundaries")
        return CVAEObjective(
            kl_weight=recipe.kl_weight,
            warmup_steps=recipe.kl_warmup,
            samples=recipe.noise_samples,
            free_nats=recipe.free_nats,
        )
    if recipe.boundary_weight:
        return boundary_objective(weights, recipe.boundary_weight)
    return pixel_objective(weights, recipe.aux_weight)


def fit_options(recipe: Recipe) -> dict[str, object]:
    """The arguments of `fit` that are values of the recipe."""
    return {
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "warmup_steps": recipe.warmup_steps,
        "poly_power": recipe.poly_power,
        "transform": train_transform(
            crop=recipe.crop if recipe.crop != (0, 0) else None,
            flip=recipe.flip,
            scale=recipe.scale if recipe.scale != (1.0, 1.0) else None,
            jitter=recipe.jitter,
            elastic=recipe.elastic,
        ),
    }


def checkpoints_of(recipe: Recipe, folder: Path | None, stage: str = "") -> Checkpoints:
    """Return where a run of `recipe` keeps the state of a training, of which it may have several stages."""
    path = run_folder(recipe, folder) / f"checkpoint{stage}.safetensors" if recipe.checkpoint_every else None
    return Checkpoints(path, max(recipe.checkpoint_every, 1), recipe.hash() + stage)


def train_and_evaluate(
    recipe: Recipe,
    *,
    show_progress: bool,
    folder: Path | None,
    fabric: Fabric | None,
    on_step: Callable[[int, float], None] | None,
    should_stop: Callable[[], bool] | None,
) -> tuple[nn.Module, Record]:
    """The task "train": the recipe's network, trained on one split and measured on another."""
    require_measures(recipe.measures)
    training, validation = open_splits(recipe)
    model = build_model(recipe, len(training.classes))
    weights = class_weights(
        recipe.class_weighting,
        (training[index].labels for index in range(len(training))) if recipe.class_weighting != "none" else (),
        len(training.classes),
    )
    objective = make_objective(recipe, weights)
    fabric = fabric or make_fabric(recipe.precision)
    history = fit(
        model,
        training,
        **fit_options(recipe),
        objective=objective,
        seed=recipe.seed,
        fabric=fabric,
        workers=loading_processes(fabric),
        checkpoints=checkpoints_of(recipe, folder),
        on_step=on_step,
        should_stop=should_stop,
        show_progress=show_progress,
        description=recipe.title(),
    )
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=show_progress, fabric=fabric)
        measured = first_decides(fabric, partial(measure, model, validation, recipe))
    return model, finish(
        recipe,
        model,
        matrix,
        validation,
        history=history,
        fabric=fabric,
        folder=folder,
        measured=measured,
        data={"train_pictures": len(training)},
    )


def loading_processes(fabric: Fabric) -> int:
    """How many processes load pictures: several beside a GPU, which would wait for them, else none."""
    return min(8, machine.cores() - 1) if fabric.device.type == "cuda" else 0


def finish(
    recipe: Recipe,
    model: nn.Module,
    matrix: ConfusionMatrix,
    validation: SegmentationDataset,
    *,
    history: History,
    fabric: Fabric,
    folder: Path | None,
    data: dict[str, object],
    measured: dict[str, float] | None = None,
) -> Record:
    """The record of a training that has ended; where the recipe keeps checkpoints, its weights are kept too.

    data  what is to be said of the training pictures; the rest as in `make_record`
    """
    record = make_record(
        recipe,
        matrix,
        validation,
        seconds=history.seconds,
        measured=measured,
        data={"train": recipe.train_split, **data},
        parameters=count_parameters(model),
        device=str(fabric.device.type),
        precision=str(fabric._precision.precision),
        devices=fabric.world_size,
        losses=mean_losses(history),
    )
    if recipe.checkpoint_every:
        path, about = run_folder(recipe, folder) / "weights.safetensors", {"recipe_hash": recipe.hash()}
        first_decides(fabric, partial(save_weights, path, model, about=about))
    return record


def measure_upper_bound(recipe: Recipe, *, show_progress: bool, **_: object) -> tuple[None, Record]:
    """The task "upper_bound": the truth, down- and up-sampled, measured against itself. It takes seconds."""
    validation = open_split(recipe, recipe.val_split)
    began = time.perf_counter()
    matrix = ConfusionMatrix(len(validation.classes))
    for index in progress_bar(range(len(validation)), recipe.row, show=show_progress, delay=2):
        rescaling_upper_bound(validation[index].labels[None], recipe.factor, matrix)
    record = make_record(
        recipe, matrix, validation, seconds=time.perf_counter() - began, device="cpu", precision="exact"
    )
    return None, record


def train_self_correcting(recipe: Recipe, **options: object) -> tuple[nn.Module, Record]:
    """The task "self_correction", in a module of its own that builds on this one."""
    from course_lib.experiments.self_corrected import self_correction

    return self_correction(recipe, **options)


TASKS = {"train": train_and_evaluate, "upper_bound": measure_upper_bound, "self_correction": train_self_correcting}
"""What a recipe's `task` means: functions with the arguments and the result of `run`."""


def make_record(
    recipe: Recipe,
    matrix: ConfusionMatrix,
    measured_on: SegmentationDataset,
    *,
    seconds: float,
    device: str,
    precision: str,
    data: dict[str, object] | None = None,
    parameters: int = 0,
    losses: list[float] | None = None,
    measured: dict[str, float] | None = None,
    devices: int = 1,
) -> Record:
    """The record of a run that ends now, with what it measured, on what, where and with what.

    data      what is to be said of it besides the validation split, such as the training split
    measured  metrics besides those of the matrix
    devices   how many it ran on, of each of which this was the machine
    """
    return Record(
        recipe=recipe.settings(),
        recipe_hash=recipe.hash(),
        metrics={**matrix.summary(), **(measured or {})},
        per_class=matrix.per_class(measured_on.classes),
        data={
            "set": recipe.dataset,
            **(data or {}),
            "measured_on": recipe.val_split,
            "measured_pictures": len(measured_on),
            "size": f"{recipe.height}x{recipe.width}",
            "void": VOID,
        },
        seconds=round(seconds, 1),
        peak_memory_mib=round(peak_memory_mib(), 1),
        parameters=parameters,
        device=device,
        precision=precision,
        machine={**machine.describe(), "devices": devices},
        versions=machine.versions(),
        commit=machine.code_commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        losses=losses or [],
    )


def trained_model(recipe: Recipe, folder: Path | None = None) -> nn.Module | None:
    """The network that `run` trained from `recipe` on this machine, or None."""
    path = run_folder(recipe, folder) / "weights.safetensors"
    if not path.exists():
        return None
    dataset = open_dataset(recipe.dataset, recipe.val_split, size=(recipe.height, recipe.width), cache=False)
    model = build_model(recipe, len(dataset.classes) - bool(recipe.unseen))
    load_weights(path, model)
    return model.eval()


def mean_losses(history: History, count: int = 20) -> list[float]:
    """The mean training loss over about `count` consecutive parts of a run."""
    losses = history.losses
    size = max(1, len(losses) // count)
    parts = [losses[first : first + size] for first in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 4) for part in parts]
