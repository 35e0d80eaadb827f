"""Ambiguity: whether the codes of a network show both labelings of an image that has two.

The generated scenes can name some things in one of two ways, at random: a network that gives one map can
only follow one of them. Codes drawn from the prior should give now the one, now the other.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.latent import Linearisation, linearise, refine
from course_lib.plumbing.progress import progress_bar


@torch.no_grad()
def mode_coverage(
    model: nn.Module,
    scenes: SegmentationDataset,
    *,
    codes: int = 32,
    seed: int = 0,
    agreement: float = 0.75,
    show_progress: bool = True,
) -> dict[str, float]:
    """Return how far random codes show both labelings of ambiguous images, as shares in 0..1.

    The shares::

        codes_show_both   images of which some code shows the first labeling and some code the second
        codes_show_one    codes that show one of the two, and no mixture
        codes_show_first  of these, those that show the first one: 0.5 is fair
        zero_shows_first  images of which the zero code shows the first labeling ...
        zero_shows_second ... and the second: it never shows both
        codes_ged         energy_distance of maps and labelings: 0.5 for a network that always gives the same one
        zero_ged          the same for the zero code's single map

    Args:
        scenes: Generated scenes with `both_labelings` and an `ambiguity` above 0.
        codes: How many are drawn from the prior N(0, 1) for each image.
        agreement: Share of the disputed pixels (those on which the two labelings differ) on which a map must
            agree with a labeling, to show it.

    Raises:
        ValueError: Where no image is ambiguous.
    """
    if not hasattr(scenes, "both_labelings"):
        raise ValueError(f"{type(scenes).__name__} has no both_labelings: take Objects or Street")
    generator = torch.Generator().manual_seed(seed)
    shown, zero_shown, ged, zero_ged = [], [], [], []
    for truth, part in _on_disputed_pixels(model, scenes, show_progress):
        drawn = torch.randn(codes, len(part.jacobian), generator=generator)
        maps = part.logits(drawn).argmax(1)  # (codes, disputed)
        zero = part.offset.argmax(0)[None]
        shown.append(1 - _differing(maps, truth) >= agreement)  # (codes, 2)
        zero_shown.append(1 - _differing(zero, truth) >= agreement)
        ged.append(energy_distance(maps, truth))
        zero_ged.append(energy_distance(zero, truth))
    if not shown:
        raise ValueError("no image is ambiguous: open the scenes with ambiguity above 0")
    by_picture, zero = torch.stack(shown).float(), torch.stack(zero_shown).float()
    shares = by_picture.mean(dim=(0, 1))  # of the codes that show the first, the second
    one = float(shares.sum())
    return {
        "codes_show_both": float(by_picture.amax(1).prod(1).mean()),
        "codes_show_one": one,
        "codes_show_first": float(shares[0]) / one if one else math.nan,
        "zero_shows_first": float(zero[:, 0, 0].mean()),
        "zero_shows_second": float(zero[:, 0, 1].mean()),
        "codes_ged": sum(ged) / len(ged),
        "zero_ged": sum(zero_ged) / len(zero_ged),
    }


def _on_disputed_pixels(
    model: nn.Module, scenes: SegmentationDataset, show_progress: bool
) -> Iterator[tuple[Tensor, Linearisation]]:
    """Yield both labelings (2, P) and the decoder on the P disputed pixels of each ambiguous image."""
    for both, disputed, linear in _ambiguous_pictures(model, scenes, show_progress):
        part = Linearisation(linear.offset[:, disputed].cpu(), linear.jacobian[..., disputed].cpu())
        yield both[:, disputed], part


def _ambiguous_pictures(
    model: nn.Module, scenes: SegmentationDataset, show_progress: bool
) -> Iterator[tuple[Tensor, Tensor, Linearisation]]:
    """Yield both labelings (2, H, W), where they differ (H, W) bool, and the decoder of each ambiguous image."""
    jacobian = None
    for index in progress_bar(range(len(scenes)), "ambiguous images", show=show_progress, delay=2):
        both = torch.stack([one.as_subclass(Tensor) for one in scenes.both_labelings(index)])
        disputed = (both[0] != both[1]) & (both != IGNORE).all(0)
        if not disputed.any():
            continue
        linear = linearise(model, scenes[index].image, jacobian=jacobian)
        if getattr(model, "conditioning", "") == "concat":
            jacobian = linear.jacobian
        yield both, disputed, linear


@torch.no_grad()
def told_half(
    model: nn.Module, scenes: SegmentationDataset, *, prior_weight: float = 1.0, show_progress: bool = True
) -> dict[str, float]:
    """Return what the truth of one half of an ambiguous thing tells about its other half, as shares in 0..1.

    A positive control of refinement: one coin has decided both halves. Told are the classes in dispute (of a street
    road and pavement) from the middle row of the disputed pixels downwards, once for each side of the coin; scored are
    the disputed pixels above.

    Returns:
        `half_zero_right` with the zero code, one half for any single answer; `half_refined_right` after refining; and
        `half_other_right`, the same pixels after refining to the other side of the coin.

    Raises:
        ValueError: Where no image has a disputed thing that is two rows high.
    """
    right = []
    for both, disputed, linear in _ambiguous_pictures(model, scenes, show_progress):
        rows = disputed.any(1).nonzero()[:, 0]
        below = (torch.arange(len(disputed)) >= (int(rows[0]) + int(rows[-1]) + 1) // 2)[:, None]
        scored = disputed & ~below
        if not scored.any():
            continue
        refined = []
        for labels in both:
            told = below & torch.isin(labels, both[:, disputed].unique())
            code = refine(linear, labels, told, prior_weight=prior_weight).code
            refined.append(linear.logits(code).argmax(0).cpu())
        zero = linear.offset.argmax(0).cpu()
        for labels, its_own, other in zip(both, refined, reversed(refined), strict=True):
            right.append([float((one == labels)[scored].float().mean()) for one in (zero, its_own, other)])
    if not right:
        raise ValueError("no image has an ambiguous thing of two rows: open the scenes with ambiguity above 0")
    names = ("half_zero_right", "half_refined_right", "half_other_right")
    return dict(zip(names, torch.tensor(right).mean(0).tolist(), strict=True))


def energy_distance(maps: Tensor, truth: Tensor) -> float:
    """Return the generalised energy distance 2 E d(S, Y) - E d(S, S') - E d(Y, Y') of maps S and labelings Y.

    d is the share of the pixels that differ. 0 for maps that are distributed as the labelings are; S and S' are
    different maps, which makes the mean over pairs unbiased. Source: Kohl et al., "A Probabilistic U-Net for
    Segmentation of Ambiguous Images", NIPS 2018, section 3 (there d is 1 - IoU).

    Args:
        maps: (n, P) classes of P pixels, n drawn maps.
        truth: (m, P), all m labelings, equally likely.
    """
    among = _differing(maps, maps).sum() / max(len(maps) * (len(maps) - 1), 1)
    return float(2 * _differing(maps, truth).mean() - among - _differing(truth, truth).mean())


def _differing(first: Tensor, second: Tensor) -> Tensor:
    """Return the shares (n, m) of the pixels on which maps (n, P) and (m, P) differ."""
    return (first[:, None] != second[None]).float().mean(-1)
