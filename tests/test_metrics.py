"""The confusion matrix against scikit-learn and torchmetrics, and the metrics that are read off it."""

import math
import re

import pytest
import torch
from sklearn.metrics import confusion_matrix
from sklearn.metrics.cluster import pair_confusion_matrix
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Street
from course_lib.metrics import ConfusionMatrix, MaskQuality, fill_regions, rand_f_score, rescaling_upper_bound

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 7


def random_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels (4, 19, 23) of seven classes; class 5 is in neither, a fifth is ignored."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([0, 1, 2, 3, 4, 6])
    prediction, labels = (present[torch.randint(6, (4, 19, 23), generator=generator)] for _ in range(2))
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.3, prediction, labels)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return prediction, labels


def counted(prediction, labels, num_classes=CLASSES, **options) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes, **options)
    matrix.update(prediction, labels)
    return matrix


def test_counts_equal_scikit_learns_and_torchmetrics():
    prediction, labels = random_batch()
    matrix = counted(prediction, labels)
    kept = labels != IGNORE
    expected = confusion_matrix(labels[kept], prediction[kept], labels=range(CLASSES))
    assert matrix.counts.tolist() == expected.tolist()
    reference = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    assert torch.equal(matrix.counts, reference(prediction, labels))


def test_metrics_equal_torchmetrics():
    prediction, labels = random_batch()
    matrix = counted(prediction, labels)
    iou = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=IGNORE)(prediction, labels)
    accuracy, overall = (
        MulticlassAccuracy(CLASSES, average=average, ignore_index=IGNORE)(prediction, labels)
        for average in ("none", "micro")
    )
    seen = matrix.truth_pixels() > 0
    assert seen.tolist() == [True, True, True, True, True, False, True]
    torch.testing.assert_close(matrix.ious()[seen].float(), iou[seen])
    torch.testing.assert_close(matrix.class_accuracies()[seen].float(), accuracy[seen])
    assert matrix.overall_accuracy() == pytest.approx(float(overall))
    assert matrix.mean_iou() == pytest.approx(float(iou[seen].mean()))
    assert matrix.mean_accuracy() == pytest.approx(float(accuracy[seen].mean()))


def test_worked_example_of_the_lecture():
    matrix = ConfusionMatrix.from_counts([[6, 4], [2, 18]])
    assert matrix.summary() == pytest.approx(
        {
            "overall_accuracy": 0.80,
            "mean_accuracy": 0.75,
            "mean_iou": 0.625,
            "frequency_weighted_iou": (10 * 6 / 12 + 20 * 18 / 24) / 30,
        }
    )
    assert matrix.ious().tolist() == [0.5, 0.75]
    assert matrix.truth_pixels().tolist() == [10, 20]
    assert matrix.predicted_pixels().tolist() == [8, 22]


def test_a_class_in_neither_truth_nor_prediction_is_left_out():
    matrix = ConfusionMatrix.from_counts([[6, 4, 0], [2, 18, 0], [0, 0, 0]])
    assert matrix.mean_iou() == pytest.approx(0.625)
    assert matrix.mean_accuracy() == pytest.approx(0.75)
    assert math.isnan(matrix.ious()[2])
    assert matrix.per_class(("a", "b", "c"))["c"] == {"iou": None, "accuracy": None, "pixels": 0}


def test_a_class_that_is_only_predicted_has_iou_zero_and_no_accuracy():
    matrix = ConfusionMatrix.from_counts([[6, 2], [0, 0]])
    assert matrix.per_class(("a", "b")) == {
        "a": {"iou": 0.75, "accuracy": 0.75, "pixels": 8},
        "b": {"iou": 0.0, "accuracy": None, "pixels": 0},
    }
    assert matrix.mean_iou() == pytest.approx(0.375)
    assert matrix.mean_accuracy() == pytest.approx(0.75)
    assert matrix.frequency_weighted_iou() == pytest.approx(0.75)


def test_ignored_pixels_count_neither_as_truth_nor_as_prediction():
    labels = torch.tensor([[[0, 0, 1, IGNORE, IGNORE]]])
    prediction = torch.tensor([[[0, 1, 1, 1, 0]]])
    matrix = counted(prediction, labels, 2)
    assert matrix.counts.tolist() == [[1, 1], [0, 1]]
    assert matrix.predicted_pixels().tolist() == [1, 2]


def test_another_ignore_label():
    labels = torch.tensor([[[0, 11, 1]]])
    assert counted(torch.tensor([[[0, 1, 1]]]), labels, 2, ignore_index=11).counts.tolist() == [[1, 0], [0, 1]]


