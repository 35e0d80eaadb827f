"""`course report`: the scoreboard, the paper's numbers beside ours, and the claims with their verdicts."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from course_lib.cli.selection import Refusal, check_profile, short_path

if TYPE_CHECKING:
    from course_lib.experiments.report.scoreboard import Results

COLOURS = {
    "seen here": "green",
    "within 1 point": "green",
    "opposite here": "red",
    "untrusted": "red",
    "stale": "yellow",
    "not run": "bright_black",
}


class Format(StrEnum):
    """How the scoreboard is written to the standard output."""

    terminal = "terminal"
    markdown = "markdown"


def report(
    table: Annotated[str | None, typer.Option("--table", "-t", help="Only this table.")] = None,
    profile: Annotated[str | None, typer.Option(help="laptop or gpu; by default what there is.")] = None,
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.terminal,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, as Markdown.", dir_okay=False)] = None,
) -> None:
    """Show every reproduced table: the paper's number, ours, how ours was made, and a verdict.

    \b
    course report                                    all tables
    course report --table fcn_skips --profile laptop
    course report --out build/scoreboard.md
    """
    from course_lib.experiments.report import markdown
    from course_lib.experiments.report.scoreboard import chosen_results

    try:
        if profile is not None:
            check_profile(profile)
        text = markdown.scoreboard_markdown(table, profile)
    except (Refusal, ValueError) as refusal:
        typer.echo(f"course report: {refusal}", err=True)
        raise typer.Exit(2) from None
    if out is not None:
        from course_lib.plumbing.files import write_text

        write_text(out, f"# Scoreboard\n\n{markdown.HOW_TO_READ}\n\n{text}\n")
        typer.echo(f"written to {short_path(out.resolve())}")
    elif format is Format.markdown:
        typer.echo(text)
    else:
        for results in chosen_results(table):
            show(results, profile)


def show(results: "Results", profile: str | None) -> None:
    """Print one table, its claims, and what was not counted."""
    from course_lib.experiments.report import markdown
    from course_lib.experiments.report.claims import judgements
    from course_lib.experiments.report.scoreboard import score_rows

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(f"\n[bold]{results.table.title}[/bold]")
    for sentence in markdown.about_table(results.table):
        console.print(sentence, markup=False)
    rows = Grid(*markdown.SCORE_HEADS, box=None, pad_edge=False)
    for line in score_rows(results, profile):
        rows.add_row(*coloured(markdown.score_cells(line)))
    console.print(rows)
    judged = judgements(results.table.name, profile)
    if judged:
        claims = Grid(*markdown.CLAIM_HEADS, box=None, pad_edge=False)
        for judgement in judged:
            claims.add_row(*coloured(markdown.claim_cells(judgement)))
        console.print()
        console.print(claims)
    for texts in results.troubles.values():
        for text in texts:
            console.print(f"not counted: {text}", markup=False, soft_wrap=True)


def coloured(cells: list[str]) -> list[str]:
    """Return the texts with the markup of those that are verdicts with a colour."""
    colours = [COLOURS.get(cell) for cell in cells]
    return [f"[{colour}]{cell}[/{colour}]" if colour else cell for cell, colour in zip(cells, colours, strict=True)]
