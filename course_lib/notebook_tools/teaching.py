"""What TEACHING.md shows of the notebooks: what needs what, what a lecture takes, and what it is worth."""

import html
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.notebook_tools.cells import parse
from course_lib.notebook_tools.contents import lectures
from course_lib.notebook_tools.exercises import exercises
from course_lib.notebook_tools.stored_form import tidied
from course_lib.notebook_tools.times import read_times
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT

NOTEBOOKS = ROOT / "notebooks"
PICTURE = ROOT / "docs" / "pictures" / "prerequisites.svg"
LINE = re.compile(r"\*+Prerequisites:?\*+:?(.*?)(?:\n\s*\n|\Z)", re.DOTALL)
RANGE = re.compile(r"\]\((\d\d)_\w+\.ipynb\) to \[[^\]]*\]\((\d\d)_")
SPENT = re.compile(r"(\*Time on a laptop\*: ).*?( ?<!-- times -->)")
WIDTH, HEIGHT, GAP = 168, 44, 26
WORDS_A_MINUTE = 120
"""How fast a technical text in a second language is read, code beside it: an assumption, not a measurement."""


def needed(folder: Path = NOTEBOOKS) -> dict[str, list[str]]:
    """Return the numbers of the notebooks that each names in its line of prerequisites; "03 to 09" names all."""
    numbers = [lecture.number for lecture in lectures(folder)]
    found = {}
    for lecture in lectures(folder):
        opening = parse(lecture.path.read_text(encoding="utf-8")).cells[0].source
        line = LINE.search(opening)
        text = line[1] if line else ""
        named = set(re.findall(r"\((\d\d)_\w+\.ipynb\)", text))
        for first, last in RANGE.findall(text):
            named |= {number for number in numbers if first <= number <= last}
        found[lecture.number] = sorted(named & set(numbers) - {lecture.number})
    return found


def direct(graph: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return a graph without the edges that follow from others."""

    def all_before(number: str) -> set[str]:
        return set(graph[number]).union(*(all_before(one) for one in graph[number]))

    return {
        number: [one for one in before if not any(one in all_before(other) for other in before if other != one)]
        for number, before in graph.items()
    }


def levels(graph: dict[str, list[str]]) -> dict[str, int]:
    """Return how many notebooks at least come before each on its longest way."""
    found: dict[str, int] = {}

    def level(number: str) -> int:
        if number not in found:
            found[number] = max((level(one) + 1 for one in graph[number]), default=0)
        return found[number]

    for number in graph:
        level(number)
    return found


def graph_svg(folder: Path = NOTEBOOKS) -> str:
    """Return the graph of prerequisites as a picture: an arrow leads from a notebook to what needs it."""
    graph = direct(needed(folder))
    titles = {one.number: one.title.split(":")[0].removeprefix("Reproduced") or one.title for one in lectures(folder)}
    titles |= {one.number: one.title.split(": ")[-1] for one in lectures(folder) if one.title.startswith("Reproduced")}
    alone = [number for number in graph if not graph[number] and not any(number in one for one in graph.values())]
    rows = levels({number: before for number, before in graph.items() if number not in alone})
    rows = {number: 0 if number in alone else level for number, level in rows.items()} | dict.fromkeys(alone, 0)
    place: dict[str, tuple[int, int]] = {}
    for row in range(max(rows.values()) + 1):
        for column, number in enumerate(sorted(number for number in rows if rows[number] == row)):
            place[number] = (10 + column * (WIDTH + GAP), 10 + row * (HEIGHT + 2 * GAP))
    width = max(x for x, _ in place.values()) + WIDTH + 10
    height = max(y for _, y in place.values()) + HEIGHT + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" '
        f'role="img" aria-label="Which notebook needs which">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, before in graph.items():
        for one in before:
            (x0, y0), (x1, y1) = place[one], place[number]
            lines.append(
                f'<path d="M{x0 + WIDTH / 2} {y0 + HEIGHT}C{x0 + WIDTH / 2} {y0 + HEIGHT + 36} {x1 + WIDTH / 2} {y1 - 36} '
                f'{x1 + WIDTH / 2} {y1 - 1}" fill="none" stroke="#888" marker-end="url(#tip)"/>'
            )
    for number, (x, y) in place.items():
        lab = number >= "20"
        title = titles[number] if len(titles[number]) < 25 else titles[number][:23].rstrip() + "…"
        lines.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{"#fff3e0" if lab else "#e8f0f8"}" '
            f'stroke="{"#b94a00" if lab else "#1f4e79"}"/><text x="{x + 8}" y="{y + 18}" font-weight="bold">{number}</text>'
            f'<text x="{x + 8}" y="{y + 35}">{html.escape(title)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def write_picture(path: Path = PICTURE) -> None:
    """Write the graph of prerequisites where TEACHING.md shows it."""
    write_text(path, graph_svg())


def spent(path: Path) -> str:
    """Return what a lecture takes, in words: the seconds of its last measured run, the minutes of work."""
    about = read_times().get("make course", {})
    notebook = parse(path.read_text(encoding="utf-8"))
    reading, doing = _reading(notebook), sum(one.minutes for one in exercises(notebook))
    seconds = about.get("notebooks", {}).get(path.stem)
    where = f"quick profile, {about.get('cores')} cores"
    run = "not run yet" if seconds is None else f"{5 * max(round(seconds / 5), 1)} seconds to run ({where})"
    return f"{run}, {reading + doing} minutes to work through ({reading} to read, {doing} for the exercises)."


def write_spent(path: Path) -> bool:
    """Write what a lecture takes into its first cell, before the mark `<!-- times -->`; return whether it has one."""
    notebook = parse(path.read_text(encoding="utf-8"))
    opening = notebook.cells[0]
    if not SPENT.search(opening.source):
        return False
    opening.source = SPENT.sub(lambda match: f"{match[1]}{spent(path)}{match[2]}", opening.source)
    write_text(path, tidied(nbformat.writes(notebook)))
    return True


def _reading(notebook: NotebookNode) -> int:
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    return round(words / WORDS_A_MINUTE / 5) * 5


def takes_markdown(folder: Path = NOTEBOOKS) -> str:
    """Return a table: what each notebook needs before it, its times, its exercises and points."""
    graph, ran = direct(needed(folder)), read_times().get("make course", {}).get("notebooks", {})
    lines = [
        "| notebook | needs | run (s) | read (min) | exercises (min) | points |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    totals = [0, 0, 0]
    for lecture in lectures(folder):
        notebook = parse(lecture.path.read_text(encoding="utf-8"))
        of_it = exercises(notebook)
        row = [_reading(notebook), sum(one.minutes for one in of_it), sum(one.points for one in of_it)]
        totals = [total + one for total, one in zip(totals, row, strict=True)]
        seconds = f"{ran[lecture.path.stem]:.0f}" if lecture.path.stem in ran else "not yet"
        lines.append(
            f"| [{lecture.number} {lecture.title}](notebooks/{lecture.path.name}) | {', '.join(graph[lecture.number]) or '-'} "
            f"| {seconds} | {row[0]} | {row[1] or '-'} | {row[2] or '-'} |"
        )
    lines.append(f"| all | | | {totals[0]} | {totals[1]} | {totals[2]} |")
    return "\n".join(lines)
