"""`course reproduce`: the runs of a table, made or finished, one record each."""

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from course_lib.cli.many_runs import make_all, on_slurm, on_this_machine
from course_lib.cli.selection import Refusal, check_profile
from course_lib.experiments.recipe import Recipe, RecipeError
from course_lib.experiments.table import Table

UNFINISHED = 75
STOPS = "stopping at the next checkpoint ({reason}); Ctrl-C once more ends at once"
LEAVES = "leaving the jobs to Slurm, where they go on ({reason})"


def seeds_from(text: str) -> list[int]:
    """Return the seeds of an option: `3` is 0, 1, 2; `4,7` these two; `5,` only this one.

    Raises:
        Refusal: For a text that is neither.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text:
        numbers = list(range(numbers[0])) if numbers else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise Refusal(f'--seeds "{text}": write how many (3), or which, with commas (0,1,2 or 5,)')
    return numbers


def plan(table: Table, rows: Sequence[str], profile: str, seeds: Sequence[int]) -> list[Recipe]:
    """Return the runs that were asked for: seed by seed, so that every row has the first one early.

    Raises:
        RecipeError: For a row or profile that the table does not have.
    """
    recipes = [table.recipe(row, profile, seed) for seed in seeds for row in rows or table.rows]
    planned = {recipe.key: recipe for recipe in recipes if recipe.seed == seeds[0] or recipe.chance}
    return list(planned.values())


def read_checked(name: str) -> Table:
    """Return table `name`, all names of models and data sets in it included in the check.

    Raises:
        RecipeError: With everything that is wrong with it.
    """
    table = Table.read(name)
    from course_lib.experiments.check import problems_of  # after the read: torch takes seconds

    problems = problems_of(table)
    if problems:
        raise RecipeError(*problems)
    return table


TableName = Annotated[str, typer.Argument(help="A table of course_lib/experiments/tables: fcn_skips.")]
Rows = Annotated[list[str] | None, typer.Option("--row", "-r", help="Only this row; may be repeated.")]
Profile = Annotated[str, typer.Option(help="quick, laptop or gpu.")]
Seeds = Annotated[str, typer.Option(help="How many (3), or which (0,1,2 or 5,).")]
On = Annotated[str, typer.Option("--on", help="local: this machine; slurm: each run a job of a cluster.")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="With --on slurm, an option of sbatch: partition=gpu; may be repeated."),
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs of each run, where there are any; 0: CPU.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES", min=0, help="Stop at a checkpoint when they are over; a job of Slurm is then queued again."
    ),
]


def reproduce(
    table: TableName,
    row: Rows = None,
    profile: Profile = "laptop",
    seeds: Seeds = "3",
    on: On = "local",
    slurm: Slurm = None,
    gpus: Gpus = 1,
    jobs: Jobs = 1,
    time_limit: Minutes = None,
) -> None:
    """Make the runs of a table that have no record yet, and go on with those that were stopped.

    Ctrl-C and the time limit stop at a checkpoint; the same command goes on from there. The exit code is
    the number of runs that failed; 75 where none did, but the time limit left some unfinished.

    \b
    course reproduce fcn_skips                               all rows, seeds 0, 1, 2
    course reproduce fcn_skips --row fcn8s --seeds 0,1       some of them
    course reproduce fcn_skips --profile gpu --time-limit 55
    course reproduce fcn_skips --profile gpu --on slurm --jobs 6 --slurm partition=gpu

    On Slurm, Ctrl-C leaves the jobs running; the same command follows them again.
    """
    try:
        check_profile(profile)
        if on not in ("local", "slurm"):
            raise Refusal(f'--on "{on}": it is local or slurm')
        if slurm and on == "local":
            raise Refusal("--slurm goes with --on slurm")
        about = read_checked(table)
        recipes = plan(about, row or [], profile, seeds_from(seeds))
        limit = None if time_limit is None else 60 * time_limit
        options = {"jobs": jobs, "gpus": gpus, "time_limit": limit}
        if on == "local":
            outcomes, stop = make_all({table: about}, recipes, on_this_machine, options, STOPS, limit)
        else:
            outcomes, stop = make_all({table: about}, recipes, partial(on_slurm, slurm=slurm or []), options, LEAVES)
    except (Refusal, RecipeError) as refusal:
        typer.echo(f"course reproduce: {str(refusal).replace(chr(10), chr(10) + '  ')}", err=True)
        raise typer.Exit(2) from None
    unfinished = any(outcome.status in ("stopped", "waiting", "busy") for outcome in outcomes)
    if unfinished:
        typer.echo(f"Go on with: {command(table, row or [], profile, seeds, on, gpus, jobs, slurm or [])}")
    if stop.signum:
        raise typer.Exit(128 + stop.signum)
    failed = sum(outcome.bad for outcome in outcomes)
    raise typer.Exit(min(64, failed) or (UNFINISHED if stop.reason and unfinished else 0))


def command(
    table: str, rows: Sequence[str], profile: str, seeds: str, on: str, gpus: int, jobs: int, slurm: Sequence[str] = ()
) -> str:
    """Return the command line that goes on; the time limit is the user's to choose anew."""
    words = ["course", "reproduce", table, *(word for row in rows for word in ("--row", row))]
    words += ["--profile", profile, "--seeds", seeds]
    words += ["--on", on] if on != "local" else []
    words += ["--gpus", str(gpus)] if gpus != 1 else []
    words += ["--jobs", str(jobs)] if jobs > 1 else []
    words += [word for entry in slurm for word in ("--slurm", entry)]
    return shlex.join(words)
