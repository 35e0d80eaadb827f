"""The task "self_correction": the ancillary network, and the primary network by every method.

F is drawn from the pictures that have boxes, the same for all seeds and nested by size; W is the rest, of
which a run sees no mask. The ancillary network that a primary one needs is a run of its own, that of the
row `ancillary_<|F|>` with seed 0: it is trained once, whoever needs it first, and its logits on the
training pictures are kept beside it in half precision, so that methods and seeds share them.

Convolutional correction has three stages: the ancillary network learns from half of F; primary network and
correction learn from F for a third of the steps (`share_on_f`), and from F and W for the rest. Each of these
two trainings has a learning rate that starts and falls anew; the other methods have one.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.data.registry import dataset_info
from course_lib.data.sample import DataError, SegmentationDataset
from course_lib.data.splits import Alternating, Subset, split_f_w
from course_lib.data.stream import number_from
from course_lib.experiments.recipes import Recipe, ancillary_of
from course_lib.experiments.records import Record, run_folder
from course_lib.experiments.reproduce import (
    build_model,
    checkpoints_of,
    finish,
    fit_options,
    loading_processes,
    open_split,
    run,
    trained_model,
)
from course_lib.losses import class_pixels, class_weights, pixel_objective
from course_lib.models.ancillary import Ancillary, box_batch, check_boxes
from course_lib.models.blocks import resize_to
from course_lib.plumbing.checkpoint import CheckpointError
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.plumbing.files import atomic_write
from course_lib.plumbing.locks import Busy, only_one
from course_lib.plumbing.progress import progress_bar
from course_lib.self_correction import (
    AncillaryObjective,
    ConvolutionalCorrection,
    Guided,
    PrimaryObjective,
    PrimaryWithCorrection,
    boxed_batch,
    soft_batch,
)
from course_lib.train import History, Interrupted, evaluate, fit

log = logging.getLogger(__name__)

SPLIT_SEED = 0
IN_MEMORY: dict[str, "Suggestions"] = {}
"""Of recipes that keep nothing on disk: the suggestions of the last few ancillary networks, by recipe hash."""
NETWORKS: dict[str, Ancillary] = {}
"""These networks, as they were when their training ended."""


class Suggestions:
    """The ancillary network's logits on a set of pictures, in half precision, in memory or in a file.

    `suggestions[index]` is (C, H, W) float32 at the pictures' size. They are kept as the decoder gives them
    (a quarter of the size for DeepLabV3+) and enlarged as the network does it.
    """

    def __init__(self, source: Tensor | Path, size: tuple[int, int]):
        self.source, self.size = source, size
        self.opened = None

    def __getitem__(self, index: int) -> Tensor:
        if isinstance(self.source, Tensor):
            scores = self.source[index : index + 1]
        else:
            if self.opened is None:
                self.opened = safe_open(self.source, framework="pt")
            scores = self.opened.get_slice("scores")[index : index + 1]
        return resize_to(scores.float(), self.size)[0]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "opened": None}  # each process that loads pictures opens the file


def describe(ancillary: str, training: SegmentationDataset) -> dict[str, str]:
    """What a file of suggestions must be of: the ancillary run by its hash, and which pictures in which order."""
    names = [training[index].name for index in range(len(training))]
    size = tuple(training[0].labels.shape)
    pictures = hashlib.sha256(json.dumps([names, size]).encode()).hexdigest()[:12]
    return {"ancillary": ancillary, "pictures": pictures}


@torch.no_grad()
def suggest(
    ancillary: Ancillary, training: SegmentationDataset, fabric: Fabric, batch_size: int, show_progress: bool
) -> Tensor:
    """The scores of all pictures, (n, C, h, w) float16."""
    ancillary.eval()
    device = next(ancillary.parameters()).device
    parts = []
    for first in progress_bar(range(0, len(training), batch_size), "ancillary logits", show=show_progress, delay=2):
        samples = [training[i] for i in range(first, min(first + batch_size, len(training)))]
        images, _, maps = box_batch(samples, ancillary.num_classes)
        with fabric.autocast():
            scores = ancillary.scores(images.to(device), maps.to(device))
        parts.append(scores.to("cpu", torch.float16))
    scores = torch.cat(parts)
    if not scores.isfinite().all():
        raise FloatingPointError("the ancillary network's logits are not finite in half precision")
    return scores


def write_suggestions(path: Path, scores: Tensor, about: dict[str, str]) -> None:
    """Write scores (n, C, h, w) with what they are of, atomically."""
    with atomic_write(path) as temporary:
        save_file({"scores": scores.contiguous()}, temporary, metadata=about)


def read_suggestions(path: Path, about: dict[str, str], size: tuple[int, int]) -> Suggestions:
    """The suggestions in `path`. Raises CheckpointError where they are of something else, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: (file.metadata() or {}).get(key) for key in about}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete it") from error
    what = {"ancillary": "another ancillary network", "pictures": "other pictures"}
    for key, value in about.items():
        if found[key] != value:
            raise CheckpointError(f"{path} holds logits of {what[key]} ({found[key]}, not {value}): delete it")
    return Suggestions(path, size)


