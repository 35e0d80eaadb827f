"""The pages: what the scoreboard says first, one table on its page, what the notebooks say was found."""

import re

import nbformat
import pytest

from course_lib.experiments.records import Record
from course_lib.experiments.report import claims, gates, markdown, pages, steps
from course_lib.experiments.report.claims import SEEN, decide, judgements, measured
from course_lib.experiments.report.scoreboard import Results, read_results
from course_lib.experiments.report.settings import LETTERS, letters, our_setting
from course_lib.experiments.table import RESULT_PROFILES, SETTING, Claim, Table, read_tables
from course_lib.plumbing.paths import ROOT

REPRODUCED = sorted((ROOT / "notebooks").glob("2*.ipynb"))
FOUND = re.compile(r"<!-- found: (.*?) -->")
TELLING = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if "<!-- found: " in path.read_text("utf-8")]


@pytest.fixture(scope="module")
def page():
    return pages.scoreboard_html(cost=lambda table, profile: 7200.0)


# -- the scoreboard -----------------------------------------------------------------------------------


def test_the_first_line_counts_every_claim_of_a_paper(page):
    asked = [found for found in judgements() if found.claim.kind == "paper"]
    papers = {Table.read(found.claim.table).paper for found in asked}
    line = re.search(r"<b>(.*?)</b>", page)[1]
    assert line.startswith(f"{len(papers)} papers. Claims of theirs: {len(asked)} asked.")
    counts = [int(number) for number in re.findall(r"(\d+)(?: ·|\. With)", line)]
    assert sum(counts) == len(asked)


def test_every_recorded_claim_and_every_missing_table_is_on_the_page(page):
    judged = judgements()
    assert page.count("<tr><td") == sum(found.mean is not None for found in judged)
    for table in {found.claim.table for found in judged if found.mean is None}:
        assert f"course reproduce {table} --profile" in page
    assert "about 2.0 hours of a" in page


def test_how_far_is_a_line_a_paper(page):
    shown, _, rest = page.partition("<h3>How far from the papers</h3>")[2].partition("<details>")
    names = re.findall(r"<li><b>(.*?)</b>", shown)
    assert len(names) == len(set(names)) > 5
    assert set(re.findall(r"<li><b>(.*?)</b>", rest.partition("</details>")[0])) <= set(names)


def test_a_papers_verdicts_are_counted_beside_its_name(page):
    of_paper = [one for one in judgements() if Table.read(one.claim.table).short == "SegNet"]
    asked = [one for one in of_paper if one.claim.kind == "paper" and one.mean is not None]
    (counts,) = re.findall("<h3>SegNet <small>(.*?)</small>", page)
    assert sum(map(int, re.findall(r"\d+", counts))) == len(asked)


def test_the_drawing_says_its_numbers():
    claim = Claim("test", "c", "one beats two", "one", "two", "mean_iou", margin=1.0)
    found = decide(measured(claim, {0: 41.0, 1: 42.0, 2: 42.5}, {0: 40.0, 1: 41.1, 2: 41.5}))
    drawn = pages.dots(found)
    assert 'aria-label="ours +0.97 ± 0.14"' in drawn
    line, dot = (float(re.search(pattern, drawn)[1]) for pattern in (r'<line x1="([\d.]+)"', r'cx="([\d.]+)"'))
    assert line < 46 < dot  # the line of "no worse" stands left of zero, which is the middle
    assert pages.dots(decide(measured(claim, {}, {}))) == ""


def test_letters_are_the_settings_that_differ():
    results = read_results(Table.read("segnet_decoders"))
    ours, paper = our_setting(results, "laptop"), results.table.setting["paper"]
    assert ours["size"] == "120x160"
    assert letters(results, "laptop") == "".join(LETTERS[key] for key in SETTING if ours[key] != paper[key])
    assert "D" not in letters(results, "laptop")
    assert letters(read_results(Table.read("architectures")), "laptop") == ""


