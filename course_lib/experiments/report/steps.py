"""One table on its page: its rows beside the paper's, its claims with their steps, and, folded, what differs."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from html import escape
from itertools import product
from pathlib import Path
from statistics import fmean

from IPython.display import HTML
from PIL import Image

from course_lib.data.registry import DATASETS
from course_lib.data.sample import DataError
from course_lib.experiments.building import open_split
from course_lib.experiments.layers import KEYS
from course_lib.experiments.recipe import Recipe
from course_lib.experiments.report.claims import NOT_RUN, Judgement, decide, judgements, measured
from course_lib.experiments.report.markdown import caption, level_lines, our_step, setting_in_words, tally
from course_lib.experiments.report.pages import LEGEND, STYLE, claim_rows, folded, missing
from course_lib.experiments.report.scoreboard import Results, read_results
from course_lib.experiments.report.settings import our_setting
from course_lib.experiments.strips import WIDTH, strip_paths
from course_lib.experiments.table import SETTING, Table

MANY = 4
"""Claims of a paper that are all shown unfolded."""
FIRST = 3
"""Departures that are shown unfolded: the ones that decide."""


def rows_beside_the_papers(table: str) -> HTML:
    """Show the rows of a table: the paper's number, ours, the floors; all that is the same stands below.

    Rows that the paper has no number of are folded where there are many.
    """
    return as_rows(rows_of(read_results(Table.read(table)), MANY))


def rows_of_all(*tables: str) -> HTML:
    """Show the rows of companion tables as `rows_beside_the_papers` does, each table folded once, under its title."""
    read = [read_results(Table.read(name)) for name in tables]
    return as_rows("".join(folded(f"All rows: {one.table.title}", rows_of(one)) for one in read))


def rows_of(results: Results, many: int | None = None) -> str:
    """Return the rows of a table with their caption, as HTML.

    Args:
        many: More rows than this that the paper has no number of are folded; None: they stay in their places.
    """
    heads, lines = level_lines(results, results.recorded())
    if not lines:
        return "<p><small>No row of this table has been run, and no paper has a number of one.</small></p>"
    ours = [line for line in lines if not line[1]] if "paper" in heads else []
    folds = many is not None and many < len(ours) < len(lines)
    parts = [plain_table(heads, [line for line in lines if not folds or line not in ours])]
    if folds:
        parts.append(
            folded(f"{len(ours)} rows that the paper has no number of, floors among them", plain_table(heads, ours))
        )
    parts.append(f"<p><small>{escape(caption(results, results.recorded()))}</small></p>")
    return "".join(parts)


def answers_of_all_rows(*tables: str) -> HTML:
    """Show one image of each table through every row that has kept its answer (seed 0), or say that none has."""
    strips: dict[tuple[str, str], dict[str, Path]] = {}
    recipes: dict[tuple[str, str], Recipe] = {}
    for results in (read_results(Table.read(table)) for table in tables):
        for profile, row in product(results.recorded(), results.table.rows):
            recipe = results.table.recipe(row, profile)
            paths = strip_paths(recipe)
            answer = paths.pop("answer")
            if 0 in results.valid.get((row, profile), {}) and answer.exists():
                about = f"{DATASETS[recipe.dataset].title} {recipe.val_split}, {profile}, seed 0"
                strip = (results.table.title, about)
                recipes.setdefault(strip, recipe)
                strips.setdefault(strip, paths)[results.table.rows[row].label] = answer
    parts = [] if strips else ["<p><small>No run of these tables has kept a picture of its answer.</small></p>"]
    several = len({title for title, _ in strips}) > 1
    for (title, about), shown in strips.items():
        of = f" ({escape(title)})" if several else ""
        parts.append(f"<p><small>One image through every row that kept its answer: {about}{of}</small></p>")
        for key, path in shown.items():
            name = {"picture": "image", "truth": "ground truth"}.get(key, key)
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(
                f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
                f"<figcaption><small>{escape(name)}</small></figcaption></figure>"
            )
        maps = [path for name, path in shown.items() if name != "picture"]
        parts.append(colours_of(recipes[title, about], maps))
    return HTML(f'{STYLE}<div class="claims strip">{"".join(parts)}</div>')


def colours_of(recipe: Recipe, maps: Iterable[Path]) -> str:
    """Return a legend of the colours in drawn maps of the recipe's set, as HTML; "" where the set is not here."""
    try:
        pictures = open_split(recipe, recipe.val_split, cache=False)
    except DataError:
        return ""
    shown = set()
    for path in maps:
        with Image.open(path) as image:
            shown |= {colour for _, colour in image.convert("RGB").getcolors(WIDTH * image.height)}
    names = {tuple(colour): name for name, colour in zip(pictures.classes, pictures.palette.tolist(), strict=True)}
    names.setdefault((255, 255, 255), "not counted")
    spots = [
        f'<span style="background: rgb{colour}; border: 1px solid gray; padding: 0 0.6em"></span> {escape(name)}'
        for colour, name in names.items()
        if colour in shown
    ]
    return f'<p style="font-size: smaller">{" &ensp; ".join(spots)}</p>'


