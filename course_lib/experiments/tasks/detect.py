"""The task "detect": a detector of objects of one class, trained on one split and measured by average precision."""

from functools import partial

from torch import nn

from course_lib.average_precision import coco_summary, size_thirds
from course_lib.data.sample import SegmentationDataset
from course_lib.detection import detect_all, detection_objective, object_batch, random_rois
from course_lib.experiments.building import Finished, Sitting, build_detector, fit_options, open_splits
from course_lib.experiments.recipes import DetectRecipe
from course_lib.hard_examples import hard_rois
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.train import evaluate, fit


def run(recipe: DetectRecipe, sitting: Sitting) -> Finished:
    """Train and measure the recipe's detector; go on from its last checkpoint, where there is one.

    The confusion matrix counts pixels in boxes with a score above 0.5 against those of objects.
    """
    training, validation = open_splits(recipe)
    model = build_detector(recipe, len(training.classes))
    if recipe.hardest:
        choose = hard_rois(recipe.rois, recipe.hardest)
    else:
        choose = random_rois(recipe.rois, background_low=recipe.background_low)
    objective = detection_objective(model.proposals, choose)
    fabric = sitting.fabric or make_fabric(recipe.precision)
    options = fit_options(recipe, sitting, fabric)
    history = fit(model.network, training, objective=objective, collate=object_batch, **options)
    model.to(fabric.device)
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=sitting.show_progress, fabric=fabric)
        measured = first_decides(fabric, partial(precision_by_size, model, validation))
    data = {"train": recipe.train_split, "train_pictures": len(training)}
    return Finished(model, matrix, validation, history, fabric, data, measured)


def precision_by_size(model: nn.Module, validation: SegmentationDataset) -> dict[str, float]:
    """Return "ap", "ap50" and "ap75", and each for the smallest, middle and largest third of the true objects."""
    found, truths = detect_all(model.network, validation, model.proposals)
    measured = coco_summary(found, truths)
    for name, sizes in size_thirds(truths).items():
        measured |= {f"{key}_{name}": value for key, value in coco_summary(found, truths, sizes=sizes).items()}
    return measured
