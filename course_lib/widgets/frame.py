"""What all explorers share on their way into a page."""

from pathlib import Path

HERE = Path(__file__).parent


def style_sheet(name: str) -> str:
    """Return the style sheet `name`.css of this folder, behind that of the frame around every explorer."""
    return "\n".join((HERE / f"{part}.css").read_text(encoding="utf-8") for part in ("frame", name))
