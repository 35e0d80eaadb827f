"""The task "self_correction": the ancillary network, and the primary network by every method.

F is drawn from the images that have boxes, the same for all seeds and nested by size; W is the rest, of
which a run uses no mask. The ancillary network that a primary one needs is a run of its own, that of the row
`ancillary_<|F|>` with seed 0: it is trained once, by the first run that needs it, and its logits on the
training images are kept beside it, so that methods and seeds share them.

While a primary network learns, some of W's hidden masks say how good suggestion, q and primary are
(`self_correction.HiddenMasks`); what they say at the end joins the metrics, as "w_target_mean_iou" and the like.

Convolutional correction has three stages: the ancillary network learns from half of F; primary network and
correction learn from F for a third of the steps (`share_on_f`), and from F and W for the rest. Each of these
two trainings has a learning rate that starts and falls anew; the other methods have one.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.data.boxes import box_batch, check_boxes
from course_lib.data.registry import dataset_info
from course_lib.data.sample import DataError, SegmentationDataset
from course_lib.data.splits import Alternating, Subset, split_f_w
from course_lib.data.stream import number_from
from course_lib.experiments.building import (
    Finished,
    Sitting,
    build_model,
    fit_options,
    open_split,
    save_run_weights,
    trained_model,
)
from course_lib.experiments.recipes import SelfCorrectionRecipe
from course_lib.experiments.records import run_folder
from course_lib.experiments.tasks.suggestions import (
    Suggestions,
    about_suggestions,
    read_suggestions,
    scores_of,
    write_suggestions,
)
from course_lib.losses import class_pixels, class_weights, pixel_objective
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.plumbing.locks import Busy, only_one
from course_lib.self_correction import (
    AncillaryObjective,
    ConvolutionalCorrection,
    Guided,
    HiddenMasks,
    PrimaryObjective,
    PrimaryWithCorrection,
    boxed_batch,
    soft_batch,
)
from course_lib.train import Checks, History, Interrupted, evaluate, fit

log = logging.getLogger(__name__)

SPLIT_SEED = 0
POINTS, HIDDEN = 6, 256
"""How often hidden masks are looked at in a training, and at most how many."""
IN_MEMORY: dict[str, Suggestions] = {}
"""Of recipes that keep nothing on disk: the suggestions of the last few ancillary networks, by recipe hash."""


def run(recipe: SelfCorrectionRecipe, sitting: Sitting) -> Finished:
    """Train by the recipe's method and measure.

    The seconds are the run's own; those of the ancillary network are in its own record.
    """
    training, validation = (open_split(recipe, name) for name in (recipe.train_split, recipe.val_split))
    full, weak, without = split(recipe, training)
    fabric = sitting.fabric or make_fabric(recipe.precision)
    sitting = replace(sitting, fabric=fabric)
    model, masks, suggestions = build_model(recipe, len(training.classes)), Subset(training, full), None
    weights, stages, collate = weights_of(recipe, masks), Stages(recipe, sitting), {}
    if recipe.method == "ancillary":
        collate = {"collate": partial(box_batch, num_classes=len(training.classes))}
        stages.train(model, masks, recipe.steps, objective=AncillaryObjective(), **collate)
    elif recipe.method == "full_only":
        stages.train(model, masks, recipe.steps, objective=pixel_objective(weights))
    else:
        suggestions = suggestions_for(recipe, training, sitting) if recipe.needs_ancillary else None
        train_primary(recipe, model, training, (full, weak), weights, stages, suggestions)
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=sitting.show_progress, fabric=fabric, **collate)
    if recipe.method == "ancillary" and not recipe.checkpoint_every:
        _remember(recipe, scores_of(model, training, fabric, recipe.batch_size, sitting.show_progress))
    data = {
        "train": recipe.train_split,
        "with_masks": len(full),
        "without_boxes": without,
        "with_boxes_only": 0 if recipe.method in ("ancillary", "full_only") else len(weak),
    }
    if suggestions is not None:
        data["suggestions"] = suggestions.digest()
    *_, last = stages.history.evaluations or [{}]
    on_w = {f"w_{name}": value for name, value in last.items() if name != "step"}
    return Finished(model, matrix, validation, stages.history, fabric, data, on_w)


@dataclass
class Stages:
    """The trainings of one run, one after the other; `history` is of all, but for the precision: the last one's."""

    recipe: SelfCorrectionRecipe
    sitting: Sitting
    history: History = field(default_factory=History)

    def train(
        self, network: nn.Module, pictures: object, steps: int, *, done: int = 0, stage: str = "", **options: object
    ) -> None:
        """Train for `steps` steps, after `done` steps of earlier stages.

        Raises:
            Interrupted: With the step counted over all stages.
        """
        report = self.sitting.on_step
        on_step = None if report is None else lambda step, loss: report(done + step, loss)
        usual = fit_options(self.recipe, replace(self.sitting, on_step=on_step), self.sitting.fabric, stage)
        try:
            made = fit(network, pictures, **{**usual, "steps": steps, **options})
        except Interrupted as interrupted:
            raise Interrupted(done + interrupted.step) from None
        self.history.losses += made.losses
        self.history.evaluations += [{**one, "step": done + one["step"]} for one in made.evaluations]
        self.history.seconds += made.seconds
        self.history.precision = made.precision


