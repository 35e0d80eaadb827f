"""What every recipe has: its hash, its settings, and the refusal of impossible values.

A recipe that exists is possible: impossible values raise RecipeError when it is made, all of them together.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import ClassVar

WEIGHTINGS = ("none", "median_frequency", "log_frequency", "mild_log_frequency")
OPTIMIZERS = ("adamw", "sgd")
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
            if f.name != "checkpoint_every" and (f.name in FIRST or given[f.name] != default_of(f))
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
        yield from unless(self.height >= 32, "height", "at least 32")
        yield from unless(self.width >= 32, "width", "at least 32")


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe(Recipe):
    """What every training has: network, augmentation, optimiser, checkpoints.

    Attributes:
        model: Key of MODELS; `model_options` are the arguments of that model.
        crop: Height and width of the random crop; (0, 0) is the whole image.
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
        yield from unless(self.steps >= 1, "steps", "at least 1")
        yield from unless(self.batch_size >= 1, "batch_size", "at least 1")
        yield from unless(0 < self.learning_rate < math.inf, "learning_rate", "above 0")
        yield from unless(0 < self.scale[0] <= self.scale[1], "scale", "smallest and largest factor, above 0")
        yield from unless(0 <= self.jitter <= 1, "jitter", "between 0 and 1")
        yield from unless(0 <= self.elastic < math.inf, "elastic", "0 (none) or more pixels")
        yield from unless(self.class_weighting in WEIGHTINGS, "class_weighting", f"one of {', '.join(WEIGHTINGS)}")
        yield from unless(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        height, width = self.height * self.scale[1], self.width * self.scale[1]
        if self.crop[0] > height or self.crop[1] > width:
            yield "crop", f"no larger than the largest image, {height:.0f}x{width:.0f}"
        elif self.crop != (0, 0) and min(self.crop) < 32:
            yield "crop", "(0, 0), or at least 32 both ways"


def default_of(of: Field) -> object:
    """Return what a field is where it is not given; MISSING where it must be."""
    return of.default if of.default_factory is MISSING else of.default_factory()


def unless(good: bool, key: str, what: str) -> Iterator[tuple[str, str]]:
    """Yield (key, what it must be), unless it is so: for `_problems` of a recipe."""
    if not good:
        yield key, what
