"""Which notebooks the user means, and which parameters they declare: all settled before anything runs."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path

from course_lib.experiments.table import PROFILES
from course_lib.plumbing.files import why_not_writable
from course_lib.plumbing.paths import ROOT
from course_lib.plumbing.suggest import did_you_mean

NOTEBOOKS = ROOT / "notebooks"

type_names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


HOME_MISSING = "no home folder is known, and Jupyter needs one: export HOME=... to a folder that you may write to"


class Refusal(Exception):
    """The user's request cannot be carried out as it stands; nothing has been started."""


def short_path(path: Path) -> str:
    """Return `path` as the user would type it."""
    for base in (Path.cwd(), ROOT):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def check_profile(profile: str) -> str:
    """Return `profile`, or raise Refusal where there is none of that name."""
    if profile not in PROFILES:
        raise Refusal(f'no profile "{profile}"{did_you_mean(profile, PROFILES)}: use {", ".join(PROFILES)}')
    return profile


def in_order(folder: Path) -> list[Path]:
    """Return the notebooks of a folder, `NN_*.ipynb`, by number."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def find_notebook(word: str, folder: Path) -> Path:
    """Return the notebook that `word` names: a path, a number ("3", "03") or a stem ("03_fcn")."""
    for path in (Path(word), folder / word, folder / f"{word}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    if word.isdecimal():
        found = list(folder.glob(f"{int(word):02d}_*.ipynb"))
        if len(found) == 1:
            return found[0].resolve()
        if found:
            names = ", ".join(sorted(path.stem for path in found))
            raise Refusal(f"{word} names several notebooks: {names}; give the whole name")
    stems = [path.stem for path in in_order(folder)]
    raise Refusal(
        f'no notebook "{word}"{did_you_mean(Path(word).stem, stems)}: looked for a path, and for a name or number in '
        f"{folder.name}/"
    )


def select(words: Sequence[str], solutions: bool, folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the notebooks to run, each once; all of the course for no words.

    With `solutions` those in `solutions/` follow: `03_fcn_solutions` for `03_fcn`.
    """
    chosen = [find_notebook(word, folder) for word in words] or in_order(folder)
    if not chosen:
        raise Refusal(f"no notebooks in {folder}: is this the course's repository?")
    if solutions:
        solved = (
            in_order(chosen[0].parent / "solutions")
            if not words
            else [
                solution
                for path in chosen
                for solution in in_order(path.parent / "solutions")
                if solution.stem.removesuffix("_solutions") == path.stem
            ]
        )
        chosen += solved
    return list(dict.fromkeys(chosen))


def declared_parameters(notebook: Path) -> dict[str, object]:
    """Return the names and default values that the notebook's `parameters` cell assigns.

    Raises Refusal for a file that is no notebook, or whose parameters are not literals.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        cell = next((c for c in cells if "parameters" in c["metadata"].get("tags", [])), None)
        source = "" if cell is None else "".join(cell["source"])
        statements = ast.parse(source).body
    except SyntaxError as error:
        reason = f"its cell of parameters is no Python, line {error.lineno}: {error.msg}"
        raise Refusal(f"{notebook} is not a notebook that can be run: {reason}") from None
    except ValueError as error:
        raise Refusal(f"{notebook} is not a notebook that can be run: no JSON, {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise Refusal(f"{notebook} is not a notebook that can be run: it has no list of cells") from None
    declared = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        try:
            declared[name] = ast.literal_eval(value)
        except (ValueError, TypeError):
            raise Refusal(
                f"{notebook.name}: the parameter {name} = {ast.unparse(value)} is computed; the "
                "`parameters` cell may hold literals only"
            ) from None
    return declared


def no_home() -> bool:
    """Return whether this user has no home folder: HOME is not set, and the system knows none."""
    try:
        Path.home()
    except RuntimeError:
        return True
    return False


def refuse_unwritable(folder: Path, remedy: str) -> None:
    """Raise Refusal, before any work is done, where results could not be written into `folder`."""
    why = why_not_writable(folder)
    if why:
        raise Refusal(f"{why}: {remedy}")


def like(value: object, default: object) -> object:
    """Return `value` with lists and tuples as `default` has them (JSON knows lists alone)."""
    if not (isinstance(value, list | tuple) and isinstance(default, list | tuple)):
        return value
    return type(default)(like(item, default[0] if default else None) for item in value)


def parse_like(text: str, default: object) -> object:
    """Return `text` as a value of the type of `default`.

    Raises:
        ValueError: Where it is none.
    """
    if isinstance(default, bool):
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    if isinstance(default, int | float | str):
        return type(default)(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        if default is None:
            return text
        raise ValueError(text) from None
    value = like(value, default)
    if default is not None and type(value) is not type(default):
        raise ValueError(text)
    return value


def parameters_of(notebook: Path, profile: str, given: dict[str, str]) -> dict[str, object]:
    """Return the values to run `notebook` with; one without PROFILE (a scoreboard) is the same at every profile.

    Raises Refusal for a name that the notebook does not declare and for a value of the wrong type.
    """
    declared = declared_parameters(notebook)
    values: dict[str, object] = {"PROFILE": profile} if "PROFILE" in declared else {}
    for name, text in given.items():
        if name == "PROFILE":
            raise Refusal(f"set the profile with --profile {text}, not with -p PROFILE")
        if name not in declared:
            raise Refusal(
                f"{notebook.name} has no parameter {name}{did_you_mean(name, declared)}: it has "
                f"{', '.join(declared) or 'none'}"
            )
        default = declared[name]
        try:
            values[name] = parse_like(text, default)
        except (ValueError, KeyError):
            wanted = type_names.get(type(default), f"a {type(default).__name__}")
            raise Refusal(f"{notebook.name}: {name} must be {wanted} like {default!r}, not {text!r}") from None
    return values
