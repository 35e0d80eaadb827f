"""Splits, subsets, the cache, and data sets by name."""

import psutil
import pytest
import torch
from data_helpers import make_camvid

from course_lib.data.cache import Cached, memory_needed
from course_lib.data.camvid import CamVid, CamVidObjects
from course_lib.data.registry import DATASETS, check_dataset, dataset_info, open_dataset
from course_lib.data.sample import DataError, SegmentationDataset
from course_lib.data.splits import Subset, split_f_w
from course_lib.plumbing.paths import DECODED


def equal(one, other):
    return one.name == other.name and all(
        a.dtype == b.dtype and (a == b).all() for a, b in zip(one[:4], other[:4], strict=True)
    )


# F and W


def test_f_and_w_are_a_partition():
    for size in (0, 1, 37, 100):
        f, w = split_f_w(100, size, seed=3)
        assert len(f) == size
        assert sorted(f + w) == list(range(100))
        assert f == sorted(f)
        assert w == sorted(w)


def test_f_is_nested_by_size_and_changes_with_the_seed():
    small, large = (set(split_f_w(367, size, seed=1)[0]) for size in (25, 50))
    assert small < large
    assert split_f_w(367, 25, seed=1) == split_f_w(367, 25, seed=1)
    other = set(split_f_w(367, 25, seed=2)[0])
    assert other != small
    assert len(other & small) < 10  # 1.7 expected


def test_f_is_the_same_on_every_machine():
    assert split_f_w(20, 5, seed=0)[0] == [4, 7, 9, 15, 18]


def test_f_by_name_does_not_depend_on_the_order():
    names = [f"frame_{number}" for number in range(50)]
    f, _ = split_f_w(names, 10, seed=0)
    backwards, _ = split_f_w(names[::-1], 10, seed=0)
    assert {names[index] for index in f} == {names[::-1][index] for index in backwards}


@pytest.mark.parametrize("size", [-1, 11])
def test_f_of_an_impossible_size(size):
    with pytest.raises(ValueError, match=f"F cannot have {size} of 10 images"):
        split_f_w(10, size, seed=0)


def test_subset(tmp_path):
    make_camvid(tmp_path, frames=5)
    dataset = CamVidObjects("train", tmp_path)
    subset = Subset(dataset, [4, 0])
    assert isinstance(subset, SegmentationDataset)
    assert (subset.classes, subset.background) == (dataset.classes, 0)
    assert subset.palette is dataset.palette
    assert [sample.name for sample in (subset[0], subset[1])] == ["train_004", "train_000"]
    assert [sample.name for sample in subset] == ["train_004", "train_000"]
    for index in (5, -1):
        with pytest.raises(IndexError, match=f"no image {index} in a set of 5"):
            Subset(dataset, [index])


# The cache


def test_a_cached_set_is_the_set(tmp_path):
    make_camvid(tmp_path, frames=5)
    dataset = CamVidObjects("train", tmp_path)
    cached = Cached(dataset, progress=False)
    assert isinstance(cached, SegmentationDataset)
    assert (cached.classes, cached.background) == (dataset.classes, 0)
    assert len(cached) == 5
    for index in range(5):
        assert equal(cached[index], dataset[index])
    assert cached[0].boxes.canvas_size == (24, 32)


def test_the_cache_reads_every_file_once(tmp_path):
    path = make_camvid(tmp_path)
    cached = Cached(CamVid("train", tmp_path), progress=False)
    for file in (path / "train").iterdir():
        file.unlink()
    assert [sample.name for sample in cached] == ["train_000", "train_001", "train_002"]


def test_what_is_written_into_a_sample_does_not_stay(tmp_path):
    make_camvid(tmp_path)
    dataset = CamVidObjects("train", tmp_path)
    cached = Cached(dataset, progress=False)
    for part in cached[0][:4]:
        part.fill_(77)
    assert equal(cached[0], dataset[0])


