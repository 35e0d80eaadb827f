"""The gallery of the front page: a card for each notebook, with its picture, its question and what it needs."""

import base64
import html
import io
import json
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image, ImageChops

from course_lib.notebook_tools.contents import Lecture
from course_lib.notebook_tools.needs import real_data

THUMBNAIL, CARD = "thumbnail", 280
SHAPE = 1.5
"""Width by height of a card's picture: where no cell is tagged `thumbnail`, the figure nearest to it is taken."""


def card(notebook: NotebookNode, lecture: Lecture, target: Path, badges: list[str]) -> str:
    """Write a notebook's picture and return its card as Markdown, with paths as seen from index.md."""
    folder, name = target.name, lecture.path.stem
    picture = _picture(notebook)
    image = ""
    if picture:
        _shrink(picture).save(target / "pictures" / f"{name}.png", optimize=True)
        image = f"![]({folder}/pictures/{name}.png)"
    lines = [":::{container} card", f"[{image}**{lecture.number} {lecture.title}**]({folder}/{name}.ipynb)", ""]
    if lecture.question:
        lines += [lecture.question, ""]
    shown = [f'<span class="badge">{html.escape(badge)}</span>' for badge in badges if badge]
    return "\n".join([*lines, *([" ".join(shown), ""] if shown else []), ":::"])


def _shrink(png: bytes) -> Image.Image:
    """The figure without its white rim, as wide as a card on a screen of twice the pixels, in 256 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    inside = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    image = image.crop(inside) if inside else image
    image.thumbnail((2 * CARD, 2 * CARD))
    return image.quantize(256)


def pixels_of(png: str) -> tuple[int, int]:
    """Return width and height of a PNG in base 64: bytes 16 to 24 of every such file."""
    header = base64.b64decode(png[:44])
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def _picture(notebook: NotebookNode) -> bytes | None:
    """The figure of the cell tagged `thumbnail`, else the one whose shape fits a card best."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png = output.data["image/png"]
                width, height = pixels_of(png)
                unfit = max(width / height / SHAPE, SHAPE * height / width)
                found.append((THUMBNAIL not in cell.metadata.get("tags", []), round(unfit, 1), number, png))
    return base64.b64decode(min(found)[-1]) if found else None


def needs(notebook: NotebookNode) -> list[str]:
    """Return what the larger profiles of a notebook need, such as "laptop: CamVid"."""
    found = {}
    for profile, sets in real_data(notebook).items():
        titles = ", ".join(dict.fromkeys(one.title for one in sets))
        if titles:
            found.setdefault(titles, []).append("GPU" if profile == "gpu" else profile)
    return [f"{' and '.join(words)}: {titles}" for titles, words in found.items()]


def seconds_of(executed: Path, name: str) -> str:
    """Return how long the run of a notebook took, as "47 s" or "1.4 min"; nothing where its stamp is missing."""
    try:
        stamp = json.loads((executed / f"{name}.stamp.json").read_text(encoding="utf-8"))
        seconds = float(stamp["seconds"])
    except (OSError, ValueError, KeyError):
        return ""
    return f"runs {seconds:.0f} s" if seconds < 90 else f"runs {seconds / 60:.1f} min"
