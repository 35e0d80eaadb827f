"""Losses of dense prediction: cross-entropy over pixels, and the weights papers put on classes and borders."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE, Sample
from course_lib.data.transforms import to_batch

Objective = Callable[..., Tensor]
"""(model, images (N, 3, H, W), labels (N, H, W)) -> scalar loss; what else a batch holds follows the labels.

On several devices the whole batch's loss is the mean of the devices' losses; there a model is called once a
step, and dropout differs from one device's. An objective may have these::

    weight(labels) -> scalar            what it divides by, where that is not the number of images; the mean over
                                        the devices is weighted with it
    at_step(step)                       called before each batch, for objectives with a schedule
    collate(samples) -> batch           how a run of a table is to make its batches
    of_constant_answer(counts) -> float its least mean loss over batches with these pixels of each class, (B, C),
                                        for a network with the same answer at every pixel
"""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Return the mean over the counted pixels of `-sum_c y_c log softmax(logits)_c`, a scalar.

    Where no pixel counts the loss is 0 and has a zero gradient, not nan.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64 with `ignore_index` for pixels that do not count, or a distribution over the
            classes, (N, C, H, W) float, whose pixels all count but those where it is all 0.
        class_weights: Factor of each class, (C,); the mean is then the weighted mean, as in torch.
        pixel_weights: Factor of each pixel, (N, H, W) (U-Net's border weights); the sum is divided by the number
            of counted pixels, so that heavier borders make a larger loss.
        ignore_index: Label of the pixels that do not count.

    Raises:
        ValueError: Where shapes or types do not fit, for a single channel, and on a CPU for a label without a channel
            and for what is no distribution. On a GPU, which would have to wait, a label without a channel makes the
            loss nan.
    """
    soft = labels.ndim == logits.ndim
    _check_shapes(logits, labels, soft)
    classes = logits.shape[1]
    if class_weights is not None and len(class_weights) != classes:
        raise ValueError(f"{len(class_weights)} class weights do not go with logits of {classes} classes")
    if pixel_weights is not None and pixel_weights.shape != logits[:, 0].shape:
        raise ValueError(f"pixel weights are {tuple(logits[:, 0].shape)}, not {tuple(pixel_weights.shape)}")
    if soft:
        _check_distribution(labels)
        log_p = functional.log_softmax(logits.float(), dim=1)
        per_pixel, nothing = -(labels * log_p * _along_classes(class_weights)).sum(1), 0.0
        weights = (labels * _along_classes(class_weights)).sum(1)
    else:
        per_pixel, labels, nothing = _negative_log(logits, labels, class_weights, ignore_index)
        weights = counting_weights(labels, class_weights, ignore_index)
    if pixel_weights is not None:
        per_pixel = per_pixel * pixel_weights
    return _mean(per_pixel, weights) + nothing


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, ignore_index: int = IGNORE) -> Tensor:
    """Return the mean over the counted pixels of `-(1 - p)^gamma log p`, a scalar; p is that of the true class.

    The factor is near 0 where the network is right and sure, so that many easy pixels do not outvote few hard ones.
    With gamma = 0 it is the cross-entropy. Where no pixel counts the loss is 0 and has a zero gradient.

    Source: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, without
    the class weights alpha. The paper has a sigmoid for each class and divides by the number of true boxes.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64 with `ignore_index` for pixels that do not count.
        gamma: How strongly easy pixels are weighed down, 0 or more.
        ignore_index: Label of the pixels that do not count.

    Raises:
        ValueError: As `cross_entropy`, and for a gamma that is negative or infinite.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma is 0 or more and finite, not {gamma}: easy pixels are to count less, not more")
    _check_shapes(logits, labels)
    per_pixel, labels, nothing = _negative_log(logits, labels, None, ignore_index)
    unsure = -torch.expm1(-per_pixel)  # 1 - p
    # where it is 0 a gamma below 1 would have no gradient
    focal = unsure.clamp(min=1e-12) ** gamma * per_pixel
    return _mean(focal, counting_weights(labels, ignore_index=ignore_index)) + nothing


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """Return 1 - the mean over classes of `2 sum_i p_i g_i / (sum_i p_i^2 + sum_i g_i^2)`, a scalar from 0 to 1.

    p is the probability of the class at a pixel, g is 1 where it is the true class and else 0; the sums run over the
    counted pixels of the whole batch, and the mean over the classes that the batch's labels hold. So each such class
    counts alike, however few its pixels. For a certain prediction the fraction is Dice, the F1 score of the pixels.
    Where no pixel counts the loss is 0 and has a zero gradient.

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3, which has one class and its background.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64 with `ignore_index` for pixels that do not count.
        ignore_index: Label of the pixels that do not count.

    Raises:
        ValueError: As `cross_entropy`.
    """
    _check_shapes(logits, labels)
    labels, nothing = labels.long(), 0.0
    if labels.device.type != "cpu":
        labels, nothing = without_strange(labels, logits.shape[1], ignore_index)
    truth = one_hot(labels, logits.shape[1], ignore_index)
    p = logits.float().softmax(dim=1) * (labels != ignore_index).unsqueeze(1)
    both, sizes = (p * truth).sum((0, 2, 3)), (p**2 + truth).sum((0, 2, 3))  # (C,)
    present = truth.sum((0, 2, 3)) > 0
    lost = 1 - 2 * both / torch.where(sizes > 0, sizes, 1)
    return _mean(lost * present, present) + nothing


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the values over the sum of the weights, 0 where nothing has a weight."""
    total = weights.sum()
    return values.sum() / torch.where(total > 0, total, 1)


