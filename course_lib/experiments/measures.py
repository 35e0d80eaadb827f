"""What a run measures besides its confusion matrix: functions that a recipe names in `measures`.

A measure takes the trained network and returns numbers by name, in 0..1 where a table is to show them; they
join the metrics of the record. To add one: the function here, in MEASURES, and a line for each of its numbers
in `metric_names.METRICS`. A table may then give them as its `metric` or that of a claim.
"""

from collections.abc import Callable

import torch
from torch import nn

from course_lib.ambiguity import mode_coverage, told_half
from course_lib.calibration import CalibrationError, auroc
from course_lib.cvae import code_use, uncertainty_use
from course_lib.data.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from course_lib.data.on_device import keep_on
from course_lib.data.registry import open_dataset
from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.transforms import to_batch
from course_lib.experiments.metric_names import TOLD
from course_lib.experiments.recipes import TrainRecipe
from course_lib.experiments.refinement import evaluate_refinement, refinement_numbers
from course_lib.implicit_background import ExpectedNonDistinctiveness
from course_lib.losses import connected_regions
from course_lib.metrics import fill_regions, rand_f_score
from course_lib.plumbing.exact import exact
from course_lib.plumbing.modes import in_evaluation
from course_lib.plumbing.progress import progress_bar
from course_lib.train import evaluate

Measure = Callable[[nn.Module, SegmentationDataset, TrainRecipe], dict[str, float | list[int]]]


