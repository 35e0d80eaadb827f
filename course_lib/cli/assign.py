"""`course assign`: an assignment of lectures, for students, for nbgrader and for Gradescope."""

import json
import zipfile
from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.selection import NOTEBOOKS, Refusal, refuse_unwritable, short_path
from course_lib.notebook_tools.hidden import hidden_cases, read_by_a_person
from course_lib.notebook_tools.launch import repository
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT

CONFIG = '''"""nbgrader's settings for this course: open a terminal here and type

    nbgrader generate_assignment 03_fcn
    nbgrader autograde 03_fcn
"""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "every-pixel"
c.ClearSolutions.code_stub = {"python": "# your turn"}
c.ExecutePreprocessor.timeout = 600
c.GenerateAssignment.create_assignment = True
'''
STUDENT = """# Assignment

{lines}

Work in these notebooks with the course installed (README of the course, *Begin*): put them into its folder
`notebooks`, or open them there. Each exercise is one cell: write your answer in place of the stub, run the cell, and
its check says whether it is right. Grading runs your answers again with other cases; outputs that are stored in the
notebook count nothing, and cells of the lecture that you change are run as they were. Hand in the notebook under its
name.
"""
SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the container.
set -euo pipefail
cd /autograder/source
apt-get update && apt-get install -y python3 python3-pip python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install uv
grep -Ev '^(nvidia-|triton|cuda-)' requirements.lock > cpu.lock   # a grader needs no GPU
/autograder/venv/bin/uv pip install --python /autograder/venv/bin/python --torch-backend cpu --no-deps -r cpu.lock
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this for each submission, in a container of its own: that is its wall.
here=${AUTOGRADER:-/autograder}
python=${PYTHON:-$here/venv/bin/python}
cd "$here/source"
export PYTHONPATH="$here/source"
"$python" -m course_lib.cli grade "$here/submission" --out "$here/grades.csv" --notebook NUMBER --without-walls
"$python" - "$here" <<'END'
import json, sys
from pathlib import Path
here = Path(sys.argv[1])
found = sorted(here.glob("grades/*/*.json"))
tests, output = [], "No notebook was found."
if found:
    result = json.loads(found[0].read_text())
    output = "\\n".join(result["notes"])
    for one in result["exercises"]:
        score = one["points"] if one["solved"] else 0
        if one["by_a_person"]:
            output += f"\\n{one['id']}: {one['reason']} and gives up to {one['points']} points."
            continue
        tests.append({"name": one["id"], "score": score, "max_score": one["points"], "output": one["reason"]})
(here / "results").mkdir(exist_ok=True)
(here / "results" / "results.json").write_text(json.dumps({"output": output, "tests": tests, "score": sum(
    one["score"] for one in tests)}))
END
"""
PACKED = ("course_lib/**/*.py", "course_lib/checkpoints/*", "course_lib/experiments/tables/*.toml",
          "course_lib/widgets/*.*", "data_scripts/**/*.py", "data_scripts/lists/*.txt", "results/*/*.json",
          "pyproject.toml", "requirements.lock")  # fmt: skip
"""What an autograder takes of the repository, beside the notebook and its hidden cases."""


def assign(
    numbers: Annotated[list[str], typer.Argument(metavar="NN...", help="Numbers of lectures.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")] = Path("build/assignment"),
) -> None:
    """Make an assignment of lectures: for students, for nbgrader, for Gradescope.

    student holds what students get; instructor the solved notebooks; nbgrader a course folder with its source tree;
    gradescope an autograder a lecture. Only the first is for students: the others hold solutions or hidden cases.

    \b
    course assign 03 04 --out build/week2
    """
    from course_lib.notebook_tools.assignments import assignment_paths
    from course_lib.notebook_tools.cells import parse
    from course_lib.notebook_tools.exercises import exercises

    try:
        if out.exists() and any(out.iterdir()):
            raise Refusal(f"{out} is not empty: name a new folder")
        refuse_unwritable(out, "name another folder with --out")
        paths = assignment_paths([number.zfill(2) for number in numbers], NOTEBOOKS)
    except (Refusal, ValueError) as refusal:
        typer.echo(f"course assign: {refusal}", err=True)
        raise typer.Exit(2) from None
    lines = []
    for path in paths:
        notebook = parse(path.read_text(encoding="utf-8"))
        write_one(path, out)
        of_it = exercises(notebook)
        points, minutes = sum(one.points for one in of_it), sum(one.minutes for one in of_it)
        read = read_by_a_person([one.id for one in of_it], hidden_cases(path.name[:2], path.parent / "hidden"))
        line = f"* `{path.name}`: {len(of_it)} exercises, {points} points, about {minutes} minutes of work"
        lines.append(f"{line}; a person reads {' and '.join(read)}" if read else line)
    write_text(out / "student" / "README.md", STUDENT.format(lines="\n".join(lines)))
    write_text(out / "nbgrader" / "nbgrader_config.py", CONFIG)
    typer.echo("\n".join(lines))
    typer.echo(f"wrote {short_path(out)}: give students {short_path(out / 'student')}, and nothing else of it")


def write_one(path: Path, out: Path) -> None:
    """Write all versions of one notebook into an assignment's folder."""
    import nbformat

    from course_lib.notebook_tools.assignments import nbgrader_source, solutions_of, solved_version, student_version
    from course_lib.notebook_tools.cells import parse

    notebook, solutions = parse(path.read_text(encoding="utf-8")), solutions_of(path)
    cases = hidden_cases(path.name[:2], path.parent / "hidden")
    versions = {
        out / "student" / path.name: student_version(notebook, repository()),
        out / "instructor" / path.name: solved_version(notebook, solutions),
        out / "nbgrader" / "source" / path.stem / path.name: nbgrader_source(notebook, solutions, cases),
    }
    for target, version in versions.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, json.dumps(version, indent=1, ensure_ascii=False) + "\n")
        nbformat.read(target, as_version=4)
    target = out / "gradescope" / f"{path.stem}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_autograder(path, target)


def write_autograder(path: Path, target: Path) -> None:
    """Write the archive that Gradescope builds its grader of: scripts, the library, a notebook, its hidden cases."""
    files = sorted({file for pattern in PACKED for file in ROOT.glob(pattern)})
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("setup.sh", SETUP), ("run_autograder", RUN.replace("NUMBER", path.name[:2]))):
            about = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            about.external_attr = 0o755 << 16
            archive.writestr(about, text)
        for file in files:
            archive.write(file, file.relative_to(ROOT))
        archive.write(path, f"notebooks/{path.name}")
        archive.write(path.parent / "hidden" / f"{path.name[:2]}.toml", f"notebooks/hidden/{path.name[:2]}.toml")
