"""From a recipe to the objects of a run: images, network, loss, the arguments of `fit`, and its weights on disk."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.cvae import CVAEObjective
from course_lib.data.registry import open_dataset
from course_lib.data.sample import SegmentationDataset
from course_lib.data.splits import OneClass, Subset, WithoutClass
from course_lib.data.stream import number_from
from course_lib.data.transforms import train_transform
from course_lib.detection import PaintedBoxes, proposal_grid
from course_lib.experiments.recipe import NetworkRecipe, Recipe
from course_lib.experiments.recipes import DetectRecipe, FewMasksRecipe, MixRecipe, SelfCorrectionRecipe, TrainRecipe
from course_lib.experiments.records import run_folder
from course_lib.hard_examples import hard_pixel_objective
from course_lib.implicit_background import ImplicitBackground, implicit_objective
from course_lib.losses import Objective, boundary_objective, dice_objective, focal_objective, pixel_objective
from course_lib.metrics import ConfusionMatrix
from course_lib.models import DETECTORS, MODELS
from course_lib.models.ancillary import Ancillary
from course_lib.models.decouplednet import JointNet
from course_lib.plumbing.checkpoint import load_weights, save_weights
from course_lib.plumbing.fabric import Fabric
from course_lib.plumbing.processes import cores
from course_lib.taxonomy import InClassesOf, Taxonomy, naive_mix
from course_lib.train import Checkpoints, History

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class Sitting:
    """Where and how runs are made; nothing in it changes a result.

    Attributes:
        fabric: Devices and precision; by default one device in the recipe's precision. With several devices
            each calls the task (`on_every_device`), and the first one holds the lock and writes.
        runs: The folder of runs (`runs/`).
        records: The folder of records (`results/`, or that of quick records).
        patience: Seconds to wait for another process that is at the same run.
        cores: This run's share of the machine's; 0: all.
        own_process: Whether this process was started for the run. Only then is the peak of its memory the run's.
        on_step: Called with the number of steps done and the loss, after each step.
        should_stop: Asked after each step but the last; then the run writes a checkpoint and raises Interrupted.
    """

    fabric: Fabric | None = None
    runs: Path | None = None
    records: Path | None = None
    patience: float = 0.0
    cores: int = 0
    own_process: bool = False
    show_progress: bool = True
    on_step: Callable[[int, float], None] | None = None
    should_stop: Callable[[], bool] | None = None


HERE = Sitting()
"""On this machine, in the usual folders."""


class Finished(NamedTuple):
    """What a task returns; `runs.record_of` makes the record of it.

    Attributes:
        model: The trained network; None where the task has none.
        measured_on: The images of `matrix`.
        history: Losses, evaluations and seconds, of all trainings of the run together.
        fabric: The devices it ran on; None for exact arithmetic on the CPU.
        data: What the record holds of the training images.
        measured: Metrics besides those of the matrix, by name; a list is of each image.
    """

    model: nn.Module | None
    matrix: ConfusionMatrix
    measured_on: SegmentationDataset
    history: History
    fabric: Fabric | None
    data: dict[str, object]
    measured: dict[str, float | list[int]]


def open_split(recipe: Recipe, split: str, *, cache: bool = True) -> SegmentationDataset:
    """Return one split of the recipe's data set, decoded into memory where `cache` is set.

    Raises:
        ValueError: For an implicit background, and for boxes of a set that has no background.
    """
    size = (recipe.height, recipe.width)
    opened = open_dataset(recipe.dataset, split, size=size, cache=cache, **recipe.options_of(split))
    if isinstance(recipe, DetectRecipe):
        return OneClass(opened)
    if not isinstance(recipe, TrainRecipe):
        return opened
    if recipe.background != "explicit" and opened.background != 0:
        raise ValueError(f"{recipe.dataset} has no background as class 0 that could be implicit")
    return WithoutClass(opened, recipe.unseen) if recipe.unseen else opened


def open_splits(recipe: TrainRecipe | DetectRecipe) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Return the training and the validation images of the recipe, decoded into memory.

    Raises:
        ValueError: For a `train_length` beyond the images that there are.
    """
    training, validation = open_split(recipe, recipe.train_split), open_split(recipe, recipe.val_split)
    if recipe.train_length > len(training):
        raise ValueError(f"train_length is {recipe.train_length}, but {recipe.dataset} has {len(training)} images")
    if recipe.train_length:
        training = Subset(training, range(recipe.train_length))
    return training, validation


