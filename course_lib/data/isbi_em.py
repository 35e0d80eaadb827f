"""ISBI 2012 EM: cell membranes in thirty slices of a fly's nerve cord, the first set of U-Net.

Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 2015. 512x512 grey images, 4x4 nm a pixel, 50 nm a slice.
"""

from pathlib import Path

import torch

from course_lib.data.images import Pair, Pictures, pair_folders

TRAIN_SLICES = 24


class IsbiEM(Pictures):
    """The thirty labelled slices, as two classes; the grey value is repeated into three channels.

    Layout: `<root>/isbi_em/train/{image,label}/N.png`, N = 0..29 in the order of the volume; the labels are 0
    (membrane) and 255 (cell).

    The split is ours, since the challenge's test labels are not public, and it is by block: the first 24 slices train,
    the last 6 validate. Neighbouring slices, 50 nm apart, show the same cells; drawn at random, most validation slices
    would lie between two training slices, and the score would measure memory.
    """

    title = "ISBI 2012 EM"
    folder = "isbi_em"
    get = "course data get isbi_em"
    size_on_disk = "about 6 MB"
    splits = ("train", "val")
    classes = ("membrane", "cell")
    palette = torch.tensor([[213, 94, 0], [86, 180, 233]], dtype=torch.uint8)
    background = None
    values = {0: 0, 255: 1}  # noqa: RUF012

    def find(self, path: Path, split: str) -> tuple[list[Pair], list[str]]:
        pairs, problems = pair_folders(path / "train" / "image", path / "train" / "label")
        strange = [pair for pair in pairs if not pair.name.isdecimal()]
        problems += [f"{pair.image} is not named by a number" for pair in strange]
        numbered = sorted(set(pairs) - set(strange), key=lambda pair: int(pair.name))
        return numbered[:TRAIN_SLICES] if split == "train" else numbered[TRAIN_SLICES:], problems
