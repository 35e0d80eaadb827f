"""Fetch PASCAL VOC 2012 (training and validation): 17125 photographs, 2913 of them segmented."""

from pathlib import Path

from data_scripts import fetch

TERMS = """
PASCAL VOC 2012, 2 GB, from the University of Oxford.
The photographs come from Flickr and are under Flickr's terms of use; the annotations are free to use. Cite:
  Everingham, Van Gool, Williams, Winn, Zisserman: The Pascal Visual Object Classes (VOC) challenge,
  IJCV 2010.
"""

# Address and checksum as in torchvision.datasets.voc.
ARCHIVE = fetch.Remote(
    name="VOCtrainval_11-May-2012.tar",
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
    ),
    checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
)
MASKS = 2913


def get(root: Path, *, yes: bool = False) -> None:
    """Fetch VOC 2012 into `<root>/voc`.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    target = root / "voc"
    if fetch.already_there(target):
        return
    fetch.agree(TERMS, yes)
    archive = fetch.download(ARCHIVE, root / fetch.DOWNLOADS)
    with fetch.new_folder(target) as folder:
        fetch.unpack(archive, folder, only=("VOCdevkit",))
        fetch.expect_files(folder / "VOCdevkit" / "VOC2012" / "SegmentationClass", "*.png", MASKS)
    fetch.unpacked(archive)
    print(f'VOC 2012 is in {target}; "course data get sbd" adds the masks of train_aug')


if __name__ == "__main__":
    fetch.main(get)
