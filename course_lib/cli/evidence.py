"""`course evidence`: a given time spent on the runs that settle most of what is open."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from course_lib.cli.display import open_console
from course_lib.cli.many_runs import absent_data, in_words, make_all, on_slurm, on_this_machine
from course_lib.cli.reproduce import LEAVES, STOPS, Gpus, On, Seeds, Slurm, read_checked, seeds_from
from course_lib.cli.selection import Refusal, check_profile
from course_lib.experiments.evidence import Planned, beginnings, plan, questions, runs_of, verdicts
from course_lib.experiments.recipe import Key, Recipe, RecipeError
from course_lib.experiments.table import Table, table_names

if TYPE_CHECKING:
    from course_lib.experiments.launch.local import Outcome
    from course_lib.plumbing.processes import StopRequest

GIB_A_RUN = 6
"""Memory of a card that a run may need."""
MOST = 6
"""Runs at once on one card: more wait for its processor."""
WORTH = 30.0
"""Seconds before the limit in which no run is begun that would only be stopped."""


def is_card() -> bool:
    """Return whether this machine has a GPU for torch."""
    import torch

    return torch.cuda.is_available()


def runs_at_once() -> int:
    """Return how many runs the cards of this machine take: six where there are 36 GiB; 1 on a CPU."""
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return sum(max(1, min(MOST, card.total_memory // 2**30 // GIB_A_RUN)) for card in cards) or 1


def read_all(names: Sequence[str], profile: str) -> tuple[dict[str, Table], list[str]]:
    """Return the tables that have the profile, by name, and what is wrong with those that cannot be run."""
    tables, refused = {}, []
    for name in names:
        try:
            tables[name] = read_checked(name)
        except RecipeError as error:
            refused += error.args
    return {name: table for name, table in tables.items() if profile in table.profiles}, refused


def show_plan(console: Console, planned: Sequence[Planned], jobs: int, limit: float) -> None:
    """Print the runs that begin within the limit, and how many are left for the next time."""
    begin = beginnings(planned, jobs)
    grid = Grid(box=None, pad_edge=False)
    for column in ("run", "for", "begins after", "takes about"):
        grid.add_column(column, no_wrap=True)
    soon = [(run, begins) for run, begins in zip(planned, begin, strict=True) if begins < limit]
    for run, begins in soon:
        title = f"{run.recipe.table} {run.recipe.title()}"
        grid.add_row(title, run.settles, in_words(begins), in_words(run.seconds))
    console.print(grid)
    total = in_words(sum(run.seconds for run in planned) / jobs)
    console.print(
        f"{len(soon)} of {len(planned)} missing runs begin in {in_words(limit)}, {jobs} at a time; all take about {total}"
    )


def show_left_out(console: Console, absent: Mapping[Key, str], refused: Sequence[str]) -> None:
    """Print which rows' images are not here, and the tables that cannot be run."""
    for text in dict.fromkeys(absent.values()):
        rows = dict.fromkeys(f"{key[0]}/{key[1]}" for key, reason in absent.items() if reason == text)
        console.print(f"left out, {len(rows)} rows ({', '.join(rows)}): {text}", markup=False, soft_wrap=True)
    for text in refused:
        console.print(f"left out: {text}", markup=False, soft_wrap=True)


def show_changes(console: Console, before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]) -> None:
    """Print the claims whose verdict differs; the quick profile has none."""
    if not after:
        return
    changed = [key for key in after if before.get(key) != after[key]]
    console.print(f"\nclaims with another verdict than before: {len(changed)} of {len(after)}")
    for table, statement in changed:
        was, now = before.get((table, statement), "not run"), after[table, statement]
        console.print(f"{table}: {statement}: {was} -> {now}", markup=False, soft_wrap=True)


Minutes = Annotated[
    float, typer.Option("--minutes", metavar="MINUTES", min=0, help="How long; then what runs stops at a checkpoint.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Runs at once; by default what a card's memory takes, 1 on a CPU."),
]
Profile = Annotated[
    str | None, typer.Option(help="quick, laptop or gpu; by default gpu where there is a card, else laptop.")
]
Tables = Annotated[str, typer.Option("--tables", metavar="A,B", help="Only these tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan with its estimates and run nothing.")]


