"""`course grade`: submitted notebooks, run behind walls and compared with cases that no student has seen."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.grade_report import Student, page, points, possible_points, student_of, write_all
from course_lib.cli.selection import NOTEBOOKS, Refusal, find_notebook, refuse_unwritable, short_path
from course_lib.notebook_tools.hidden import HIDDEN, hidden_cases, read_by_a_person
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT
from course_lib.plumbing.processes import Child, Pool, StopRequest, cores, stop_on_signals
from course_lib.plumbing.walls import why_open

STARTING_SECONDS = 300
LEFT_OUT = {".ipynb_checkpoints", "__MACOSX", "__pycache__"}
OPEN = (
    "{reason}: submissions would run with your rights, and could read and delete your files. Grade in the container "
    "(TEACHING.md, Machines), or, where you trust every submission, add --without-walls"
)


@dataclass(frozen=True)
class Submission:
    """One file to grade, of which student and which notebook, and where its result is kept."""

    path: Path
    student: Student
    notebook: Path
    kept: Path

    @property
    def name(self) -> str:
        return f"{self.student.name} {self.notebook.stem[:2]}"


@dataclass(frozen=True)
class Terms:
    """Under which each submission runs: MB of memory, seconds a cell, behind walls or not, the hidden cases."""

    memory: int
    timeout: int
    walls: bool
    hidden: Path


class GradeChild(Child):
    """The process that grades one submission, with a folder of its own."""

    def __init__(self, submission: Submission, terms: Terms) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True)
        request = {
            "notebook": str(submission.notebook),
            "submission": str(submission.path),
            "hidden": str(terms.hidden),
            "folder": self.folder.name,
            "memory": terms.memory,
            "timeout": terms.timeout,
            "walls": terms.walls,
        }
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        log, patience = Path(self.folder.name) / "log", terms.timeout + STARTING_SECONDS
        super().__init__("course_lib.cli.grade_process", request, log, environment, patience)


class GradePool(Pool[Submission]):
    """Grades submissions; `on_result` gets (submission, result) for each that came to an end."""

    def __init__(self, terms: Terms, on_result: Callable[[Submission, dict], None]) -> None:
        self.terms, self.on_result = terms, on_result

    def start(self, task: Submission, slot: int) -> GradeChild:
        return GradeChild(task, self.terms)

    def ended(self, task: Submission, child: GradeChild | None, error: OSError | None, told: bool) -> None:
        if child is None:
            raise Refusal(f"{task.path}: it could not be started: {error}")
        last = child.last or {"status": "failed", "reason": "its process ended", "details": child.last_words()}
        seconds = round(child.seconds, 1)
        child.folder.cleanup()
        if told:
            return
        if last["status"] == "stuck":
            last = {"status": "failed", "reason": "it gave no sign of life", "details": ""}
        self.on_result(task, last | {"seconds": seconds})


def find_submissions(folder: Path, kept: Path, only: str = "") -> tuple[list[Submission], list[str]]:
    """Return the submissions in a folder, and a sentence on each file that is none."""
    found, others, seen = [], [], set()
    for path in sorted(folder.rglob("*.ipynb")):
        if LEFT_OUT & set(path.parts) or not path.is_file() or path.is_symlink() or kept in path.parents:
            continue
        number = only or number_of(path)
        if not number or not list(NOTEBOOKS.glob(f"{number}_*.ipynb")):
            others.append(f"{short_path(path)}: of which notebook? Say it with --notebook")
            continue
        notebook, student = find_notebook(number, NOTEBOOKS), student_of(path, folder)
        safe = re.sub(r"[^\w-]+", "_", student.name)[:60] + (f"_{student.id}" if student.id else "")
        if (notebook.stem, safe) in seen:
            others.append(
                f"{short_path(path)}: {student.name} has handed in {notebook.stem} twice; this one is left out"
            )
            continue
        seen.add((notebook.stem, safe))
        found.append(Submission(path, student, notebook, kept / notebook.stem / f"{safe}.json"))
    return found, others


def number_of(path: Path) -> str:
    """Return the number of the notebook that was handed in: by its file's name, or by an exercise's id."""
    if named := re.search(r"(?:^|_)(\d\d)_[a-z]", path.name):
        return named[1]
    with path.open(encoding="utf-8", errors="replace") as file:
        stated = re.search(r'"every_pixel":\s*\{[^}]*"id":\s*"(\d\d)-\d+"', file.read(2**20))
    return stated[1] if stated else ""


def fingerprint(submission: Submission, terms: Terms) -> str:
    """Return a hash of all that decides a result: while it stays, the result is kept."""
    parts = (submission.path, submission.notebook, terms.hidden / f"{submission.notebook.stem[:2]}.toml")
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in parts)).hexdigest()


def as_result(submission: Submission, last: dict, made_from: str, hidden: Path) -> dict:
    """Return what is kept of a submission; one that could not be run has no points, and the reason as its note."""
    about = {"student": submission.student.name, "id": submission.student.id, "notebook": submission.notebook.stem}
    about |= {"file": submission.path.name, "seconds": last["seconds"], "made_from": made_from}
    if last["status"] == "ok":
        return about | {"exercises": last["exercises"], "notes": last["notes"]}
    from course_lib.notebook_tools.exercises import exercises_of

    blank = {"solved": False, "passed": [], "reason": "nothing could be run", "printed": "", "source": ""}
    asked, cases = exercises_of(submission.notebook), hidden_cases(submission.notebook.name[:2], hidden)
    read = read_by_a_person([one.id for one in asked], cases)
    none = [{"id": one.id, "points": one.points, "by_a_person": one.id in read} | blank for one in asked]
    return about | {"exercises": none, "notes": [f"{last['reason']}: {last['details']}"[:600]]}


def read_kept(submission: Submission, made_from: str) -> dict | None:
    """Return the result of an earlier run, if nothing that decides it has changed."""
    try:
        result = json.loads(submission.kept.read_text(encoding="utf-8"))
        return result if result["made_from"] == made_from else None
    except (OSError, ValueError, LookupError):
        return None


def grade(
    submissions: Annotated[Path, typer.Argument(help="Folder of what was handed in, as Canvas or Moodle gives it.")],
    out: Annotated[Path, typer.Option(help="The table; reports go into a folder of its name beside it.")] = Path(
        "grades.csv"
    ),
    notebook: Annotated[str, typer.Option(help="Number of the notebook, where files do not say it.")] = "",
    hidden: Annotated[Path | None, typer.Option(help="Folder of hidden cases of your own, NN.toml.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Submissions at once; 0: one a core.")] = 0,
    timeout: Annotated[int, typer.Option(min=5, help="Seconds that a cell may take.")] = 120,
    memory: Annotated[int, typer.Option(min=512, help="MB that a submission may take.")] = 4096,
    without_walls: Annotated[
        bool, typer.Option("--without-walls", help="Run submissions with your own rights and network.")
    ] = False,
) -> None:
    """Grade submitted notebooks: a report a student, and a table for Canvas or Moodle.

    Each runs in a process of its own with limits of time and memory; on Linux without a network, and with nothing of
    your files in sight. What is stored in a notebook counts nothing. Graded ones are not graded again.

    \b
    course grade submissions --out grades.csv
    """
    out, hidden = out.resolve(), (hidden or HIDDEN).resolve()
    kept = reports_folder(out, submissions.resolve())
    try:
        if not submissions.is_dir():
            raise Refusal(f"{submissions} is no folder")
        refuse_unwritable(out.parent, "name another file with --out")
        if (reason := why_open()) and not without_walls:
            raise Refusal(OPEN.format(reason=reason))
        found, others = find_submissions(submissions.resolve(), kept, notebook)
        if not found:
            raise Refusal("\n".join([f"no notebook to grade in {submissions}", *others]))
        missing = [one.stem for one in {s.notebook for s in found} if not hidden_cases(one.stem[:2], hidden)]
        if missing:
            raise Refusal(f"no hidden cases for {', '.join(sorted(missing))}: its exercises are read by a person")
    except (Refusal, ValueError) as refusal:
        typer.echo(f"course grade: {refusal}", err=True)
        raise typer.Exit(2) from None
    for sentence in others:
        typer.echo(sentence)
    terms = Terms(memory, timeout, not without_walls, hidden)
    typer.echo(f"{len(found)} submissions, " + ("behind walls" if terms.walls else "WITHOUT walls: with your rights"))
    raise typer.Exit(run_all(found, terms, jobs or cores(), out, kept))


def reports_folder(out: Path, submissions: Path) -> Path:
    """Return the folder of the reports: of the table's name beside it, or another where the submissions have that."""
    folder = out.with_suffix("")
    taken = folder == submissions or folder in submissions.parents
    return folder.with_name(f"{folder.name}_reports") if taken else folder