def build_model(recipe: NetworkRecipe, num_classes: int) -> nn.Module:
    """Return the recipe's network, initialised from its seed or from the checkpoint it names.

    Raises:
        ValueError: For a name that is no model, and for a weight of a part that the network does not have.
    """
    if isinstance(recipe, DetectRecipe):
        return build_detector(recipe, num_classes)
    if recipe.model not in MODELS:
        raise ValueError(f"model {recipe.model!r} is none of {', '.join(MODELS)}")
    torch.manual_seed(number_from(recipe.seed, "weights"))
    options = dict(recipe.model_options)
    if "size" in inspect.signature(MODELS[recipe.model]).parameters:  # a network for one size
        options.setdefault("size", (recipe.height, recipe.width))
    if isinstance(recipe, TrainRecipe) and recipe.background != "explicit":
        model = nn.Sequential(MODELS[recipe.model](num_classes - 1, **options), ImplicitBackground())
    elif isinstance(recipe, MixRecipe):
        words = mixing_words(recipe)
        model = InClassesOf(MODELS[recipe.model](len(words.classes), **options), words.members("fine"))
    else:
        model = MODELS[recipe.model](num_classes, **options)
    if isinstance(recipe, TrainRecipe):
        for key, method, part in (
            ("aux_weight", "forward_with_aux", "auxiliary head"),
            ("kl_weight", "reconstruct", "code"),
        ):
            value = getattr(recipe, key)
            if value and not hasattr(model, method):
                raise ValueError(f"{key} is {value:g}, but {recipe.model} has no {part}: leave it out")
    if isinstance(recipe, SelfCorrectionRecipe) and recipe.method == "ancillary":
        model = Ancillary(model)
    if isinstance(recipe, FewMasksRecipe) and recipe.method != "decoupled":
        model = JointNet(model)
    if recipe.start_from:
        load_weights(checkpoint_path(recipe.start_from), model)
    return model


def build_detector(recipe: DetectRecipe, num_classes: int) -> PaintedBoxes:
    """Return the recipe's detector with its proposals, initialised from its seed.

    Raises:
        ValueError: For a name that is no detector.
    """
    if recipe.model not in DETECTORS:
        raise ValueError(f"model {recipe.model!r} is none of {', '.join(DETECTORS)}")
    torch.manual_seed(number_from(recipe.seed, "weights"))
    grid = {"step": recipe.proposal_step, "sides": recipe.proposal_sides, "aspects": recipe.proposal_aspects}
    proposals = proposal_grid((recipe.height, recipe.width), **grid)
    return PaintedBoxes(DETECTORS[recipe.model](num_classes, **recipe.model_options), proposals, num_classes)


def mixing_words(recipe: MixRecipe) -> Taxonomy:
    """Return the taxonomy of the network's outputs: of the eleven classes, or for the naive mix of all words."""
    streets = Taxonomy.read("streets")
    if recipe.mixing != "naive":
        return streets
    return naive_mix({name: tuple(streets.sets[name]) for name in ("fine", recipe.second)})


def make_objective(recipe: TrainRecipe, weights: Tensor | None) -> Objective:
    """Return the loss that the recipe trains with; `weights` (C,) are those of the classes."""
    if recipe.loss != "cross_entropy":
        return {"focal": focal_objective, "dice": dice_objective}[recipe.loss]()
    if recipe.background != "explicit":
        return implicit_objective(scribe=recipe.background == "scribe")
    if recipe.kl_weight:
        return CVAEObjective(
            kl_weight=recipe.kl_weight,
            warmup_steps=recipe.kl_warmup,
            samples=recipe.noise_samples,
            free_nats=recipe.free_nats,
        )
    if recipe.boundary_weight:
        return boundary_objective(weights, recipe.boundary_weight)
    if recipe.hard_share < 1:
        threshold = recipe.hard_threshold or math.inf
        return hard_pixel_objective(recipe.hard_share, threshold, random=recipe.hard_by_lot, class_weights=weights)
    return pixel_objective(weights, recipe.aux_weight)


def fit_options(recipe: NetworkRecipe, sitting: Sitting, fabric: Fabric, stage: str = "") -> dict[str, object]:
    """Return the arguments of `fit` that are the same for every task; `stage` names one of several trainings."""
    path = run_folder(recipe, sitting.runs) / f"checkpoint{stage}.safetensors" if recipe.checkpoint_every else None
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
        "seed": number_from(recipe.seed, stage) if stage else recipe.seed,
        "checkpoints": Checkpoints(path, max(recipe.checkpoint_every, 1), recipe.hash() + stage),
        "fabric": fabric,
        "workers": loading_processes(fabric, sitting.cores),
        "on_step": sitting.on_step,
        "should_stop": sitting.should_stop,
        "show_progress": sitting.show_progress,
        "description": recipe.title(),
    }


def loading_processes(fabric: Fabric, share: int = 0) -> int:
    """Return how many processes load images: beside a GPU, which would wait for them, as many as the run has cores.

    Args:
        share: The run's cores; 0: all but one.
    """
    return min(8, share or cores() - 1) if fabric.device.type == "cuda" else 0


def checkpoint_path(name: str) -> Path:
    """Return the path of the committed checkpoint `name`."""
    return CHECKPOINTS / f"{name}.safetensors"


def save_run_weights(recipe: NetworkRecipe, model: nn.Module, runs: Path | None = None) -> None:
    """Write the weights of a finished training into the folder of its run."""
    save_weights(run_folder(recipe, runs) / "weights.safetensors", model, about={"recipe_hash": recipe.hash()})


def trained_model(recipe: NetworkRecipe, runs: Path | None = None) -> nn.Module | None:
    """Return the network that this machine has trained from `recipe`, or None."""
    path = run_folder(recipe, runs) / "weights.safetensors"
    if not path.exists():
        return None
    model = build_model(recipe, len(open_split(recipe, recipe.val_split, cache=False).classes))
    load_weights(path, model)
    return model.eval()
