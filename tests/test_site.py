"""The site: builds without a warning from executed notebooks, and reads without the network."""

import base64
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.plumbing.paths import ROOT

SITE = ROOT / "docs"
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
).decode()
WIDGET = "application/vnd.jupyter.widget-view+json"
STATEMENT = "> **The lecture says:** it holds.\n\n**Shown below:** that it holds."
FORMULAS = r"""
Inline $p_\theta(y \mid x)$ and

$$
\operatorname{IoU}_c = \frac{n_{cc}}{\sum_j n_{cj} + \sum_j n_{jc} - n_{cc}}
$$

\begin{align}
\hat y &= \arg\max_c \big( p(c \mid x) \big) \\
L &= -\mathbb{E}_{q}\left[\log p_\theta(y \mid z, x)\right]
\end{align}

$$
w = \begin{cases} 0 & d < 0 \\ d & \text{otherwise} \end{cases}
\iff \begin{array}{cc} a & b \end{array}
$$ (weights)
"""


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"course_site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def display(**data: str):
    return new_output("display_data", data={key.replace("__", "/"): value for key, value in data.items()})


def write(notebook, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def executed(tmp_path):
    """What `course run` leaves: two lectures and the solutions of one."""
    folder = tmp_path / "executed"
    widget = display(text__plain="VBox(children=(IntSlider(value=3),))")
    widget.data[WIDGET] = {"model_id": "abc", "version_major": 2, "version_minor": 0}
    progress = display(text__plain="  0%|          | 0/10 [00:00<?, ?it/s]")
    progress.data[WIDGET] = {"model_id": "def", "version_major": 2, "version_minor": 0}
    links = (
        "See [metrics](02_metrics.ipynb), [dilation](07_dilated.ipynb), [the code](../course_lib/plumbing/paths.py) "
        "and [the solutions](solutions/01_labels_solutions.ipynb)."
    )
    first = new_notebook(
        cells=[
            new_markdown_cell("# 01 Labels\n\nWhat is a label?\n\n" + FORMULAS),
            new_markdown_cell("## Links\n\n" + links),
            new_markdown_cell(STATEMENT, metadata={"tags": ["statement"]}),
            new_code_cell('PROFILE = "quick"', metadata={"tags": ["parameters"]}),
            new_code_cell('# Parameters\nPROFILE = "quick"', metadata={"tags": ["injected-parameters"]}),
            new_code_cell(
                "train()",
                outputs=[
                    new_output("stream", name="stderr", text="UserWarning: careful\n"),
                    new_output("stream", name="stdout", text="mean IoU\n"),
                    display(image__png=PIXEL, text__plain="<Figure size 640x480 with 1 Axes>"),
                    widget,
                    progress,
                ],
                execution_count=1,
            ),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}, "widgets": {"state": {}}},
    )
    second = new_notebook(cells=[new_markdown_cell("# Metrics\n\nWho wins?"), new_code_cell("1 + 1")])
    solved = new_notebook(cells=[new_markdown_cell("# Labels: solutions\n\nBack to [it](../01_labels.ipynb).")])
    write(first, folder / "01_labels.ipynb")
    write(second, folder / "02_metrics.ipynb")
    write(solved, folder / "solutions" / "01_labels_solutions.ipynb")
    write(second, folder / "notes.ipynb")
    return folder


def test_prepare_keeps_what_a_page_can_show(executed, tmp_path):
    target = tmp_path / "notebooks"
    (target / "old").mkdir(parents=True)
    names = load("prepare").prepare(executed, target)
    assert names == ["01_labels", "02_metrics", "solutions/01_labels_solutions"]
    assert not (target / "old").exists()
    notebook = nbformat.read(target / "01_labels.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells)
    assert "[metrics](02_metrics.ipynb)" in source
    assert "[the solutions](solutions/01_labels_solutions.ipynb)" in source
    assert ", dilation, the code and" in source
    assert source.count("PROFILE") == 1
    outputs = notebook.cells[-1].outputs
    assert [output.get("name") or sorted(output.data) for output in outputs] == [
        "stdout",
        ["image/png", "text/plain"],
        ["text/markdown", "text/plain"],
    ]
    assert "widgets" not in notebook.metadata
    assert (target / "pictures" / "01_labels.png").read_bytes() == base64.b64decode(PIXEL)
    back = nbformat.read(target / "solutions" / "01_labels_solutions.ipynb", as_version=4)
    assert "[it](../01_labels.ipynb)" in back.cells[0].source


def test_prepare_keeps_parameters_that_differ(executed, tmp_path):
    path = executed / "01_labels.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[4].source = '# Parameters\nPROFILE = "laptop"'
    nbformat.write(notebook, path)
    load("prepare").prepare(executed, tmp_path / "notebooks")
    text = (tmp_path / "notebooks" / "01_labels.ipynb").read_text(encoding="utf-8")
    assert "laptop" in text


def test_prepare_without_anything_executed(tmp_path):
    assert load("prepare").prepare(tmp_path / "nothing", tmp_path / "notebooks") == []
    assert (tmp_path / "notebooks" / "gallery.md").read_text(encoding="utf-8").strip() == ""


def test_a_widget_that_lives_on_the_site_is_linked(executed, tmp_path):
    widget = display(text__plain="ReceptiveFieldExplorer(cell=[4, 5], layers=[...])")
    widget.data[WIDGET] = {"model_id": "abc", "version_major": 2, "version_minor": 0}
    for name in ("02_metrics", "solutions/01_labels_solutions"):
        path = executed / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.append(new_code_cell("explore()", outputs=[widget], execution_count=2))
        nbformat.write(notebook, path)
    load("prepare").prepare(executed, tmp_path / "notebooks")
    for name, link in (("02_metrics", "../"), ("solutions/01_labels_solutions", "../../")):
        notebook = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4)
        text = notebook.cells[-1].outputs[0].data["text/markdown"]
        assert f"[try it here]({link}receptive_field.md)" in text


