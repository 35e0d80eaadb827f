"""What a browser need not load, taken out of the built pages: unused scripts, and pictures far down a page."""

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

UNUSED = ("scripts/fontawesome", "searchtools", "language_data", "searchindex")
"""Scripts of every page: icons, which the theme's font draws as well, and the search, which has a page of its own."""
SCRIPT = re.compile(rf'[ \t]*<script [^>]*src="[^"]*\b({"|".join(UNUSED)})\.js[^"]*"></script>\n?')
IMAGE = re.compile(r'<img (?P<rest>(?:[^>]*? )?src="(?P<address>[^":]+\.png)"[^>]*)>')
LEFT_OUT = ("_static/scripts/fontawesome.js", "_static/scripts/fontawesome.js.LICENSE.txt", "_static/locales")
SEARCH = "search.html"


def lighten(site: Path) -> None:
    """Take out of a built site what no reader needs: source maps, translations, scripts that do nothing on a page.

    Pictures get their size, which reserves their place, and are loaded when the reader comes near them.
    """
    for path in site.rglob("*.map"):
        path.unlink()
    for name in LEFT_OUT:
        path = site / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in site.rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = IMAGE.sub(lambda found, page=path: _lazy(found, page), before)
        if path.name == SEARCH:
            after = SCRIPT.sub(lambda found: "" if found[1] == UNUSED[0] else found[0], after)
        else:
            after = SCRIPT.sub("", after)
        if after != before:
            path.write_text(after, encoding="utf-8")


def _lazy(found: re.Match, page: Path) -> str:
    """Return an image's tag with its size, to be loaded when it is near."""
    picture = page.parent / unquote(found["address"])
    if "loading=" in found["rest"] or not picture.is_file():
        return found[0]
    with picture.open("rb") as file:
        header = file.read(24)
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (16, 20))
    size = "" if "width=" in found["rest"] else f' width="{width}" height="{height}"'
    return f'<img loading="lazy"{size} {found["rest"]}>'
