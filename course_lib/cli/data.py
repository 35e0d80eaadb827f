"""`course data`: what data sets there are, and getting and checking them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="List, get and check data sets.")

Name = Annotated[str, typer.Argument(help="A name from `course data list`.")]


@app.command("list")
def list_sets() -> None:
    """Show every data set: whether it is here, its size and its licence."""
    from course_lib.data.registry import DATASETS
    from course_lib.plumbing.paths import data_root
    from data_scripts import SCRIPTS

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("here", no_wrap=True)
    for column in ("what", "size on disk", "licence"):
        table.add_column(column, overflow="fold")
    for name, info in DATASETS.items():
        here = "[green]yes" if info.present(data_root()) else "no"
        table.add_row(name, here, f"{info.title}: {info.what}", info.size_on_disk, info.licence)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nThey lie in {data_root()} (set COURSE_DATA for another folder).", markup=False, soft_wrap=True)
    others = ", ".join(name for name in SCRIPTS if name not in DATASETS)
    console.print(f"Get one: course data get NAME (there are also {others})", soft_wrap=True)


@app.command()
def get(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licence without a question.")] = False,
    mirror: Annotated[
        str, typer.Option(metavar="URL", help="A folder of the same files, which is asked first; or COURSE_MIRROR.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archive in downloads, for a mirror.")] = False,
) -> None:
    """Download a data set, unpack it and check it.

    \b
    course data get camvid
    course data get camvid --mirror http://10.0.0.5:8000
    """
    import os

    import data_scripts
    from course_lib.data.sample import DataError
    from course_lib.plumbing.paths import data_root

    if mirror:
        os.environ["COURSE_MIRROR"] = mirror
    if keep:
        os.environ["COURSE_KEEP"] = "1"
    try:
        data_scripts.get(name, data_root(), yes=yes)
    except DataError as error:
        typer.echo(f"course data get: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def check(name: Name) -> None:
    """Open every file of a data set: name what is wrong, and say what each split holds; exit code 1 if anything is wrong."""
    from course_lib.data.registry import check_dataset, dataset_info
    from course_lib.data.sample import DataError
    from course_lib.plumbing.paths import data_root
    from data_scripts import SCRIPTS

    try:
        info = dataset_info(name)
        problems = check_dataset(name, data_root(), progress=Console(stderr=True).is_terminal, say=typer.echo)
    except DataError as error:
        typer.echo(f"course data check: {error}", err=True)
        raise typer.Exit(2) from None
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{info.title}: {len(problems)} problems" if problems else f"{info.title}: good")
    if problems:
        if info.get.rpartition(" ")[2] in SCRIPTS and info.get not in problems[0]:
            typer.echo(f"move what is broken away; then this brings it again: {info.get}")
        raise typer.Exit(1)


@app.command()
def convert(
    name: Name, folder: Annotated[Path, typer.Argument(help="A new folder, outside the set.", metavar="FOLDER")]
) -> None:
    """Write masks of colours as masks of numbers into another folder; nothing in the set changes.

    \b
    course data convert camvid masks
    """
    from course_lib.data.registry import convert_masks
    from course_lib.data.sample import DataError
    from course_lib.plumbing.paths import data_root

    try:
        count = convert_masks(name, folder, data_root())
    except (DataError, OSError) as error:
        typer.echo(f"course data convert: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{count} masks are in {folder}")
