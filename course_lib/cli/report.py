"""`course report`: the scoreboard, the paper's numbers beside ours, and the claims with their verdicts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from course_lib.cli.selection import Refusal, check_profile, short_path

COLOURS = {
    "holds": "green",
    "agrees": "green",
    "contradicted": "red",
    "untrusted": "red",
    "stale": "yellow",
    "not run": "bright_black",
}


class Format(StrEnum):
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
    from course_lib.experiments import report as reports
    from course_lib.experiments.check import check_table
    from course_lib.experiments.report import HOW_TO_READ
    from course_lib.experiments.table_files import table_names

    try:
        if profile is not None:
            check_profile(profile)
        names = [table] if table else table_names()
        problems = [problem for name in names for problem in check_table(name)]
        if problems:
            raise Refusal("\n  ".join(problems))
        text = reports.scoreboard_markdown(table, profile)
    except (Refusal, ValueError) as refusal:
        typer.echo(f"course report: {refusal}", err=True)
        raise typer.Exit(2) from None
    if out is not None:
        from course_lib.plumbing.files import write_text

        write_text(out, f"# Scoreboard\n\n{HOW_TO_READ}\n\n{text}\n")
        typer.echo(f"written to {short_path(out.resolve())}")
    elif format is Format.markdown:
        typer.echo(text)
    else:
        for name in [table] if table else reports.scored_tables():
            show(name, profile)


def show(name: str, profile: str | None) -> None:
    """One table in the terminal."""
    from course_lib.experiments import report as reports

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    results = reports.read_results(name)
    console.print(f"\n[bold]{reports.read_table(name)['title']}[/bold]")
    for sentence in reports.about_table(name):
        console.print(sentence, markup=False)
    rows = Table(*reports.SCORE_HEADS, box=None, pad_edge=False)
    for line in reports.scoreboard(name, profile):
        rows.add_row(*coloured(reports.score_cells(line)))
    console.print(rows)
    judged = reports.judgements(name, profile)
    if judged:
        claims = Table("claim", "rows", "difference", "s.e.", "seeds", "profile", "verdict", box=None, pad_edge=False)
        for chosen, judgement in judged:
            claims.add_row(*coloured(reports.claim_cells(chosen, judgement)))
        console.print()
        console.print(claims)
    for texts in results.troubles.values():
        for text in texts:
            console.print(f"not counted: {text}", markup=False, soft_wrap=True)


def coloured(cells: list[str]) -> list[str]:
    colours = [COLOURS.get(cell) for cell in cells]
    return [f"[{colour}]{cell}[/{colour}]" if colour else cell for cell, colour in zip(cells, colours, strict=True)]
