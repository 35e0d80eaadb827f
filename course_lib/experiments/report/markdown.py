"""Scoreboard, claims, recipes and results as Markdown: for notebooks, the site and the README."""

import statistics
from dataclasses import fields
from pathlib import Path

from IPython.display import Markdown

from course_lib.data.registry import DATASETS
from course_lib.experiments.layers import KEYS
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipes import Recipe
from course_lib.experiments.records import Record
from course_lib.experiments.report.claims import (
    CANNOT_TELL,
    LEANS,
    NOT_RUN,
    OPEN,
    OPPOSITE,
    SEEN,
    Judgement,
    judge_all,
    judgements,
)
from course_lib.experiments.report.gates import FLOOR
from course_lib.experiments.report.scoreboard import (
    ScoreRow,
    chosen_results,
    machine_of,
    read_results,
    refuse_quick,
    score_rows,
)
from course_lib.experiments.report.statistics import FAR_MORE
from course_lib.experiments.table import SMALLEST, Table

HOW_TO_READ = f"""\
A claim is about the step between two rows, judged on runs that share their seed, in points (percent). Its 95 %
interval is the quantile of t times the standard error: the residual of the whole table where all rows share it
(three rows, two seeds, four degrees of freedom, no row {FAR_MORE:g} times as variable as the others), else, or where
that is larger, the error of the step's own differences. The line is zero; of "no worse" it is minus the margin.

* **{SEEN}**: the interval lies on the claim's side of the line, and still does after Holm's correction for all claims
  of the same paper; **{OPPOSITE}**: on the other side. Other data can contradict no paper.
* **{LEANS}**: it does, but two runs alone, or Holm, do not confirm it.
* **{OPEN}**: the line lies inside, there is one run, or the step is less than {SMALLEST:g} points (the smallest that
  matters, unless the table says another).
* **{CANNOT_TELL}**: a row is below an answer that looks at no picture (the most frequent class, or at each pixel the
  class most frequent there); more than a third of the classes are below {FLOOR:g} % IoU in every row; a network that
  contains the other has a higher training loss; there is nothing to win; or the interval is wider than the paper's step.
* **{NOT_RUN}**: the recipe is there.

An interval over seeds says nothing about other pictures. Every value of ours is computed from records in `results/`
that a machine wrote."""
SCORE_HEADS = (
    "row", "paper", "ours", "verdict", "seeds", "difference", "our data", "split", "size", "profile", "machine", "date",
)  # fmt: skip
CLAIM_HEADS = ("claim", "verdict", "the paper's step", "our step, 95 %", "seeds", "profile", "why")
RESULT_HEADS = (
    "network", "mIoU (%)", "overall accuracy (%)", "mean accuracy (%)", "parameters", "seeds", "minutes a run",
)  # fmt: skip


def markdown_table(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    """Return a Markdown table of texts."""
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(x)} |" for x in lines)])


# -- scoreboard and claims -----------------------------------------------------------------------------


def scoreboard_markdown(table: str | None = None, profile: str | None = None, records: Path | None = None) -> str:
    """Return the scoreboard: for each table its rows, claims and departures, and what was not counted.

    Raises:
        ValueError: For the quick profile.
    """
    refuse_quick(profile)
    parts = []
    chosen = chosen_results(table, records)
    judged = judgements(table, profile, records) if table else judge_all(chosen, profile)
    for results in chosen:
        about = results.table
        lines = [score_cells(line) for line in score_rows(results, profile)]
        parts += [f"## {about.title}", " ".join(about_table(about)), markdown_table(SCORE_HEADS, lines)]
        if about.claims:
            of_table = [claim_cells(found) for found in judged if found.claim.table == about.name]
            parts.append(markdown_table(CLAIM_HEADS, of_table))
        if about.departures:
            parts.append(_departures(about))
        troubles = [text for texts in results.troubles.values() for text in texts]
        if troubles:
            parts.append("Not counted:\n\n" + "\n".join(f"- {text}" for text in troubles))
    return "\n\n".join(parts)


def score_cells(line: ScoreRow) -> list[str]:
    """Return a row of the scoreboard as texts, in the order of `SCORE_HEADS`."""
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


def about_table(table: Table) -> list[str]:
    """Return sentences on whose numbers these are: paper and place, data, metric."""
    metric = METRICS[table.metric].title
    if not table.paper:
        return [f"No paper's table; {metric} in percent."]
    return [
        f"{table.paper}; {table.place}.",
        f"The paper's numbers are of {table.paper_data or 'data it names'}; {metric} in percent.",
    ]


