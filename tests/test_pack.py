"""`course pack`: a folder that runs `course evidence` where there is torch and no network."""

import os
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from typer.testing import CliRunner

from course_lib.cli import app, pack
from course_lib.plumbing import machine
from tests.data_helpers import make_camvid


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A small repository in git with one commit."""
    root = tmp_path_factory.mktemp("tree")
    (root / "course_lib").mkdir()
    (root / "course_lib/__init__.py").write_text("")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def call(*arguments):
    return CliRunner().invoke(app, ["pack", *map(str, arguments)])


def test_what_a_pack_holds(tree, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(pack, "ROOT", tree)
    make_camvid(data_dir)
    (tree / "course_lib/later.py").write_text("not of the commit")
    done = call(tmp_path / "pack", "--data", "camvid")
    assert done.exit_code == 0, done.output
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "pack/course/COMMIT").read_text() == head
    assert head[:12] in done.output
    assert sorted(path.name for path in (tmp_path / "pack/course/course_lib").iterdir()) == ["__init__.py"]
    assert len(list((tmp_path / "pack/data/camvid/train").iterdir())) == 3
    names = {path.name.split("-")[0].lower() for path in (tmp_path / "pack/wheels").iterdir()}
    assert {"lightning_fabric", "lightning_utilities", "rich", "typer", "tqdm", "psutil", "safetensors"} <= names
    assert not {"torch", "numpy", "pydantic_core"} & names
    again = call(tmp_path / "pack")
    assert again.exit_code == 2
    assert "is not empty" in again.output


def test_imagenet_weights_are_taken_along_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(pack, "NEEDED", ("rich",))
    for name, expected in (("tqdm", ["rich", "tqdm"]), ("no-such-package", ["rich"])):
        monkeypatch.setattr(pack, "WEIGHTS", name)
        assert pack.taken_along() == expected


def test_a_wheel_made_of_what_is_installed_is_that_package(tmp_path):
    name, content = pack.wheel_of(metadata.distribution("lightning-fabric"))
    assert name == f"lightning_fabric-{metadata.version('lightning-fabric')}-py3-none-any.whl"
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        assert not [entry for entry in wheel.namelist() if entry.startswith("..") or entry.endswith(".pyc")]
        wheel.extractall(tmp_path / "there")
    there = tmp_path / "there"
    (found,) = metadata.distributions(name="lightning-fabric", path=[str(there)])
    assert found.version == metadata.version("lightning-fabric")
    assert (there / "lightning_fabric/fabric.py").exists()


@pytest.mark.parametrize(
    ("tag", "fits"),
    [("py3-none-any", True), ("cp36-abi3-manylinux_2_12_x86_64", True), ("cp311-cp311-manylinux_2_28_x86_64", False)],
)
def test_which_wheels_are_taken(tag, fits):
    assert pack.fits_every_python(tag) == fits


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "camvid"], "is missing: course data get camvid"),
        (["--data", "street"], "street is generated"),
        (["--at-most", "0.001"], "more than 0 MiB"),
        (["--commit", "no-such"], "git does not give the tree of no-such"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(tree, tmp_path, data_dir, monkeypatch, arguments, words):
    monkeypatch.setattr(pack, "ROOT", tree)
    done = call(tmp_path / "pack", *arguments)
    assert done.exit_code == 2
    assert words in done.output.replace("\n", " ")
    assert not (tmp_path / "pack").exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = call(tmp_path / "file" / "pack")
    assert done.exit_code == 2
    assert "cannot be written to" in done.output


def test_a_packed_tree_says_its_commit_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    (tmp_path / "COMMIT").write_text("0123456789abcdef0123\n")
    assert machine.code_commit() == "0123456789ab"


def test_the_script_spends_the_time_and_gathers_what_came_of_it(tree, tmp_path, data_dir, monkeypatch):
    """With a command that writes a record and a log, waits until the record is gathered, and fails."""
    monkeypatch.setattr(pack, "ROOT", tree)
    assert call(tmp_path / "pack").exit_code == 0
    there = tmp_path / "pack/course"
    (there / "course_lib/cli").mkdir()
    (there / "course_lib/cli/__init__.py").write_text("")
    (there / "course_lib/cli/bare.py").write_text(
        "import os, sys, time; from pathlib import Path; print(sys.argv[1:], os.environ['COURSE_DATA'])\n"
        "for name in ('results/a/new.json', os.environ['COURSE_RUNS'] + '/a/b/log.txt'):\n"
        "    Path(name).parent.mkdir(parents=True, exist_ok=True); Path(name).write_text('made')\n"
        "while not Path(os.environ['OUT'], 'results/a/new.json').exists(): time.sleep(0.05)\n"
        "Path('results/a/last.json').write_text('made')\n"
        "sys.exit(3)\n"
    )
    (there / "results/a").mkdir(parents=True)
    (there / "results/a/old.json").write_text("of the commit")
    done = subprocess.run(
        ["bash", str(tmp_path / "pack/run.sh"), "--minutes", "2"],
        env={**os.environ, "PYTHON": sys.executable, "EVERY": "0.1", "OUT": str(tmp_path / "out")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    out = tmp_path / "out"
    assert f"['--minutes', '2'] {tmp_path}/pack/data" in (out / "log.txt").read_text()
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert made == ["log.txt", "results/a/last.json", "results/a/new.json", "runs/a/b/log.txt"]
    assert list((tmp_path / "pack/packages").iterdir()) == []  # this environment lacks nothing


ABSENT = ("nbformat", "nbclient", "nbconvert", "jupyter_client", "IPython", "ipywidgets", "anywidget", "papermill")
BARE = f"""
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {(*ABSENT, "matplotlib", "pydantic", "pydantic_core")!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = ["bare", *sys.argv[1:]]
runpy.run_module("course_lib.cli.bare", run_name="__main__")
"""


def bare(*arguments):
    return subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True, check=False)


def test_evidence_begins_where_nothing_is_but_torch_and_what_a_pack_takes_along():
    done = bare("--minutes", "1", "--profile", "laptop", "--tables", "start_here", "--seeds", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "start_here fcn8s seed 0" in done.stdout or "0 missing runs" in done.stdout
    wrong = bare("--profile", "huge")
    assert wrong.returncode == 2
    assert "huge" in wrong.stderr