def train_primary(
    recipe: SelfCorrectionRecipe,
    model: nn.Module,
    training: SegmentationDataset,
    indices: tuple[list[int], list[int]],
    weights: Tensor | None,
    stages: Stages,
    suggestions: Suggestions | None,
) -> None:
    """Train `model` on F and W by the recipe's method.

    Args:
        indices: F and W as indices of `training`.
        weights: Of the classes, (C,).
        suggestions: The ancillary network's logits, for a method that learns from them.
    """
    classes, options = len(training.classes), dict(recipe.method_options)
    collate = partial(boxed_batch, num_classes=classes) if suggestions is None else soft_batch
    full, weak = (
        Guided(training, part, labelled, suggestions) for part, labelled in zip(indices, (True, False), strict=True)
    )
    mixed = Alternating(full, weak) if len(weak) else full
    some = indices[1][:: -(-len(weak) // HIDDEN) or 1]

    def learning(objective: PrimaryObjective) -> dict[str, object]:
        hidden = HiddenMasks(objective, Guided(training, some, True, suggestions), collate, recipe.batch_size)
        checks = Checks(every=-(-recipe.steps // POINTS), measure=hidden) if some else Checks()
        return {"objective": objective, "collate": collate, "checks": checks}

    if recipe.method != "convolutional":
        objective = PrimaryObjective(recipe.method, steps=recipe.steps, class_weights=weights, **options)
        stages.train(model, mixed, recipe.steps, **learning(objective))
        return
    torch.manual_seed(number_from(recipe.seed, "correction"))
    both = PrimaryWithCorrection(model, ConvolutionalCorrection(classes, options.get("correction_width", 128)))
    on_f = round(recipe.steps * options.get("share_on_f", 1 / 3))
    usual = learning(PrimaryObjective("convolutional", class_weights=weights))
    stages.train(both, full, on_f, stage="-on-f", **usual)
    stages.train(both, mixed, recipe.steps - on_f, done=on_f, **usual)


def suggestions_for(recipe: SelfCorrectionRecipe, training: SegmentationDataset, sitting: Sitting) -> Suggestions:
    """Return the logits on all training images of the ancillary network that `recipe` needs.

    Both are made now where this machine does not have them. Of several processes that need the same ones, one
    makes them and the others wait.

    Raises:
        Interrupted: When `sitting` asks to stop.
    """
    wanted, size, fabric = recipe.ancillary(), (recipe.height, recipe.width), sitting.fabric
    if not recipe.checkpoint_every:
        if wanted.hash() not in IN_MEMORY:
            train_ancillary(wanted, sitting)
        return IN_MEMORY[wanted.hash()]
    home, about = run_folder(wanted, sitting.runs), about_suggestions(wanted.hash(), training)
    path = home / f"logits-{wanted.hash()}-{about['pictures']}.safetensors"
    with ExitStack() as held:

        def begin() -> tuple[bool, bool]:
            while not path.exists():
                try:
                    held.enter_context(only_one(home / "lock", patience=2.0))
                    break
                except Busy:
                    if sitting.should_stop is not None and sitting.should_stop():
                        raise Interrupted(0) from None
            return path.exists(), (home / "weights.safetensors").exists()

        there, trained = first_decides(fabric, begin)
        if not there:
            model = trained_model(wanted, sitting.runs) if trained else train_ancillary(wanted, sitting)

            def make() -> None:
                scores = scores_of(model.to(fabric.device), training, fabric, recipe.batch_size, sitting.show_progress)
                write_suggestions(path, scores, about)

            first_decides(fabric, make)
    return read_suggestions(path, about, size)


def train_ancillary(wanted: SelfCorrectionRecipe, sitting: Sitting) -> nn.Module:
    """Train the ancillary network of `wanted` and keep its weights; its record is written by its own row's run."""
    model = run(wanted, replace(sitting, on_step=None)).model
    if wanted.checkpoint_every:
        first_decides(sitting.fabric, partial(save_run_weights, wanted, model, sitting.runs))
    return model


def split(recipe: SelfCorrectionRecipe, training: SegmentationDataset) -> tuple[list[int], list[int], list[str]]:
    """Return F and W as indices of the training images, and the names of those without boxes, in neither.

    F is drawn from the split `full_split` where the recipe names one.

    Raises:
        DataError: For a set without boxes or background, and for a box that cannot be.
        ValueError: For a `full_length` that is too large.
    """
    if training.background != 0:
        raise DataError(f"{recipe.dataset} has no background as class 0: boxes mark things before one")
    names, boxed = [], []
    for index in range(len(training)):
        _, labels, boxes, box_labels, name = training[index]
        try:
            check_boxes(boxes, box_labels, tuple(labels.shape), len(training.classes), name=name)
        except ValueError as error:
            raise DataError(f"{recipe.dataset}: {error}") from error
        names.append(name)
        if len(boxes):
            boxed.append(index)
    without = sorted(set(names) - {names[index] for index in boxed})
    if not boxed:
        raise DataError(f"no image of {recipe.dataset} has a box: self-correction needs boxes")
    if without:
        log.warning("%d images have no box and are left out: %s", len(without), ", ".join(without[:5]))
    candidates = boxed
    if recipe.full_split not in ("", recipe.train_split):
        allowed = set(dataset_info(recipe.dataset).opener(split=recipe.full_split).names)
        candidates = [index for index in boxed if names[index] in allowed]
    if recipe.full_length > len(candidates):
        raise ValueError(
            f"full_length is {recipe.full_length}, but only {len(candidates)} images of {recipe.dataset} "
            "have masks and boxes"
        )
    chosen, _ = split_f_w([names[index] for index in candidates], recipe.full_length, SPLIT_SEED)
    full = [candidates[index] for index in chosen]
    return full, sorted(set(boxed) - set(full)), without


def weights_of(recipe: SelfCorrectionRecipe, full: SegmentationDataset) -> Tensor | None:
    """Return the weights of the classes, (C,), from the masks of F: scaled so that F's pixels have a mean of 1."""
    if recipe.class_weighting == "none":
        return None
    masks = [full[index].labels.as_subclass(Tensor) for index in range(len(full))]
    weights = class_weights(recipe.class_weighting, masks, len(full.classes))
    pixels, _ = class_pixels(masks, len(full.classes))
    return weights * pixels.sum() / (weights * pixels).sum()


def _remember(recipe: SelfCorrectionRecipe, scores: Tensor) -> None:
    while len(IN_MEMORY) > 3:
        del IN_MEMORY[next(iter(IN_MEMORY))]
    IN_MEMORY[recipe.hash()] = Suggestions(scores, (recipe.height, recipe.width))
