"""The Makefile: looking at it changes nothing, and an environment that does not fit is made again."""

import shutil
import subprocess
import sys

import pytest

from course_lib.plumbing.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on the path")


@pytest.fixture
def project(tmp_path):
    """A copy of what the set-up reads, with an environment whose Python starts."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    (tmp_path / ".venv" / ".complete").write_text(f"{tmp_path}\n")
    return tmp_path


def make(project, *arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_elsewhere(project):
    (project / ".venv" / ".complete").write_text("/elsewhere\n")


def without_its_python(project):
    (project / ".venv" / "bin" / "python").unlink()


@pytest.mark.parametrize(
    "arguments", [["help"], ["-n", "help"], ["-n", "course"], ["-n", "test"], ["-qp"]], ids=" ".join
)
@pytest.mark.parametrize("spoil", [of_elsewhere, without_its_python])
def test_nothing_is_removed_by_looking(project, spoil, arguments):
    spoil(project)
    before = sorted(project.rglob("*"))
    subprocess.run(["make", *arguments], cwd=project, capture_output=True, check=False)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("spoil", "removed"),
    [(of_elsewhere, "rm -rf .venv\n"), (without_its_python, "rm -rf .venv/.complete\n"), (lambda _: None, "")],
    ids=["moved", "broken", "good"],
)
def test_an_environment_that_does_not_fit_is_made_again(project, spoil, removed):
    spoil(project)
    planned = make(project, "-n", "setup")
    assert ("uv venv" in planned) == bool(removed)
    assert removed in planned
    assert removed or "rm" not in planned


def test_help_names_every_target_that_is_meant_to_be_typed(project):
    shown = {line.split()[1] for line in make(project, "help").splitlines()}
    assert {"course", "test", "test-fast", "test-full", "gpu", "lab", "site", "readme", "clean"} <= shown
