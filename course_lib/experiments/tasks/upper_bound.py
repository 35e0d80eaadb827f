"""The task "upper_bound": the truth, down- and up-sampled, measured against itself. It takes seconds."""

import time

from course_lib.experiments.building import Finished, Sitting, open_split
from course_lib.experiments.recipes import UpperBoundRecipe
from course_lib.metrics import ConfusionMatrix, rescaling_upper_bound
from course_lib.plumbing.progress import progress_bar
from course_lib.train import History


def run(recipe: UpperBoundRecipe, sitting: Sitting) -> Finished:
    """Return how well the truth survives a network's output stride of `factor`."""
    validation = open_split(recipe, recipe.val_split)
    began = time.perf_counter()
    matrix = ConfusionMatrix(len(validation.classes))
    for index in progress_bar(range(len(validation)), recipe.row, show=sitting.show_progress, delay=2):
        rescaling_upper_bound(validation[index].labels[None], recipe.factor, matrix)
    history = History(seconds=time.perf_counter() - began)
    return Finished(None, matrix, validation, history, None, {}, {})
