"""Self-correcting networks: boxes where masks are missing, and a network that corrects what they suggest.

M. S. Ibrahim, A. Vahdat, M. Ranjbar, W. G. Macready, "Semi-Supervised Semantic Image Segmentation with
Self-correcting Networks", CVPR 2020, arXiv 1811.07073. Of the pictures some (F) have masks and boxes, the
others (W) only boxes. An *ancillary* network, which sees the boxes, learns on F and gives logits l_anc for
W. The *primary* network, which sees pictures alone, learns from F's masks and from soft labels q on W, in
which l_anc is mixed with its own logits l while it trains:

    none           q = softmax(l_anc)
    linear         q = softmax((l + alpha l_anc) / (1 + alpha)), alpha falling from 30 to 0.5
    convolutional  q = softmax of two 3x3 convolutions over both, learnt on F
    EM-fixed       the arg-max of l, with a bias for the classes whose box is there (no ancillary network)

One rule holds for all: a target is a constant. No gradient passes through q into the primary network, the
correction or the ancillary network.

Departures from the paper, and what it leaves open
* A box marks the share of each cell of a feature map that it covers; re-implementations resize bilinearly.
* One gate for each channel of a feature map, from 3x3 weights with bias, no normalisation. The weights start
  with standard deviation 1: with torch's usual small ones all gates are near 1/2, and boxes are learnt late.
* Batches are half F and half W, whatever their sizes: a picture of F counts |W| / |F| times as much as in the
  talk's sum over all pictures. Within a batch the loss is one mean over the counted pixels.
* Class weights, which the paper has none of, are possible: on the loss of the primary network alone, for masks
  and soft labels alike. What a soft label says is meant without them, so that no class is weighted twice: the
  ancillary network and the correction learn unweighted, and linear correction and EM-fixed take log w off the
  logits of a primary network that learns with weights w. The convolutional correction sees these as they are.
* What the correction learns on F sends no gradient into the primary network.
* The correction has 128 maps between its convolutions and a ReLU, as a re-implementation has them; it learns
  in the stages that `course_lib.experiments.self_corrected` describes.
* The biases of EM-fixed are our own; the paper that they come from (Papandreou et al., ICCV 2015) uses
  other networks.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset, SoftSample
from course_lib.data.transforms import drop_empty_boxes, to_batch
from course_lib.losses import counting_weights, one_hot
from course_lib.metrics import ConfusionMatrix
from course_lib.models.blocks import resize_to
from course_lib.plumbing.progress import progress_bar

METHODS = ("none", "linear", "convolutional", "em_fixed")
"""How the primary network learns from W."""
ROUNDING = 0.01  # pixels: boxes of resized pictures

# -- boxes


def check_boxes(
    boxes: Tensor,
    box_labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    background: int = 0,
    name: str = "the picture",
) -> None:
    """Raise ValueError, in words, where boxes (n, 4) XYXY with labels (n,) cannot be of a picture of `size`.

    That is a box outside the picture, an empty one, or one of a class that is none of the objects'.
    """
    height, width = size
    if boxes.ndim != 2 or boxes.shape[1] != 4 or box_labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"{name}: boxes are (n, 4) with (n,) labels, not {tuple(boxes.shape)} with {tuple(box_labels.shape)}"
        )
    for (left, top, right, bottom), label in zip(boxes.tolist(), box_labels.tolist(), strict=True):
        box = f"{name}: the box ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not (right > left and bottom > top):
            raise ValueError(f"{box} is empty: XYXY means left, top, right, bottom")
        if min(left, top) < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
            raise ValueError(f"{box} is not inside the picture of {height}x{width} pixels")
        if not 0 <= label < num_classes or label == background:
            raise ValueError(
                f"{box} is of class {label}, which is none of the objects' "
                f"(0 to {num_classes - 1} without the background, {background})"
            )


def box_map(boxes: Tensor, box_labels: Tensor, size: tuple[int, int], num_classes: int, background: int = 0) -> Tensor:
    """What the ancillary network sees of the boxes: (num_classes, H, W) float32 of zeros and ones.

    A pixel that a box of class c touches has channel c = 1, several where boxes of several classes overlap;
    channel `background` is 1 outside every box. num_classes = C + 1 counts the background. A crop without
    any box is background everywhere. Raises ValueError as `check_boxes` does.
    """
    boxes = boxes.as_subclass(Tensor)
    check_boxes(boxes, box_labels, size, num_classes, background)
    marked = torch.zeros(num_classes, *size)
    corners = torch.stack([(boxes[:, :2] + ROUNDING).floor(), (boxes[:, 2:] - ROUNDING).ceil()], dim=1).long()
    for ((left, top), (right, bottom)), label in zip(corners.tolist(), box_labels.tolist(), strict=True):
        marked[label, max(top, 0) : max(bottom, top + 1), max(left, 0) : max(right, left + 1)] = 1
    marked[background] = marked.sum(0) == 0
    return marked


def box_batch(samples: Sequence[Sample], num_classes: int, background: int = 0) -> tuple[Tensor, ...]:
    """Images (N, 3, H, W), labels (N, H, W) and box maps (N, num_classes, H, W): a `collate` for `fit`.

    Boxes that augmentation has cut down to less than a pixel are left out.
    """
    images, labels = to_batch(samples)
    samples = [drop_empty_boxes(sample) for sample in samples]
    maps = [
        box_map(sample.boxes, sample.box_labels, tuple(labels.shape[1:]), num_classes, background) for sample in samples
    ]
    return images, labels, torch.stack(maps)


# -- the ancillary network


class BoxEncoder(nn.Module):
    """The gate of one feature map: box map (N, C + 1, H, W) -> (N, channels, h, w), values 0 to 1.

    size  (h, w) of the feature map. Its cells have a side of s pixels, a power of two: the map's first cell
          is the picture's upper left corner, its last one may reach beyond the picture (background there)

    Raises ValueError for a feature map that reaches further, as those of networks that pad the picture do.
    """

    def __init__(self, num_classes: int, channels: int, background: int = 0):
        super().__init__()
        self.background = background
        self.conv = nn.Conv2d(num_classes, channels, kernel_size=3, padding=1)
        nn.init.normal_(self.conv.weight)  # wide: a box opens or closes channels from the start

    def forward(self, box_maps: Tensor, size: tuple[int, int]) -> Tensor:
        shares = self.shares(box_maps, size)  # (N, C + 1, h, w)
        return torch.sigmoid(self.conv(shares))

    def shares(self, box_maps: Tensor, size: tuple[int, int]) -> Tensor:
        """The share of each cell that is marked, (N, C + 1, h, w)."""
        height, width = box_maps.shape[-2:]
        stride = max(1, 2 ** math.ceil(math.log2(height / size[0])))
        below, right = stride * size[0] - height, stride * size[1] - width
        if not (0 <= below < 32 and 0 <= right < 32):
            raise ValueError(
                f"a feature map of {size[0]}x{size[1]} does not lie on a picture of {height}x{width}: take a "
                'network that does not pad the picture (padding="same")'
            )
        padded = functional.pad(box_maps, (0, right, 0, below))
        if below or right:
            outside = torch.ones_like(padded[:, 0])
            outside[:, :height, :width] = 0
            padded[:, self.background] += outside
        return functional.avg_pool2d(padded, stride)


class Ancillary(nn.Module):
    """A segmentation network that sees boxes: images (N, 3, H, W), box maps (N, C + 1, H, W) -> logits.

    model       any network with `encode(images) -> features, from fine to coarse` and `decode(features)`: U-Net
                with padding "same", DeepLabV3+. Its encoder works as before, on the picture alone
    background  the background's class

    The finest and the deepest features that `encode` gives are multiplied by a gate each (`BoxEncoder`)
    before they are decoded. The logits (N, C + 1, H, W) have the picture's size.

    Raises ValueError for a network without these methods.
    """

    def __init__(self, model: nn.Module, background: int = 0):
        super().__init__()
        self.model, self.num_classes = model, getattr(model, "num_classes", 0)
        features = _features_of(model)
        self.gates = nn.ModuleList(
            BoxEncoder(self.num_classes, features[scale].shape[1], background) for scale in (0, -1)
        )

    def forward(self, images: Tensor, box_maps: Tensor) -> Tensor:
        return resize_to(self.scores(images, box_maps), images.shape[-2:])

    def scores(self, images: Tensor, box_maps: Tensor) -> Tensor:
        """Logits as they leave the decoder: at the picture's size, or smaller (DeepLabV3+: a quarter)."""
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if tuple(box_maps.shape) != expected:
            raise ValueError(f"box maps {tuple(box_maps.shape)} must be {expected}")
        features = list(self.model.encode(images))
        for gate, scale in zip(self.gates, (0, -1), strict=True):
            features[scale] = features[scale] * gate(box_maps, tuple(features[scale].shape[-2:]))
        scores = self.model.decode(features)
        height, width = images.shape[-2:]
        first = getattr(self.model, "offset", 0)  # an FCN's scores begin before the picture
        return scores[..., first : first + height, first : first + width]


