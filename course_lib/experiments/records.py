"""Records: what a run measured, one JSON file a run, written once and by the machine.

A record lies at `results/<table>/<row>-<profile>-seed<seed>.json`. It holds the recipe with its hash, so a
changed recipe makes it stale, and a digest of its own content, so a number changed by hand is found out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from course_lib.experiments.recipes import Recipe
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import build_root, results_root, runs_root

SCHEMA = 1


class RecordError(ValueError):
    """A record that cannot be trusted. The message names the file and the reason."""


@dataclass(frozen=True)
class Record:
    """The result of one run.

    recipe, recipe_hash   what was run
    metrics               overall metrics of the validation split, 0..1, by name
    per_class             {class: {"iou", "accuracy", "pixels"}}, None for 0/0
    data                  what was trained and measured on: sets, splits, counts, size, void handling
    seconds               training and evaluation; peak_memory_mib of the process or the GPU
    parameters            numbers the model learns
    losses                mean training loss over about twenty consecutive parts of the run
    machine, versions, commit, date   where, with what and when (ISO 8601, UTC)
    """

    recipe: dict[str, object]
    recipe_hash: str
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | int | None]]
    data: dict[str, object]
    seconds: float
    peak_memory_mib: float
    parameters: int
    device: str
    precision: str
    machine: dict[str, object]
    versions: dict[str, str]
    commit: str
    date: str
    losses: list[float] = field(default_factory=list)
    schema: int = SCHEMA

    def digest(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def record_path(recipe: Recipe, folder: Path | None = None) -> Path:
    """Where the record of `recipe` lies: in `folder`, else in `results/`, or `build/records/quick` for
    the quick profile, whose numbers are no results.
    """
    name = f"{recipe.row}-{recipe.profile}-seed{recipe.seed}.json"
    if folder is None:
        quick = recipe.profile == "quick"
        folder = build_root() / "records" / "quick" if quick else results_root()
    return folder / recipe.table / name


def run_folder(recipe: Recipe, folder: Path | None = None) -> Path:
    """Where the checkpoint and the final weights of `recipe` are kept."""
    name = f"{recipe.row}-{recipe.profile}-seed{recipe.seed}-{recipe.hash()}"
    return (folder or runs_root()) / recipe.table / name


def write_record(record: Record, path: Path) -> None:
    """Write `record` atomically, with its digest."""
    content = {**asdict(record), "digest": record.digest()}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Read a record. Raises RecordError where it is damaged, was edited or is of a newer schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
        if content["schema"] > SCHEMA:
            raise RecordError(
                f"{path} has schema {content['schema']}, this course reads up to {SCHEMA}: update the course"
            )
        record = Record(**content)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is no readable record ({error}): delete it and run its row again") from error
    if record.digest() != digest:
        raise RecordError(f"{path} was changed after it was written: delete it and run its row again")
    return record


def find_record(recipe: Recipe, folder: Path | None = None) -> Record | None:
    """The record of exactly this recipe, or None where there is none or it is of a changed recipe."""
    path = record_path(recipe, folder)
    if not path.exists():
        return None
    record = read_record(path)
    return record if record.recipe_hash == recipe.hash() else None


def record_state(recipe: Recipe, folder: Path | None = None) -> tuple[str, str]:
    """(state, reason) of the record of `recipe`: "valid"; "missing"; "stale", of a changed recipe, to be
    replaced; or "untrusted", damaged or edited, which nobody but a person may delete.
    """
    try:
        found = find_record(recipe, folder)
    except RecordError as error:
        return "untrusted", str(error)
    if found is not None:
        return "valid", ""
    path = record_path(recipe, folder)
    return ("stale", f"{path} is of a changed recipe") if path.exists() else ("missing", "")
