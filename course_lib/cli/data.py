"""`course data`: what data sets there are, and getting and checking them."""

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
    console.print(f"\nThey lie in {data_root()} (set COURSE_DATA for another folder).", soft_wrap=True)
    others = ", ".join(name for name in SCRIPTS if name not in DATASETS)
    console.print(f"Get one: course data get NAME (there are also {others})", soft_wrap=True)


@app.command()
def get(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licence without a question.")] = False
) -> None:
    """Download a data set, unpack it and check it.

    \b
    course data get camvid
    """
    import data_scripts
    from course_lib.data.sample import DataError
    from course_lib.plumbing.paths import data_root

    try:
        data_scripts.get(name, data_root(), yes=yes)
    except DataError as error:
        typer.echo(f"course data get: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def check(name: Name) -> None:
    """Open every file of a data set and name what is wrong; exit code 1 if anything is."""
    from course_lib.data.registry import check_dataset, dataset_info
    from course_lib.data.sample import DataError
    from course_lib.plumbing.paths import data_root

    try:
        info = dataset_info(name)
        problems = check_dataset(name, data_root(), progress=Console(stderr=True).is_terminal)
    except DataError as error:
        typer.echo(f"course data check: {error}", err=True)
        raise typer.Exit(2) from None
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{info.title}: {len(problems)} problems" if problems else f"{info.title}: good")
    if problems:
        if info.get:
            typer.echo(f"get it again: {info.get}")
        raise typer.Exit(1)
