"""The task "few_masks": DecoupledNet, or a joint network, from the masks of few images and the classes of all.

First the classifier learns which classes are in each image, of all images. Then, for "decoupled", it is frozen,
and a network of figure and ground learns from the masks; for "joint_from_classifier" a network of all classes starts
from its weights, and all of it learns from the masks. "joint" starts from scratch. With one seed the classifiers of
all rows are the same: only what comes after differs. The steps that a run reports are those on masks.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.splits import Subset
from course_lib.data.transforms import batch_on
from course_lib.experiments.building import Finished, Sitting, build_model, fit_options, open_split
from course_lib.experiments.recipes import FewMasksRecipe
from course_lib.losses import cross_entropy, presence_loss
from course_lib.metrics import ConfusionMatrix
from course_lib.models.decouplednet import DecoupledNet
from course_lib.plumbing.devices import first_decides, make_fabric
from course_lib.plumbing.modes import in_evaluation
from course_lib.train import History, evaluate, fit


def run(recipe: FewMasksRecipe, sitting: Sitting) -> Finished:
    """Train and measure.

    Of a decoupled network also "presence_accuracy", of the classifier's answers to whether a class is there, and
    "told_mean_iou": the mIoU where the network is told which classes are there.

    Raises:
        ValueError: For a set without background as class 0, and for more masks than there are.
    """
    training, validation = (open_split(recipe, name) for name in (recipe.train_split, recipe.val_split))
    if training.background != 0:
        raise ValueError(f"{recipe.dataset} has no background as class 0, which figures could stand before")
    masked = with_masks(training, recipe.masks)
    model = build_model(recipe, len(training.classes))
    fabric = sitting.fabric or make_fabric(recipe.precision)
    history, taught = History(), recipe.method != "joint"
    if taught:
        options = {
            **fit_options(recipe, sitting, fabric, "-classifier"),
            "steps": recipe.classifier_steps,
            "on_step": None,
        }
        _add(history, fit(model.classifier, training, objective=classifier_objective, **options))
    objective = None
    if recipe.method == "decoupled":
        model.classifier.requires_grad_(False)
        objective = mask_objective
    _add(history, fit(model, masked, objective=objective, **fit_options(recipe, sitting, fabric)))
    model.to(fabric.device)
    with fabric.autocast():
        matrix = evaluate(model, validation, show_progress=sitting.show_progress, fabric=fabric)
        measured = {}
        if recipe.method == "decoupled":
            measured = first_decides(fabric, partial(judge, model, validation, recipe.batch_size))
    data = {"train": recipe.train_split, "train_pictures": len(masked)}
    data["with_classes_only"] = len(training) - len(masked) if taught else 0
    return Finished(model, matrix, validation, history, fabric, data, measured)


def with_masks(training: SegmentationDataset, number: int) -> SegmentationDataset:
    """Return the first images that hold every class, the background aside, at least `number` times; of 0 all.

    Raises:
        ValueError: Where the set has not so many.
    """
    if not number:
        return training
    labels = (training[index].labels.as_subclass(Tensor) for index in range(len(training)))
    held = torch.cat([present(one[None], len(training.classes)) for one in labels])  # (images, classes - 1)
    enough = (held.cumsum(0) >= number).all(dim=1).nonzero()
    if not len(enough):
        least = int(held.sum(0).min())
        raise ValueError(f"masks is {number}, but a class is in only {least} images")
    return Subset(training, range(int(enough[0]) + 1))


def present(labels: Tensor, classes: int) -> Tensor:
    """Return which classes, the background aside, are in each image: (N, H, W) -> (N, classes - 1) bool."""
    return torch.stack([(labels == label).flatten(1).any(dim=1) for label in range(1, classes)], dim=1)


def classifier_objective(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of what is in each image; of the labels it uses nothing else."""
    return presence_loss(classifier(images), _without_background(labels))


def mask_objective(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return DecoupledNet's loss: figure and ground of one class of each image, drawn at random.

    The classifier keeps its statistics, and learns nothing; an image without a class has only ground.
    """
    network.classifier.eval()
    with torch.no_grad():
        seen = network.classifier.look(images)
    classes = seen.scores.shape[1] + 1
    number = torch.multinomial(present(labels, classes).float() + 1e-6, 1)[:, 0]  # (N,)
    masks = network.masks(seen, functional.one_hot(number, classes - 1).to(images.dtype))
    figure = (labels == number.view(-1, 1, 1) + 1).long()
    return cross_entropy(masks, figure.masked_fill(labels == IGNORE, IGNORE))


@torch.no_grad()
@in_evaluation
def judge(model: DecoupledNet, validation: SegmentationDataset, batch_size: int) -> dict[str, float]:
    """Return "presence_accuracy" and "told_mean_iou" of a trained network, 0..1."""
    device, classes = next(model.parameters()).device, len(validation.classes)
    told, right = ConfusionMatrix(classes, device=device), []
    for start in range(0, len(validation), batch_size):
        samples = [validation[index] for index in range(start, min(start + batch_size, len(validation)))]
        images, labels = batch_on(device, samples)
        seen, true = model.classifier.look(images), present(labels, classes)
        right.append((seen.scores.mean(dim=(2, 3)) > 0) == true)
        told.update(model.segment(seen, true.to(images.dtype)), labels)
    return {"presence_accuracy": float(torch.cat(right).float().mean()), "told_mean_iou": told.mean_iou()}


def _without_background(labels: Tensor) -> Tensor:
    """Return labels in which the first class after the background is 0, and the background ignored."""
    return torch.where((labels == 0) | (labels == IGNORE), IGNORE, labels - 1)


def _add(history: History, made: History) -> None:
    """Add a training to those before it; the precision is the last one's."""
    history.losses += made.losses
    history.seconds += made.seconds
    history.precision = made.precision