def split(recipe: Recipe, training: SegmentationDataset) -> tuple[list[int], list[int], list[str]]:
    """F and W as indices of the training pictures, and the names of those without boxes, which are in neither.

    F is drawn from the split `full_split` where the recipe names one. Raises DataError for a set without
    boxes or background and for a box that cannot be, ValueError for a `full_length` that is too large.
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
        raise DataError(f"no picture of {recipe.dataset} has a box: self-correction needs boxes")
    if without:
        log.warning("%d pictures have no box and are left out: %s", len(without), ", ".join(without[:5]))
    candidates = boxed
    if recipe.full_split not in ("", recipe.train_split):
        allowed = set(dataset_info(recipe.dataset).opener(split=recipe.full_split).names)
        candidates = [index for index in boxed if names[index] in allowed]
    if recipe.full_length > len(candidates):
        raise ValueError(
            f"full_length is {recipe.full_length}, but only {len(candidates)} pictures of {recipe.dataset} "
            "have masks and boxes"
        )
    chosen, _ = split_f_w([names[index] for index in candidates], recipe.full_length, SPLIT_SEED)
    full = [candidates[index] for index in chosen]
    return full, sorted(set(boxed) - set(full)), without


def suggestions_for(
    recipe: Recipe,
    training: SegmentationDataset,
    *,
    fabric: Fabric,
    folder: Path | None,
    show_progress: bool,
    should_stop: Callable[[], bool] | None,
) -> Suggestions:
    """The logits on all training pictures of the ancillary network that `recipe` needs.

    Both are made now where this machine has them not yet. Of several processes that need the same ones, one
    makes them and the others wait. Raises Interrupted when it is asked to stop.
    """
    wanted, size = ancillary_of(recipe), (recipe.height, recipe.width)
    options = {"show_progress": show_progress, "folder": folder, "fabric": fabric}
    if not recipe.checkpoint_every:
        if wanted.hash() not in IN_MEMORY:
            if wanted.hash() not in NETWORKS:
                run(wanted, should_stop=should_stop, **options)
            network = NETWORKS[wanted.hash()]
            scores = suggest(network, training, fabric, recipe.batch_size, show_progress)
            _keep(IN_MEMORY, wanted, Suggestions(scores, size))
        return IN_MEMORY[wanted.hash()]
    home, about = run_folder(wanted, folder), describe(wanted.hash(), training)
    path = home / f"logits-{wanted.hash()}-{about['pictures']}.safetensors"
    with ExitStack() as held:

        def begin() -> tuple[bool, bool]:
            while not path.exists():
                try:
                    held.enter_context(only_one(home / "lock", patience=2.0))
                    break
                except Busy:
                    if should_stop is not None and should_stop():
                        raise Interrupted(0) from None
            return path.exists(), (home / "weights.safetensors").exists()

        there, trained = first_decides(fabric, begin)
        if not there:
            model = trained_model(wanted, folder) if trained else None
            if model is None:
                model, _ = run(wanted, should_stop=should_stop, **options)

            def make() -> None:
                device = fabric.device
                scores = suggest(model.to(device), training, fabric, recipe.batch_size, show_progress)
                write_suggestions(path, scores, about)

            first_decides(fabric, make)
    return read_suggestions(path, about, size)


def _keep(memory: dict[str, object], recipe: Recipe, value: object) -> None:
    while len(memory) > 3:
        del memory[next(iter(memory))]
    memory[recipe.hash()] = value


def self_correction(
    recipe: Recipe,
    *,
    show_progress: bool,
    folder: Path | None,
    fabric: Fabric | None,
    on_step: Callable[[int, float], None] | None,
    should_stop: Callable[[], bool] | None,
) -> tuple[nn.Module, Record]:
    """The task: train by the recipe's method, measure, and return the network with its record.

    The seconds are the run's own; those of the ancillary network are in its own record.
    """
    training, validation = (open_split(recipe, name) for name in (recipe.train_split, recipe.val_split))
    full, weak, without = split(recipe, training)
    fabric = fabric or make_fabric(recipe.precision)
    classes = len(training.classes)
    asked = {"should_stop": should_stop, "show_progress": show_progress}
    history = History()

    def train(
        network: nn.Module, pictures: object, steps: int, *, done: int = 0, stage: str = "", **options: object
    ) -> None:
        """A stage of the training; `done` steps were made before it."""
        told = None if on_step is None else lambda step, loss: on_step(done + step, loss)
        try:
            made = fit(
                network,
                pictures,
                **{**fit_options(recipe), "steps": steps},
                fabric=fabric,
                workers=loading_processes(fabric),
                seed=number_from(recipe.seed, stage) if stage else recipe.seed,
                checkpoints=checkpoints_of(recipe, folder, stage),
                on_step=told,
                description=recipe.title(),
                **asked,
                **options,
            )
        except Interrupted as interrupted:
            raise Interrupted(done + interrupted.step) from None
        history.losses += made.losses
        history.seconds += made.seconds

    model = build_model(recipe, classes)
    masks, collate = Subset(training, full), {}
    if recipe.method == "ancillary":
        collate = {"collate": partial(box_batch, num_classes=classes)}
        train(model, masks, recipe.steps, objective=AncillaryObjective(), **collate)
    elif recipe.method == "full_only":
        objective = pixel_objective(weights_of(recipe, masks))
        train(model, masks, recipe.steps, objective=objective)
    else:
        weights = weights_of(recipe, masks)
        _train_primary(recipe, model, training, (full, weak), weights, train, fabric, folder, asked)
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=show_progress, fabric=fabric, **collate)
    if recipe.method == "ancillary" and not recipe.checkpoint_every:
        _keep(NETWORKS, recipe, copy.deepcopy(model))
    return model, finish(
        recipe,
        model,
        matrix,
        validation,
        history=history,
        fabric=fabric,
        folder=folder,
        data={
            "with_masks": len(full),
            "without_boxes": without,
            "with_boxes_only": 0 if recipe.method in ("ancillary", "full_only") else len(weak),
        },
    )


def weights_of(recipe: Recipe, full: SegmentationDataset) -> Tensor | None:
    """The weights of the classes, (C,), from the masks of F: scaled so that F's pixels have a mean of 1."""
    if recipe.class_weighting == "none":
        return None
    masks = [full[index].labels.as_subclass(Tensor) for index in range(len(full))]
    weights = class_weights(recipe.class_weighting, masks, len(full.classes))
    pixels, _ = class_pixels(masks, len(full.classes))
    return weights * pixels.sum() / (weights * pixels).sum()


