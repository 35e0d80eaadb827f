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

from course_lib.cli.selection import (
    NOTEBOOKS,
    Refusal,
    check_profile,
    in_order,
    parameters_of,
    refuse_unwritable,
    short_path,
)
from course_lib.cli.stamps import is_current, made_from
from course_lib.plumbing.paths import ROOT, build_root

SOURCE = ROOT / "docs"


def load_prepare(path: Path) -> ModuleType:
    """Return `docs/prepare.py` as a module."""
    spec = importlib.util.spec_from_file_location("course_site_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_run(executed: Path, profile: str) -> dict[str, list[str]]:
    """Return the notebooks that failed, that have no executed copy, and whose copy is out of date."""
    found = {"failed": [], "not executed": [], "out of date": []}
    for notebook in in_order(NOTEBOOKS):
        output = executed / notebook.name
        if output.with_suffix(".failed.ipynb").exists():
            found["failed"].append(notebook.stem)
        elif not output.exists():
            found["not executed"].append(notebook.stem)
        elif not is_current(output, made_from(notebook, parameters_of(notebook, profile, {}))):
            found["out of date"].append(notebook.stem)
    return found


def written(path: Path) -> float:
    """Return when a file was written; one that is not there comes before all others."""
    return path.stat().st_mtime if path.exists() else -1.0


def materials_of(build: Path, address: str | None = None) -> tuple[dict[str, Path], dict[str, dict[str, str]]]:
    """Return {place on the site: file} of slides and assignments, and each notebook's links, launch buttons included."""
    from course_lib.notebook_tools.launch import launch_links, repository

    taken, links = {}, {}
    address = repository() if address is None else address
    for notebook in in_order(NOTEBOOKS):
        name, shown = notebook.stem, {}
        assigned = [*build.glob(f"*/student/{name}.ipynb"), build / "none"]
        for words, place, file in (
            ("Slides", f"slides/{name}.html", build / "slides" / f"{name}.html"),
            ("Assignment", f"assignment/{name}.ipynb", max(assigned, key=written)),
        ):
            if file.exists():
                taken[place], shown[words] = file, f"../{place}"
        shown |= {
            f"Open in {where}": link for where, link in launch_links(address, f"notebooks/{notebook.name}").items()
        }
        links[name] = shown
    return taken, links


def restore_downloads(target: Path, course: Path) -> None:
    """Replace the notebooks that pages offer for download by the course's own, without outputs and pieces of pages."""
    folder = target / "_sources" / "notebooks"
    for offered in folder.rglob("*.ipynb"):
        shutil.copyfile(course / offered.relative_to(folder), offered)


def rerun_command(names: list[str], profile: str) -> str:
    """Return the command that runs these notebooks again."""
    numbers = " ".join(name[:2] for name in names)
    return f"course run {numbers}" + (f" --profile {profile}" if profile != "quick" else "")


def site(
    profile: Annotated[str, typer.Option(help="Whose executed notebooks: quick, laptop or gpu.")] = "quick",
    executed: Annotated[
        Path | None, typer.Option(help="Folder of the executed notebooks; build/executed/PROFILE by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the site is built; build/site by default.")] = None,
    audience: Annotated[
        str, typer.Option("--for", help="students: without solutions; instructors: with all; else those that were run.")
    ] = "",
) -> None:
    """Build the site from the executed notebooks: build/site/index.html.

    Slides in build/slides and the students' notebooks of assignments in build are taken along.

    \b
    course run && course site
    course site --for students
    """
    try:
        if audience not in ("", "students", "instructors"):
            raise Refusal(f"--for is students or instructors, not {audience!r}")
        check_profile(profile)
        target = out or build_root() / "site"
        refuse_unwritable(target, "name another folder with --out, or in COURSE_BUILD")
        if target.exists() and any(target.iterdir()) and not (target / ".buildinfo").exists():
            raise Refusal(f"{target} holds other files, and no site: name a new folder")
    except Refusal as refusal:
        typer.echo(f"course site: {refusal}", err=True)
        raise typer.Exit(2) from None
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_nb") is None:
        typer.echo("course site: Sphinx is missing; type: make course", err=True)
        raise typer.Exit(1)
    executed = executed or build_root() / "executed" / profile
    for what, names in to_run(executed, profile).items():
        if names:
            typer.echo(f"{what}: {', '.join(names)}")
            typer.echo(f"  type: {rerun_command(names, profile)}")
    taken, materials = materials_of(build_root())
    prepare = load_prepare(SOURCE / "prepare.py").prepare
    prepare(executed, SOURCE / "notebooks", NOTEBOOKS, profile, audience, materials)
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as doctrees:  # nobody reads them, and they are large
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", doctrees]
        ended = subprocess.run([*command, str(SOURCE), str(target)], cwd=ROOT, check=False)
    if ended.returncode:
        typer.echo("course site: Sphinx found the problems above", err=True)
        raise typer.Exit(1)
    for place, file in taken.items():
        (target / place).parent.mkdir(exist_ok=True)
        shutil.copy(file, target / place)
    restore_downloads(target, NOTEBOOKS)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    typer.echo(f"built {short_path(target / 'index.html')}: {size / 1e6:.0f} MB")
