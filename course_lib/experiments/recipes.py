"""Recipes: everything that decides the result of a run, as plain values, one class for each task.

`course_lib.experiments.table` makes recipes of the rows of a table.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import ClassVar

from course_lib.experiments.metric_names import MEASURE_NAMES
from course_lib.experiments.recipe import NetworkRecipe, Recipe, RecipeError, default_of, unless
from course_lib.plumbing.suggest import did_you_mean

BACKGROUNDS = ("explicit", "implicit", "scribe")
OPTIONS_OF_METHOD = {
    "ancillary": (),
    "full_only": (),
    "none": (),
    "linear": ("alpha_start", "alpha_end", "alpha_shape"),
    "convolutional": ("correction_width", "share_on_f"),
    "em_fixed": ("foreground_bias", "background_bias"),
}
"""The methods of the task "self_correction" and what `method_options` may set for each: see
`course_lib.self_correction`; `correction_width` is that of the convolutional correction, `share_on_f` the share
of the steps that are made on F alone before W is added.
"""
MIXINGS = ("alone", "naive", "one_child", "ignored", "sum_of_children", "relabelled")
"""The ways of the task "mix", with `MixRecipe`."""

LOSSES = ("cross_entropy", "focal", "dice")
"""The losses over the pixels of the task "train"."""

FEW_MASKS_METHODS = ("decoupled", "joint", "joint_from_classifier")
"""What the task "few_masks" trains, with `FewMasksRecipe`."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(NetworkRecipe):
    """A network trained on one split and measured on another.

    Attributes:
        train_length: How many training images (0: all).
        loss: "cross_entropy", or "focal" or "dice" instead (`course_lib.losses`).
        aux_weight: Weight of the loss of a model's auxiliary head (0: the head is not trained).
        boundary_weight: w0 of U-Net's weights of the gaps between objects, which are the connected regions of
            classes 1, 2, ... (0: none).
        background: "explicit" (a logit of its own), or "implicit" or "scribe": it follows from those of the
            objects (`course_lib.implicit_background`).
        unseen: A class that is taken out of labels and classes (""): its pixels are ignored.
        hard_share: Share of each image's pixels, the hardest, that the loss is the mean of (`course_lib.hard_examples`).
        hard_threshold: Loss above which a pixel is learnt from besides (0: none).
        hard_by_lot: Whether that share is chosen at random: a control.
        measures: What is measured besides the confusion matrix: names of `experiments.measures.MEASURES`.
        kl_weight: Weight of KL in a CVAE's loss (0: the plain loss, which never asks for the code).
        kl_warmup: Steps over which that weight rises.
        free_nats: What each number of the code may carry without cost.
        noise_samples: T of a CVAE's attenuated likelihood.
        refine_priors: Weights of the prior on the code for the measure "refinement"; the first is that of its
            plain numbers.
    """

    task: ClassVar[str] = "train"
    train_length: int = 0
    loss: str = "cross_entropy"
    aux_weight: float = 0.0
    boundary_weight: float = 0.0
    background: str = "explicit"
    unseen: str = ""
    hard_share: float = 1.0
    hard_threshold: float = 0.0
    hard_by_lot: bool = False
    measures: list[str] = field(default_factory=list)
    kl_weight: float = 0.0
    kl_warmup: int = 0
    free_nats: float = 0.0
    noise_samples: int = 10
    refine_priors: list[float] = field(default_factory=lambda: [1.0])

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.train_length >= 0, "train_length", "0 (all) or more")
        for key in ("aux_weight", "boundary_weight", "kl_weight", "free_nats"):
            yield from unless(0 <= getattr(self, key) < math.inf, key, "0 (none) or more")
        yield from unless(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")
        yield from unless(self.background in BACKGROUNDS, "background", f"one of {', '.join(BACKGROUNDS)}")
        yield from unless(0 < self.hard_share <= 1, "hard_share", "above 0 and at most 1 (all)")
        yield from unless(0 <= self.hard_threshold < math.inf, "hard_threshold", "0 (none) or more")
        mining = self.hard_share < 1
        yield from unless(
            mining or not self.hard_threshold, "hard_threshold", "0: hard_share = 1 has all pixels already"
        )
        yield from unless(mining or not self.hard_by_lot, "hard_by_lot", "false: hard_share = 1 has all pixels already")
        yield from unless(self.kl_warmup >= 0, "kl_warmup", "0 (none) or more steps")
        yield from unless(self.noise_samples >= 1, "noise_samples", "at least 1")
        priors = self.refine_priors
        weights = [value for value in priors if type(value) in (int, float) and 0 <= value < math.inf]
        yield from unless(bool(priors) and weights == priors, "refine_priors", "a list of numbers, each 0 or more")
        yield from self._problems_of_measures()
        yield from self._problems_of_the_loss()

    def _problems_of_measures(self) -> Iterator[tuple[str, str]]:
        if any(not isinstance(name, str) for name in self.measures):
            yield "measures", "a list of names"
            return
        for name in self.measures:
            if name not in MEASURE_NAMES:
                hint = did_you_mean(name, MEASURE_NAMES)
                yield "measures", f"of {', '.join(MEASURE_NAMES)}: measure {name!r} is unknown{hint}"

    def _problems_of_the_loss(self) -> Iterator[tuple[str, str]]:
        """Yield the weights that a run's one loss has no place for."""
        chosen, without = "", ()
        if self.loss != "cross_entropy":
            chosen, without = "loss", ("aux_weight", "boundary_weight", "kl_weight")
        elif self.background != "explicit":
            chosen, without = "background", ("aux_weight", "boundary_weight", "kl_weight")
        elif self.kl_weight:
            chosen, without = "kl_weight", ("aux_weight", "boundary_weight")
        elif self.boundary_weight:
            chosen, without = "boundary_weight", ("aux_weight",)
        elif self.hard_share < 1:
            chosen, without = "hard_share", ("aux_weight",)
        reason = f"{chosen} = {getattr(self, chosen, '')!r} has one loss, without weights of another kind"
        for key in without:
            yield from unless(not getattr(self, key), key, f"0: {reason}")
        if chosen not in ("", "hard_share"):
            yield from unless(self.hard_share == 1, "hard_share", f"1: {reason}")
        if chosen == "loss":
            yield from unless(self.background == "explicit", "background", f"'explicit': {reason}")
        if chosen in ("loss", "background", "kl_weight"):
            yield from unless(self.class_weighting == "none", "class_weighting", f"'none': {reason}")


@dataclass(frozen=True, kw_only=True)
class UpperBoundRecipe(Recipe):
    """The truth itself, down- and up-sampled by `factor`, measured against the truth: no network, no training."""

    task: ClassVar[str] = "upper_bound"
    chance: ClassVar[bool] = False
    steps: ClassVar[int] = 0
    checkpoint_every: ClassVar[int] = 0
    factor: int

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.factor >= 1, "factor", "at least 1")


