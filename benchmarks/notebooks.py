"""The slowest notebook of the last `course run` at the quick profile, where there was one."""

import json

from benchmarks.measure import Result
from course_lib.plumbing.paths import build_root


def measure() -> list[Result]:
    """Read from the run's own summary; nothing is run here."""
    path = build_root() / "executed" / "quick" / "summary.json"
    if not path.exists():
        return []
    summary = json.loads(path.read_text(encoding="utf-8"))
    seconds = {entry["name"]: entry["seconds"] for entry in summary["notebooks"]}
    if not seconds:
        return []
    slowest = max(seconds, key=seconds.get)
    name = f"slowest quick notebook ({slowest})"
    return [Result(name, seconds[slowest], "s", 60, seconds, True)]
