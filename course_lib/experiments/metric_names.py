"""The metrics that tables may state: what people call each, which measure gives it, and which way is better."""

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric of a record, in 0..1.

    Attributes:
        title: Its name in tables.
        measure: Key of `experiments.measures.MEASURES` that gives it; "" for those of the confusion matrix.
        lower_is_better: Whether it is an error.
        own_pictures: Whether it is of other images than the confusion matrix, so that floors say nothing of it.
    """

    title: str
    measure: str = ""
    lower_is_better: bool = False
    own_pictures: bool = False


TOLD = ("road", "pavement", "building")
"""The classes whose true region is given to the CVAE: table 1 of its paper."""
WAYS = ("replaced", "optimised", "optimised_replaced")
"""What is done with that region: it replaces the network's answer, the code is optimised for it, or both."""

METRICS = {
    "mean_iou": Metric("mIoU"),
    "overall_accuracy": Metric("overall accuracy"),
    "mean_accuracy": Metric("mean accuracy"),
    "frequency_weighted_iou": Metric("frequency-weighted IoU"),
    "flipped_mean_iou": Metric("mIoU, mirror image too", "flipped"),
    "pixel_error": Metric("pixel error", "membranes", lower_is_better=True),
    "rand_error": Metric("Rand error", "membranes", lower_is_better=True),
    "corrupted_mean_iou": Metric("corrupted mIoU", "robustness"),
    "end_1": Metric("END, mode 1", "robustness", lower_is_better=True),
    "end_2": Metric("END, mode 2", "robustness", lower_is_better=True),
    "ece": Metric("calibration error", "robustness", lower_is_better=True),
    "unseen_auroc": Metric("AUROC of unseen objects", "robustness"),
    "encoded_accuracy": Metric("accuracy with the encoded code", "code"),
    "random_accuracy": Metric("accuracy with random codes", "code"),
    "code_gain": Metric("accuracy that the encoded code gains", "code"),
    "zero_code_accuracy": Metric("accuracy with the zero code", "refinement"),
    "codes_show_both": Metric("images whose codes show both labelings", "both_labelings"),
    "codes_ged": Metric("energy distance of random codes", "both_labelings", lower_is_better=True),
    "zero_ged": Metric("energy distance of the zero code", "both_labelings", lower_is_better=True),
    "half_zero_right": Metric("other half right, zero code", "half_of_both"),
    "home_mean_iou": Metric("mIoU in the style of the first set", own_pictures=True),
    "told_mean_iou": Metric("mIoU, told which classes are there"),
    "presence_accuracy": Metric("right answers to whether a class is there"),
    "pedestrian_iou": Metric("IoU of pedestrians"),
    "half_refined_right": Metric("other half right, refined code", "half_of_both"),
    "half_other_right": Metric("other half right, refined to the other side", "half_of_both", lower_is_better=True),
}
for kind in ("zero", "encoded"):
    METRICS[f"b_auroc_{kind}"] = Metric(f"AUROC of b, errors of the {kind} code", "uncertainty")
    METRICS[f"entropy_auroc_{kind}"] = Metric(f"AUROC of the entropy, errors of the {kind} code", "uncertainty")
for told in TOLD:
    METRICS[f"zero_code_{told}_iou"] = Metric(f"IoU of {told}, zero code", "refinement")
    METRICS[f"{told}_zero_code_as_encoded"] = Metric(f"agrees with the encoded map, {told} left out", "refinement")
    METRICS[f"{told}_optimised_as_encoded"] = Metric(f"agrees with the encoded map, {told} optimised", "refinement")
    METRICS[f"zero_code_others_than_{told}_iou"] = Metric(f"mIoU without {told}, zero code", "refinement")
    for way in WAYS:
        ending = f"{told} {way.replace('_', ', then ')}"
        METRICS[f"{told}_{way}_accuracy"] = Metric(f"accuracy, {ending}", "refinement")
        METRICS[f"{told}_{way}_others_iou"] = Metric(f"mIoU without {told}, {ending}", "refinement")
        METRICS[f"{told}_{way}_mean_iou"] = Metric(f"mIoU, {ending}", "refinement")
        for other in TOLD:
            METRICS[f"{told}_{way}_{other}_iou"] = Metric(f"IoU of {other}, {ending}", "refinement")

for who, what in (("suggestion", "ancillary network's suggestion"), ("target", "q"), ("primary", "primary network")):
    METRICS[f"w_{who}_mean_iou"] = Metric(f"mIoU on W, {what}")
    METRICS[f"w_{who}_missed"] = Metric(f"objects of W that are missed, {what}", lower_is_better=True)
    METRICS[f"w_{who}_overfilled"] = Metric(f"objects of W that are over-filled, {what}", lower_is_better=True)

for key, name in (("ap", "AP, mean over IoU 0.5 to 0.95"), ("ap50", "AP at IoU 0.5"), ("ap75", "AP at IoU 0.75")):
    METRICS[key] = Metric(name)
    for third in ("small", "medium", "large"):
        METRICS[f"{key}_{third}"] = Metric(f"{name}, {third} third of the objects")

MEASURE_NAMES = tuple(dict.fromkeys(metric.measure for metric in METRICS.values() if metric.measure))
"""What a recipe's `measures` may name."""
