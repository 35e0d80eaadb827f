"""Executed notebooks made ready for the site: copied, with what only a running kernel could show left out."""

import base64
import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.experiments.report import scoreboard_page
from course_lib.notebook_tools.contents import STATEMENT, statements_markdown

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "*An interactive part: run the notebook to move its controls.*"
LIVE = {"ReceptiveFieldExplorer": "receptive_field"}
LIVE_NOTE = "*An interactive part: run the notebook to move its controls, or [try it here]({page}).*"
PROGRESS = re.compile(r"\d+%\||\?it/s|\dit/s|\ds/it")
THUMBNAIL = "thumbnail"
WIDE = 1.9
PARTS = {
    "Lectures": r"[01]\d_",
    "Tables, made again": r"[2-9]\d_|scoreboard",
    "The lecture, checked": r"statements",
    "Solutions": r"solutions/",
}


def prepare(executed: Path, target: Path) -> list[str]:
    """Fill `target` anew from the notebooks of `executed` and of its `solutions/`; their names, in order.

    Progress bars and error-stream texts go, widgets become a note, and links to what is not on the site
    become plain text. Beside the notebooks stand `pictures/NN_name.png`, a picture of each (its cell
    tagged `thumbnail`, else its first), `gallery.md`, which shows them, and `contents.md`, the lists of the
    course's parts; the front page includes both. `scoreboard.md` is made from the records in `results/`,
    `statements.md` from the notebooks' cells tagged `statement`, to which it links.
    `executed` may be missing.
    """
    shutil.rmtree(target, ignore_errors=True)
    (target / "pictures").mkdir(parents=True)
    sources = sorted(executed.glob("[0-9][0-9]_*.ipynb"))
    sources += sorted((executed / "solutions").glob("[0-9][0-9]_*.ipynb"))
    names = [path.relative_to(executed).with_suffix("").as_posix() for path in sources]
    cards = []
    for source, name in zip(sources, names, strict=True):
        notebook = nbformat.read(source, as_version=4)
        _drop_parameter_copies(notebook)
        if "/" not in name:
            _name_statements(notebook, name[:2])
        for cell in notebook.cells:
            if cell.cell_type == "code":
                above = "../" * (name.count("/") + 1)
                cell.outputs = [kept for output in cell.outputs if (kept := _static(output, above))]
                _describe_picture(cell)
            elif cell.cell_type == "markdown":
                cell.source = _unlinked(cell.source, name, set(names))
        notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
        notebook.metadata.pop("widgets", None)
        notebook.metadata.pop("papermill", None)
        path = target / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        if "/" not in name:
            cards.append(_card(notebook, name, target))
    gallery = ["::::{container} gallery", *cards, "::::"] if cards else []
    (target / "gallery.md").write_text("\n".join(gallery) + "\n", encoding="utf-8")
    (target / "scoreboard.md").write_text(scoreboard_page(), encoding="utf-8")
    (target / "statements.md").write_text(statements_markdown(executed), encoding="utf-8")
    pages = [*names, "scoreboard", "statements"]
    (target / "contents.md").write_text(_contents(pages, target.name), encoding="utf-8")
    return names


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


def _static(output: NotebookNode, above: str) -> NotebookNode | None:
    """The output as a page can show it; None for progress bars and warnings.

    above  leads from the notebook's page to the site's front, where the pages of `LIVE` widgets are
    """
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    if output.output_type == "error" or WIDGET not in output.data:
        return output
    text = output.data.get("text/plain", "")
    if PROGRESS.search(text):
        return None
    page = LIVE.get(text.split("(")[0])
    shown = LIVE_NOTE.format(page=f"{above}{page}.md") if page else WIDGET_NOTE
    note = {"text/markdown": shown, "text/plain": WIDGET_NOTE.strip("*")}
    return nbformat.v4.new_output("display_data", data=note)


def _describe_picture(cell: NotebookNode) -> None:
    """A text for who cannot see it, and a mark on one so wide that a phone would shrink it too far."""
    pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    if not pictures:
        return
    options = {"alt": "The picture that the code above draws"}
    for png in pictures:
        header = base64.b64decode(png[:44])  # width and height are the bytes 16 to 24 of every PNG
        width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
        if width > WIDE * height:
            options["classes"] = "wide"
    cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), "image": options}


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


def _title(notebook: NotebookNode, name: str) -> str:
    for cell in notebook.cells:
        found = re.search(r"^#\s+(.+)$", cell.source, flags=re.MULTILINE)
        if cell.cell_type == "markdown" and found:
            return found[1].strip()
    return name


def _picture(notebook: NotebookNode) -> bytes | None:
    found = [
        (THUMBNAIL not in cell.metadata.get("tags", []), number, output.data["image/png"])
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(min(found)[2]) if found else None


def _card(notebook: NotebookNode, name: str, target: Path) -> str:
    """Its number, its picture and its title, which lead to the notebook; paths as seen from index.md."""
    folder, title = target.name, _title(notebook, name)
    lines = [":::{container} card"]
    picture = _picture(notebook)
    if picture:
        (target / "pictures" / f"{name}.png").write_bytes(picture)
        lines += [f"[![]({folder}/pictures/{name}.png)]({folder}/{name}.ipynb)", ""]
    number = "" if title.startswith(name[:2]) else f"{name[:2]} "
    return "\n".join([*lines, f"[{number}{title}]({folder}/{name}.ipynb)", ":::"])
