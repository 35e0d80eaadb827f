"""Tables as they are written: one TOML file each, what it may say, and what is wrong with one.

    title, paper, place          of the table, the paper and the numbers in it
    paper_data                   what the paper's numbers were measured on, in words
    same_data                    "set split HxW" of ours that is the paper's own; without it the paper's
                                 numbers are of other data, and no difference is taken
    metric, unit                 a metric of `METRICS`; the unit is "%"
    departures                   what differs from the paper, a sentence each
    [recipe], [profiles.P]       see `course_lib.experiments.recipes`
    [rows.R]                     label, paper_value (left out where none is published), recipe, and
                                 quick, laptop, gpu: what changes for this row; metric, where it is not the
                                 table's; of, the row whose runs it reads another metric of: such a row has
                                 no recipe
    [[claims]]                   see `course_lib.experiments.claims`

The paper's part is left out where the table repeats no paper's.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

PROFILES = ("quick", "laptop", "gpu")
TABLES = Path(__file__).parent / "tables"
METRICS = {
    "mean_iou": "mIoU",
    "overall_accuracy": "overall accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "pixel_error": "pixel error",
    "rand_error": "Rand error",
    "corrupted_mean_iou": "corrupted mIoU",
    "end_1": "END, mode 1",
    "end_2": "END, mode 2",
    "ece": "calibration error",
    "unseen_auroc": "AUROC of unseen objects",
    "encoded_accuracy": "accuracy with the encoded code",
    "zero_code_accuracy": "accuracy with the zero code",
    "random_accuracy": "accuracy with random codes",
    "code_gain": "accuracy that the encoded code gains",
    "codes_show_both": "pictures whose codes show both labelings",
    "codes_ged": "energy distance of random codes",
    "zero_ged": "energy distance of the zero code",
}
TOLD = ("road", "pavement", "building")  # the classes whose true region the CVAE is told
METRICS |= {f"zero_code_others_than_{told}_iou": f"mIoU without {told}, zero code" for told in TOLD}
METRICS |= {
    f"{told}_{way}_{number}": f"{words.format(told)}, {told} {way.replace('_', ', then ')}"
    for told in TOLD
    for way in ("replaced", "optimised", "optimised_replaced")
    for number, words in (("accuracy", "accuracy"), ("others_iou", "mIoU without {}"))
}
LOWER_IS_BETTER = {"pixel_error", "rand_error", "end_1", "end_2", "ece", "codes_ged", "zero_ged"}
UNIT = "%"

TABLE_KEYS = {
    "title": str,
    "paper": str,
    "place": str,
    "paper_data": str,
    "same_data": str,
    "metric": str,
    "unit": str,
    "departures": list,
    "recipe": dict,
    "profiles": dict,
    "rows": dict,
    "claims": list,
}
ROW_KEYS = {"label": str, "paper_value": float, "metric": str, "of": str, "recipe": dict} | dict.fromkeys(
    PROFILES, dict
)
CLAIM_KEYS = {
    "id": str,
    "statement": str,
    "better": str,
    "worse": str,
    "metric": str,
    "at_least": bool,
    "margin": float,
}
WORDS = {str: "a text", float: "a number", dict: "a table", list: "a list", bool: "true or false"}
NAME = re.compile(r"[A-Za-z0-9_]+")  # names of rows become names of files


class RecipeError(ValueError):
    """A table or recipe that makes no sense. The message names the file, the key and the reason."""


def table_names(folder: Path | None = None) -> list[str]:
    """The names of all tables."""
    return sorted(file.stem for file in (folder or TABLES).glob("*.toml"))


def read_table(name: str, folder: Path | None = None) -> dict:
    """The TOML of table `name`, as it stands. Raises RecipeError for an unknown or unreadable one."""
    path = (folder or TABLES) / f"{name}.toml"
    if not path.exists():
        known = table_names(folder)
        raise RecipeError(f"no table {name!r}{suggest(name, known)}; the tables are {', '.join(known)}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name}: {error}") from error


def layout_problems(name: str, content: dict) -> list[str]:
    """What is wrong with a table outside its recipes, a sentence each: file, key, reason."""
    return [f"{name}.toml: {problem}" for problem in _layout_problems(content)]


def _layout_problems(content: dict) -> Iterator[str]:
    wrong = list(_wrong_keys("", content, TABLE_KEYS, ("title", "profiles", "rows")))
    yield from wrong
    if wrong:
        return
    for profile, changes in content["profiles"].items():
        if profile not in PROFILES:
            yield f"[profiles.{profile}]: unknown profile{suggest(profile, PROFILES)}"
        elif not isinstance(changes, dict):
            yield f"[profiles.{profile}] is {changes!r}, but must be a table"
    yield from _wrong_metric("", content)
    if content.get("unit", UNIT) != UNIT:
        yield f'unit is {content["unit"]!r}, but must be "{UNIT}"'
    if not all(isinstance(sentence, str) for sentence in content.get("departures", [])):
        yield "departures must be a list of texts"
    same = content.get("same_data")
    if same is not None and not re.fullmatch(r"\w+ \w+ \d+x\d+", same):
        yield f'same_data is {same!r}, but must be "set split HxW", such as "camvid test 360x480"'
    rows = content["rows"]
    if not rows:
        yield "[rows]: there is none"
    for name, row in rows.items():
        where = f"[rows.{name}] "
        if not NAME.fullmatch(name):
            yield f"{where}has a name that is not of letters, digits and _"
        if not isinstance(row, dict):
            yield f"{where}must be a table"
            continue
        yield from _wrong_keys(where, row, ROW_KEYS, ("label",))
        yield from _wrong_metric(where, row)
        if "of" in row:
            yield from _wrong_reader(where, row, rows)
        value = row.get("paper_value")
        if isinstance(value, int | float):
            if not 0 <= value <= 100:
                yield f"{where}paper_value is {value!r}, but must be between 0 and 100 {UNIT}"
            missing = [key for key in ("paper", "place", "paper_data", "metric", "unit") if key not in content]
            if missing:
                yield f"{where}paper_value is given, but the table does not say {', '.join(missing)}"
    known: set[str] = set()
    for number, claim in enumerate(content.get("claims", []), start=1):
        where = f"[[claims]] {number}: "
        if not isinstance(claim, dict):
            yield f"{where}must be a table"
            continue
        wrong = list(_wrong_keys(where, claim, CLAIM_KEYS, ("id", "statement", "better", "worse")))
        yield from wrong
        if wrong:
            continue
        yield from _wrong_metric(where, claim)
        for side in ("better", "worse"):
            if claim[side] not in rows:
                yield f"{where}{side} is {claim[side]!r}, which is no row{suggest(claim[side], rows)}"
        if claim["better"] == claim["worse"]:
            yield f"{where}better and worse are the same row"
        if claim["id"] in known:
            yield f"{where}the id {claim['id']!r} is taken"
        if "margin" in claim and not claim.get("at_least"):
            yield f"{where}margin is for claims with at_least = true"
        if claim.get("margin", 0) < 0:
            yield f"{where}margin is {claim['margin']!r}, but must be 0 or more"
        known.add(claim["id"])


def _wrong_keys(where: str, found: dict, known: dict[str, type], required: Iterable[str]) -> Iterator[str]:
    for key, value in found.items():
        if key not in known:
            yield f"{where}{key}: unknown key{suggest(key, known)}"
            continue
        wanted = known[key]
        accepted = (int, float) if wanted is float else wanted
        if not isinstance(value, accepted) or (wanted is float and isinstance(value, bool)):
            yield f"{where}{key} is {value!r}, but must be {WORDS[wanted]}"
    for key in required:
        if key not in found:
            yield f"{where}{key} is missing"


def _wrong_reader(where: str, row: dict, rows: dict) -> Iterator[str]:
    """What is wrong with a row that reads another row's runs."""
    runs = {name for name, other in rows.items() if isinstance(other, dict) and "of" not in other}
    if row["of"] not in runs:
        yield f"{where}of is {row['of']!r}, which is no row with runs{suggest(str(row['of']), runs)}"
    if "metric" not in row:
        yield f"{where}metric is missing: what does it read of {row['of']!r}?"
    for key in ("recipe", *PROFILES):
        if key in row:
            yield f"{where}{key}: a row that reads the runs of {row['of']!r} has none of its own"


def run_of(content: dict, row: str) -> str:
    """The row whose runs hold the numbers of `row`: itself, unless it says `of`."""
    return content["rows"][row].get("of", row)


def metric_of(content: dict, row: str) -> str:
    """The metric of a row: the table's, unless the row says another."""
    return content["rows"][row].get("metric", content.get("metric", "mean_iou"))


def _wrong_metric(where: str, found: dict) -> Iterator[str]:
    metric = found.get("metric", "mean_iou")
    if metric not in METRICS:
        yield f"{where}metric is {metric!r}, which no run measures{suggest(metric, METRICS)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' where something known is spelt almost like `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
