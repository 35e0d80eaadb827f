"""Make the five animals of VOC 2012 (`course_lib.data.voc_animals`) from the folders that `voc` and `sbd` have made.

Pictures, masks and boxes are reduced to a long side of 320 pixels. Which pictures they are stands in
`data_scripts/lists`.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from course_lib.data.sample import DataError
from course_lib.data.voc import read_names
from course_lib.data.voc_animals import ANIMALS
from course_lib.plumbing.files import write_text
from data_scripts import fetch

LISTS = Path(__file__).parent / "lists"
LONG_SIDE = 320
QUALITY = 92


def get(root: Path, *, yes: bool = False) -> None:
    """Make `<root>/voc_animals` from `<root>/voc`; nothing is downloaded.

    Raises:
        DataError: If VOC 2012, SBD's masks or a single file of them are missing.
    """
    target, voc = root / "voc_animals", root / "voc" / "VOCdevkit" / "VOC2012"
    if fetch.already_there(target):
        return
    for name, needed in (("voc", voc), ("sbd", voc / "SegmentationClassAug")):
        if not needed.is_dir():
            raise DataError(f'{needed} is missing: run "course data get {name}" first')
    lists = {split: read_names(LISTS / f"voc_animals_{split}.txt") for split in ("train", "val", "train_aug")}
    official = {*lists["train"], *lists["val"]}
    with fetch.new_folder(target) as folder:
        for name in tqdm(sorted(official.union(lists["train_aug"])), "five animals", delay=2):
            masks = "SegmentationClass" if name in official else "SegmentationClassAug"
            try:
                reduce_picture(voc, folder / "VOCdevkit" / "VOC2012", name, masks)
            except (OSError, ElementTree.ParseError) as error:
                raise DataError(f"{name} of {voc} cannot be reduced ({error})") from error
        for split, names in lists.items():
            write_text(folder / "lists" / f"{split}.txt", "\n".join(names) + "\n")
    print(f"five animals of VOC 2012 are in {target}")


def reduce_picture(voc: Path, folder: Path, name: str, masks: str) -> None:
    """Write the picture `name` of `voc` with its mask, from the folder `masks`, and its animals' boxes to `folder`.

    Raises:
        OSError: For a file that is missing or broken.
    """
    for kind in ("JPEGImages", masks, "Annotations"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with Image.open(voc / "JPEGImages" / f"{name}.jpg") as picture:
        factor = LONG_SIDE / max(picture.size)
        size = tuple(round(side * factor) for side in picture.size)
        reduced = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        reduced.save(folder / "JPEGImages" / f"{name}.jpg", quality=QUALITY)
    with Image.open(voc / masks / f"{name}.png") as mask:
        mask.resize(size, Image.Resampling.NEAREST).save(folder / masks / f"{name}.png")
    tree = ElementTree.parse(voc / "Annotations" / f"{name}.xml")
    root = tree.getroot()
    for item in root.findall("object"):
        if item.findtext("name") not in ANIMALS or item.findtext("difficult") == "1":
            root.remove(item)
            continue
        for part in item.findall("part"):
            item.remove(part)
        for side in item.find("bndbox"):
            side.text = str(max(1, round(float(side.text) * factor)))
    for axis, pixels in zip(("width", "height"), size, strict=True):
        root.find(f"size/{axis}").text = str(pixels)
    tree.write(folder / "Annotations" / f"{name}.xml")


if __name__ == "__main__":
    fetch.main(get)
