"""The scoreboard: the records of each table, and the paper's numbers beside ours with a verdict."""

import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from course_lib.experiments.recipe import Recipe
from course_lib.experiments.records import Record, RecordError, find_record
from course_lib.experiments.report.statistics import half_width, step_error
from course_lib.experiments.table import RESULT_PROFILES, Row, Table, read_tables
from course_lib.plumbing.paths import results_root

WITHIN = 1.0
"""Points: our mean is within 1 point of the paper's number where all of its 95 % interval is."""


@dataclass(frozen=True)
class ScoreRow:
    """One row of a table at one profile: the paper's number and ours, in percent.

    Attributes:
        paper_data: What the paper's number was measured on; `set`, `split` and `size` what ours was.
        verdict: "not run" (no valid record; "stale" and "untrusted": there is one, but not to be used);
            "ours only" (nobody published a number); "other data", "other split" or "other size" (the numbers are
            not of the same thing, and no difference is taken); else where the 95 % interval of our mean
            (Student's t over the seeds) lies: "within 1 point", "higher", "lower", "too noisy to say" or "one run".
        values: {seed: ours} of the valid records.
    """

    table: str
    row: str
    label: str
    profile: str
    metric: str
    paper_value: float | None
    paper_data: str
    verdict: str
    values: dict[int, float] = field(default_factory=dict)
    set: str = ""
    split: str = ""
    size: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def half(self) -> float | None:
        """Half the 95 % interval of the mean; None for a single run."""
        return mean_half(list(self.values.values()))

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points; None where the two are of different data."""
        comparable = self.verdict in ("one run", "within 1 point", "higher", "lower", "too noisy to say")
        return self.mean - self.paper_value if comparable else None


@dataclass(frozen=True)
class Results:
    """The records of a table.

    Attributes:
        valid: {(row, profile): {seed: record}}, for rows with runs of their own.
        troubles: {(row, profile): sentences} about stale and untrusted records; ("", "") for files that belong
            to no row.
    """

    table: Table
    valid: dict[tuple[str, str], dict[int, Record]] = field(default_factory=dict)
    troubles: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def records(self, row: str, profile: str) -> list[Record]:
        """Return the valid records of the runs of a row, in the order of their seeds."""
        of_row = self.valid.get((self.table.rows[row].runs, profile), {})
        return [of_row[seed] for seed in sorted(of_row)]

    def values(self, row: str, profile: str, metric: str) -> dict[int, float]:
        """Return {seed: percent} of a metric in the valid records of a row that have it."""
        kept = [record for record in self.records(row, profile) if metric in record.metrics]
        return {record.recipe["seed"]: 100 * record.metrics[metric] for record in kept}

    def block(self, profile: str, metric: str) -> tuple[tuple[str, ...], np.ndarray | None]:
        """Return the rows, with runs of their own, that share most seeds, and their (R, S) percent.

        Of all sets of seeds that some row has, the one with most residuals, (R - 1)(S - 1); None without one.
        """
        chance = [row for row, kept in self.valid if kept == profile and self.table.recipe(row, profile).chance]
        of_row = {row: self.values(row, profile, metric) for row in self.table.rows if row in chance}
        best: tuple[tuple[str, ...], np.ndarray | None] = ((), None)
        for seeds in {frozenset(values): None for values in of_row.values()}:
            rows = tuple(row for row, values in of_row.items() if seeds <= set(values))
            old = 0 if best[1] is None else (best[1].shape[0] - 1) * (best[1].shape[1] - 1)
            if (len(rows) - 1) * (len(seeds) - 1) > old:
                best = rows, np.array([[of_row[row][seed] for seed in sorted(seeds)] for row in rows])
        return best

    def block_of(self, pair: tuple[str, ...], profile: str, metric: str) -> tuple[np.ndarray | None, tuple[int, ...]]:
        """Return the block and where the `pair` of rows is in it; (None, (0, 1)) where one of them is not in it."""
        rows, block = self.block(profile, metric)
        return (block, tuple(map(rows.index, pair))) if set(pair) <= set(rows) else (None, (0, 1))

    def recorded(self) -> list[str]:
        """Return the profiles that have valid records."""
        return [profile for profile in RESULT_PROFILES if any(of == profile for _, of in self.valid)]

    def leading(self, profile: str) -> Recipe:
        """Return the recipe of the row that leads a table: recorded, a headline claim's better one, else the first."""
        claimed = [self.table.rows[claim.better].runs for claim in self.table.claims if claim.headline]
        rows = dict.fromkeys([*claimed, *(row for row, _ in self.table.recipes)])
        having = [row for row in rows if (row, profile) in self.table.recipes]
        return self.table.recipe(next((row for row in having if (row, profile) in self.valid), having[0]), profile)

    def profiles(self, row: str) -> list[str]:
        """Return the profiles at which a row has records, valid or not."""
        runs = self.table.rows[row].runs
        return [p for p in RESULT_PROFILES if (runs, p) in self.valid or (runs, p) in self.troubles]


