"""The site: executed notebooks and the library's reference, built and read without the network."""

import ast
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from docutils import nodes  # noqa: E402

import course_lib  # noqa: E402

project = "Every Pixel"
author = "The authors of Every Pixel"
version = release = course_lib.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = [
    "_static",
    "notebooks/gallery.md",
    "notebooks/contents.md",
    "**/.ipynb_checkpoints",
    "Thumbs.db",
    ".DS_Store",
]
suppress_warnings = [
    "ref.python",  # a name in a signature that two modules define
    "myst.header",  # notebooks may go from ## to #### inside an exercise
    "mystnb.unknown_mime_type",
]

nb_execution_mode = "off"  # `course run` executes
nb_ipywidgets_js = {}  # prepare.py leaves no widget
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "show the code", "hide the code"
nb_render_markdown_format = "myst"
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as a list
default_role = "literal"  # `code` in docstrings
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "ignore-module-all": True}

html_theme = "sphinx_book_theme"
html_title = "Every Pixel"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["course.js"]
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
html_use_index = html_domain_indices = False  # the list of modules and the search serve better
html_show_copyright = False

for included in ("gallery.md", "contents.md"):  # included in index.md
    path = HERE / "notebooks" / included
    if not path.exists():  # a build without prepare.py
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n", encoding="utf-8")

ROOMS = {
    "front": ("The ideas of the lectures", "*.py"),
    "data": ("Data and painters", "data/**/*.py"),
    "models": ("Models", "models/*.py"),
    "experiments": ("Experiments", "experiments/**/*.py"),
    "widgets": ("Explorers", "widgets/*.py"),
    "plumbing": ("Plumbing", "plumbing/*.py"),
    "notebook_tools": ("Tools for notebooks", "notebook_tools/*.py"),
}


def modules_of(pattern):
    """The names of the modules that match and have a docstring, each with its first sentence."""
    library = Path(course_lib.__file__).parent
    for path in sorted(library.glob(pattern)):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if docstring:
            parts = path.relative_to(library.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            yield name, re.split(r"(?<=[.?!])\s|\n\n", docstring, maxsplit=1)[0]


def write_reference(app=None):
    """One page a room of the library, one section a module, and `rooms.inc`, a list of all with what they hold."""
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    written, index = {}, []
    for room, (title, pattern) in ROOMS.items():
        page, listed = [title, "=" * len(title), ""], []
        for name, says in modules_of(pattern):
            short = name.split(".", 2)[-1]  # "metrics", "fcn"
            page += [short, "-" * len(short), "", f".. automodule:: {name}", ""]
            listed.append(f"* :py:mod:`{short} <{name}>`: {' '.join(says.split())}")
        if listed:
            written[folder / f"{room}.rst"] = "\n".join(page)
            index += [title, "-" * len(title), "", *listed, ""]
    written[folder / "rooms.inc"] = "\n".join(index)
    for path in [*folder.glob("*.rst"), *folder.glob("*.inc")]:
        if path not in written:
            path.unlink()
    for path, text in written.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def write_explorers(app=None):
    """The explorers as pieces of pages, and their pictures for print and for who has no JavaScript."""
    from live_pages import write

    write(HERE / "generated", HERE / "_static" / "explorers", [path.stem for path in (HERE / "explorers").glob("*.md")])


def skip(app, what, name, obj, skipped, options):
    """Leave out the fields of named tuples, whose docstring is their number, and what matplotlib documents."""
    foreign = str(getattr(obj, "__module__", "")).startswith("matplotlib")
    return True if foreign or type(obj).__name__ == "_tuplegetter" else None


def describe_figures(app, doctree):
    """Give each figure of a notebook the text that prepare.py found for it; a file's name is its content's hash."""
    path = HERE / "notebooks" / "figures.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for image in doctree.findall(nodes.image):
        found = known.get(Path(image["uri"]).stem)
        if found:
            image["alt"] = found["alt"]
            image["classes"] += found.get("classes", [])


def link_lectures(app, docname, source):
    """In the glossary, {lecture}`03` becomes a link to that notebook's page, or plain text where it has none."""

    def link(match):
        found = sorted(Path(app.srcdir, "notebooks").glob(f"{match[1]}_*.ipynb"))
        return f"[{match[1]}](notebooks/{found[0].name})" if found else f"lecture {match[1]}"

    if docname == "glossary":
        source[0] = re.sub(r"\{lecture\}`(\d\d)`", link, source[0])


def name_columns(app, pagename, templatename, context, doctree):
    """Heads of tables say that they head a column; a mean stays on one line with its spread."""
    body = re.sub(r"<th (?!scope)", '<th scope="col" ', context.get("body", ""))
    cell = re.compile("<td.*?</td>", re.DOTALL)
    context["body"] = cell.sub(lambda found: found[0].replace(" ± ", "\u00a0±\u00a0"), body)


def lighten_pages(app, problem):
    """Take out of the built pages what a browser need not load."""
    from lighten import lighten

    if problem is None and app.builder.format == "html":
        lighten(Path(app.outdir))


def setup(app):
    """Connect the pages that are written when a build begins, and what is taken out when it has ended."""
    app.connect("builder-inited", write_reference)
    app.connect("builder-inited", write_explorers)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", describe_figures)
    app.connect("source-read", link_lectures)
    app.connect("html-page-context", name_columns)
    app.connect("build-finished", lighten_pages)