def build(source: Path, target: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    return subprocess.run([*command, str(source), str(target)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_site_builds_and_needs_no_network(executed, tmp_path):
    source, target = tmp_path / "site", tmp_path / "html"
    shutil.copytree(SITE, source, ignore=shutil.ignore_patterns("notebooks", "generated", "__pycache__"))
    load("prepare").prepare(executed, source / "notebooks")
    done = build(source, target)
    assert done.returncode == 0, done.stderr
    page = (target / "notebooks" / "01_labels.html").read_text(encoding="utf-8")
    assert page.count("<math ") == 4
    assert page.count("<mtr>") == 2 + 2 + 1
    assert "<mtd><mtr>" not in page
    assert "run the notebook to move its controls" in page
    assert "UserWarning" not in page
    statements = (target / "notebooks" / "statements.html").read_text(encoding="utf-8")
    assert 'href="01_labels.html#statement-01-1"' in statements
    assert 'id="statement-01-1"' in page
    explorer = (target / "receptive_field.html").read_text(encoding="utf-8")
    module = ROOT / "course_lib" / "widgets" / "receptive_field.js"
    assert module.read_text(encoding="utf-8") in explorer
    index = (target / "index.html").read_text(encoding="utf-8")
    assert index.index("01 Labels") < index.index("Metrics")
    assert "notebooks/01_labels.html" in index
    reference = (target / "generated" / "data.html").read_text(encoding="utf-8")
    assert "course_lib.data.sample.Sample" in reference
    assert fetched(target) == []


def fetched(target: Path) -> list[str]:
    """What a browser would load from elsewhere while it shows the pages."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"'](?:https?:)?//[^\"']+"
        r"|<link\b(?=[^>]*rel=[\"'](?:stylesheet|preload|icon|preconnect))[^>]*href=[\"'](?:https?:)?//[^\"']+"
        r"|@import\s+(?:url\()?[\"']?(?:https?:)?//[^\"')]+"
        r"|url\([\"']?(?:https?:)?//[^\"')]+"
    )
    return [
        f"{path.relative_to(target)}: {hit}"
        for path in sorted(target.rglob("*"))
        if path.suffix in {".html", ".css"}
        for hit in loads.findall(path.read_text(encoding="utf-8"))
    ]


def test_what_would_be_fetched_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<script defer src="https://cdn.example.org/a.js"></script><a href="https://example.org">a</a>'
        '<link rel="stylesheet" href="//example.org/a.css"><style>@import "https://example.org/b.css"</style>'
    )
    assert len(fetched(tmp_path)) == 3


def test_an_unreadable_formula_ends_the_build(executed, tmp_path):
    source = tmp_path / "site"
    source.mkdir()
    for name in ("mathml.py",):
        shutil.copy(SITE / name, source / name)
    (source / "conf.py").write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent))\n"
        'extensions = ["myst_parser", "mathml"]\nmyst_enable_extensions = ["dollarmath"]\n'
        'html_math_renderer = "mathml"\n'
    )
    (source / "index.md").write_text("# A page\n\nText\n\n$$\n\\nosuchthing{x}\n$$\n")
    done = build(source, tmp_path / "html")
    assert done.returncode == 1
    assert "index.md:5" in done.stderr
    assert "nosuchthing" in done.stderr


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Plain `code` and *stars*, a_b.", [r"Plain \ ``code``\  and \*stars\*, a\_b.", ""]),
        ("One\nparagraph.", ["One paragraph.", ""]),
        ("image   (3, H, W)\nlabels  (H, W)", ["::", "", "    image   (3, H, W)", "    labels  (H, W)", ""]),
        ("Two:\n- one\n  more\n- two", ["Two:", "", "* one more", "* two", ""]),
        ("A table:\n\n    a  b", ["A table:", "", "::", "", "        a  b", ""]),
    ],
)
def test_docstrings(docstring, expected):
    assert load("docstrings").as_rst(docstring.splitlines()) == expected
