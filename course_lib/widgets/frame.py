"""What all explorers share on their way into a page: their style, their module, and their place on the site."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
LARGE = 100_000
"""Bytes from which a part of an explorer's data is a file of its own on the site, loaded when it is wanted."""
SHOWN = ("title", "controls", "legend", "brush", "data")
"""What of a widget's state a module reads."""
IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)


def style_sheet(name: str) -> str:
    """Return the style sheet `name`.css of this folder, behind that of the frame around every explorer."""
    return "\n".join((HERE / f"{part}.css").read_text(encoding="utf-8") for part in ("frame", name))


def bundle(name: str) -> str:
    """Return the module `name`.js of this folder and those it imports as one: a page opened from a file imports none.

    Modules that are imported may import no others, and no two have a name in common.
    """
    text = (HERE / f"{name}.js").read_text(encoding="utf-8")
    parts = [(HERE / f"{part}.js").read_text(encoding="utf-8") for part in IMPORT.findall(text)]
    return "\n".join([*parts, IMPORT.sub("", text)])


def live_html(state: Mapping, name: str, *, files: Path | None = None, address: str = "") -> str:
    """Return an explorer as a piece of a web page that needs no server, no kernel and no network.

    Args:
        state: The widget's, as `get_state()` gives it, with the explorer's module in `_esm`.
        name: Of letters, digits and hyphens, used once on a page.
        files: A folder for the large parts of its data, which the page loads when the explorer is opened.
        address: Of that folder, seen from the page, with a slash at its end.
    """
    sizes = []

    def packed(value: object) -> object:
        if isinstance(value, bytes | bytearray | memoryview):
            text = base64.b64encode(value).decode("ascii")
            if files is None or len(text) < LARGE:
                return {"base64": text}
            key = hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
            files.mkdir(parents=True, exist_ok=True)
            (files / f"{key}.js").write_text(
                f'(globalThis.everyPixelData ??= {{}})["{key}"] = "{text}";\n', encoding="ascii"
            )
            sizes.append(len(text))
            return {"script": f"{address}{key}.js", "key": key}
        if isinstance(value, Mapping):
            return {key: packed(one) for key, one in value.items()}
        return [packed(one) for one in value] if isinstance(value, list | tuple) else value

    shown = {key: packed(value) for key, value in state.items() if key in SHOWN}
    wait = round(max(sizes, default=0) / 1e6, 1)
    given = json.dumps(shown, sort_keys=True).replace("</", "<\\/")
    return "\n".join(
        [
            f"<style>\n{state['_css']}</style>",
            f'<div class="ep-live" id="ep-live-{name}"></div>',
            "<noscript>The explorer needs JavaScript; the pictures on this page show the same, standing still.</noscript>",
            '<script type="module">',
            state["_esm"],
            f'showOnPage(widget, document.getElementById("ep-live-{name}"), {given}, {wait});',
            "</script>",
            "",
        ]
    )
