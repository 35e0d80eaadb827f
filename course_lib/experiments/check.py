"""Is a table right? All of it is looked at before anything runs, names of models and data sets included."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from course_lib.data.registry import DATASETS
from course_lib.data.sample import DataError
from course_lib.experiments.measures import MEASURED, MEASURES
from course_lib.experiments.recipes import Recipe, RecipeError, ancillary_of, read_table, resolve, suggest
from course_lib.experiments.table_files import layout_problems, run_of
from course_lib.models import MODELS


def check_table(name: str, folder: Path | None = None) -> list[str]:
    """Everything that is wrong with table `name`, a sentence each: file, key, reason, and a suggestion.

    A row with several mistakes in one recipe shows them one after the other.
    """
    try:
        content = read_table(name, folder)
    except RecipeError as error:
        return [str(error)]
    problems = layout_problems(name, content)
    if problems:
        return problems
    for row in content["rows"]:
        for profile in content["profiles"]:
            try:
                recipe = resolve(name, row, profile, folder=folder)
            except RecipeError as error:
                problems.append(str(error))
                continue
            where = f"{name}.toml: row {row!r} at {profile!r}: "
            problems += [where + problem for problem in _names_that_do_not_fit(recipe)]
            problems += [where + problem for problem in _metrics_not_measured(recipe, content)]
            problems += [where + problem for problem in _strange_ancillary(recipe, content, folder)]
    return list(dict.fromkeys(problems))


def _names_that_do_not_fit(recipe: Recipe) -> Iterator[str]:
    if recipe.dataset not in DATASETS:
        yield f"dataset {recipe.dataset!r} is unknown{suggest(recipe.dataset, DATASETS)}"
    else:
        yield from _wrong_options_of_data(recipe)
    if recipe.task == "upper_bound":
        return
    if recipe.profile != "quick" and not recipe.checkpoint_every:
        yield "checkpoint_every is missing: a run that is killed would start over"
    if recipe.model not in MODELS:
        yield f"model {recipe.model!r} is unknown{suggest(recipe.model, MODELS)}"
        return
    for measure in recipe.measures:
        if measure not in MEASURES:
            yield f"measure {measure!r} is unknown{suggest(measure, MEASURES)}"
    if recipe.aux_weight and recipe.boundary_weight:
        yield "aux_weight and boundary_weight: a run has one objective, leave one out"
    known = inspect.signature(MODELS[recipe.model]).parameters
    for key in recipe.model_options:
        if key not in known:
            yield f"model_options: {key}: {recipe.model} has no such option{suggest(key, known)}"


def _strange_ancillary(recipe: Recipe, content: dict, folder: Path | None) -> Iterator[str]:
    """A row that needs an ancillary network says of it what that network's own row says."""
    if recipe.task != "self_correction" or recipe.method in ("ancillary", "full_only", "em_fixed"):
        return
    needed = ancillary_of(recipe)
    if needed.row not in content["rows"]:
        yield f"its ancillary network has no row {needed.row!r}"
    elif resolve(recipe.table, needed.row, recipe.profile, needed.seed, folder) != needed:
        yield f"the row {needed.row!r} has other settings than this row's ancillary network"


def _metrics_not_measured(recipe: Recipe, content: dict) -> Iterator[str]:
    rows = [about for row, about in content["rows"].items() if run_of(content, row) == recipe.row]
    for part in (content, *content.get("claims", []), *rows):
        metric = part.get("metric", "mean_iou")
        needed = MEASURED.get(metric)
        if needed and needed not in recipe.measures:
            yield f"metric {metric!r} needs measures = [{needed!r}]"


def _wrong_options_of_data(recipe: Recipe) -> Iterator[str]:
    info = DATASETS[recipe.dataset]
    splits = (recipe.val_split,)
    if recipe.task != "upper_bound":
        splits = (recipe.train_split, *splits)
    for split in splits:
        if split not in info.splits:
            yield f"{recipe.dataset} has no split {split!r}{suggest(split, info.splits)}"
            continue
        options, size = recipe.options_of(split), (recipe.height, recipe.width)
        # generated pictures are made when they are asked for: opening such a set makes none
        kind = info.files or type(info.opener(split=split, size=size))
        known = inspect.signature(kind).parameters
        unknown = [key for key in options if key not in known]
        for key in unknown:
            yield f"dataset_options: {key}: {recipe.dataset} has no such option{suggest(key, known)}"
        if info.files is None and not unknown:
            try:
                info.opener(split=split, size=size, **options)
            except (TypeError, ValueError, DataError) as error:
                yield f"dataset_options: {error}"
