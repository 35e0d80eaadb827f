"""`course data`, `course lab`, `course notebooks` and `course site`: what they hand on, and what they say."""

import subprocess
import types
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

import data_scripts
from course_lib.cli import app, lab, site, stamps
from course_lib.data import registry
from course_lib.data.sample import DataError
from course_lib.plumbing.paths import ROOT


def course(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


# -- data ------------------------------------------------------------------------------------------


def test_every_data_set_is_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    done = course("data", "list")
    assert done.exit_code == 0
    here = {line.split()[0]: line.split()[1] for line in done.output.splitlines() if line[:1].islower()}
    for name, info in registry.DATASETS.items():
        assert here[name] == ("no" if info.folder else "yes")


def test_get_hands_on_name_folder_and_consent(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr(data_scripts, "get", lambda *a, **k: calls.append((a, k)), raising=False)
    assert course("data", "get", "camvid").exit_code == 0
    assert course("data", "get", "camvid", "--yes").exit_code == 0
    assert calls == [(("camvid", tmp_path), {"yes": False}), (("camvid", tmp_path), {"yes": True})]


def test_get_says_what_went_wrong(monkeypatch):
    def get(name, root, yes):
        raise DataError("the archive is damaged: get it again")

    monkeypatch.setattr(data_scripts, "get", get, raising=False)
    done = course("data", "get", "camvid")
    assert done.exit_code == 1
    assert "course data get: the archive is damaged" in done.output


def test_check_names_problems(monkeypatch):
    monkeypatch.setattr(registry, "check_dataset", lambda *a, **k: ["a.png is damaged"])
    done = course("data", "check", "camvid")
    assert done.exit_code == 1
    assert "a.png is damaged" in done.output
    assert "course data get camvid" in done.output
    monkeypatch.setattr(registry, "check_dataset", lambda *a, **k: [])
    assert course("data", "check", "camvid").exit_code == 0


def test_check_suggests_a_name():
    done = course("data", "check", "camvit")
    assert done.exit_code == 2
    assert "did you mean 'camvid'" in done.output


# -- lab -------------------------------------------------------------------------------------------


def test_lab_opens_the_course_and_hands_options_on(monkeypatch):
    started = []
    monkeypatch.setattr(lab.os, "execve", lambda *a: started.append(a))
    course("lab", "--no-browser", "--port", "8890")
    course("lab", "--", "--no-browser")
    (_, first, env), (_, second, _) = started
    assert first[1:3] == ["-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={ROOT}" in first
    assert first[-3:] == ["--no-browser", "--port", "8890"]
    assert second[-1] == "--no-browser"
    assert "JUPYTER_PREFER_ENV_PATH" in env


# -- notebooks -------------------------------------------------------------------------------------


def test_notebooks_are_checked_and_tidied(tmp_path):
    path = tmp_path / "03_fcn.ipynb"
    cell = nbformat.v4.new_code_cell("print(1)", execution_count=3)
    cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    done = course("notebooks", "check", str(path))
    assert done.exit_code == 1
    assert "03_fcn.ipynb: " in done.output
    assert "1 notebooks, 1 changed" in course("notebooks", "tidy", str(path)).output
    assert not nbformat.read(path, as_version=4).cells[0].outputs
    assert "0 changed" in course("notebooks", "tidy", str(path)).output


def test_an_unknown_notebook_is_refused():
    assert course("notebooks", "tidy", "no_such").exit_code == 2


# -- site ------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A course of two notebooks, one of them executed; the calls that building the site makes."""
    folder, calls = tmp_path / "notebooks", []
    folder.mkdir()
    for name in ("01_one", "02_two"):
        cell = nbformat.v4.new_code_cell('PROFILE = "quick"', metadata={"tags": ["parameters"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    executed = tmp_path / "build/executed/quick/01_one.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text((folder / "01_one.ipynb").read_text())
    origin = stamps.made_from(folder / "01_one.ipynb", {"PROFILE": "quick"})
    stamps.write_stamp(executed, origin, "2000-01-01T00:00:00+00:00", 1.0)
    monkeypatch.setattr(site, "NOTEBOOKS", folder)
    monkeypatch.setattr(site, "build_root", lambda: tmp_path / "build")
    (executed.parent / "02_two.failed.ipynb").write_text("{}")

    def prepare(*places):
        calls.append(("prepare", *places))

    module = types.SimpleNamespace(prepare=prepare)
    monkeypatch.setattr(site, "load_prepare", lambda _: module)

    def sphinx(command, **_):
        calls.append(("sphinx", *command[2:]))
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(site.subprocess, "run", sphinx)
    return folder, tmp_path / "build", calls


def test_the_site_is_prepared_then_built(build):
    notebooks, folder, calls = build
    done = course("site")
    assert done.exit_code == 0, done.output
    assert [call[0] for call in calls] == ["prepare", "sphinx"]
    *places, materials = calls[0][1:]
    assert places == [folder / "executed/quick", ROOT / "docs/notebooks", notebooks, "quick", ""]
    assert materials == {"01_one": {}, "02_two": {}}
    assert {"-W", "--keep-going", str(folder / "site")} <= set(calls[1])
    doctrees = calls[1][calls[1].index("-d") + 1]
    assert not Path(doctrees).is_relative_to(folder / "site")


def test_a_page_gives_its_notebook_as_the_course_has_it(build, monkeypatch):
    notebooks, folder, _ = build
    place = folder / "site/_sources/notebooks"

    def sphinx(command, **_):
        place.mkdir(parents=True)
        (place / "01_one.ipynb").write_text("with outputs")
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(site.subprocess, "run", sphinx)
    assert "site/index.html: 0 MB" in course("site").output
    assert (place / "01_one.ipynb").read_bytes() == (notebooks / "01_one.ipynb").read_bytes()
    assert [path.name for path in place.iterdir()] == ["01_one.ipynb"]  # 02 has no page


def test_the_site_says_what_was_not_executed_and_what_is_out_of_date(build):
    notebooks, folder, _ = build
    output = course("site").output
    assert "failed: 02_two\n  type: course run 02\n" in output
    assert "out of date" not in output
    (folder / "executed/quick/02_two.failed.ipynb").unlink()
    assert "not executed: 02_two\n  type: course run 02\n" in course("site").output
    source = (notebooks / "01_one.ipynb").read_text()
    (notebooks / "01_one.ipynb").write_text(source + "\n")
    assert "out of date: 01_one\n  type: course run 01\n" in course("site").output
    assert "type: course run 01 02 --profile gpu" in course("site", "--profile", "gpu").output


def test_problems_of_sphinx_end_it(build, monkeypatch):
    failed = subprocess.CompletedProcess([], returncode=2)
    monkeypatch.setattr(site.subprocess, "run", lambda *a, **k: failed)
    assert course("site").exit_code == 1


def test_the_site_refuses_an_unknown_profile(build):
    assert course("site", "--profile", "quik").exit_code == 2