def _train_primary(
    recipe: Recipe,
    model: nn.Module,
    training: SegmentationDataset,
    indices: tuple[list[int], list[int]],
    weights: Tensor | None,
    train: Callable[..., None],
    fabric: Fabric,
    folder: Path | None,
    asked: dict[str, object],
) -> None:
    """Train `model` on F and W by the recipe's method."""
    classes, options = len(training.classes), dict(recipe.method_options)
    collate, suggestions = soft_batch, None
    if recipe.method == "em_fixed":
        collate = partial(boxed_batch, num_classes=classes)
    else:
        suggestions = suggestions_for(recipe, training, fabric=fabric, folder=folder, **asked)
    full, weak = (
        Guided(training, part, labelled, suggestions) for part, labelled in zip(indices, (True, False), strict=True)
    )
    mixed = Alternating(full, weak) if len(weak) else full
    if recipe.method != "convolutional":
        objective = PrimaryObjective(recipe.method, steps=recipe.steps, class_weights=weights, **options)
        train(model, mixed, recipe.steps, objective=objective, collate=collate)
        return
    torch.manual_seed(number_from(recipe.seed, "correction"))
    both = PrimaryWithCorrection(model, ConvolutionalCorrection(classes, options.get("correction_width", 128)))
    on_f = round(recipe.steps * options.get("share_on_f", 1 / 3))
    objective = PrimaryObjective("convolutional", class_weights=weights)
    train(both, full, on_f, stage="-on-f", objective=objective, collate=collate)
    train(both, mixed, recipe.steps - on_f, done=on_f, objective=objective, collate=collate)
