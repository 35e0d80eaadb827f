"""The machines people bring: variables, folders, users, systems; the doctor names each with what to type."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from data_helpers import make_camvid
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from course_lib.cli import app, doctor, lab, run
from course_lib.cli.selection import like, parse_like
from course_lib.data.camvid import CamVid
from course_lib.data.registry import open_dataset
from course_lib.data.stream import Stream
from course_lib.data.transforms import to_batch, train_transform
from course_lib.experiments.launch.slurm import without_job
from course_lib.plumbing import files, paths
from course_lib.plumbing.files import why_not_writable


def course(*words):
    return CliRunner().invoke(app, list(words))


# Folders and variables


@pytest.mark.parametrize("variable", ["COURSE_DATA", "COURSE_RUNS", "COURSE_BUILD", "COURSE_RESULTS"])
def test_a_variable_names_each_folder_that_is_written_to(variable, monkeypatch, tmp_path):
    _, folder, _ = doctor.FOLDERS[variable]
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, place in (
        ("", paths.ROOT / variable.removeprefix("COURSE_").lower()),
        (" ", paths.ROOT / variable.removeprefix("COURSE_").lower()),
        ("~/mine", tmp_path / "mine"),
        (str(tmp_path / "there"), tmp_path / "there"),
    ):
        monkeypatch.setenv(variable, value)
        assert folder() == place


def test_a_link_to_itself_is_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for variable, (_, folder, _) in doctor.FOLDERS.items():
        monkeypatch.setenv(variable, str(tmp_path / "loop"))
        assert why_not_writable(folder())


def refusing(monkeypatch, *parts):
    """Let no file be made in folders that have one of these names; root may write everywhere else."""
    make = files.tempfile.TemporaryFile

    def temporary(dir):
        if set(parts) & set(Path(dir).parts):
            raise PermissionError(13, "Permission denied")
        return make(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", temporary)


def test_a_folder_that_cannot_be_written_to_is_told_and_nothing_is_made(tmp_path, monkeypatch):
    assert why_not_writable(tmp_path / "a" / "b") == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "file/b cannot be written to (Not a directory)" in why_not_writable(tmp_path / "file" / "b")
    refusing(monkeypatch, tmp_path.name)
    assert "cannot be written to (Permission denied)" in why_not_writable(tmp_path / "a")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("run", "00"), "name another folder with --out, or in COURSE_BUILD"),
        (("site",), "name another folder with --out, or in COURSE_BUILD"),
        (("reproduce", "start_here", "--profile", "quick"), "name another in COURSE_RESULTS"),
    ],
)
def test_commands_look_before_the_work_whether_they_can_keep_it(words, remedy, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "locked"))
    (tmp_path / "locked").mkdir()
    refusing(monkeypatch, "locked")
    done = course(*words)
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert "cannot be written to (Permission denied)" in line
    assert remedy in line


def test_a_site_replaces_nothing_but_a_site(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    done = course("site", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "holds other files, and no site" in done.output
    assert (tmp_path / "thesis.tex").read_text() == "years"


# Kernels, JupyterLab, Slurm


def test_kernels_draw_into_the_notebook_whatever_the_shell_says(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert "MPLBACKEND" not in run.kernel_environment()


def test_folders_of_home_reach_kernels_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_DATA", "~")
    monkeypatch.setenv("COURSE_RUNS", "~/runs")
    environment = run.kernel_environment()
    assert (environment["COURSE_DATA"], environment["COURSE_RUNS"]) == (str(tmp_path), str(tmp_path / "runs"))


def test_lab_listens_to_this_machine_alone_and_wants_its_token(tmp_path):
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"ip": "0.0.0.0"}}))
    command = [*lab.lab_command([]), "--show-config-json"]
    environment = {name: value for name, value in os.environ.items() if name not in ("JUPYTER_TOKEN", "COURSE_RUNS")}
    environment |= {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_NO_CONFIG": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    config = json.loads(done.stdout)
    assert config["ServerApp"]["ip"] == "127.0.0.1"
    settings = config["ServerApp"] | config.get("IdentityProvider", {})
    assert not {"token", "password", "allow_unauthenticated_access", "disable_check_xsrf"} & set(settings)


def test_jobs_inherit_nothing_of_the_job_they_are_submitted_from(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_MEM_PER_CPU", "SRUN_DEBUG", "SBATCH_MEM_BIND", "SLURM_CONF"):
        monkeypatch.setenv(name, "77")
    before = dict(os.environ)
    with without_job():
        left = {name for name in os.environ if name.startswith(("SLURM", "SRUN", "SBATCH"))}
        assert left == {"SLURM_CONF"}
    assert dict(os.environ) == before
    monkeypatch.delenv("SLURM_JOB_ID")
    with without_job():
        assert "SBATCH_MEM_BIND" in os.environ  # outside of a job these are the user's own wishes


# Parameters


def test_lists_and_tuples_follow_the_default():
    assert parse_like("(48, 64)", (96, 128)) == parse_like("[48,64]", (96, 128)) == (48, 64)
    assert parse_like("('b',)", ["a"]) == ["b"]
    assert like([[1, 2], [3, 4]], [(0, 0)]) == [(1, 2), (3, 4)]
    assert like([1], None) == [1]
    with pytest.raises(ValueError, match="7"):
        parse_like("7", (1, 2))


@pytest.mark.parametrize("text", ["{[]: 1}", "-" * 20000 + "1", "(" * 3000])
def test_what_python_cannot_read_is_no_value(text):
    with pytest.raises(ValueError, match=r"[{(-]"):
        parse_like(text, (1, 2))
    assert parse_like(text, None) == text


def test_a_tuple_arrives_as_a_tuple(tmp_path):
    source = 'PROFILE = "quick"\nSIZE = (96, 128)\nPAIRS = [(1, 2)]\nONE = (1,)'
    show = "print(repr((SIZE, PAIRS, ONE)))"
    cells = [new_code_cell(source, metadata={"tags": ["parameters"]}), new_code_cell(show)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "pair.ipynb")
    words = [word for pair in ("SIZE=[48, 64]", "PAIRS=((3, 4), (5, 6))", "ONE=[7]") for word in ("-p", pair)]
    done = course("run", str(tmp_path / "pair.ipynb"), "--out", str(tmp_path / "out"), *words)
    assert done.exit_code == 0, done.output
    (output,) = nbformat.read(tmp_path / "out" / "pair.ipynb", as_version=4).cells[-1].outputs
    assert output.text.strip() == "((48, 64), [(3, 4), (5, 6)], (7,))"


# Systems


HIDDEN = """
import sys, types, torch, torchvision.transforms.v2, scipy.ndimage, psutil, lightning_fabric, typer, PIL.Image
import papermill, nbclient, matplotlib.pyplot, torch.utils.data, ipywidgets, requests, pooch
for name in ("fcntl", "resource", "termios", "pwd"): sys.modules[name] = None
class Msvcrt(types.ModuleType):
    LK_NBLCK, LK_UNLCK, held = 2, 0, set()
    def locking(self, handle, mode, count):
        import os
        file = os.fstat(handle).st_ino
        if mode == self.LK_UNLCK: self.held.discard(file); return
        if file in self.held: raise PermissionError(13, "Permission denied")
        self.held.add(file)
