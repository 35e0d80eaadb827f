"""What instructors read is made of the notebooks: graph, times, points; launch buttons of one setting."""

import json
import os
import re
import subprocess
import sys
import tomllib
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.notebook_tools.cells import parse
from course_lib.notebook_tools.exercises import exercises_of
from course_lib.notebook_tools.launch import bootstrap, launch_links, repository
from course_lib.notebook_tools.rules import committed
from course_lib.notebook_tools.teaching import (
    PICTURE,
    direct,
    graph_svg,
    levels,
    needed,
    spent,
    takes_markdown,
    write_spent,
)
from course_lib.plumbing.paths import ROOT
from data_scripts import fetch

TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")


def test_the_graph_is_that_of_the_notebooks():
    graph = needed()
    assert graph["03"] == ["01", "02"]
    assert set(graph["10"]) >= {"02", "03", "05", "07", "09"}  # "03 to 09" names all between
    assert direct(graph)["03"] == ["02"]
    assert levels(graph)["00"] == 0
    assert all(levels(graph)[one] < levels(graph)[number] for number in graph for one in graph[number])


def test_the_picture_is_of_today_and_names_every_notebook():
    text = PICTURE.read_text(encoding="utf-8")
    assert text == graph_svg(), "type: make readme"
    ElementTree.fromstring(text)
    assert set(re.findall(r'font-weight="bold">(\d\d)<', text)) == set(needed())


def test_the_table_counts_what_the_notebooks_state():
    row = next(line for line in takes_markdown().splitlines() if "03_fcn.ipynb" in line)
    assert row.endswith("| 75 | 8 |")
    of_all = sum(one.points for path in committed() if path.parent.name == "notebooks" for one in exercises_of(path))
    assert takes_markdown().splitlines()[-1].endswith(f"| {of_all} |")


MARKED = [path for path in committed() if "<!-- times -->" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.stem)
def test_the_times_on_top_are_those_on_file(path):
    assert f"*Time on a laptop*: {spent(path)}" in parse(path.read_text(encoding="utf-8")).cells[0].source, (
        f"type: course notebooks times {path.name[:2]}"
    )


def test_times_are_written_before_their_mark(tmp_path):
    path = tmp_path / "03_fcn.ipynb"
    text = "# Nets\n\n*Time on a laptop*: an age.<!-- times --> Generated.\n\n" + "word " * 1200
    exercise = new_code_cell("check()", metadata={"every_pixel": {"id": "03-1", "points": 1, "minutes": 15}})
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), exercise]), path)
    assert write_spent(path)
    opening = parse(path.read_text(encoding="utf-8")).cells[0].source
    assert "seconds to run (quick profile, 2 cores), 25 minutes to work through (10 to read, 15 for" in opening
    assert "an age" not in opening
    assert opening.count("exercises).<!-- times --> Generated.") == 1
    before = path.read_bytes()
    assert write_spent(path)
    assert path.read_bytes() == before
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Nets")]), path)
    assert not write_spent(path)


def test_plans_name_notebooks_that_exist():
    plans = TEACHING.split("## Plans")[1].split("**Projects")[0]
    assert set(re.findall(r"\b\d\d\b", plans)) - {"75"} <= set(needed())


def test_commands_of_the_page_exist():
    from typer.main import get_command

    from course_lib.cli import app

    known = get_command(app).commands
    named = set(re.findall(r"\bcourse (assign|grade|slides|site|run|data|notebooks|reproduce|doctor|lab)\b", TEACHING))
    assert {"assign", "grade", "slides", "site"} <= named <= set(known)


# -- launch buttons


def test_one_setting_makes_the_buttons(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.course]\nrepository = "https://github.com/us/every-pixel.git"\n', encoding="utf-8")
    address = repository(project)
    links = launch_links(address, "notebooks/03_fcn.ipynb")
    assert links["Colab"] == "https://colab.research.google.com/github/us/every-pixel/blob/main/notebooks/03_fcn.ipynb"
    assert links["Binder"] == "https://mybinder.org/v2/gh/us/every-pixel/main?labpath=notebooks/03_fcn.ipynb"
    assert launch_links("", "notebooks/03_fcn.ipynb") == {}
    assert isinstance(repository(), str)


