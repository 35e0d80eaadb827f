"""A lecture as slides: one file, for a browser without a network.

Read from the executed notebook: its question and goals, each statement with what was shown, each figure under its
section's heading, the summary. reveal.js comes from the package sphinx-revealjs and is written into the file, like the
pictures; formulas are MathML.
"""

import html
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from docutils.utils.math import MathError
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mathml import to_mathml

from course_lib.notebook_tools.contents import statements_by_cell

LONGEST = 700
"""Characters of text that a slide shows under a statement."""
STYLE = """
.reveal { font-size: 28px } .reveal h1, .reveal h2 { text-transform: none } .reveal h1 { font-size: 1.9em } .reveal h2 { font-size: 1.15em; color: #1f4e79 }
.reveal section { text-align: left } .reveal blockquote { width: 92%; font-style: normal; background: #f3f6fa;
border-left: 6px solid #1f4e79; padding: .3em .8em; box-shadow: none } .reveal section img { max-height: 470px;
max-width: 100%; margin: 0 auto; display: block; border: 0 } .reveal pre { width: 100%; box-sizing: border-box; font-size: .62em; box-shadow: none;
background: #f4f4f4; padding: .6em } .reveal ul, .reveal ol { margin-left: 1em } .reveal .small { font-size: .7em;
color: #555 } .reveal p { line-height: 1.35 } .reveal code { background: #f4f4f4 }
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{css}</style></head><body><div class="reveal"><div class="slides">
{slides}
</div></div><script>{js}</script>
<script>Reveal.initialize({{hash: true, slideNumber: "c/t", width: 1100, height: 700, center: false,
transition: "none", margin: 0.06}});</script></body></html>
"""


@dataclass(frozen=True)
class Slide:
    """One slide: what kind of thing it shows, its heading, and its body as HTML."""

    kind: str
    heading: str
    body: str


def formula(tex: str, options: dict) -> str:
    """Return a formula as MathML, or as it is written where it cannot be read."""
    try:
        return to_mathml(tex, block=options["display_mode"])
    except MathError:
        return f"<code>{html.escape(tex)}</code>"


def as_html(markdown: str) -> str:
    """Return Markdown with formulas as HTML; links to other notebooks become plain text."""
    text = re.sub(
        r"\[([^\]]+)\]\([^)]*\.ipynb[^)]*\)", r"\1", re.sub(r"<details>.*?</details>", "", markdown, flags=re.DOTALL)
    )
    return MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, renderer=formula).render(text)


def slides_of(notebook: NotebookNode) -> list[Slide]:
    """Return the slides of an executed notebook, in order."""
    opening = notebook.cells[0].source
    title = re.match(r"#\s+(.+)", opening)[1]
    question = re.search(r"\*\*([^*]+?\?)\*\*", opening)
    goals = re.search(r"you can[^\n]*:\s*\n+(?:[*-] .*(?:\n|\Z))+", opening, re.IGNORECASE)
    found = [
        Slide(
            "title",
            "",
            f"<h1>{html.escape(title)}</h1>{as_html(question[0] if question else '')}{as_html(goals[0] if goals else '')}",
        )
    ]
    section, shown, statements = "", None, statements_by_cell(notebook.cells)
    for number, cell in enumerate(notebook.cells[1:], start=1):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^##\s+(.+)$", cell.source, flags=re.MULTILINE)
            section = headings[-1] if headings else section
            shown = statements.get(number)
            found += summary(cell.source)
            continue
        figures, texts = outputs_of(cell)
        if shown is not None:
            body = as_html(f"> **The {shown.source} says:** {shown.says}\n\n{shown.shown}")
            text = f"<pre>{html.escape(texts[:LONGEST])}</pre>" if texts and not figures else ""
            found.append(Slide("statement", section, body + text + "".join(figures[:1])))
            figures, shown = figures[1:], None
        found += [Slide("figure", section, figure) for figure in figures]
    return found


def summary(source: str) -> list[Slide]:
    """Return the slide of a cell's summary, if it has one."""
    text = re.search(r"^##[^\n]*Summary[^\n]*\n(.*?)(?=^## |\Z)", source, flags=re.MULTILINE | re.DOTALL)
    return [Slide("summary", "Summary", as_html(text[1]))] if text else []


def outputs_of(cell: NotebookNode) -> tuple[list[str], str]:
    """Return a cell's pictures as HTML, and what it printed."""
    figures, texts = [], ""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            alt = html.escape(str(data.get("text/plain", "a figure")), quote=True)
            picture = "".join(data["image/png"]).replace("\n", "")
            figures.append(f'<img alt="{alt}" src="data:image/png;base64,{picture}">')
        elif output.output_type == "stream" and output.name == "stdout":
            texts += output.text
    return figures, texts.strip()


def page(notebook: NotebookNode) -> str:
    """Return the slides of an executed notebook as one page, which needs no network."""
    theme = Path(importlib.util.find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs" / "dist"
    files = ("reset.css", "reveal.css", "theme/white.css")
    css = "\n".join((theme / name).read_text(encoding="utf-8") for name in files)
    css = re.sub(r"@import url\([^)]*\);?|@import [^;]+;", "", css) + STYLE
    css = re.sub(r"@font-face\s*{[^}]*}", "", css)
    js = (theme / "reveal.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    js = re.sub(r"//# sourceMappingURL=\S+", "", js)
    slides = slides_of(notebook)
    title = re.sub(r"<[^>]+>", "", slides[0].body.split("</h1>")[0])
    sections = [
        f'<section class="{one.kind}">{f"<h2>{html.escape(one.heading)}</h2>" if one.heading else ""}{one.body}</section>'
        for one in slides
    ]
    return PAGE.format(title=title, css=css, slides="\n".join(sections), js=js)
