"""Claims, judged on runs with the same seeds.

Seed by seed the difference better - worse is taken, in points (percent of the metric); of an error, where less is
better, worse - better. `report.statistics` gives its mean a 95 % interval, and the words are::

    seen here                 the interval lies on the claim's side of the line, and Holm agrees
    opposite here             it lies on the other side
    leans                     it does, but two runs alone, or Holm over the paper's claims, do not confirm it
    open                      the line lies inside, the step is smaller than what matters, or there is one run
    this recipe cannot tell   a gate is closed (`report.gates`), or the interval is wider than the paper's step
    not run                   no seed that both rows have

The line is zero; of "no worse" it is minus the margin. A task without chance needs one run: its difference is exact.
Rows that are measures of the same networks are judged by drawing the images anew, where the records keep them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.report.gates import closed_gate, floors_missing
from course_lib.experiments.report.scoreboard import Results, chosen_results, read_results, refuse_quick
from course_lib.experiments.report.statistics import LEVEL, chance, half_width, holm, over_pictures, step_error
from course_lib.experiments.table import SMALLEST, Claim, read_tables

SEEN, OPPOSITE, LEANS, OPEN = "seen here", "opposite here", "leans", "open"
CANNOT_TELL, NOT_RUN = "this recipe cannot tell", "not run"
VERDICTS = (SEEN, OPPOSITE, LEANS, OPEN, CANNOT_TELL, NOT_RUN)


@dataclass(frozen=True)
class Judgement:
    """A claim with its evidence.

    Attributes:
        reason: Why the verdict is not plainly that of the interval, or what the interval lacks; "" where there is
            nothing to say.
        mean: By how many points `better` is better (negative: worse).
        half: Half the 95 % interval, in points; 0 for an exact difference, None for a single run.
        how: What the interval comes from: "exact", "one run", "residual of the table", "Student's t" or "pictures".
        chance: The two-sided p about the line; None without one. `adjusted`: Holm's, among the paper's claims.
        paper_step: The paper's own step, in points; None where it gives no number.
    """

    claim: Claim
    profile: str = ""
    verdict: str = NOT_RUN
    reason: str = ""
    seeds: tuple[int, ...] = ()
    mean: float | None = None
    half: float | None = None
    how: str = ""
    chance: float | None = None
    adjusted: float | None = None
    paper_step: float | None = None

    @property
    def toward(self) -> bool:
        """Whether the mean lies on the claim's side of the line."""
        return self.mean is not None and self.mean + self.claim.margin > 0

    @property
    def words(self) -> str:
        """The verdict as a reader sees it."""
        return f"{LEANS}{'' if self.toward else ', opposite'}" if self.verdict == LEANS else self.verdict


def measured(
    claim: Claim,
    better: Mapping[int, float],
    worse: Mapping[int, float],
    *,
    block: np.ndarray | None = None,
    pair: tuple[int, int] = (0, 1),
    exact: bool = False,
) -> Judgement:
    """Return the evidence for `claim`, without a verdict.

    Args:
        better: {seed: percent} of the better row; `worse` of the other one.
        block: (R, S) percent of the rows that may be pooled, where both rows are among them.
        pair: Where in the block they are.
        exact: Whether the values owe nothing to chance, so that one seed decides.
    """
    seeds = tuple(sorted(set(better) & set(worse)))
    if not seeds:
        return Judgement(claim)
    sign = -1 if METRICS[claim.metric].lower_is_better else 1
    differences = np.array([sign * (better[seed] - worse[seed]) for seed in seeds])
    found = Judgement(claim, seeds=seeds, mean=float(differences.mean()), how="exact" if exact else "one run")
    if exact:
        return replace(found, half=0.0)
    if len(seeds) == 1:
        return found
    error, degrees, pooled = step_error(differences, block, pair)
    return replace(
        found,
        half=float(half_width(error, degrees)),
        how="residual of the table" if pooled else "Student's t",
        chance=float(chance(found.mean + claim.margin, error, degrees)),
    )


