"""One process at a time on a run."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from course_lib.plumbing.system import try_lock, unlock


class Busy(Exception):
    """Another process is at this run. The message says which."""


@contextmanager
def only_one(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for the block.

    The operating system lets go of the lock when its holder ends, by whatever death: there is nothing to clean up and
    no stale lock. The file stays; it names the last holder.

    Args:
        patience: Seconds to wait for another holder before Busy is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not try_lock(handle):
            if time.monotonic() >= deadline:
                os.lseek(handle, 0, os.SEEK_SET)
                holder = os.read(handle, 200).decode(errors="replace").strip()
                raise Busy(f"{holder or 'another process'} is at this run")
            time.sleep(0.2)
        with suppress(OSError):  # a full disk: the name is a courtesy, the lock holds without it
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
        try:
            yield
        finally:
            unlock(handle)  # also where a forked process still has the file open
    finally:
        os.close(handle)
