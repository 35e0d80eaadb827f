"""The task "train": the recipe's network, trained on one split and measured on another."""

from functools import partial

from course_lib.data.transforms import to_batch
from course_lib.experiments.building import Finished, Sitting, build_model, fit_options, make_objective, open_splits
from course_lib.experiments.measures import measure
from course_lib.experiments.recipes import TrainRecipe
from course_lib.losses import class_weights
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.train import evaluate, fit


def run(recipe: TrainRecipe, sitting: Sitting) -> Finished:
    """Train and measure the recipe's network; go on from its last checkpoint, where there is one."""
    training, validation = open_splits(recipe)
    model = build_model(recipe, len(training.classes))
    labels = (training[index].labels for index in range(len(training))) if recipe.class_weighting != "none" else ()
    weights = class_weights(recipe.class_weighting, labels, len(training.classes))
    objective = make_objective(recipe, weights)
    fabric = sitting.fabric or make_fabric(recipe.precision)
    collate = getattr(objective, "collate", to_batch)
    history = fit(model, training, objective=objective, collate=collate, **fit_options(recipe, sitting, fabric))
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=sitting.show_progress, fabric=fabric)
        measured = first_decides(fabric, partial(measure, model, validation, recipe))
    data = {"train": recipe.train_split, "train_pictures": len(training)}
    return Finished(model, matrix, validation, history, fabric, data, measured)
