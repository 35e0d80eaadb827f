"""`course notebooks`: the rules that committed notebooks keep, checked or restored."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.selection import NOTEBOOKS, Refusal, find_notebook, in_order, short_path

app = typer.Typer(no_args_is_help=True, help="Check, tidy or refresh the committed notebooks.")

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NOTEBOOK]...", help="Numbers, names or paths; none: all, with the solutions."),
]


def chosen(words: list[str] | None) -> list[Path]:
    try:
        found = [find_notebook(word, NOTEBOOKS) for word in words or []]
    except Refusal as refusal:
        typer.echo(f"course notebooks: {refusal}", err=True)
        raise typer.Exit(2) from None
    return found or [*in_order(NOTEBOOKS), *in_order(NOTEBOOKS / "solutions")]


@app.command()
def check(files: Files = None) -> None:
    """Say what breaks the rules for committed notebooks; exit code 1 if anything does."""
    from course_lib.notebook_tools.rules import check_all

    notebooks = chosen(files)
    problems = check_all(notebooks)
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{len(notebooks)} notebooks, {len(problems)} problems")
    if problems:
        typer.echo("course notebooks tidy  mends what needs no thought")
        raise typer.Exit(1)


@app.command()
def tidy(files: Files = None) -> None:
    """Remove outputs and metadata that do not belong in git."""
    from course_lib.notebook_tools import stored_form

    notebooks = chosen(files)
    changed = [path for path in notebooks if stored_form.tidy(path)]
    for path in changed:
        typer.echo(f"tidied {short_path(path)}")
    typer.echo(f"{len(notebooks)} notebooks, {len(changed)} changed")


@app.command()
def refresh(files: Files = None) -> None:
    """Run notebooks and store what their tagged cells print."""
    from course_lib.notebook_tools import stored_form

    for path in chosen(files):
        typer.echo(f"{short_path(path)}: {'refreshed' if stored_form.refresh(path) else 'as it was'}")
