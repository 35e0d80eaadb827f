"""The explorer of alpha, which weighs two networks' opinions of one image against each other.

M. S. Ibrahim, A. Vahdat, M. Ranjbar, W. G. Macready, "Semi-Supervised Semantic Image Segmentation with
Self-correcting Networks", CVPR 2020, linear self-correction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.data.sample import IGNORE
from course_lib.plotting import RIGHT, VOID, WRONG, colourise, error_map
from course_lib.self_correction import linear_correction
from course_lib.widgets.explorer import Explorer, Panel, Slider, View, standing
from course_lib.widgets.pixels import bytes_of, halves, heat, hexes, tables

ALPHAS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


def alpha_view(
    logits: Tensor, ancillary_logits: Tensor, labels: Tensor | None, palette: Tensor, *, alpha: float, zoom: float = 1.5
) -> View:
    """Show the primary's map, the ancillary's, and their correction for one alpha.

    Panels: primary, ancillary, corrected, the corrected confidence (the largest probability), and its errors.

    Args:
        logits: (C, H, W) of one image, as `ancillary_logits`.
        labels: (H, W), the truth, for an error map and accuracies; or None.
        palette: (C, 3) uint8.

    Raises:
        ValueError: For an alpha below 0 and shapes that do not fit.
    """
    if labels is not None and labels.shape != logits.shape[1:]:
        raise ValueError(f"logits of {tuple(logits.shape[1:])} pixels, labels of {tuple(labels.shape)}")
    corrected = linear_correction(logits.float(), ancillary_logits.float(), alpha)
    maps = {"primary": logits, "ancillary": ancillary_logits, "corrected": corrected}
    maps = {name: given.argmax(0) for name, given in maps.items()}
    confidence = corrected.softmax(0).amax(0)
    alike = {name: float((maps["corrected"] == maps[name]).float().mean()) for name in ("primary", "ancillary")}
    panels = [
        Panel(name, colourise(found, palette), f"{len(found.unique())} classes", zoom) for name, found in maps.items()
    ]
    sure = f"from {confidence.min():.2f} to {confidence.max():.2f}, mean {confidence.mean():.2f}"
    panels.append(Panel("its confidence (yellow: sure)", heat(confidence, 0, 1), sure, zoom))
    words = (
        f"alpha = {alpha:g}: the ancillary weighs {alpha / (1 + alpha):.0%}. The corrected map agrees with the "
        f"primary on {alike['primary']:.1%} of the pixels and with the ancillary on {alike['ancillary']:.1%}. "
        f"Mean confidence {confidence.mean():.2f}."
    )
    if labels is not None:
        labels = labels.as_subclass(Tensor)
        counted = labels != IGNORE
        right = {name: float((found == labels)[counted].float().mean()) for name, found in maps.items()}
        panels.append(
            Panel(
                "its errors",
                error_map(maps["corrected"], labels),
                f"{1 - right['corrected']:.1%} of the pixels are wrong",
                zoom,
            )
        )
        words += " Right: " + ", ".join(f"{name} {value:.1%}" for name, value in right.items()) + "."
    return View(panels, words)


def alpha_explorer(
    logits: Tensor,
    ancillary_logits: Tensor,
    labels: Tensor | None = None,
    *,
    classes: Sequence[str],
    palette: Tensor,
    alpha: float = 1.0,
) -> Explorer:
    """Return `alpha_view` with a slider; classes and palette are the data set's.

    The logits may carry a batch dimension of one.
    """
    logits, ancillary_logits = (_single(given).half().float() for given in (logits, ancillary_logits))  # as packed
    zoom = min(2.0, 200 / logits.shape[-1])
    found = torch.cat([logits.argmax(0).flatten(), ancillary_logits.argmax(0).flatten()]).unique()
    legend = [(classes[index], hexes(palette)[index]) for index in found.tolist()]
    if labels is not None:
        legend += zip(("wrong", "right", "ignored"), hexes(torch.tensor([WRONG, RIGHT, VOID])), strict=True)
    return Explorer(
        standing(lambda alpha: alpha_view(logits, ancillary_logits, labels, palette, alpha=alpha, zoom=zoom)),
        [Slider("alpha", "alpha", sorted({*ALPHAS, alpha}), alpha)],
        title="Linear self-correction: whom to believe",
        legend=legend,
        module="alpha",
        data={
            "logits": halves(logits),
            "ancillary": halves(ancillary_logits),
            "labels": None if labels is None else bytes_of(labels),
            "palette": bytes_of(palette),
            "classes": len(logits),
            "size": list(logits.shape[1:]),
            "zoom": zoom,
            **tables("cividis"),
        },
    )


def _single(logits: Tensor) -> Tensor:
    logits = logits.detach().cpu()
    if logits.ndim == 4 and len(logits) == 1:
        logits = logits[0]
    if logits.ndim != 3:
        raise ValueError(f"logits of one image are (C, H, W), not {tuple(logits.shape)}")
    return logits
