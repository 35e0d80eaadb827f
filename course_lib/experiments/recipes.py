"""Recipes: everything that decides a training's result, as plain values read from a table's TOML file.

`course_lib/experiments/tables/<table>.toml` states the paper, the claim and layers of settings that
are laid over one another: `[recipe]` (the paper's), `[profiles.<profile>]` (what changes for that size of
machine) and the row's own (`recipe` in every profile, `quick`, `laptop` or `gpu` in one). Table, row, profile and seed together make one `Recipe`.
"""

import hashlib
import json
import math
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path

from course_lib.experiments.table_files import (
    PROFILES,
    TABLES,
    RecipeError,
    layout_problems,
    read_table,
    run_of,
    suggest,
)

__all__ = ["PROFILES", "TABLES", "Recipe", "RecipeError", "read_table", "resolve", "suggest"]

BACKGROUNDS = ("explicit", "implicit", "scribe")
OPTIONS_OF_METHOD = {
    "ancillary": (),
    "full_only": (),
    "none": (),
    "linear": ("alpha_start", "alpha_end", "alpha_shape"),
    "convolutional": ("correction_width", "share_on_f"),
    "em_fixed": ("foreground_bias", "background_bias"),
}
"""The methods of the task "self_correction" and what `method_options` may say of each: see
`course_lib.self_correction`; `correction_width` is that of the convolutional correction, `share_on_f` of
the steps are made on F alone before W is added.
"""
RUN_METHODS = tuple(OPTIONS_OF_METHOD)
WITHOUT_CHANCE = {"upper_bound"}
"""Tasks whose result does not depend on the seed: one run of a row is all there is."""


