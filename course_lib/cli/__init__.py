"""The command `course`. Each subcommand is a file; what is heavy is imported when a command needs it."""

import errno
from typing import Annotated

import typer
from typer.core import TyperGroup

from course_lib import __version__
from course_lib.cli import (
    assign,
    data,
    doctor,
    evidence,
    grade,
    lab,
    notebooks,
    pack,
    report,
    reproduce,
    run,
    site,
    slides,
)
from course_lib.plumbing.processes import start_lean


class Course(TyperGroup):
    """The command with all subcommands; what a file system refuses of a name is an error of usage."""

    def invoke(self, ctx: typer.Context) -> object:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = str(error.filename)
            shown = name if len(name) < 60 else f"{name[:30]}...{name[-20:]}"
            raise typer.BadParameter(f"no file can be called {shown}: the name has {len(name)} characters") from error


app = typer.Typer(
    name="course",
    cls=Course,
    help="Every Pixel: check the machine, get the data, run the notebooks, build the site.",
    epilog="Start with: course doctor, then: course lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and end, if that is wanted."""
    if wanted:
        typer.echo(f"course {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that come before a subcommand."""
    start_lean()


app.command("doctor")(doctor.doctor)
app.command("lab", context_settings=lab.PASS_ON)(lab.lab)
app.command("run", cls=run.RunCommand)(run.run)
app.command("reproduce")(reproduce.reproduce)
app.command("evidence")(evidence.evidence)
app.command("pack")(pack.pack)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.add_typer(notebooks.app, name="notebooks")
app.command("assign")(assign.assign)
app.command("grade")(grade.grade)
app.command("site")(site.site)
app.command("slides")(slides.slides)
