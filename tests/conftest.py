"""What every test gets: no files left in the repository, the same random numbers, no windows."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from course_lib.plumbing.processes import start_lean

os.environ["MPLBACKEND"] = "Agg"
start_lean()
os.environ.pop("COURSE_REUSE", None)  # the tests train, whatever was trained before

FIRST = (
    *(
        "test_slurm.py",
        "browser",
        "pages",
        "test_devices.py",
    ),  # they wait most of the time, others are done beside them
    *("test_cli_run.py", "test_reproduce.py", "test_site.py", "test_data_real.py", "test_train.py", "test_models.py"),
)
"""Groups that begin first, in this order: what takes long must not come last."""
LAB = {"test_course_notebooks.py", "test_explorers.py", "test_harness.py", "test_benchmark.py"}
"""Half of the browser's tests, by their seconds: the group "lab"; the others are the group "pages"."""
SLOW = set((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split())
"""Tests of more than a second and a half, measured: `python tests/all_checks.py --note-slow` writes the list."""

# A shell starts background jobs with Ctrl-C ignored and nohup with SIGHUP ignored, and children inherit
# it. The tests of stopping need processes that listen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="check all of what is else sampled for time")


def pytest_configure(config):
    """Say how many damaged files `test_bad_inputs.py` tries of each kind: the same ones every time, unless --full."""
    full = config.getoption("--full")
    settings.register_profile(
        "course", max_examples=200 if full else 20, derandomize=not full, deadline=None, database=None
    )
    settings.load_profile("course")


def pytest_collection_modifyitems(items):
    """Mark what is slow; with pytest-xdist one process takes all tests of a file, and two those of the browser.

    The tests of a GPU are taken one by one, since several share a card.
    """
    groups = {item: item.path.name for item in items}
    for item in items:
        if item.path.parent.name == "browser":
            groups[item] = "lab" if item.path.name in LAB else "pages"
    for item, group in groups.items():
        if item.path.parent.name != "gpu":
            item.add_marker(pytest.mark.xdist_group(group))
        if f"{item.path.name}::{getattr(item, 'originalname', '')}" in SLOW:
            item.add_marker(pytest.mark.slow)
    place = {group: number for number, group in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(groups[item], len(FIRST)))


@pytest.fixture
def full(request):
    """Whether everything is to be checked (`make test-full`), also what is sampled in `make test`."""
    return request.config.getoption("--full")


@pytest.fixture(scope="session", autouse=True)
def _runs_folder(tmp_path_factory):
    """Checkpoints and logs go to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(autouse=True)
def _seeds():
    """Every test starts from seed 0, alone or among the others. Torch is not imported for it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def one_thread():
    """One CPU thread: sums are added in one order, so that the same bits come out on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty folder that the course takes for its data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("COURSE_DATA", str(folder))
    return folder
