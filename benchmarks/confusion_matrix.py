"""Counting a batch of CamVid's size: the course's confusion matrix and torchmetrics'."""

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from benchmarks.measure import Result, in_turn
from course_lib.data.sample import IGNORE
from course_lib.metrics import ConfusionMatrix

CLASSES, SHAPE = 11, (8, 360, 480)


def measure() -> list[Result]:
    """Both check the values that they are given; torchmetrics is timed without its check as well.

    On one thread, so that the work is compared and not how often threads are started.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [compare()]
    finally:
        torch.set_num_threads(threads)


def compare() -> Result:
    """Time the same batch in both, and make sure that both count the same."""
    torch.manual_seed(0)
    labels, prediction = torch.randint(CLASSES, SHAPE), torch.randint(CLASSES, SHAPE)
    labels[torch.rand(SHAPE) < 0.05] = IGNORE
    ours = ConfusionMatrix(CLASSES)
    theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    unchecked = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE, validate_args=False)
    seconds = in_turn(
        {
            "course": lambda: ours.update(prediction, labels),
            "torchmetrics": lambda: theirs.update(prediction, labels),
            "torchmetrics, unchecked": lambda: unchecked.update(prediction, labels),
        },
        repeats=15,
    )
    if not torch.equal(ours.counts, theirs.compute()):
        raise AssertionError("the two matrices differ: their times cannot be compared")
    details = {f"{name} (ms)": 1000 * value for name, value in seconds.items()}
    ratio = seconds["torchmetrics"] / seconds["course"]
    name = "confusion matrix of (8, 360, 480), torchmetrics' time over ours, one thread"
    return Result(name, ratio, "times", 10, details)
