"""Records as tables that people read: the scoreboard, the claims with their verdicts, and the README.

`make readme` fills the README's generated parts anew.
"""

import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from IPython.display import Markdown

from course_lib.experiments.claims import Judgement, judge, read_claims
from course_lib.experiments.recipes import PROFILES, TASK_KEYS, WITHOUT_CHANCE, Recipe, read_table, resolve
from course_lib.experiments.records import Record, find_record, read_record, record_path, record_state
from course_lib.experiments.table_files import LOWER_IS_BETTER, METRICS, metric_of, run_of, table_names
from course_lib.notebook_tools.contents import contents_markdown
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT, results_root

RESULT_PROFILES = tuple(profile for profile in PROFILES if profile != "quick")
ROUNDING = 0.05  # papers print one decimal
HOW_TO_READ = """\
Each table of a paper with the paper's number and ours: mean and standard deviation over the seeds, in
percent. A difference is taken only where data, split and size are the paper's; else the verdict says what
is other. *Agrees*: the paper's number lies within two standard deviations of our runs.

A claim is judged on runs that share their seed: it *holds*, or is *contradicted*, where the mean of the
paired differences is more than two standard errors away from zero; else it is *not resolved*. What nobody
has run says so. Every value comes from a record in `results/` that a machine wrote."""


@dataclass(frozen=True)
class ScoreRow:
    """One row of a table at one profile: the paper's number and ours, in percent.

    values       {seed: ours} of the valid records
    paper_data   what the paper's number was measured on; set, split and size what ours was
    verdict      not run        no valid record (stale, untrusted: there is one, but not to be used)
                 ours only      nobody published a number
                 other data, other split, other size
                                the numbers are not of the same thing, and no difference is taken
                 one seed       too few to say how far runs differ
                 agrees         the paper's number lies within two standard deviations of our runs
                 higher, lower  ours lies outside of that
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
    machine: str = ""
    date: str = ""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points; None where the two are of different data."""
        comparable = self.verdict in ("one seed", "agrees", "higher", "lower")
        return self.mean - self.paper_value if comparable else None


@dataclass(frozen=True)
class Results:
    """All that lies in a table's folder of records.

    valid       {(row, profile): {seed: record}}
    troubles    {(row, profile): sentences} about stale and untrusted records; ("", "") for files that
                belong to no row
    """

    valid: dict[tuple[str, str], dict[int, Record]]
    troubles: dict[tuple[str, str], list[str]]


def read_results(table: str, folder: Path | None = None) -> Results:
    """The records of `table` in `folder` (`results/`), each looked at."""
    content, home = read_table(table), (folder or results_root()) / table
    rows = {run_of(content, row) for row in content["rows"]}
    found = Results({}, {})
    for path in sorted(home.glob("*.json")):
        parts = re.fullmatch(r"(\w+)-(\w+)-seed(\d+)", path.stem)
        key = (parts[1], parts[2]) if parts else ("", "")
        if key[0] not in rows or key[1] not in RESULT_PROFILES:
            text = f"{path} belongs to no row of {table} that has results"
            found.troubles.setdefault(("", ""), []).append(_placeless(text, home))
            continue
        recipe = resolve(table, *key, int(parts[3]))
        state, reason = record_state(recipe, home.parent)
        if state == "valid":
            found.valid.setdefault(key, {})[recipe.seed] = read_record(path)
        else:
            text = _placeless(f"{state}: {reason}", home)
            found.troubles.setdefault(key, []).append(text)
    return found


def _placeless(text: str, home: Path) -> str:
    return text.replace(f"{home.parent}/", "results/")


def scoreboard(table: str | None = None, profile: str | None = None, folder: Path | None = None) -> list[ScoreRow]:
    """Every row of `table`, or of all tables that repeat a paper or make claims.

    profile  "laptop" or "gpu"; None: those that a row has records of, or one line that says it has none

    Raises ValueError for the quick profile, whose numbers stand beside no paper's.
    """
    _refuse_quick(profile)
    return [
        line
        for name in ([table] if table else scored_tables())
        for line in _score_table(name, profile, read_results(name, folder))
    ]


def scored_tables() -> list[str]:
    """The tables that repeat a paper or make claims."""
    return [name for name in table_names() if {"paper", "claims"} & set(read_table(name))]