def _features_of(model: nn.Module) -> list[Tensor]:
    """What `encode` makes of a small picture. Raises ValueError where there is nothing to put gates on."""
    was_training = model.training
    try:
        with torch.no_grad():
            features = model.eval().encode(torch.zeros(1, 3, 64, 64))
        if not hasattr(model, "decode") or not isinstance(features, list) or len(features) < 2:
            raise AttributeError("decode, or two features from encode, are missing")
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} has no encode(images) -> features and decode(features) to put boxes "
            f"between ({error})"
        ) from error
    finally:
        model.train(was_training)
    return features


@torch.no_grad()
def ancillary_logits(ancillary: Ancillary, sample: Sample, background: int = 0) -> Tensor:
    """Logits (C + 1, H, W) of one picture and its boxes.

    Raises ValueError for a picture without a box: nothing would tell the network from one that sees none.
    """
    if not len(sample.boxes):
        raise ValueError(f"{sample.name} has no box: the ancillary network needs at least one")
    ancillary.eval()
    device = next(ancillary.parameters()).device
    images, _, maps = box_batch([sample], ancillary.num_classes, background)
    return ancillary(images.to(device), maps.to(device))[0].float().cpu()


# -- corrections


def linear_correction(logits: Tensor, ancillary_logits: Tensor, alpha: float) -> Tensor:
    """(l + alpha l_anc) / (1 + alpha): the logits of the q that minimises KL(q || p) + alpha KL(q || p_anc).

    That q is the normalised geometric mean (p p_anc^alpha)^(1 / (1 + alpha)). Raises ValueError for an alpha
    below 0 and for logits of different shapes.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha is 0 or more, not {alpha}")
    _require_same_shape(logits, ancillary_logits)
    return (logits + alpha * ancillary_logits) / (1 + alpha)


def alpha_at(
    step: int,
    steps: int,
    *,
    start: float = 30.0,
    end: float = 0.5,
    shape: Literal["exponential", "linear"] = "exponential",
) -> float:
    """alpha in step `step` (from 0) of `steps`: `start` in the first one, `end` in the last.

    shape  "exponential": the same factor every step; "linear": the same difference
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is none of 0 to {steps - 1}")
    if not (start > 0 and end > 0):
        raise ValueError(f"alpha runs from {start} to {end}, but both must be above 0")
    done = step / max(steps - 1, 1)
    if shape == "exponential":
        return start * (end / start) ** done
    if shape == "linear":
        return start + (end - start) * done
    raise ValueError(f'shape is "exponential" or "linear", not {shape!r}')