@dataclass(frozen=True, kw_only=True)
class SelfCorrectionRecipe(NetworkRecipe):
    """Few masks (F) and many boxes (W): `experiments.tasks.self_correction`.

    Attributes:
        method: How it is learnt, a key of OPTIONS_OF_METHOD; `method_options` are its settings.
        full_length: Of F, the number of images with masks.
        full_split: The split whose names F is drawn from ("": all training images).
    """

    task: ClassVar[str] = "self_correction"
    method: str
    full_length: int
    full_split: str = ""
    method_options: dict[str, object] = field(default_factory=dict)

    @property
    def needs_ancillary(self) -> bool:
        """Whether the method learns from the logits of an ancillary network."""
        return self.method in ("none", "linear", "convolutional")

    def ancillary(self) -> "SelfCorrectionRecipe":
        """Return the recipe of the ancillary network whose logits this run learns from.

        It is that of the row `ancillary_<|F|>` with seed 0: of F for most methods, of half of F for the
        convolutional one.
        """
        length = max(1, self.full_length // 2) if self.method == "convolutional" else self.full_length
        changes = {"row": f"ancillary_{length}", "seed": 0, "full_length": length, "method_options": {}}
        return replace(self, method="ancillary", **changes)

    def needed(self) -> Recipe | None:
        """Return the ancillary network's recipe, for a method that learns from its logits."""
        return self.ancillary() if self.needs_ancillary else None

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.full_length >= 1, "full_length", "at least 1")
        if self.method not in OPTIONS_OF_METHOD:
            yield "method", f"one of {', '.join(OPTIONS_OF_METHOD)}"
        elif not set(self.method_options) <= set(OPTIONS_OF_METHOD[self.method]):
            yield "method_options", f"of {', '.join(OPTIONS_OF_METHOD[self.method]) or 'nothing'}"


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(NetworkRecipe):
    """A detector of objects, all of one class, on a grid of proposals: `experiments.tasks.detect`.

    Attributes:
        model: Key of DETECTORS.
        train_length: How many training images (0: all).
        proposal_step, proposal_sides, proposal_aspects: The arguments of `course_lib.detection.proposal_grid`.
        rois: Boxes of each image that a step learns from.
        background_low: Least IoU with an object of those that hold none.
        hardest: 0: the boxes are drawn at random. Else the `rois` hardest of all are learnt from, and of boxes with a
            larger IoU than this the hardest alone (`course_lib.hard_examples.hard_rois`); 1 leaves every box.
    """

    task: ClassVar[str] = "detect"
    train_length: int = 0
    proposal_step: int = 8
    proposal_sides: list[float] = field(default_factory=lambda: [14.0, 24.0, 40.0])
    proposal_aspects: list[float] = field(default_factory=lambda: [1.0])
    rois: int = 48
    background_low: float = 0.1
    hardest: float = 0.0

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.train_length >= 0, "train_length", "0 (all) or more")
        yield from unless(self.proposal_step >= 1, "proposal_step", "at least 1 pixel")
        for key in ("proposal_sides", "proposal_aspects"):
            numbers = [value for value in getattr(self, key) if type(value) in (int, float) and 0 < value < math.inf]
            yield from unless(bool(numbers) and numbers == getattr(self, key), key, "a list of numbers above 0")
        yield from unless(self.rois >= 1, "rois", "at least 1")
        yield from unless(0 <= self.background_low < 0.5, "background_low", "0 or more, and below 0.5")
        yield from unless(0 <= self.hardest <= 1, "hardest", "from 0 to 1")
        yield from unless(self.class_weighting == "none", "class_weighting", "'none': boxes are not weighted by class")


