"""Fetch torchvision's ImageNet weights: the backbones of the papers' networks.

`python -m data_scripts.weights resnet18 vgg16` fetches these two, without names all of them.
"""

from collections.abc import Collection
from pathlib import Path

from course_lib.data.sample import DataError
from data_scripts import fetch

TERMS = """
ImageNet weights from PyTorch (BSD licence), in MB: vgg16 528, vgg16_bn 528, resnet18 45, resnet34 83,
resnet50 98, resnet101 171. They were trained on ImageNet, whose images are for non-commercial research
and education.
"""

# torchvision's IMAGENET1K_V1 weights. A name ends with the first digits of the file's sha256.
FILES = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}
SERVER = "https://download.pytorch.org/models"


def remote(file: str) -> fetch.Remote:
    """Return where a file of weights is, and what its sha256 starts with."""
    prefix = Path(file).stem.rsplit("-", 1)[1]
    return fetch.Remote(file, (f"{SERVER}/{file}",), prefix=prefix)


def get(root: Path, *, yes: bool = False, names: Collection[str] = ()) -> None:
    """Fetch the weights called `names`, or all, into `<root>/weights`; those that are there are checked.

    Raises:
        DataError: If the user refuses its terms, or it does not arrive whole.
    """
    unknown = [name for name in names if name not in FILES]
    if unknown:
        raise DataError(f"no weights for {unknown[0]}: known are {', '.join(FILES)}")
    folder = root / "weights"
    fetch.agree(TERMS, yes)
    for name in names or FILES:
        fetch.download(remote(FILES[name]), folder)
    print(f"the weights are in {folder}")


if __name__ == "__main__":
    fetch.main(get, names="weights to fetch (default: all)")
