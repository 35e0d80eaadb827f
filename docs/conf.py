"""The site: executed notebooks and the library's reference, built and read without the network."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from docstrings import as_rst  # noqa: E402

import course_lib  # noqa: E402

project = "Every Pixel"
author = "The authors of Every Pixel"
version = release = course_lib.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "mathml"]
exclude_patterns = ["_static", "notebooks/gallery.md", "**/.ipynb_checkpoints", "Thumbs.db", ".DS_Store"]
suppress_warnings = [
    "ref.python",  # a name in a signature that two modules define
    "myst.header",  # notebooks may go from ## to #### inside an exercise
    "mystnb.unknown_mime_type",
]

nb_execution_mode = "off"  # `course run` executes
nb_ipywidgets_js = {}  # prepare.py leaves no widget
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "ignore-module-all": True}

html_theme = "sphinx_book_theme"
html_title = "Every Pixel"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_repository_button": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_content_items": [],
}
html_last_updated_fmt = None
html_show_sphinx = False
html_show_copyright = False

for included in ("gallery.md", "contents.md"):
    path = HERE / "notebooks" / included
    if not path.exists():  # a build without prepare.py
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n", encoding="utf-8")

ROOMS = {
    "course": ("The ideas of the lectures", "*.py"),
    "data": ("Data", "data/**/*.py"),
    "models": ("Models", "models/*.py"),
    "experiments": ("Experiments", "experiments/**/*.py"),
    "widgets": ("Widgets", "widgets/*.py"),
    "plumbing": ("Plumbing", "plumbing/*.py"),
}


def write_reference(app=None):
    """One page a room of the library, one section a module that has something to say."""
    library = Path(course_lib.__file__).parent
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    written = {}
    for room, (title, pattern) in ROOMS.items():
        lines = [title, "=" * len(title), ""]
        for path in sorted(library.glob(pattern)):
            private = path.stem.startswith("_") and path.stem != "__init__"
            if private or not path.read_text(encoding="utf-8").strip():
                continue
            parts = path.relative_to(library.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            lines += [name, "-" * len(name), "", f".. automodule:: {name}", ""]
        if len(lines) > 3:
            written[folder / f"{room}.rst"] = "\n".join(lines)
    for path in folder.glob("*.rst"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def write_explorer(app=None):
    """The receptive-field explorer as a piece of a page, and its picture for who has no JavaScript."""
    from course_lib.widgets.receptive_field import field_panels, live_html

    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "receptive_field.html").write_text(live_html("context"), encoding="utf-8")
    panels = field_panels(["context", "gridding", "vgg16"])
    panels.savefig(folder / "receptive_field.png", dpi=100)


def docstring_to_rst(app, what, name, obj, options, lines):
    lines[:] = as_rst(lines)


def skip(app, what, name, obj, skipped, options):
    """Fields of named tuples have a docstring that says only their number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("builder-inited", write_reference)
    app.connect("builder-inited", write_explorer)
    app.connect("autodoc-process-docstring", docstring_to_rst)
    app.connect("autodoc-skip-member", skip)
