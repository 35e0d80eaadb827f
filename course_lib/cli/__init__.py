"""The command `course`. Each subcommand is a file; what is heavy is imported when a command needs it."""

from typing import Annotated

import typer

from course_lib import __version__
from course_lib.cli import data, doctor, evidence, grade, lab, notebooks, pack, report, reproduce, run, site

app = typer.Typer(
    name="course",
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


app.command("doctor")(doctor.doctor)
app.command("lab", context_settings=lab.PASS_ON)(lab.lab)
app.command("run", cls=run.RunCommand)(run.run)
app.command("reproduce")(reproduce.reproduce)
app.command("evidence")(evidence.evidence)
app.command("pack")(pack.pack)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.add_typer(notebooks.app, name="notebooks")
app.command("grade")(grade.grade)
app.command("site")(site.site)