def evidence(
    minutes: Minutes = 60,
    jobs: Jobs = None,
    profile: Profile = None,
    tables: Tables = "",
    seeds: Seeds = "3",
    dry_run: DryRun = False,
    on: On = "local",
    slurm: Slurm = None,
    gpus: Gpus = 1,
) -> None:
    """Spend a given time on the missing runs of all tables, what settles most first.

    First come the rows of headline claims, then those of other claims, then the rest; of these, what has been begun,
    then what is short. Estimates come from the records on file. Runs share a card. At the limit, or at Ctrl-C, what
    runs stops at a checkpoint; the same command goes on from there. At the end stand the claims whose verdict
    has changed. The exit code is the number of runs that failed.

    \b
    course evidence --minutes 480                       a night
    course evidence --minutes 60 --profile gpu --dry-run
    course evidence --minutes 60 --tables fcn_skips,drn
    course evidence --minutes 120 --on slurm --jobs 8 --slurm partition=gpu

    On Slurm, the runs that begin within the time become jobs; they go on without this command.
    """
    began, console = time.monotonic(), open_console()
    try:
        if on not in ("local", "slurm"):
            raise Refusal(f'--on "{on}": it is local or slurm')
        card = gpus > 0 and (on == "slurm" or is_card())
        profile = check_profile(profile or ("gpu" if card else "laptop"))
        jobs = jobs or (runs_at_once() if card and on == "local" else 1)
        chosen, refused = read_all([name for name in tables.split(",") if name] or table_names(), profile)
        planned, absent = plan_of(chosen, profile, seeds_from(seeds), "cuda" if card else "cpu")
        show_plan(console, planned, jobs, 60 * minutes)
        show_left_out(console, absent, refused)
        failed, signum = len(refused), 0
        if planned and not dry_run:
            everything, _ = read_all(table_names(), profile)
            before = verdicts(everything, profile)
            submit = partial(on_slurm, slurm=slurm or []) if on == "slurm" else None
            outcomes, stop = make(planned, chosen, {"jobs": jobs, "gpus": gpus}, began + 60 * minutes, submit)
            show_changes(console, before, verdicts(everything, profile))
            failed, signum = failed + sum(outcome.bad for outcome in outcomes), stop.signum
    except Refusal as refusal:
        typer.echo(f"course evidence: {refusal}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(128 + signum if signum else min(64, failed))


def plan_of(
    tables: Mapping[str, Table], profile: str, seeds: Sequence[int], device: str
) -> tuple[list[Planned], dict[Key, str]]:
    """Return the missing runs in order, and {run: reason} of those whose images are not here."""
    asked = [question for table in tables.values() for question in questions(table)]
    absent = absent_data([run for question in asked for run in runs_of(question, profile, seeds)])
    return plan(tables.values(), profile, seeds, device=device, absent=absent), absent


def make(
    planned: Sequence[Planned],
    tables: Mapping[str, Table],
    options: dict[str, int],
    end: float,
    submit: Callable | None,
) -> "tuple[list[Outcome], StopRequest]":
    """Make the runs here until the clock passes `end`, or hand those that begin before it to a cluster by `submit`."""
    if submit is not None:
        begins = zip(planned, beginnings(planned, options["jobs"]), strict=True)
        recipes = [run.recipe for run, seconds in begins if seconds < end - time.monotonic()]
        return make_all(tables, recipes, submit, {**options, "time_limit": None}, LEAVES)
    needs = {run.recipe.key: min(run.seconds, WORTH) if run.recipe.checkpoint_every else run.seconds for run in planned}

    def fits(recipe: Recipe) -> bool:
        return time.monotonic() + needs[recipe.key] <= end

    limit = max(0.0, end - time.monotonic())
    here = partial(on_this_machine, fits=fits)
    return make_all(tables, [run.recipe for run in planned], here, {**options, "time_limit": limit}, STOPS, limit)
