"""An ancillary network's logits on the training images: computed once, kept in half precision."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_lib.data.boxes import box_batch
from course_lib.data.sample import SegmentationDataset
from course_lib.models.ancillary import Ancillary
from course_lib.models.blocks import resize_to
from course_lib.plumbing.checkpoint import CheckpointError
from course_lib.plumbing.fabric import Fabric
from course_lib.plumbing.files import atomic_write
from course_lib.plumbing.modes import in_evaluation
from course_lib.plumbing.progress import progress_bar


class Suggestions:
    """The logits of an ancillary network on a set of images, in memory or in a file.

    `suggestions[index]` is (C, H, W) float32 at the images' size. They are kept as the decoder gives them (a
    quarter of the size for DeepLabV3+) and enlarged as the network does it.

    Args:
        source: Scores (n, C, h, w) float16, or a file of `write_suggestions`.
        size: Height and width of the images.
    """

    def __init__(self, source: Tensor | Path, size: tuple[int, int]):
        self.source, self.size = source, size
        self.opened = None

    def __getitem__(self, index: int) -> Tensor:
        if isinstance(self.source, Tensor):
            scores = self.source[index : index + 1]
        else:
            if self.opened is None:
                self.opened = safe_open(self.source, framework="pt")
            scores = self.opened.get_slice("scores")[index : index + 1]
        return resize_to(scores.float(), self.size)[0]

    def digest(self) -> str:
        """Return twelve digits that tell these scores from another network's, whatever recipe both followed."""
        scores = self.source
        if not isinstance(scores, Tensor):
            with safe_open(scores, framework="pt") as file:
                scores = file.get_tensor("scores")
        return hashlib.sha256(scores.contiguous().numpy().tobytes()).hexdigest()[:12]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "opened": None}  # each process that loads images opens the file


def about_suggestions(ancillary: str, training: SegmentationDataset) -> dict[str, str]:
    """Return what must match before stored suggestions are used again.

    Args:
        ancillary: Hash of the ancillary network's recipe.
        training: The images, in their order.
    """
    names = [training[index].name for index in range(len(training))]
    size = tuple(training[0].labels.shape)
    pictures = hashlib.sha256(json.dumps([names, size]).encode()).hexdigest()[:12]
    return {"ancillary": ancillary, "pictures": pictures}


@torch.no_grad()
@in_evaluation
def scores_of(
    ancillary: Ancillary, training: SegmentationDataset, fabric: Fabric, batch_size: int, show_progress: bool
) -> Tensor:
    """Return the scores of all images, (n, C, h, w) float16.

    Raises:
        FloatingPointError: Where they are not finite in half precision.
    """
    device = next(ancillary.parameters()).device
    parts = []
    for first in progress_bar(range(0, len(training), batch_size), "ancillary logits", show=show_progress, delay=2):
        samples = [training[i] for i in range(first, min(first + batch_size, len(training)))]
        images, _, maps = box_batch(samples, ancillary.num_classes)
        with fabric.autocast():
            scores = ancillary.scores(images.to(device), maps.to(device))
        parts.append(scores.to("cpu", torch.float16))
    scores = torch.cat(parts)
    if not scores.isfinite().all():
        raise FloatingPointError("the ancillary network's logits are not finite in half precision")
    return scores


def write_suggestions(path: Path, scores: Tensor, about: dict[str, str]) -> None:
    """Write scores (n, C, h, w) with what they are of, atomically."""
    with atomic_write(path) as temporary:
        save_file({"scores": scores.contiguous()}, temporary, metadata=about)


def read_suggestions(path: Path, about: dict[str, str], size: tuple[int, int]) -> Suggestions:
    """Return the suggestions in `path`.

    Raises:
        CheckpointError: Where they are of something else than `about`, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: (file.metadata() or {}).get(key) for key in about}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): move it away") from error
    what = {"ancillary": "another ancillary network", "pictures": "other images"}
    for key, value in about.items():
        if stored[key] != value:
            raise CheckpointError(f"{path} holds logits of {what[key]} ({stored[key]}, not {value}): move it away")
    return Suggestions(path, size)