def read_results(table: Table, records: Path | None = None) -> Results:
    """Return all records of `table` in the folder `records` (`results/`), each checked."""
    home = (records or results_root()) / table.name
    results = Results(table)
    for path in sorted(home.glob("*.json")):
        row, profile, seed = _name_of(path)
        record, trouble = None, ""
        if (row, profile) not in table.recipes or profile not in RESULT_PROFILES:
            row = profile = ""
            trouble = f"{path} belongs to no row of {table.name} that has results"
        else:
            try:
                record = find_record(table.recipe(row, profile, seed), home.parent)
                trouble = f"stale: {path} is of a changed recipe"
            except RecordError as error:
                trouble = f"untrusted: {error}"
        if record is not None:
            results.valid.setdefault((row, profile), {})[seed] = record
        else:
            text = trouble.replace(f"{home.parent}/", "results/")
            results.troubles.setdefault((row, profile), []).append(text)
    return results


def _name_of(path: Path) -> tuple[str, str, int]:
    parts = re.fullmatch(r"(\w+)-(\w+)-seed(\d+)", path.stem)
    return (parts[1], parts[2], int(parts[3])) if parts else ("", "", 0)


def records_of(table: str, row: str, profile: str) -> list[Record]:
    """Return the valid records of one row at one profile, in the order of their seeds."""
    return read_results(Table.read(table)).records(row, profile)


def chosen_results(table: str | None, records: Path | None = None) -> list[Results]:
    """Return the results of one table, or of all that repeat a paper or make claims."""
    tables = [Table.read(table)] if table else [one for one in read_tables() if one.scored]
    return [read_results(one, records) for one in tables]


def refuse_quick(profile: str | None) -> None:
    """Raise ValueError for the quick profile, whose numbers are no results."""
    if profile == "quick":
        raise ValueError("the quick profile shows effects: its numbers are no results and stand beside no paper's")


def scoreboard(table: str | None = None, profile: str | None = None, records: Path | None = None) -> list[ScoreRow]:
    """Return every row of `table`, or of all tables that repeat a paper or make claims.

    Args:
        profile: "laptop" or "gpu"; None: those that a row has records of, or one line that there is none.

    Raises:
        ValueError: For the quick profile.
    """
    refuse_quick(profile)
    return [line for results in chosen_results(table, records) for line in score_rows(results, profile)]


def score_rows(results: Results, profile: str | None = None) -> list[ScoreRow]:
    """Return the rows of one table; `profile` as in `scoreboard`."""
    return [
        _score_row(results, row, chosen)
        for row in results.table.rows.values()
        for chosen in ([profile] if profile else results.profiles(row.name) or [""])
    ]


def _score_row(results: Results, row: Row, profile: str) -> ScoreRow:
    table, records = results.table, results.records(row.name, profile)
    about = {
        "table": table.name,
        "row": row.name,
        "label": row.label,
        "profile": profile,
        "metric": row.metric,
        "paper_value": row.paper_value,
        "paper_data": table.paper_data,
    }
    if not records:
        troubles = results.troubles.get((row.runs, profile), [])
        return ScoreRow(**about, verdict=troubles[0].split(":")[0] if troubles else "not run")
    values = results.values(row.name, profile, row.metric)
    ours = tuple(str(records[0].data[key]) for key in ("set", "measured_on", "size"))
    exact = not table.recipe(row.name, profile).chance
    return ScoreRow(
        **about,
        values=values,
        set=ours[0],
        split=ours[1],
        size=ours[2],
        verdict=_verdict(row.paper_value, values, ours, table.same_data, exact),
    )


def _verdict(
    paper_value: float | None, values: dict[int, float], ours: tuple[str, ...], same_data: str, exact: bool
) -> str:
    if paper_value is None:
        return "ours only"
    papers = same_data.split() or ["", "", ""]
    for what, our, theirs in zip(("data", "split", "size"), ours, papers, strict=True):
        if our != theirs:
            return f"other {what}"
    if len(values) < 2 and not exact:
        return "one run"
    difference = statistics.fmean(values.values()) - paper_value
    half = 0.0 if exact else mean_half(list(values.values()))
    if abs(difference) + half <= WITHIN:
        return "within 1 point"
    if abs(difference) <= half:
        return "too noisy to say"
    return "higher" if difference > 0 else "lower"


def mean_half(values: list[float]) -> float | None:
    """Return half the 95 % interval of the mean of runs with other seeds (Student's t); None for fewer than two."""
    return float(half_width(*step_error(values)[:2])) if len(values) > 1 else None


def machine_of(record: Record) -> str:
    """Return where a run was made: the GPU and the precision, or the processor and its cores."""
    count = record.machine["cores"]
    processor = f"{record.machine['cpu']}, {count} core{'' if count == 1 else 's'}"
    return f"{record.machine['gpu'] if record.device == 'cuda' else processor}, {record.precision}"
