"""What Linux and macOS do in one way and Windows in another."""

import os
import sys

import psutil

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None

LOCKED_BYTE = 1 << 30
"""Where Windows locks a file: behind all that is written, so that others can read it."""


def try_lock(handle: int) -> bool:
    """Lock an open file for this process alone, until `unlock` or its end; return False where another has it."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(handle: int) -> None:
    """Give up the lock of `try_lock`."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
    elif msvcrt is not None:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has used."""
    if resource is None:
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
