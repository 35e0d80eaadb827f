"""Committed records stay valid: the hash of every recipe in `results/` is the one that was recorded."""

import json
from dataclasses import fields

import pytest

from course_lib.experiments.recipes import Recipe
from course_lib.plumbing.paths import ROOT

RECORDS = sorted((ROOT / "results").glob("*/*.json"))


def recipe_of(settings: dict) -> Recipe:
    """The recipe of a record, without the keys of fields that have been renamed since."""
    known = {field.name for field in fields(Recipe)}
    return Recipe.from_settings({key: value for key, value in settings.items() if key in known})


def test_there_are_records_to_compare():
    assert len(RECORDS) >= 133


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_hash_of_a_committed_record_is_that_of_its_recipe(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert recipe_of(record["recipe"]).hash() == record["recipe_hash"]