@torch.no_grad()
@in_evaluation
def membranes(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Return the errors of a division into cells, class 0 being the membrane between them; means over the images.

    Returns:
        `pixel_error`, the share of the pixels whose class is wrong, and `rand_error`, 1 - V_Rand, the F-score of
        `rand_f_score`: regions of the prediction, grown until they meet, against regions of the truth.
    """
    device = next(model.parameters()).device
    wrong, rand = [], []
    for index in range(len(validation)):
        images, labels = to_batch([validation[index]])
        predicted = model(images.to(device)).argmax(dim=1)[0].cpu()
        wrong.append(float((predicted != labels[0]).float().mean()))
        regions = fill_regions(connected_regions(predicted))
        rand.append(1 - rand_f_score(connected_regions(labels[0]), regions))
    return {"pixel_error": sum(wrong) / len(wrong), "rand_error": sum(rand) / len(rand)}


@torch.no_grad()
@in_evaluation
def robustness(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Measure a network with a background (class 0) on corrupted images, and its calibration.

    Returns:
        `corrupted_mean_iou`, the mean of the mIoU over all kinds and severities of `data.corruptions`, and
        `corrupted_KIND`, the mean over the severities of one kind; `end_1` and `end_2`, END of both modes
        (`implicit_background`); `ece`, the calibration error of the softmax over all classes, 15 bins; and, only with
        `unseen`, `unseen_auroc`, the chance that a pixel of the unseen class has a higher background probability than
        a pixel of a class that was learnt.

    Raises:
        ValueError: With `unseen`, where no image shows a pixel of that class.
    """
    device = next(model.parameters()).device
    end_1, end_2, calibration = ExpectedNonDistinctiveness(1), ExpectedNonDistinctiveness(2), CalibrationError()
    scores, is_unseen = [], []
    for index in range(len(validation)):
        images, labels = to_batch([validation[index]])
        logits = model(images.to(device)).float().cpu()
        end_1(logits, labels)
        end_2(logits, labels)
        probabilities = logits.softmax(1)
        calibration.update(probabilities, labels)
        if recipe.unseen:
            truth = validation.dataset[index].labels[None].as_subclass(torch.Tensor)
            unseen = truth == validation.index
            object_pixels = unseen | ((labels != IGNORE) & (labels != 0))
            scores.append(probabilities[:, 0][object_pixels])
            is_unseen.append(unseen[object_pixels])
    found = {"end_1": float(end_1.compute()), "end_2": float(end_2.compute()), "ece": calibration.compute()}
    if recipe.unseen:
        if not torch.cat(is_unseen).any():
            raise ValueError(f"unseen: no validation image shows a pixel of {recipe.unseen}")
        found["unseen_auroc"] = auroc(torch.cat(scores), torch.cat(is_unseen))
    validation = keep_on(device, validation) or validation
    for kind in progress_bar(CORRUPTIONS, "corrupted", delay=2):
        worse = [evaluate(model, Corrupted(validation, kind, severity), show_progress=False) for severity in SEVERITIES]
        found[f"corrupted_{kind}"] = sum(one.summary()["mean_iou"] for one in worse) / len(worse)
    of_kinds = [found[f"corrupted_{kind}"] for kind in CORRUPTIONS]
    return found | {"corrupted_mean_iou": sum(of_kinds) / len(of_kinds)}


@exact()
def use_of_code(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Measure whether a CVAE uses its code: `course_lib.cvae.code_use`. KL is in nats, not in 0..1.

    In full precision, as `refinement` is: their numbers are compared.
    """
    return code_use(model, validation)


NAMES = {"road": ("Road", "road"), "pavement": ("Pavement", "sidewalk"), "building": ("Building", "building")}
"""The classes of the CVAE paper's table 1 (`TOLD`), and what CamVid and Cityscapes call them."""


def refinement(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float | list[int]]:
    """Measure what a CVAE gains where the true region of one class is given: table 1 and figure 5 of the paper.

    The numbers of `refinement_numbers`, with "road", "pavement" and "building" for the
    three classes of `NAMES`, whatever the set calls them. They are of the first of the recipe's
    `refine_priors`; those of a further one, 10, end in "_prior_10". Of the first prior also the right pixels of each
    image, as lists.
    """
    known = [next(name for name in NAMES[told] if name in validation.classes) for told in TOLD]
    found: dict[str, float | list[int]] = {}
    for prior in recipe.refine_priors:
        first = prior == recipe.refine_priors[0]
        pictures: dict[str, list[int]] = {}
        matrices = evaluate_refinement(model, validation, known, prior_weight=prior, pictures=pictures)
        numbers = refinement_numbers(matrices, validation.classes) | (pictures if first else {})
        for key, value in numbers.items():
            found[key.replace("sidewalk", "pavement") + ("" if first else f"_prior_{prior:g}")] = value
    return found


def both_labelings(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Measure whether random codes show both labelings of ambiguous scenes (`course_lib.ambiguity.mode_coverage`)."""
    return mode_coverage(model, _uncached(recipe))


def half_of_both(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Measure what one half of an ambiguous thing tells about the other (`course_lib.ambiguity.told_half`)."""
    return told_half(model, _uncached(recipe), prior_weight=recipe.refine_priors[0])


def _uncached(recipe: TrainRecipe) -> SegmentationDataset:
    """Return the validation scenes themselves, which know both labelings."""
    split, size = recipe.val_split, (recipe.height, recipe.width)
    return open_dataset(recipe.dataset, split, size=size, cache=False, **recipe.options_of(split))


@exact()
def uncertainty(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Measure whether b and entropy are larger where a CVAE errs (`course_lib.cvae.uncertainty_use`)."""
    return uncertainty_use(model, validation)


class WithFlipped(nn.Module):
    """A network that is asked about the mirrored image too: the log of the mean of both softmax outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        plain, mirrored = (self.model(x).float().softmax(1) for x in (images, images.flip(-1)))
        return (plain + mirrored.flip(-1)).div(2).log()  # (N, C, H, W)


def flipped(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float]:
    """Return `flipped_mean_iou`, the mIoU of predictions averaged over the image and its mirror image."""
    return {"flipped_mean_iou": evaluate(WithFlipped(model), validation, show_progress=False).summary()["mean_iou"]}


MEASURES: dict[str, Measure] = {
    "membranes": membranes,
    "robustness": robustness,
    "code": use_of_code,
    "refinement": refinement,
    "both_labelings": both_labelings,
    "half_of_both": half_of_both,
    "uncertainty": uncertainty,
    "flipped": flipped,
}
"""(network, validation images, recipe) -> {metric: value}, by the name that recipes use; a list is of each image."""


def measure(model: nn.Module, validation: SegmentationDataset, recipe: TrainRecipe) -> dict[str, float | list[int]]:
    """Return the numbers of all measures that `recipe` names."""
    numbers: dict[str, float | list[int]] = {}
    for name in recipe.measures:
        numbers |= MEASURES[name](model, validation, recipe)
    return numbers
