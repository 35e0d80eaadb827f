"""Tables: one TOML file each, written by hand, read once and checked once.

Keys of a file::

    title, paper, place          of the table, the paper and the numbers in it; short, what the paper is called
    lecture                      the number of the lecture that it belongs to, as a text
    paper_data                   what the paper's numbers were measured on, in words
    same_data                    "set split HxW" of ours that is the paper's own; without it the paper's numbers
                                 are of other data, and no difference is taken
    metric, unit                 a metric of `METRICS`; the unit is "%"
    departures                   what differs from the paper, a sentence each
    [recipe]                     the paper's settings: fields of the classes in `experiments.recipes`, and `task`
    [profiles.P]                 what changes for that size of machine
    [rows.R]                     label, paper_value (left out where none is published), recipe, and quick,
                                 laptop, gpu: what changes for this row; metric, where it is not the table's; of,
                                 the row whose runs it reads another metric of: such a row has no recipe
    smallest                     points: the smallest step that matters (0.3)
    [setting.paper]              data, split, size, start, network, epochs: a text each, "not given" where it is not
    [setting.laptop], .gpu       network, in words; the rest is read from the recipe
    [[claims]]                   id, statement, better, worse (two rows); kind: the paper's, a "control" that must
                                 hold, or "ours"; headline = true for what the paper is known for; metric, where it
                                 is not that of the rows; at_least = true for "no worse", with margin (points that
                                 still count as no worse); nested = true where `better` contains the network `worse`;
                                 room, two rows whose difference is all that could be won

The paper's part is left out where the table repeats no paper's.
"""

import re
import tomllib
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from course_lib.experiments.layers import recipes_of
from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.recipe import Recipe, RecipeError
from course_lib.experiments.recipes import SelfCorrectionRecipe
from course_lib.plumbing.suggest import did_you_mean

PROFILES = ("quick", "laptop", "gpu")
RESULT_PROFILES = PROFILES[1:]
TABLES = Path(__file__).parent / "tables"
UNIT = "%"
MARGIN = 1.0
"""Points that still count as no worse, where a claim with `at_least` gives no margin."""
SMALLEST = 0.3
"""Points: the smallest step that matters, where the table says no other."""
TABLE_KEYS = {
    "title": str, "paper": str, "place": str, "paper_data": str, "same_data": str, "metric": str, "unit": str,
    "departures": list, "recipe": dict, "profiles": dict, "rows": dict, "claims": list, "smallest": float,
    "setting": dict, "short": str, "lecture": str,
}  # fmt: skip
ROW_KEYS = {"label": str, "paper_value": float, "metric": str, "of": str} | dict.fromkeys(("recipe", *PROFILES), dict)
CLAIM_KEYS = {
    **dict.fromkeys(("id", "kind", "statement", "better", "worse", "metric"), str),
    **dict.fromkeys(("headline", "at_least", "nested"), bool),
    "margin": float,
    "room": list,
}
KINDS = ("paper", "control", "ours")
SETTING = ("data", "split", "size", "start", "network", "epochs")
WORDS = {str: "a text", float: "a number", dict: "a table", list: "a list", bool: "true or false"}
NAME = re.compile(r"[A-Za-z0-9_]+")  # names of rows become names of files


class Row(typing.NamedTuple):
    """A row of a table.

    Attributes:
        runs: The row whose runs hold its numbers: itself, unless it reads another's.
        paper_value: In percent; None where none is published.
    """

    name: str
    label: str
    runs: str
    metric: str
    paper_value: float | None