def _refuse_quick(profile: str | None) -> None:
    if profile == "quick":
        raise ValueError("the quick profile shows effects: its numbers are no results and stand beside no paper's")


def _score_table(table: str, profile: str | None, results: Results) -> list[ScoreRow]:
    content = read_table(table)
    lines = []
    for row in content["rows"]:
        runs = run_of(content, row)
        known = [key for key in (*results.valid, *results.troubles) if key[0] == runs]
        profiles = [p for p in RESULT_PROFILES if (runs, p) in known]
        for chosen in [profile] if profile else profiles or [""]:
            lines.append(_score_row(content, table, row, chosen, results))
    return lines


def _score_row(content: dict, table: str, row: str, profile: str, results: Results) -> ScoreRow:
    about, metric, runs = content["rows"][row], metric_of(content, row), run_of(content, row)
    paper_value = about.get("paper_value")
    said = {
        "table": table,
        "row": row,
        "label": about["label"],
        "profile": profile,
        "metric": metric,
        "paper_value": paper_value,
        "paper_data": content.get("paper_data", ""),
    }
    records = results.valid.get((runs, profile), {})
    if not records:
        troubles = results.troubles.get((runs, profile), [])
        return ScoreRow(**said, verdict=troubles[0].split(":")[0] if troubles else "not run")
    values = _values(results, runs, profile, metric)
    data = next(iter(records.values())).data
    ours = (str(data["set"]), str(data["measured_on"]), str(data["size"]))
    exact = resolve(table, row, profile).task in WITHOUT_CHANCE
    machines = dict.fromkeys(_machine_of(record) for record in records.values())
    return ScoreRow(
        **said,
        values=values,
        set=ours[0],
        split=ours[1],
        size=ours[2],
        machine=", ".join(machines),
        date=max(record.date for record in records.values())[:10],
        verdict=_verdict(paper_value, values, ours, content.get("same_data", ""), exact),
    )


def _values(results: Results, row: str, profile: str, metric: str) -> dict[int, float]:
    """{seed: percent} of a metric in the valid records of one row."""
    records = results.valid.get((row, profile), {})
    return {seed: 100 * record.metrics[metric] for seed, record in sorted(records.items())}


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
        return "one seed"
    spread = 0.0 if exact else statistics.stdev(values.values())
    difference = statistics.fmean(values.values()) - paper_value
    if abs(difference) <= 2 * spread + ROUNDING:
        return "agrees"
    return "higher" if difference > 0 else "lower"


def _machine_of(record: Record) -> str:
    where = record.machine["gpu"] if record.device == "cuda" else record.machine["cpu"]
    return f"{where}, {record.precision if record.device == 'cuda' else _cores(record)}"


def _cores(record: Record) -> str:
    count = record.machine["cores"]
    return f"{count} core" if count == 1 else f"{count} cores"


# -- claims -----------------------------------------------------------------------------------------


def judgements(
    table: str | None = None, profile: str | None = None, folder: Path | None = None
) -> list[tuple[str, Judgement]]:
    """(profile, judgement) of every claim of `table`, or of all tables.

    profile  "laptop" or "gpu"; None: those that the table has records of, or ("", not run)

    Raises ValueError for the quick profile.
    """
    _refuse_quick(profile)
    found = []
    for name in [table] if table else scored_tables():
        content, results = read_table(name), read_results(name, folder)
        profiles = [p for p in RESULT_PROFILES if any(key[1] == p for key in results.valid)]
        for chosen in [profile] if profile else profiles or [""]:
            for claim in read_claims(name):
                sides = [
                    _values(results, run_of(content, row), chosen, metric)
                    for row, metric in ((claim.better, claim.metric), (claim.worse, claim.worse_metric or claim.metric))
                ]
                exact = bool(chosen) and all(
                    resolve(name, row, chosen).task in WITHOUT_CHANCE for row in (claim.better, claim.worse)
                )
                found.append((chosen, judge(claim, *sides, exact=exact)))
    return found


