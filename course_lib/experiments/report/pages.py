"""The scoreboard as one page of HTML, for a column of 704 pixels or a phone, light or dark.

A line made by the machine; the papers' headline claims, of each paper those that its records can tell of, if there are
any; how far our data and networks are; the rest folded.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from course_lib.data.registry import DATASETS
from course_lib.experiments.report.claims import (
    CANNOT_TELL,
    LEANS,
    NOT_RUN,
    OPEN,
    OPPOSITE,
    SEEN,
    VERDICTS,
    Judgement,
    judge_all,
)
from course_lib.experiments.report.markdown import HOW_TO_READ, our_step, signed, tally
from course_lib.experiments.report.scoreboard import Results, chosen_results, score_rows
from course_lib.experiments.report.settings import WORDS, in_words, letters, our_setting, short_name
from course_lib.experiments.report.statistics import LEVEL
from course_lib.experiments.table import Table

LEGEND_OF_LETTERS = f"Letters: what is not the paper's: {WORDS}."
LEGEND = (
    "◇ the paper's step, ● ours with its 95 % interval, ○ one run, in points; none: the paper gives no number; right "
    f"of the line speaks for the claim; each row has a scale of its own. {LEGEND_OF_LETTERS}"
)
Cost = Callable[[Table, str], float]
KINDS = {SEEN: "seen", OPPOSITE: "opposite", LEANS: "leans", OPEN: "open", CANNOT_TELL: "cannot", NOT_RUN: "open"}
STYLE = """<style>
.claims{--seen:#00622f;--opposite:#a11122;--cannot:#7f4707;--leans:#1f4e8c;--paper:#b34d00;--ours:#0063a0;font-size:14px;
line-height:1.35}
html[data-theme=dark] .claims,[data-jp-theme-light=false] .claims{--seen:#6fdc9a;--opposite:#ff9a9a;--cannot:#f0b870;
--leans:#9cc4ff;--paper:#ffa763;--ours:#6cc1f5}
.claims table{border-collapse:collapse;width:100%;display:table;margin:.3em 0;table-layout:fixed}
.claims th:nth-child(2){width:21%}.claims th:nth-child(3){width:56px}.claims th:nth-child(4){width:94px}
.claims th:nth-child(5){width:104px}.claims th:nth-child(6){width:84px}
.claims :is(th,td){padding:4px 6px;border-bottom:1px solid #8885;text-align:left!important;vertical-align:top;
background:none;white-space:normal}.claims :is(td.n,th:nth-child(3),th:nth-child(4)){text-align:right!important}
.claims tr{background:none!important}
.claims th{font-size:12px}.claims .n{white-space:nowrap}.claims small{opacity:.85;font-size:12px}
.claims .v{font-weight:600}.claims .v small{font-weight:400}.claims .b i{font:700 10px sans-serif;border:1px solid #888;border-radius:3px;padding:0 2px;
margin-right:1px}.claims .b{white-space:nowrap}.claims summary{cursor:pointer;margin:.3em 0}.claims ul{font-size:13px;margin:.2em 0;padding-left:1.2em}
.claims p{margin:.4em 0}
.claims .seen{color:var(--seen)}.claims .opposite{color:var(--opposite)}.claims .cannot{color:var(--cannot)}
.claims .leans{color:var(--leans)}.claims h3{font-size:16px;margin:.8em 0 0}
.strip figure{display:inline-block;margin:4px 6px 4px 0;width:160px;vertical-align:top}.strip img{width:100%;
image-rendering:pixelated;filter:none}
.strip figure figcaption,.strip figcaption *{color:inherit;margin:0;line-height:1.2;opacity:1}
.rows{overflow-x:auto}.rows table{table-layout:auto}.rows :is(th,td):is(:nth-child(n)){width:auto;text-align:left!important}
@media(max-width:600px){.claims:not(.rows) thead{display:none}
.claims:not(.rows) :is(table,tbody){display:block}.claims:not(.rows) tr{display:grid;border-bottom:1px solid #8888;
grid-template-columns:88px 120px 98px minmax(0,1fr)}
.claims:not(.rows) td{border:0;padding:2px}.claims :is(.c,.v){grid-column:1/-1}
.claims .b{display:flex;flex-wrap:wrap;min-width:0}.claims .b i{height:14px;line-height:14px}
.claims td.n:nth-child(5){grid-column:3/-1}
.claims td.n::before{content:attr(data-of) " ";opacity:.8;font-size:12px}
.claims td.n{text-align:left!important}}
</style>"""


def dots(found: Judgement, width: int = 92) -> str:
    """Return an inline drawing of a step: the line in the middle, our interval and dot, the paper's diamond."""
    if found.mean is None:
        return ""
    half, step, margin = found.half or 0.0, found.paper_step, found.claim.margin
    reach = max(abs(found.mean) + half, abs(step or 0.0), margin, 0.5) * 1.1

    def x(points: float) -> float:
        return round((1 + points / reach) * width / 2, 1)

    ends = f'<line x1="{x(found.mean - half)}" x2="{x(found.mean + half)}" y1="10" y2="10" stroke-width="2"/>'
    fill = "none" if found.half is None else "var(--ours)"
    diamond = "" if step is None else f'<path d="M{x(step)} 5l5 5l-5 5l-5 -5z" fill="none" stroke="var(--paper)"/>'
    words = f"ours {our_step(found)}" + ("" if step is None else f", the paper {signed(step)}")
    return (
        f'<svg width="{width}" height="20" role="img" aria-label="{words}">'
        f'<line x1="{x(-margin)}" x2="{x(-margin)}" y1="1" y2="19" stroke="#888" stroke-dasharray="2 2"/>'
        f'<g stroke="var(--ours)" stroke-width="1.5">{ends}<circle cx="{x(found.mean)}" cy="10" r="4" fill="{fill}"/></g>'
        f"{diamond}</svg>"
    )


def claim_rows(judged: Iterable[Judgement], tables: dict[str, Results], *, reasons: bool = True) -> str:
    """Return claims as a table: claim and our data, verdict, the paper's step, ours with seeds, dots, letters."""
    lines = []
    for found in judged:
        results = tables[found.claim.table]
        reason = f"<br><small>{escape(found.reason)}</small>" if found.reason and reasons else ""
        seeds = {0: "", 1: "1 seed"}.get(len(found.seeds), f"{len(found.seeds)} seeds")
        step = "<small>none</small>" if found.paper_step is None else signed(found.paper_step)
        lines.append(
            f'<tr><td class="c">{escape(found.claim.statement)}<br><small>{where(results, found.profile)}</small></td>'
            f'<td class="v {KINDS[found.verdict]}">{found.words}{reason}</td>'
            f'<td class="n" data-of="paper">{step if found.claim.kind == "paper" else ""}</td>'
            f'<td class="n" data-of="ours">{our_step(found)}<br><small>{seeds}</small></td><td>{dots(found)}</td>'
            f'<td class="b">{"".join(f"<i>{letter}</i>" for letter in letters(results, found.profile))}</td></tr>'
        )
    heads = "".join(f"<th>{head}" for head in ("claim, our data", "verdict", "paper", "ours", "points", "differs"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def where(results: Results, profile: str) -> str:
    """Return what our records of a profile were measured on: data, split, size, profile."""
    if not profile:
        return ""
    recipe = results.leading(profile)
    title = DATASETS[recipe.dataset].title
    return f"{title} {recipe.val_split}, {recipe.height}x{recipe.width}, {profile}"


def first_line(judged: Sequence[Judgement], tables: dict[str, Results]) -> str:
    """Return how many claims of how many papers came to which verdict, and how many false ones to expect."""
    papers = [found for found in judged if found.claim.kind == "paper"]
    names = {tables[found.claim.table].table.paper for found in papers}
    counted = Counter(found.words for found in papers)
    own = sum(line.difference is not None for results in tables.values() for line in score_rows(results))
    order = dict.fromkeys(
        word for verdict in VERDICTS for word in (verdict, *sorted(counted)) if word.startswith(verdict)
    )
    words = " · ".join(f"{word} {counted[word]}" for word in order)
    return (
        f"{len(names)} paper{'' if len(names) == 1 else 's'}. Claims of theirs: {len(papers)} asked. {words[0].upper()}{words[1:]}. "
        f"With a paper's own data, split and size: {own} row{'' if own == 1 else 's'}."
    )


def expected_errors(judged: Sequence[Judgement], tables: dict[str, Results]) -> str:
    """Return how many false verdicts the tests leave to expect, were there no difference anywhere."""
    tested = [found for found in judged if found.chance is not None and found.verdict != CANNOT_TELL]
    families = {tables[found.claim.table].table.paper for found in tested if found.claim.kind == "paper"}
    others = sum(found.claim.kind != "paper" for found in tested)
    return (
        f"Were there no difference anywhere, at most {LEVEL * (len(families) + others):.1f} false verdicts are to be "
        f"expected: {LEVEL:.0%} for each of {len(families)} papers (Holm) and of {others} other claims."
    )


def scoreboard_html(records: Path | None = None, *, profile: str | None = None, cost: Cost | None = None) -> str:
    """Return the whole scoreboard.

    Args:
        cost: Gives the seconds that the missing runs of a table take at a profile.
    """
    tables = {results.table.name: results for results in chosen_results(None, records)}
    judged = judge_all(list(tables.values()), profile)
    run = [found for found in judged if found.verdict != NOT_RUN]
    parts = [f"<p><b>{first_line(judged, tables)}</b></p><p><small>{LEGEND}</small></p>"]
    for name, of_paper in by_paper([found for found in run if found.claim.kind == "paper"], tables).items():
        headlines = [found for found in of_paper if found.claim.headline]
        heads = [found for found in headlines if found.verdict != CANNOT_TELL] or headlines
        others = [found for found in of_paper if found not in heads]
        title = f"<h3>{escape(name)} <small>{tally(of_paper)}</small></h3>"
        parts.append(title + (claim_rows(heads, tables) if heads else ""))
        if others:
            parts.append(
                folded(
                    f"{len(others)} {'more ' if heads else ''}of {name}: {tally(others)}", claim_rows(others, tables)
                )
            )
    controls = [found for found in run if found.claim.kind == "control"]
    text = f"Controls, which hold where the code is right and the recipe strong enough: {tally(controls)}"
    parts.append(folded(text, claim_rows(controls, tables)))
    ours = [found for found in run if found.claim.kind == "ours"]
    parts.append(folded(f"Questions of ours: {len(ours)}: {tally(ours)}", claim_rows(ours, tables)))
    parts.append(own_data(tables))
    parts.append("<h3>How far from the papers</h3>" + how_far(tables))
    theirs = sum(found.claim.kind == "paper" for found in judged) - sum(found.claim.kind == "paper" for found in run)
    text = f"Not run: {len(judged) - len(run)} claims, {theirs} of them the papers', with the commands"
    parts.append(folded(text, not_run(judged, tables, cost)))
    parts.append(folded("How the verdicts are made", reading() + f"<p>{expected_errors(judged, tables)}</p>"))
    return f'{STYLE}<div class="claims">{"".join(parts)}</div>'


def by_paper(judged: Iterable[Judgement], tables: dict[str, Results]) -> dict[str, list[Judgement]]:
    """Return the judgements by the short name of their paper, in the order of the lectures."""
    groups: dict[str, list[Judgement]] = {}
    for found in sorted(judged, key=lambda found: tables[found.claim.table].table.lecture):
        groups.setdefault(short_name(tables[found.claim.table].table), []).append(found)
    return groups


def reading() -> str:
    """Return how to read the page, as HTML."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(HOW_TO_READ))
    parts = [re.split(r"\n\* |^\* ", part) for part in text.split("\n\n")]
    return "".join(
        f"<p>{part[0]}</p>" if len(part) == 1 else f"<ul>{''.join(f'<li>{item}</li>' for item in part if item)}</ul>"
        for part in parts
    )


def folded(summary: str, content: str) -> str:
    """Return content that opens by a click on its summary."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def own_data(tables: dict[str, Results]) -> str:
    """Return the rows that were measured on a paper's own data, with the difference and its interval."""
    lines = [
        f'<tr><td class="c">{escape(line.label)}<br><small>{escape(line.paper_data)}, {line.profile}, '
        f'{len(line.values)} seed{"" if len(line.values) == 1 else "s"}</small></td><td class="v">{line.verdict}</td>'
        f'<td class="n" data-of="paper">{line.paper_value:.1f}</td><td class="n" data-of="ours">{line.mean:.1f}</td>'
        f'<td class="n" data-of="difference">{signed(line.difference, line.half)}</td></tr>'
        for results in tables.values()
        for line in score_rows(results)
        if line.difference is not None
    ]
    heads = "".join(f"<th>{head}" for head in ("row", "verdict", "paper", "ours", "difference, 95 %"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<h3>On a paper's own data</h3>{table}" if lines else ""


def how_far(tables: dict[str, Results]) -> str:
    """Return a line a paper: its data, size, start and length, and ours; those of its further tables are folded."""
    first: dict[str, str] = {}
    more: list[str] = []
    for results in tables.values():
        table = results.table
        for profile in results.recorded() if table.setting else ():
            paper, ours = in_words(table.setting["paper"]), in_words(our_setting(results, profile))
            line = f"<li><b>{escape(short_name(table))}</b>: {escape(paper)} → {escape(ours)} ({profile})</li>"
            if first.setdefault(short_name(table), line) != line:
                more.append(line)
    rest = folded(f"How far in {len(more)} further tables of theirs", f"<ul>{''.join(more)}</ul>") if more else ""
    return f"<ul>{''.join(first.values())}</ul>{rest}"


def missing(judged: Iterable[Judgement], tables: dict[str, Results]) -> list[tuple[str, int, str]]:
    """Return (table, claims that nobody has run, the command that runs them)."""
    counted = Counter(found.claim.table for found in judged if found.verdict == NOT_RUN)
    return [
        (name, count, f"course reproduce {name} --profile {smallest_profile(tables[name].table)} --seeds 3")
        for name, count in counted.items()
    ]


def smallest_profile(table: Table) -> str:
    """Return "laptop", or "gpu" where the table has no other profile with results."""
    return "laptop" if "laptop" in table.profiles else "gpu"


def not_run(judged: Sequence[Judgement], tables: dict[str, Results], cost: Cost | None) -> str:
    """Return a line a table: how many claims nobody has run, the command that runs them and what it takes."""
    lines, hours = [], {"laptop": "hours of a CPU", "gpu": "hours of a GPU"}
    for name, count, command in missing(judged, tables):
        table = tables[name].table
        profile = smallest_profile(table)
        takes = "" if cost is None else f": about {cost(table, profile) / 3600:.1f} {hours[profile]}"
        claims = f"{count} claim{'' if count == 1 else 's'}"
        lines.append(f"<li>{escape(table.title)}: {claims}, <code>{command}</code>{takes}</li>")
    return f"<ul>{''.join(lines)}</ul>"
