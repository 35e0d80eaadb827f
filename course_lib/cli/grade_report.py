"""What `course grade` writes: a page a student, and one table that Canvas and Moodle take."""

import csv
import html
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from course_lib.plumbing.files import write_text

CANVAS = re.compile(r"(?P<name>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<file>.+)")
"""How Canvas names a file of its bulk download: name_user_submission_file."""
MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_file_?")
"""How Moodle names a student's folder in its download of all submissions."""
NUMBERED = re.compile(r"_?\d\d_[a-z0-9_]+(?:-\d+)?$")
HEAD = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
"""The columns that Canvas asks for; Moodle's import lets one say which of them is the user's."""


@dataclass(frozen=True)
class Student:
    """Who handed something in: `id` is what the learning platform calls them, or empty."""

    name: str
    id: str = ""


def student_of(path: Path, folder: Path) -> Student:
    """Return whose a submitted file is, by its place in `folder`: Canvas's names, Moodle's, or a folder a student."""
    inside = path.relative_to(folder)
    if found := CANVAS.fullmatch(path.stem):
        return Student(found["name"], found["id"])
    if len(inside.parts) > 1:
        found = MOODLE.fullmatch(inside.parts[0])
        return Student(found["name"], found["id"]) if found else Student(inside.parts[0])
    return Student(NUMBERED.sub("", path.stem) or path.stem)


def points(result: dict) -> int:
    """Return the points that a result earned."""
    return sum(one["points"] for one in result["exercises"] if one["solved"])


def possible_points(result: dict) -> tuple[int, int]:
    """Return the points that hidden cases can give, and those that a person gives."""
    by_hand = sum(one["points"] for one in result["exercises"] if one.get("by_a_person"))
    return sum(one["points"] for one in result["exercises"]) - by_hand, by_hand


def table(results: Iterable[dict], titles: dict[str, str]) -> str:
    """Return the grades as CSV: a row a student, a column a notebook; what a person reads is not counted.

    Args:
        results: Each with `student`, `id`, `notebook` and `exercises`.
        titles: The column of each notebook.
    """
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for result in results:
        rows.setdefault((result["student"], result["id"]), {})[result["notebook"]] = points(result)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*HEAD, *titles.values()])
    for (name, number), earned in sorted(rows.items()):
        login = "" if number else _plain(name)
        out.writerow([_plain(name), number, "", login, "", *(earned.get(notebook, "") for notebook in titles)])
    return text.getvalue()


def details(results: Iterable[dict]) -> str:
    """Return every exercise of every submission as CSV, with the reason where it is not solved.

    The points of an exercise that a person reads are left empty.
    """
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["student", "notebook", "exercise", "points", "of", "cases passed", "reason", "notes"])
    for result in sorted(results, key=lambda one: (one["notebook"], one["student"])):
        for one in result["exercises"]:
            earned = "" if one.get("by_a_person") else one["points"] if one["solved"] else 0
            cases = f"{sum(one['passed'])} of {len(one['passed'])}"
            row = [result["student"], result["notebook"], one["id"], earned, one["points"], cases, one["reason"]]
            out.writerow([_plain(str(value)) for value in [*row, " ".join(result["notes"])]])
    return text.getvalue()


def _plain(text: str) -> str:
    """Take from a text what a spreadsheet would run."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
section {{ border-left: 5px solid #b94a00; padding: 0 1rem; margin: 1.5rem 0 }}
section.solved {{ border-color: #2e8b57 }} section.read {{ border-color: #888 }} h2 {{ font-size: 1.1rem; margin: 0 }}
pre {{ background: #f4f4f4; padding: .6rem; overflow-x: auto; white-space: pre-wrap }}
</style></head><body>
<h1>{title}</h1><p><strong>{earned} of {possible} points</strong></p>
{notes}{sections}</body></html>
"""


def page(result: dict, title: str) -> str:
    """Return a student's report; whatever came from the student is shown as text, and nothing of it can run."""
    sections = []
    for one in result["exercises"]:
        read = one.get("by_a_person", False)
        earned = "?" if read else one["points"] if one["solved"] else 0
        said = "Solved." if one["solved"] else f"Not graded here: {one['reason']}." if read else ""
        said = said or f"Not solved: {one['reason']}."
        cases = f" Hidden cases passed: {sum(one['passed'])} of {len(one['passed'])}." if one["passed"] else ""
        printed = f"<p>The notebook printed:</p>{_text(one['printed'])}" if one["printed"] else ""
        sections.append(
            f'<section class="{"solved" if one["solved"] else "read" if read else "open"}">'
            f"<h2>Exercise {html.escape(one['id'])}: {earned} of {one['points']} points</h2>"
            f"<p>{html.escape(said + cases)}</p>{_text(one['source'])}{printed}</section>"
        )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in result["notes"])
    possible, read = possible_points(result)
    if read:
        notes = f"<p>A person reads the rest and gives up to {read} points more.</p>{notes}"
    about = html.escape(f"{title}: {result['student']}")
    return PAGE.format(title=about, earned=points(result), possible=possible, notes=notes, sections="\n".join(sections))


def _text(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""


def write_all(results: list[dict], out: Path, titles: dict[str, str]) -> None:
    """Write the table of grades and, beside it, that of all exercises."""
    write_text(out, table(results, titles))
    write_text(out.with_name(f"{out.stem}_exercises.csv"), details(results))