def claims_markdown(table: str | None = None, profile: str | None = None, folder: Path | None = None) -> str:
    """A Markdown table of claims, their paired differences and their verdicts."""
    lines = [
        "| claim | rows | difference (points) | standard error | seeds | profile | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for chosen, judgement in judgements(table, profile, folder):
        lines.append(f"| {' | '.join(claim_cells(chosen, judgement))} |")
    return "\n".join(lines)


def claim_cells(profile: str, judgement: Judgement) -> list[str]:
    """A judgement as texts: claim, rows, difference, standard error, seeds, profile, verdict."""
    claim = judgement.claim
    lower = claim.metric in LOWER_IS_BETTER
    relation = f"{'<' if lower else '>'} {claim.worse}"
    if claim.margin:
        relation = f"{'≤' if lower else '≥'} {claim.worse} {'+' if lower else '-'} {claim.margin:g}"
    unsaid = claim.metric == "mean_iou" or claim.worse_metric  # the rows say what they are
    metric = "" if unsaid else f" ({METRICS[claim.metric]})"
    return [
        claim.statement,
        f"{claim.better} {relation}{metric}",
        "" if judgement.mean is None else f"{judgement.mean:+.1f}",
        "" if judgement.standard_error is None else f"{judgement.standard_error:.1f}",
        str(len(judgement.seeds)) if judgement.seeds else "",
        profile,
        judgement.verdict,
    ]


# -- Markdown ---------------------------------------------------------------------------------------

SCORE_HEADS = (
    "row",
    "paper",
    "ours",
    "verdict",
    "seeds",
    "difference",
    "our data",
    "split",
    "size",
    "profile",
    "machine",
    "date",
)


def score_cells(line: ScoreRow) -> list[str]:
    """A row of the scoreboard as texts, in the order of `SCORE_HEADS`."""
    from course_lib.data.registry import DATASETS

    ours = "" if line.mean is None else f"{line.mean:.1f}"
    if line.spread is not None:
        ours += f" ± {line.spread:.1f}"
    return [
        line.label,
        "" if line.paper_value is None else f"{line.paper_value:.1f}",
        ours,
        line.verdict,
        ", ".join(map(str, line.values)),
        "" if line.difference is None else f"{line.difference:+.1f}",
        DATASETS[line.set].title if line.set in DATASETS else line.set,
        line.split,
        line.size,
        line.profile,
        line.machine,
        line.date,
    ]


def about_table(table: str) -> list[str]:
    """Sentences that say whose numbers these are: paper and place, data, metric."""
    content = read_table(table)
    metric = METRICS[content.get("metric", "mean_iou")]
    if "paper" not in content:
        return [f"No paper's table; {metric} in percent."]
    return [
        f"{content['paper']}; {content.get('place', '')}.",
        f"The paper's numbers are of {content.get('paper_data', 'data it names')}; {metric} in percent.",
    ]


def scoreboard_markdown(table: str | None = None, profile: str | None = None, folder: Path | None = None) -> str:
    """The scoreboard as Markdown: for each table its rows, claims and departures, and what was not counted."""
    _refuse_quick(profile)
    parts = []
    for name in [table] if table else scored_tables():
        content, results = read_table(name), read_results(name, folder)
        lines = [f"| {' | '.join(SCORE_HEADS)} |", "|---" * len(SCORE_HEADS) + "|"]
        lines += [f"| {' | '.join(score_cells(line))} |" for line in _score_table(name, profile, results)]
        parts += [f"## {content['title']}", " ".join(about_table(name)), "\n".join(lines)]
        if content.get("claims"):
            parts.append(claims_markdown(name, profile, folder))
        if content.get("departures"):
            parts.append(departures_markdown(name))
        troubles = [text for texts in results.troubles.values() for text in texts]
        if troubles:
            parts.append("Not counted:\n\n" + "\n".join(f"- {text}" for text in troubles))
    return "\n\n".join(parts)


def scoreboard_page() -> str:
    """The site's page: every table, with how to read it."""
    return f"# Scoreboard\n\n{HOW_TO_READ}\n\n{scoreboard_markdown()}\n"


def departures_markdown(table: str) -> str:
    """What differs from the paper, as a Markdown list."""
    sentences = read_table(table).get("departures", [])
    return "What differs from the paper:\n\n" + "\n".join(f"- {text}" for text in sentences)


def recipe_markdown(recipe: Recipe) -> str:
    """Everything that decides the run's result, as a Markdown table."""
    lines = ["| setting | value |", "|---|---|"]
    for name, value in recipe.settings().items():
        if name in TASK_KEYS[recipe.task] - {"table", "row", "profile", "seed", "checkpoint_every", "task"}:
            lines.append(f"| {name} | {_setting(name, value)} |")
    return "\n".join(lines)


def _setting(name: str, value: object) -> str:
    plain = {
        ("crop", "[0, 0]"): "the whole picture",
        ("scale", "[1.0, 1.0]"): "as it is",
        ("train_length", "0"): "all pictures",
        ("start_from", ""): "the seed",
    }
    if (name, str(value)) in plain:
        return plain[name, str(value)]
    if isinstance(value, dict):
        return ", ".join(f"{key} = {part}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        between = {"scale": " to ", "crop": " x "}.get(name, ", ")
        return between.join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# -- results of one table, for a notebook and the README ---------------------------------------------


def records_of(table: str, row: str, profile: str, folder: Path | None = None) -> list[Record]:
    """The valid records of one row at one profile, in the order of their seeds.

    Records of a changed recipe are left out. Raises RecordError for one that cannot be trusted.
    """
    found = []
    home, row = (folder or results_root()) / table, run_of(read_table(table), row)
    for path in sorted(home.glob(f"{row}-{profile}-seed*.json")):
        seed = int(read_record(path).recipe["seed"])
        recipe = resolve(table, row, profile, seed)
        record = find_record(recipe, folder) if record_path(recipe, folder) == path else None
        if record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.recipe["seed"])


def results_markdown(table: str, profile: str, folder: Path | None = None) -> str:
    """A Markdown table of the recorded runs of `table` at `profile`: one line a row, seeds averaged."""
    content = read_table(table)
    lines = [
        "| network | mIoU (%) | overall accuracy (%) | mean accuracy (%) | parameters | seeds | minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    measured: list[Record] = []
    for row, about in content["rows"].items():
        if run_of(content, row) != row:
            continue
        records = records_of(table, row, profile, folder)
        if not records:
            lines.append(f"| {about['label']} | not run | | | | | |")
            continue
        measured += records
        metrics = [
            _mean_and_spread([100 * record.metrics[name] for record in records])
            for name in ("mean_iou", "overall_accuracy", "mean_accuracy")
        ]
        seeds = ", ".join(str(record.recipe["seed"]) for record in records)
        minutes = statistics.mean(record.seconds for record in records) / 60
        lines.append(
            f"| {about['label']} | {' | '.join(metrics)} | {records[0].parameters:,} | {seeds} | {minutes:.1f} |"
        )
    if not measured:
        return "\n".join(lines)
    data, machine = measured[0].data, measured[0].machine
    training = (
        f"trained on its {data['train']} split ({data['train_pictures']} pictures), from scratch, "
        if "train" in data
        else ""
    )
    lines += [
        "",
        f"Measured on the {data['measured_on']} split of {data['set']} ({data['measured_pictures']} pictures), "
        f"{training}at {data['size']} pixels; "
        f"{data['void']}. {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"{min(record.date for record in measured)[:10]}. With several seeds: mean ± standard deviation.",
    ]
    return "\n".join(lines)


def results_table(table: str, profile: str) -> Markdown:
    """`results_markdown` as a notebook shows it."""
    return Markdown(results_markdown(table, profile))


def _mean_and_spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def fill(text: str) -> str:
    """`text` with its generated parts made anew: `<!-- begin results TABLE PROFILE -->`, the same with
    `claims` or `scoreboard`, and `<!-- begin contents -->`, each up to the next `<!-- end ... -->`.
    """
    makers = {"results": results_markdown, "claims": claims_markdown, "scoreboard": scoreboard_markdown}

    def generated(match: re.Match[str]) -> str:
        kind, *arguments = match["what"].split()
        if kind == "contents":
            content = contents_markdown("notebooks/{name}")
        elif kind in makers:
            content = makers[kind](*arguments)
        else:
            raise ValueError(f"nothing is generated for {match['what']!r}")
        return f"<!-- begin {match['what']} -->\n{content}\n<!-- end {kind} -->"

    return re.sub(r"<!-- begin (?P<what>[^>]+?) -->\n.*?<!-- end \w+ -->", generated, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_text(readme, fill(readme.read_text(encoding="utf-8")))