def test_the_bootstrap_cell_fetches_the_course_where_it_is_missing(tmp_path):
    origin = tmp_path / "origin"
    (origin / "course_lib").mkdir(parents=True)
    (origin / "notebooks").mkdir()
    (origin / "course_lib" / "__init__.py").write_text("", encoding="utf-8")
    (origin / "notebooks" / "kept").write_text("", encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(origin)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "pip" / "__main__.py").write_text("import sys; print('pip', *sys.argv[1:])", encoding="utf-8")
    code = bootstrap(f"file://{origin}") + "\nimport course_lib\nprint(os.getcwd(), course_lib.__file__)"
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    for _ in range(2):  # the second time nothing is fetched
        ended = subprocess.run([sys.executable, "-S", "-c", code], cwd=home, env=environment, capture_output=True,
                               text=True, check=False)  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "pip install -q -e every-pixel" in ended.stdout
        assert str(home / "every-pixel" / "course_lib") in ended.stdout
        assert str(home / "every-pixel" / "notebooks") in ended.stdout


# -- machines


def test_a_mirror_is_asked_first_and_the_owner_after_it(monkeypatch):
    remote = fetch.Remote(name="camvid.zip", urls=("https://owner.example/camvid.zip",))
    monkeypatch.delenv("COURSE_MIRROR", raising=False)
    assert fetch.addresses(remote) == remote.urls
    monkeypatch.setenv("COURSE_MIRROR", "http://10.0.0.5:8000/")
    assert fetch.addresses(remote) == ("http://10.0.0.5:8000/camvid.zip", *remote.urls)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of a container")
def test_the_container_s_command_copies_what_is_worked_in_once(tmp_path):
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    shell, option, line = json.loads(re.search(r"^CMD (\[.+\])$", text, re.MULTILINE)[1])
    own, home = tmp_path / "own", tmp_path / "home"
    own.mkdir()
    home.mkdir()
    (own / "course").write_text('#!/bin/sh\necho course "$@"\n', encoding="utf-8")
    (own / "course").chmod(0o755)
    environment = {"PATH": f"{own}:{os.environ['PATH']}", "HOME": str(home)}
    for _ in range(2):
        ended = subprocess.run(
            [shell, option, line], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert f"course lab --ServerApp.root_dir={home}" in ended.stdout
        assert ended.stderr == ""
        given = home / "notebooks" / "03_fcn.ipynb"
        assert given.read_text(encoding="utf-8") in (
            (ROOT / "notebooks" / given.name).read_text(encoding="utf-8"),
            "mine",
        )
        given.write_text("mine", encoding="utf-8")
    assert given.read_text(encoding="utf-8") == "mine"
    assert not (home / "notebooks" / "hidden").exists()
    assert any((home / "results" / "fcn_skips").glob("*.json"))


@pytest.mark.skipif(sys.platform == "win32", reason="make")
def test_torch_without_cuda_is_the_installer_s_own_option():
    words = ["make", "-n", "-B", "setup"]
    here = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    plain, cpu = (subprocess.run([*words, *more], **here).stdout for more in ([], ["TORCH=cpu"]))
    assert "--torch-backend" not in plain
    assert "--no-deps -r requirements.lock" in plain
    assert "--torch-backend cpu --no-deps -r build/cpu.lock" in cpu
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    left = [line for line in lock.splitlines() if not re.match(r"nvidia-|triton|cuda-", line)]
    assert not any("nvidia" in line.split("==")[0] for line in left if not line.startswith(" "))
    assert any(line.startswith("torch==") for line in left)


def test_binder_and_the_container_install_what_the_course_needs():
    assert (ROOT / ".binder" / "environment.yml").resolve() == ROOT / "environment.yml"
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert "util-linux" in text  # the walls
    assert {".venv", "data"} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())  # podman reads it too
    for variable in ("COURSE_BUILD", "COURSE_RUNS", "COURSE_DATA", "COURSE_RESULTS"):
        assert variable in text
    assert "repository" in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
