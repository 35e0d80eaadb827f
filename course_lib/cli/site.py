"""`course site`: the executed notebooks and the scoreboard as web pages."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from course_lib.cli.selection import NOTEBOOKS, Refusal, check_profile, in_order, parameters_of, short_path
from course_lib.cli.stamps import is_current, made_from
from course_lib.plumbing.paths import ROOT, build_root

SOURCE = ROOT / "docs"


def load_prepare(path: Path) -> ModuleType:
    """`docs/prepare.py` as a module."""
    spec = importlib.util.spec_from_file_location("course_site_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def not_shown(executed: Path, profile: str) -> tuple[list[str], list[str]]:
    """Numbers of the notebooks without an executed copy, and of those whose copy is out of date."""
    missing, old = [], []
    for notebook in in_order(NOTEBOOKS):
        output = executed / notebook.name
        if not output.exists():
            missing.append(notebook.stem)
        elif not is_current(output, made_from(notebook, parameters_of(notebook, profile, {}))):
            old.append(notebook.stem)
    return missing, old


def copy_complete(executed: Path, clean: Path) -> None:
    """Copy the executed notebooks without those that failed (`NN_name.failed.ipynb`) or are unfinished."""
    for notebook in executed.rglob("[0-9][0-9]_*.ipynb"):
        if "." not in notebook.stem:
            target = clean / notebook.relative_to(executed)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(notebook, target)


def rerun_command(names: list[str], profile: str) -> str:
    numbers = " ".join(name[:2] for name in names)
    return f"course run {numbers}" + (f" --profile {profile}" if profile != "quick" else "")


def site(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks: quick, laptop or gpu.")] = "quick",
    executed: Annotated[
        Path | None, typer.Option(help="Folder of the executed notebooks; build/executed/PROFILE by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the site is built; build/site by default.")] = None,
) -> None:
    """Build the site from the executed notebooks: build/site/index.html.

    \b
    course run && course site
    """
    try:
        check_profile(profile)
    except Refusal as refusal:
        typer.echo(f"course site: {refusal}", err=True)
        raise typer.Exit(2) from None
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_nb") is None:
        typer.echo("course site: Sphinx is missing; type: make course", err=True)
        raise typer.Exit(1)
    executed = executed or build_root() / "executed" / profile
    target = out or build_root() / "site"
    missing, old = not_shown(executed, profile)
    for names, what in ((missing, "not executed"), (old, "out of date")):
        if names:
            typer.echo(f"{what}: {', '.join(names)}")
            typer.echo(f"  type: {rerun_command(names, profile)}")
    with tempfile.TemporaryDirectory() as clean:
        copy_complete(executed, Path(clean))
        load_prepare(SOURCE / "prepare.py").prepare(Path(clean), SOURCE / "notebooks")
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    ended = subprocess.run([*command, str(SOURCE), str(target)], cwd=ROOT, check=False)
    if ended.returncode:
        typer.echo("course site: Sphinx found the problems above", err=True)
        raise typer.Exit(1)
    typer.echo(f"built {short_path(target / 'index.html')}")
