"""Records as tables that people read: in notebooks, and in the README (`make readme` fills it anew)."""

import re
import statistics
from pathlib import Path

from IPython.display import Markdown

from course_lib.contents import contents_markdown
from course_lib.experiments.recipes import read_table, resolve
from course_lib.experiments.records import Record, find_record, read_record, record_path
from course_lib.files import write_text
from course_lib.paths import ROOT, results_root


def records_of(table: str, row: str, profile: str, folder: Path | None = None) -> list[Record]:
    """The valid records of one row at one profile, in the order of their seeds.

    Records of a changed recipe are left out. Raises RecordError for one that cannot be trusted.
    """
    found = []
    home = (folder or results_root()) / table
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
    lines += [
        "",
        f"Measured on the {data['measured_on']} split of {data['set']} ({data['measured_pictures']} pictures), trained on "
        f"its {data['train']} split ({data['train_pictures']} pictures), at {data['size']} pixels, from scratch; "
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
    """`text` with its generated parts made anew: `<!-- begin results TABLE PROFILE -->` and
    `<!-- begin contents -->`, each up to the next `<!-- end ... -->`.
    """

    def generated(match: re.Match[str]) -> str:
        kind, *arguments = match["what"].split()
        if kind == "contents":
            content = contents_markdown("notebooks/{name}")
        elif kind == "results":
            content = results_markdown(*arguments)
        else:
            raise ValueError(f"nothing is generated for {match['what']!r}")
        return f"<!-- begin {match['what']} -->\n{content}\n<!-- end {kind} -->"

    return re.sub(
        r"<!-- begin (?P<what>[^>]+?) -->\n.*?<!-- end \w+ -->", generated, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_text(readme, fill(readme.read_text(encoding="utf-8")))
