"""Claims: intervals by hand and against scipy, the words, the gates, and how often the rule errs without a difference."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.report import claims, statistics
from course_lib.experiments.report.claims import LEANS, OPEN, OPPOSITE, SEEN, decide, measured
from course_lib.experiments.report.scoreboard import read_results
from course_lib.experiments.report.statistics import half_width, holm, over_pictures, pooled_rows, residual, step_error
from course_lib.experiments.table import MARGIN, Claim, Table, read_tables

BETTER = Claim("test", "first", "one is better than two", "one", "two", "mean_iou")
NO_WORSE = dataclasses.replace(BETTER, id="second", margin=1.0)


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def judged(claim, better, worse, **about):
    return decide(measured(claim, by_seed(*better), by_seed(*worse), **about))


# -- intervals ----------------------------------------------------------------------------------------


def test_the_residual_by_hand():
    """Rows 1, 2, 6 with seeds +0, +3 leave nothing; one value 6 points higher leaves 2, -1, -1 and the opposite."""
    block = np.array([[1.0, 4.0], [2.0, 5.0], [6.0, 9.0]])
    assert residual(block)[0] == pytest.approx(0)
    block[0, 0] += 6
    left = np.array([[2, -2], [-1, 1], [-1, 1]])  # 6 less its row's mean, its seed's mean, plus the mean: 6 - 3 - 2 + 1
    assert residual(block) == (pytest.approx(np.sqrt((left**2).sum() / 2)), 2)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_without_pooling_it_is_students_paired_interval(count):
    generator = np.random.default_rng(count)
    one, two = generator.normal(50, 2, size=(2, count))
    found = measured(BETTER, by_seed(*one), by_seed(*two))
    reference = stats.ttest_rel(one, two)
    low, high = reference.confidence_interval(0.95)
    assert found.how == "Student's t"
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.half == pytest.approx((high - low) / 2)
    assert found.chance == pytest.approx(reference.pvalue)


def test_a_pooled_residual_is_that_of_an_analysis_of_variance():
    """With rows and seeds as factors, s is the root of the mean squared residual of least squares."""
    block = np.random.default_rng(3).normal(size=(4, 3)) + np.add.outer([1, 2, 3, 9], [0, 5, -5])
    design = np.array([[*np.eye(4)[row], *np.eye(3)[seed][1:]] for row in range(4) for seed in range(3)])
    squares = np.linalg.lstsq(design, block.ravel(), rcond=None)[1]
    spread, degrees = residual(block)
    assert (spread, degrees) == (pytest.approx(np.sqrt(squares[0] / 6)), 6)
    error, df, pooled = step_error(block[3] - block[2], block, (3, 2))
    assert pooled
    assert df == 6
    assert error == pytest.approx(max(spread * np.sqrt(2 / 3), (block[3] - block[2]).std(ddof=1) / np.sqrt(3)))


@pytest.mark.parametrize(("shape", "wanted"), [((2, 5), False), ((3, 2), False), ((3, 3), True), ((5, 2), True)])
def test_few_rows_or_seeds_are_not_pooled(shape, wanted):
    block = np.arange(np.prod(shape)).reshape(shape) + np.random.default_rng(4).normal(size=shape)
    assert pooled_rows(block).all() == pooled_rows(block).any() == wanted


def test_a_row_that_is_far_more_variable_is_not_pooled():
    """Nor are two. The others keep what they share; a step to such a row has the residual of all, and fewer degrees."""
    block = np.random.default_rng(1).normal(size=(6, 4))
    assert pooled_rows(block).all()
    block[2] += [30, -30, 30, -30]
    block[4] += [300, 300, -300, -300]
    assert pooled_rows(block).tolist() == [True, True, False, True, False, True]
    others = np.delete(block, [2, 4], axis=0)
    pair = block[0] - block[1]
    assert step_error(pair, block) == (*step_error(pair, others)[:1], 9, True)
    wild = block[0] - block[2]
    error = max(wild.std(ddof=1) / 2, residual(block)[0] * np.sqrt(2 / 4))
    assert step_error(wild, block, (0, 2)) == (pytest.approx(error), 3, False)


def test_a_row_that_is_too_wild_among_three_or_of_two_seeds_forbids_pooling():
    """Two rows are too few, and with two seeds none is taken out; the others have the residual of all rows then."""
    for rows, seeds in ((3, 3), (8, 2)):
        block = np.random.default_rng(rows).normal(size=(rows, seeds))
        block[1, 0] += 100
        assert not pooled_rows(block).any()
        error, degrees, pooled = step_error(block[0] - block[2], block, (0, 2))
        assert (error, degrees, pooled) == (pytest.approx(residual(block)[0] * np.sqrt(2 / seeds)), seeds - 1, False)


def test_the_block_of_two_rows_holds_them_where_it_says():
    results = read_results(Table.read("decouplednet"))
    names = ("joint_from_classifier_5", "decoupled_5")
    block, places = results.block_of(names, "laptop", "mean_iou")
    for name, place in zip(names, places, strict=True):
        values = results.values(name, "laptop", "mean_iou")
        assert set(block[place]) <= set(values.values())
    assert results.block_of(("decoupled_5", "decoupled_5_told"), "laptop", "mean_iou") == (None, (0, 1))


@pytest.mark.parametrize("times", [4, 12])
@pytest.mark.parametrize(("rows", "seeds"), [(4, 3), (8, 3), (6, 5)])
def test_a_wild_row_makes_no_more_false_verdicts_of_the_others(rows, seeds, times):
    """10,000 tables with one row that is `times` as variable: the steps between the other rows stay within 5 %."""
    generator = np.random.default_rng(rows + seeds + times)
    block = generator.normal(size=(10_000, rows, seeds)) + 3 * generator.normal(size=(10_000, 1, seeds))
    block[:, -1] += times * generator.normal(size=(10_000, seeds))
    differences = block[:, 0] - block[:, 1]
    error, degrees, pooled = step_error(differences, block)
    false = statistics.chance(differences.mean(-1), error, degrees) <= statistics.LEVEL
    assert pooled.mean() > 0.7
    assert false.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 10_000)


def test_holm_by_hand():
    """Three claims: 0.01 x 3, then 0.02 x 2 = 0.04, then 0.03 x 1, no smaller than the one before."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("rows", "seeds"), [(3, 3), (4, 3), (8, 2), (13, 3), (2, 3), (2, 2), (6, 5)])
