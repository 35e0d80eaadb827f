"""Claims: the paired difference, its standard error and the verdict, against scipy and by hand."""

import math
import random

import pytest
from scipy import stats

from course_lib.experiments.metric_names import METRICS
from course_lib.experiments.report.claims import judge
from course_lib.experiments.table import MARGIN, Claim, Table, read_tables

BETTER = Claim("test", "first", "one is better than two", "one", "two", "mean_iou")
NO_WORSE = Claim("test", "second", "one is no worse than two", "one", "two", "mean_iou", margin=1.0)


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3)."""
    judgement = judge(BETTER, by_seed(41, 42, 43), by_seed(40, 40, 40))
    assert judgement.mean == pytest.approx(2)
    assert judgement.standard_error == pytest.approx(1 / math.sqrt(3))
    assert judgement.seeds == (0, 1, 2)
    assert judgement.verdict == "holds"  # 2 > 2 * 0.577


@pytest.mark.parametrize("seed", range(20))
def test_the_ratio_is_the_t_statistic_of_a_paired_test(seed):
    random.seed(seed)
    count = random.randint(2, 6)
    one = [random.gauss(50, 2) for _ in range(count)]
    two = [random.gauss(50 + random.choice([-3, 0, 3]), 2) for _ in range(count)]
    judgement = judge(BETTER, by_seed(*one), by_seed(*two))
    t = stats.ttest_rel(one, two).statistic
    assert judgement.mean / judgement.standard_error == pytest.approx(t)
    expected = "holds" if t > 2 else "contradicted" if t < -2 else "not resolved"
    assert judgement.verdict == expected


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        ([42, 43], [41, 41.9], "holds"),
        ([41, 41.9], [42, 43], "contradicted"),
        ([42, 40], [41, 41], "not resolved"),
        ([43], [40], "not resolved"),
        ([42, 43], [41, 42], "holds"),  # the same difference twice: no error
        ([41, 42], [41, 42], "not resolved"),  # no difference at all
        ([], [40], "not run"),
        ([], [], "not run"),
    ],
)
def test_verdicts(one, two, verdict):
    assert judge(BETTER, by_seed(*one), by_seed(*two)).verdict == verdict


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_of_an_error_less_is_better(margin):
    """The same evidence with accuracy and with error = 100 - accuracy gives the same judgement."""
    accuracies = by_seed(91, 93, 92.5), by_seed(90, 91.5, 92)
    errors = [{seed: 100 - value for seed, value in values.items()} for values in accuracies]
    usual = Claim("test", "c", "one is better", "one", "two", "overall_accuracy", margin)
    of_errors = Claim("test", "c", "one is better", "one", "two", "pixel_error", margin)
    expected, found = judge(usual, *accuracies), judge(of_errors, *errors)
    assert found.verdict == expected.verdict == "holds"
    assert found.mean == pytest.approx(expected.mean)
    assert found.mean > 0
    assert judge(of_errors, *reversed(errors)).mean == pytest.approx(-found.mean)


def test_one_seed_shows_its_difference_and_no_error():
    judgement = judge(BETTER, {4: 43.0}, {4: 40.0})
    assert (judgement.mean, judgement.standard_error, judgement.seeds) == (3.0, None, (4,))


def test_only_seeds_that_both_rows_have_count():
    judgement = judge(BETTER, {0: 42.0, 1: 43.0, 7: 0.0}, {1: 41.9, 0: 41.0, 8: 99.0})
    assert judgement.seeds == (0, 1)
    assert judgement.mean == pytest.approx(1.05)
    assert judge(BETTER, {0: 42.0}, {1: 41.0}).verdict == "not run"


def test_pairing_removes_what_the_seeds_share():
    """The rows differ by about 1 while the seeds differ by 10: unpaired, nothing would be seen."""
    one, two = [41.1, 51.0, 60.9], [40.0, 50.0, 60.0]
    assert stats.ttest_ind(one, two).pvalue > 0.5
    assert judge(BETTER, by_seed(*one), by_seed(*two)).verdict == "holds"


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        ([40.5, 40.6], [40.6, 40.6], "holds"),  # 0.05 worse, far less than the margin
        ([45, 46], [40, 41.5], "holds"),
        ([38, 38.1], [40, 40], "contradicted"),  # about 2 worse
        ([39, 39.1], [40.0, 40.1], "not resolved"),  # the margin itself
        ([40, 43], [40, 40], "not resolved"),
        ([40], [40], "not resolved"),
    ],
)
def test_no_worse_is_judged_with_its_margin(one, two, verdict):
    assert judge(NO_WORSE, by_seed(*one), by_seed(*two)).verdict == verdict


def test_without_chance_one_run_decides():
    assert judge(BETTER, {0: 80.0}, {0: 60.0}, exact=True).verdict == "holds"
    assert judge(BETTER, {0: 60.0}, {0: 80.0}, exact=True).verdict == "contradicted"
    assert judge(BETTER, {0: 60.0}, {0: 60.0}, exact=True).verdict == "not resolved"
    assert judge(BETTER, {}, {0: 80.0}, exact=True).verdict == "not run"


def test_claims_are_read_from_the_table(tmp_path):
    (tmp_path / "test.toml").write_text(
        'title = "A table"\nmetric = "mean_accuracy"\n[recipe]\ndataset = "street"\nheight = 32\nwidth = 48\n'
        'model = "fcn8s"\nsteps = 1\n[profiles.quick]\n'
        '[rows.a]\nlabel = "a"\n[rows.b]\nlabel = "b"\n'
        '[[claims]]\nid = "x"\nstatement = "a wins"\nbetter = "a"\nworse = "b"\n'
        '[[claims]]\nid = "y"\nstatement = "b holds up"\nbetter = "b"\nworse = "a"\n'
        'metric = "mean_iou"\nat_least = true\n'
        '[[claims]]\nid = "z"\nstatement = "b too"\nbetter = "b"\nworse = "a"\nat_least = true\n'
        "margin = 0.5\n"
    )
    first, second, third = Table.read("test", tmp_path).claims
    assert first == Claim("test", "x", "a wins", "a", "b", "mean_accuracy", 0.0)
    assert (second.metric, second.margin) == ("mean_iou", MARGIN)
    assert third.margin == 0.5


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
    assert len(Table.read("fcn_skips").claims) == 3
