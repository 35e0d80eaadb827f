"""Kernels of a process that has imported torch already: they start, stop, and die as any other."""

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from tests.warm_kernels import serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")


@pytest.fixture(scope="module")
def environment():
    """The setting under which Jupyter finds the kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # tests draw without a screen, notebooks into themselves
        with serving() as found:
            assert found
            yield found


@pytest.fixture
def kernel(environment, tmp_path, monkeypatch):
    """A running kernel: its manager, and a function that returns what a cell prints."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=str(tmp_path / "k.json"))
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)

    def printed(code: str) -> str:
        texts: list[str] = []
        answer = client.execute_interactive(code, timeout=60, output_hook=lambda one: texts.append(text_of(one)))
        return answer["content"].get("ename") or "".join(texts).strip()

    yield manager, client, printed
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def text_of(message: dict) -> str:
    return message["content"].get("text", "") if message["msg_type"] == "stream" else ""


def ended(process: psutil.Process) -> bool:
    """Return whether a process ends within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_has_the_packages_the_folder_and_the_figures_of_a_kernel(kernel, tmp_path):
    _, _, printed = kernel
    assert printed("import sys; print('torch' in sys.modules, 'course_lib' in sys.modules)") == "True False"
    assert printed("import os; print(os.getcwd())") == str(tmp_path)
    backend = printed("import matplotlib.pyplot as plt; plt.figure(); print(plt.get_backend()); plt.close()")
    assert backend.splitlines()[-1] in ("inline", "module://matplotlib_inline.backend_inline")
    assert printed(f"print({os.path.dirname(__file__)!r} in sys.path)") == "False"


def test_an_interrupt_reaches_its_cell(kernel):
    manager, client, printed = kernel
    printed("import time")
    request = client.execute("for _ in range(600): time.sleep(0.1)")
    time.sleep(0.5)
    manager.interrupt_kernel()
    answer = client.get_shell_msg(timeout=20)
    assert answer["parent_header"]["msg_id"] == request
    assert answer["content"]["ename"] == "KeyboardInterrupt"


def test_it_dies_with_the_process_that_jupyter_started(kernel):
    manager, _, printed = kernel
    inside = psutil.Process(int(printed("import os; print(os.getpid())")))
    below = psutil.Process(int(printed("import subprocess; print(subprocess.Popen(['sleep', '600']).pid)")))
    assert inside.pid != manager.provisioner.pid
    os.kill(manager.provisioner.pid, 9)
    assert ended(inside)
    assert ended(below)


def test_its_death_is_seen(kernel):
    manager, _, printed = kernel
    inside = int(printed("import os; print(os.getpid())"))
    os.kill(inside, 9)
    assert ended(psutil.Process(manager.provisioner.pid))
    assert not manager.is_alive()


def test_one_who_asks_and_goes_away_ends_nothing(environment, request):
    for sent in (b"", b"+", b"+{"):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(Path(environment["JUPYTER_PATH"].split(os.pathsep)[0]) / "socket"))
            one.sendall(sent)
    _, _, printed = request.getfixturevalue("kernel")
    assert printed("import sys; print('torch' in sys.modules)") == "True"


@pytest.mark.parametrize("change", [{"OMP_NUM_THREADS": "7"}, {"PYTHONPATH": "elsewhere"}])
def test_for_another_environment_it_begins_from_nothing(environment, monkeypatch, tmp_path, change):
    for name, value in {**environment, **change}.items():
        monkeypatch.setenv(name, value)
    manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=str(tmp_path / "k.json"))
    manager.start_kernel()
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(60)
        texts: list[str] = []
        code = "import os, sys; print('torch' in sys.modules, os.getpid())"
        client.execute_interactive(code, timeout=60, output_hook=lambda one: texts.append(text_of(one)))
        assert "".join(texts).split() == ["False", str(manager.provisioner.pid)]
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
