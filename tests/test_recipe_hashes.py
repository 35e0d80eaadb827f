"""Committed records stay valid: the hash of every recipe in `results/` is the one that was recorded."""

import json

import pytest

from course_lib.experiments.recipe import Recipe, RecipeError
from course_lib.experiments.recipes import SETTINGS, recipe_from
from course_lib.plumbing.paths import ROOT

RECORDS = sorted((ROOT / "results").glob("*/*.json"))


def recipe_of(settings: dict) -> Recipe:
    """The recipe of a record, without the keys of fields that have been renamed since."""
    return recipe_from({key: value for key, value in settings.items() if key in {*SETTINGS, "task"}})


def test_there_are_records_to_compare():
    assert len(RECORDS) >= 133


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_hash_of_a_committed_record_is_that_of_its_recipe(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    recipe = recipe_of(record["recipe"])
    assert recipe.hash() == record["recipe_hash"]
    assert recipe_from(recipe.settings()) == recipe


def test_a_key_that_no_recipe_has_is_an_error_of_the_recipe():
    """Some records hold the key `refine_prior`, which has another name today."""
    settings = json.loads((ROOT / "results/implicit_street/implicit-laptop-seed0.json").read_text())["recipe"]
    with pytest.raises(RecipeError, match=r"refine_prior: unknown key \(did you mean 'refine_priors'"):
        recipe_from(settings)
