"""Fetch SBD and make of it what VOC's larger training set needs: 9118 masks, and the list train_aug.

The usual 10582 pictures are VOC's 1464 for training and all of SBD's that are in neither of VOC's lists.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from scipy.io import loadmat
from tqdm.auto import tqdm

from course_lib.data.sample import DataError
from course_lib.data.voc import CLASSES, read_names, voc_colour
from course_lib.plumbing.files import write_text
from data_scripts import fetch

TERMS = """
SBD (Semantic Boundaries Dataset), 1.4 GB, from the University of California, Berkeley.
Annotations of VOC 2011 photographs, which are Flickr's; for research. Cite:
  Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic contours from inverse detectors, ICCV 2011.
"""

# Address and checksum as in torchvision.datasets.sbd.
ARCHIVE = fetch.Remote(
    name="benchmark.tgz",
    urls=(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    ),
    checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
)
ADDED = 9118


def get(root: Path, *, yes: bool = False) -> None:
    """Add `SegmentationClassAug` to VOC 2012 in `<root>/voc` and the lists in `<root>/voc_lists`.

    Raises:
        DataError: Also if VOC 2012 is not there yet.
    """
    voc = root / "voc" / "VOCdevkit" / "VOC2012"
    if not voc.is_dir():
        raise DataError(f'{voc} is missing: run "course data get voc" first')
    target = voc / "SegmentationClassAug"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    archive = fetch.download(ARCHIVE, root / fetch.DOWNLOADS)
    with TemporaryDirectory(dir=archive.parent) as unpacked, fetch.new_folder(target) as folder:
        sbd = Path(unpacked)
        fetch.unpack(archive, sbd, "benchmark_RELEASE/dataset", ("cls", "train.txt", "val.txt"))
        added = convert(sbd, voc, folder)
        write_lists(root / "voc_lists", voc, added)
    fetch.unpacked(archive)
    print(f"the masks of train_aug are in {target}")


def convert(sbd: Path, voc: Path, folder: Path) -> list[str]:
    """Write SBD's masks of pictures in neither of VOC's lists into `folder`; return their names.

    Raises:
        DataError: Unless they are the usual 9118.
    """
    names = {*read_names(sbd / "train.txt"), *read_names(sbd / "val.txt")}
    added = sorted(names - {*official(voc, "trainval")})
    if len(added) != ADDED:
        raise DataError(f"SBD adds {len(added)} images to VOC 2012 instead of {ADDED}: is {voc} whole?")
    palette = [value for label in range(len(CLASSES)) for value in voc_colour(label)]
    for name in tqdm(added, "SBD masks", delay=2):
        mask = Image.fromarray(loadmat(sbd / "cls" / f"{name}.mat")["GTcls"][0]["Segmentation"][0])
        mask.putpalette(palette)
        mask.save(folder / f"{name}.png")
    return added


def official(voc: Path, split: str) -> list[str]:
    """Return the names in one of VOC's own lists."""
    return read_names(voc / "ImageSets" / "Segmentation" / f"{split}.txt")


def write_lists(folder: Path, voc: Path, added: list[str]) -> None:
    """Write VOC's lists and train_aug = train and `added`."""
    lists = {split: official(voc, split) for split in ("train", "val", "trainval")}
    lists["train_aug"] = sorted(lists["train"] + added)
    for split, names in lists.items():
        write_text(folder / f"{split}.txt", "\n".join(names) + "\n")


if __name__ == "__main__":
    fetch.main(get)
