"""`course lab`: JupyterLab, opened on the first notebook."""

import os
import sys

import typer

from course_lib.cli.run import kernel_environment
from course_lib.plumbing.paths import ROOT

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def lab_command(extra: list[str]) -> list[str]:
    """Return the command line of JupyterLab; what the user adds comes last and so wins."""
    first = "notebooks/00_start_here.ipynb"
    start = first if (ROOT / first).exists() else "notebooks"
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={ROOT}",
        "--ServerApp.ip=127.0.0.1",  # whatever a configuration of Jupyter says; options that follow win
        f"--LabApp.default_url=/lab/tree/{start}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        *extra,
    ]


def lab(context: typer.Context) -> None:
    """Open the course in JupyterLab.

    Further options go to JupyterLab as they are.

    \b
    course lab
    course lab --no-browser --port 8890
    """
    command = lab_command(context.args)
    os.execve(command[0], command, kernel_environment())
