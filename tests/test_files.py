"""Atomic files: the old version or the new one, never half of each."""

import os
import stat
import sys

import pytest

from course_lib.plumbing.files import atomic_write, write_text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.json"


def test_a_new_file_and_its_folder_are_made(tmp_path):
    path = tmp_path / "new" / "deeper" / "note.txt"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]


def test_the_old_file_stands_until_the_block_has_ended(path):
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename works within one file system only
        assert temporary.name.startswith(".record.json.")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(path, error, existing):
    if existing:
        write_text(path, "old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert [file.name for file in path.parent.iterdir()] == ["record.json"] * existing
    assert not existing or path.read_text() == "old"


def test_an_error_on_replacing_leaves_nothing_behind(path, monkeypatch):
    write_text(path, "old")

    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert [file.read_text() for file in path.parent.iterdir()] == ["old"]


def test_two_writers_do_not_share_a_temporary_file(path):
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the one that ended last
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits are POSIX's")
@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_permissions_are_those_of_an_ordinary_new_file(path, mask, expected):
    before = os.umask(mask)
    try:
        write_text(path, "for others to read")
        assert os.umask(mask) == mask  # and the mask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == expected
