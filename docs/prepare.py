"""Notebooks made ready for the site: executed ones, those that failed, and those that have not run yet."""

import base64
import hashlib
import html
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cards import card, needs, pixels_of, seconds_of
from expectations import expectations_markdown
from systems import systems_markdown

from course_lib.notebook_tools.contents import STATEMENT, lectures, statements_markdown
from course_lib.notebook_tools.launch import COLAB, first_cell
from course_lib.plumbing.paths import ROOT
from course_lib.widgets.frame import live_html as live_piece
from course_lib.widgets.receptive_field import live_html

WIDGET = "application/vnd.jupyter.widget-view+json"
STATES_OF_WIDGETS = "application/vnd.jupyter.widget-state+json"
WIDGET_NOTE = "*An interactive part: run the notebook to move its controls.*"
LIVE = "ReceptiveFieldExplorer"
LIVE_CALL = re.compile(r'receptive_field_explorer\(\s*"(\w+)"')
PROGRESS = re.compile(r"\d+%\||\?it/s|\dit/s|\ds/it")
FOLDED, DRAWS, OTHERS = "hide-input", "show the code of this figure", "show the code"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
WIDE = 1.9
ARTICLE, LEGIBLE = 870, 9
"""Pixels that a figure has on a page at a window of 1300, and the least height of its text there."""
STATES = {"failed": "did not run here", "missing": "was not run here yet"}
PARTS = {
    "Lectures": r"[01]\d_",
    "Tables of the papers, reproduced": r"2\d_",
    "Results": r"[3-9]\d_|expectations|systems",
    "The lecture, checked": r"statements",
    "For instructors": r"teaching",
    "Solutions": r"solutions/",
}


class Page(NamedTuple):
    """A notebook of the site: its name, the file that is shown, and "ok", "failed" or "missing"."""

    name: str
    path: Path
    state: str


def prepare(
    executed: Path,
    target: Path,
    course: Path = ROOT / "notebooks",
    profile: str = "quick",
    audience: str = "",
    materials: Mapping[str, Mapping[str, str]] | None = None,
) -> list[str]:
    """Fill `target` anew with a page for each notebook and return their names, in order.

    A notebook that failed is shown as far as it came, with its error; one that has not run is shown as it is
    in the course. Both say so, with the command to type. Progress bars and texts of the error stream go, widgets
    become a note or, where they need no Python, the live explorer, whose large data go to `_static/explorers` beside
    `target`; links to what is not on the site become plain text. Beside the notebooks stand pictures, `gallery.md` (cards), `contents.md` (the parts of the
    course), `figures.json` (descriptions by content), and the pages of statements, expectations and systems.

    Args:
        executed: what `course run` has written; may be missing. Solutions are in its folder `solutions`.
        target: a folder, which is emptied.
        course: the notebooks of the course.
        profile: of the executed notebooks, for the command.
        audience: "students": no solutions; "instructors": all solutions, run or not; "": those that were run.
        materials: {name of a notebook: {"Slides": address as seen from its page}}, shown under its title.
    """
    beside = target.parent / "_static" / "explorers"
    for folder in (target, beside):
        shutil.rmtree(folder, ignore_errors=True)
    (target / "pictures").mkdir(parents=True)
    pages = find_pages(executed, course, audience)
    notebooks = [_read(page) for page in pages]
    names = [page.name for page in pages]
    cards, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for page, notebook in zip(pages, notebooks, strict=True):
            if "/" not in page.name:
                nbformat.write(notebook, Path(folder) / f"{page.name}.ipynb")
        known = {lecture.path.stem: lecture for lecture in lectures(Path(folder))}
        (target / "statements.md").write_text(statements_markdown(Path(folder)), encoding="utf-8")
    for page, notebook in zip(pages, notebooks, strict=True):
        badges = [STATES.get(page.state) or seconds_of(executed, page.name), *needs(notebook)]
        if page.state != "ok":
            _add_notice(notebook, page, profile)
        _clean(notebook, page.name, set(names), figures, beside)
        _add_materials(notebook, (materials or {}).get(page.name, {}))
        path = target / f"{page.name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        if "/" not in page.name:
            cards.append(card(notebook, known[page.name], target, badges))
    gallery = ["::::{container} gallery", *cards, "::::"] if cards else []
    (target / "gallery.md").write_text("\n".join(gallery) + "\n", encoding="utf-8")
    (target / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    (target / "expectations.md").write_text(expectations_markdown(), encoding="utf-8")
    (target / "systems.md").write_text(systems_markdown(names), encoding="utf-8")
    shown = [*names, "expectations", "statements", "systems"]
    if audience != "students":
        (target / "teaching.md").write_text(teaching_markdown(set(names)), encoding="utf-8")
        shown.append("teaching")
    (target / "contents.md").write_text(_contents(shown, target.name), encoding="utf-8")
    return names


def teaching_markdown(names: set[str]) -> str:
    """Return TEACHING.md as a page: links to notebooks of the site stay, those to other files become their text."""

    def link(match: re.Match[str]) -> str:
        words, address = match[1], match[2]
        if address.startswith(("http:", "https:", "#")):
            return match[0]
        notebook = re.fullmatch(r"notebooks/(\w+)\.ipynb", address)
        return f"[{words}]({notebook[1]}.ipynb)" if notebook and notebook[1] in names else words

    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    text = text.replace("](docs/pictures/", "](../pictures/")
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)", link, text)


