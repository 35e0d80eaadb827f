"""Fetch the Penn-Fudan pedestrians: 170 photographs with 423 people."""

from pathlib import Path

from data_scripts import fetch

TERMS = """
Penn-Fudan database for pedestrian detection and segmentation, 54 MB, from the University of
Pennsylvania, which states no licence. Cite:
  Wang, Shi, Song, Shen: Object detection combining recognition and segmentation, ACCV 2007.
"""

ARCHIVE = fetch.Remote(name="PennFudanPed.zip", urls=("https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",))
PICTURES = 170


def get(root: Path, *, yes: bool = False) -> None:
    """Fetch Penn-Fudan into `<root>/PennFudanPed`.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    target = root / "PennFudanPed"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    archive = fetch.download(ARCHIVE, root / fetch.DOWNLOADS)
    with fetch.new_folder(target) as folder:
        fetch.unpack(archive, folder, "PennFudanPed")
        for name in ("PNGImages", "PedMasks"):
            fetch.expect_files(folder / name, "*.png", PICTURES)
    fetch.unpacked(archive)
    print(f"Penn-Fudan is in {target}")


if __name__ == "__main__":
    fetch.main(get)
