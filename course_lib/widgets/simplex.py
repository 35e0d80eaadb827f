"""The explorer of implicit background: softmax is not one-to-one, implicit background is.

C. Lehman, D. Temel, G. AlRegib, "Implicit Background Estimation for Semantic Segmentation", ICIP 2019.
Two classes of objects and background: a prediction is a point of a triangle.
"""

import math
from functools import cache, partial

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from course_lib.implicit_background import ExpectedNonDistinctiveness, ImplicitBackground
from course_lib.widgets.explorer import Explorer, Panel, Slider, View, standing
from course_lib.widgets.pixels import as_image, as_picture, colours, enlarged, heat, hexes, tables

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
    pen = ImageDraw.Draw(image)
    middle = CORNERS.mean(0)
    for corner, colour in enumerate(COLOURS):
        others = [other for other in range(3) if other != corner]
        edges = [(CORNERS[corner] + CORNERS[other]) / 2 for other in others]
        outline = [CORNERS[corner], edges[0], middle, edges[1]]
        light = tuple(round(255 - 0.28 * (255 - channel)) for channel in colour)
        pen.polygon([tuple((2 * point).tolist()) for point in outline], fill=light)
    _frame(image)
    return image


def _frame(image: Image.Image) -> None:
    """Draw the triangle's outline and the names at its corners."""
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=28)
    outline = [tuple((2 * corner).tolist()) for corner in CORNERS]
    pen.line([*outline, outline[0]], fill=(70, 70, 70), width=3)
    for (x, y), name, side in zip(outline, NAMES, (-1, 1, 1), strict=True):
        pen.text((x, y + 28 * side), name, fill="black", font=font, anchor="mm")


@cache
def end_picture() -> Tensor:
    """Return the triangle with the END (mode 1) of each point in colours from 0 to 1, (3, H, W) uint8; white around it."""
    width, height = SIZE
    rows, columns = torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))  # x and y, (2, H, W)
    corners = torch.cat([CORNERS.T.double(), torch.ones(1, 3, dtype=torch.float64)])
    p = torch.linalg.solve(corners, torch.cat([places.flatten(1), torch.ones(1, width * height)]))  # (3, H * W)
    inside = (p >= 0).all(0).view(height, width)
    ends = ExpectedNonDistinctiveness(mode=1).pixel_map(p.clamp(min=1e-12).log()[None])[0]
    return torch.where(inside, heat(ends.float().view(height, width), 0, 1), 255)


def simplex_view(*, x1: float, x2: float, shift: float, show_end: bool = False) -> View:
    """Show the predictions of both for objects' logits x1 + shift and x2 + shift, in the triangle of probabilities.

    A vermilion disc is the explicit softmax, a black square implicit background, a line the way that the square
    takes for shifts from -4 to 4. With `show_end` a second panel shows the same on END's values, mode 1, and the
    words give END of this one pixel.

    Raises:
        ValueError: For logits that are not finite.
    """
    if not all(map(math.isfinite, (x1, x2, shift))):
        raise ValueError(f"logits are finite numbers, not {x1}, {x2} with shift {shift}")
    explicit, implicit = probabilities(x1, x2, shift)
    way = [place(probabilities(x1, x2, float(at))[1]) for at in SHIFTS]
    picture = _marked(_triangle(), way, place(explicit), place(implicit))

    def said(p: Tensor) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in zip(NAMES, p.tolist(), strict=True))

    best = [name for name, value in zip(NAMES, implicit, strict=True) if value > implicit.max() - 1e-9]
    verdict = f"{best[0]} wins" if len(best) == 1 else f"{' and '.join(best)} are level"
    panels = [Panel("probabilities as a point", picture, f"explicit: {said(explicit)}; implicit: {said(implicit)}")]
    words = (
        f"Objects' logits {x1 + shift:.2f} and {x2 + shift:.2f}. Explicit softmax: {said(explicit)}: the shift does "
        f"not move it. Implicit background: {said(implicit)}; {verdict}, and the shift "
        "decides how much of the whole the objects get."
    )
    if show_end:
        ends = {
            name: [max(0.0, float(ExpectedNonDistinctiveness(mode)(p.log()[None, :, None, None]))) for mode in (1, 2)]
            for name, p in (("explicit", explicit), ("implicit", implicit))
        }
        first = ", ".join(f"{name} {end[0]:.2f}" for name, end in ends.items())
        ground = as_image(enlarged(end_picture(), 2))
        _frame(ground)
        panels.append(Panel("END of each point, mode 1", _marked(ground, way, place(explicit), place(implicit)), first))
        both = ", ".join(f"{name} {one:.2f} and {two:.2f}" for name, (one, two) in ends.items())
        words += f" END of this pixel in modes 1 and 2: {both}."
    return View(panels, words)


def _marked(ground: Image.Image, way: list, explicit: tuple[float, float], implicit: tuple[float, float]) -> Tensor:
    """Return a triangle at twice its size with the way, the disc and the square on it, at its own size."""
    image = ground.copy()
    pen = ImageDraw.Draw(image)
    pen.line([(2 * x, 2 * y) for x, y in way], fill=(90, 90, 90), width=4)
    x, y = (2 * n for n in explicit)
    pen.ellipse((x - 19, y - 19, x + 19, y + 19), fill=EXPLICIT, outline="white", width=4)
    x, y = (2 * n for n in implicit)
    pen.rectangle((x - 10, y - 10, x + 10, y + 10), fill=IMPLICIT, outline="white", width=3)
    return as_picture(image.reduce(2))


def simplex_explorer() -> Explorer:
    """Return `simplex_view` with sliders for the two logits and the shift."""
    logits = [number / 4 for number in range(-16, 17)]
    return Explorer(
        standing(partial(simplex_view, show_end=True)),
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
            *((f"END {end:g}", hexes(colours("cividis")[[round(255 * end)]])[0]) for end in (0, 0.5, 1)),
        ],
        module="simplex",
        data=tables("cividis"),
    )
