"""Records: what a run measured, one JSON file a run, written once and by the machine.

The file is `results/<table>/<row>-<profile>-seed<seed>.json`. It holds the recipe with its hash, so a changed
recipe makes it stale, and a digest of its own content, so that a number changed by hand is found out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from course_lib.experiments.recipe import Recipe
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import build_root, results_root, runs_root

SCHEMA = 1


class RecordError(ValueError):
    """A record that cannot be trusted. The message names the file and the reason."""


@dataclass(frozen=True)
class Record:
    """The result of one run.

    Attributes:
        metrics: Overall metrics of the validation split, 0..1, by name.
        per_class: {class: {"iou", "accuracy", "pixels"}}, None for 0/0.
        data: What was trained and measured on: sets, splits, counts, size, void handling.
        seconds: Of training and evaluation.
        peak_memory_mib: Of the GPU during the run; on the CPU of the process, 0 where it did not run alone in it.
        parameters: How many numbers the model learns.
        losses: Mean training loss over about twenty consecutive parts of the run.
        date: ISO 8601, UTC.
        pictures: Right pixels, and how many count ("pixels"), of each image that was measured, by way of answering;
            only where a claim is judged image by image.
        evaluations: What was measured while the network trained, each with its "step". This and `pictures` are left
            out of the file and of the digest where empty.
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
    pictures: dict[str, list[int]] = field(default_factory=dict)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    schema: int = SCHEMA

    def content(self) -> dict[str, object]:
        """Return the fields as the file holds them, without the digest."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("pictures", "evaluations")}

    def digest(self) -> str:
        """Return the sha256 of the content."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()


def records_folder(recipe: Recipe, records: Path | None = None) -> Path:
    """Return the folder of all records: `records`, else `results/`, or `build/records/quick` for the quick profile.

    The numbers of the quick profile are no results.
    """
    return records or (build_root() / "records" / "quick" if recipe.profile == "quick" else results_root())


def record_path(recipe: Recipe, records: Path | None = None) -> Path:
    """Return the path of the record of `recipe` in the folder `records`."""
    name = f"{recipe.row}-{recipe.profile}-seed{recipe.seed}.json"
    return records_folder(recipe, records) / recipe.table / name


def run_folder(recipe: Recipe, runs: Path | None = None) -> Path:
    """Return the folder of the checkpoint and the final weights of `recipe`, in `runs` or `runs/`."""
    name = f"{recipe.row}-{recipe.profile}-seed{recipe.seed}-{recipe.hash()}"
    return (runs or runs_root()) / recipe.table / name


def write_record(record: Record, path: Path) -> None:
    """Write `record` atomically, with its digest."""
    content = {**record.content(), "digest": record.digest()}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Return the record in `path`.

    Raises:
        RecordError: Where it is damaged, was edited or is of a newer schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
        if content["schema"] > SCHEMA:
            raise RecordError(
                f"{path} has schema {content['schema']}, this course reads up to {SCHEMA}: update the course"
            )
        record = Record(**content)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is no readable record ({error}): move it away and run its row again") from error
    if record.digest() != digest:
        raise RecordError(f"{path} was changed after it was written: move it away and run its row again")
    return record


def find_record(recipe: Recipe, records: Path | None = None) -> Record | None:
    """Return the record of exactly this recipe, or None where there is none or it is of a changed recipe."""
    path = record_path(recipe, records)
    if not path.exists():
        return None
    record = read_record(path)
    return record if record.recipe_hash == recipe.hash() else None


def record_state(recipe: Recipe, records: Path | None = None) -> tuple[str, str]:
    """Return (state, reason) of the record of `recipe`.

    The state is "valid"; "missing"; "stale", of a changed recipe, to be replaced; or "untrusted", damaged or
    edited by hand: never overwritten automatically.
    """
    try:
        record = find_record(recipe, records)
    except RecordError as error:
        return "untrusted", str(error)
    if record is not None:
        return "valid", ""
    path = record_path(recipe, records)
    return ("stale", f"{path} is of a changed recipe") if path.exists() else ("missing", "")