def departures_markdown(table: str) -> str:
    """Return what differs from the paper, as a list."""
    return _departures(Table.read(table))


def _departures(table: Table) -> str:
    return "What differs from the paper:\n\n" + "\n".join(f"- {text}" for text in table.departures)


def claims_markdown(table: str | None = None, profile: str | None = None, records: Path | None = None) -> str:
    """Return a table of claims, their verdicts, and the paper's step beside ours."""
    return markdown_table(CLAIM_HEADS, [claim_cells(found) for found in judgements(table, profile, records)])


def claim_cells(found: Judgement) -> list[str]:
    """Return a judgement as texts, in the order of `CLAIM_HEADS`."""
    return [
        found.claim.statement,
        found.words,
        "" if found.paper_step is None else signed(found.paper_step),
        our_step(found),
        str(len(found.seeds) or ""),
        found.profile,
        found.reason,
    ]


def signed(points: float, half: float | None = None) -> str:
    """Return a step with its sign, and its half-width; with two digits where it is less than a point."""
    digits = 2 if abs(points) < 1 else 1
    return f"{points:+.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def our_step(found: Judgement) -> str:
    """Return our step with its 95 % interval in points, "exact" where nothing is left to chance, "" where not run."""
    if found.mean is None:
        return ""
    return f"{signed(found.mean)} exact" if found.how == "exact" else signed(found.mean, found.half)


# -- one recipe ----------------------------------------------------------------------------------------


def recipe_markdown(recipe: Recipe) -> str:
    """Return everything that decides the run's result, as a table."""
    hidden = {*KEYS, "checkpoint_every"}
    settings = recipe.settings()
    names = [field.name for field in fields(recipe) if field.name not in hidden]
    return markdown_table(("setting", "value"), [[name, _setting(name, settings[name])] for name in names])


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


# -- results of one table ------------------------------------------------------------------------------


def results_table(table: str, profile: str) -> Markdown:
    """Return `results_markdown` as a notebook shows it."""
    return Markdown(results_markdown(table, profile))


def results_markdown(table: str, profile: str, records: Path | None = None) -> str:
    """Return the recorded runs of `table` at `profile`: one line a row, seeds averaged, and where they were made."""
    results = read_results(Table.read(table), records)
    own = [row for row in results.table.rows.values() if row.runs == row.name]
    text = markdown_table(RESULT_HEADS, [_result_cells(row.label, results.records(row.name, profile)) for row in own])
    measured = [record for row in own for record in results.records(row.name, profile)]
    return f"{text}\n\n{how_measured(measured)}" if measured else text


def _result_cells(label: str, records: list[Record]) -> list[str]:
    if not records:
        return [label, "not run", *[""] * (len(RESULT_HEADS) - 2)]
    names = ("mean_iou", "overall_accuracy", "mean_accuracy")
    return [
        label,
        *(_mean_and_spread([100 * record.metrics[name] for record in records]) for name in names),
        f"{records[0].parameters:,}",
        ", ".join(str(record.recipe["seed"]) for record in records),
        f"{statistics.mean(record.seconds for record in records) / 60:.1f}",
    ]


def _mean_and_spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def how_measured(records: list[Record]) -> str:
    """Return a sentence on what the runs were trained and measured on, from which weights, and where."""
    data = [record.data for record in records]
    measured_on = _each(
        f"the {one['measured_on']} split of {one['set']} ({one['measured_pictures']} pictures)" for one in data
    )
    sizes, void = _each(str(one["size"]) for one in data), _each(str(one["void"]) for one in data)
    machines = "; ".join(dict.fromkeys(machine_of(record) for record in records))
    return (
        f"Measured on {measured_on}, {_training(records)}at {sizes} pixels; {void}. {machines}, "
        f"{min(record.date for record in records)[:10]}. With several seeds: mean ± standard deviation."
    )


def _training(records: list[Record]) -> str:
    trained = [record for record in records if "train" in record.data]
    if not trained:
        return ""
    split = _each(str(record.data["train"]) for record in trained)
    masks = {record.data.get("train_pictures", record.data.get("with_masks")) for record in trained}
    words = "masks of {} pictures" if any("with_masks" in record.data for record in trained) else "{} pictures"
    counts = words.format(_each(str(count) for count in sorted(masks)))
    return f"trained on its {split} split ({counts}), {_each(map(_start, trained))}, "


def _start(record: Record) -> str:
    if record.recipe.get("start_from"):
        return "from a committed checkpoint"
    return "from ImageNet weights" if record.recipe.get("model_options", {}).get("imagenet") else "from scratch"


def _each(words: object) -> str:
    """Join different words: "a", "a or b", "a, b or c"."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last
