"""The page of expectations: how often each statement about a training's outcome held, by a recorded sweep."""

import json
from pathlib import Path
from statistics import median

from course_lib.plumbing.paths import ROOT

RECORDED = ROOT / "results" / "expectations.json"
HEADING = """# What the trainings are expected to show

A sentence about the outcome of a training is not a law: another seed, number format or processor may give
another outcome. Each such statement of the notebooks is therefore tried over several seeds and precisions, by
`course notebooks sweep`. This page counts how often it held, and by what margin. In a notebook a statement that
does not hold is shown with its numbers, and the notebook goes on.
"""
NOTHING = "No sweep is recorded yet. To make one, type `course notebooks sweep`.\n"


def expectations_markdown(path: Path = RECORDED) -> str:
    """Return the page as Markdown, with a table for each notebook; it says so where nothing is recorded."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["expectations"]
    except FileNotFoundError:
        found = []
    if not found:
        return f"{HEADING}\n{NOTHING}"
    trials = [trial for one in found for trial in one["trials"]]
    machines = ", ".join(sorted({trial["machine"] for trial in trials if trial.get("machine")}))
    held = sum(trial["held"] for trial in trials)
    lines = [
        HEADING,
        f"{len(found)} statements, {len(trials)} trials, {held} of them held. Machines: {machines or '-'}.",
    ]
    lines += ["A margin is the distance to the wanted value, below 0 where a statement did not hold.", ""]
    for notebook in dict.fromkeys(one["notebook"] for one in found):
        ours = [one for one in found if one["notebook"] == notebook]
        precisions = sorted({trial["precision"] for one in ours for trial in one["trials"]})
        lines += [f"## {notebook[:2]} {notebook[3:].replace('_', ' ')}", ""]
        lines += [
            "| statement | " + " | ".join(f"held, {name}" for name in precisions) + " | smallest margin | median |"
        ]
        lines += ["|---" * (len(precisions) + 1) + "|---:|---:|"]
        lines += [_row(one, precisions) for one in ours]
        lines.append("")
    return "\n".join(lines)


def _row(one: dict, precisions: list[str]) -> str:
    counts = []
    for name in precisions:
        held = [trial["held"] for trial in one["trials"] if trial["precision"] == name]
        counts.append(f"{sum(held)} of {len(held)}" if held else "-")
    margins = [trial["margin"] for trial in one["trials"] if trial.get("margin") is not None]
    smallest, middle = (f"{pick(margins):.3g}" if margins else "-" for pick in (min, median))
    statement = one["statement"].replace("|", "\\|")
    return f"| {statement} | {' | '.join(counts)} | {smallest} | {middle} |"
