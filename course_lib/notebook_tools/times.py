"""How long the commands of the README take: measured when they run, kept in `results/times.json`."""

import json
from pathlib import Path

from course_lib.plumbing import machine
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT, build_root, results_root

NOTHING = "Nobody has recorded yet how long it takes: `make course`, `make test`, then `make readme`."


def times_path() -> Path:
    """Return where the times are kept."""
    return results_root() / "times.json"


def read_times() -> dict[str, dict]:
    """Return the recorded times, by command; empty where there are none."""
    return json.loads(times_path().read_text(encoding="utf-8")) if times_path().exists() else {}


def record_times() -> None:
    """Keep what the last `make course` and `make test` here measured, if they were whole and nothing failed."""
    times, here = read_times(), machine.describe()
    about = {"cpu": here["cpu"], "cores": here["cores"]}
    course, test = build_root() / "executed" / "quick" / "summary.json", build_root() / "checks" / "times.json"
    if course.exists():
        summary = json.loads(course.read_text(encoding="utf-8"))
        ran = {one["name"]: one["seconds"] for one in summary["notebooks"] if one["status"] == "ok"}
        if ran.keys() == {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}:
            whole = {"seconds": summary["seconds"], "date": summary["started"][:10], "notebooks": ran}
            times["make course"] = about | whole
    if test.exists():
        times["make test"] = about | json.loads(test.read_text(encoding="utf-8"))
    if times:
        write_text(times_path(), json.dumps(times, indent=1, sort_keys=True) + "\n")


def times_markdown() -> str:
    """Return the sentences of the README on what its first commands take."""
    times = read_times()
    if not times:
        return NOTHING
    lines = []
    if course := times.get("make course"):
        slowest = max(course["notebooks"].values())
        lines.append(
            f"After set-up, the {len(course['notebooks'])} notebooks of `make course` took "
            f"{course['seconds'] / 60:.1f} minutes, the slowest {slowest:.0f} seconds ({_where(course)})."
        )
    if test := times.get("make test"):
        lines.append(f"`make test`, all checks, took {test['seconds'] / 60:.1f} minutes ({_where(test)}).")
    return "\n".join(lines)


def _where(times: dict) -> str:
    return f"{times['cpu']}, {times['cores']} cores, {times['date']}"