def find_pages(executed: Path, course: Path, audience: str = "") -> list[Page]:
    """Return the pages of the course in order: its notebooks, then the solutions that the audience is meant to see.

    Where a run failed, its copy `NN_name.failed.ipynb` goes before an older one that was complete.
    """
    pages = []
    for stem in sorted({_stem(path) for folder in (course, executed) for path in folder.glob("[0-9][0-9]_*.ipynb")}):
        pages.append(_page(stem, executed) or Page(stem, course / f"{stem}.ipynb", "missing"))
    folders = {"": [executed], "students": [], "instructors": [executed, course]}[audience]
    solutions = sorted({_stem(path) for one in folders for path in (one / "solutions").glob("[0-9][0-9]_*.ipynb")})
    for stem in solutions:
        missing = Page(f"solutions/{stem}", course / "solutions" / f"{stem}.ipynb", "missing")
        pages.append(_page(f"solutions/{stem}", executed) or (missing if missing.path.exists() else None))
    return [*filter(None, pages)]


def _add_materials(notebook: NotebookNode, materials: Mapping[str, str]) -> None:
    """Add a line of links under the title: slides, assignment, where it can be opened."""
    links = [f'<a href="{html.escape(address)}">{html.escape(words)}</a>' for words, address in materials.items()]
    if links:
        colab = materials.get("Open in Colab", "")
        code = html.escape(first_cell(colab).replace("\n\n", "\n")) if colab.startswith(COLAB) else ""
        folded = (
            f"\n<details><summary>The first cell there, on Colab</summary><pre>{code}</pre></details>" if code else ""
        )
        line = nbformat.v4.new_markdown_cell(f'<p class="materials">{" · ".join(links)}</p>{folded}')
        notebook.cells.insert(1, line)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _page(name: str, executed: Path) -> Page | None:
    for ending, state in ((".failed.ipynb", "failed"), (".ipynb", "ok")):
        path = executed / f"{name}{ending}"
        if _is_whole(path):
            return Page(name, path, state)
    return None


def _is_whole(path: Path) -> bool:
    """Whether there is an executed copy that can be read: a full disk leaves half a file."""
    try:
        nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):
        return False
    return True


def _read(page: Page) -> NotebookNode:
    """The notebook of a page without the notes that papermill adds where a run has failed."""
    notebook = nbformat.read(page.path, as_version=4)
    notes = "papermill-error-cell-tag"
    notebook.cells = [cell for cell in notebook.cells if notes not in cell.metadata.get("tags", [])]
    return notebook


def _add_notice(notebook: NotebookNode, page: Page, profile: str) -> None:
    """Add a box that says what is not on this page, and the command to type; for a failed run, its error."""
    command = f"course run {page.name.split('/')[-1][:2]}" + (f" --profile {profile}" if profile != "quick" else "")
    command += " --solutions" if "/" in page.name else ""
    if page.state == "missing":
        text = "The page has no outputs. To make them"
    else:
        text = _mark_error(notebook, f"failed-{page.name.replace('/', '-')}") + " To try again"
    lines = [f":::{{admonition}} This notebook {STATES[page.state]}", ":class: warning"]
    lines += [f"{text}, type `{command}`, then `course site`.", ":::"]
    place = 1 if notebook.cells and notebook.cells[0].cell_type == "markdown" else 0
    notebook.cells.insert(place, nbformat.v4.new_markdown_cell("\n".join(lines)))


def _mark_error(notebook: NotebookNode, label: str) -> str:
    """Give the cell that failed the name `label`; return a sentence on its error."""
    for index, cell in enumerate(notebook.cells):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if errors and "raises-exception" not in cell.metadata.get("tags", []):
            notebook.cells.insert(index, nbformat.v4.new_markdown_cell(f"({label})=\n**The run stopped here.**"))
            first = (ANSI.sub("", errors[0].evalue).strip() or "no message").splitlines()[0]
            said = f"{errors[0].ename}: {first}".replace("`", "'")
            return f"The run stopped with `{said}` [in this cell](#{label}); what follows it was not executed."
    return "The run did not come to its end."