class ConvolutionalCorrection(nn.Module):
    """Two 3x3 convolutions over both logits: (N, C, H, W) twice -> corrected logits (N, C, H, W)."""

    def __init__(self, num_classes: int, width: int = 128):
        super().__init__()
        self.conv1 = nn.Conv2d(2 * num_classes, width, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)

    def forward(self, logits: Tensor, ancillary_logits: Tensor) -> Tensor:
        _require_same_shape(logits, ancillary_logits)
        both = torch.cat([logits, ancillary_logits], dim=1)  # (N, 2C, H, W)
        return self.conv2(self.relu(self.conv1(both)))


def em_fixed_labels(
    logits: Tensor, box_maps: Tensor, *, foreground_bias: float = 3.0, background_bias: float = 1.0, background: int = 0
) -> Tensor:
    """The E-step of EM-fixed: hard labels (N, H, W) from the network's own logits (N, C, H, W) and the boxes.

    Each pixel gets the class with the highest logit after `foreground_bias` is added to the classes whose box
    covers it and `background_bias` to the background; a class without a box there is impossible. Only the
    difference of the two biases matters, since the background is possible everywhere.
    """
    _require_same_shape(logits, box_maps)
    if not foreground_bias > background_bias:
        raise ValueError(
            f"the bias of the foreground, {foreground_bias}, must be larger than the background's, {background_bias}"
        )
    possible = box_maps > 0
    biased = logits.detach().float() + foreground_bias
    biased = biased.masked_fill(~possible, -math.inf)
    biased[:, background] = logits[:, background].detach().float() + background_bias
    return biased.argmax(dim=1)


