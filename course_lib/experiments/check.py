"""The last check before anything runs: do models and data sets have what a table asks of them?"""

import inspect
from collections.abc import Iterator
from pathlib import Path

from course_lib.data.registry import DATASETS
from course_lib.data.sample import DataError
from course_lib.experiments.recipe import NetworkRecipe, Recipe, RecipeError
from course_lib.experiments.recipes import DetectRecipe
from course_lib.experiments.table import Table
from course_lib.models import DETECTORS, MODELS
from course_lib.plumbing.suggest import did_you_mean


def check_table(name: str, tables: Path | None = None) -> list[str]:
    """Return everything that is wrong with table `name`, a sentence each: file, key, reason, and a suggestion."""
    try:
        return problems_of(Table.read(name, tables))
    except RecipeError as error:
        return list(error.args)


def problems_of(table: Table) -> list[str]:
    """Return the names of models and data sets in `table`, and of their options, that do not exist: a sentence each."""
    problems = [
        f"{table.name}.toml: row {row!r} at {profile!r}: {problem}"
        for (row, profile), recipe in table.recipes.items()
        for problem in _names_that_do_not_fit(recipe)
    ]
    return list(dict.fromkeys(problems))


def _names_that_do_not_fit(recipe: Recipe) -> Iterator[str]:
    if recipe.dataset not in DATASETS:
        yield f"dataset {recipe.dataset!r} is unknown{did_you_mean(recipe.dataset, DATASETS)}"
    else:
        yield from _wrong_options_of_data(recipe)
    if not isinstance(recipe, NetworkRecipe):
        return
    models = DETECTORS if isinstance(recipe, DetectRecipe) else MODELS
    if recipe.model not in models:
        yield f"model {recipe.model!r} is unknown{did_you_mean(recipe.model, models)}"
        return
    known = inspect.signature(models[recipe.model]).parameters
    for key in recipe.model_options:
        if key not in known:
            yield f"model_options: {key}: {recipe.model} has no such option{did_you_mean(key, known)}"


def _wrong_options_of_data(recipe: Recipe) -> Iterator[str]:
    info, size = DATASETS[recipe.dataset], (recipe.height, recipe.width)
    for split in dict.fromkeys((getattr(recipe, "train_split", recipe.val_split), recipe.val_split)):
        if split not in info.splits:
            yield f"{recipe.dataset} has no split {split!r}{did_you_mean(split, info.splits)}"
            continue
        options = recipe.options_of(split)
        # generated images are made when they are asked for: opening such a set makes none
        kind = info.files or type(info.opener(split=split, size=size))
        known = inspect.signature(kind).parameters
        unknown = [key for key in options if key not in known]
        for key in unknown:
            yield f"dataset_options: {key}: {recipe.dataset} has no such option{did_you_mean(key, known)}"
        if info.files is None and not unknown:
            try:
                info.opener(split=split, size=size, **options)
            except (TypeError, ValueError, DataError) as error:
                yield f"dataset_options: {error}"
