"""The generated parts of README and TEACHING: contents, times, goals, results. `make readme` makes them anew."""

import re
from functools import partial

from course_lib.experiments.report.markdown import claims_markdown, results_markdown, scoreboard_markdown
from course_lib.notebook_tools.contents import contents_markdown
from course_lib.notebook_tools.teaching import NOTEBOOKS, takes_markdown, write_picture, write_spent
from course_lib.notebook_tools.times import record_times, times_markdown
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT

MAKERS = {
    "contents": partial(contents_markdown, "notebooks/{name}"),
    "times": times_markdown,
    "takes": takes_markdown,
    "results": results_markdown,
    "claims": claims_markdown,
    "scoreboard": scoreboard_markdown,
}


def fill(text: str) -> str:
    """Return `text` with its generated parts made anew.

    They are `<!-- begin results TABLE PROFILE -->`, the same with `claims` or `scoreboard`, and `contents`,
    `times` and `takes` without more, each up to the next `<!-- end ... -->`.

    Raises:
        ValueError: For a part of another kind.
    """

    def generated(match: re.Match[str]) -> str:
        kind, *arguments = match["what"].split()
        if kind not in MAKERS:
            raise ValueError(f"nothing is generated for {match['what']!r}")
        return f"<!-- begin {match['what']} -->\n{MAKERS[kind](*arguments)}\n<!-- end {kind} -->"

    return re.sub(r"<!-- begin (?P<what>[^>]+?) -->\n.*?<!-- end \w+ -->", generated, text, flags=re.DOTALL)


if __name__ == "__main__":
    record_times()
    write_picture()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        write_spent(path)
    for name in ("README.md", "TEACHING.md"):
        write_text(ROOT / name, fill((ROOT / name).read_text(encoding="utf-8")))
