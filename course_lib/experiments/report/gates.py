"""Gates: what must be true of the records of a claim before its step means anything.

Each is computed from records and from the labels. A closed gate gives its reason, and the claim's verdict is
"this recipe cannot tell": its order would rank who was trained furthest, or there is nothing to win.
"""

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean

from course_lib.experiments.floors import floor_name, read_floors
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.report.scoreboard import Results
from course_lib.experiments.report.statistics import half_width, step_error
from course_lib.experiments.table import Claim

FLOOR = 5.0
"""Percent of IoU: a class below it in every row of a table is at the floor."""
SHARE = 1 / 3
"""Of the classes: more of them at the floor close the gate."""
ROOM = 2.0
"""Points: what there is to win must surely be more."""


def closed_gate(results: Results, claim: Claim, profile: str, seeds: tuple[int, ...]) -> str:
    """Return why the records of `claim` cannot tell, or "" where all gates are open.

    Args:
        seeds: Those that both rows have.
    """
    return next(_reasons(results, claim, profile, seeds), "")


def _reasons(results: Results, claim: Claim, profile: str, seeds: tuple[int, ...]) -> Iterator[str]:
    table = results.table
    if not METRICS[claim.metric].own_pictures:
        yield from _floors(results, claim, profile)
    if claim.nested and (losses := _last_losses(results, claim, profile, seeds)) and losses[0] > losses[1]:
        larger, smaller = (table.rows[row].label for row in (claim.better, claim.worse))
        yield (
            f"{larger} contains {smaller} and has the higher training loss ({losses[0]:.2f}, {losses[1]:.2f}): "
            "it is not trained far enough"
        )
    if count := ancillary_networks(results, claim, profile, seeds):
        yield f"the rows learnt from {count} ancillary networks of one recipe: make them again on one machine"
    if claim.room:
        best, least = (table.rows[row].label for row in claim.room)
        low_end = _room(results, claim, profile)
        if low_end is None:
            yield f"what there is to win is not known: {best} and {least} have no two runs with the same seeds"
        elif low_end < ROOM:
            yield f"nothing to win: {best} is not surely {ROOM:g} points above {least}"


def _floors(results: Results, claim: Claim, profile: str) -> Iterator[str]:
    table = results.table
    for row in dict.fromkeys((claim.better, claim.worse)):
        if under := under_floor(results, row, profile):
            yield f"{table.rows[table.rows[row].runs].label} is below the {under}"
    low, classes = classes_at_floor(results, profile)
    if len(low) > SHARE * classes:
        yield f"{len(low)} of {classes} classes are below {FLOOR:g} % IoU in every row"


def floors_missing(results: Results, profile: str) -> bool:
    """Return whether nobody has computed the floors under a profile, so that the gate of the floor stays open."""
    recipe = results.leading(profile)
    return recipe.chance and floor_name(recipe) not in read_floors()


def under_floor(results: Results, row: str, profile: str) -> str:
    """Return which floor a row is below, in accuracy or in mIoU, with both numbers, or "".

    A detector has none: it is asked for boxes, and the map that these paint is larger than its objects.
    """
    table, records = results.table, results.records(row, profile)
    recipe = table.recipe(row, profile)
    has_floor = recipe.chance and recipe.task != "detect" and records
    for name, scores in read_floors().get(floor_name(recipe), {}).items() if has_floor else ():
        for metric, value in scores.items():
            ours = fmean(record.metrics[metric] for record in records)
            if ours < value:
                return f"{name} ({METRICS[metric].title} {100 * ours:.1f} against {100 * value:.1f} %)"
    return ""


def classes_at_floor(results: Results, profile: str) -> tuple[list[str], int]:
    """Return the classes whose mean IoU is below `FLOOR` in every row of the table, and how many classes there are."""
    best: dict[str, float] = {}
    for row in (row for row in results.table.rows.values() if row.runs == row.name):
        records = results.records(row.name, profile)
        for name, first in records[0].per_class.items() if records else ():
            if first["pixels"]:
                value = 100 * fmean(of[name]["iou"] or 0.0 for of in (one.per_class for one in records) if name in of)
                best[name] = max(best.get(name, 0.0), value)
    return [name for name, value in best.items() if value < FLOOR], len(best)


def ancillary_networks(results: Results, claim: Claim, profile: str, seeds: tuple[int, ...]) -> int:
    """Return how many ancillary networks of the same recipe taught the runs of a claim, where it is more than one.

    The same recipe gives another network on another machine; then a step between methods is one between teachers too.
    """
    seen: dict[str, set[object]] = defaultdict(set)
    for row in {results.table.rows[row].runs for row in (claim.better, claim.worse)}:
        for record in results.records(row, profile):
            needed = results.table.recipe(row, profile, record.recipe["seed"]).needed()
            if needed is not None and record.recipe["seed"] in seeds:
                seen[needed.hash()].add(record.data.get("suggestions"))
    return max((len(digests) for digests in seen.values() if len(digests) > 1), default=0)


def _last_losses(results: Results, claim: Claim, profile: str, seeds: tuple[int, ...]) -> list[float]:
    """Return the mean last training loss of the better and of the worse row, over the same seeds."""
    ends = [
        [record.losses[-1] for record in results.records(row, profile) if record.recipe["seed"] in seeds]
        for row in (claim.better, claim.worse)
    ]
    return [fmean(end) for end in ends] if all(ends) else []


def _room(results: Results, claim: Claim, profile: str) -> float | None:
    """Return the lower end of the interval of what there is to win; None without two runs of both rows."""
    best, least = (results.values(row, profile, claim.metric) for row in claim.room)
    seeds = sorted(set(best) & set(least))
    if len(seeds) < 2:
        return None
    sign = -1 if METRICS[claim.metric].lower_is_better else 1
    gains = [sign * (best[seed] - least[seed]) for seed in seeds]
    error, degrees, _ = step_error(gains, *results.block_of(claim.room, profile, claim.metric))
    return fmean(gains) - float(half_width(error, degrees))