def run_all(found: list[Submission], terms: Terms, jobs: int, out: Path, kept: Path) -> int:
    """Grade what is not graded yet and write everything; return the command's exit code. `kept`: the reports' folder."""
    from course_lib.notebook_tools.contents import lectures

    origins = {one: fingerprint(one, terms) for one in found}
    results = {one: result for one in found if (result := read_kept(one, origins[one]))}
    titles = {one.path.stem: f"{one.number} {one.title}" for one in lectures(NOTEBOOKS)}
    titles = {stem: titles[stem] for stem in sorted({one.notebook.stem for one in found})}
    if results:
        typer.echo(f"{len(results)} were graded before: {short_path(kept)}")

    def on_result(one: Submission, last: dict) -> None:
        result = as_result(one, last, origins[one], terms.hidden)
        results[one] = result
        one.kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(one.kept.with_suffix(".html"), page(result, titles[one.notebook.stem]))
        write_text(one.kept, json.dumps(result, indent=1) + "\n")
        write_all(list(results.values()), out, titles)
        possible, read = possible_points(result)
        person = f", {read} more for a person to give" if read else ""
        notes = f" ({'; '.join(result['notes'])[:120]})" if result["notes"] else ""
        typer.echo(f"{one.name}: {points(result)} of {possible} points{person}, {result['seconds']:.0f} s{notes}")

    waiting = [one for one in found if one not in results]
    with stop_on_signals() as stop:
        stop: StopRequest
        GradePool(terms, on_result).run(waiting, slots=jobs, stop=stop)
    write_all(list(results.values()), out, titles)
    typer.echo(f"wrote {short_path(out)}, and a report a student into {short_path(kept)}")
    if len(results) < len(found):
        typer.echo(f"{len(found) - len(results)} are still to be graded: the same command goes on")
        return 1
    return 0