def test_processes_side_by_side_decode_a_set_once(tmp_path, monkeypatch):
    """The second one reads what the first has decoded; another size is another set, and nothing written comes back."""
    path = make_camvid(tmp_path)
    options = {"size": (16, 24), "root": tmp_path}
    expected = list(open_dataset("camvid_objects", "train", **options))
    monkeypatch.setenv(DECODED, str(tmp_path / "decoded"))
    first = open_dataset("camvid_objects", "train", **options)
    for file in (path / "train").iterdir():
        file.write_bytes(b"")
    second = open_dataset("camvid_objects", "train", **options)
    second[0].image.fill_(7)
    for found in (first, second):
        assert all(equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset("camvid_objects", "train", root=tmp_path, size=(32, 48))
    with pytest.raises(DataError, match="cannot be read"):
        Cached(CamVidObjects("train", tmp_path), progress=False)  # a set that says nothing of itself is not shared


def test_without_room_for_what_is_decoded_each_process_decodes(tmp_path, monkeypatch):
    make_camvid(tmp_path)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(DECODED, str(tmp_path / "file" / "decoded"))
    assert len(open_dataset("camvid", "train", root=tmp_path)) == 3


def test_the_cache_passes_errors_on(tmp_path):
    path = make_camvid(tmp_path)
    (path / "train" / "train_001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train_001\.png cannot be read"):
        Cached(CamVid("train", tmp_path), progress=False)


@pytest.mark.parametrize("value", [-1, -100, 256, 300])
def test_the_cache_refuses_labels_that_are_no_bytes(value, tmp_path):
    make_camvid(tmp_path)

    class Strange(CamVid):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample._replace(labels=sample.labels.clone().index_fill_(0, torch.tensor([0]), value))

    with pytest.raises(DataError, match=rf"train_00\d has labels from .*{value}.*255 for void"):
        Cached(Strange("train", tmp_path), progress=False)


def test_the_cache_refuses_what_does_not_fit(tmp_path, monkeypatch):
    make_camvid(tmp_path)
    dataset = CamVid("train", tmp_path)
    needed = memory_needed(dataset)
    assert needed == 3 * 24 * 32 * 4  # 3 pictures, 3 + 1 bytes a pixel

    def free(size):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": size}))

    free(2 * needed)
    assert len(Cached(dataset, progress=False)) == 3
    free(2 * needed - 1)
    with pytest.raises(DataError, match=r"more than half of the .* GiB free: .*cache=False"):
        Cached(dataset, progress=False)


# By name


def test_the_registry_is_complete():
    assert {"street", "objects", "camvid", "camvid_objects", "voc", "cityscapes"} <= set(DATASETS)
    for name, info in DATASETS.items():
        assert info.name == name
        assert all((info.title, info.what, info.splits, info.size_on_disk, info.licence))
        assert bool(info.folder) == bool(info.files)
        assert {"train", "val"} <= set(info.splits)


def test_every_command_that_the_registry_names_can_be_run():
    from data_scripts import SCRIPTS

    for info in DATASETS.values():
        if info.get:
            assert info.get.removeprefix("course data get ") in SCRIPTS


def test_present(tmp_path):
    assert dataset_info("street").present(tmp_path)
    assert not dataset_info("camvid").present(tmp_path)
    make_camvid(tmp_path)
    assert dataset_info("camvid").present(tmp_path)


def test_open_files_by_name(tmp_path):
    make_camvid(tmp_path)
    opened = open_dataset("camvid", "val", size=(12, 16), root=tmp_path)
    assert isinstance(opened, Cached)
    assert opened[0].labels.shape == (12, 16)
    assert isinstance(open_dataset("camvid", "val", cache=False, root=tmp_path), CamVid)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(DataError, match=r"no data set 'camvit' \(did you mean 'camvid'\?\): .*street"):
        open_dataset("camvit", "train")


@pytest.mark.parametrize("name", ["street", "street_objects", "street_stuff", "objects", "surroundings", "cells"])
def test_generated_sets(name):
    pytest.importorskip("course_lib.data.scenes")
    train, val = (open_dataset(name, split, size=(32, 48), length=4, seed=5) for split in ("train", "val"))
    again = open_dataset(name, "train", size=(32, 48), length=4, seed=5, cache=False)
    far = open_dataset(name, "train", size=(32, 48), length=4, seed=1_000_005, cache=False)
    assert isinstance(train, SegmentationDataset)
    assert len(train) == len(val) == 4
    assert train[0].labels.shape == (32, 48)
    assert equal(train[1], again[1])
    assert (val[1].image == far[1].image).all()
    assert (train[1].image != val[1].image).any()
    assert check_dataset(name) == []
    with pytest.raises(DataError, match=r"no split \"test\": use one of \['train', 'val'\]"):
        open_dataset(name, "test")


def test_knobs_reach_the_generator():
    pytest.importorskip("course_lib.data.scenes")
    with pytest.raises(TypeError, match="no_such_knob"):
        open_dataset("street", "train", no_such_knob=1)
    quiet, noisy = (
        open_dataset("street", "train", size=(32, 48), length=1, noise=noise)[0].image.float() for noise in (0.0, 0.2)
    )
    assert torch.std(noisy - quiet) > 20