def as_rows(text: str) -> HTML:
    """Show HTML in the type of these tables, as wide as the page."""
    return HTML(f'{STYLE}<div class="claims rows">{text}</div>')


def plain_table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return texts as a table of HTML."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    rows = ["".join(f"<td>{escape(cell.strip('*'))}</td>" for cell in line) for line in lines]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def steps_beside_the_papers(*tables: str) -> HTML:
    """Show the claims of tables that have records: verdict, the paper's step, ours with its interval, what differs.

    The paper's claims in full, those that are no headlines folded where they are many, as are controls and questions
    of the course; then the commands for what is not run.
    """
    results = {name: read_results(Table.read(name)) for name in tables}
    judged = [found for name in tables for found in judgements(name)]
    run = [found for found in judged if found.verdict != NOT_RUN]
    papers = sorted((found for found in run if found.claim.kind == "paper"), key=lambda found: not found.claim.headline)
    shown = papers if len(papers) <= MANY else [found for found in papers if found.claim.headline]
    groups = {
        "More of the paper": papers[len(shown) :],
        "Controls": [found for found in run if found.claim.kind == "control"],
        "Questions of ours": [found for found in run if found.claim.kind == "ours"],
    }
    parts = [claim_rows(shown, results)] if shown else []
    for title, group in groups.items():
        if group:
            text = claim_rows(group, results)
            parts.append(folded(f"{title}: {tally(group)}", text) if shown or len(group) > MANY else text)
    if parts and not parts[0].startswith("<details>"):
        parts.insert(0, f"<p><small>{LEGEND}</small></p>")
    for name, count, command in missing(judged, results):
        title = escape(results[name].table.title)
        parts.append(f"<p>{title}: {count} claim{'' if count == 1 else 's'} not run: <code>{command}</code></p>")
    return HTML(f'{STYLE}<div class="claims">{"".join(parts)}</div>')


def what_differs(table: str) -> HTML:
    """Show what is not as in the paper: what decides first, the rest folded, and the recipes side by side."""
    departures = [f"<li>{escape(text)}</li>" for text in Table.read(table).departures]
    rest = departures[FIRST:]
    more = folded(f"{len(rest)} more", f"<ul>{''.join(rest)}</ul>") if rest else ""
    return as_rows(f"<ul>{''.join(departures[:FIRST])}</ul>{more}{recipes_compared(table)}")


def recipes_compared(table: str) -> str:
    """Return, folded, the settings of the paper beside ours at each profile: those that are not neutral."""
    results = read_results(Table.read(table))
    about = results.table
    profiles = [profile for profile in ("laptop", "gpu") if profile in about.profiles]
    lines = [
        [
            key,
            about.setting.get("paper", {}).get(key, ""),
            *(our_setting(results, profile)[key] for profile in profiles),
        ]
        for key in SETTING
    ]
    recipes = [results.leading(profile) for profile in profiles]
    settings = [not_neutral(recipe) for recipe in recipes]
    for name in dict.fromkeys(name for of_profile in settings for name in of_profile):
        lines.append([name, "", *(of_profile.get(name, "") for of_profile in settings)])
    table_text = plain_table(("setting", "paper", *profiles), lines)
    whose = " and ".join(dict.fromkeys(about.rows[recipe.row].label for recipe in recipes))
    return folded(f"The recipe of {whose}: the paper beside {' and '.join(profiles)}", table_text)


def not_neutral(recipe: Recipe) -> dict[str, str]:
    """Return the settings of a recipe, in words, that are not what they are where a table says nothing."""
    hidden = {*KEYS, "checkpoint_every", "dataset", "height", "width", "val_split", "steps"}
    values, found = recipe.settings(), {}
    for field in fields(recipe):
        neutral = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in hidden and getattr(recipe, field.name) != neutral:
            found[field.name] = setting_in_words(field.name, values[field.name])
    return found


def recorded_order(table: str, rows: Iterable[str], profile: str = "laptop", records: Path | None = None) -> list[str]:
    """Return rows of a table from the lowest to the highest mean of their recorded metric.

    Args:
        table: Its name, such as "fcn_skips".
        rows: Rows of it that have records.
        profile: "laptop" or "gpu".
        records: The folder of the records, `results/` unless another is named.
    """
    results = read_results(Table.read(table), records)
    means = {row: results.values(row, profile, results.table.rows[row].metric).values() for row in rows}
    return sorted(means, key=lambda row: fmean(means[row]))


def is_recorded_order(table: str, order: Sequence[str]) -> bool:
    """Return whether rows are in `recorded_order`: for a guess, whose check should not print the answer."""
    return list(order) == recorded_order(table, sorted(order))


def judge_runs(table: str, claim: str, better: Mapping[int, float], worse: Mapping[int, float]) -> Judgement:
    """Return the verdict that runs of one's own give on a claim of a table, and print it.

    Args:
        better: {seed: value in percent} of the row that the claim calls better; `worse` of the other one.
    """
    asked = next(one for one in Table.read(table).claims if one.id == claim)
    found = decide(measured(asked, better, worse))
    reason = f" ({found.reason})" if found.reason else ""
    print(f"{asked.statement}: {our_step(found)} points, {len(found.seeds)} seed(s): {found.words}{reason}")
    return found