@dataclass(frozen=True)
class Recipe:
    """One run, resolved. Sizes are in pixels, `height` x `width` is what the network sees.

    task                                     "train"; "upper_bound": no network, but the truth itself
                                             down- and up-sampled by `factor`; or "self_correction": few
                                             masks and many boxes (experiments.self_corrected)
    dataset, dataset_options, train_length   set, its knobs, and how many training pictures (0: all)
    crop, scale, flip, jitter                augmentation (data.transforms.train_transform); crop (0, 0)
                                             is the whole picture, scale (1, 1) leaves its size
    model, model_options                     key of MODELS and the arguments of that model
    start_from                               name of a committed checkpoint in course_lib/checkpoints that
                                             the weights start from ("": from the seed)
    class_weighting                          "none", "median_frequency" or "log_frequency"
    aux_weight                               of the loss of a model's auxiliary head (0: it is not trained)
    elastic                                  elastic deformation in pixels (data.transforms.bend); 0: none
    boundary_weight                          w0 of U-Net's weights of the gaps between objects, which are
                                             the connected regions of classes 1, 2, ...; 0: none
    background                               "explicit": a logit of its own; "implicit" or "scribe": it follows
                                             from the objects' (course_lib.implicit_background)
    unseen                                   a class that is taken out of labels and classes (""): its pixels
                                             are ignored, so that the network never learns what they are
    measures                                 what is measured after the training besides the confusion
                                             matrix: names of experiments.measures.MEASURES
    kl_weight, kl_warmup, free_nats          of a CVAE's loss (course_lib.cvae): the weight of KL (0: the plain
                                             loss, which never asks for the code), the steps it rises over, and
                                             what each number of the code may say without paying
    noise_samples                            T of a CVAE's attenuated likelihood
    refine_priors                            weights of the prior on the code that the measure "refinement"
                                             refines; the first is that of its plain numbers
    method, full_length, full_split          how self_correction learns (RUN_METHODS), from how many masks (F),
                                             drawn from the names of which split ("": all training pictures)
    method_options                           settings of the method, see OPTIONS_OF_METHOD
    checkpoint_every                         steps between checkpoints; 0 keeps nothing of the run on disk
                                             (it changes no result and is not part of the hash)
    """

    table: str
    row: str
    profile: str
    seed: int
    dataset: str
    height: int
    width: int
    model: str = ""
    steps: int = 0
    dataset_options: dict[str, object] = field(default_factory=dict)
    train_split: str = "train"
    val_split: str = "val"
    train_length: int = 0
    crop: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    jitter: float = 0.0
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
    task: str = field(default="train", metadata={"later": True})
    factor: int = field(default=0, metadata={"later": True})
    aux_weight: float = field(default=0.0, metadata={"later": True})
    elastic: float = field(default=0.0, metadata={"later": True})
    boundary_weight: float = field(default=0.0, metadata={"later": True})
    background: str = field(default="explicit", metadata={"later": True})
    unseen: str = field(default="", metadata={"later": True})
    measures: list[str] = field(default_factory=list, metadata={"later": True})
    kl_weight: float = field(default=0.0, metadata={"later": True})
    kl_warmup: int = field(default=0, metadata={"later": True})
    free_nats: float = field(default=0.0, metadata={"later": True})
    noise_samples: int = field(default=10, metadata={"later": True})
    refine_priors: list[float] = field(default_factory=lambda: [1.0], metadata={"later": True})
    method: str = field(default="", metadata={"later": True})
    full_length: int = field(default=0, metadata={"later": True})
    full_split: str = field(default="", metadata={"later": True})
    method_options: dict[str, object] = field(default_factory=dict, metadata={"later": True})

    def hash(self) -> str:
        """Twelve hex digits that change with any value that may change the result.

        A field that was added after the first records were made (`later` in its metadata) counts only
        where it differs from its default, so that those records stay valid.
        """
        settings = asdict(self)
        del settings["checkpoint_every"]
        for added in fields(self):
            if added.metadata.get("later"):
                unsaid = added.default_factory() if added.default is MISSING else added.default
                if settings[added.name] == unsaid:
                    del settings[added.name]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def settings(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_settings(cls, settings: dict[str, object]) -> "Recipe":
        """The recipe whose `settings` these are."""
        pairs = {name: tuple(settings[name]) for name in ("crop", "scale") if name in settings}
        return cls(**{**settings, **pairs})

    def options_of(self, split: str) -> dict[str, object]:
        """The data set's options for one split: `train_length` is `length` there, and nothing elsewhere."""
        options = {key: value for key, value in self.dataset_options.items() if not key.startswith(("train_", "val_"))}
        for key, value in self.dataset_options.items():
            if key.startswith(("train_", "val_")) and key.startswith(f"{split}_"):
                options[key.removeprefix(f"{split}_")] = value
        return options

    def title(self) -> str:
        """What a progress bar or a list calls the run."""
        return f"{self.row} seed {self.seed}"


_OF_SELF_CORRECTION = {"method", "full_length", "full_split", "method_options"}
TASK_KEYS = {
    "train": {field.name for field in fields(Recipe)} - {"factor"} - _OF_SELF_CORRECTION,
    "upper_bound": {"task", "dataset", "dataset_options", "val_split", "height", "width", "factor"},
    "self_correction": _OF_SELF_CORRECTION
    | {
        "table",
        "row",
        "profile",
        "seed",
        "task",
        "dataset",
        "height",
        "width",
        "model",
        "steps",
        "dataset_options",
        "train_split",
        "val_split",
        "crop",
        "scale",
        "flip",
        "jitter",
        "elastic",
        "model_options",
        "start_from",
        "class_weighting",
        "optimizer",
        "learning_rate",
        "momentum",
        "weight_decay",
        "batch_size",
        "warmup_steps",
        "poly_power",
        "precision",
        "checkpoint_every",
    },
}
REQUIRED = {
    "train": ("dataset", "height", "width", "model", "steps"),
    "upper_bound": ("dataset", "height", "width", "factor"),
    "self_correction": ("dataset", "height", "width", "model", "steps", "method", "full_length"),
}


def ancillary_of(recipe: Recipe) -> Recipe:
    """The recipe of the ancillary network whose logits `recipe` learns from, that of the row
    `ancillary_<|F|>` with seed 0: of F for most methods, of half of F for the convolutional one.
    """
    length = recipe.full_length
    if recipe.method == "convolutional":
        length = max(1, length // 2)
    return replace(recipe, row=f"ancillary_{length}", seed=0, method="ancillary", full_length=length, method_options={})


def resolve(table: str, row: str, profile: str, seed: int = 0, folder: Path | None = None) -> Recipe:
    """The recipe of one row of a table at a profile, that of the row it reads where it has no runs of its own.

    Raises RecipeError naming file, key and reason.
    """
    content = read_table(table, folder)
    where = f"{table}.toml"
    for problem in layout_problems(table, content):
        raise RecipeError(problem)
    rows, profiles = content["rows"], content["profiles"]
    if row not in rows:
        raise RecipeError(f"{where}: no row {row!r}{suggest(row, rows)}; the rows are {', '.join(rows)}")
    row = run_of(content, row)
    if profile not in PROFILES:
        raise RecipeError(f"profile {profile!r}{suggest(profile, PROFILES)}; the profiles are {', '.join(PROFILES)}")
    if profile not in profiles:
        raise RecipeError(f"{where}: [profiles.{profile}] is missing")
    settings: dict[str, object] = {}
    said_by: dict[str, str] = {}
    layers = {
        "recipe": content.get("recipe", {}),
        f"profiles.{profile}": profiles[profile],
        f"rows.{row}.recipe": rows[row].get("recipe", {}),
        f"rows.{row}.{profile}": rows[row].get(profile, {}),
    }
    for layer, values in layers.items():
        for key, value in values.items():
            if key.endswith("_options") and key in settings:
                value = {**settings[key], **_checked(where, layer, key, value)}
            settings[key] = _checked(where, layer, key, value)
            said_by[key] = layer
    task = settings.get("task", "train")
    if task not in TASK_KEYS:
        raise RecipeError(
            f"{where}: [{said_by['task']}] task is {task!r}{suggest(task, TASK_KEYS)}; "
            f"the tasks are {', '.join(TASK_KEYS)}"
        )
    for key in settings:
        if key not in TASK_KEYS[task]:
            raise RecipeError(f"{where}: [{said_by[key]}] {key}: has no meaning for the task {task!r}")
    missing = [key for key in REQUIRED[task] if key not in settings]
    if missing:
        raise RecipeError(f"{where}: row {row!r} at {profile!r} does not say {', '.join(missing)}")
    recipe = Recipe(table=table, row=row, profile=profile, seed=seed, **settings)
    _check_values(where, recipe)
    return recipe


_TYPES = typing.get_type_hints(Recipe)


def _checked(where: str, layer: str, key: str, value: object) -> object:
    known = [name for name in _TYPES if name not in ("table", "row", "profile", "seed")]
    if key not in known:
        raise RecipeError(f"{where}: [{layer}] {key}: unknown key{suggest(key, known)}")
    wanted = _TYPES[key]
    origin = typing.get_origin(wanted) or wanted
    if origin is tuple and isinstance(value, list) and len(value) == 2:
        number = typing.get_args(wanted)[0]
        kinds = {type(part) for part in value}  # not isinstance: true and false are no numbers
        if kinds <= {int, number}:
            return tuple(number(part) for part in value)
    elif origin is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    shapes = {tuple: "a pair of numbers", dict: "a table", list: "a list"}
    shape = shapes.get(origin, f"of type {origin.__name__}")
    raise RecipeError(f"{where}: [{layer}] {key} is {value!r}, but must be {shape}")


def _is_weight(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _check_values(where: str, recipe: Recipe) -> None:
    problems = {
        "height": recipe.height < 32 and "at least 32",
        "width": recipe.width < 32 and "at least 32",
        "steps": recipe.steps < 1 and "at least 1",
        "factor": recipe.factor < 1 and "at least 1",
        "batch_size": recipe.batch_size < 1 and "at least 1",
        "learning_rate": not 0 < recipe.learning_rate < math.inf and "above 0",
        "train_length": recipe.train_length < 0 and "0 (all) or more",
        "scale": not 0 < recipe.scale[0] <= recipe.scale[1] and "smallest and largest factor, above 0",
        "jitter": not 0 <= recipe.jitter <= 1 and "between 0 and 1",
        "aux_weight": not 0 <= recipe.aux_weight < math.inf and "0 (none) or more",
        "elastic": not 0 <= recipe.elastic < math.inf and "0 (none) or more pixels",
        "boundary_weight": not 0 <= recipe.boundary_weight < math.inf and "0 (none) or more",
        "background": recipe.background not in BACKGROUNDS and f"one of {', '.join(BACKGROUNDS)}",
        "kl_weight": not 0 <= recipe.kl_weight < math.inf and "0 (none) or more",
        "kl_warmup": recipe.kl_warmup < 0 and "0 (none) or more steps",
        "free_nats": not 0 <= recipe.free_nats < math.inf and "0 (none) or more",
        "noise_samples": recipe.noise_samples < 1 and "at least 1",
        "refine_priors": not (recipe.refine_priors and all(map(_is_weight, recipe.refine_priors)))
        and "a list of numbers, each 0 or more",
        "method": recipe.method not in RUN_METHODS and f"one of {', '.join(RUN_METHODS)}",
        "full_length": recipe.full_length < 1 and "at least 1",
        "method_options": [key for key in recipe.method_options if key not in OPTIONS_OF_METHOD.get(recipe.method, ())]
        and f"of {', '.join(OPTIONS_OF_METHOD.get(recipe.method, ())) or 'nothing'}",
        "measures": any(not isinstance(name, str) for name in recipe.measures) and "a list of names",
        "crop": recipe.crop != (0, 0) and min(recipe.crop) < 32 and "(0, 0), or at least 32 both ways",
    }
    height, width = recipe.height * recipe.scale[1], recipe.width * recipe.scale[1]
    if recipe.crop[0] > height or recipe.crop[1] > width:
        problems["crop"] = f"no larger than the largest picture, {height:.0f}x{width:.0f}"
    for key, problem in problems.items():
        if problem and key in TASK_KEYS[recipe.task]:
            raise RecipeError(f"{where}: row {recipe.row!r}: {key} is {getattr(recipe, key)!r}, but must be {problem}")