def test_networks_are_named_as_their_recipes_have_them():
    """Where the words of a table give a depth or a width, it is that of a row's recipe."""
    for table in read_tables():
        for profile in RESULT_PROFILES:
            words = table.setting.get(profile, {}).get("network", "")
            options = [r.model_options for (_, of), r in table.recipes.items() if of == profile and r.chance]
            for key, number in (("depth", r"ResNet-(\d+)"), ("width", r"of width (\d+)")):
                if found := re.search(number, words):
                    known = {one.get(key, {"depth": 50, "width": 64}[key]) for one in options}
                    known |= {16} if "DRN" in words else set()
                    assert int(found[1]) in known, (table.name, profile, words)


def test_every_papers_table_has_settings():
    for table in read_tables():
        if table.paper:
            assert table.short, table.name
            assert set(table.setting) == {"paper", *(p for p in RESULT_PROFILES if p in table.profiles)}, table.name


# -- one table ----------------------------------------------------------------------------------------


def test_steps_beside_the_papers():
    text = steps.steps_beside_the_papers("fcn_skips", "cvae_cityscapes").data
    assert "fusing two finer layers (8s) beats no skip (32s)" in text
    asked = len(Table.read("cvae_cityscapes").claims)
    assert f"{asked} claims not run: <code>course reproduce cvae_cityscapes --profile gpu --seeds 3</code>" in text


def test_the_legend_stands_over_claims_that_are_seen():
    assert pages.LEGEND in steps.steps_beside_the_papers("fcn_skips").data
    assert pages.LEGEND not in steps.steps_beside_the_papers("cvae_sweep").data  # all of them folded


def test_what_differs_comes_in_two_parts():
    departures = Table.read("self_correction").departures
    text = steps.what_differs("self_correction").data
    assert steps.recipes_compared("self_correction") in text
    assert text.count("<li>") == len(departures)
    assert f"<details><summary>{len(departures) - steps.FIRST} more" in text


def test_the_recipe_shows_what_is_not_neutral():
    text = steps.recipes_compared("implicit_background")
    assert "<td>size</td><td>224x224</td><td>120x160</td>" in text
    assert "<td>unseen</td><td></td><td>Bicyclist</td>" in text
    assert "boundary_weight" not in text
    assert "The recipe of implicit background (IBE)" in text  # the better row of the first headline claim


def test_the_recipe_shown_is_of_a_row_with_records():
    results = read_results(Table.read("self_correction"))
    assert results.leading("laptop").row == "convolutional_183"
    del results.valid["convolutional_183", "laptop"]
    assert (results.leading("laptop").row, "laptop") in results.valid
    assert read_results(Table.read("cvae")).leading("laptop").row == "zero_code"  # whose network all rows measure


def test_floors_that_are_not_computed_say_the_command(monkeypatch):
    assert "Floors not computed" not in steps.rows_beside_the_papers("fcn_skips").data
    monkeypatch.setattr(markdown, "read_floors", dict)
    monkeypatch.setattr(gates, "read_floors", dict)
    text = steps.rows_beside_the_papers("fcn_skips").data
    assert "Floors not computed: python -m course_lib.experiments.make_floors" in text
    assert "mean label map" not in text
    assert "Floors not computed" not in steps.rows_beside_the_papers("fcn_upper_bound").data  # nothing is trained
    assert {found.reason for found in judgements("fcn_skips", "laptop")} == {"its floors are not computed"}
    assert "refine_priors" not in text


def test_rows_beside_the_papers_show_floors_and_thin_classes():
    text = steps.rows_beside_the_papers("fcn_skips").data
    assert "<td>mean label map</td>" in text
    assert re.search(r"<td>FCN-8s</td><td>62.7</td><td>[\d.]+ ± [\d.]+ \(\d\)</td><td>\d+ · \d+</td>", text)
    assert "bf16-mixed" in text
    assert "F = 12" not in steps.rows_beside_the_papers("self_correction").data  # not run, and no number of a paper
    folded = steps.rows_beside_the_papers("cvae").data.split("<details>")[1]
    assert "random codes" in folded
    assert "<td>road replaced</td>" not in folded


