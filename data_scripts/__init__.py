"""Fetching data from where its owners keep it: the only part of the repository that opens the network.

One script a set, each with `get(root, *, yes=False)`, also runnable as `python -m data_scripts.NAME`.
"""

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from course_lib.data.registry import DATASETS
from course_lib.data.sample import DataError
from course_lib.plumbing.suggest import did_you_mean

SCRIPTS = {
    "camvid": "data_scripts.camvid",
    "camvid_objects": "data_scripts.camvid",
    "voc": "data_scripts.voc",
    "sbd": "data_scripts.sbd",
    "voc_animals": "data_scripts.voc_animals",
    "cityscapes": "data_scripts.cityscapes",
    "cityscapes_objects": "data_scripts.cityscapes",
    "isbi_em": "data_scripts.isbi_em",
    "penn_fudan": "data_scripts.penn_fudan",
    "weights": "data_scripts.weights",
}
"""Name of what can be fetched -> the module that does it, imported when it is needed."""


def get(name: str, root: Path, *, yes: bool = False) -> None:
    """Fetch the set `name` into `root`, the folder of all data sets, after showing its terms.

    `yes` agrees to the terms without asking.

    Raises:
        DataError: For an unknown name and for whatever goes wrong on the way; nothing half-done is left in the set's
            folder.
    """
    if name not in SCRIPTS:
        hint = did_you_mean(name, SCRIPTS)
        raise DataError(f"nothing to fetch by the name {name!r}{hint}: there are {', '.join(SCRIPTS)}")
    script = import_module(SCRIPTS[name])
    try:
        if lacks(name, root):
            mend(name, root, lambda folder: script.get(folder, yes=yes))
        else:
            script.get(Path(root), yes=yes)
    except OSError as error:
        place = error.filename or root
        raise DataError(f"{place}: {error.strerror or error}; COURSE_DATA names another folder for data") from error


def lacks(name: str, root: Path) -> bool:
    """Return whether the set is here, but with files missing."""
    info = DATASETS.get(name)
    if info is None or not info.present(root):
        return False
    splits = info.files.splits_to_check(root / info.folder)
    return any(info.files(split, root, strict=False).problems for split in splits)


def mend(name: str, root: Path, get: Callable[[Path], None]) -> None:
    """Fetch the set anew beside its folder, and put there what is missing; what is there stays as it is."""
    folder, beside = DATASETS[name].folder, root / f".{name}.again"
    beside.mkdir(exist_ok=True)
    for other in root.iterdir():  # downloads, and sets that this one is made from
        if other.name[0] != "." and other.name != folder and not (beside / other.name).exists():
            (beside / other.name).symlink_to(other.resolve())
    get(beside)
    for path in sorted((beside / folder).rglob("*")):
        place = root / path.relative_to(beside)
        if path.is_file() and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
            print(f"{place} is back")
    shutil.rmtree(beside)