sys.modules["msvcrt"] = Msvcrt("msvcrt")
import importlib, pkgutil, pathlib, course_lib, data_scripts
for package in (course_lib, data_scripts):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"): importlib.import_module(module.name)
from course_lib.plumbing.locks import Busy, only_one
path = pathlib.Path(sys.argv[1]) / "lock"
with only_one(path):
    try:
        with only_one(path): raise SystemExit("two at once")
    except Busy as busy: print(busy)
with only_one(path): print("again")
"""


def test_everything_imports_and_locks_without_the_modules_of_unix(tmp_path):
    done = subprocess.run([sys.executable, "-c", HIDDEN, str(tmp_path)], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    busy, again = done.stdout.splitlines()
    assert "is at this run" in busy
    assert again == "again"


def test_what_loading_processes_are_handed_can_be_sent(tmp_path):
    """Where processes are spawned, as on Windows, it is pickled."""
    for name in ("street", "objects", "cells", "surroundings"):
        stream = Stream(open_dataset(name, "train", size=(32, 48), length=2), train_transform(jitter=0.2), 0)
        again = pickle.loads(pickle.dumps(stream))
        assert torch.equal(again[1].image, stream[1].image)
    make_camvid(tmp_path)
    stream = Stream(CamVid("train", tmp_path), train_transform(crop=(16, 16)), 0)
    assert torch.equal(pickle.loads(pickle.dumps(stream))[0].labels, stream[0].labels)
    assert pickle.loads(pickle.dumps(to_batch)) is to_batch


# The doctor


@pytest.fixture
def lines(monkeypatch):
    """Return the lines of one check by name."""

    def invoke(name):
        return {check.name: check for check in doctor.CHECKS[name]()}

    return invoke


def without_home(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)


def test_no_home_is_named_once_with_what_to_type(lines, monkeypatch):
    without_home(monkeypatch)
    check = lines("home")["home"]
    assert check.state == "FAIL"
    assert " && export HOME=" in check.command
    assert lines("kernel") == {}
    done = course("run", "00")
    assert done.exit_code == 2
    assert "export HOME=" in done.output


def test_a_home_that_is_a_file_is_told(lines, monkeypatch, tmp_path):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    check = lines("home")["home"]
    assert (check.state, "Not a directory" in check.found) == ("WARN", True)


def test_the_doctor_names_each_folder_and_its_variable(lines, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "locked"))
    (tmp_path / "locked").mkdir()
    refusing(monkeypatch, "locked")
    found = lines("folders")
    assert (found["COURSE_BUILD"].state, found["COURSE_RUNS"].state) == ("FAIL", "OK")
    assert found["COURSE_BUILD"].command == "export COURSE_BUILD=$HOME/every-pixel/locked"


@pytest.mark.parametrize(
    ("variable", "value", "name", "command"),
    [
        ("MPLBACKEND", "Agg", "MPLBACKEND", "unset MPLBACKEND"),
        ("COURSE_PRECISION", "fp16", "COURSE_PRECISION", "unset COURSE_PRECISION"),
        ("SLURM_JOB_ID", "77", "Slurm", "exit"),
    ],
)
def test_the_doctor_reads_the_environment(variable, value, name, command, lines, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    assert name not in lines("settings")
    monkeypatch.setenv(variable, value)
    assert lines("settings")[name].command == command


@pytest.mark.parametrize(("user", "command"), [(0, "course lab --allow-root"), (1000, "course lab")])
def test_root_is_told_how_to_start(user, command, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(doctor, "CHECKS", {})
    assert course("doctor").output.strip().endswith(f"Ready. Next: {command}")


def test_windows_is_told_of_its_linux(lines, monkeypatch):
    monkeypatch.setattr(doctor.platform, "system", lambda: "Windows")
    assert lines("system")["system"].command == "wsl --install"