def _require_same_shape(logits: Tensor, other: Tensor) -> None:
    if logits.shape != other.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} cannot be combined with {tuple(other.shape)}: other pictures or classes"
        )


# -- losses


def self_correction_loss(
    logits: Tensor, labels: Tensor, target: Tensor, labelled: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """The mean over the counted pixels of -log p(y) on F and -sum_y q(y) log p(y) on W (the talk's eq. 5).

    logits         (N, C, H, W) of the primary network
    labels         (N, H, W): masks of F; of W any class where a pixel counts. IGNORE does not count in either
    target         (N, C, H, W), q on W: a constant, whatever it was computed from. What it says on F is not
                   used
    labelled       (N,) bool, which pictures are of F
    class_weights  (C,), factor of each class, in masks and in q alike (the paper has none); q says how likely
                   classes are without them. The sum is divided by the number of pixels, not by their weights

    Where no pixel counts the loss is 0.
    """
    _require_same_shape(logits, target)
    truth = one_hot(labels, logits.shape[1])
    counted = (labels != IGNORE)[:, None]
    distribution = torch.where(labelled[:, None, None, None], truth, target.detach().float())
    if class_weights is not None:
        distribution = distribution * class_weights.to(logits.device)[:, None, None]
    log_p = functional.log_softmax(logits.float(), dim=1)
    return -(distribution * counted * log_p).sum() / counted.sum().clamp(min=1)


def soft_batch(samples: Sequence[SoftSample]) -> tuple[Tensor, ...]:
    """Images, labels (N, H, W), ancillary logits (N, C, H, W) and whether labelled (N,): a `collate` for `fit`."""
    images, labels = to_batch(samples)
    logits = torch.stack([sample.logits for sample in samples])
    return images, labels, logits, torch.tensor([sample.labelled for sample in samples])


def boxed_batch(samples: Sequence[SoftSample], num_classes: int, background: int = 0) -> tuple[Tensor, ...]:
    """`soft_batch` with box maps in place of the ancillary logits, for EM-fixed."""
    images, labels, maps = box_batch(samples, num_classes, background)
    return images, labels, maps, torch.tensor([sample.labelled for sample in samples])


class AncillaryObjective:
    """The ancillary network's cross-entropy on F, on batches of `box_batch`; an objective of `fit`."""

    def weight(self, labels: Tensor) -> Tensor:
        return counting_weights(labels).sum()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, box_maps: Tensor) -> Tensor:
        logits = model(images, box_maps)
        return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum") / (
            labels != IGNORE
        ).sum().clamp(min=1)


