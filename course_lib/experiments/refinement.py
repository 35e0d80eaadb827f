"""What refining a CVAE's code from partial truth gains: the numbers of the paper's table 1, and its controls.

P. Zhuang, Y. Sekikawa, K. Hara, H. Saito, "Learning an Optimisable Semantic Segmentation Map with Image
Conditioned Variational Autoencoder", section 4.1. Controls that the table leaves out: truth pasted after optimising,
and the code of the whole truth.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.experiments.metric_names import WAYS
from course_lib.latent import class_region, encode_truth, linearise, refine
from course_lib.metrics import ConfusionMatrix
from course_lib.plumbing.progress import progress_bar


def evaluate_refinement(
    model: nn.Module,
    dataset: SegmentationDataset,
    known: Sequence[str],
    *,
    prior_weight: float = 1.0,
    steps: int = 30,
    tolerance: float = 1e-3,
    show_progress: bool = True,
    pictures: dict[str, list[int]] | None = None,
) -> dict[str, ConfusionMatrix]:
    """Return the confusion matrices of the paper's table 1, and of its controls, over `dataset`.

    "zero_code"                    nothing is given
    "encoded"                      the code that the encoder gives for the whole truth
    "{class}_replaced"             the zero code's map, the told pixels pasted into it ("road_replaced")
    "{class}_optimised"            the map of the refined code (`refine`)
    "{class}_optimised_replaced"   the told pixels pasted into that

    and, of the labelled pixels outside the told ones, how zero code and optimised code agree with the encoded one:
    "{class}_zero_code_as_encoded" and "{class}_optimised_as_encoded", with the encoded code's map as the truth.

    Where an image has no pixel of the class, its map stays that of the zero code.

    Args:
        known: Names of classes; each in turn is given: truth on the true region of that class.
        prior_weight: Of `refine`, as `steps` and `tolerance`.
        pictures: Takes the right pixels of each image by matrix, and as "pixels" how many count.

    Raises:
        ValueError: For a class that the set lacks.
    """
    unknown = [name for name in known if name not in dataset.classes]
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is none of {', '.join(dataset.classes)}")
    ways = (*WAYS, "zero_code_as_encoded", "optimised_as_encoded")
    names = ["zero_code", "encoded", *(f"{_key(name)}_{way}" for name in known for way in ways)]
    matrices = {name: ConfusionMatrix(len(dataset.classes)) for name in names}
    device = next(model.parameters()).device
    jacobian = None
    for index in progress_bar(range(len(dataset)), "refining", show=show_progress, delay=2):
        sample = dataset[index]
        labels = sample.labels.as_subclass(Tensor).to(device)

        def count(name: str, prediction: Tensor, labels: Tensor = labels) -> None:
            matrices[name].update(prediction[None], labels[None])
            if pictures is not None:
                pictures.setdefault(name, []).append(int((prediction == labels)[labels != IGNORE].sum()))

        if pictures is not None:
            pictures.setdefault("pixels", []).append(int((labels != IGNORE).sum()))
        linear = linearise(model, sample.image, jacobian=jacobian)
        encoded = encode_truth(model, sample.image, labels)
        if getattr(model, "conditioning", "") == "concat":
            jacobian = linear.jacobian
        zero = linear.offset.argmax(0)
        count("zero_code", zero)
        of_whole = linear.logits(encoded).argmax(0)
        count("encoded", of_whole)
        for name in known:
            region = class_region(labels, dataset.classes.index(name), len(linear.offset))
            optimised = zero
            if region.any():
                found = refine(linear, labels, region, prior_weight=prior_weight, steps=steps, tolerance=tolerance)
                optimised = linear.logits(found.code).argmax(0)
            count(f"{_key(name)}_replaced", torch.where(region, labels, zero))
            count(f"{_key(name)}_optimised", optimised)
            count(f"{_key(name)}_optimised_replaced", torch.where(region, labels, optimised))
            target = of_whole.where((labels != IGNORE) & ~region, IGNORE)[None]
            matrices[f"{_key(name)}_zero_code_as_encoded"].update(zero[None], target)
            matrices[f"{_key(name)}_optimised_as_encoded"].update(optimised[None], target)
    return matrices


def _key(name: str) -> str:
    """Return a class as names of numbers spell it: "traffic_light" for "Traffic light"."""
    return name.lower().replace(" ", "_")


def refinement_numbers(matrices: dict[str, ConfusionMatrix], classes: Sequence[str]) -> dict[str, float]:
    """Return the matrices of `evaluate_refinement` as numbers in 0..1, by name.

    {matrix}_accuracy and {matrix}_mean_iou of each matrix, and {matrix}_{class}_iou of each class (the paper's figure
    5); for every told class and each way, and for the zero code, the mean IoU over the other classes as well (its first
    row): {class}_{way}_others_iou, and zero_code_others_than_{class}_iou to compare it with. Agreements with the encoded
    code's map have the names of their matrices.
    """
    numbers = {}
    for name, matrix in matrices.items():
        if name.endswith("_as_encoded"):
            numbers[name] = matrix.overall_accuracy()
            continue
        numbers[f"{name}_accuracy"] = matrix.overall_accuracy()
        numbers[f"{name}_mean_iou"] = matrix.mean_iou()
        for label, iou in zip(classes, matrix.ious().tolist(), strict=True):
            numbers[f"{name}_{_key(label)}_iou"] = iou
    for name in classes:
        of_others = torch.arange(len(classes)) != classes.index(name)
        told = _key(name)
        ways = [f"{told}_{way}" for way in WAYS if f"{told}_{way}" in matrices]
        for way in ways:
            numbers[f"{way}_others_iou"] = float(matrices[way].ious()[of_others].nanmean())
        if ways:
            zero = matrices["zero_code"].ious()[of_others]
            numbers[f"zero_code_others_than_{told}_iou"] = float(zero.nanmean())
    return numbers