def test_batches_add_up_and_so_do_matrices():
    (first, first_labels), (second, second_labels) = random_batch(1), random_batch(2)
    together = counted(torch.cat([first, second]), torch.cat([first_labels, second_labels]))
    in_turn = counted(first, first_labels)
    in_turn.update(second, second_labels)
    parts = [counted(first, first_labels), counted(second, second_labels)]
    added = parts[0] + parts[1]
    assert torch.equal(in_turn.counts, together.counts)
    assert torch.equal(added.counts, together.counts)
    assert int(parts[0].counts.sum() + parts[1].counts.sum()) == int(together.counts.sum())


def test_the_matrix_of_a_set_is_not_the_mean_over_its_pictures():
    """Two pictures: one all of class 0 and right, one of ten pixels half wrong."""
    large = counted(torch.zeros(1, 10, 10).long(), torch.zeros(1, 10, 10).long(), 2)
    small = counted(torch.tensor([[[0] * 5 + [1] * 5]]), torch.ones(1, 1, 10).long(), 2)
    of_the_set = (large + small).mean_iou()
    assert of_the_set == pytest.approx((100 / 105 + 5 / 10) / 2)
    assert abs(of_the_set - (large.mean_iou() + small.mean_iou()) / 2) > 0.05


def test_matrices_of_different_classes_do_not_add():
    with pytest.raises(ValueError, match="2 and 3 classes"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


def test_logits_count_as_their_largest_class():
    _, labels = random_batch()
    logits = torch.randn(4, CLASSES, 19, 23)
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        given = logits.to(kind)
        expected = counted(given.argmax(dim=1), labels)
        assert torch.equal(counted(given, labels).counts, expected.counts)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_every_integer_type_counts_the_same(kind):
    prediction, labels = random_batch()
    expected = counted(prediction, labels).counts
    given = prediction.to(kind), labels.to(kind)
    assert torch.equal(counted(*given).counts, expected)
    assert torch.equal(given[0], prediction.to(kind))  # the caller's tensors stay as they are
    assert torch.equal(given[1], labels.to(kind))


def test_255_classes_have_room():
    everything = torch.arange(255).view(1, 15, 17)
    assert torch.equal(counted(everything, everything, 255).counts, torch.eye(255, dtype=torch.int64))


@pytest.mark.parametrize(
    ("prediction", "labels", "words"),
    [
        ([0, 1], [0, 3], r"labels hold \[3\], which are neither classes \(0..2\) nor 255"),
        ([0, 4], [0, 1], r"predictions hold \[4\]; the classes are 0..2"),
        ([0, 255], [0, 1], r"predictions hold \[255\]"),
        ([0, 256], [0, 0], "predictions hold values from 0 to 256"),
        ([0, 257], [0, 255], "predictions hold values from 0 to 257"),
        ([-1, 0], [0, 1], "predictions hold values from -1 to 0"),
        ([-255, 0], [1, 1], "predictions hold values from -255 to 0"),
        ([0, 1], [0, -100], "labels hold values from -100 to 0"),
        ([0, 1], [0, 256], "labels hold values from 0 to 256"),
    ],
)
def test_values_that_are_no_classes_are_named(prediction, labels, words):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=words):
        matrix.update(torch.tensor([[prediction]]), torch.tensor([[labels]]))
    assert int(matrix.counts.sum()) == 0  # a refused batch leaves no trace


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and labels \(1, 8, 8\) differ in size"):
        counted(torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8).long(), 3)


@pytest.mark.parametrize("num_classes", [0, 256])
def test_impossible_numbers_of_classes(num_classes):
    with pytest.raises(ValueError, match=f"not {num_classes}"):
        ConfusionMatrix(num_classes)


def test_the_ignored_label_is_no_class():
    with pytest.raises(ValueError, match="ignore_index 2 is one of the 3 classes"):
        ConfusionMatrix(3, ignore_index=2)


@pytest.mark.parametrize("counts", [[1, 2], [[1, 2, 3], [4, 5, 6]], [[1, -1], [0, 1]]])
def test_counts_that_are_no_matrix_are_refused(counts):
    with pytest.raises(ValueError, match="square matrix of numbers >= 0"):
        ConfusionMatrix.from_counts(counts)


def test_class_names_must_fit():
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        ConfusionMatrix(2).per_class(("a", "b", "c"))


@pytest.mark.parametrize("labels", [torch.zeros(0, 4, 4).long(), torch.full((2, 4, 4), IGNORE)])
def test_without_a_counted_pixel_every_metric_is_nan(labels):
    matrix = counted(torch.zeros(len(labels), 3, 4, 4), labels, 3)
    assert int(matrix.counts.sum()) == 0
    assert all(math.isnan(value) for value in matrix.summary().values())


