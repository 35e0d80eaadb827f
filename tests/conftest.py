"""What every test gets: no files left in the repository, the same random numbers, no windows."""

import os
import random
import signal
import sys

import pytest

os.environ["MPLBACKEND"] = "Agg"

# A shell starts background jobs with Ctrl-C ignored and nohup with SIGHUP ignored, and children inherit
# it. The tests of stopping need processes that listen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
