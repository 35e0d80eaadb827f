"""Scoreboard, claims, recipes and results as Markdown: for notebooks, the site and the README."""

import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

from IPython.display import Markdown

from course_lib.experiments.floors import floor_name, read_floors
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipes import TrainRecipe
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
from course_lib.experiments.report.gates import FLOOR, classes_at_floor, floors_missing
from course_lib.experiments.report.scoreboard import (
    Results,
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
A claim is about the step between two rows, judged on the n runs of each that share their seed, in points (percent).
Its 95 % interval is the 97.5 % quantile of t times a standard error. That is the standard deviation of the n
differences over the root of n, with n - 1 degrees of freedom; but where R rows have the same S seeds, at least s times
the root of 2 / n: s squared is the sum of (value - mean of its row - mean of its seed + mean of all) squared, over
(R - 1)(S - 1). These are the degrees of freedom where R is at least 3, they are at least 4, and no row is
{FAR_MORE:g} times as variable as the others. With three seeds or more such rows are left out, where enough others are
left: in the steps between two of the others, R and s are of the others alone. The line is zero; of "no worse" it is
minus the margin.

* **{SEEN}**: the interval lies on the claim's side of the line, and still does after Holm's correction for all claims
  of the same paper; **{OPPOSITE}**: on the other side. Other data can contradict no paper.
* **{LEANS}**: it does, but two runs alone, or Holm, do not confirm it.
* **{OPEN}**: the line lies inside, there is one run, or the step is less than {SMALLEST:g} points (the smallest that
  matters, unless the table says another).
* **{CANNOT_TELL}**: a row is below an answer that looks at no image (the most frequent class, or at each pixel the
  class most frequent there); more than a third of the classes are below {FLOOR:g} % IoU in every row; a network that
  contains the other has a higher training loss; there is nothing to win; or the interval is wider than the paper's step.
* **{NOT_RUN}**: the recipe is there.

An interval over seeds says nothing about other images. Every value of ours is computed from records in `results/`
that a machine wrote."""
THIN = 0.03
"""Of the pixels: a class with a smaller share is thin."""
CLAIM_HEADS = ("claim", "verdict", "the paper's step", "our step, 95 %", "seeds", "profile", "why")
RESULT_HEADS = (
    "network", "mIoU (%)", "overall accuracy (%)", "mean accuracy (%)", "parameters", "seeds",
)  # fmt: skip


def markdown_table(heads: tuple[str, ...], lines: list[list[str]]) -> str:
    """Return a Markdown table of texts."""
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(x)} |" for x in lines)])


# -- scoreboard and claims -----------------------------------------------------------------------------


def scoreboard_markdown(table: str | None = None, profile: str | None = None, records: Path | None = None) -> str:
    """Return for each table its rows, its claims and what was not counted.

    Raises:
        ValueError: For the quick profile.
    """
    refuse_quick(profile)
    parts = []
    chosen = chosen_results(table, records)
    judged = judgements(table, profile, records) if table else judge_all(chosen, profile)
    for results in chosen:
        parts += [f"## {results.table.title}", levels(results, profile)]
        if of_table := [claim_cells(found) for found in judged if found.claim.table == results.table.name]:
            parts.append(markdown_table(CLAIM_HEADS, of_table))
        troubles = [text for texts in results.troubles.values() for text in texts]
        if troubles:
            parts.append("Not counted:\n\n" + "\n".join(f"- {text}" for text in troubles))
    return "\n\n".join(parts)


def levels(results: Results, profile: str | None = None) -> str:
    """Return a line a row, the paper's number and ours, two floors, and a caption with all that is the same.

    Args:
        profile: "laptop" or "gpu"; None: those that have records.
    """
    profiles = [profile] if profile else results.recorded()
    heads, lines = level_lines(results, profiles)
    return f"{markdown_table(tuple(heads), lines)}\n\n{caption(results, profiles)}"


def level_lines(results: Results, profiles: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the lines of `levels`; columns that say nothing are left out.

    So are the rows that are not run and have no number of a paper.
    """
    table, lines = results.table, []
    for row in table.rows.values():
        cells = [row.label, "" if row.paper_value is None else f"{row.paper_value:.1f}"]
        for chosen in profiles:
            (line,) = (line for line in score_rows(results, chosen) if line.row == row.name)
            cells += [level_cell(line), large_and_thin(results.records(row.name, chosen), row.metric)]
        if row.paper_value is not None or any(cell not in ("not run", "") for cell in cells[2:]):
            lines.append(cells)
    for name in ("constant answer", "mean label map"):
        scores = [read_floors().get(floor_name(results.leading(one)), {}).get(name, {}) for one in profiles]
        found = [f"{100 * score[table.metric]:.1f}" if table.metric in score else "" for score in scores]
        if any(found):
            lines.append([f"*{name}*", "", *(cell for value in found for cell in (value, ""))])
    heads = ["row", "paper", *(head for one in profiles for head in (f"ours, {one}", "large · thin classes"))]
    keep = [index for index in range(len(heads)) if index == 0 or any(line[index] for line in lines)]
    return [heads[i] for i in keep], [[line[i] for i in keep] for line in lines]


def level_cell(line: ScoreRow) -> str:
    """Return ours: mean, standard deviation and number of seeds; on the paper's data also the difference."""
    if line.mean is None:
        return line.verdict
    spread = "" if line.spread is None else f" ± {line.spread:.1f}"
    text = f"{line.mean:.1f}{spread} ({len(line.values)})"
    return text if line.difference is None else f"{text}: {signed(line.difference, line.half)}, {line.verdict}"


def large_and_thin(records: list[Record], metric: str) -> str:
    """Return "67 | 8": the mean IoU in percent of the classes above and below `THIN` of the pixels."""
    if metric != "mean_iou" or not records:
        return ""
    sizes = {name: about["pixels"] for name, about in records[0].per_class.items() if about["pixels"]}
    groups = ([], [])
    for name, pixels in sizes.items():
        values = [one.per_class[name]["iou"] or 0.0 for one in records]
        groups[pixels < THIN * sum(sizes.values())].append(statistics.mean(values))
    return " · ".join(f"{100 * statistics.mean(group):.0f}" if group else "-" for group in groups)


def caption(results: Results, profiles: list[str]) -> str:
    """Return what the numbers of a table are: whose, of what, on which machine, and the classes that no row finds."""
    sentences = about_table(results.table)
    for profile in profiles:
        records = [one for row in results.table.rows.values() for one in results.records(row.name, profile)]
        if records:
            low, _ = classes_at_floor(results, profile)
            none = f" Below {FLOOR:g} % IoU in every row: {', '.join(low)}." if low else ""
            if floors_missing(results, profile):
                none += " Floors not computed: python -m course_lib.experiments.make_floors"
            sentences.append(f"{profile[0].upper()}{profile[1:]}: {how_measured(records)}{none}")
    return " ".join([*sentences, "In brackets: the number of seeds."])


def about_table(table: Table) -> list[str]:
    """Return sentences on whose numbers these are: paper and place, data, metric."""
    metric = METRICS[table.metric].title
    if not table.paper:
        return [f"No paper's table; {metric} in percent."]
    return [
        f"{table.paper}; {table.place}.",
        f"The paper's numbers are of {table.paper_data or 'data it names'}; {metric} in percent.",
    ]


def claims_markdown(table: str | None = None, profile: str | None = None, records: Path | None = None) -> str:
    """Return a table of claims, their verdicts, and the paper's step beside ours, without columns that say nothing."""
    lines = [claim_cells(found) for found in judgements(table, profile, records)]
    said = [column for column in range(len(CLAIM_HEADS)) if not lines or any(line[column] for line in lines)]
    heads = tuple(CLAIM_HEADS[column] for column in said)
    return markdown_table(heads, [[line[column] for column in said] for line in lines])


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


def setting_in_words(name: str, value: object) -> str:
    """Return a setting's value as people say it."""
    plain = {
        ("crop", "[0, 0]"): "the whole image",
        ("scale", "[1.0, 1.0]"): "as it is",
        ("train_length", "0"): "all images",
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


def training_in_words(recipe: TrainRecipe) -> str:
    """Return what a recipe trains and how, as five entries of text: steps, optimiser, images, loss, network.

    What a recipe does not do is not named. Lines are at most 88 characters long.
    """
    way = f" (momentum {recipe.momentum:g})" if recipe.optimizer == "sgd" else ""
    rise = f" after {recipe.warmup_steps} steps of warm-up" if recipe.warmup_steps else ""
    fall = f", falling to 0 (power {recipe.poly_power:g})" if recipe.poly_power else ""
    low, high = recipe.scale
    changes = [
        (recipe.flip, "mirrored at random"),
        ((low, high) != (1, 1), f"resized by {low:g} to {high:g}"),
        (any(recipe.crop), f"cut to {recipe.crop[0]}x{recipe.crop[1]}"),
        (recipe.jitter, f"brightness, contrast, saturation times 1 ± {recipe.jitter:g}"),
        (recipe.elastic, f"bent (sigma {recipe.elastic:g} pixels)"),
    ]
    terms = [
        (recipe.class_weighting != "none", f"classes weighted by {recipe.class_weighting.replace('_', ' ')}"),
        (recipe.boundary_weight, f"border weights (w0 {recipe.boundary_weight:g})"),
        (recipe.aux_weight, f"auxiliary head times {recipe.aux_weight:g}"),
        (recipe.background == "implicit", "implicit background"),
        (recipe.hard_share < 1, f"the hardest {recipe.hard_share:.0%} of the pixels"),
        (recipe.kl_weight, f"KL times {recipe.kl_weight:g}"),
    ]
    losses = {
        "cross_entropy": "cross-entropy of the pixels",
        "focal": "focal loss of the pixels (gamma 2)",
        "dice": "Dice loss of the classes",
    }
    scribe = recipe.background == "scribe"
    loss = "a binary cross-entropy for each logit (SCrIBE)" if scribe else losses[recipe.loss]
    start = f"the checkpoint {recipe.start_from}" if recipe.start_from else "random weights"
    options = ", ".join(f"{name}={value}" for name, value in recipe.model_options.items())
    lines = {
        "steps": f"{recipe.steps} batches of {recipe.batch_size} images",
        "optimiser": f"{recipe.optimizer}{way}, learning rate {recipe.learning_rate:g}{rise}{fall}; "
        f"weight decay {recipe.weight_decay:g}",
        "images": ", ".join([f"{recipe.height}x{recipe.width}", *(words for does, words in changes if does)]),
        "loss": ", ".join([loss, *(words for does, words in terms if does)]),
        "network": f"{recipe.model} ({options}), from {start}",
    }
    indent = " " * 11
    return "\n".join(fill(f"{name + ':':11}{words}", 88, subsequent_indent=indent) for name, words in lines.items())


# -- results of one table ------------------------------------------------------------------------------


def results_table(table: str, profile: str, records: Path | None = None) -> Markdown:
    """Return the recorded runs of `table` at `profile` as a notebook shows them, the claims of the paper folded.

    Rows without a run are counted; claims of one verdict for one reason stand together.
    """
    text, claims = _runs(table, profile, records, every_row=False), _papers_claims(table, profile, records)
    if not claims:
        return Markdown(text)
    together: dict[str, list[str]] = {}
    for one in claims:
        together.setdefault(f"**{one.words}**{one.reason and ': '}{one.reason}", []).append(
            f"- {one.claim.statement}{_steps(one)}"
        )
    groups = ["\n".join([why, "", *lines]) for why, lines in together.items()]
    folded = [
        f"<details><summary>{_how_many(claims)}</summary>",
        *groups,
        "What the verdicts mean: [30 Scoreboard](30_scoreboard.ipynb).",
        "</details>",
    ]
    return Markdown("\n\n".join([text, *folded]))


def results_markdown(table: str, profile: str, records: Path | None = None) -> str:
    """Return the recorded runs of `table` at `profile`: one line a row, seeds averaged, and where they were made."""
    text, claims = _runs(table, profile, records), _papers_claims(table, profile, records)
    if not claims:
        return text
    lines = [
        f"- {one.claim.statement}: **{one.words}**{_steps(one)}{one.reason and ': '}{one.reason}" for one in claims
    ]
    return "\n".join([text, "", _how_many(claims), "", *lines])


def _runs(table: str, profile: str, records: Path | None, *, every_row: bool = True) -> str:
    results = read_results(Table.read(table), records)
    found = {row: results.records(row.name, profile) for row in results.table.rows.values() if row.runs == row.name}
    measured = [record for own in found.values() for record in own]
    shown = found if every_row or not measured else {row: own for row, own in found.items() if own}
    parts = [markdown_table(RESULT_HEADS, [_result_cells(row.label, own) for row, own in shown.items()])]
    if len(shown) < len(found):
        missing = len(found) - len(shown)
        parts.append(f"{missing} more row{'s' * (missing > 1)} of this table: not run.")
    return "\n\n".join([*parts, *([how_measured(measured)] if measured else [])])


def _papers_claims(table: str, profile: str, records: Path | None) -> list[Judgement]:
    return [one for one in judgements(table, profile, records) if one.claim.kind == "paper"]


def _how_many(claims: list[Judgement]) -> str:
    return f"Of {len(claims)} claims of the paper: {tally(claims)}."


def _steps(found: Judgement) -> str:
    step = "" if found.paper_step is None else f", the paper {signed(found.paper_step)}"
    return f" ({our_step(found)}{step})" if found.mean is not None else ""


def tally(judged: Iterable[Judgement]) -> str:
    """Return the verdicts with their counts."""
    return ", ".join(f"{verdict} {count}" for verdict, count in Counter(found.words for found in judged).items())


def _result_cells(label: str, records: list[Record]) -> list[str]:
    if not records:
        return [label, "not run", *[""] * (len(RESULT_HEADS) - 2)]
    names = ("mean_iou", "overall_accuracy", "mean_accuracy")
    return [
        label,
        *(_mean_and_spread([100 * record.metrics[name] for record in records]) for name in names),
        f"{records[0].parameters:,}",
        ", ".join(str(record.recipe["seed"]) for record in records),
    ]


def _mean_and_spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def how_measured(records: list[Record]) -> str:
    """Return a sentence on what the runs were trained and measured on, from which weights, and where."""
    data = [record.data for record in records]
    measured_on = _each(
        f"the {one['measured_on']} split of {one['set']} ({one['measured_pictures']} images)" for one in data
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
    words = "masks of {} images" if any("with_masks" in record.data for record in trained) else "{} images"
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
