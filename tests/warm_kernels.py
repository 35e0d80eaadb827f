"""Kernels that begin with torch, torchvision and matplotlib already imported: `make test` starts sixty of them.

`serving` starts a process that has imported them and forks itself for each kernel, and yields the setting under
which Jupyter finds it: a kernel specification of the name "python3". What it starts is this file as a script: it
hands folder, environment and output over, passes signals on, and ends as the kernel ends. Where no such process
answers, or for another environment, it becomes an ordinary kernel. Linux alone.
"""

import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

PRELOADED = ("torch", "torchvision", "matplotlib.pyplot", "ipywidgets", "ipykernel.kernelapp")
"""Packages of others alone: what a notebook forgets to import of the course is missing as ever."""
SAME = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""Variables that the packages have read while they were imported."""
INLINE = "module://matplotlib_inline.backend_inline"
ENDING = 60.0
"""Seconds for the process that has imported to end."""


# -- the process that has imported


def serve(path: str) -> None:
    """Fork a kernel for each connection to the socket `path`, until stdin ends."""
    sys.path.remove(str(Path(__file__).parent))
    os.environ["MPLBACKEND"] = INLINE  # as a kernel sets it before it imports anything
    for name in PRELOADED:
        import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj is listener:
                    begin(listener, selector)
                else:
                    selector.unregister(key.fileobj)
                    end(key.fileobj, *key.data)


def begin(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    """Fork a kernel for who asks, and watch when it ends; hang up where it would be another one's environment."""
    connection, _ = listener.accept()
    streams: list[int] = []
    try:
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as sent:
            request = json.loads(sent.readline())
    except (OSError, ValueError):  # it went away
        request = None
    process = 0
    if request and all(os.environ.get(name) == request["environment"].get(name) for name in SAME):
        process = os.fork()
        if process == 0:
            try:
                selector.close()
                listener.close()
                become(request, streams, connection)
            finally:
                os._exit(70)
    for stream in streams:
        os.close(stream)
    if not process:
        connection.close()
        return
    with suppress(OSError):  # it went away: so will its kernel
        connection.sendall(b"%d\n" % process)
    selector.register(os.pidfd_open(process), selectors.EVENT_READ, (process, connection))


def end(watched: int, process: int, connection: socket.socket) -> None:
    """Tell who asked how its kernel ended."""
    os.close(watched)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        connection.sendall(b"%d\n" % code)
    connection.close()


def become(request: dict, streams: list[int], connection: socket.socket) -> None:
    """Be the kernel that was asked for; do not return."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.setdefault("MPLBACKEND", INLINE)
    os.environ["JPY_PARENT_PID"] = str(os.getppid())
    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    sys.modules["numpy"].random.seed()
    threading.Thread(target=die_with, args=(connection,), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def die_with(connection: socket.socket) -> None:
    """End this process and all that it started when the one that asked for it is gone."""
    with suppress(OSError):
        connection.recv(1)
    os.killpg(0, signal.SIGKILL)


# -- what Jupyter starts


def ask(path: str, arguments: list[str]) -> int | None:
    """Have a kernel made and wait for its end; return its exit code, or None where nobody makes one."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        return None
    request = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
    socket.send_fds(connection, [b"+"], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    answers = connection.makefile("rb")
    kernel = int(answers.readline() or 0)
    if not kernel:
        return None

    def pass_on(signum: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(kernel, signum)

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    code = int(answers.readline() or -signal.SIGKILL)
    return code if code >= 0 else 128 - code


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """Start the process that has imported; yield what the environment of a step must hold, nothing where it cannot."""
    if not hasattr(os, "pidfd_open") or not hasattr(socket, "send_fds"):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="course-kernels-") as home:
        path = str(Path(home) / "socket")
        folder = Path(home) / "kernels" / "python3"
        folder.mkdir(parents=True)
        command = [sys.executable, "-S", "-E", __file__, path, "-f", "{connection_file}"]
        about = {"argv": command, "display_name": "Python 3", "language": "python", "metadata": {"debugger": True}}
        (folder / "kernel.json").write_text(json.dumps(about), encoding="utf-8")
        log = Path(home) / "log"
        with log.open("wb") as said:
            server = subprocess.Popen(
                [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
            )
        try:
            if server.stdout.readline() != b"ready\n":
                print(f"kernels begin cold: {log.read_text(errors='replace')[-500:]}", file=sys.stderr)
                yield {}
                return
            before = os.environ.get("JUPYTER_PATH")
            yield {"JUPYTER_PATH": os.pathsep.join([home, *([before] if before else [])])}
        finally:
            server.stdin.close()
            server.wait(ENDING)
            server.stdout.close()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        code = ask(sys.argv[1], sys.argv[2:])
        if code is None:
            os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *sys.argv[2:]])
        sys.exit(code)
