"""The site: builds without a warning from executed notebooks, and reads without the network."""

import base64
import hashlib
import html
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from course_lib.experiments.table import table_names
from course_lib.models import MODELS
from course_lib.plumbing.paths import ROOT
from course_lib.widgets.explorer import Answer, Explorer, View
from course_lib.widgets.frame import bundle
from course_lib.widgets.receptive_field import live_html
from course_lib.widgets.upsampling import unpooling_explorer

SITE = ROOT / "docs"
PIXEL = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
).decode()
WIDGET = "application/vnd.jupyter.widget-view+json"
PAPERMILL = "papermill-error-cell-tag"
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


def prepare(executed: Path, target: Path, course: Path | None = None) -> list[str]:
    """prepare.py's work for a course that has the notebooks of `course`, none where it is not given."""
    return load("prepare").prepare(executed, target, course or executed / "no course")


def test_prepare_keeps_what_a_page_can_show(executed, tmp_path):
    target = tmp_path / "notebooks"
    (target / "old").mkdir(parents=True)
    names = prepare(executed, target)
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
    assert (target / "pictures" / "01_labels.png").exists()
    back = nbformat.read(target / "solutions" / "01_labels_solutions.ipynb", as_version=4)
    assert "[it](../01_labels.ipynb)" in back.cells[0].source


def test_prepare_keeps_parameters_that_differ(executed, tmp_path):
    path = executed / "01_labels.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[4].source = '# Parameters\nPROFILE = "laptop"'
    nbformat.write(notebook, path)
    prepare(executed, tmp_path / "notebooks")
    text = (tmp_path / "notebooks" / "01_labels.ipynb").read_text(encoding="utf-8")
    assert "laptop" in text


def test_prepare_without_anything_executed(tmp_path):
    assert prepare(tmp_path / "nothing", tmp_path / "notebooks") == []
    assert (tmp_path / "notebooks" / "gallery.md").read_text(encoding="utf-8").strip() == ""


def test_a_card_is_one_link_with_question_time_and_needs(executed, tmp_path):
    source = nbformat.read(executed / "01_labels.ipynb", as_version=4)
    source.cells[0].source = "# 01 Labels\n\n**What is a label?**"
    source.cells[3].source = 'TABLE = "fcn_skips"\nresolve(TABLE, "fcn8s", PROFILE)'
    nbformat.write(source, executed / "01_labels.ipynb")
    (executed / "01_labels.stamp.json").write_text('{"seconds": 47.2}')
    prepare(executed, tmp_path / "notebooks")
    card = (tmp_path / "notebooks" / "gallery.md").read_text(encoding="utf-8").split(":::{container} card")[1]
    assert "[![](notebooks/pictures/01_labels.png)**01 Labels**](notebooks/01_labels.ipynb)" in card
    assert "What is a label?" in card
    badges = re.findall(r'"badge">(.*?)<', card)
    assert badges == ["runs 47 s", "laptop and GPU: CamVid"]


