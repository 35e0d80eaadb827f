"""A labelled photograph that everybody may have: a cup of coffee on a table, with a class at every pixel."""

from pathlib import Path

import torch

from course_lib.data.images import read_image, read_values
from course_lib.data.sample import Sample, make_sample

FOLDER = Path(__file__).parent / "photographs"


class Coffee:
    """One photograph, 400x600, with six classes; the pixels along borders are void (255).

    Saucer and cup are of one colour, the cup is of two, and the spoon mirrors them all: what a colour shows is not
    what a thing is. The photograph is Rachel Michetti's (CC0, from scikit-image); the labels are the course's.
    """

    classes = ("Table", "Floor", "Saucer", "Cup", "Coffee", "Spoon")
    palette = torch.tensor(
        [[230, 190, 130], [60, 60, 60], [0, 114, 178], [86, 180, 233], [213, 94, 0], [240, 228, 66]],
        dtype=torch.uint8,
    )
    background = None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        if index != 0:
            raise IndexError(f"no image {index} in a set of one")
        labels = torch.from_numpy(read_values(FOLDER / "coffee.png").astype("int64"))
        return make_sample(read_image(FOLDER / "coffee.jpg"), labels, "coffee")
