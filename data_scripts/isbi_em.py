"""Fetch the training volume of the ISBI 2012 EM challenge: 30 slices with labels."""

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageSequence

from course_lib.data.sample import DataError
from data_scripts import fetch

TERMS = """
ISBI 2012 challenge, segmentation of neuronal structures in EM stacks, from imagej.net.
For non-commercial research on segmentation. Cite:
  Cardona et al.: An integrated micro- and macroarchitectural analysis of the Drosophila brain by
  computer-assisted serial section electron microscopy, PLoS Biology 2010;
  Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for
  connectomics, Frontiers in Neuroanatomy 2015.
"""

# Linked from https://imagej.net/events/isbi-2012-segmentation-challenge since the challenge's own
# server was shut down.
ARCHIVE = fetch.Remote(name="ISBI-2012-challenge.zip", urls=("https://downloads.imagej.net/ISBI-2012-challenge.zip",))
STACKS = {"image": "train-volume.tif", "label": "train-labels.tif"}
SLICES, SIZE = 30, (512, 512)


def get(root: Path, *, yes: bool = False) -> None:
    """Fetch the labelled volume into `<root>/isbi_em/train/{image,label}/N.png`.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    target = root / "isbi_em"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    archive = fetch.download(ARCHIVE, root / fetch.DOWNLOADS)
    with TemporaryDirectory(dir=archive.parent) as unpacked, fetch.new_folder(target) as folder:
        fetch.unpack(archive, Path(unpacked))
        for kind, name in STACKS.items():
            save_slices(find_one(Path(unpacked), name), folder / "train" / kind)
    fetch.unpacked(archive)
    print(f"ISBI 2012 EM is in {target}")


def find_one(folder: Path, name: str) -> Path:
    """Return the file called `name`, wherever the archive has it.

    Raises:
        DataError: If there is none.
    """
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"{ARCHIVE.name} holds no {name}: its owner has changed it")
    return found[0]


def save_slices(stack: Path, folder: Path) -> None:
    """Write the pages of a TIFF as 0.png, 1.png, ...

    Raises:
        DataError: Unless they are 30 of 512x512.
    """
    folder.mkdir(parents=True)
    with Image.open(stack) as pages:
        slices = [page.convert("L") for page in ImageSequence.Iterator(pages)]
    if [page.size for page in slices] != [SIZE] * SLICES:
        raise DataError(f"{stack.name} should hold {SLICES} slices of 512x512 pixels")
    for number, page in enumerate(slices):
        page.save(folder / f"{number}.png")


if __name__ == "__main__":
    fetch.main(get)
