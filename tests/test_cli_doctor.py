"""`course doctor`: what it finds, what it says to type, and how it ends."""

import json
import math
import subprocess
import sys
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from course_lib.cli import app, doctor
from course_lib.plumbing import machine, precision

NAMES = [
    "Python",
    "torch",
    "papermill",
    "extra test",
    "CPU",
    "bfloat16",
    "GPU",
    "memory",
    "disk",
    "Generated streets",
    "CamVid",
    "kernel",
    "notebooks",
    "Chromium",
]


def lines_of(output: str) -> dict[str, str]:
    """The lines of checks by name, each without the name."""
    found = {}
    for line in output.splitlines():
        if line[:4].strip() in doctor.COLOURS:
            found[line[6:28].strip()] = line[:4].strip() + " " + line[29:]
    return found


def test_one_line_for_each_check():
    done = CliRunner().invoke(app, ["doctor"])
    lines = lines_of(done.output)
    assert not set(NAMES) - set(lines), done.output
    failed = [line for line in lines.values() if line.startswith("FAIL")]
    assert done.exit_code == bool(failed)
    assert all("->" in line for line in failed)
    assert "needs >=" in lines["torch"]


@pytest.fixture
def only(monkeypatch):
    """Run the doctor with nothing but one check; return its exit code and output."""

    def invoke(name: str) -> tuple[int, str]:
        monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name]})
        done = CliRunner().invoke(app, ["doctor"])
        return done.exit_code, done.output

    return invoke


def with_project(monkeypatch, **changes: object) -> None:
    project = doctor.project() | changes
    monkeypatch.setattr(doctor, "project", lambda: project)


def test_an_old_or_missing_package_fails_with_the_command(only, monkeypatch):
    with_project(monkeypatch, dependencies=["torch>=99", "no-such-package>=1", "rich>=14"])
    code, output = only("packages")
    assert code == 1
    lines = lines_of(output)
    assert lines["torch"].startswith("FAIL")
    assert lines["torch"].endswith('pip install "torch>=99"')
    assert lines["no-such-package"].startswith("FAIL missing")
    assert lines["rich"].startswith("OK")


def test_an_incomplete_extra_only_warns(only, monkeypatch):
    extras = {"site": ["no-such-package>=1", "rich>=14", 'winpty; sys_platform == "win32"']}
    with_project(monkeypatch, **{"optional-dependencies": extras})
    code, output = only("extras")
    assert code == 0
    assert "WARN  extra site             no-such-package>=1: missing  -> " in output
    assert "winpty" not in output


def test_an_old_python_fails(only, monkeypatch):
    with_project(monkeypatch, **{"requires-python": ">=4"})
    assert only("Python")[0] == 1


def test_missing_data_is_no_failure_and_names_the_command(only, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    code, output = only("data")
    assert code == 0
    line = lines_of(output)["CamVid"]
    assert line.startswith("WARN")
    assert line.endswith("-> course data get camvid")
    (tmp_path / "camvid").mkdir()
    assert lines_of(only("data")[1])["CamVid"].startswith("OK")


@pytest.mark.parametrize(
    ("program", "state"), [("python", "OK"), (sys.executable, "OK"), ("/elsewhere/bin/python", "FAIL")]
)
def test_a_kernel_of_another_environment_fails(only, monkeypatch, tmp_path, program, state):
    folder = tmp_path / "kernels/python3"
    folder.mkdir(parents=True)
    spec = {"argv": [program, "-m", "ipykernel_launcher"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    code, output = only("kernel")
    assert lines_of(output)["kernel"].startswith(state), output
    assert code == (state == "FAIL")


def test_records_of_the_course_that_are_not_in_one_s_own_folder_are_copied(only, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    said = lines_of(only("folders")[1])["records"]
    assert said.startswith("WARN")
    assert "has no records" in said
    (tmp_path / "results" / "fcn_skips").mkdir(parents=True)
    (tmp_path / "results" / "fcn_skips" / "fcn8s-laptop-seed0.json").write_text("{}")
    assert "records" not in lines_of(only("folders")[1])


def test_a_full_disk_fails(only, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    assert only("disk")[0] == 1


def test_no_notebooks_fails(only, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "NOTEBOOKS", tmp_path)
    assert only("notebooks")[0] == 1


def test_no_chromium_only_warns(only, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    code, output = only("Chromium")
    assert code == 0
    assert "WARN" in output


@pytest.mark.parametrize(
    ("has_bf16", "error", "state"),
    [(False, 0, "OK"), (True, 0.003, "OK"), (True, 1.31, "WARN"), (True, math.nan, "WARN")],
)
def test_wrong_bfloat16_kernels_are_named_with_what_the_course_does(only, monkeypatch, has_bf16, error, state):
    found = {"Conv2d 8 -> 16, kernel 3x3, stride 1": [0.003] * 3, "Conv2d 8 -> 16, kernel 8x8, stride 2": [error] * 3}
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(precision, "scan", lambda layers, dtype: found)
    code, output = only("bfloat16")
    assert code == 0
    line = lines_of(output)["bfloat16"]
    assert line.startswith(state)
    if state == "WARN":
        assert "1 of 2 convolutions are wrong on this processor (Conv2d 8 -> 16, kernel 8x8, stride 2: output" in line
        assert line.endswith("the course trains such layers in float32  -> python -m benchmarks.bf16_convolutions")


def test_a_card_is_said_with_its_precisions_and_speeds(only, monkeypatch):
    assert only("GPU precision")[1].strip().startswith("Ready. Next: course lab")  # no card, no line
    rates = {"bf16": {"product": 612.4, "convolution": 431.0}, "fp32": {"product": 51.0, "convolution": 40.6}}
    monkeypatch.delenv("COURSE_PRECISION", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(machine, "speeds", lambda device: rates if device.type == "cuda" else {})
    line = lines_of(only("GPU precision")[1])["GPU precision"]
    assert line.startswith("OK")
    assert "trains in bf16-mixed; TFLOP/s" in line
    assert line.endswith("bf16 612 / 431, fp32 51 / 41")


def test_a_check_that_breaks_is_a_failure_not_a_crash(monkeypatch):
    def broken():
        raise OSError("libcuda is broken")
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"GPU": broken})
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "FAIL  GPU                    OSError: libcuda is broken  -> make course" in done.output


def test_the_installed_command_answers():
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("course ")
