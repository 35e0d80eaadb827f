"""Recipes: everything that decides a training's result, as plain values read from a table's TOML file.

`course_lib/experiments/tables/<table>.toml` states the paper, the claim and layers of settings that
are laid over one another: `[recipe]` (the paper's), `[profiles.<profile>]` (what changes for that size of
machine) and the row's own (`recipe` in every profile, `quick`, `laptop` or `gpu` in one). Table, row, profile and seed together make one `Recipe`.
"""

import difflib
import hashlib
import json
import tomllib
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

PROFILES = ("quick", "laptop", "gpu")
TABLES = Path(__file__).parent / "tables"


class RecipeError(ValueError):
    """A table or recipe that makes no sense. The message names the file, the key and the reason."""


@dataclass(frozen=True)
class Recipe:
    """One training, resolved. Sizes are in pixels, `height` x `width` is what the network sees.

    dataset, dataset_options, train_length   set, its knobs, and how many training pictures (0: all)
    crop, scale, flip, jitter                augmentation (data.transforms.train_transform); crop (0, 0)
                                             is the whole picture, scale (1, 1) leaves its size
    model, model_options                     key of MODELS and the arguments of that model
    start_from                               name of a committed checkpoint in course_lib/checkpoints that
                                             the weights start from ("": from the seed)
    class_weighting                          "none", "median_frequency" or "log_frequency"
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
    model: str
    steps: int
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

    def hash(self) -> str:
        """Twelve hex digits that change with any value that may change the result."""
        settings = asdict(self)
        del settings["checkpoint_every"]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def settings(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))


def read_table(name: str, folder: Path = TABLES) -> dict:
    """The TOML of table `name`, as it stands. Raises RecipeError for an unknown or unreadable one."""
    path = folder / f"{name}.toml"
    if not path.exists():
        known = sorted(file.stem for file in folder.glob("*.toml"))
        raise RecipeError(
            f"no table {name!r}{suggest(name, known)}; the tables are {', '.join(known)}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path.name}: {error}") from error


def resolve(table: str, row: str, profile: str, seed: int = 0, folder: Path = TABLES) -> Recipe:
    """The recipe of one row of a table at a profile. Raises RecipeError naming file, key and reason."""
    content = read_table(table, folder)
    where = f"{table}.toml"
    rows = content.get("rows", {})
    if row not in rows:
        raise RecipeError(
            f"{where}: no row {row!r}{suggest(row, rows)}; the rows are {', '.join(rows)}"
        )
    if profile not in PROFILES:
        raise RecipeError(
            f"profile {profile!r}{suggest(profile, PROFILES)}; the profiles are {', '.join(PROFILES)}"
        )
    profiles = content.get("profiles", {})
    if profile not in profiles:
        raise RecipeError(f"{where}: [profiles.{profile}] is missing")
    settings: dict[str, object] = {}
    layers = {
        "recipe": content.get("recipe", {}),
        f"profiles.{profile}": profiles[profile],
        f"rows.{row}.recipe": rows[row].get("recipe", {}),
        f"rows.{row}.{profile}": rows[row].get(profile, {}),
    }
    for layer, values in layers.items():
        for key, value in values.items():
            if key in ("dataset_options", "model_options") and key in settings:
                value = {**settings[key], **value}
            settings[key] = _checked(where, layer, key, value)
    try:
        recipe = Recipe(table=table, row=row, profile=profile, seed=seed, **settings)
    except TypeError:
        missing = [
            f.name for f in fields(Recipe)
            if f.default is MISSING and f.default_factory is MISSING
            and f.name not in (*settings, "table", "row", "profile", "seed")
        ]  # fmt: skip
        raise RecipeError(
            f"{where}: row {row!r} at {profile!r} does not say {', '.join(missing)}"
        ) from None
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
        if all(
            isinstance(part, int) or (number is float and isinstance(part, float)) for part in value
        ):
            return tuple(number(part) for part in value)
    elif origin is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    shape = {tuple: "a pair of numbers", dict: "a table"}.get(origin, f"of type {origin.__name__}")
    raise RecipeError(f"{where}: [{layer}] {key} is {value!r}, but must be {shape}")


def _check_values(where: str, recipe: Recipe) -> None:
    problems = {
        "height": recipe.height < 32 and "at least 32",
        "width": recipe.width < 32 and "at least 32",
        "steps": recipe.steps < 1 and "at least 1",
        "batch_size": recipe.batch_size < 1 and "at least 1",
        "learning_rate": recipe.learning_rate <= 0 and "above 0",
        "train_length": recipe.train_length < 0 and "0 (all) or more",
        "scale": not 0 < recipe.scale[0] <= recipe.scale[1]
        and "smallest and largest factor, above 0",
        "jitter": not 0 <= recipe.jitter <= 1 and "between 0 and 1",
        "crop": recipe.crop != (0, 0)
        and min(recipe.crop) < 32
        and "(0, 0), or at least 32 both ways",
    }
    height, width = recipe.height * recipe.scale[1], recipe.width * recipe.scale[1]
    if recipe.crop[0] > height or recipe.crop[1] > width:
        problems["crop"] = f"no larger than the largest picture, {height:.0f}x{width:.0f}"
    for key, problem in problems.items():
        if problem:
            raise RecipeError(
                f"{where}: row {recipe.row!r}: {key} is {getattr(recipe, key)!r}, but must be {problem}"
            )


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """' (did you mean ...?)' where something known is spelt almost like `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