def _negative_log(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return `-w log p` of each pixel's label, (N, H, W), 0 where it is ignored; the labels used; 0, or nan on a GPU.

    nan stands for labels without a channel: see `without_strange`.
    """
    labels, nothing = labels.long(), 0.0
    if labels.device.type != "cpu":
        labels, nothing = without_strange(labels, logits.shape[1], ignore_index)
    options = {"weight": class_weights, "ignore_index": ignore_index, "reduction": "none"}
    try:
        return functional.cross_entropy(logits.float(), labels, **options), labels, nothing
    except IndexError:
        raise strange_labels(labels, logits.shape[1], ignore_index) from None


def _check_shapes(logits: Tensor, labels: Tensor, soft: bool = False) -> None:
    expected = logits.shape if soft else (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != tuple(expected):
        raise ValueError(f"logits {tuple(logits.shape)} go with labels {tuple(expected)}, not {tuple(labels.shape)}")
    if logits.shape[1] == 1:
        raise ValueError("one logit a pixel has a softmax of 1 and no loss: give the network a channel for each class")
    if labels.is_floating_point() != soft:
        raise ValueError(f"labels (N, H, W) are whole numbers, a distribution (N, C, H, W) is not: {labels.dtype}")


def _check_distribution(labels: Tensor) -> None:
    if labels.device.type == "cpu":  # elsewhere looking would make the host wait for the device
        sums = labels.detach().float().sum(1)
        wrong = ~((sums - 1).abs() <= 0.02) & (sums != 0)  # `one_hot` gives zeros where a pixel is ignored
        if wrong.any() or (labels < 0).any():
            raise ValueError(
                "a distribution over the classes is not negative and sums to 1 at each pixel (or is all 0, which does not "
                f"count); these sum to {float(sums.min()):.3g}..{float(sums.max()):.3g}: are they logits?"
            )


def strange_labels(labels: Tensor, classes: int, ignore_index: int) -> ValueError:
    """Return the error for labels that no channel of the logits stands for."""
    strange = [value for value in labels.unique().tolist() if value not in (*range(classes), ignore_index)]
    known = f"logits with {classes} channels know 0..{classes - 1}, and {ignore_index} is ignored"
    return ValueError(f"labels hold {strange[:8]}; {known}; these are {labels.dtype}")


def without_strange(labels: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return labels (N, H, W) without those that no channel stands for, and what to add: 0, or nan if there were any.

    On a GPU such a label would end all use of the card in this process, and to look for it is to wait. A loss of nan
    is seen at the next look at the losses.
    """
    strange = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
    return labels.masked_fill(strange, ignore_index), torch.where(strange.any(), math.nan, 0.0)


def counting_weights(labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = IGNORE) -> Tensor:
    """Return how much each pixel counts in the mean that `cross_entropy` takes, (N, H, W).

    It is the weight of its class, or 1 without weights, and 0 where it is ignored.
    """
    counted = labels != ignore_index
    if class_weights is None:
        return counted.float()
    try:
        return class_weights[labels * counted] * counted
    except IndexError:
        raise strange_labels(labels, len(class_weights), ignore_index) from None


def constant_answer_loss(counts: Tensor, class_weights: Tensor | None = None) -> float:
    """Return the least cross-entropy over networks that give the same distribution at every pixel.

    It is the entropy of the class frequencies: what is left to a network that makes no use of its images.

    Args:
        counts: (B, C), the pixels of each class in each of B batches.
        class_weights: Factor of each class in the weighted mean, at most C of them; the classes behind have no pixels.

    Returns:
        The mean over the batches, in nats. A batch without pixels has the loss 0.
    """
    weighted = counts.double()
    if class_weights is not None:
        weighted = weighted[:, : len(class_weights)] * class_weights.to(weighted)
    total = weighted.sum(1, keepdim=True)
    frequencies = (weighted / torch.where(total > 0, total, 1)).mean(0)
    entropies = torch.special.entr(frequencies).sum() - torch.special.entr(frequencies.sum())
    return float(entropies)


def _along_classes(class_weights: Tensor | None) -> Tensor | float:
    return 1.0 if class_weights is None else class_weights.view(1, -1, 1, 1)


def class_pixels(label_maps: Iterable[Tensor], num_classes: int, ignore_index: int = IGNORE) -> tuple[Tensor, Tensor]:
    """Return the pixels of each class, (C,), and the pixels of the images in which the class occurs, (C,)."""
    pixels = torch.zeros(num_classes, dtype=torch.int64)
    present = torch.zeros(num_classes, dtype=torch.int64)
    for labels in label_maps:
        counted = labels[labels != ignore_index]
        if labels.is_floating_point():
            raise ValueError(f"labels are whole numbers, not {labels.dtype}")
        if counted.numel() and int(counted.min()) < 0:
            raise ValueError(f"labels hold {int(counted.min())}; the classes are 0..{num_classes - 1}")
        here = torch.bincount(counted.flatten(), minlength=num_classes)
        if len(here) > num_classes:
            raise ValueError(f"labels hold class {len(here) - 1}; the classes are 0..{num_classes - 1}")
        pixels += here
        present += (here > 0) * counted.numel()
    return pixels, present


def median_frequency_weights(pixels: Tensor, present: Tensor) -> Tensor:
    """Return the weights of median-frequency balancing, (C,): median of the frequencies over each class's own.

    A class that never occurs gets 0. Source: SegNet (PAMI 2017, section 4), after Eigen and Fergus.

    Args:
        pixels: Pixels of each class over the set, (C,).
        present: Pixels of the images in which the class occurs, (C,).
    """
    frequency = pixels.double() / present.clamp(min=1).double()
    seen = frequency > 0
    if not seen.any():
        raise ValueError("no pixel of any class: there are no frequencies to balance")
    # numpy's median: torch's takes the lower of the two middle values
    median = float(np.median(frequency[seen].numpy()))
    return torch.where(seen, median / frequency.clamp(min=1e-300), 0.0).float()


def log_frequency_weights(pixels: Tensor, c: float = 1.02) -> Tensor:
    """Return ENet's class weights 1 / ln(c + p), (C,), with p the share of the pixels that a class has.

    c > 1 bounds the weights by 1 / ln(c): 50.5 for 1.02. Source: ENet (arXiv 1606.02147, section 5).
    """
    if c <= 1:
        raise ValueError(f"c is above 1, or a rare class gets a negative weight; it is {c}")
    share = pixels.double() / pixels.sum().clamp(min=1)
    return (1 / torch.log(c + share)).float()


def boundary_weights(instances: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """Return U-Net's border weights w0 exp(-(d1 + d2)^2 / (2 sigma^2)), (H, W) float32, for one image.

    d1 and d2 are the distances to the nearest and second nearest object, so the weight is large in the
    narrow gaps between objects. It is 0 inside objects, and 0 where there are fewer than two. Add it to
    the class weights (w_c) to get the weight map of the paper. Source: U-Net (MICCAI 2015), equation 2.

    Args:
        instances: (H, W) integer: 0 is background, every object has its own positive number.
        w0: Height of the weight.
        sigma: Its reach in pixels.
    """
    if instances.ndim != 2:
        raise ValueError(f"instances are one image (H, W), not {tuple(instances.shape)}")
    _, numbers = np.unique(instances.cpu().numpy().clip(min=0), return_inverse=True)
    numbers = numbers.reshape(instances.shape) + int((instances > 0).all())  # 0 or 1 .. count
    found = ndimage.find_objects(numbers)
    if len(found) < 2:
        return torch.zeros(instances.shape)
    first, second = np.full((2, *numbers.shape), np.inf)
    reach = math.ceil(8 * sigma)  # beyond it the weight is below w0 * 1e-13
    for number, (rows, columns) in enumerate(found, start=1):
        near = (
            slice(max(rows.start - reach, 0), rows.stop + reach),
            slice(max(columns.start - reach, 0), columns.stop + reach),
        )
        distance = ndimage.distance_transform_edt(numbers[near] != number)
        second[near] = np.minimum(second[near], np.maximum(first[near], distance))
        first[near] = np.minimum(first[near], distance)
    weights = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return torch.from_numpy(np.where(numbers > 0, 0.0, weights)).float()


def connected_regions(labels: Tensor, between: int = 0, ignore_index: int = IGNORE) -> Tensor:
    """Return a number from 1 for each connected region of one class, (H, W) int64, from labels (H, W).

    Pixels are connected through their four sides. The class `between`, which separates the regions (membrane,
    background), gets 0, as ignored pixels do.
    """
    classes = labels.cpu().numpy()
    regions, count = np.zeros(classes.shape, dtype=np.int64), 0
    for name in np.unique(classes):
        if name not in (between, ignore_index):
            pieces, more = ndimage.label(classes == name)
            regions[pieces > 0] = pieces[pieces > 0] + count
            count += more
    return torch.from_numpy(regions)


def class_weights(kind: str, label_maps: Iterable[Tensor], num_classes: int) -> Tensor | None:
    """Return the (C,) weights by name: "none", "median_frequency", "log_frequency" or the same with c = 1.10; None for "none".

    With c = 1.10 ("mild_log_frequency") a rare class weighs a few times what a frequent one does, not a dozen times.
    """
    if kind == "none":
        return None
    makers = {
        "median_frequency": lambda pixels, present: median_frequency_weights(pixels, present),
        "log_frequency": lambda pixels, present: log_frequency_weights(pixels),
        "mild_log_frequency": lambda pixels, present: log_frequency_weights(pixels, c=1.10),
    }
    if kind not in makers:
        raise ValueError(f"class weighting {kind!r} is not one of {['none', *makers]}")
    return makers[kind](*class_pixels(label_maps, num_classes))


def one_hot(labels: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Return labels (N, H, W) int64 as (N, C, H, W) float32; ignored pixels become all zeros.

    Raises:
        ValueError: On a CPU, for a label that is none of the C classes.
    """
    if labels.is_floating_point():
        raise strange_labels(labels, num_classes, ignore_index)
    labels = labels.long()
    counted = labels != ignore_index
    try:
        hot = functional.one_hot(labels * counted, num_classes).movedim(-1, 1).float()
    except RuntimeError:
        raise strange_labels(labels, num_classes, ignore_index) from None
    return hot * counted.unsqueeze(1)


def pixel_objective(class_weights: Tensor | None = None, aux_weight: float = 0.0) -> Objective:
    """Return the cross-entropy over the pixels as an objective.

    Args:
        class_weights: Factor of each class, (C,); equal by default.
        aux_weight: Factor of a second cross-entropy, that of the auxiliary logits of a model which has
            `forward_with_aux`; 0 leaves them out (PSPNet, CVPR 2017: 0.4).
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        weights = None if class_weights is None else class_weights.to(images.device, non_blocking=True)
        if aux_weight == 0:
            return cross_entropy(model(images), labels, class_weights=weights)
        logits, aux_logits = model.forward_with_aux(images)
        loss = cross_entropy(logits, labels, class_weights=weights)
        return loss + aux_weight * cross_entropy(aux_logits, labels, class_weights=weights)

    def weight(labels: Tensor) -> Tensor:
        weights = None if class_weights is None else class_weights.to(labels.device, non_blocking=True)
        return counting_weights(labels, weights).sum()

    objective.weight = weight
    objective.of_constant_answer = lambda counts: (1 + aux_weight) * constant_answer_loss(counts, class_weights)
    return objective


def focal_objective(gamma: float = 2.0) -> Objective:
    """Return the `focal_loss` of a network's logits as an objective."""

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(model(images), labels, gamma=gamma)

    objective.weight = pixel_objective().weight
    return objective


def dice_objective() -> Objective:
    """Return the `dice_loss` of a network's logits as an objective; on several devices, each has its own sums."""

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return dice_loss(model(images), labels)

    return objective


def presence_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of which classes are somewhere in each image, a scalar.

    Args:
        scores: (N, C) before the sigmoid.
        labels: (N, H, W) int64 of what the network saw (the crop); ignored pixels make no class present.

    Source: the SE-loss of EncNet (CVPR 2018, section 3.1).
    """
    present = one_hot(labels, scores.shape[1]).amax(dim=(2, 3))
    return functional.binary_cross_entropy_with_logits(scores.float(), present)


def presence_objective(
    class_weights: Tensor | None = None, presence_weight: float = 0.2, aux_weight: float = 0.2
) -> Objective:
    """Return EncNet's objective: `pixel_objective` and the `presence_loss` of a model with `forward_with_presence`.

    Args:
        class_weights: Factor of each class in the cross-entropies, (C,); equal by default.
        presence_weight: Factor of the presence loss.
        aux_weight: Factor of the cross-entropy of the auxiliary logits, where the model has them.
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        weights = None if class_weights is None else class_weights.to(images.device, non_blocking=True)
        logits, scores, *aux = model.forward_with_presence(images)
        loss = cross_entropy(logits, labels, class_weights=weights) + presence_weight * presence_loss(scores, labels)
        return loss + sum(aux_weight * cross_entropy(more, labels, class_weights=weights) for more in aux)

    objective.weight = pixel_objective(class_weights).weight
    return objective


def levels_objective() -> Objective:
    """Return the mean of the cross-entropies of all levels of a model with `forward_levels`, as an objective."""

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        losses = [cross_entropy(logits, labels) for logits in model.forward_levels(images)]
        return sum(losses) / len(losses)

    plain = pixel_objective()
    objective.weight, objective.of_constant_answer = plain.weight, plain.of_constant_answer
    return objective


def border_maps(labels: Tensor, w0: float, sigma: float) -> Tensor:
    """Return the `boundary_weights` (N, H, W) of the connected regions of each of N images, on the CPU."""
    return torch.stack([boundary_weights(connected_regions(one), w0=w0, sigma=sigma) for one in labels.cpu()])


def boundary_batch(samples: Sequence[Sample], w0: float = 10.0, sigma: float = 5.0) -> tuple[Tensor, ...]:
    """Return images, labels and boundary weights (N, H, W): a `collate` of `fit` for `boundary_objective`."""
    images, labels = to_batch(samples)
    return images, labels, border_maps(labels, w0, sigma)


def boundary_objective(class_weights: Tensor | None = None, w0: float = 10.0, sigma: float = 5.0) -> Objective:
    """Return U-Net's objective: cross-entropy with the weight w_c + `boundary_weights` of each pixel.

    The weights separate objects: the connected regions of the classes from 1 on. Class 0 (membrane, background) is
    between them. They take long: its `collate` (`boundary_batch`) has them made by the processes that load images.

    Args:
        class_weights: w_c, (C,); 1 for every class by default.
        w0: Height of the boundary weights.
        sigma: Their reach in pixels.
    """

    def objective(model: nn.Module, images: Tensor, labels: Tensor, borders: Tensor | None = None) -> Tensor:
        if borders is None:
            borders = border_maps(labels, w0, sigma)
        pixel_weights = 1 + borders.to(images.device)
        if class_weights is not None:
            pixel_weights = pixel_weights - 1 + counting_weights(labels, class_weights.to(images.device))
        return cross_entropy(model(images), labels, pixel_weights=pixel_weights)

    objective.weight = lambda labels: counting_weights(labels).sum()
    objective.collate = partial(boundary_batch, w0=w0, sigma=sigma)
    return objective
