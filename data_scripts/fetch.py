"""Downloads that resume, archives that stay in their folder, folders that are whole or not there."""

import argparse
import errno
import os
import re
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pooch
import requests
from tqdm.auto import tqdm

from course_lib.data.sample import DataError
from course_lib.plumbing.paths import data_root

TIMEOUT = 30  # seconds without a byte
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
"""What zipfile and tarfile raise for archives that are damaged, encrypted or packed in an unknown way."""
OF_THE_DISK = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors that say nothing about an archive. Others do: a file and a folder of one name, a place before its beginning."""
CHUNK = 1 << 16  # bytes; what a broken connection loses at most
DOWNLOADS = "downloads"  # the folder under the data root where archives lie until they are unpacked


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        name: What it is called here.
        urls: Where it is: tried in this order.
        checksum: "md5:..." or "sha256:...", as the owner or torchvision publishes it; None if nobody does.
        prefix: The first digits of its sha256, where only those are published (torchvision's weights).
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    prefix: str = ""


def agree(terms: str, yes: bool) -> None:
    """Show the terms; go on only if the user agrees.

    Raises:
        DataError: If the user does not.
    """
    print(terms.strip())
    if yes:
        return
    try:
        answer = input("Download under these terms? [y/N] ")
    except EOFError:
        raise DataError("nobody to ask for agreement: add --yes to agree to the terms above") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise DataError("nothing was downloaded")


def download(remote: Remote, folder: Path) -> Path:
    """Bring a file into `folder` and return its path; a file that is already there is only checked.

    An interrupted download leaves `<name>.part`, and the next call goes on from there. Addresses are tried in turn when
    one does not answer or sends something else than the checksum says.

    Raises:
        DataError: If no address has it; it lists what went wrong at each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    there = folder / remote.name
    if there.exists() and not pooch.file_hash(str(there)).startswith(remote.prefix):
        there.unlink()
    failures, downloader = [], Resuming(remote, folder / f"{remote.name}.part")
    for url in addresses(remote):
        try:
            path = Path(pooch.retrieve(url, remote.checksum, remote.name, folder, downloader=downloader))
            digest = pooch.file_hash(str(path))
            if not digest.startswith(remote.prefix):
                path.unlink()
                raise ValueError(f"its sha256 is {digest[:8]}..., not {remote.prefix}...")
        except (requests.RequestException, ValueError) as error:
            failures.append(f"  {url}: {error}")
            if isinstance(error, ValueError):  # something else than was wanted
                downloader.forget()
            continue
        except OSError as error:
            raise DataError(f"{folder} cannot be written to ({error})") from error
        downloader.forget()
        if not remote.checksum and not remote.prefix:
            print(f"{remote.name}: sha256 {digest} (its owner publishes none to compare with)")
        return path
    raise DataError(
        "\n".join([f"{remote.name} could not be downloaded:", *failures])
        + "\nRun the same command again: it goes on where it stopped. Or fetch the file in another way "
        f"and put it into {folder}"
    )


def addresses(remote: Remote) -> tuple[str, ...]:
    """Return where a file is looked for: in the folder that COURSE_MIRROR names, then where its owner has it."""
    mirror = os.environ.get("COURSE_MIRROR", "").strip().rstrip("/")
    return (f"{mirror}/{remote.name}", *remote.urls) if mirror else remote.urls


def unpacked(archive: Path) -> None:
    """Remove an archive whose files are in their place; where COURSE_KEEP is set it stays, for a mirror."""
    if os.environ.get("COURSE_KEEP", "") in ("", "0"):
        archive.unlink()
    else:
        print(f"{archive} stays")


