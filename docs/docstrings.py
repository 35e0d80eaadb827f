"""The docstrings of `course_lib`, which are written to be read in a terminal, as reStructuredText.

Prose stays prose, with `code` set as code; lists stay lists; aligned or indented blocks (the tables of
shapes) are set as they stand. Sections of Google's style are left to sphinx.ext.napoleon.
"""

import re
from collections.abc import Iterator

ALIGNED = re.compile(r"\S {2,}\S")
ITEM = re.compile(r"(?:[-*]|\d+\.) +")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def as_rst(lines: list[str]) -> list[str]:
    """The docstring's lines, dedented as `inspect.getdoc` leaves them, as lines of reStructuredText."""
    sections = next((index for index, line in enumerate(lines) if SECTION.match(line)), len(lines))
    result: list[str] = []
    for block in _blocks(lines[:sections]):
        if ITEM.match(block[0]):
            result += _list(block)
        elif any(line[0] == " " or ALIGNED.search(line) for line in block):
            result += ["::", "", *(f"    {line}" for line in block)]
        else:
            text = inline(" ".join(line.strip() for line in block))
            result.append(re.sub(r"^([A-Za-z])\. ", r"\1\. ", text))  # an author's initial begins no list
        result.append("")
    return result + _sections(lines[sections:])


def _sections(lines: list[str]) -> list[str]:
    """Sections with one line an entry; several values that are returned become a list."""
    result: list[str] = []
    for line in lines:
        text = line.strip()
        if SECTION.match(line):
            result += ["", line]
        elif line.startswith(8 * " ") and text and result[-1].strip():  # goes on
            result[-1] += f" {inline(text)}"
        else:
            head, colon, rest = text.partition(": ")
            named = colon and "`" not in head
            result.append(f"    {head}: {inline(rest)}" if named else f"    {inline(text)}" if text else "")
    if "Returns:" in result:
        start = result.index("Returns:") + 1
        end = next((i for i in range(start, len(result)) if not result[i].strip()), len(result))
        values = [re.match(r"    ([\w, ]+): (.*)", line) for line in result[start:end]]
        if len(values) > 1 and all(values):
            listed = [f"    * ``{value[1]}``: {value[2]}" for value in values]
            result[start - 1 : end] = [":returns:", "", *listed, ""]
    return result


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines between blank ones; a prose line before a list or an indented part is its own."""
    block: list[str] = []
    for line in [*lines, ""]:
        begins = ITEM.match(line) and block and not ITEM.match(block[0])
        if (not line.strip() or begins) and block:
            yield block
            block = []
        if line.strip():
            block.append(line.rstrip())


def _list(block: list[str]) -> list[str]:
    items: list[str] = []
    for line in block:
        if ITEM.match(line):
            items.append(ITEM.sub("", line, count=1))
        else:
            items[-1] += " " + line.strip()
    return [f"* {inline(item)}" for item in items]


def inline(text: str) -> str:
    """Backticks mark code; nothing else has a meaning."""
    parts = re.split(r"(`+)(.+?)\1", text)
    result = ""
    for i in range(0, len(parts), 3):
        result += re.sub(r"([\\*_|`])", r"\\\1", parts[i])
        if i + 2 < len(parts):
            result += rf"\ ``{parts[i + 2].strip()}``\ "
    return result