def test_figures_are_described_by_their_content(executed, tmp_path, capsys):
    path = executed / "01_labels.ipynb"
    notebook = nbformat.read(path, as_version=4)
    (figure,) = (output for output in notebook.cells[-1].outputs if "image/png" in output.get("data", {}))
    figure.metadata["image/png"] = {"alt": "Bars of IoU: Sky 0.9.", "text_px": 8.0}
    nbformat.write(notebook, path)
    prepare(executed, tmp_path / "notebooks")
    found = json.loads((tmp_path / "notebooks" / "figures.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(base64.b64decode(PIXEL)).hexdigest()
    assert found == {digest: {"alt": "Bars of IoU: Sky 0.9.", "text": 8.0}}
    assert "01_labels [4]: a figure's smallest text is 8.0 pixels high" in capsys.readouterr().out


def test_the_explorer_that_needs_no_python_is_on_the_page(executed, tmp_path):
    widget = display(text__plain="<course_lib.widgets.receptive_field.ReceptiveFieldExplorer object at 0x7f>")
    widget.data[WIDGET] = {"model_id": "abc", "version_major": 2, "version_minor": 0}
    path = executed / "02_metrics.ipynb"
    notebook = nbformat.read(path, as_version=4)
    source = 'receptive_field_explorer("gridding")'
    notebook.cells.append(new_code_cell(source, outputs=[widget], execution_count=2))
    nbformat.write(notebook, path)
    prepare(executed, tmp_path / "notebooks")
    notebook = nbformat.read(tmp_path / "notebooks" / "02_metrics.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].data["text/html"] == live_html("gridding")


def test_explorers_that_need_no_kernel_are_live_with_their_own_data(executed, tmp_path):
    """Their state is in the executed notebook, as nbclient writes it: bytes apart, by their path."""
    explorers = {"a1": unpooling_explorer(), "b2": Explorer(lambda event: Answer(View([], "")), [], title="Asks")}
    models, cells = {}, []
    for number, explorer in explorers.items():
        state, buffers = explorer.get_state(), []
        for name in [name for name, value in state["data"].items() if isinstance(value, bytes)]:
            value = base64.b64encode(state["data"][name]).decode()
            state["data"] = {key: one for key, one in state["data"].items() if key != name}
            buffers.append({"encoding": "base64", "path": ["data", name], "data": value})
        models[number] = {"state": state, "buffers": buffers}
        widget = display(text__plain=f"{explorer.title}: an explorer")
        widget.data[WIDGET] = {"model_id": number}
        cells.append(new_code_cell("explorer", outputs=[widget], execution_count=2))
    notebook = new_notebook(cells=[new_markdown_cell("# 02 Metrics"), *cells])
    content = {"version_major": 2, "version_minor": 0, "state": models}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": json.loads(json.dumps(content))}
    nbformat.write(notebook, executed / "02_metrics.ipynb")
    prepare(executed, tmp_path / "notebooks")
    notebook = nbformat.read(tmp_path / "notebooks" / "02_metrics.ipynb", as_version=4)
    live, asks = (cell.outputs[0].data for cell in notebook.cells[1:])
    assert live["text/html"] == explorers["a1"].live_html("1")
    assert "run the notebook" in asks["text/markdown"]
    assert "widgets" not in notebook.metadata


def fail(path: Path) -> Path:
    """What a run leaves that stops in the last cell of a notebook: its copy with papermill's notes."""
    notebook = nbformat.read(path, as_version=4)
    error = new_output(
        "error", ename="AssertionError", evalue="\x1b[31m0.1 is less\x1b[0m than 0.2\nmore", traceback=["Traceback"]
    )
    notebook.cells[-1].outputs = [error]
    notes = (new_markdown_cell("<span>An Exception</span>", metadata={"tags": [PAPERMILL]}) for _ in range(2))
    notebook.cells = [next(notes), *notebook.cells[:-1], next(notes), notebook.cells[-1]]
    target = path.with_suffix(".failed.ipynb")
    nbformat.write(notebook, target)
    return target


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_a_notebook_that_failed_is_shown_with_its_error(executed, tmp_path):
    fail(executed / "01_labels.ipynb")  # the older complete copy stays beside it
    target = tmp_path / "notebooks"
    assert prepare(executed, target)[0] == "01_labels"
    title, notice, *others = sources(target / "01_labels.ipynb")
    assert title.startswith("# 01 Labels")
    assert "did not run here" in notice
    assert "`AssertionError: 0.1 is less than 0.2` [in this cell](#failed-01_labels)" in notice
    assert "`course run 01`" in notice
    assert others[-2].startswith("(failed-01_labels)=")
    assert not any("An Exception" in source for source in others)
    gallery = (target / "gallery.md").read_text(encoding="utf-8")
    assert "**01 Labels**](notebooks/01_labels.ipynb)" in gallery
    assert '"badge">did not run here<' in gallery


def test_half_an_executed_copy_is_none(executed, tmp_path):
    path, target = executed / "01_labels.ipynb", tmp_path / "notebooks"
    course = tmp_path / "course"
    course.mkdir()
    shutil.copy(path, course)
    path.write_text(path.read_text(encoding="utf-8")[:200])
    assert "01_labels" in prepare(executed, target, course)
    assert "was not run here yet" in sources(target / "01_labels.ipynb")[1]


def test_a_notebook_that_has_not_run_is_shown_as_it_is_in_the_course(executed, tmp_path):
    course, target = tmp_path / "course", tmp_path / "notebooks"
    write(
        new_notebook(cells=[new_markdown_cell("# 03 Nets\n\n**Which?**"), new_code_cell("train()")]),
        course / "03_nets.ipynb",
    )
    (executed / "02_metrics.ipynb").rename(course / "02_metrics.ipynb")
    assert prepare(executed, target, course)[:3] == ["01_labels", "02_metrics", "03_nets"]
    title, notice, code = sources(target / "03_nets.ipynb")
    assert (title, code) == ("# 03 Nets\n\n**Which?**", "train()")
    assert "was not run here yet" in notice
    assert "`course run 03`" in notice
    assert "[metrics](02_metrics.ipynb)" in sources(target / "01_labels.ipynb")[1]  # no link dies
    assert (target / "gallery.md").read_text(encoding="utf-8").count("not run here yet") == 2


def test_students_see_no_solutions_and_instructors_all(executed, tmp_path):
    course = tmp_path / "course"
    for name in ("01_labels", "02_metrics"):
        write(new_notebook(cells=[new_markdown_cell(f"# {name}")]), course / "solutions" / f"{name}_solutions.ipynb")
    write(new_notebook(cells=[new_markdown_cell("# run")]), executed / "solutions" / "01_labels_solutions.ipynb")
    prepared = load("prepare").prepare

    def solutions(audience):
        names = prepared(executed, tmp_path / "notebooks", course, audience=audience)
        return [name for name in names if "/" in name]

    assert solutions("students") == []
    assert solutions("instructors") == ["solutions/01_labels_solutions", "solutions/02_metrics_solutions"]
    assert solutions("") == ["solutions/01_labels_solutions"]


def test_the_page_for_instructors_has_links_that_lead_somewhere(executed, tmp_path):
    target = tmp_path / "notebooks"
    load("prepare").prepare(executed, target, executed / "none", audience="students")
    assert not (target / "teaching.md").exists()
    load("prepare").prepare(executed, target, executed / "none")
    text = (target / "teaching.md").read_text(encoding="utf-8")
    local = [one for one in re.findall(r"\]\(([^)]+)\)", text) if not one.startswith("http")]
    assert local == ["../pictures/prerequisites.svg", "02_metrics.ipynb"]  # the one of them that is on this site
    assert load("prepare").teaching_markdown({"03_fcn"}).count("](03_fcn.ipynb)") == 1


def test_slides_and_assignment_are_linked_under_the_title(executed, tmp_path):
    materials = {"01_labels": {"Slides": "../slides/01_labels.html", "Open in Colab": "https://colab.example/?a=1&b=2"}}
    load("prepare").prepare(executed, tmp_path / "notebooks", executed / "none", materials=materials)
    cell = nbformat.read(tmp_path / "notebooks" / "01_labels.ipynb", as_version=4).cells[1]
    assert (
        '<a href="../slides/01_labels.html">Slides</a> · <a href="https://colab.example/?a=1&amp;b=2">' in cell.source
    )


def test_beside_the_button_for_colab_stands_its_first_cell(executed, tmp_path):
    address = "https://colab.research.google.com/github/us/every-pixel/blob/main/notebooks/01_labels.ipynb"
    materials = {"01_labels": {"Open in Colab": address}}
    load("prepare").prepare(executed, tmp_path / "notebooks", executed / "none", materials=materials)
    text = html.unescape(nbformat.read(tmp_path / "notebooks" / "01_labels.ipynb", as_version=4).cells[1].source)
    assert '"clone", "--depth", "1", "https://github.com/us/every-pixel", "every-pixel"]' in text
    assert "\n\n" not in text  # a blank line ends a piece of HTML in Markdown


def test_what_lies_in_build_is_taken_along(tmp_path):
    from course_lib.cli.site import materials_of

    for place in ("slides/03_fcn.html", "week2/student/03_fcn.ipynb", "week2/instructor/04_unet.ipynb"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("", encoding="utf-8")
    taken, links = materials_of(tmp_path, "https://github.com/us/every-pixel")
    assert sorted(taken) == ["assignment/03_fcn.ipynb", "slides/03_fcn.html"]
    assert list(links["03_fcn"]) == ["Slides", "Assignment", "Open in Colab", "Open in Binder"]
    assert materials_of(tmp_path, "")[1]["04_unet"] == {}


def test_folded_cells_say_what_is_in_them(executed, tmp_path):
    path = executed / "01_labels.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["hide-input"]
    notebook.cells.append(new_code_cell("assert True", metadata={"tags": ["hide-input"]}))
    nbformat.write(notebook, path)
    prepare(executed, tmp_path / "notebooks")
    *_, draws, checks = nbformat.read(tmp_path / "notebooks" / "01_labels.ipynb", as_version=4).cells
    assert draws.metadata["mystnb"]["code_prompt_show"] == "show the code of this figure"
    assert checks.metadata["mystnb"]["code_prompt_show"] == "show the code"


def test_expectations_are_counted_by_precision(tmp_path):
    expectations_markdown = load("expectations").expectations_markdown
    assert "course notebooks sweep" in expectations_markdown(tmp_path / "none.json").splitlines()[-1]
    trial = {"seed": 0, "threads": 1, "found": 0.4, "wanted": 0.2, "machine": "a CPU"}
    trials = [
        {**trial, "precision": "fp32", "held": True, "margin": 0.25},
        {**trial, "precision": "fp32", "held": False, "margin": -0.125},
        {**trial, "precision": "bf16", "held": True, "margin": None},
    ]
    path = tmp_path / "expectations.json"
    content = {"expectations": [{"notebook": "05_segnet", "statement": "a | b", "trials": trials}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    page = expectations_markdown(path)
    assert "1 statements, 3 trials, 2 of them held. Machines: a CPU." in page
    assert "## 05 segnet" in page
    assert "| a \\| b | 1 of 1 | 1 of 2 | -0.125 | 0.0625 |" in page


def test_every_system_is_where_its_page_says():
    systems = load("systems")
    listed = tomllib.loads(systems.LISTED.read_text(encoding="utf-8"))["system"]
    lectures = {path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb")}
    for one in listed:
        module, _, name = one["code"].rpartition(".")
        assert hasattr(importlib.import_module(module), name), one["code"]
        tests = (ROOT / one["test"]).read_text(encoding="utf-8")
        assert name in tests, f"{one['test']} does not name {name}"
        assert one["lecture"] in lectures, one["name"]
        assert set(one["tables"]) <= set(table_names()), one["name"]
    named = {one["code"].rpartition(".")[2] for one in listed}
    families = {"SegNet": "SegNetBasic", "SemanticFPN": "FPN", "DeformableDeepLab": "DeformableConv2d"}
    families["DeformableStack"] = "DeformableConv2d"
    for make in MODELS.values():
        kind = getattr(make, "func", make).__name__
        assert families.get(kind, kind) in named, kind


def test_the_page_of_systems_counts_records():
    page = load("systems").systems_markdown(["11_implicit_background"], lambda table: len(table) % 2)
    assert page.count("## ") == 5
    assert "| [11](11_implicit_background.ipynb) | {py:obj}`ImplicitBackground <course_lib.implicit_background." in page
    assert "<br>test\\_implicit\\_background.py |" in page
    assert "fcn\\_skips (1), fcn\\_street (none)" in page
    assert "| 03 |" in page


def build(source: Path, target: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    return subprocess.run([*command, str(source), str(target)], capture_output=True, text=True, check=False)


def test_site_builds_and_needs_no_network(executed, tmp_path):
    source, target = tmp_path / "site", tmp_path / "html"
    shutil.copytree(SITE, source, ignore=shutil.ignore_patterns("notebooks", "generated", "__pycache__"))
    fail(executed / "02_metrics.ipynb")
    course = tmp_path / "course"
    write(new_notebook(cells=[new_markdown_cell("# 03 Nets"), new_code_cell("train()")]), course / "03_nets.ipynb")
    prepare(executed, source / "notebooks", course)
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
    explorer = (target / "explorers" / "receptive_field.html").read_text(encoding="utf-8")
    assert bundle("receptive_field") in explorer
    index = (target / "index.html").read_text(encoding="utf-8")
    assert index.index("01 Labels") < index.index("Metrics")
    assert "notebooks/01_labels.html" in index
    reference = (target / "generated" / "data.html").read_text(encoding="utf-8")
    assert "course_lib.data.sample.Sample" in reference
    assert "did not run here" in (target / "notebooks" / "02_metrics.html").read_text(encoding="utf-8")
    assert "was not run here yet" in (target / "notebooks" / "03_nets.html").read_text(encoding="utf-8")
    assert not (target / "notebooks" / "contents.html").exists()
    api = (target / "api.html").read_text(encoding="utf-8")
    assert re.search(r"metrics</span></code></a>: \w", api)
    glossary = (target / "glossary.html").read_text(encoding="utf-8")
    assert 'id="term-ELBO"' in glossary
    assert 'href="notebooks/01_labels.html"' in glossary
    assert "lecture 07" in glossary  # it has no page here
    assert "<th " not in re.sub(r'<th scope="col" ', "", statements)
    assert links_without_a_name(target) == []
    assert fetched(target) == []
    assert "searchindex.js" not in index
    assert "searchindex.js" in (target / "search.html").read_text(encoding="utf-8")
    assert 'loading="lazy"' in page


def links_without_a_name(target: Path) -> list[str]:
    """Links of the pages that have neither text nor a label: a reader who hears them hears nothing."""
    link = re.compile(r"<a\b(?P<attributes>[^>]*\bhref=[^>]*)>(?P<inside>.*?)</a>", re.DOTALL)
    return [
        f"{path.name}: {found[0][:120]}"
        for path in sorted(target.rglob("*.html"))
        for found in link.finditer(path.read_text(encoding="utf-8"))
        if not re.search(r"aria-label|title=", found["attributes"])
        and not re.sub(
            r"<img\b[^>]*\balt=\"[^\"]+\"",
            "words",
            re.sub(r"<(?!img)[^>]*>|<img\b[^>]*\balt=\"\"[^>]*>", "", found["inside"]),
        ).strip()
    ]


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


def test_what_no_reader_needs_is_taken_out(tmp_path):
    for name in ("_static/scripts/fontawesome.js", "_static/a.js.map", "_static/locales/de/a.mo", "_static/b.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "_images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "_images" / "a b.png")
    scripts = "".join(
        f'<script defer src="../_static/{name}.js?v=1"></script>\n'
        for name in ("scripts/fontawesome", "searchtools", "language_data", "b")
    )
    page = (
        f'{scripts}<script src="../searchindex.js"></script><img alt="a &gt; b" src="../_images/a%20b.png" class="c" />'
    )
    page += '<img src="../_images/none.png"><img src="data:image/png;base64,eA=="><img src="https://a.org/a.png">'
    (tmp_path / "pages").mkdir()
    for name in ("page", "search"):
        (tmp_path / "pages" / f"{name}.html").write_text(page)
    load("lighten").lighten(tmp_path)
    left = sorted(path.name for path in (tmp_path / "_static").rglob("*") if path.is_file())
    assert left == ["b.js"]
    made = (tmp_path / "pages" / "page.html").read_text()
    assert re.findall(r"(\w+)\.js", made) == ["b"]
    assert '<img loading="lazy" width="30" height="20" alt="a &gt; b" src="../_images/a%20b.png" class="c" />' in made
    assert made.count("loading=") == 1
    found = re.findall(r"(\w+)\.js", (tmp_path / "pages" / "search.html").read_text())
    assert found == ["searchtools", "language_data", "b", "searchindex"]
    load("lighten").lighten(tmp_path)
    assert (tmp_path / "pages" / "page.html").read_text() == made


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


def test_a_mean_stays_on_one_line_with_its_spread_in_tables_alone():
    context = {"body": "<p>1 ± 2</p><table><tr><th class='head'>mIoU</th><td>3 ± 4</td>\n<td><p>5 ± 6</p></td></tr>"}
    load("conf").name_columns(None, "page", "page.html", context, None)
    assert context["body"].startswith("<p>1 ± 2</p>")
    assert "<th scope=\"col\" class='head'>" in context["body"]
    assert "<td>3\u00a0±\u00a04</td>" in context["body"]
    assert "<p>5\u00a0±\u00a06</p>" in context["body"]