def decide(found: Judgement, *, gate: str = "", smallest: float = SMALLEST) -> Judgement:
    """Return `found` with its verdict; `gate` is the reason of a closed one, `smallest` the least step that matters."""
    step, margin = found.paper_step, found.claim.margin
    if found.mean is None:
        return replace(found, verdict=NOT_RUN)
    if gate:
        return replace(found, verdict=CANNOT_TELL, reason=gate)
    if found.half is None:
        return replace(found, verdict=OPEN, reason="one run")
    if abs(found.mean + margin) <= found.half:
        if step is not None and found.claim.kind == "paper" and not margin and found.half > abs(step):
            reason = f"± {found.half:.1f} is wider than the paper's step of {abs(step):.1f}"
            return replace(found, verdict=CANNOT_TELL, reason=reason)
        return replace(found, verdict=OPEN)
    if not margin and abs(found.mean) < smallest:
        return replace(found, verdict=OPEN, reason=f"less than {smallest:g} points, the smallest step that matters")
    if found.how == "Student's t" and len(found.seeds) == 2:
        return replace(found, verdict=LEANS, reason="two runs")
    if found.adjusted is not None and found.adjusted > LEVEL:
        return replace(found, verdict=LEANS, reason="not confirmed among all of the paper's claims (Holm)")
    return replace(found, verdict=SEEN if found.toward else OPPOSITE)


def judgements(table: str | None = None, profile: str | None = None, records: Path | None = None) -> list[Judgement]:
    """Return the judgement of every claim of `table`, or of all tables; Holm counts all claims of the paper.

    Args:
        profile: "laptop" or "gpu"; None: those that the table has records of, or one that it is not run.

    Raises:
        ValueError: For the quick profile.
    """
    refuse_quick(profile)
    tables = chosen_results(table, records)
    if table and (paper := tables[0].table.paper):
        others = [one for one in read_tables() if one.paper == paper and one.name != table]
        tables += [read_results(one, records) for one in others]
    return [found for found in judge_all(tables, profile) if table in (None, found.claim.table)]


def judge_all(tables: list[Results], profile: str | None = None) -> list[Judgement]:
    """Return the judgements of all claims of `tables`; `profile` as in `judgements`."""
    found, gates, families = [], [], defaultdict(list)
    for results in tables:
        asked = [profile if profile in results.table.profiles else ""] if profile else results.recorded()
        for chosen in asked or [""]:
            for claim in results.table.claims:
                evidence = _evidence(results, claim, chosen)
                gate = closed_gate(results, claim, chosen, evidence.seeds) if evidence.seeds else ""
                if claim.kind == "paper" and evidence.chance is not None and not gate:
                    families[results.table.paper or results.table.name].append(len(found))
                found.append(evidence)
                gates.append((gate, results.table.smallest))
    for family in families.values():
        for index, adjusted in zip(family, holm([found[index].chance for index in family]), strict=True):
            found[index] = replace(found[index], adjusted=float(adjusted))
    return [
        decide(evidence, gate=gate, smallest=smallest) for evidence, (gate, smallest) in zip(found, gates, strict=True)
    ]


def _evidence(results: Results, claim: Claim, profile: str) -> Judgement:
    table = results.table
    better = results.values(claim.better, profile, claim.metric)
    worse = results.values(claim.worse, profile, claim.worse_metric or claim.metric)
    rows = [table.rows[row] for row in (claim.better, claim.worse)]
    exact = bool(profile) and not any(table.recipe(row.name, profile).chance for row in rows)
    block, pair = results.block_of((claim.better, claim.worse), profile, claim.metric)
    found = measured(claim, better, worse, block=block, pair=pair, exact=exact)
    if found.seeds and floors_missing(results, profile):
        found = replace(found, reason="its floors are not computed")
    if rows[0].runs == rows[1].runs and found.seeds:
        found = _over_pictures(results, claim, profile, found)
    step = None
    if None not in (values := [row.paper_value for row in rows]) and claim.metric == rows[0].metric:
        step = (values[0] - values[1]) * (-1 if METRICS[claim.metric].lower_is_better else 1)
    return replace(found, profile=profile, paper_step=step)


def _over_pictures(results: Results, claim: Claim, profile: str, found: Judgement) -> Judgement:
    """Return the evidence of two measures of the same networks, images drawn anew; `found` without their numbers."""
    records = results.records(claim.better, profile)
    names = [name.removesuffix("_accuracy") for name in (claim.metric, claim.worse_metric or claim.metric)]
    if not all({*names, "pixels"} <= set(record.pictures) for record in records):
        return replace(found, reason="no numbers by image in these records: judged over the seeds")
    better, worse = ([record.pictures[name] for record in records] for name in names)
    steps = over_pictures(better, worse, records[0].pictures["pixels"])
    low, high = np.quantile(steps, [LEVEL / 2, 1 - LEVEL / 2])
    beyond = min((steps + claim.margin <= 0).mean(), (steps + claim.margin >= 0).mean())
    half = float(max(found.mean - low, high - found.mean))
    return replace(found, half=half, how="pictures", chance=float(max(2 * beyond, 1 / len(steps))))
