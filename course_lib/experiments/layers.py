"""The layers of a table's file, laid over one another: the recipe of each row at each profile."""

import typing
from dataclasses import fields

from course_lib.experiments.recipe import Recipe, RecipeError
from course_lib.experiments.recipes import RECIPES, SETTINGS, required
from course_lib.plumbing.suggest import did_you_mean

KEYS = ("table", "row", "profile", "seed")
TYPES = {key: kind for key, kind in SETTINGS.items() if key not in KEYS} | {"task": str}
"""What a table's file may set."""


def recipes_of(name: str, content: dict, problems: list[str]) -> dict[tuple[str, str], Recipe]:
    """Return the recipe of every row with runs at every profile of a file; add what is wrong to `problems`."""
    made = {}
    for row, about in content["rows"].items():
        for profile, changes in content["profiles"].items() if isinstance(about, dict) and "of" not in about else ():
            layers = {
                "recipe": content.get("recipe", {}),
                f"profiles.{profile}": changes,
                f"rows.{row}.recipe": about.get("recipe", {}),
                f"rows.{row}.{profile}": about.get(profile, {}),
            }
            if not all(isinstance(values, dict) for values in layers.values()):
                continue  # named by _row_problems
            try:
                made[row, profile] = _recipe({"table": name, "row": row, "profile": profile, "seed": 0}, layers)
            except RecipeError as error:
                problems += error.args
    return made


def _recipe(keys: dict[str, object], layers: dict[str, dict]) -> Recipe:
    """Lay the layers of settings over one another; options are merged key by key."""
    settings: dict[str, object] = {}
    layer_of: dict[str, str] = {}
    problems = []
    for layer, values in layers.items():
        for key, value in values.items():
            layer_of[key] = layer
            try:
                value = _typed(key, value)
            except RecipeError as error:
                problems.append(f"[{layer}] {error}")
                continue
            settings[key] = {**settings.get(key, {}), **value} if key.endswith("_options") else value
    task = settings.pop("task", "train")
    if task not in RECIPES:
        hint = f"{did_you_mean(task, RECIPES)}; the tasks are {', '.join(RECIPES)}"
        raise RecipeError(*problems, f"[{layer_of['task']}] task is {task!r}{hint}")
    own = {field.name for field in fields(RECIPES[task])}
    problems += [f"[{layer_of[key]}] {key}: has no meaning for the task {task!r}" for key in settings if key not in own]
    missing = [key for key in required(task) if key not in layer_of and key not in KEYS]
    if missing:
        problems.append(f"row {keys['row']!r} at {keys['profile']!r} does not say {', '.join(missing)}")
    if problems:
        raise RecipeError(*problems)
    try:
        return RECIPES[task](**keys, **settings)
    except RecipeError as error:
        raise RecipeError(*(f"row {keys['row']!r}: {problem}" for problem in error.args)) from None


def _typed(key: str, value: object) -> object:
    """Return a value of TOML as its field holds it: pairs as tuples, whole numbers as floats where one is meant."""
    if key not in TYPES:
        raise RecipeError(f"{key}: unknown key{did_you_mean(key, TYPES)}")
    wanted = TYPES[key]
    origin = typing.get_origin(wanted) or wanted
    if origin is tuple and isinstance(value, list) and len(value) == 2:
        number = typing.get_args(wanted)[0]
        if {type(part) for part in value} <= {int, number}:  # not isinstance: true and false are no numbers
            return tuple(number(part) for part in value)
    elif origin is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    shapes = {tuple: "a pair of numbers", dict: "a table", list: "a list"}
    raise RecipeError(f"{key} is {value!r}, but must be {shapes.get(origin, f'of type {origin.__name__}')}")