def test_frequency_weighted_iou_by_hand():
    """Truth 10, 20 and 0 pixels; the third class is predicted twice where the second is."""
    matrix = ConfusionMatrix.from_counts([[6, 4, 0], [2, 16, 2], [0, 0, 0]])
    expected = (10 * 6 / (10 + 8 - 6) + 20 * 16 / (20 + 20 - 16)) / 30
    assert matrix.frequency_weighted_iou() == pytest.approx(expected)


# -- the upper bound of a coarse prediction ---------------------------------------------------------


def upper_bound(factor: int, scenes: Street) -> float:
    matrix = ConfusionMatrix(len(scenes.classes))
    for index in range(len(scenes)):
        rescaling_upper_bound(scenes[index].labels[None], factor, matrix)
    return matrix.mean_iou()


def test_missed_and_over_filled_objects_by_hand():
    """Two objects of 4x4 pixels in boxes of 4x6: rows of the mask that are found, rows beside it that are claimed."""
    labels = torch.zeros(8, 24, dtype=torch.int64)
    labels[2:6, 4:8], labels[2:6, 16:20] = 1, 2
    boxes, box_labels = torch.tensor([[4.0, 2, 10, 6], [16.0, 2, 22, 6]]), torch.tensor([1, 2])

    def found(change):
        prediction, quality = labels.clone(), MaskQuality(3)
        change(prediction)
        quality.update(prediction, labels, boxes, box_labels)
        quality.update(labels, labels, boxes[:1], box_labels[:1])
        return quality.objects, quality.missed, quality.overfilled

    def rows(count, value=0):
        return lambda map_: map_[2 : 2 + count, 4:8].fill_(value)

    assert found(lambda map_: None) == (3, 0, 0)
    assert found(rows(3)) == (3, 0, 0)  # a quarter is left
    assert found(rows(4)) == found(rows(4, 2)) == (3, 1, 0)
    assert found(lambda map_: map_[2:6, 8].fill_(1)) == (3, 0, 0)  # four pixels beside
    assert found(lambda map_: map_[2:7, 8].fill_(1)) == (3, 0, 1)
    assert found(lambda map_: map_[2:7, 8].fill_(2)) == (3, 0, 0)  # of another class
    assert found(lambda map_: map_[:, 13:14].fill_(1)) == (3, 0, 0)  # far from the box
    labels[2:6, 16:20] = 0  # hidden by something: no object to be found
    assert found(lambda map_: None) == (2, 0, 0)
    quality = MaskQuality(3)
    assert all(math.isnan(quality.summary()[share]) for share in ("missed", "overfilled"))


def test_upper_bound_falls_as_the_output_gets_coarser():
    scenes = Street(6, (96, 128), seed=3, void_border=1)
    bounds = [upper_bound(factor, scenes) for factor in (1, 2, 4, 8, 16, 32)]
    assert bounds[0] == 1.0
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == len(bounds)
    assert 0 < bounds[-1] < 0.6 < bounds[1]


def test_upper_bound_by_hand():
    """Blocks of 2x2 take the value of their lower right pixel; a void one keeps the truth."""
    labels = torch.tensor([[[0, 0, 1, 1], [0, 1, 1, IGNORE], [1, 1, 0, 0], [1, 1, 1, 0]]])
    matrix = ConfusionMatrix(2)
    rescaling_upper_bound(labels, 2, matrix)
    assert matrix.counts.tolist() == [[3, 3], [1, 8]]


def test_upper_bound_takes_any_size_and_no_factor_below_one():
    labels = torch.randint(3, (2, 7, 13))
    matrix = ConfusionMatrix(3)
    rescaling_upper_bound(labels, 64, matrix)
    assert int(matrix.counts.sum()) == labels.numel()
    with pytest.raises(ValueError, match="factor is at least 1, not 0"):
        rescaling_upper_bound(labels, 0, matrix)


# -- regions ----------------------------------------------------------------------------------------


def rand_by_pairs(truth: torch.Tensor, prediction: torch.Tensor) -> float:
    """Every pair of foreground pixels, one by one: kept together by the truth, by the prediction, by both."""
    truth, prediction = truth.flatten().tolist(), prediction.flatten().tolist()
    inside = [index for index, number in enumerate(truth) if number > 0]
    in_truth = in_prediction = in_both = 0
    for one in inside:
        for other in inside:
            same_truth = truth[one] == truth[other]
            same_prediction = prediction[one] == prediction[other]
            in_truth += same_truth
            in_prediction += same_prediction
            in_both += same_truth and same_prediction
    precision, recall = in_both / in_prediction, in_both / in_truth
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(5))
def test_rand_equals_counting_pairs(seed):
    torch.manual_seed(seed)
    truth, prediction = torch.randint(0, 4, (6, 7)), torch.randint(0, 5, (6, 7)) * 3
    assert rand_f_score(truth, prediction) == pytest.approx(rand_by_pairs(truth, prediction))


