"""How long the README's commands take: only whole runs are kept, and the README says where and when."""

import json

import pytest

from course_lib.notebook_tools import times
from course_lib.notebook_tools.contents import lectures

NAMES = [lecture.path.stem for lecture in lectures()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "build_root", lambda: tmp_path / "build")
    monkeypatch.setattr(times, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(times.machine, "describe", lambda: {"cpu": "a processor", "cores": 2})
    (tmp_path / "build" / "executed" / "quick").mkdir(parents=True)
    (tmp_path / "build" / "checks").mkdir()
    return tmp_path


def course(here, names=NAMES, status="ok"):
    notebooks = [{"name": name, "status": status, "seconds": 10.0 + place} for place, name in enumerate(names)]
    summary = {"seconds": 432.1, "started": "2026-01-02T03:04:05+00:00", "notebooks": notebooks}
    (here / "build" / "executed" / "quick" / "summary.json").write_text(json.dumps(summary))


def test_nothing_recorded(here):
    assert times.times_markdown() == times.NOTHING
    times.record_times()
    assert times.times_markdown() == times.NOTHING


@pytest.mark.parametrize(("names", "status"), [(NAMES[1:], "ok"), (NAMES, "failed"), (NAMES, "skipped")])
def test_only_whole_runs_are_kept(here, names, status):
    course(here, names, status)
    times.record_times()
    assert times.read_times() == {}


def test_what_is_kept_is_shown(here):
    course(here)
    (here / "build" / "checks" / "times.json").write_text('{"seconds": 1140.0, "date": "2026-01-03"}')
    times.record_times()
    shown = times.times_markdown()
    assert f"the {len(NAMES)} notebooks of `make course` took 7.2 minutes" in shown
    assert f"the slowest {9 + len(NAMES)} seconds (a processor, 2 cores, 2026-01-02)" in shown
    assert "`make test`, all checks, took 19.0 minutes (a processor, 2 cores, 2026-01-03)" in shown
    (here / "build" / "checks" / "times.json").unlink()
    times.record_times()
    assert times.times_markdown() == shown
