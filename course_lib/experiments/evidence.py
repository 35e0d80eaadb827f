"""What to measure next: the missing runs of all tables, ordered by what they would settle, and how long they take.

It makes the plan of `course evidence` and runs nothing.

The unit is a question: a claim with its two rows, or a row that no claim asks for. Headline claims come first,
then other claims, then rows; of these what has been begun, then what is short. A question is seen through, seed by
seed, before the next one begins; the run of an ancillary network comes before those that learn from it.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from course_lib.experiments.recipe import Key, Recipe
from course_lib.experiments.records import RecordError, read_record, record_path, record_state, run_folder
from course_lib.experiments.report.claims import judge_all
from course_lib.experiments.report.scoreboard import read_results
from course_lib.experiments.table import RESULT_PROFILES, Table

Rates = Mapping[tuple[str, ...], float]
"""Seconds for each pixel that is trained on: of (table, row), of (table,), and of () for all."""

GUESS = {"cuda": (1 / 25e6, 0.02), "cpu": (1 / 500e3, 0.0)}
"""Seconds a pixel, and a step at least, where nothing is recorded: a card that some runs share, two cores."""
START = 15.0
"""Seconds in which a run begins: imports, images, the first step."""
MEASURED = 100
"""Images that a run without steps is guessed to look at."""


@dataclass(frozen=True)
class Planned:
    """A missing run: the seconds it is guessed to take, and what it would help to settle."""

    recipe: Recipe
    seconds: float
    settles: str


@dataclass(frozen=True)
class Question:
    """Some rows of a table to be measured together; the lower the `rank`, the more they settle."""

    table: Table
    rank: int
    about: str
    rows: tuple[str, ...]


def questions(table: Table) -> Iterator[Question]:
    """Yield the claims of a table, and each of its rows that no claim asks for."""
    asked: set[str] = set()
    for claim in table.claims:
        rows = tuple(dict.fromkeys(table.rows[row].runs for row in (claim.better, claim.worse, *claim.room)))
        asked |= set(rows)
        yield Question(table, 0 if claim.headline else 1, f"{'headline ' * claim.headline}claim {claim.id}", rows)
    for row in table.rows.values():
        if row.runs == row.name and row.name not in asked:
            yield Question(table, 2 if table.scored else 3, "its own row", (row.name,))


def plan(
    tables: Iterable[Table], profile: str, seeds: Sequence[int], *, device: str, absent: Mapping[Key, str] | None = None
) -> list[Planned]:
    """Return the runs that have no valid record, in the order in which they are best made.

    Args:
        tables: All of them have the profile.
        device: "cuda" or "cpu", whose recorded rates count.
        absent: Runs whose images are not here; they are left out.
    """
    tables = list(tables)
    rates = recorded_rates(tables, profile, device)
    states: dict[Key, tuple[str, bool]] = {}

    def state(recipe: Recipe) -> tuple[str, bool]:
        if recipe.key not in states:
            found = record_state(recipe)[0]
            begun = found == "valid" or any(run_folder(recipe).glob("checkpoint*.safetensors"))
            states[recipe.key] = found, begun
        return states[recipe.key]

    ordered = []
    for question in (q for table in tables for q in questions(table)):
        recipes = list(runs_of(question, profile, seeds))
        missing = [r for r in recipes if state(r)[0] != "valid" and r.key not in (absent or {})]
        runs = [Planned(recipe, estimate(recipe, rates, device), question.about) for recipe in missing]
        runs.sort(key=lambda run: (run.recipe.seed, run.recipe.needed() is not None, run.seconds))
        begun = any(state(recipe)[1] for recipe in recipes)
        ordered.append(((question.rank, not begun, sum(run.seconds for run in runs)), runs))
    ordered.sort(key=lambda entry: entry[0])
    planned = {run.recipe.key: run for _, runs in reversed(ordered) for run in runs}  # the first question's words
    return [planned[key] for key in dict.fromkeys(run.recipe.key for _, runs in ordered for run in runs)]


def runs_of(question: Question, profile: str, seeds: Sequence[int]) -> Iterator[Recipe]:
    """Yield all runs of a question, recorded or not, with those that they learn from."""
    for row in question.rows:
        for recipe in (question.table.recipe(row, profile, seed) for seed in seeds):
            if recipe.seed == seeds[0] or recipe.chance:
                needed = recipe.needed()
                yield from [recipe] if needed is None else [needed, recipe]


# -- how long ----------------------------------------------------------------------------------------


def recorded_rates(tables: Sequence[Table], profile: str, device: str) -> dict[tuple[str, ...], float]:
    """Return the median rates of the records on file that were made on this kind of device.

    Records of changed recipes count too.

    Args:
        tables: All of them have the profile.
    """
    found = defaultdict(list)
    for table in tables:
        home = record_path(table.recipe(next(iter(table.rows)), profile)).parent
        for path in home.glob(f"*-{profile}-seed*.json"):
            try:
                record = read_record(path)
            except RecordError:
                continue
            if record.device == device:
                for key in ((table.name, record.recipe["row"]), (table.name,), ()):
                    found[key].append(record.seconds / pixels(record.recipe))
    return {key: statistics.median(rates) for key, rates in found.items()}


def pixels(settings: Mapping[str, object]) -> int:
    """Return how many pixels a run with these settings trains on, or looks at where it trains nothing."""
    height, width = settings.get("crop", (0, 0))
    area = height * width or settings["height"] * settings["width"]
    return area * (settings.get("steps", 0) * settings.get("batch_size", 0) or MEASURED)


def estimate(recipe: Recipe, rates: Rates, device: str) -> float:
    """Return the seconds that a run takes, by the rate of its row, else of its table, else of all, else a guess."""
    keys = ((recipe.table, recipe.row), (recipe.table,), ())
    rate = next((rates[key] for key in keys if key in rates), None)
    if rate is not None:
        return START + rate * pixels(recipe.settings())
    pixel, step = GUESS[device]
    return START + max(pixel * pixels(recipe.settings()), step * recipe.steps)


def missing_cost(table: Table, profile: str, seeds: Sequence[int] = (0, 1, 2)) -> float:
    """Return the seconds that the missing runs of a table are guessed to take, one after the other.

    On a GPU for the gpu profile, else on a CPU.
    """
    device = "cuda" if profile == "gpu" else "cpu"
    return sum(run.seconds for run in plan([table], profile, seeds, device=device))


def beginnings(planned: Sequence[Planned], jobs: int) -> list[float]:
    """Return the seconds after which each run begins, if `jobs` run at a time and the estimates hold."""
    free = [0.0] * jobs
    heapify(free)
    return [heapreplace(free, free[0] + run.seconds) for run in planned]


# -- what changed ------------------------------------------------------------------------------------


def verdicts(tables: Mapping[str, Table], profile: str) -> dict[tuple[str, str], str]:
    """Return {(table, statement): verdict} of all claims at a profile; the quick profile has no verdicts.

    Args:
        tables: All of a paper, because its claims are confirmed together (Holm).
    """
    if profile not in RESULT_PROFILES:
        return {}
    results = [read_results(table) for table in tables.values()]
    return {(found.claim.table, found.claim.statement): found.words for found in judge_all(results, profile)}
