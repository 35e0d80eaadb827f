"""The table of contents and the list of the lecture's statements, read from the notebooks themselves."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from course_lib.notebook_tools.cells import parse
from course_lib.notebook_tools.needs import real_data
from course_lib.notebook_tools.times import read_times
from course_lib.plumbing.paths import ROOT


@dataclass(frozen=True)
class Lecture:
    """A notebook: its file, its title without the number, and the question its first lines ask."""

    path: Path
    number: str
    title: str
    question: str


def lectures(folder: Path = ROOT / "notebooks") -> list[Lecture]:
    """The notebooks of `folder` in order."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        opening = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title = re.search(r"^#\s+(?:\d\d\s+)?(.+)$", opening, re.MULTILINE)
        question = re.search(r"\*{1,2}([^*]+?\?)\*{1,2}", opening)
        found.append(
            Lecture(
                path,
                path.name[:2],
                title.group(1).strip() if title else path.stem,
                " ".join(question.group(1).split()) if question else "",
            )
        )
    return found


STATEMENT = "statement"
"""The tag of a markdown cell that quotes the lecture; the code cell after it shows it, and asserts or expects it."""
SOURCES = ("lecture", "talk", "paper")
"""Who is quoted: the lecture, or the talk or paper that a notebook is about."""
_SAYS, _SHOWN = "> **The {} says:** ", "**Shown below:** "
GUESS, SEEN = "**Guess first:** ", "**Seen:** "
_FOLDED = re.compile(r"<details><summary>The (\w+) says</summary>(.+?)</details>", re.DOTALL)
_PLAIN = re.compile(r"(?:^|\n\s*\n)The (\w+) says that (.+?[^.])\.\s(?=[A-Z*`])(.+?)(?=\n\s*\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """A sentence of the lecture, in our words, what the cell below it shows, a name for links, and who says it."""

    says: str
    shown: str
    anchor: str = ""
    source: str = "lecture"


def read_statement(source: str, after: str = "") -> Statement:
    """Return the statement of a tagged cell.

    It is written in one of three ways:

    * a box of two paragraphs: "> **The lecture says:** ..." (or the talk, the paper), and "**Shown below:** ...";
    * a guess: "**Guess first:** ...?" and, folded, "<details><summary>The lecture says</summary>...</details>"; the
      next text then has a paragraph "**Seen:** ..."; what is shown is the question and what was seen;
    * a plain paragraph "The lecture says that ... . What is shown.", beside other text.

    Args:
        source: The cell's text.
        after: The text of the first markdown cell after it.

    Raises:
        ValueError: It is none of these.
    """
    if source.lstrip().startswith(_SAYS.split("{")[0]):
        return _boxed(source)
    if GUESS in source:
        return _guessed(source, after)
    plain = _PLAIN.findall(source)
    if len(plain) != 1 or plain[0][0] not in SOURCES:
        return _boxed(source)
    who, says, shown = plain[0]
    return Statement(" ".join(says.split()) + ".", " ".join(shown.split()), source=who)


def _boxed(source: str) -> Statement:
    paragraphs = re.split(r"\n\s*\n", source.strip())
    if len(paragraphs) != 2:
        raise ValueError(f"paragraphs: {len(paragraphs)}, not two")
    said = [source for source in SOURCES if paragraphs[0].startswith(_SAYS.format(source))]
    if not said:
        raise ValueError(f'a paragraph does not begin with "{_SAYS.format(SOURCES[0])}" (or {", ".join(SOURCES[1:])})')
    if not paragraphs[1].startswith(_SHOWN):
        raise ValueError(f'a paragraph does not begin with "{_SHOWN}"')
    quote = re.sub(r"^> ?", "", paragraphs[0].removeprefix(_SAYS.format(*said)), flags=re.MULTILINE)
    shown = paragraphs[1].removeprefix(_SHOWN)
    return Statement(" ".join(quote.split()), " ".join(shown.split()), source=said[0])


def _guessed(source: str, after: str) -> Statement:
    folded = _FOLDED.findall(source)
    if len(folded) != 1 or folded[0][0] not in SOURCES:
        raise ValueError("a guess folds what the lecture says: <details><summary>The lecture says</summary>...")
    seen = [part for part in re.split(r"\n\s*\n", after.strip()) if part.startswith(SEEN)]
    if not seen:
        raise ValueError(f'no paragraph of the next text begins with "{SEEN}"')
    who, says = folded[0]
    question = source.split(GUESS)[1].split("\n\n")[0]
    shown = [" ".join(text.split()) for text in (question, seen[0].removeprefix(SEEN))]
    return Statement(" ".join(says.split()), " ".join(text[:1].upper() + text[1:] for text in shown), source=who)


def statements_by_cell(cells: Sequence[Mapping]) -> dict[int, Statement]:
    """Return the statements of a notebook's cells, by the index of the tagged cell.

    Raises:
        ValueError: A tagged cell is no statement (`read_statement`).
    """
    texts = {number: "".join(cell["source"]) for number, cell in enumerate(cells) if cell["cell_type"] == "markdown"}
    return {
        number: read_statement(text, next((texts[later] for later in texts if later > number), ""))
        for number, text in texts.items()
        if STATEMENT in cells[number]["metadata"].get("tags", [])
    }


def statements(lecture: Lecture) -> list[Statement]:
    """Return the statements that a notebook shows, in its order."""
    found = statements_by_cell(json.loads(lecture.path.read_text(encoding="utf-8"))["cells"])
    return [
        replace(statement, anchor=f"statement-{lecture.number}-{number}")
        for number, statement in enumerate(found.values(), start=1)
    ]


def statements_markdown(folder: Path = ROOT / "notebooks") -> str:
    """The site's page of statements: what the lecture says, where it is executed, what is seen there."""
    lines = [
        "# What the lecture says, and where it is executed",
        "",
        "Each statement of the lecture on semantic segmentation (CSE 252D, lecture 13) has a cell that shows it:",
        "with an assertion, which fails if it stops being true, or, where a training decides, with an expectation",
        "and its numbers. This list is read from the notebooks. Some statements need care: what is shown says so.",
        "What the talk or the paper says that a notebook is about has a table of its own.",
    ]
    for lecture in lectures(folder):
        found = statements(lecture)
        if not found:
            continue
        lines += ["", f"## {lecture.number} {lecture.title}"]
        for source in SOURCES:
            of_source = [statement for statement in found if statement.source == source]
            if of_source:
                lines += ["", f"| the {source} says | the cell shows |", "|---|---|"]
            for statement in of_source:
                texts = (statement.says, statement.shown)
                says, shown = (text.replace("|", "\\|") for text in texts)
                lines.append(f"| [{says}](#{statement.anchor}) | {shown} |")
    return "\n".join(lines) + "\n"


def contents_markdown(link: str = "{name}") -> str:
    """Return a Markdown table of the lectures with what they take; `link` makes an address of a file's name."""
    ran = read_times().get("make course", {}).get("notebooks", {})
    heads = ["", "notebook", "the question", "real data", *(["seconds"] if ran else [])]
    rows = [heads, ["---"] * len(heads)]
    for lecture in lectures():
        address = link.format(name=lecture.path.name)
        row = [lecture.number, f"[{lecture.title}]({address})", lecture.question, _needs(lecture.path)]
        seconds = ran.get(lecture.path.stem)
        rows.append([*row, *(["not yet" if seconds is None else f"{seconds:.0f}"] if ran else [])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _needs(path: Path) -> str:
    """The names of a notebook's real data sets, as `course data get` takes them: "camvid; gpu: voc"."""
    names = {
        profile: ", ".join(dict.fromkeys(f"`{one.get.split()[-1]}`" for one in sets))
        for profile, sets in real_data(parse(path.read_text(encoding="utf-8"))).items()
    }
    laptop, gpu = names["laptop"], names["gpu"]
    parts = [laptop, f"gpu: {gpu}" if gpu != laptop else ""]
    return "; ".join(part for part in parts if part) or "none"
