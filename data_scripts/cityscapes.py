"""Fetch Cityscapes with its owners' tool and your own account: 3475 labelled frames of 2048x1024."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from course_lib.data.sample import DataError
from data_scripts import fetch

TERMS = """
Cityscapes, 12 GB: for non-commercial use, under terms that you accept when you register at
https://www.cityscapes-dataset.com/register/. csDownload, the owners' tool, asks for that account.
Cite:
  Cordts et al.: The Cityscapes dataset for semantic urban scene understanding, CVPR 2016.
"""

PACKAGES = {"leftImg8bit_trainvaltest.zip": "leftImg8bit", "gtFine_trainvaltest.zip": "gtFine"}
FRAMES = {"train": 2975, "val": 500}


def get(root: Path, *, yes: bool = False) -> None:
    """Fetch Cityscapes into `<root>/cityscapes`.

    Packages that are whole in `<root>/downloads`, put there by hand or by an earlier call, are not fetched again.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    target = root / "cityscapes"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    downloads = root / fetch.DOWNLOADS
    downloads.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not zipfile.is_zipfile(downloads / package):  # a zip's directory stands at its end
            run_tool(package, downloads)
    with fetch.new_folder(target) as folder:
        for package, name in PACKAGES.items():
            fetch.unpack(downloads / package, folder, only=(name,))
        for split, count in FRAMES.items():
            fetch.expect_files(folder / "leftImg8bit" / split, "*/*_leftImg8bit.png", count)
            fetch.expect_files(folder / "gtFine" / split, "*/*_gtFine_labelIds.png", count)
    for package in PACKAGES:
        (downloads / package).unlink()
    print(f"Cityscapes is in {target}")


def run_tool(package: str, downloads: Path) -> None:
    """Let csDownload fetch a package, from where it stopped.

    Raises:
        DataError: If it cannot.
    """
    beside_python = Path(sys.executable).parent
    tool = shutil.which("csDownload") or shutil.which("csDownload", path=beside_python)
    if tool is None:
        raise DataError(
            "csDownload, the Cityscapes owners' tool, is not installed: run "
            '"pip install cityscapesscripts", and register at '
            "https://www.cityscapes-dataset.com/register/. Or fetch "
            f"{' and '.join(PACKAGES)} from there by hand and put them into {downloads}"
        )
    done = subprocess.run([tool, "--resume", "-d", str(downloads), package], check=False)
    if done.returncode or not zipfile.is_zipfile(downloads / package):
        raise DataError(f"csDownload did not fetch {package}: see above, then run the same command again")


if __name__ == "__main__":
    fetch.main(get)
