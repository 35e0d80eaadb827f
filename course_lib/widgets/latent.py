"""The latent explorer: tell the truth of a part of an image, and see the whole labeling follow.

P. Zhuang, Y. Sekikawa, K. Hara, H. Saito, "Learning an Optimisable Semantic Segmentation Map with Image
Conditioned Variational Autoencoder", section 3. The decoder is linear in the code, so that a move of the code
is one matrix product (`course_lib.latent`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset
from course_lib.latent import Linearisation, leading_directions, linearise, refine
from course_lib.plotting import RIGHT, WRONG, colourise, error_map
from course_lib.widgets.explorer import Answer, Button, Choice, Event, Explorer, Panel, Slider, View
from course_lib.widgets.pixels import bytes_of, halves, heat, hexes, paint, tables

EVERY_CLASS = "every class"
PRIORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
MOVES = [number / 4 for number in range(-16, 17)]
MENDED, CHANGED = (0, 114, 178), (230, 159, 0)
BUTTONS = {
    "tell": "Tell all of this class",
    "half": "Tell half of this class",
    "refine": "Refine the code",
    "forget": "Forget everything told",
}
WIDTH = 230
"""Pixels of the screen that a panel is wide."""


class Scene(NamedTuple):
    """An image with all that does not change while its code moves.

    Attributes:
        linear: Offset and Jacobian of the decoder.
        directions: (n, code_size), the codes that change the image most.
    """

    sample: Sample
    linear: Linearisation
    directions: Tensor

    def packed(self) -> dict[str, bytes]:
        """Return the scene as the module takes it: the Jacobian in half precision, the rest as it is."""
        return {
            "jacobian": halves(self.linear.jacobian),
            "offset": self.linear.offset.float().contiguous().numpy().tobytes(),
            "labels": bytes_of(self.sample.labels),
            "image": bytes_of(self.sample.image.as_subclass(Tensor).permute(1, 2, 0)),
            "directions": self.directions.float().contiguous().numpy().tobytes(),
        }


@torch.no_grad()
def read_scene(model: nn.Module, sample: Sample, directions: int) -> Scene:
    """Return the decoder and `directions` leading codes for one image.

    Raises:
        TypeError: For a model without a code.
        ValueError: For an image of another size than the model's.
    """
    linear = linearise(model, sample.image)
    leading, _ = leading_directions(linear, min(directions, len(linear.jacobian)))
    linear = Linearisation(linear.offset.cpu(), linear.jacobian.cpu())
    return Scene(sample, linear, leading.cpu())


def first_half(region: Tensor) -> Tensor:
    """Return the half of `region` (H, W) bool that comes first when its pixels are read column by column."""
    pixels = region.T.flatten()  # (W * H,)
    first = pixels & (pixels.cumsum(0) <= math.ceil(int(pixels.sum()) / 2))
    return first.view(region.T.shape).T


def latent_view(scene: Scene, code: Tensor, region: Tensor, palette: Tensor) -> View:
    """Show what the code (code_size,) makes of the scene when the truth is given on `region` (H, W) bool.

    Panels: the image with what is told in its colours, the prediction, what differs in it from that of the zero
    code, its uncertainty (entropy of the softmax, as a share of the largest possible), the errors, the truth.
    """
    image, labels = (part.as_subclass(Tensor) for part in (scene.sample.image, scene.sample.labels))
    logits = scene.linear.logits(code)  # (C, H, W)
    shares = logits.softmax(0)
    entropy = -(shares * shares.clamp(min=1e-9).log()).sum(0) / math.log(len(logits))
    prediction, zero = logits.argmax(0), scene.linear.offset.argmax(0)
    told, counted = region & (labels != IGNORE), labels != IGNORE

    def right(found: Tensor, where: Tensor) -> float:
        return float((found == labels)[where].float().mean())

    # told pixels in their colours, the others of the image paler
    paler = (image.float() * 0.75 + 64).to(torch.uint8)
    shown = torch.where(told, colourise(labels, palette), paler if told.any() else image)
    accuracy, before = right(prediction, counted), right(zero, counted)
    known = bool(counted.any())
    wrong = f"{1 - accuracy:.1%} of the pixels are wrong" if known else "the truth is not known"
    zoom = WIDTH / labels.shape[1]
    moved, now, then = prediction != zero, prediction == labels, zero == labels
    kinds = torch.where(moved, torch.where(now & counted, 1, torch.where(then & counted, 2, 3)), 0)
    change = torch.tensor([RIGHT, MENDED, WRONG, CHANGED], dtype=torch.uint8)[kinds].permute(2, 0, 1)
    panels = [
        Panel("image, and what is told", shown, f"{int(told.sum())} pixels are told", zoom),
        Panel("prediction", colourise(prediction, palette), f"{len(prediction.unique())} classes", zoom),
        Panel(
            "changed by the code",
            change,
            f"{float(moved.float().mean()):.1%} of the pixels have another class than with the zero code",
            zoom,
        ),
        Panel("uncertainty (entropy)", heat(entropy, 0, 1), f"mean {entropy.mean():.2f} of at most 1", zoom),
        Panel("errors", error_map(prediction, labels), wrong, zoom),
        Panel("ground truth", colourise(labels, palette), f"{len(labels[counted].unique())} classes", zoom),
    ]
    if not known:
        return View(panels, "The truth of this image is not known: nothing can be told or counted.")
    rest = counted & ~told
    words = (
        f"Pixel accuracy {accuracy:.1%}; the zero code has {before:.1%} ({100 * (accuracy - before):+.1f} points). "
        f"Told: {float(told.sum() / counted.sum()):.1%} of the pixels"
    )
    if told.any() and rest.any():
        words += f"; on the others {right(prediction, rest):.1%} are right, {right(zero, rest):.1%} with the zero code"
    return View(panels, f"{words}. Length of the code: {code.norm():.2f}.")


class Session:
    """What has been told and found so far. `respond` is the explorer's; everything else is in pure functions."""

    def __init__(self, model: nn.Module, dataset: SegmentationDataset, directions: int):
        self.dataset, self.directions = dataset, directions
        self.model = model
        self.scene_of = lru_cache(4)(self._read)
        self.picture = -1

    def _read(self, picture: int) -> Scene:
        """Return a scene with the Jacobian that the page has: in half precision."""
        scene = read_scene(self.model, self.dataset[picture], self.directions)
        offset, jacobian = scene.linear
        return scene._replace(linear=Linearisation(offset, jacobian.half().float()))

    def _open(self, picture: int) -> None:
        self.scene = self.scene_of(picture)
        self.picture = picture
        self.region = torch.zeros(self.scene.sample.labels.shape, dtype=torch.bool)
        self.base = torch.zeros(len(self.scene.linear.jacobian))

    def _tells(self, name: str) -> Tensor:
        """Return the pixels (H, W) bool whose truth can be given when the class `name` is chosen."""
        labels = self.scene.sample.labels.as_subclass(Tensor)
        if name == EVERY_CLASS:
            return labels != IGNORE
        return labels == self.dataset.classes.index(name)

    def respond(self, event: Event) -> Answer:
        values = event.values
        names = [f"move{number}" for number in range(1, self.directions + 1)]
        moves = {name: float(values[name]) for name in names}
        afresh = dict.fromkeys(names, 0.0)
        problem = ""
        if int(values["picture"]) != self.picture:
            self._open(int(values["picture"]))
            moves = afresh
        elif event.pressed == "forget":
            self._open(self.picture)
            moves = afresh
        told = self._tells(values["told"])
        if event.points:
            under = paint(torch.zeros_like(self.region), event.points, float(values["radius"])) & told
            if not under.any():
                problem = f"There is no pixel of {values['told']} under the brush."
            self.region = self.region | under
        if event.pressed in ("tell", "half"):
            if not told.any():
                problem = f"This image has no pixel of {values['told']}: there is nothing to tell."
            self.region = self.region | (first_half(told) if event.pressed == "half" else told)
        if event.pressed == "refine":
            if self.region.any():
                labels = self.scene.sample.labels
                self.base = refine(self.scene.linear, labels, self.region, prior_weight=float(values["prior"])).code
                moves = afresh
            else:
                problem = "Nothing is told yet: tell a class or paint on the image, then refine."
        code = self.base + torch.tensor([*moves.values()][: len(self.scene.directions)]) @ self.scene.directions
        view = latent_view(self.scene, code, self.region, self.dataset.palette)
        return Answer(view, moves, problem)