def test_rows_of_companion_tables_are_folded_under_their_titles():
    names = ("pspnet_context", "architectures_street", "degridding_street")
    text = steps.rows_of_all(*names).data
    assert text.count("<details>") == len(names)  # the last has one row of five with a number of the paper
    assert text.index("<td>DRN-A-18</td>") < text.index("<td>and step 3: no skips there (DRN-C-26)</td>")
    for name in names[:2]:
        own = steps.rows_beside_the_papers(name).data.split('rows">')[1].removesuffix("</div>")
        assert f"<summary>All rows: {Table.read(name).title}</summary>{own}</details>" in text
    assert re.search(r"<td>no pyramid</td><td>37.2</td><td>[\d.]+ ± [\d.]+ \(\d+\)</td>", text)


def test_runs_of_ones_own_are_judged(capsys):
    found = steps.judge_runs("fcn_skips", "skips_help", {0: 45.0, 1: 46.0, 2: 44.0}, {0: 35.0, 1: 36.2, 2: 34.1})
    assert found.verdict == SEEN
    assert "3 seed(s): seen here" in capsys.readouterr().out


def test_every_reproduced_table_says_what_was_found():
    assert set(REPRODUCED) <= set(TELLING)


@pytest.mark.parametrize("path", TELLING, ids=lambda path: path.stem)
def test_what_a_notebook_says_was_found_is_what_the_records_say(path):
    """Each sentence names its claims and their verdicts at the laptop profile; new records may change them."""
    cells = nbformat.read(path, as_version=4).cells
    told = [text for cell in cells if cell.cell_type == "markdown" for text in FOUND.findall(cell.source)]
    for claim in ", ".join(told).split(", "):
        name, words = claim.split(" ", 1)
        table, identity = name.split("/")
        (found,) = (one for one in judgements(table, "laptop") if one.claim.id == identity)
        assert found.words == words.replace(";", ","), claim


# -- measures of one network --------------------------------------------------------------------------


def test_measures_of_one_network_are_judged_over_pictures():
    """Two networks, forty pictures; every picture gains a point, so that drawing them anew changes nothing."""
    table = Table.read("cvae")
    results, pixels = Results(table), [1000] * 40
    for seed, right in enumerate((800, 840)):
        pictures = {"pixels": pixels, "road_replaced": [right] * 40, "road_optimised": [right + 10] * 40}
        metrics = {"road_replaced_accuracy": right / 1000, "road_optimised_accuracy": (right + 10) / 1000}
        blank = {key: {} for key in ("data", "machine", "versions", "per_class")}
        results.valid.setdefault(("zero_code", "laptop"), {})[seed] = Record(
            recipe={"seed": seed}, recipe_hash="", metrics=metrics, pictures=pictures, seconds=1.0, parameters=1,
            peak_memory_mib=1.0, device="cpu", precision="", commit="", date="", **blank,
        )  # fmt: skip
    claim = next(one for one in table.claims if one.id == "road_beats_replacing")
    found = claims._evidence(results, claim, "laptop")
    assert (found.how, found.mean, found.half) == ("pictures", pytest.approx(1.0), pytest.approx(0.0))
    assert decide(found).verdict == SEEN
    for record in results.valid["zero_code", "laptop"].values():
        record.pictures.clear()
    old = claims._evidence(results, claim, "laptop")
    assert old.how == "Student's t"
    assert "no numbers by image" in old.reason


def test_a_guessed_order_is_judged_without_being_told():
    order = steps.recorded_order("context_module", ["basic", "front_end", "large"])
    assert steps.is_recorded_order("context_module", order)
    assert not steps.is_recorded_order("context_module", order[::-1])
