"""Claims, judged on runs with the same seeds.

Seed by seed the difference better - worse is taken, in points (percent of the metric); of an error, where less
is better, worse - better. With their mean m and its standard error s = (standard deviation) / sqrt(n)::

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

from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.report.scoreboard import Results, chosen_results, refuse_quick
from course_lib.experiments.table import RESULT_PROFILES, Claim


@dataclass(frozen=True)
class Judgement:
    """A claim with its evidence.

    Attributes:
        mean: By how many points `better` is better (negative: worse).
        standard_error: Of the mean, in points; None for a single seed.
    """

    claim: Claim
    verdict: str
    seeds: tuple[int, ...] = ()
    mean: float | None = None
    standard_error: float | None = None


def judge(claim: Claim, better: Mapping[int, float], worse: Mapping[int, float], *, exact: bool = False) -> Judgement:
    """Return the verdict on `claim`.

    Args:
        better: {seed: percent} of the better row; `worse` of the other one.
        exact: Whether the values owe nothing to chance, so that one seed decides.
    """
    seeds = tuple(sorted(set(better) & set(worse)))
    if not seeds:
        return Judgement(claim, "not run")
    sign = -1 if METRICS[claim.metric].lower_is_better else 1
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


def judgements(
    table: str | None = None, profile: str | None = None, records: Path | None = None
) -> list[tuple[str, Judgement]]:
    """Return (profile, judgement) of every claim of `table`, or of all tables.

    Args:
        profile: "laptop" or "gpu"; None: those that the table has records of, or ("", not run).

    Raises:
        ValueError: For the quick profile.
    """
    refuse_quick(profile)
    return [judged for results in chosen_results(table, records) for judged in judge_all(results, profile)]


def judge_all(results: Results, profile: str | None = None) -> list[tuple[str, Judgement]]:
    """Return the judgements of one table; `profile` as in `judgements`."""
    table = results.table
    profiles = [p for p in RESULT_PROFILES if any(key[1] == p for key in results.valid)]
    return [
        (chosen, _judge_claim(results, claim, chosen))
        for chosen in ([profile] if profile else profiles or [""])
        for claim in table.claims
    ]


def _judge_claim(results: Results, claim: Claim, profile: str) -> Judgement:
    better = results.values(claim.better, profile, claim.metric)
    worse = results.values(claim.worse, profile, claim.worse_metric or claim.metric)
    rows = (claim.better, claim.worse)
    exact = bool(profile) and not any(results.table.recipe(row, profile).chance for row in rows)
    return judge(claim, better, worse, exact=exact)