def test_without_any_difference_at_most_one_verdict_in_twenty_is_false(rows, seeds):
    """4,000 tables in which only the seeds differ: of single claims, and of a paper's claims after Holm."""
    generator = np.random.default_rng(rows * 10 + seeds)
    block = generator.normal(size=(4_000, rows, seeds)) + 3 * generator.normal(size=(4_000, 1, seeds))
    chances = []
    for other in range(1, rows):
        differences = block[:, 0] - block[:, other]
        error, degrees, pooled = step_error(differences, block, (0, other))
        chance = statistics.chance(differences.mean(-1), error, degrees)
        chances.append(np.where(pooled | (seeds > 2), chance, 1.0))  # two runs alone lean at most
    chances = np.stack(chances, -1)
    allowed = 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4_000)
    assert (chances <= statistics.LEVEL).mean() <= allowed
    assert (holm(chances) <= statistics.LEVEL).any(-1).mean() <= allowed


def test_pictures_drawn_anew_hold_the_step_as_often_as_they_say():
    """200 sets of 60 pictures whose true step is 1 point: about 95 % of the intervals hold it."""
    held = 0
    for trial in range(200):
        gains = np.random.default_rng(trial).normal(10, 40, size=(1, 60))
        steps = over_pictures(500 + gains, np.full((1, 60), 500.0), np.full(60, 1000), seed=trial)
        low, high = np.quantile(steps[:2000], [0.025, 0.975])
        held += low <= 1 <= high
    assert 180 <= held <= 199


# -- words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "verdict", "reason"),
    [
        ([42, 43, 42.5], [41, 41.9, 41.5], SEEN, ""),
        ([41, 41.9, 41.5], [42, 43, 42.5], OPPOSITE, ""),
        ([42, 40, 41], [41, 41, 41], OPEN, ""),
        ([41, 42], [41, 42], OPEN, ""),
        ([43, 44.01], [40, 41], LEANS, "two runs"),
        ([43], [40], OPEN, "one run"),
        ([41.1, 41.12, 41.11], [41, 41, 41], OPEN, "less than 0.3 points, the smallest step that matters"),
    ],
)
def test_words(one, two, verdict, reason):
    found = judged(BETTER, one, two)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_one_run_has_a_step_and_no_interval():
    found = decide(measured(BETTER, {4: 43.0}, {4: 40.0}))
    assert (found.mean, found.half, found.seeds, found.reason) == (3.0, None, (4,), "one run")


def test_only_seeds_that_both_rows_have_count():
    found = measured(BETTER, {0: 42.0, 1: 43.0, 7: 0.0}, {1: 41.9, 0: 41.0, 8: 99.0})
    assert found.seeds == (0, 1)
    assert found.mean == pytest.approx(1.05)
    assert decide(measured(BETTER, {0: 42.0}, {1: 41.0})).verdict == "not run"


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_of_an_error_less_is_better(margin):
    """The same evidence with accuracy and with error = 100 - accuracy gives the same judgement."""
    accuracies = (91, 93, 92.5), (90, 91.5, 91.4)
    errors = [[100 - value for value in values] for values in accuracies]
    usual = dataclasses.replace(BETTER, metric="overall_accuracy", margin=margin)
    of_errors = dataclasses.replace(usual, metric="pixel_error")
    expected, found = judged(usual, *accuracies), judged(of_errors, *errors)
    assert found.verdict == expected.verdict == SEEN
    assert (found.mean, found.half) == (pytest.approx(expected.mean), pytest.approx(expected.half))


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        ([40.5, 40.6, 40.5], [40.6, 40.6, 40.6], SEEN),  # 0.07 worse, far less than the margin
        ([38, 38.1, 38.05], [40, 40, 40], OPPOSITE),
        ([39, 39.1, 39.2], [40.0, 40.1, 40.2], OPEN),  # the margin itself
        ([40], [40], OPEN),
    ],
)
def test_no_worse_is_judged_at_its_margin(one, two, verdict):
    assert judged(NO_WORSE, one, two).verdict == verdict


