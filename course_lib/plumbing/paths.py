"""Where things lie, whatever folder the notebook, test or command was started in."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_root() -> Path:
    """Return the folder of the data sets: `$COURSE_DATA`, or `data/` in the repository.

    A relative `$COURSE_DATA` counts from the repository, because papermill runs a notebook in the caller's folder and
    nbval runs it in the notebook's.
    """
    return (ROOT / os.environ.get("COURSE_DATA", "data")).resolve()


def results_root() -> Path:
    """Committed records, one JSON per run."""
    return ROOT / "results"


def runs_root() -> Path:
    """Checkpoints and logs of running trainings (ignored by git)."""
    return Path(os.environ.get("COURSE_RUNS", ROOT / "runs")).resolve()


def build_root() -> Path:
    """Executed notebooks and the site (ignored by git)."""
    return ROOT / "build"
