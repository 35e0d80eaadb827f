"""Fetching data from where its owners keep it: the only part of the repository that opens the network.

One script a set, each with `get(root, *, yes=False)`, also runnable as `python -m data_scripts.NAME`.
"""

from importlib import import_module
from pathlib import Path

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
    import_module(SCRIPTS[name]).get(Path(root), yes=yes)
