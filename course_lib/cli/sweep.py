"""`course notebooks sweep`: the trials of `notebook_tools.sweep`, run."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import typer

from course_lib.cli.notebook_pool import Job, Result, run_jobs
from course_lib.cli.run import CELL_TIMEOUT, kernel_environment
from course_lib.cli.selection import Refusal, declared_parameters
from course_lib.notebook_tools.sweep import Recorded, Trial, excerpt, planned
from course_lib.plumbing.files import write_text
from course_lib.plumbing.machine import code_commit, cpu_has_bf16, cpu_name
from course_lib.plumbing.paths import build_root
from course_lib.plumbing.processes import cores, stop_on_signals
from course_lib.plumbing.progress import progress_bar

UNSET = ("COURSE_STRICT", "COURSE_REUSE", "OMP_NUM_THREADS")


def run_sweep(
    notebooks: Sequence[Path], seeds: int, precisions: Sequence[str], jobs: int, *, moved: bool = False
) -> int:
    """Run the trials that are not on file; print how often each expectation held.

    Args:
        notebooks: Those without an expectation are left out.
        seeds: How many, from 0 on.
        precisions: Of "bf16" and "fp32"; bf16 is left out on a processor that has none.
        jobs: Notebooks at once.
        moved: Whether trials of other code stay: see `Recorded.keep`.

    Returns:
        How many runs failed; 130 where it was stopped.
    """
    if "bf16" in precisions and not cpu_has_bf16():
        typer.echo("bf16 is left out: this processor has no bfloat16, and emulating it takes many times as long")
        precisions = [name for name in precisions if name != "bf16"]
    folder, recorded, to_do, codes = build_root() / "sweep", Recorded(), [], {}
    trials: dict[str, Trial] = {}
    for notebook in notebooks:
        try:
            text, codes[notebook.stem] = excerpt(notebook)
        except ValueError:
            continue
        recorded.keep(notebook.stem, codes[notebook.stem], moved=moved)
        write_text(folder / notebook.name, text)
        for trial in planned(notebook.stem, seeds, precisions, cores()):
            if not recorded.has(trial):
                trials[trial.name] = trial
                to_do.append(_job(trial, folder / notebook.name))
    if moved:
        recorded.write()
    about = {"machine": cpu_name(), "torch": metadata.version("torch"), "commit": code_commit()}
    failed = 0
    to_do.sort(key=lambda job: (trials[job.name].seed, job.name))  # a seed of every notebook, then the next
    with progress_bar(range(len(to_do)), "trials", delay=0) as bar:

        def keep(result: Result) -> None:
            nonlocal failed
            trial = trials[result.job.name]
            if result.status == "ok":
                recorded.add(trial, _noted(result.job), about | {"code": codes[trial.notebook]})
                bar.update()
            elif result.status == "failed":
                failed += 1
                bar.write(f"{trial.name} failed: {result.reason}\n{result.details}")

        environment = {name: value for name, value in kernel_environment().items() if name not in UNSET}
        with stop_on_signals() as stop:
            run_jobs(to_do, jobs, environment, lambda _: None, keep, stop)
        if stop.reason:
            typer.echo("Stopped. The same command goes on.")
            return 130
    for line in recorded.summary(codes):
        typer.echo(line)
    return failed


def _noted(job: Job) -> Path:
    return job.output.with_suffix(".jsonl")


def _job(trial: Trial, notebook: Path) -> Job:
    """Return the run of a trial, with its seed, or as many as the notebook has, and an empty file for what it notes."""
    declared = declared_parameters(notebook)
    count = len(declared.get("SEEDS", [0]))
    seeds = list(range(trial.seed * count, (trial.seed + 1) * count))
    seeded = {"SEED": trial.seed} if "SEED" in declared else {"SEEDS": seeds}
    if not set(seeded) <= set(declared):
        raise Refusal(f"{notebook.name} expects something of a training, but has no parameter SEED or SEEDS")
    output = notebook.parent / "executed" / f"{trial.name}.ipynb"
    job = Job(trial.name, notebook, output, seeded, CELL_TIMEOUT["quick"])
    environment = {
        "COURSE_EXPECTATIONS": str(_noted(job)),
        "COURSE_PRECISION": trial.precision,
        "OMP_NUM_THREADS": str(trial.threads),
    }
    write_text(_noted(job), "")
    return Job(trial.name, notebook, output, seeded, CELL_TIMEOUT["quick"], environment)
