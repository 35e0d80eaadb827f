"""`course notebooks`: the rules that committed notebooks keep, checked or restored."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.selection import NOTEBOOKS, Refusal, find_notebook, in_order, short_path

app = typer.Typer(no_args_is_help=True, help="Check, tidy, refresh, time or sweep the committed notebooks.")

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NOTEBOOK]...", help="Numbers, names or paths; none: all, with the solutions."),
]


def chosen(words: list[str] | None) -> list[Path]:
    """Return the notebooks that `words` name, all for none; end the command where one names nothing."""
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


@app.command()
def exercises(
    notebook: Annotated[str, typer.Argument(help="Number, name or path.")],
    worth: Annotated[
        list[str] | None, typer.Argument(metavar="[POINTS:MINUTES]...", help="What each is worth, in order.")
    ] = None,
) -> None:
    """Show a notebook's exercises, or write their points and minutes into it.

    \b
    course notebooks exercises 03 1:10 2:15 3:20
    """
    from course_lib.notebook_tools.exercises import exercises_of, state

    (path,) = chosen([notebook])
    try:
        pairs = [tuple(int(number) for number in pair.split(":")) for pair in worth or []]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("POINTS:MINUTES are two whole numbers, like 2:15")
        if pairs:
            state(path, pairs)
    except ValueError as error:
        typer.echo(f"course notebooks exercises: {error}", err=True)
        raise typer.Exit(2) from None
    for one in exercises_of(path):
        typer.echo(f"{one.id}: {one.points} points, {one.minutes} minutes, {', '.join(one.names)}")


@app.command()
def times(files: Files = None) -> None:
    """Write what a lecture takes, by results/times.json, before the mark <!-- times --> of its first cell."""
    from course_lib.notebook_tools.teaching import spent, write_spent

    for path in chosen(files):
        if write_spent(path):
            typer.echo(f"{short_path(path)}: {spent(path)}")


@app.command()
def sweep(
    files: Files = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of each notebook.")] = 5,
    precisions: Annotated[str, typer.Option(help="bf16, fp32 or both.")] = "bf16,fp32",
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Notebooks at once.")] = 2,
    moved: Annotated[
        bool, typer.Option("--moved", help="Keep trials of changed code: names or layout changed, no number did.")
    ] = False,
) -> None:
    """Measure how often what the notebooks expect of their trainings holds.

    Every notebook with expectations is run, up to the last one, with each seed in each precision, on one thread
    and on all by turns. Trials on file are not run again. Writes results/expectations.json after each run.
    """
    from course_lib.cli.sweep import run_sweep

    chosen_precisions = precisions.split(",")
    unknown = sorted(set(chosen_precisions) - {"bf16", "fp32"})
    if unknown:
        typer.echo(f"course notebooks sweep: no precision {unknown[0]!r}: use bf16, fp32 or bf16,fp32", err=True)
        raise typer.Exit(2)
    notebooks = [path for path in chosen(files) if path.parent.name != "solutions"]
    raise typer.Exit(run_sweep(notebooks, seeds, chosen_precisions, jobs, moved=moved))
