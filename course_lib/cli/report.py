"""`course report`: which claims of the papers are seen here, on what evidence."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from course_lib.cli.selection import Refusal, check_profile, short_path

if TYPE_CHECKING:
    from course_lib.experiments.report.claims import Judgement
    from course_lib.experiments.report.scoreboard import Results

COLOURS = {
    "seen here": "green",
    "opposite here": "red",
    "leans": "cyan",
    "leans, opposite": "cyan",
    "this recipe cannot tell": "yellow",
}
COLUMNS = 100
"""Of the output where it goes to no terminal."""


def report(
    table: Annotated[str | None, typer.Option("--table", "-t", help="Only this table, with its rows.")] = None,
    profile: Annotated[str | None, typer.Option(help="laptop or gpu; by default what there is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every claim with its evidence, for machines.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, as Markdown.", dir_okay=False)] = None,
) -> None:
    """Show the claims of the papers: the verdict, the paper's step beside ours, and what differs.

    \b
    course report                                    all papers
    course report --table fcn_skips --profile laptop
    course report --json
    course report --out build/scoreboard.md
    """
    from course_lib.experiments.report import markdown
    from course_lib.experiments.report.claims import judgements
    from course_lib.experiments.report.scoreboard import chosen_results

    try:
        if profile is not None:
            check_profile(profile)
        tables = {results.table.name: results for results in chosen_results(table)}
        judged = judgements(table, profile)
    except (Refusal, ValueError) as refusal:
        typer.echo(f"course report: {refusal}", err=True)
        raise typer.Exit(2) from None
    if out is not None:
        from course_lib.plumbing.files import write_text

        text = markdown.scoreboard_markdown(table, profile)
        write_text(out, f"# Scoreboard\n\n{markdown.HOW_TO_READ}\n\n{text}\n")
        typer.echo(f"written to {short_path(out.resolve())}")
    elif as_json:
        typer.echo(json.dumps([asdict(found) | {"words": found.words} for found in judged], indent=1))
    else:
        show(judged, tables, profile, rows=table is not None)


def show(judged: Sequence["Judgement"], tables: dict[str, "Results"], profile: str | None, *, rows: bool) -> None:
    """Print the claims of each paper, and the rows of the tables where asked for; then what was not counted."""
    from course_lib.experiments.report import markdown, pages

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=COLUMNS)
    console.print(pages.first_line(judged, tables), markup=False)
    console.print(pages.LEGEND_OF_LETTERS, markup=False)
    run = [found for found in judged if found.mean is not None]
    for name, of_paper in pages.by_paper(run, tables).items():
        for kind, heading in (("paper", name), ("ours", f"{name}, questions of ours")):
            if of_kind := [found for found in of_paper if (found.claim.kind == "paper") == (kind == "paper")]:
                console.print(f"\n[bold]{heading}[/bold]")
                console.print(claims_grid(of_kind, tables))
    if missing := list(pages.missing(judged, tables)):
        console.print("\n[bold]Not run[/bold]")
        for name, count, command in missing:
            console.print(f"{name}: {count} claims, {command}", markup=False, soft_wrap=True)
    for results in tables.values():
        if rows:
            console.print(f"\n{markdown.levels(results, profile)}", markup=False)
        for text in (text for texts in results.troubles.values() for text in texts):
            console.print(f"not counted: {text}", markup=False, soft_wrap=True)


def claims_grid(judged: Sequence["Judgement"], tables: dict[str, "Results"]) -> Grid:
    """Return claims as a terminal's table, one below the other."""
    grid = Grid(box=None, pad_edge=False, width=COLUMNS)
    grid.add_column("claim", ratio=1)
    for head, width in (("verdict", 24), ("paper", 6), ("ours, 95 %", 13), ("seeds", 5), ("differs", 7)):
        grid.add_column(head, width=width)
    for found in judged:
        grid.add_row(*claim_line(found, tables[found.claim.table]))
    return grid


def claim_line(found: "Judgement", results: "Results") -> list[str]:
    """Return a claim as the cells of a terminal's table; our data and the reason of the verdict below its words."""
    from rich.markup import escape

    from course_lib.experiments.report import markdown, pages

    colour = COLOURS.get(found.words, "bright_black")
    lines = [("* " if found.claim.headline else "") + found.claim.statement, pages.where(results, found.profile)]
    return [
        escape("\n  ".join(line for line in (*lines, found.reason) if line)),
        f"[{colour}]{found.words}[/{colour}]",
        "" if found.paper_step is None else markdown.signed(found.paper_step),
        markdown.our_step(found),
        str(len(found.seeds)),
        pages.letters(results, found.profile),
    ]