def test_rand_equals_scikit_learns_pairs():
    truth, prediction = torch.randint(0, 9, (40, 50)), torch.randint(0, 7, (40, 50))
    inside = truth > 0
    (_, merged), (split, both) = pair_confusion_matrix(truth[inside], prediction[inside])
    both = both + int(inside.sum())  # V_Rand counts each pixel with itself, scikit-learn does not
    expected = 2 * both / (2 * both + merged + split)
    assert rand_f_score(truth, prediction) == pytest.approx(expected)


def test_rand_by_hand():
    """Two true regions of two pixels; merging them keeps 8 of 16 pairs: precision 1/2, recall 1."""
    truth = torch.tensor([[1, 1, 0, 2, 2]])
    assert rand_f_score(truth, truth) == 1
    assert rand_f_score(truth, 7 * truth) == 1  # names do not matter
    assert rand_f_score(truth, torch.ones(1, 5)) == pytest.approx(2 / 3)
    assert rand_f_score(truth, torch.tensor([[1, 2, 9, 3, 4]])) == pytest.approx(2 / 3)
    changed = torch.tensor([[1, 1, 5, 2, 2]])  # what lies on the true membrane does not count
    assert rand_f_score(truth, changed) == 1
    assert math.isnan(rand_f_score(torch.zeros(1, 5), truth))
    with pytest.raises(ValueError, match="differ in size"):
        rand_f_score(truth, truth[:, 1:])


def test_regions_grow_until_they_meet():
    regions = torch.tensor([[0, 0, 3, 0, 0, 0, 0, 5, 0]])
    assert fill_regions(regions).tolist() == [[3, 3, 3, 3, 3, 5, 5, 5, 5]]
    assert fill_regions(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_wider_membrane_costs_no_rand_score_and_a_gap_does():
    """What the score is for: it asks whether cells are apart, not how thick the membrane is."""
    truth = torch.zeros(20, 21, dtype=torch.int64)
    truth[:, :10], truth[:, 11:] = 1, 2
    thick = truth.clone()
    thick[:, 7:14] = 0
    assert rand_f_score(truth, fill_regions(thick)) == 1
    leaking = (truth > 0).long()
    leaking[9, 10] = 1  # one pixel of membrane is missing: one region
    assert rand_f_score(truth, fill_regions(leaking)) < 0.7


# What enters


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 5, 4, 4), (2, 4, 4), (2, 4, 4, 3)])
def test_logits_without_a_channel_for_each_class_are_refused(shape):
    with pytest.raises(ValueError, match=rf"logits \(N, 3, H, W\).*not {re.escape(str(shape))}"):
        ConfusionMatrix(3).update(torch.zeros(shape), torch.zeros(2, 4, 4, dtype=torch.int64))


def test_one_logit_is_told_what_to_do():
    with pytest.raises(ValueError, match="one logit for two classes has no largest; compare it with 0 first"):
        ConfusionMatrix(2).update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64))


def test_a_network_that_has_diverged_has_no_metrics():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0, 1] = math.nan
    with pytest.raises(ValueError, match="logits hold nan"):
        ConfusionMatrix(2).update(logits, torch.zeros(1, 2, 2, dtype=torch.int64))


def test_labels_are_no_fractions():
    with pytest.raises(ValueError, match=r"labels are whole numbers, not torch\.float32"):
        ConfusionMatrix(2).update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 0.5))


@pytest.mark.parametrize("void", [-1, -100, 2, 255, 256, 300])
def test_any_label_may_be_ignored(void):
    matrix = ConfusionMatrix(2, ignore_index=void)
    matrix.update(torch.tensor([[[0, 1], [0, 0]]]), torch.tensor([[[0, 1], [void, 1]]]))
    assert matrix.counts.tolist() == [[1, 0], [1, 1]]
    with pytest.raises(ValueError, match="labels hold"):
        matrix.update(torch.tensor([[[0]]]), torch.tensor([[[7]]]))


@pytest.mark.parametrize("void", [None, 1.5, "255", 0, 1])
def test_an_impossible_ignored_label_is_refused_at_once(void):
    with pytest.raises(ValueError, match="ignore_index"):
        ConfusionMatrix(2, ignore_index=void)


def test_a_truth_of_one_class_says_so():
    matrix = ConfusionMatrix(2)
    assert "holds no pixel that counts" in matrix.one_class(("ground", "roof"))
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert "holds one class alone, ground, of ground, roof" in matrix.one_class(("ground", "roof"))
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2, 2, dtype=torch.int64))
    assert matrix.one_class(("ground", "roof")) == ""
