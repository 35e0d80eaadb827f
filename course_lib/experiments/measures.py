"""What a run measures besides its confusion matrix: functions that a recipe names in `measures`.

A measure looks at the trained network and returns numbers by name, in 0..1 where a table is to show them;
they join the metrics of the record. To add one: the function here, in MEASURES; the names of its numbers in
MEASURED, and what people call them in METRICS (`table_files.py`; LOWER_IS_BETTER there if they are errors).
A table may then state them as its `metric` or that of a claim.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from course_lib.ambiguity import mode_coverage
from course_lib.calibration import CalibrationError, auroc
from course_lib.cvae import code_use
from course_lib.data.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from course_lib.data.registry import open_dataset
from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.transforms import to_batch
from course_lib.experiments.recipes import Recipe
from course_lib.experiments.table_files import TOLD, RecipeError, suggest
from course_lib.implicit_background import ExpectedNonDistinctiveness
from course_lib.latent import WAYS, evaluate_refinement, refinement_numbers
from course_lib.losses import connected_regions
from course_lib.metrics import fill_regions, rand_f_score
from course_lib.plumbing.progress import progress_bar
from course_lib.train import evaluate

Measure = Callable[[nn.Module, SegmentationDataset, Recipe], dict[str, float]]


@torch.no_grad()
def membranes(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """Errors of a division into cells, class 0 being the membrane between them; means over the pictures.

    pixel_error  share of the pixels whose class is wrong
    rand_error   1 - V_Rand, the F-score of `rand_f_score`: regions of the prediction, grown until they meet,
                 against regions of the truth
    """
    model.eval()
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
def robustness(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """How a network with a background (class 0) stands corrupted pictures, and what it knows of itself.

    corrupted_mean_iou  mean of the mIoU over all kinds and severities of `data.corruptions`;
                        corrupted_KIND the mean over the severities of one kind
    end_1, end_2        END of both modes (`implicit_background`)
    ece                 calibration error of the softmax over all classes, 15 bins
    unseen_auroc        only with `unseen`: the chance that a pixel of the unseen class has a higher
                        background probability than a pixel of a class that was learnt
    """
    model.eval()
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
            raise ValueError(f"unseen: no validation picture shows a pixel of {recipe.unseen}")
        found["unseen_auroc"] = auroc(torch.cat(scores), torch.cat(is_unseen))
    for kind in progress_bar(CORRUPTIONS, "corrupted", delay=2):
        worse = [evaluate(model, Corrupted(validation, kind, severity), show_progress=False) for severity in SEVERITIES]
        found[f"corrupted_{kind}"] = sum(one.summary()["mean_iou"] for one in worse) / len(worse)
    of_kinds = [found[f"corrupted_{kind}"] for kind in CORRUPTIONS]
    return found | {"corrupted_mean_iou": sum(of_kinds) / len(of_kinds)}


def code(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """Whether a CVAE uses its code: `course_lib.cvae.code_use`. KL is in nats, not in 0..1.

    In full precision, as `refinement` is: their numbers are compared.
    """
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        return code_use(model, validation)


NAMES = {"road": ("Road", "road"), "pavement": ("Pavement", "sidewalk"), "building": ("Building", "building")}
"""The classes of the CVAE paper's table 1 (`TOLD`), and what CamVid and Cityscapes call them."""


def refinement(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """What a CVAE gains where the true region of one class is told: table 1 and figure 5 of the paper.

    The numbers of `course_lib.latent.refinement_numbers`, with "road", "pavement" and "building" for the
    three classes of `NAMES`, whatever the set calls them. They are of the first of the recipe's
    `refine_priors`; those of a further one, 10, end in "_prior_10".
    """
    known = [next(name for name in NAMES[told] if name in validation.classes) for told in TOLD]
    found = {}
    for prior in recipe.refine_priors:
        matrices = evaluate_refinement(model, validation, known, prior_weight=prior)
        ending = "" if prior == recipe.refine_priors[0] else f"_prior_{prior:g}"
        for key, value in refinement_numbers(matrices, validation.classes).items():
            found[key.replace("sidewalk", "pavement") + ending] = value
    return found


def both_labelings(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """Whether random codes show both labelings of ambiguous scenes: `course_lib.ambiguity.mode_coverage`."""
    split = recipe.val_split
    scenes = open_dataset(
        recipe.dataset, split, size=(recipe.height, recipe.width), cache=False, **recipe.options_of(split)
    )
    return mode_coverage(model, scenes)


MEASURES: dict[str, Measure] = {
    "membranes": membranes,
    "robustness": robustness,
    "code": code,
    "refinement": refinement,
    "both_labelings": both_labelings,
}
"""(network, validation pictures, recipe) -> {metric: value}, by the name that recipes use."""

MEASURED = {"pixel_error": "membranes", "rand_error": "membranes"} | dict.fromkeys(
    ("corrupted_mean_iou", "end_1", "end_2", "ece", "unseen_auroc"), "robustness"
)
MEASURED |= dict.fromkeys(("encoded_accuracy", "random_accuracy", "code_gain"), "code")
MEASURED |= dict.fromkeys(("codes_show_both", "codes_ged", "zero_ged"), "both_labelings")
MEASURED |= {
    f"{told}_{way}_{number}": "refinement" for told in TOLD for way in WAYS for number in ("accuracy", "others_iou")
} | {f"zero_code_others_than_{told}_iou": "refinement" for told in TOLD}
MEASURED["zero_code_accuracy"] = "refinement"
"""Which measure gives a metric."""


def require_measures(names: Sequence[str]) -> None:
    """Raises RecipeError for a name that is no measure."""
    for name in names:
        if name not in MEASURES:
            raise RecipeError(
                f"measure {name!r} is unknown{suggest(name, MEASURES)}; the measures are {', '.join(MEASURES)}"
            )


def measure(model: nn.Module, validation: SegmentationDataset, recipe: Recipe) -> dict[str, float]:
    """The numbers of all measures that `recipe` names. Raises RecipeError for an unknown one."""
    require_measures(recipe.measures)
    found: dict[str, float] = {}
    for name in recipe.measures:
        found |= MEASURES[name](model, validation, recipe)
    return found
