"""Recipes: everything that decides the result of a run, as plain values, one class for each task.

A recipe that exists is possible: impossible values raise RecipeError when it is made, all of them together.
`course_lib.experiments.table` makes recipes of the rows of a table.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import ClassVar

from course_lib.experiments.metric_names import MEASURE_NAMES
from course_lib.plumbing.suggest import did_you_mean

BACKGROUNDS = ("explicit", "implicit", "scribe")
WEIGHTINGS = ("none", "median_frequency", "log_frequency", "mild_log_frequency")
OPTIMIZERS = ("adamw", "sgd")
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
FIRST = {
    "model": "", "steps": 0, "dataset_options": {}, "train_split": "train", "val_split": "val", "train_length": 0,
    "crop": (0, 0), "scale": (1.0, 1.0), "flip": True, "jitter": 0.0, "model_options": {}, "start_from": "",
    "class_weighting": "none", "optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 1e-4,
    "batch_size": 8, "warmup_steps": 0, "poly_power": 0.9, "precision": "auto",
}  # fmt: skip
"""What every hash counts, with the values of a recipe that has no such field. Never edit: records would go stale."""


Key = tuple[str, str, str, int]
"""Table, row, profile and seed of a run."""


class RecipeError(ValueError):
    """A table or recipe that makes no sense: a sentence for each problem, with the key and the reason."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. Sizes are in pixels; `height` x `width` is what the network gets.

    Attributes:
        task: What is done, a key of `experiments.runs.TASKS`.
        chance: Whether the seed changes the result.
        dataset_options: Knobs of the data set; `train_KNOB` and `val_KNOB` set one for that split alone.
    """

    task: ClassVar[str]
    chance: ClassVar[bool] = True
    table: str
    row: str
    profile: str
    seed: int
    dataset: str
    height: int
    width: int
    dataset_options: dict[str, object] = field(default_factory=dict)
    val_split: str = "val"

    def __post_init__(self) -> None:
        wrong = [f"{key} is {getattr(self, key)!r}, but must be {what}" for key, what in self._problems()]
        if wrong:
            raise RecipeError(*wrong)

    @property
    def key(self) -> Key:
        """What distinguishes the runs of one command."""
        return self.table, self.row, self.profile, self.seed

    def needed(self) -> "Recipe | None":
        """Return the run that this one learns from, where there is one."""
        return None

    def title(self) -> str:
        """Return the name of the run in progress bars and lists."""
        return f"{self.row} seed {self.seed}"

    def hash(self) -> str:
        """Return twelve hex digits that change with any value that may change the result.

        A field that is younger than the first records counts only where it differs from its default.
        """
        given = asdict(self)
        counted = {
            f.name: given[f.name]
            for f in fields(self)
            if f.name != "checkpoint_every" and (f.name in FIRST or given[f.name] != _default(f))
        }
        if self.task != "train":
            counted["task"] = self.task
        return hashlib.sha256(json.dumps(FIRST | counted, sort_keys=True).encode()).hexdigest()[:12]

    def settings(self) -> dict[str, object]:
        """Return the recipe as plain JSON values; `recipe_from` makes it again."""
        return {"task": self.task, **json.loads(json.dumps(asdict(self)))}

    def options_of(self, split: str) -> dict[str, object]:
        """Return the data set's options for one split: `train_length` is `length` there, and nothing elsewhere."""
        options = {key: value for key, value in self.dataset_options.items() if not key.startswith(("train_", "val_"))}
        for key, value in self.dataset_options.items():
            if key.startswith(("train_", "val_")) and key.startswith(f"{split}_"):
                options[key.removeprefix(f"{split}_")] = value
        return options

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield each impossible value: (its key, what it must be)."""
        yield from _wrong(self.height >= 32, "height", "at least 32")
        yield from _wrong(self.width >= 32, "width", "at least 32")


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe(Recipe):
    """What every training has: network, augmentation, optimiser, checkpoints.

    Attributes:
        model: Key of MODELS; `model_options` are the arguments of that model.
        crop: Height and width of the random crop; (0, 0) is the whole picture.
        scale: Smallest and largest factor of the random size.
        elastic: Elastic deformation in pixels (`data.transforms.bend`).
        start_from: A committed checkpoint in course_lib/checkpoints that the weights start from ("": the seed).
        checkpoint_every: Steps between checkpoints; 0 keeps nothing of the run on disk. It changes no result
            and is no part of the hash.
    """

    model: str
    steps: int
    train_split: str = "train"
    crop: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    jitter: float = 0.0
    elastic: float = 0.0
    model_options: dict[str, object] = field(default_factory=dict)
    start_from: str = ""
    class_weighting: str = "none"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 8
    warmup_steps: int = 0
    poly_power: float = 0.9
    precision: str = "auto"
    checkpoint_every: int = 0

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from _wrong(self.steps >= 1, "steps", "at least 1")
        yield from _wrong(self.batch_size >= 1, "batch_size", "at least 1")
        yield from _wrong(0 < self.learning_rate < math.inf, "learning_rate", "above 0")
        yield from _wrong(0 < self.scale[0] <= self.scale[1], "scale", "smallest and largest factor, above 0")
        yield from _wrong(0 <= self.jitter <= 1, "jitter", "between 0 and 1")
        yield from _wrong(0 <= self.elastic < math.inf, "elastic", "0 (none) or more pixels")
        yield from _wrong(self.class_weighting in WEIGHTINGS, "class_weighting", f"one of {', '.join(WEIGHTINGS)}")
        yield from _wrong(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        height, width = self.height * self.scale[1], self.width * self.scale[1]
        if self.crop[0] > height or self.crop[1] > width:
            yield "crop", f"no larger than the largest picture, {height:.0f}x{width:.0f}"
        elif self.crop != (0, 0) and min(self.crop) < 32:
            yield "crop", "(0, 0), or at least 32 both ways"


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(NetworkRecipe):
    """A network trained on one split and measured on another.

    Attributes:
        train_length: How many training pictures (0: all).
        aux_weight: Weight of the loss of a model's auxiliary head (0: the head is not trained).
        boundary_weight: w0 of U-Net's weights of the gaps between objects, which are the connected regions of
            classes 1, 2, ... (0: none).
        background: "explicit" (a logit of its own), or "implicit" or "scribe": it follows from those of the
            objects (`course_lib.implicit_background`).
        unseen: A class that is taken out of labels and classes (""): its pixels are ignored.
        hard_share: Share of each picture's pixels, the hardest, that the loss is the mean of (`course_lib.hard_examples`).
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
        yield from _wrong(self.train_length >= 0, "train_length", "0 (all) or more")
        for key in ("aux_weight", "boundary_weight", "kl_weight", "free_nats"):
            yield from _wrong(0 <= getattr(self, key) < math.inf, key, "0 (none) or more")
        yield from _wrong(self.background in BACKGROUNDS, "background", f"one of {', '.join(BACKGROUNDS)}")
        yield from _wrong(0 < self.hard_share <= 1, "hard_share", "above 0 and at most 1 (all)")
        yield from _wrong(0 <= self.hard_threshold < math.inf, "hard_threshold", "0 (none) or more")
        mining = self.hard_share < 1
        yield from _wrong(
            mining or not self.hard_threshold, "hard_threshold", "0: hard_share = 1 has all pixels already"
        )
        yield from _wrong(mining or not self.hard_by_lot, "hard_by_lot", "false: hard_share = 1 has all pixels already")
        yield from _wrong(self.kl_warmup >= 0, "kl_warmup", "0 (none) or more steps")
        yield from _wrong(self.noise_samples >= 1, "noise_samples", "at least 1")
        priors = self.refine_priors
        weights = [value for value in priors if type(value) in (int, float) and 0 <= value < math.inf]
        yield from _wrong(bool(priors) and weights == priors, "refine_priors", "a list of numbers, each 0 or more")
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
        if self.background != "explicit":
            chosen, without = "background", ("aux_weight", "boundary_weight", "kl_weight")
        elif self.kl_weight:
            chosen, without = "kl_weight", ("aux_weight", "boundary_weight")
        elif self.boundary_weight:
            chosen, without = "boundary_weight", ("aux_weight",)
        elif self.hard_share < 1:
            chosen, without = "hard_share", ("aux_weight",)
        reason = f"{chosen} = {getattr(self, chosen, '')!r} has one loss, without weights of another kind"
        for key in without:
            yield from _wrong(not getattr(self, key), key, f"0: {reason}")
        if chosen not in ("", "hard_share"):
            yield from _wrong(self.hard_share == 1, "hard_share", f"1: {reason}")
        if chosen in ("background", "kl_weight"):
            yield from _wrong(self.class_weighting == "none", "class_weighting", f"'none': {reason}")


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
        yield from _wrong(self.factor >= 1, "factor", "at least 1")


