"""Where things lie, whatever folder the notebook, test or command was started in."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DECODED = "COURSE_DECODED"
"""Names a folder in which processes that run side by side keep what they decode for each other (`data.cache`)."""


def folder_of(variable: str, name: str, base: Path = ROOT) -> Path:
    """Return the folder that an environment variable names, else `name` in the repository.

    "~" is the home folder; an empty value counts as none; a relative one counts from `base`.
    """
    value = os.environ.get(variable, "").strip()
    return Path(os.path.realpath(base / os.path.expanduser(value))) if value else ROOT / name


def data_root() -> Path:
    """Return the folder of the data sets: `$COURSE_DATA`, or `data/` in the repository.

    A relative `$COURSE_DATA` counts from the repository, because papermill runs a notebook in the caller's folder and
    nbval runs it in the notebook's.
    """
    return folder_of("COURSE_DATA", "data")


def results_root() -> Path:
    """Records, one JSON per run: `$COURSE_RESULTS`, or `results/` in the repository, which are committed."""
    return folder_of("COURSE_RESULTS", "results")


def runs_root() -> Path:
    """Checkpoints and logs of running trainings (ignored by git): `$COURSE_RUNS`, or `runs/` in the repository."""
    return folder_of("COURSE_RUNS", "runs", Path.cwd())


def build_root() -> Path:
    """Executed notebooks and the site (ignored by git): `$COURSE_BUILD`, or `build/` in the repository."""
    return folder_of("COURSE_BUILD", "build")