def latent_explorer(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    picture: int = 0,
    pictures: Sequence[int] = (),
    tell: str | None = None,
    directions: int = 4,
    prior_weight: float = 1.0,
) -> Explorer:
    """Return the explorer: choose an image, give a class by a button or a brush, refine, move the code.

    Args:
        model: A `CVAE` for images of the data set's size, trained or not.
        picture: The one it starts with.
        pictures: Those to choose from; by default three, with `picture` among them.
        tell: The class that is chosen at the start: the first one by default.
        directions: Sliders along the code's leading directions, in units of the prior's standard deviation.

    Raises:
        TypeError: For a model without a code.
        ValueError: For images of another size than the model's, an unknown class and an image that the set
            lacks.
    """
    tell = dataset.classes[0] if tell is None else tell
    options = [*dataset.classes, EVERY_CLASS]
    if tell not in options:
        raise ValueError(f"class {tell!r} is none of {', '.join(options)}")
    pictures = sorted({*(pictures or (number % len(dataset) for number in range(picture, picture + 3))), picture})
    for number in pictures:
        if not 0 <= number < len(dataset):
            raise ValueError(f"image {number}: the data set has 0 to {len(dataset) - 1}")
    session = Session(model, dataset, directions)
    scenes = {str(number): session.scene_of(number).packed() for number in pictures}
    height, width = dataset[picture].labels.shape
    moves = [Slider(f"move{number}", f"direction {number}", MOVES, 0.0) for number in range(1, directions + 1)]
    controls = [
        Slider("picture", "image", pictures, picture),
        Choice("told", "class to tell", options, tell),
        Slider("radius", "brush radius", range(1, 25), 6),
        Slider("prior", "prior weight", sorted({*PRIORS, prior_weight}), prior_weight),
        *(Button(name, label) for name, label in BUTTONS.items()),
        *moves,
    ]
    return Explorer(
        session.respond,
        controls,
        title="Latent explorer: a part of the truth, and the whole labeling",
        brush=0,
        legend=[*zip(dataset.classes, hexes(dataset.palette), strict=True), *_changes()],
        module="latent",
        data={
            "pictures": scenes,
            "names": list(dataset.classes),
            "everything": EVERY_CLASS,
            "palette": bytes_of(dataset.palette),
            "size": [height, width],
            "zoom": WIDTH / width,
            **tables("cividis"),
        },
    )


def _changes() -> list[tuple[str, str]]:
    """Return the legend of what the code changes, and of errors."""
    colours = hexes(torch.tensor([WRONG, MENDED, CHANGED]))
    return [*zip(("wrong, or broken by the code", "mended by the code", "changed, still wrong"), colours, strict=True)]
