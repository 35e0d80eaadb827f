"""The stamp beside an executed notebook: what it was made from, which `--resume` compares.

A stamp is written after its notebook has run well, and only then; it is deleted when the next run of
that notebook starts.
"""

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT

LIBRARY = ROOT / "course_lib"


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def library_hash(library: Path = LIBRARY) -> str:
    """Return one hash of the names and contents of all that a notebook can import or load from `course_lib`.

    The command line is left out: no notebook uses it.
    """
    digest = hashlib.sha256()
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.suffix in {".py", ".toml", ".json", ".safetensors"} and inside.parts[0] != "cli":
            digest.update(f"{inside.as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what the outputs depend on, read without importing any of it."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "matplotlib"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def made_from(notebook: Path, parameters: dict[str, object]) -> dict[str, object]:
    """Return everything whose change makes an executed copy of `notebook` out of date."""
    return {"notebook": sha256(notebook), "parameters": parameters, "library": library_hash(), "versions": versions()}


def stamp_path(output: Path) -> Path:
    """Return where the stamp of an executed copy is."""
    return output.with_suffix(".stamp.json")


def write_stamp(output: Path, origin: dict[str, object], finished: str, seconds: float) -> None:
    """Write the stamp of `output`, made from `origin`, with when it was finished and how long it took."""
    stamp = {"made_from": origin, "output": sha256(output), "finished": finished, "seconds": round(seconds, 1)}
    write_text(stamp_path(output), json.dumps(stamp, indent=2) + "\n")


def read_stamp(output: Path) -> dict[str, object] | None:
    """Return the stamp of `output`, or None where there is none or the executed copy is not the stamped one."""
    try:
        stamp = json.loads(stamp_path(output).read_text(encoding="utf-8"))
        return stamp if stamp["output"] == sha256(output) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_current(output: Path, origin: dict[str, object]) -> bool:
    """Return whether `output` is complete and was made from exactly `origin`."""
    stamp = read_stamp(output)
    return stamp is not None and stamp.get("made_from") == json.loads(json.dumps(origin))