def _clean(notebook: NotebookNode, name: str, names: set[str], figures: dict, beside: Path) -> None:
    """Leave out what a page cannot show; add to `figures` the description of each picture, to `beside` large data."""
    _drop_parameter_copies(notebook)
    live = _live(notebook, "../" * (1 + name.count("/")) + "_static/explorers/", beside)
    if "/" not in name:
        _name_statements(notebook, name[:2])
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _static(output, cell.source, live))]
            pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            for output in pictures:
                key, description = _describe(output)
                figures[key] = description
                if description["text"] < LEGIBLE:
                    print(
                        f"{name} [{index}]: a figure's smallest text is {description['text']} pixels high on the page"
                    )
            if FOLDED in cell.metadata.get("tags", []):
                prompt = {"code_prompt_show": DRAWS if pictures else OTHERS}
                cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), **prompt}
        elif cell.cell_type == "markdown":
            cell.source = _unlinked(cell.source, name, names)
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)


def _contents(names: list[str], folder: str) -> str:
    """A table of contents for each part that has a page; empty parts would be warnings."""
    text = ""
    for caption, pattern in PARTS.items():
        entries = [f"/{folder}/{name}" for name in names if re.match(pattern, name)]
        if entries:
            text += "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```\n\n"])
    return text or "\n"


def _drop_parameter_copies(notebook: NotebookNode) -> None:
    """Papermill adds a cell with the values it was given; it goes where it only repeats the defaults."""

    def values(source: str) -> set[str]:
        return {line.split("#")[0].strip() for line in source.splitlines()} - {""}

    defaults: set[str] = set()
    for cell in list(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            defaults = values(cell.source)
        elif "injected-parameters" in tags and values(cell.source) <= defaults:
            notebook.cells.remove(cell)


def _name_statements(notebook: NotebookNode, number: str) -> None:
    """Give each statement of the lecture the name by which `statements.md` links to it."""
    tagged = [cell for cell in notebook.cells if STATEMENT in cell.metadata.get("tags", [])]
    for count, cell in enumerate(tagged, start=1):
        cell.source = f"(statement-{number}-{count})=\n{cell.source}"


def _live(notebook: NotebookNode, address: str, beside: Path) -> dict[str, str]:
    """The explorers of a notebook that need no kernel, as pieces of a page, by the number of their model."""
    models = notebook.metadata.get("widgets", {}).get(STATES_OF_WIDGETS, {}).get("state", {})
    pieces = {}
    for number, model in models.items():
        if model.get("state", {}).get("module") and "_esm" in model["state"]:
            for buffer in model.get("buffers", []):
                _put(model["state"], buffer["path"], base64.b64decode(buffer["data"]))
            name = f"{len(pieces) + 1}"
            pieces[number] = live_piece(model["state"], name, files=beside, address=address)
    return pieces


def _put(state: dict | list, path: list, value: bytes) -> None:
    """Put bytes back where a widget's state had them."""
    for step in path[:-1]:
        state = state[step] if isinstance(state, list) else state.setdefault(step, {})
    state[path[-1]] = value


def _static(output: NotebookNode, source: str, live: dict[str, str]) -> NotebookNode | None:
    """The output as a page can show it, live explorers included; None for progress bars and warnings."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    if output.output_type == "error" or WIDGET not in output.data:
        return output
    text = output.data.get("text/plain", "")
    if PROGRESS.search(text):
        return None
    data = {"text/markdown": WIDGET_NOTE, "text/plain": WIDGET_NOTE.strip("*")}
    number = output.data[WIDGET].get("model_id")
    if number in live:
        data = {"text/html": live[number], "text/plain": text}
    elif LIVE in text:
        preset = LIVE_CALL.search(source)
        data = {"text/html": live_html(preset[1] if preset else "context"), "text/plain": LIVE}
    return nbformat.v4.new_output("display_data", data=data)


def _describe(output: NotebookNode) -> tuple[str, dict]:
    """The name that the page gives a picture, and its text; a mark on one too wide for a phone."""
    png = output.data["image/png"]
    width, height = pixels_of(png)
    kept = output.get("metadata", {}).get("image/png", {})
    text = round(kept.get("text_px", 99) * min(1, ARTICLE / width), 1)
    description = {"alt": kept.get("alt") or "A figure, drawn by the code above", "text": text}
    if width > WIDE * height:
        description["classes"] = ["wide"]
    return hashlib.sha256(base64.b64decode(png)).hexdigest(), description


def _bytes(png: str) -> bytes:
    import base64

    return base64.b64decode(png)


def _unlinked(source: str, name: str, names: set[str]) -> str:
    """Links to other notebooks of the site stay; links to other local files become their text."""

    def replace(match: re.Match) -> str:
        text, link = match["text"], match["link"].split("#")[0]
        if re.match(r"[a-z]+:", match["link"]) or not link:
            return match[0]
        parts = Path(name).parent.parts
        for part in Path(link).parts:
            parts = parts[:-1] if part == ".." and parts else (*parts, part)
        return match[0] if "/".join(parts).removesuffix(".ipynb") in names else text

    return re.sub(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<link>[^)\s]+)\)", replace, source)