class PrimaryWithCorrection(nn.Module):
    """The primary network and the convolutional correction, trained together; alone it is the primary's.

    `forward(images)` gives the primary's logits; `forward(images, ancillary_logits)` these and the corrected
    ones, which send no gradient back into the primary or the ancillary network.
    """

    def __init__(self, primary: nn.Module, correction: ConvolutionalCorrection):
        super().__init__()
        self.primary, self.correction = primary, correction

    def forward(self, images: Tensor, ancillary_logits: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.primary(images)
        if ancillary_logits is None:
            return logits
        return logits, self.correction(logits.detach(), ancillary_logits.detach().to(logits.dtype))


class PrimaryObjective:
    """The loss of the primary network on batches of F and W, by method; an objective of `fit`.

    none, linear, convolutional  take the batches of `soft_batch`, EM-fixed those of `boxed_batch`;
                                 convolutional trains a `PrimaryWithCorrection`, the others the network itself
    steps                                  of the training, over which alpha falls
    alpha_start, alpha_end, alpha_shape    linear: see `alpha_at`
    foreground_bias, background_bias       EM-fixed: see `em_fixed_labels`
    class_weights                          (C,), of the primary network's loss, see `self_correction_loss`

    For convolutional the loss has the correction's cross-entropy on F, unweighted, beside that of the primary.
    """

    def __init__(
        self,
        method: str,
        *,
        steps: int = 1,
        alpha_start: float = 30.0,
        alpha_end: float = 0.5,
        alpha_shape: str = "exponential",
        foreground_bias: float = 3.0,
        background_bias: float = 1.0,
        background: int = 0,
        class_weights: Tensor | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
        self.method, self.steps, self.background = method, steps, background
        self.class_weights = class_weights
        self.schedule = {"start": alpha_start, "end": alpha_end, "shape": alpha_shape}
        self.biases = {"foreground_bias": foreground_bias, "background_bias": background_bias}
        self.alpha = self.schedule["start"]
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Told by `fit` before each step: alpha follows from the step, also in a run that was resumed."""
        if self.method == "linear":
            self.alpha = alpha_at(step, self.steps, **self.schedule)

    def weight(self, labels: Tensor) -> Tensor:
        return counting_weights(labels).sum()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, guide: Tensor, labelled: Tensor) -> Tensor:
        loss = partial(self_correction_loss, class_weights=self.class_weights)
        if self.method != "convolutional":
            logits = model(images)
            return loss(logits, labels, self.target(logits, guide), labelled)
        logits, corrected = model(images, guide)
        target = corrected.detach().float().softmax(1)
        of_f = labels.masked_fill(~labelled[:, None, None], IGNORE)
        share = (of_f != IGNORE).sum() / (labels != IGNORE).sum().clamp(min=1)
        everywhere = torch.ones_like(labelled)
        of_correction = share * self_correction_loss(corrected, of_f, corrected, everywhere)
        return loss(logits, labels, target, labelled) + of_correction

    @torch.no_grad()
    def target(self, logits: Tensor, guide: Tensor) -> Tensor:
        """q (N, C, H, W) of none, linear and EM-fixed: from the primary's logits and the ancillary's or box maps."""
        guide = guide.float()
        if self.method == "none":
            return guide.softmax(1)
        logits = self.without_weights(logits.float())
        if self.method == "linear":
            return linear_correction(logits, guide, self.alpha).softmax(1)
        chosen = em_fixed_labels(logits, guide, background=self.background, **self.biases)
        return one_hot(chosen, logits.shape[1])

    def without_weights(self, logits: Tensor) -> Tensor:
        """Logits (N, C, H, W) of what is likely, from those of a network that learns with class weights.

        Cross-entropy with weights w is least where p is proportional to w times the classes' frequencies. A
        class of weight 0 keeps its logit: nothing is known of it.
        """
        if self.class_weights is None:
            return logits
        weights = self.class_weights.to(logits.device)
        return logits - weights.where(weights > 0, 1.0).log()[:, None, None]


# -- what the ancillary network repairs


@torch.no_grad()
def label_repair(
    ancillary: Ancillary, dataset: SegmentationDataset, *, show_progress: bool = True
) -> tuple[ConfusionMatrix, ConfusionMatrix]:
    """How good faulty labels are, and how good the ancillary network's are: both against the clean ones.

    dataset  pictures with `clean_labels(index)`, such as `Objects(label_noise=0.5)`

    Pictures without a box are not counted in either.
    """
    if not hasattr(dataset, "clean_labels"):
        raise ValueError("this set has no clean_labels: use Objects(label_noise=...)")
    background = dataset.background or 0
    noisy, repaired = (ConfusionMatrix(len(dataset.classes)) for _ in range(2))
    for index in progress_bar(range(len(dataset)), "repairing", show=show_progress, delay=2):
        sample = dataset[index]
        if not len(sample.boxes):
            continue
        clean = dataset.clean_labels(index).as_subclass(Tensor)[None]
        logits = ancillary_logits(ancillary, sample, background)[None]
        repaired.update(logits, clean)
        given = sample.labels.as_subclass(Tensor)[None]
        noisy.update(given.where(given != IGNORE, background), clean)
    return noisy, repaired
