"""The explorer of implicit background: softmax is not one-to-one, implicit background is.

C. Lehman, D. Temel, G. AlRegib, "Implicit Background Estimation for Semantic Segmentation", ICIP 2019.
Two classes of objects and background: a prediction is a point of a triangle.
"""

import math
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from course_lib.implicit_background import ImplicitBackground
from course_lib.widgets.explorer import Explorer, Panel, Slider, View, standing
from course_lib.widgets.pixels import as_picture

NAMES = ("background", "object 1", "object 2")
COLOURS = ((140, 140, 140), (0, 114, 178), (230, 159, 0))
EXPLICIT, IMPLICIT = (213, 94, 0), (0, 0, 0)
SIZE, CORNERS = (360, 340), torch.tensor([[180.0, 36], [28, 300], [332, 300]])
SHIFTS = torch.linspace(-4, 4, 81)


def probabilities(x1: float, x2: float, shift: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities (background, object 1, object 2), each (3,), of the explicit softmax and of implicit background.

    The objects' logits are x1 + shift and x2 + shift. The explicit softmax has a logit of its own for
    background, -logsumexp(x1, x2), to which the shift is added as well: without a shift the two agree.
    """
    objects = torch.tensor([x1, x2], dtype=torch.float64)
    explicit = torch.cat([-objects.logsumexp(0)[None], objects]) + shift
    implicit = ImplicitBackground(dim=0)(objects + shift)
    return explicit.softmax(0), implicit.softmax(0)


def place(p: Tensor) -> tuple[float, float]:
    """Return the place of probabilities (3,) in the triangle: (x, y) in pixels."""
    x, y = (p.float() @ CORNERS).tolist()
    return x, y


@cache
def _triangle() -> Image.Image:
    """Return the triangle at twice its size, in the colours of the class that wins, with the names at its corners."""
    width, height = SIZE
    image = Image.new("RGB", (2 * width, 2 * height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=28)
    middle = CORNERS.mean(0)
    for corner, colour in enumerate(COLOURS):
        others = [other for other in range(3) if other != corner]
        edges = [(CORNERS[corner] + CORNERS[other]) / 2 for other in others]
        outline = [CORNERS[corner], edges[0], middle, edges[1]]
        light = tuple(round(255 - 0.28 * (255 - channel)) for channel in colour)
        pen.polygon([tuple((2 * point).tolist()) for point in outline], fill=light)
    outline = [tuple((2 * corner).tolist()) for corner in CORNERS]
    pen.line([*outline, outline[0]], fill=(70, 70, 70), width=3)
    for (x, y), name, side in zip(outline, NAMES, (-1, 1, 1), strict=True):
        pen.text((x, y + 28 * side), name, fill="black", font=font, anchor="mm")
    return image


def simplex_view(*, x1: float, x2: float, shift: float) -> View:
    """Show the predictions of both for objects' logits x1 + shift and x2 + shift, in the triangle of probabilities.

    A vermilion disc is the explicit softmax, a black square implicit background, a line the way that the square
    takes for shifts from -4 to 4.

    Raises:
        ValueError: For logits that are not finite.
    """
    if not all(map(math.isfinite, (x1, x2, shift))):
        raise ValueError(f"logits are finite numbers, not {x1}, {x2} with shift {shift}")
    explicit, implicit = probabilities(x1, x2, shift)
    image = _triangle().copy()
    pen = ImageDraw.Draw(image)
    way = [place(probabilities(x1, x2, float(at))[1]) for at in SHIFTS]
    pen.line([(2 * x, 2 * y) for x, y in way], fill=(90, 90, 90), width=4)
    x, y = (2 * n for n in place(explicit))
    pen.ellipse((x - 19, y - 19, x + 19, y + 19), fill=EXPLICIT, outline="white", width=4)
    x, y = (2 * n for n in place(implicit))
    pen.rectangle((x - 10, y - 10, x + 10, y + 10), fill=IMPLICIT, outline="white", width=3)
    picture = as_picture(image.reduce(2))

    def said(p: Tensor) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in zip(NAMES, p.tolist(), strict=True))

    best = [name for name, value in zip(NAMES, implicit, strict=True) if value > implicit.max() - 1e-9]
    verdict = f"{best[0]} wins" if len(best) == 1 else f"{' and '.join(best)} are level"
    return View(
        [Panel("probabilities as a point", picture, f"explicit: {said(explicit)}; implicit: {said(implicit)}")],
        f"Objects' logits {x1 + shift:.2f} and {x2 + shift:.2f}. Explicit softmax: {said(explicit)}: the shift does "
        f"not move it. Implicit background: {said(implicit)}; {verdict}, and the shift "
        "decides how much of the whole the objects get.",
    )


def simplex_explorer() -> Explorer:
    """Return `simplex_view` with sliders for the two logits and the shift."""
    logits = [number / 4 for number in range(-16, 17)]
    return Explorer(
        standing(simplex_view),
        [
            Slider("x1", "logit of object 1", logits, 1.0),
            Slider("x2", "logit of object 2", logits, 0.0),
            Slider("shift", "shift of all", logits, 0.0),
        ],
        title="Softmax is not one-to-one, implicit background is",
        legend=[
            ("explicit softmax (disc)", "#d55e00"),
            ("implicit background (square)", "#000000"),
            ("its way for shifts from -4 to 4", "#5a5a5a"),
        ],
    )