@dataclass(frozen=True)
class Claim:
    """A statement about two rows of a table.

    Attributes:
        metric: Of the better row; `worse_metric` of the worse one ("": the same).
        margin: Points by which `better` may be worse; 0 where the claim is "better".
        kind: "paper"; "control", which must hold where the code is right; "ours", which no paper makes.
        nested: Whether the better row's network contains the worse one's.
        room: Two rows, (best, least): no method between them can win more than their difference.
    """

    table: str
    id: str
    statement: str
    better: str
    worse: str
    metric: str
    margin: float = 0.0
    worse_metric: str = ""
    kind: str = "paper"
    headline: bool = False
    nested: bool = False
    room: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table as its file gives it; the fields are those of the file.

    Attributes:
        recipes: {(row, profile): recipe with seed 0} of every row that has runs of its own.
    """

    name: str
    title: str
    profiles: tuple[str, ...]
    rows: dict[str, Row]
    claims: tuple[Claim, ...]
    recipes: dict[tuple[str, str], Recipe]
    metric: str
    paper: str
    short: str
    lecture: str
    place: str
    paper_data: str
    same_data: str
    departures: tuple[str, ...]
    smallest: float
    setting: dict[str, dict[str, str]]

    @classmethod
    def read(cls, name: str, tables: Path | None = None) -> "Table":
        """Read and check table `name` of the folder `tables` (the course's).

        Raises:
            RecipeError: With everything that is wrong, a sentence each: file, key, reason.
        """
        content = _content(name, tables)
        problems = list(_head_problems(content))
        if not problems:
            problems = [problem for row in content["rows"] for problem in _row_problems(row, content)]
            problems += _claims_problems(content)
            recipes = recipes_of(name, content, problems)
        if not problems:
            table = cls._of(name, content, recipes)
            problems = [*table._not_measured(), *table._strange_ancillaries(), *table._without_checkpoints()]
        if problems:
            raise RecipeError(*(f"{name}.toml: {problem}" for problem in dict.fromkeys(problems)))
        return table

    @classmethod
    def _of(cls, name: str, content: dict, recipes: dict[tuple[str, str], Recipe]) -> "Table":
        metric = content.get("metric", "mean_iou")
        rows = {
            row: Row(row, about["label"], about.get("of", row), about.get("metric", metric), about.get("paper_value"))
            for row, about in content["rows"].items()
        }
        words = {
            key: content.get(key, "")
            for key in ("title", "paper", "short", "lecture", "place", "paper_data", "same_data")
        }
        return cls(
            name=name,
            profiles=tuple(content["profiles"]),
            rows=rows,
            claims=tuple(_claim(name, entry, rows) for entry in content.get("claims", [])),
            recipes=recipes,
            metric=metric,
            departures=tuple(content.get("departures", [])),
            smallest=float(content.get("smallest", SMALLEST)),
            setting=content.get("setting", {}),
            **words,
        )

    @property
    def scored(self) -> bool:
        """Whether it repeats a paper or makes claims."""
        return bool(self.paper or self.claims)

    def recipe(self, row: str, profile: str, seed: int = 0) -> Recipe:
        """Return the recipe of a row's runs.

        Raises:
            RecipeError: For a row or profile that the table does not have.
        """
        where = f"{self.name}.toml: "
        if row not in self.rows:
            known = ", ".join(self.rows)
            raise RecipeError(f"{where}no row {row!r}{did_you_mean(row, self.rows)}; the rows are {known}")
        if profile not in PROFILES:
            known = ", ".join(PROFILES)
            raise RecipeError(f"profile {profile!r}{did_you_mean(profile, PROFILES)}; the profiles are {known}")
        if profile not in self.profiles:
            raise RecipeError(f"{where}[profiles.{profile}] is missing")
        return replace(self.recipes[self.rows[row].runs, profile], seed=seed)

    def _not_measured(self) -> Iterator[str]:
        compared = []
        for claim in self.claims:
            compared += [(self.rows[row].runs, claim.metric) for row in (claim.better, *claim.room)]
            compared.append((self.rows[claim.worse].runs, claim.worse_metric or claim.metric))
        for (row, profile), recipe in self.recipes.items():
            asked = {self.metric, *(other.metric for other in self.rows.values() if other.runs == row)}
            for metric in sorted(asked | {metric for runs, metric in compared if runs == row}):
                needed = METRICS[metric].measure
                if needed and needed not in getattr(recipe, "measures", []):
                    yield f"row {row!r} at {profile!r}: metric {metric!r} needs measures = [{needed!r}]"

    def _strange_ancillaries(self) -> Iterator[str]:
        """Yield the rows whose settings differ from those of the ancillary row they depend on."""
        for (row, profile), recipe in self.recipes.items():
            if isinstance(recipe, SelfCorrectionRecipe) and recipe.needs_ancillary:
                needed, where = recipe.ancillary(), f"row {row!r} at {profile!r}: "
                if needed.row not in self.rows:
                    yield f"{where}its ancillary network has no row {needed.row!r}"
                elif self.recipes[needed.row, profile] != needed:
                    yield f"{where}the row {needed.row!r} has other settings than this row's ancillary network"

    def _without_checkpoints(self) -> Iterator[str]:
        for (row, profile), recipe in self.recipes.items():
            if profile != "quick" and recipe.steps and not recipe.checkpoint_every:
                yield f"row {row!r} at {profile!r}: checkpoint_every is missing: a run that is killed would start over"


def resolve(table: str, row: str, profile: str, seed: int = 0, tables: Path | None = None) -> Recipe:
    """Return the recipe of one row of a table at a profile.

    Raises:
        RecipeError: With everything that is wrong with the table, or with what is asked of it.
    """
    return Table.read(table, tables).recipe(row, profile, seed)


def table_names(tables: Path | None = None) -> list[str]:
    """Return the names of all tables."""
    return sorted(file.stem for file in (tables or TABLES).glob("*.toml"))


def read_tables() -> list[Table]:
    """Return all tables of the course."""
    return [Table.read(name) for name in table_names()]


def _content(name: str, tables: Path | None) -> dict:
    path = (tables or TABLES) / f"{name}.toml"
    if not path.exists():
        known = table_names(tables)
        raise RecipeError(f"no table {name!r}{did_you_mean(name, known)}; the tables are {', '.join(known)}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name}: {error}") from error


def _claim(table: str, entry: dict, rows: dict[str, Row]) -> Claim:
    better, worse = (entry.get("metric", rows[entry[side]].metric) for side in ("better", "worse"))
    return Claim(
        table,
        *(entry[key] for key in ("id", "statement", "better", "worse")),
        metric=better,
        margin=float(entry.get("margin", MARGIN)) if entry.get("at_least") else 0.0,
        worse_metric="" if worse == better else worse,
        room=tuple(entry.get("room", ())),
        **{key: entry[key] for key in ("kind", "headline", "nested") if key in entry},
    )


# -- what may be wrong outside of the recipes ----------------------------------------------------------


def _head_problems(content: dict) -> Iterator[str]:
    wrong = list(_wrong_keys("", content, TABLE_KEYS, ("title", "profiles", "rows")))
    yield from wrong
    if wrong:
        return
    for profile, changes in content["profiles"].items():
        if profile not in PROFILES:
            yield f"[profiles.{profile}]: unknown profile{did_you_mean(profile, PROFILES)}"
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
    if not content["rows"]:
        yield "[rows]: there is none"
    for whose, about in content.get("setting", {}).items():
        known = SETTING if whose == "paper" else ("network",) if whose in RESULT_PROFILES else ()
        if not isinstance(about, dict) or not known:
            yield f"[setting.{whose}] must be a table, and of paper, {' or '.join(RESULT_PROFILES)}"
        else:
            yield from _wrong_keys(f"[setting.{whose}] ", about, dict.fromkeys(known, str), known)


def _row_problems(name: str, content: dict) -> Iterator[str]:
    row, rows, where = content["rows"][name], content["rows"], f"[rows.{name}] "
    if not NAME.fullmatch(name):
        yield f"{where}has a name that is not of letters, digits and _"
    if not isinstance(row, dict):
        yield f"{where}must be a table"
        return
    yield from _wrong_keys(where, row, ROW_KEYS, ("label",))
    yield from _wrong_metric(where, row)
    if "of" in row:
        runs = {other for other, about in rows.items() if isinstance(about, dict) and "of" not in about}
        if row["of"] not in runs:
            yield f"{where}of is {row['of']!r}, which is no row with runs{did_you_mean(str(row['of']), runs)}"
        if "metric" not in row:
            yield f"{where}metric is missing: what does it read of {row['of']!r}?"
        for key in ("recipe", *PROFILES):
            if key in row:
                yield f"{where}{key}: a row that reads the runs of {row['of']!r} has none of its own"
    value = row.get("paper_value")
    if isinstance(value, int | float):
        if not 0 <= value <= 100:
            yield f"{where}paper_value is {value!r}, but must be between 0 and 100 {UNIT}"
        missing = [key for key in ("paper", "place", "paper_data", "metric", "unit") if key not in content]
        if missing:
            yield f"{where}paper_value is given, but the table does not say {', '.join(missing)}"


def _claims_problems(content: dict) -> Iterator[str]:
    known: set[str] = set()
    for number, claim in enumerate(content.get("claims", []), start=1):
        where = f"[[claims]] {number}: "
        wrong = [f"{where}must be a table"]
        if isinstance(claim, dict):
            wrong = list(_wrong_keys(where, claim, CLAIM_KEYS, ("id", "kind", "statement", "better", "worse")))
        yield from wrong
        if wrong:
            continue
        yield from _wrong_metric(where, claim)
        for side in ("better", "worse"):
            if claim[side] not in content["rows"]:
                yield f"{where}{side} is {claim[side]!r}, which is no row{did_you_mean(claim[side], content['rows'])}"
        room = claim.get("room", content["rows"])
        if not set(room) <= set(content["rows"]) or ("room" in claim and len(room) != 2):
            yield f"{where}room is {room!r}, but must be two rows"
        if claim["kind"] not in KINDS:
            yield f"{where}kind is {claim['kind']!r}, but must be one of {', '.join(KINDS)}"
        if claim["better"] == claim["worse"]:
            yield f"{where}better and worse are the same row"
        if claim["id"] in known:
            yield f"{where}the id {claim['id']!r} is taken"
        if "margin" in claim and not claim.get("at_least"):
            yield f"{where}margin is for claims with at_least = true"
        if claim.get("margin", 0) < 0:
            yield f"{where}margin is {claim['margin']!r}, but must be 0 or more"
        known.add(claim["id"])


def _wrong_keys(where: str, given: dict, known: dict[str, type], needed: Iterable[str]) -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            yield f"{where}{key}: unknown key{did_you_mean(key, known)}"
            continue
        wanted = known[key]
        accepted = (int, float) if wanted is float else wanted
        if not isinstance(value, accepted) or (wanted is float and isinstance(value, bool)):
            yield f"{where}{key} is {value!r}, but must be {WORDS[wanted]}"
    for key in needed:
        if key not in given:
            yield f"{where}{key} is missing"


def _wrong_metric(where: str, given: dict) -> Iterator[str]:
    metric = given.get("metric", "mean_iou")
    if metric not in METRICS:
        yield f"{where}metric is {metric!r}, which no run measures{did_you_mean(str(metric), METRICS)}"