@dataclass(frozen=True, kw_only=True)
class SelfCorrectionRecipe(NetworkRecipe):
    """Few masks (F) and many boxes (W): `experiments.tasks.self_correction`.

    Attributes:
        method: How it is learnt, a key of OPTIONS_OF_METHOD; `method_options` are its settings.
        full_length: Of F, the number of pictures with masks.
        full_split: The split whose names F is drawn from ("": all training pictures).
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
        yield from _wrong(self.full_length >= 1, "full_length", "at least 1")
        if self.method not in OPTIONS_OF_METHOD:
            yield "method", f"one of {', '.join(OPTIONS_OF_METHOD)}"
        elif not set(self.method_options) <= set(OPTIONS_OF_METHOD[self.method]):
            yield "method_options", f"of {', '.join(OPTIONS_OF_METHOD[self.method]) or 'nothing'}"


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(NetworkRecipe):
    """A detector of objects, all of one class, on a grid of proposals: `experiments.tasks.detect`.

    Attributes:
        model: Key of DETECTORS.
        train_length: How many training pictures (0: all).
        proposal_step, proposal_sides, proposal_aspects: The arguments of `course_lib.detection.proposal_grid`.
        rois: Boxes of each picture that a step learns from.
        background_low: Least IoU with an object of those that hold none.
    """

    task: ClassVar[str] = "detect"
    train_length: int = 0
    proposal_step: int = 8
    proposal_sides: list[float] = field(default_factory=lambda: [14.0, 24.0, 40.0])
    proposal_aspects: list[float] = field(default_factory=lambda: [1.0])
    rois: int = 48
    background_low: float = 0.1

    def _problems(self) -> Iterator[tuple[str, str]]:
        yield from super()._problems()
        yield from _wrong(self.train_length >= 0, "train_length", "0 (all) or more")
        yield from _wrong(self.proposal_step >= 1, "proposal_step", "at least 1 pixel")
        for key in ("proposal_sides", "proposal_aspects"):
            numbers = [value for value in getattr(self, key) if type(value) in (int, float) and 0 < value < math.inf]
            yield from _wrong(bool(numbers) and numbers == getattr(self, key), key, "a list of numbers above 0")
        yield from _wrong(self.rois >= 1, "rois", "at least 1")
        yield from _wrong(0 <= self.background_low < 0.5, "background_low", "0 or more, and below 0.5")
        yield from _wrong(self.class_weighting == "none", "class_weighting", "'none': boxes are not weighted by class")


@dataclass(frozen=True, kw_only=True)
class MixRecipe(NetworkRecipe):
    """A network that learns from two sets labelled in different words, tested on a third: `experiments.tasks.mixed_sets`.

    Attributes:
        mixing: How the words of the second set are understood, one of MIXINGS; "alone" leaves that set out.
        first: The set in the words of the test; of a generated one, `first_length` pictures.
        second: What the taxonomy "streets" calls the other set: "coarse" (generated streets at dusk) or "penn_fudan".
        test_style: Kind of corruption of the test pictures ("": none), with `test_severity`.
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
        yield from _wrong(self.mixing in MIXINGS, "mixing", f"one of {', '.join(MIXINGS)}")
        yield from _wrong(self.second in ("coarse", "penn_fudan"), "second", "'coarse' or 'penn_fudan'")
        yield from _wrong(self.first_length >= 1, "first_length", "at least 1")
        yield from _wrong(1 <= self.test_severity <= 5, "test_severity", "1 to 5")
        yield from _wrong(self.class_weighting == "none", "class_weighting", "'none' where sets are mixed")
        if self.mixing == "relabelled" and self.second == "penn_fudan":
            yield "mixing", "another than 'relabelled': nobody has relabelled Penn-Fudan"


KINDS = (TrainRecipe, UpperBoundRecipe, SelfCorrectionRecipe, DetectRecipe, MixRecipe)
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


def required(task: str) -> list[str]:
    """Return the keys that a recipe of `task` must give."""
    return [f.name for f in fields(RECIPES[task]) if _default(f) is MISSING]


def _default(of: Field) -> object:
    return of.default if of.default_factory is MISSING else of.default_factory()


def _wrong(good: bool, key: str, what: str) -> Iterator[tuple[str, str]]:
    if not good:
        yield key, what
