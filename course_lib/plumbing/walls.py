"""A command behind walls, on Linux: it sees no network, no process but its own, and of the disk only what it is shown.

The walls are the kernel's namespaces, set up by util-linux (`unshare`, `setpriv`), as an ordinary user where the system
lets one. Behind them a new root holds the system's programs and the shown folders, all read-only; one folder is
writable, in memory and of limited size; `shared` folders are writable and lie on the disk. The command has no
privileges that could take them down.
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix", "/sys/devices/system/cpu")
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "passwd",
    "group",
    "nsswitch.conf",
    "localtime",
    "fonts",
    "alternatives",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SBIN = os.pathsep.join(os.path.join(top, "sbin") for top in ("/usr", "/"))
UNSHARE = ("--user", "--map-root-user", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount")
DROP = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")


@dataclass(frozen=True)
class Limits:
    """What a process may take: `memory` and `disk` in MB, `seconds` of one core."""

    memory: int = 4096
    disk: int = 256
    seconds: int = 600


def walled(
    command: Sequence[str], *, work: Path, shared: Sequence[Path], shown: Sequence[Path], limits: Limits
) -> list[str]:
    """Return the command that runs `command` behind walls.

    Args:
        command: What is run, with `work` as its working folder.
        work: A folder's path: there it has an empty one in memory of its own.
        shared: Folders where it may write and others read.
        shown: Files and folders that it may read, besides the system's programs.
        limits: What it may take.
    """
    root = '"$root"'
    lines = [
        "set -e",
        f'PATH="$PATH:{SBIN}"',
        f"root={shlex.quote(str(shared[0]))}/.root",
        f"mkdir -p {root}",
        f"mount -t tmpfs -o size=16m none {root}",
        *(_show(Path(path), root) for path in (*SYSTEM, *(f"/etc/{name}" for name in ETC))),
        *(_show(path, root) for path in _outermost(shown)),
        f"mkdir -p {root}/proc {root}/dev {root}/tmp {root}/old",
        f"mount -t proc none {root}/proc 2>/dev/null || mount --rbind /proc {root}/proc",
        *(f"touch {root}/dev/{name}; mount --bind /dev/{name} {root}/dev/{name}" for name in DEVICES),
        f"mkdir {root}/dev/shm; mount -t tmpfs -o size={limits.disk}m none {root}/dev/shm",
        f"mount -t tmpfs -o size={limits.disk}m none {root}/tmp",
        *(_bind(path, root, "") for path in shared),
        f"mkdir -p {root}{shlex.quote(str(work))}",
        f"mount -t tmpfs -o size={limits.disk}m none {root}{shlex.quote(str(work))}",
        f"cd {root}",
        "pivot_root . old",
        "cd /",
        "umount -l /old",
        "mount -o remount,bind,ro /",
        f"cd {shlex.quote(str(work))}",
        _limit(limits),
        f"exec {shlex.join([*DROP, *command])}",
    ]
    return ["unshare", *UNSHARE, "sh", "-c", "\n".join(lines)]


def limited(command: Sequence[str], limits: Limits) -> list[str]:
    """Return the command that runs `command` without walls, with the limits that a shell can set."""
    return ["sh", "-c", f"{_limit(limits)}\nexec {shlex.join(command)}"]


@functools.cache
def why_open() -> str:
    """Return why this machine cannot put a command behind walls; empty where it can, which is tried."""
    if sys.platform != "linux":
        return "only Linux has the walls that keep a program from the network and from your files"
    missing = [
        name
        for name in ("unshare", "setpriv", "mount", "pivot_root")
        if shutil.which(name, path=f"{os.defpath}:{SBIN}") is None
    ]
    if missing:
        return f"util-linux is not complete here: {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        shared = Path(folder) / "s"
        shared.mkdir()
        command = walled(["true"], work=Path("/work"), shared=[shared], shown=[], limits=Limits())
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        first = (ended.stderr.strip().splitlines() or ["no reason given"])[0]
        return f"the system does not let this user make the walls ({first})"
    return ""


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Leave out what lies in another of the paths or in the system's folders."""
    kept: list[Path] = []
    for path in sorted({Path(os.path.abspath(path)) for path in paths}):
        inside = any(path.is_relative_to(one) for one in (*kept, *map(Path, SYSTEM)))
        if path.exists() and not inside:
            kept.append(path)
    return kept


def _show(path: Path, root: str) -> str:
    """Show a file or folder read-only; a link stays a link."""
    quoted = shlex.quote(str(path))
    if path.is_symlink():
        return f"mkdir -p {root}{shlex.quote(str(path.parent))}; cp -P {quoted} {root}{quoted}"
    if not path.exists():
        return ":"
    return _bind(path, root, "ro")


def _bind(path: Path, root: str, mode: str) -> str:
    quoted = shlex.quote(str(path))
    make = f"mkdir -p {root}{quoted}"
    if path.is_file():
        make = f"mkdir -p {root}{shlex.quote(str(path.parent))}; touch {root}{quoted}"
    bound = f"{make}; mount --rbind {quoted} {root}{quoted}"
    return f"{bound}; mount -o remount,bind,ro {root}{quoted}" if mode == "ro" else bound


def _limit(limits: Limits) -> str:
    """What a shell can limit: memory of its own data, length of a file, seconds of a core."""
    return "\n".join(
        [
            f"ulimit -d {limits.memory * 1024} 2>/dev/null || :",
            f"ulimit -f {limits.disk * 2048} 2>/dev/null || :",
            f"ulimit -t {limits.seconds} 2>/dev/null || :",
            "ulimit -c 0 2>/dev/null || :",
            "unset JPY_PARENT_PID  # a kernel looks for its parent, which it cannot see from in there",
        ]
    )