class Resuming:
    """A downloader for pooch that keeps what has arrived in `part`, and goes on from there."""

    def __init__(self, remote: Remote, part: Path) -> None:
        self.part = part
        self.tag = part.with_name(part.name + ".tag")  # which version of the file the part is of
        self.verified = bool(remote.checksum or remote.prefix)

    def __call__(self, url: str, output_file: str, _: object) -> None:
        """Download `url` to `output_file`. A connection that breaks is renewed while bytes arrive."""
        while True:
            before = self.arrived()
            try:
                self.transfer(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if self.arrived() <= before:
                    raise
        try:  # the part stays until its checksum has been compared, which takes a while
            os.link(self.part, whole := self.part.with_suffix(".whole"))
            os.replace(whole, output_file)
        except OSError:  # a disk without hard links
            shutil.move(self.part, output_file)

    def forget(self) -> None:
        """Remove the part, and what pooch has left beside it where it was killed: empty, or the same file."""
        for left in [*self.part.parent.glob("tmp*"), self.part.with_suffix(".whole")]:
            if left.exists() and (not left.stat().st_size or (self.part.exists() and left.samefile(self.part))):
                left.unlink()
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def arrived(self) -> int:
        """Return the bytes in the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def transfer(self, url: str) -> None:
        """One request for what is missing. Raises requests' errors."""
        start = self.arrived()
        headers = {"Accept-Encoding": "identity"}
        if start and not self.verified:
            # Without a checksum, parts of two versions would go unnoticed: the server must vouch.
            tag = self.tag.read_text() if self.tag.exists() else ""
            headers["If-Range"] = tag
            start = start if tag else 0
        if start:
            headers["Range"] = f"bytes={start}-"
        else:
            headers.pop("If-Range", None)
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return  # it had arrived completely
                self.part.unlink()
                raise requests.ConnectionError("the part that was there did not fit; it is deleted")
            response.raise_for_status()
            start = start if response.status_code == 206 else 0
            self.tag.write_text(version_tag(response))
            self.write(response, start)

    def write(self, response: requests.Response, start: int) -> None:
        """Append the body to the first `start` bytes of the part."""
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(self.part, "ab" if start else "wb") as part,
            tqdm(desc=self.part.stem, total=total, initial=start, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                part.write(chunk)
                bar.update(len(chunk))
        if total is not None and self.arrived() < total:
            raise requests.ConnectionError(f"only {self.arrived()} of {total} bytes arrived")


def version_tag(response: requests.Response) -> str:
    """Return what identifies this version of the file in an If-Range header; "" if the server does not say."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it becomes `target`.

    On any error and on Ctrl-C it is removed; what a killed process left is removed by the next one.
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: Path, folder: Path, inside: str = "", only: tuple[str, ...] = ()) -> None:
    """Unpack the files below the archive's folder `inside` into `folder`.

    With `only`, just those files and folders at its top are unpacked.

    Raises:
        DataError: For an archive that is broken, that holds nothing of this, or that has a member which would leave
            `folder` (an absolute path, "..", any link).
    """
    found = False
    try:
        for name, content in tqdm(members(archive), f"unpacking {archive.name}", unit=" files", delay=2):
            place = below(refuse_escape(name, archive), inside)
            if content is None or not place or (only and place[0] not in only):
                continue
            found = True
            path = folder.joinpath(*place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with content() as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)
    except (*BROKEN, OSError) as error:
        if getattr(error, "errno", None) in OF_THE_DISK:
            raise
        reason = getattr(error, "strerror", None) or str(error).partition(":")[0]
        raise DataError(f"{archive} is broken ({reason}): move it away and run the same command again") from error
    if not found:
        raise DataError(f"{archive} holds no files in {inside or 'it'}: its owner has changed it")


def members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Yield name and opener of each member of a zip or tar archive; the opener of a folder is None.

    Raises:
        DataError: For links and devices: no data set needs them.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(f"{archive} holds the link {info.filename}: it is not unpacked")
                content = None if info.is_dir() else (lambda info=info: opened.open(info))
                yield info.filename, content
    else:
        with tarfile.open(archive) as opened:
            for info in opened:
                if not info.isfile() and not info.isdir():
                    raise DataError(f"{archive} holds the link {info.name}: it is not unpacked")
                content = None if info.isdir() else (lambda info=info: opened.extractfile(info))
                yield info.name, content


def refuse_escape(name: str, archive: Path) -> list[str]:
    """Return the parts of a member's name.

    Raises:
        DataError: If it is absolute or climbs with "..".
    """
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ":" in parts[0] or ".." in parts:
        raise DataError(f"{archive} holds {name!r}, outside its folder: it is not unpacked")
    return [part for part in parts if part not in ("", ".")]


def below(parts: list[str], inside: str) -> list[str]:
    """Return what remains of `parts` below the folder `inside`; [] if they do not lie there."""
    prefix = [part for part in inside.split("/") if part]
    return parts[len(prefix) :] if parts[: len(prefix)] == prefix else []


def expect_files(folder: Path, pattern: str, count: int) -> None:
    """Raise DataError unless `folder` holds `count` files named by `pattern`."""
    found = len(list(folder.glob(pattern)))
    if found != count:
        raise DataError(
            f"{folder.name} should hold {count} files {pattern}, but the archive had {found}: its owner "
            "has changed it, or the download is broken"
        )


def already_there(target: Path) -> bool:
    """Return whether a set's folder exists; if so, say so."""
    if target.exists():
        print(f"{target} is there already")
    return target.exists()


def main(get: Callable[..., None], names: str = "") -> None:
    """Run the command line of a script: `--root FOLDER` (default: the course's data folder) and `--yes`.

    Where `get` takes names, any number of them follows; `names` explains which.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--root", type=Path, default=data_root(), help="the folder of all data sets")
    parser.add_argument("--yes", action="store_true", help="agree to the terms without being asked")
    if names:
        parser.add_argument("names", nargs="*", help=names)
    arguments = vars(parser.parse_args())
    try:
        get(arguments.pop("root"), **arguments)
    except DataError as error:
        sys.exit(str(error))
