"""A campaign of damaged files: each is refused by the library's own error that names the file, and is left as it was.

`pytest --full tests/test_bad_inputs.py` tries ten times as many; the last line of each test's output counts them.
"""

import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from data_helpers import VOC_XML
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from course_lib.cli.selection import Refusal, declared_parameters, parameters_of
from course_lib.data.images import read_image, read_values
from course_lib.data.sample import DataError
from course_lib.data.voc import read_boxes, read_names
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.records import RecordError, read_record
from course_lib.experiments.table import Table
from course_lib.models.imagenet import imagenet_weights
from course_lib.plumbing.checkpoint import CheckpointError, load_training, load_weights, save_training, save_weights
from course_lib.plumbing.paths import ROOT
from data_scripts.fetch import unpack

SEEN: Counter = Counter()


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """The bytes of a file, cut short, changed, emptied or lengthened somewhere."""
    place = draw(st.integers(0, len(whole)))
    some = draw(st.binary(min_size=1, max_size=24))
    match draw(st.sampled_from(["cut", "change", "empty", "insert", "remove", "repeat", "power cut", "other"])):
        case "cut":
            return whole[:place]
        case "change":
            return whole[:place] + some + whole[place + len(some) :]
        case "empty":
            return whole[:place] + bytes(len(some)) + whole[place + len(some) :]
        case "insert":
            return whole[:place] + some + whole[place:]
        case "remove":
            return whole[:place] + whole[place + len(some) :]
        case "repeat":
            return whole[:place] + whole
        case "power cut":  # the length is there, the last blocks never were written
            return whole[:place] + bytes(len(whole) - place)
    return some


def ends_well(path: Path, content: bytes, call, *errors: type[Exception]) -> None:
    """Call, which reads `path`: it returns, or raises one of `errors` naming the file; the file stays."""
    path.write_bytes(content)
    message = ""
    try:
        call(path)
    except errors as error:
        message = str(error) or repr(error)
    SEEN["refused" if message else "read"] += 1
    assert not message or path.name in message
    assert path.read_bytes() == content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield tmp_path_factory.mktemp("bad")
    print(f"{sum(SEEN.values())} bad inputs: {dict(SEEN)}")


