"""Claims: what a paper says about two rows of a table, judged on runs with the same seeds.

    [[claims]]
    id = "skips_pay"
    statement = "skips help"
    better = "fcn8s"
    worse = "fcn32s"
    metric = "mean_iou"     if left out, that of each row: the table's, or its own
    at_least = true         the claim is "no worse", not "better"
    margin = 1.0            with at_least: how many points worse still count as no worse (1 if left out)

Seed by seed the difference better - worse is taken, in points (percent of the metric); of an error, where
less is better, worse - better. With their mean m
and its standard error s = (standard deviation) / sqrt(n):

    holds          m > 2 s      (n >= 2)
    contradicted   m < -2 s     (n >= 2)
    not resolved   between the two, or a single seed
    not run        no seed that both rows have

"No worse" is the same rule on m + margin: it holds where the loss is smaller than the margin beyond two
standard errors, and is contradicted where it is larger beyond two. A task without chance has no seeds to
differ: its single difference is exact, s = 0. Two standard errors of few seeds are a rule of thumb, which
is why n is always shown.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course_lib.experiments.table_files import LOWER_IS_BETTER, metric_of, read_table

VERDICTS = ("holds", "contradicted", "not resolved", "not run")
MARGIN = 1.0


@dataclass(frozen=True)
class Claim:
    """One claim of a table; `margin` is in points and 0 where the claim is "better".

    metric, worse_metric  of the better and of the worse row ("": the same)
    """

    table: str
    id: str
    statement: str
    better: str
    worse: str
    metric: str
    margin: float = 0.0
    worse_metric: str = ""


@dataclass(frozen=True)
class Judgement:
    """A claim with its evidence, in points: by how much `better` is better (negative: worse), and the
    standard error of that (None for a single seed).
    """

    claim: Claim
    verdict: str
    seeds: tuple[int, ...] = ()
    mean: float | None = None
    standard_error: float | None = None


def read_claims(table: str, folder: Path | None = None) -> list[Claim]:
    """The claims of a table, in its order."""
    content, found = read_table(table, folder), []
    for entry in content.get("claims", []):
        better, worse = (entry.get("metric", metric_of(content, entry[side])) for side in ("better", "worse"))
        margin = float(entry.get("margin", MARGIN)) if entry.get("at_least") else 0.0
        found.append(
            Claim(
                table,
                entry["id"],
                entry["statement"],
                entry["better"],
                entry["worse"],
                better,
                margin,
                worse_metric="" if worse == better else worse,
            )
        )
    return found


def judge(claim: Claim, better: Mapping[int, float], worse: Mapping[int, float], *, exact: bool = False) -> Judgement:
    """The verdict on `claim` from the values {seed: percent} of its two rows.

    exact  the values owe nothing to chance, so that one seed decides
    """
    seeds = tuple(sorted(set(better) & set(worse)))
    if not seeds:
        return Judgement(claim, "not run")
    sign = -1 if claim.metric in LOWER_IS_BETTER else 1
    differences = [sign * (better[seed] - worse[seed]) for seed in seeds]
    mean, error = statistics.fmean(differences), None
    if exact:
        error = 0.0
    elif len(seeds) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(seeds))
    verdict = "not resolved"
    if error is not None and mean + claim.margin > 2 * error:
        verdict = "holds"
    elif error is not None and mean + claim.margin < -2 * error:
        verdict = "contradicted"
    return Judgement(claim, verdict, seeds, mean, error)
