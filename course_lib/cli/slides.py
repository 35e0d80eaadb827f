"""`course slides`: a lecture as slides, from its executed notebook."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.selection import NOTEBOOKS, Refusal, check_profile, find_notebook, refuse_unwritable, short_path
from course_lib.cli.site import SOURCE, load_prepare
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import build_root


def slides(
    notebooks: Annotated[list[str], typer.Argument(metavar="NN...", help="Numbers or names.")],
    profile: Annotated[str, typer.Option(help="Whose executed notebooks: quick, laptop or gpu.")] = "quick",
    out: Annotated[Path | None, typer.Option(help="Folder; build/slides by default.")] = None,
) -> None:
    """Make slides of executed lectures: one HTML file each, which needs no network.

    Space goes on, Esc shows all of them, S opens nothing: what there is to say stands in the notebook.

    \b
    course run 03 && course slides 03
    """
    import nbformat

    try:
        check_profile(profile)
        target = out or build_root() / "slides"
        refuse_unwritable(target, "name another folder with --out")
        if importlib.util.find_spec("sphinx_revealjs") is None:
            raise Refusal("reveal.js is missing; type: make course")
        chosen = [find_notebook(word, NOTEBOOKS) for word in notebooks]
        for path in chosen:
            executed = build_root() / "executed" / profile / path.name
            if not executed.exists():
                extra = "" if profile == "quick" else f" --profile {profile}"
                raise Refusal(f"{path.stem} was not run here: type  course run {path.name[:2]}{extra}")
    except Refusal as refusal:
        typer.echo(f"course slides: {refusal}", err=True)
        raise typer.Exit(2) from None
    maker = load_prepare(SOURCE / "slides.py")
    for path in chosen:
        notebook = nbformat.read(build_root() / "executed" / profile / path.name, as_version=4)
        text = maker.page(notebook)
        file = target / f"{path.stem}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
        typer.echo(f"{short_path(file)}: {text.count('<section ')} slides, {len(text) / 1e6:.1f} MB")
