"""The table of contents and the list of the lecture's statements, read from the notebooks themselves."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from course_lib.paths import ROOT


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
                path, path.name[:2],
                title.group(1).strip() if title else path.stem,
                " ".join(question.group(1).split()) if question else "",
            )
        )  # fmt: skip
    return found


STATEMENT = "statement"
"""The tag of a markdown cell that quotes the lecture; the code cell after it shows and asserts it."""
_SAYS, _SHOWN = "> **The lecture says:** ", "**Shown below:** "


@dataclass(frozen=True)
class Statement:
    """A sentence of the lecture, in our words, what the cell below it shows, and a name for links."""

    says: str
    shown: str
    anchor: str = ""


def read_statement(source: str) -> Statement:
    """The statement of a tagged cell. Raises ValueError unless it is the two paragraphs expected:

    > **The lecture says:** ...

    **Shown below:** ...
    """
    paragraphs = re.split(r"\n\s*\n", source.strip())
    if len(paragraphs) != 2:
        raise ValueError(f"paragraphs: {len(paragraphs)}, not two")
    for paragraph, opening in zip(paragraphs, (_SAYS, _SHOWN), strict=True):
        if not paragraph.startswith(opening):
            raise ValueError(f'a paragraph does not begin with "{opening}"')
    quote = re.sub(r"^> ?", "", paragraphs[0], flags=re.MULTILINE).replace(
        "**The lecture says:**", ""
    )
    return Statement(" ".join(quote.split()), " ".join(paragraphs[1].removeprefix(_SHOWN).split()))


def statements(lecture: Lecture) -> list[Statement]:
    """The statements that a notebook shows, in its order."""
    cells = json.loads(lecture.path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if STATEMENT in cell["metadata"].get("tags", [])]
    found = [read_statement("".join(cell["source"])) for cell in tagged]
    return [
        Statement(statement.says, statement.shown, f"statement-{lecture.number}-{number}")
        for number, statement in enumerate(found, start=1)
    ]


def statements_markdown(folder: Path = ROOT / "notebooks") -> str:
    """The site's page of statements: what the lecture says, where it is executed, what is seen there."""
    lines = [
        "# What the lecture says, and where it is executed",
        "",
        "Each statement of the lecture on semantic segmentation (CSE 252D, lecture 13) has a cell that shows it",
        "and an assertion that fails if it stops being true. This list is read from the notebooks. Some",
        "statements need care: what is shown says so.",
    ]
    for lecture in lectures(folder):
        found = statements(lecture)
        if not found:
            continue
        lines += [
            "",
            f"## {lecture.number} {lecture.title}",
            "",
            "| the lecture says | the cell shows |",
            "|---|---|",
        ]
        for statement in found:
            says, shown = (text.replace("|", "\\|") for text in (statement.says, statement.shown))
            lines.append(f"| [{says}](#{statement.anchor}) | {shown} |")
    return "\n".join(lines) + "\n"


def contents_markdown(link: str = "{name}") -> str:
    """A Markdown table of the lectures; `link` makes an address of a file's name."""
    rows = ["| | notebook | the question |", "|---|---|---|"]
    for lecture in lectures():
        address = link.format(name=lecture.path.name)
        rows.append(f"| {lecture.number} | [{lecture.title}]({address}) | {lecture.question} |")
    return "\n".join(rows)
