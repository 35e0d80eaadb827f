"""The table of contents, read from the notebooks themselves."""

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


def contents_markdown(link: str = "{name}") -> str:
    """A Markdown table of the lectures; `link` makes an address of a file's name."""
    rows = ["| | notebook | the question |", "|---|---|---|"]
    for lecture in lectures():
        address = link.format(name=lecture.path.name)
        rows.append(f"| {lecture.number} | [{lecture.title}]({address}) | {lecture.question} |")
    return "\n".join(rows)