@dataclass(frozen=True, kw_only=True)
class MixRecipe(NetworkRecipe):
    """A network that learns from two sets labelled in different words, tested on a third: `experiments.tasks.mixed_sets`.

    Attributes:
        mixing: How the words of the second set are understood, one of MIXINGS; "alone" leaves that set out.
        first: The set in the words of the test; of a generated one, `first_length` images.
        second: What the taxonomy "streets" calls the other set: "coarse" (generated streets at dusk) or "penn_fudan".
        test_style: Kind of corruption of the test images ("": none), with `test_severity`.
    """

    task: ClassVar[str] = "mix"
    mixing: str
    first: str = "street"
    first_length: int = 400
    second: str = "coarse"
    test_style: str = ""
    test_severity: int = 2

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.mixing in MIXINGS, "mixing", f"one of {', '.join(MIXINGS)}")
        yield from unless(self.second in ("coarse", "penn_fudan"), "second", "'coarse' or 'penn_fudan'")
        yield from unless(self.first_length >= 1, "first_length", "at least 1")
        yield from unless(1 <= self.test_severity <= 5, "test_severity", "1 to 5")
        yield from unless(self.class_weighting == "none", "class_weighting", "'none' where sets are mixed")
        if self.mixing == "relabelled" and self.second == "penn_fudan":
            yield "mixing", "another than 'relabelled': nobody has relabelled Penn-Fudan"


@dataclass(frozen=True, kw_only=True)
class FewMasksRecipe(NetworkRecipe):
    """Masks of few images, and of all images which classes they hold: `experiments.tasks.few_masks`.

    Attributes:
        method: "decoupled" (DecoupledNet), "joint" (one network of all classes, from scratch, which never hears what
            else is in the images) or "joint_from_classifier" (the same, from the weights of DecoupledNet's classifier).
        masks: Of each class, at least; the first images that hold so many have them (0: all images).
        classifier_steps: Steps on what is in all the images, before `steps` on the masks; "joint" has none.
    """

    task: ClassVar[str] = "few_masks"
    method: str
    masks: int
    classifier_steps: int

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from unless(self.model == "decouplednet", "model", "'decouplednet', whose parts all methods are made of")
        yield from unless(self.method in FEW_MASKS_METHODS, "method", f"one of {', '.join(FEW_MASKS_METHODS)}")
        yield from unless(self.masks >= 0, "masks", "0 (all) or more")
        yield from unless(self.classifier_steps >= 1, "classifier_steps", "at least 1")
        yield from unless(
            self.class_weighting == "none", "class_weighting", "'none': figure and ground have no weights"
        )


KINDS = (TrainRecipe, UpperBoundRecipe, SelfCorrectionRecipe, DetectRecipe, MixRecipe, FewMasksRecipe)
RECIPES: dict[str, type[Recipe]] = {kind.task: kind for kind in KINDS}
"""The class of each task's recipes. A new task has a class here and a function in `experiments.runs.TASKS`."""

SETTINGS = {f.name: f.type for kind in RECIPES.values() for f in fields(kind)}
"""Every key of every task with its type; a key has one meaning in all of them."""


def recipe_from(settings: dict[str, object]) -> Recipe:
    """Return the recipe whose `settings()` these are.

    Older records hold the fields of all tasks: those of others are left out.

    Raises:
        RecipeError: For an unknown task, an unknown or missing key, and impossible values.
    """
    task = settings.get("task", "train")
    if task not in RECIPES:
        raise RecipeError(f"task is {task!r}{did_you_mean(task, RECIPES)}; the tasks are {', '.join(RECIPES)}")
    unknown = [f"{key}: unknown key{did_you_mean(key, SETTINGS)}" for key in settings if key not in {*SETTINGS, "task"}]
    missing = [f"{key} is missing" for key in required(task) if key not in settings]
    if unknown or missing:
        raise RecipeError(*unknown, *missing)
    own = {f.name for f in fields(RECIPES[task])}
    values = {key: tuple(value) if key in ("crop", "scale") else value for key, value in settings.items() if key in own}
    return RECIPES[task](**values)


@functools.cache
def required(task: str) -> tuple[str, ...]:
    """Return the keys that a recipe of `task` must give."""
    return tuple(f.name for f in fields(RECIPES[task]) if default_of(f) is MISSING)