def test_without_chance_one_run_decides():
    assert judged(BETTER, [80], [60], exact=True).verdict == SEEN
    assert judged(BETTER, [60], [80], exact=True).verdict == OPPOSITE
    assert judged(BETTER, [60], [60], exact=True).verdict == OPEN
    assert decide(measured(BETTER, {}, {0: 80.0}, exact=True)).verdict == "not run"


def test_an_interval_wider_than_the_papers_step_cannot_tell():
    found = dataclasses.replace(measured(BETTER, by_seed(42, 40, 41), by_seed(41, 41, 41)), paper_step=0.6)
    assert decide(found).verdict == claims.CANNOT_TELL
    assert decide(dataclasses.replace(found, paper_step=5.0)).verdict == OPEN


def test_a_closed_gate_comes_before_every_word():
    found = measured(BETTER, by_seed(60, 61, 62), by_seed(40, 41, 42))
    assert decide(found).verdict == SEEN
    closed = decide(found, gate="nothing to win")
    assert (closed.verdict, closed.reason) == (claims.CANNOT_TELL, "nothing to win")


def test_what_holm_does_not_confirm_leans():
    found = measured(BETTER, by_seed(42, 43, 42.5), by_seed(41, 41.9, 41.5))
    leaning = decide(dataclasses.replace(found, adjusted=0.2))
    assert (leaning.verdict, leaning.words) == (LEANS, "leans")
    other = decide(dataclasses.replace(found, mean=-found.mean, adjusted=0.2))
    assert other.words == "leans, opposite"


def test_half_widths_are_those_of_the_review():
    """Two runs need 12.7 standard errors, three 4.3, twenty degrees of freedom 2.09."""
    assert half_width(1.0, np.array([1, 2, 20])) == pytest.approx([12.706, 4.303, 2.086], abs=1e-3)


# -- tables -------------------------------------------------------------------------------------------


def test_claims_are_read_from_the_table(tmp_path):
    (tmp_path / "test.toml").write_text(
        'title = "A table"\nmetric = "mean_accuracy"\n[recipe]\ndataset = "street"\nheight = 32\nwidth = 48\n'
        'model = "fcn8s"\nsteps = 1\n[profiles.quick]\n'
        '[rows.a]\nlabel = "a"\n[rows.b]\nlabel = "b"\n'
        '[[claims]]\nid = "x"\nkind = "ours"\nstatement = "a wins"\nbetter = "a"\nworse = "b"\n'
        '[[claims]]\nid = "y"\nkind = "paper"\nheadline = true\nstatement = "b holds up"\nbetter = "b"\nworse = "a"\n'
        'metric = "mean_iou"\nat_least = true\nroom = ["a", "b"]\n'
        '[[claims]]\nid = "z"\nkind = "control"\nstatement = "b too"\nbetter = "b"\nworse = "a"\nat_least = true\n'
        "margin = 0.5\n"
    )
    first, second, third = Table.read("test", tmp_path).claims
    assert first == Claim("test", "x", "a wins", "a", "b", "mean_accuracy", 0.0, kind="ours")
    assert (second.metric, second.margin, second.headline, second.room) == ("mean_iou", MARGIN, True, ("a", "b"))
    assert (third.margin, third.kind) == (0.5, "control")


def test_committed_claims_say_what_their_papers_table_says():
    """Every claim of a committed table agrees with the paper's own numbers, where both rows have one, or
    says that it does not.
    """
    for table in read_tables():
        for claim in table.claims:
            better, worse = (table.rows[row].paper_value for row in (claim.better, claim.worse))
            own = claim.metric == table.metric
            if better is not None and worse is not None and own:
                sign = -1 if METRICS[claim.metric].lower_is_better else 1
                agrees = sign * (better - worse) + claim.margin > 0
                opposite = "its table has the opposite" in claim.statement
                assert agrees != opposite, (table.name, claim.id)


def test_every_papers_table_with_claims_has_a_headline():
    for table in read_tables():
        papers = [claim for claim in table.claims if claim.kind == "paper"]
        assert not papers or table.paper, table.name
        assert not papers or any(claim.headline for claim in papers), table.name
        assert all(claim.kind == "paper" for claim in table.claims if claim.headline), table.name