def encoded(array: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


GREY = np.arange(48 * 48, dtype=np.uint8).reshape(48, 48) % 11
PICTURES = [
    *(encoded(GREY[..., None].repeat(3, 2) * 20, kind) for kind in ("PNG", "TIFF", "BMP", "WEBP")),
    encoded(GREY[..., None].repeat(3, 2) * 20, "JPEG", progressive=True),
]
MASKS = [encoded(GREY, kind) for kind in ("PNG", "TIFF", "BMP")] + [encoded(GREY.astype(np.uint16) * 1000, "PNG")]


@given(content=st.sampled_from(PICTURES).flatmap(damaged))
def test_pictures(folder, content):
    ends_well(folder / "a.png", content, read_image, DataError)


@given(content=st.sampled_from(MASKS).flatmap(damaged))
def test_masks(folder, content):
    ends_well(folder / "a.png", content, read_values, DataError)


@given(content=damaged("\n".join(f"2007_{number:06}" for number in range(40)).encode()))
def test_lists(folder, content):
    ends_well(folder / "train.txt", content, read_names, DataError)


@given(content=damaged(VOC_XML.encode()))
def test_annotations(folder, content):
    ends_well(folder / "2007_000001.xml", content, read_boxes, DataError)


@given(content=damaged((ROOT / "course_lib/experiments/tables/fcn_skips.toml").read_bytes()))
def test_tables(folder, content):
    ends_well(folder / "bad_table.toml", content, lambda _: Table.read("bad_table", folder), RecipeError)


RECORD = json.loads(next((ROOT / "results" / "fcn_skips").glob("*.json")).read_text(encoding="utf-8"))


@given(content=damaged(json.dumps(RECORD).encode()))
def test_records(folder, content):
    ends_well(folder / "run-laptop-seed0.json", content, read_record, RecordError)


def small_training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Conv2d(3, 2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


@given(data=st.data())
def test_checkpoints(folder, data):
    model, optimizer = small_training()
    path = folder / "state.safetensors"
    for old in folder.glob("*state.safetensors*"):
        old.unlink()
    save_training(path, model, optimizer, {"step": 1, "belongs_to": ""})
    save_training(path, model, optimizer, {"step": 2, "belongs_to": ""})
    whole = path.read_bytes()
    content = data.draw(damaged(whole))
    path.write_bytes(content)
    progress, message = {}, ""
    try:
        progress = load_training(path, *small_training())
    except CheckpointError as error:
        message = str(error)
    SEEN["refused" if message else "read"] += 1
    if message:
        assert path.name in message
    else:  # the one before, where the last is damaged in any bit
        assert progress["step"] == (2 if content == whole else 1)
    kept = [file.read_bytes() for file in folder.glob("*state.safetensors*")]
    assert content in kept  # set aside, not lost


@given(data=st.data())
def test_weights(folder, data):
    model = torch.nn.Conv2d(3, 2, 1)
    path = folder / "weights.safetensors"
    save_weights(path, model, about={"of": "a test"})
    weight = model.weight.detach().clone()
    content = data.draw(damaged(path.read_bytes()))
    ends_well(path, content, lambda _: load_weights(path, model), CheckpointError)
    assert torch.equal(model.weight, weight)  # read as it was, or not at all


CELL = new_code_cell('PROFILE = "quick"\nSIZE = (96, 128)\nRATE = 1e-3', metadata={"tags": ["parameters"]})
NOTEBOOK = nbformat.writes(new_notebook(cells=[CELL])).encode()


@given(content=damaged(NOTEBOOK))
def test_notebooks(folder, content):
    ends_well(folder / "05_bad.ipynb", content, declared_parameters, Refusal)


@given(name=st.sampled_from(["SIZE", "RATE", "OTHER"]), text=st.text(max_size=30))
def test_parameters(folder, name, text):
    path = folder / "05_good.ipynb"
    ends_well(path, NOTEBOOK, lambda _: parameters_of(path, "quick", {name: text}), Refusal)


NAMES = st.text(st.sampled_from("ab./\\: ~"), min_size=1, max_size=12)


@given(data=st.data(), names=st.lists(NAMES, min_size=1, max_size=3))
def test_archives(folder, data, names):
    place = folder / "unpacked" / "set"
    place.mkdir(parents=True, exist_ok=True)
    archive = folder / "archive"
    if data.draw(st.booleans()):
        with zipfile.ZipFile(archive, "w") as packed:
            for name in dict.fromkeys(names):
                packed.writestr(name, b"content")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size, info.type = (
                    7,
                    data.draw(st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])),
                )
                info.linkname = "../../outside"
                packed.addfile(info, io.BytesIO(b"content"))
    content = archive.read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    outside = sorted(path for path in folder.rglob("*") if place not in path.parents)
    ends_well(archive, content, lambda _: unpack(archive, place), DataError)
    assert sorted(path for path in folder.rglob("*") if place not in path.parents) == outside


class Opened:
    """What a pickle does where it is opened."""

    def __reduce__(self):
        return Path.write_text, (Path("opened"), "x")


def test_no_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, optimizer = small_training()
    torch.save({"weight": Opened()}, tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(tmp_path / "state.safetensors", model)
    assert load_training(tmp_path / "state.safetensors", model, optimizer) is None
    (tmp_path / "weights").mkdir()
    torch.save({"weight": Opened()}, tmp_path / "weights" / "vgg16-1.pth")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"vgg16-1\.pth is damaged .*move it away"):
        imagenet_weights("vgg16")
    assert not (tmp_path / "opened").exists()
    sources = [path for home in ("course_lib", "data_scripts") for path in (ROOT / home).rglob("*.py")]
    opens = [path.name for path in sources if "pickle" in path.read_text(encoding="utf-8")]
    lines = [line for path in sources for line in path.read_text(encoding="utf-8").splitlines()]
    loads = [line for line in lines if "torch.load(" in line and "weights_only=True" not in line]
    assert (opens, loads) == ([], [])
