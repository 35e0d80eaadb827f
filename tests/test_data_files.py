"""Data sets of files: what a sample is, and an error that names the file and the next step for each fault."""

import numpy as np
import pytest
import torch
from data_helpers import (
    camvid_mask,
    make_camvid,
    make_cityscapes,
    make_isbi_em,
    make_penn_fudan,
    make_voc,
    make_voc_animals,
    save_image,
    save_mask,
)
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from course_lib.data.camvid import PALETTE, CamVid, CamVidObjects
from course_lib.data.cityscapes import Cityscapes
from course_lib.data.images import component_boxes, read_image, resize_sample, translate
from course_lib.data.isbi_em import IsbiEM
from course_lib.data.penn_fudan import PennFudan
from course_lib.data.registry import check_dataset
from course_lib.data.sample import DataError, SegmentationDataset, make_sample
from course_lib.data.voc import VOC2012, read_boxes, train_f_w_names
from course_lib.data.voc_animals import VOCAnimals

MAKERS = {
    CamVid: make_camvid,
    CamVidObjects: make_camvid,
    VOC2012: make_voc,
    VOCAnimals: make_voc_animals,
    Cityscapes: make_cityscapes,
    IsbiEM: make_isbi_em,
    PennFudan: make_penn_fudan,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_set_keeps_the_contract(kind, tmp_path):
    MAKERS[kind](tmp_path)
    for split in kind.splits:
        dataset = kind(split, tmp_path)
        assert isinstance(dataset, SegmentationDataset)
        assert dataset.palette.shape == (len(dataset.classes), 3)
        assert dataset.palette.dtype == torch.uint8
        assert len(dataset) == len(dataset.names) > 0
        for sample in (dataset[index] for index in range(len(dataset))):
            assert isinstance(sample.image, tv_tensors.Image)
            assert sample.image.dtype == torch.uint8
            assert sample.labels.dtype == torch.int64
            assert sample.image.shape == (3, *sample.labels.shape)
            assert sample.boxes.shape == (len(sample.box_labels), 4)
            assert sample.boxes.canvas_size == tuple(sample.labels.shape)
            assert set(sample.labels.unique().tolist()) <= {*range(len(dataset.classes)), 255}
            for box, label in zip(sample.boxes.long().tolist(), sample.box_labels, strict=True):
                assert (sample.labels[box[1] : box[3], box[0] : box[2]] == label).any()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_sound_set_has_no_problems(kind, tmp_path):
    MAKERS[kind](tmp_path)
    name = {
        CamVid: "camvid",
        CamVidObjects: "camvid_objects",
        VOC2012: "voc",
        VOCAnimals: "voc_animals",
        IsbiEM: "isbi_em",
        Cityscapes: "cityscapes",
        PennFudan: "penn_fudan",
    }[kind]
    assert check_dataset(name, tmp_path, progress=False) == []


def test_camvid_reads_both_suffixes_and_turns_void_into_255(tmp_path):
    for suffix in (".png", ".jpg"):
        make_camvid(tmp_path / suffix, suffix=suffix)
        sample = CamVid("val", tmp_path / suffix)[1]
        expected = camvid_mask().astype(np.int64)
        expected[expected == 11] = 255
        assert (sample.labels.numpy() == expected).all()
        assert sample.name == "val_001"
        assert len(sample.boxes) == 0


def test_camvid_objects_boxes(tmp_path):
    make_camvid(tmp_path)
    dataset = CamVidObjects("train", tmp_path)
    sample = dataset[0]
    assert dataset.classes[0] == "background"
    assert dataset.background == 0
    boxes = {dataset.classes[label]: box for label, box in zip(sample.box_labels, sample.boxes.tolist(), strict=True)}
    assert boxes == {"Pole": [8, 4, 11, 16], "Car": [16, 12, 26, 20]}  # the speck has none
    assert (sample.labels[20:22, 12:14] == dataset.classes.index("Pedestrian")).all()
    assert (sample.labels[:, 0] == 255).all()
    assert sample.labels[0, 31] == 0  # sky is background


def test_component_boxes_join_corners_and_drop_specks():
    labels = torch.zeros(10, 10, dtype=torch.int64)
    labels[0:2, 0:2] = labels[2:4, 2:4] = 1  # touch at a corner: one region of 8 pixels
    labels[8, 8] = 1
    boxes, box_labels = component_boxes(labels, [1, 2], min_area=2)
    assert boxes.tolist() == [[0, 0, 4, 4]]
    assert box_labels.tolist() == [1]
    boxes, box_labels = component_boxes(labels, [2], min_area=2)
    assert boxes.shape == (0, 4)
    assert box_labels.shape == (0,)


# Machado, Oliveira, Fernandes 2009, severity 1: linear RGB as a dichromat sees it.
DICHROMACIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(linear: np.ndarray) -> np.ndarray:
    """(n, 3) linear sRGB -> CIELAB under D65."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), 841 / 108 * xyz + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("sight", DICHROMACIES)
def test_colour_blind_readers_tell_the_classes_of_camvid_apart(sight):
    srgb = PALETTE.numpy() / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = cielab(np.clip(linear @ np.transpose(DICHROMACIES[sight]), 0, 1))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[np.triu_indices(len(seen), 1)].min() > 19


def test_voc_boxes_count_from_zero_and_end_behind_the_last_pixel(tmp_path):
    make_voc(tmp_path)
    sample = VOC2012("train", tmp_path)[0]
    assert sample.boxes.tolist() == [[4, 2, 16, 12]]  # 5..16 and 3..12, counted from 1
    assert sample.box_labels.tolist() == [VOC2012.classes.index("dog")]
    rows, columns = torch.where(sample.labels == 12)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == sample.boxes[0].tolist()
    assert (sample.labels[12, 4:16] == 255).all()


def test_voc_train_aug_takes_each_mask_from_its_folder(tmp_path):
    voc = make_voc(tmp_path)
    dataset = VOC2012("train_aug", tmp_path)
    assert [pair.mask.parent.name for pair in dataset.pairs] == (
        ["SegmentationClass"] * 2 + ["SegmentationClassAug"] * 2
    )
    assert train_f_w_names(tmp_path) == (dataset.names[:2], dataset.names[2:])
    (voc / "SegmentationClassAug").rename(voc / "elsewhere")
    with pytest.raises(DataError, match=r'SegmentationClassAug is missing: run "course data get sbd"'):
        VOC2012("train_aug", tmp_path)
    assert len(VOC2012("train", tmp_path)) == 2  # needs no SBD
    (tmp_path / "voc_lists" / "train.txt").unlink()
    with pytest.raises(DataError, match=r"train\.txt cannot be read .*course data get sbd"):
        train_f_w_names(tmp_path)


def test_animals_are_numbered_anew_and_the_rest_is_background(tmp_path):
    folder = make_voc_animals(tmp_path)
    mask = folder / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000000.png"
    save_mask(mask, np.array([[0, 15, 12, 8], [10, 13, 17, 255]], np.uint8).repeat(12, 0).repeat(8, 1))
    sample = VOCAnimals("train", tmp_path)[0]
    assert sample.labels[::12, ::8].tolist() == [[0, 0, 3, 1], [2, 4, 5, 255]]
    assert sample.box_labels.tolist() == [VOCAnimals.classes.index("dog")]
    assert VOCAnimals.palette.tolist()[3] == VOC2012.palette.tolist()[12]


def test_animals_take_official_masks_where_there_are_any(tmp_path):
    folder = make_voc_animals(tmp_path, val=9)
    larger = VOCAnimals("train_aug", tmp_path)
    assert [pair.mask.parent.name for pair in larger.pairs] == ["SegmentationClass"] * 2 + ["SegmentationClassAug"] * 2
    assert VOCAnimals("val_quarter", tmp_path).names == ["2008_000000", "2008_000004", "2008_000008"]
    (folder / "lists" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt cannot be read .*course data check voc_animals"):
        VOCAnimals("train", tmp_path)
    (folder / "VOCdevkit" / "VOC2012" / "SegmentationClass").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="SegmentationClass is missing"):
        VOCAnimals("train", tmp_path)


def test_voc_faults_name_the_file(tmp_path):
    voc = make_voc(tmp_path)
    (voc / "SegmentationClass" / "2007_000001.png").unlink()
    with pytest.raises(DataError, match=r"2007_000001\.png is missing"):
        VOC2012("train", tmp_path)
    (voc / "Annotations" / "2008_000000.xml").unlink()
    with pytest.raises(DataError, match=r"2008_000000\.xml is missing; .*course data check voc"):
        VOC2012("val", tmp_path)[0]
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt is empty"):
        VOC2012("val", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "<annotation>",
        VOC2012.title,
        "<a><object><name>unicorn</name></object></a>",
        "<a><object><name>dog</name><bndbox><xmin>one</xmin></bndbox></object></a>",
    ],
)
def test_a_broken_annotation_is_named(text, tmp_path):
    path = tmp_path / "2007_000000.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"2007_000000\.xml is no VOC annotation"):
        read_boxes(path)


def test_cityscapes_maps_ids_and_boxes_instances_only(tmp_path):
    path = make_cityscapes(tmp_path)
    dataset = Cityscapes("val", tmp_path)
    sample = dataset[0]
    assert sample.name == "ulm_val_000019"
    assert sample.labels[0, 0] == 255  # "ground" is not evaluated
    assert sample.labels[23, 0] == dataset.classes.index("road")
    assert sample.boxes.tolist() == [[4, 8, 10, 12], [20, 8, 30, 14]]  # the group has none
    assert sample.box_labels.tolist() == [dataset.classes.index("car")] * 2
    next(path.glob("gtFine/val/*/*instanceIds.png")).unlink()
    with pytest.raises(DataError, match=r"ulm_val_000019_gtFine_instanceIds\.png is missing"):
        Cityscapes("val", tmp_path)


def test_cityscapes_ids_are_the_official_ones():
    from torchvision.datasets import Cityscapes as Reference

    official = {c.train_id: c for c in Reference.classes if 0 <= c.train_id < 255}
    assert len(Cityscapes.classes) == len(official) == 19
    for label, name in enumerate(Cityscapes.classes):
        assert official[label].name == name
        assert Cityscapes.values[official[label].id] == label
        assert tuple(Cityscapes.palette[label].tolist()) == official[label].color
    void = {c.id for c in Reference.classes if c.id >= 0 and not 0 <= c.train_id < 255}
    assert {file_id for file_id, label in Cityscapes.values.items() if label == 255} == void


def test_isbi_em_is_split_by_block_in_numeric_order(tmp_path):
    make_isbi_em(tmp_path)
    train, val = IsbiEM("train", tmp_path), IsbiEM("val", tmp_path)
    assert train.names == [str(number) for number in range(24)]
    assert val.names == [str(number) for number in range(24, 30)]
    sample = val[0]
    assert sample.image[:, 0, 0].tolist() == [24, 24, 24]
    assert IsbiEM.classes[sample.labels[8, 0]] == "membrane"
    assert IsbiEM.classes[sample.labels[0, 0]] == "cell"


def test_penn_fudan_splits_each_university_by_block(tmp_path):
    make_penn_fudan(tmp_path)
    train, val = PennFudan("train", tmp_path), PennFudan("val", tmp_path)
    assert len(train) == 8
    assert val.names == ["FudanPed00005", "PennPed00005"]
    sample = val[0]
    assert sample.boxes.tolist() == [[2, 4, 8, 20], [20, 6, 26, 20]]
    assert sample.labels.unique().tolist() == [0, 1]


# Faults


def test_a_missing_set_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r'CamVid is not in .*camvid: run "course data get camvid" \(about 200 MB\)'):
        CamVid("train", tmp_path)


def test_an_unknown_split_lists_the_known(tmp_path):
    make_camvid(tmp_path)
    with pytest.raises(DataError, match=r"no split \"trian\": use one of \['train', 'val', 'test'\]"):
        CamVid("trian", tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    path = make_camvid(tmp_path)
    (path / "val").rename(path / "wal")
    with pytest.raises(DataError, match=r"the folder .*camvid/val is missing; .*course data get camvid"):
        CamVid("val", tmp_path)


def test_an_empty_split_is_an_error(tmp_path):
    path = make_camvid(tmp_path)
    for folder in (path / "val", path / "valannot"):
        for file in folder.iterdir():
            file.unlink()
    with pytest.raises(DataError, match=r'the split "val" in .*camvid is empty'):
        CamVid("val", tmp_path)


def test_a_missing_mask_is_named(tmp_path):
    path = make_camvid(tmp_path)
    (path / "trainannot" / "train_001.png").unlink()
    with pytest.raises(DataError, match=r"train/train_001\.png has no mask: .*course data check camvid"):
        CamVid("train", tmp_path)


def test_an_extra_mask_is_named_and_the_rest_counted(tmp_path):
    path = make_camvid(tmp_path)
    (path / "train" / "train_001.png").unlink()
    (path / "train" / "train_002.png").unlink()
    with pytest.raises(DataError, match=r"train_001\.png is a mask without an image.*\(and 1 more problem\)"):
        CamVid("train", tmp_path)


def test_different_sizes_are_told(tmp_path):
    path = make_camvid(tmp_path)
    save_image(path / "train" / "train_000.png", 16, 32)
    with pytest.raises(DataError, match=r"train_000\.png is 16x32 pixels, but its mask .* is 24x32; "):
        CamVid("train", tmp_path)[0]


def test_a_strange_label_value_is_told(tmp_path):
    path = make_camvid(tmp_path)
    values = camvid_mask()
    values[3, 3] = 12
    save_mask(path / "trainannot" / "train_000.png", values)
    with pytest.raises(DataError, match=r"trainannot/train_000\.png holds the values \[12\]"):
        CamVid("train", tmp_path)[0]


@pytest.mark.parametrize("value", [-3, 11, 40000])
def test_no_value_outside_the_table_passes(value, tmp_path):
    values = np.array([[0, 1, value]])
    with pytest.raises(DataError, match=rf"holds the values \[{value}\]"):
        translate(values, {0: 0, 1: 1, 10: 255}, tmp_path / "mask.png")


def test_a_mask_of_colours_is_told(tmp_path):
    path = make_camvid(tmp_path)
    save_image(path / "trainannot" / "train_000.png")
    with pytest.raises(DataError, match=r"train_000\.png holds colours .*one number per pixel"):
        CamVid("train", tmp_path)[0]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_truncated_image_is_named(tmp_path):
    for suffix in (".png", ".jpg"):
        path = make_camvid(tmp_path / suffix, suffix=suffix)
        cut(path / "train" / f"train_000{suffix}")
        with pytest.raises(DataError, match=rf"train/train_000\{suffix} cannot be read .*course data get camvid"):
            CamVid("train", tmp_path / suffix)[0]


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = make_camvid(tmp_path)
    (path / "train" / "train_000.png").write_text("not an image")
    with pytest.raises(DataError, match=r"train_000\.png cannot be read"):
        CamVid("train", tmp_path)[0]


def test_check_reports_every_problem(tmp_path):
    path = make_camvid(tmp_path)
    (path / "trainannot" / "train_001.png").unlink()
    cut(path / "train" / "train_000.png")
    save_image(path / "val" / "val_000.png", 16, 16)
    values = camvid_mask()
    values[0, 5] = 200
    save_mask(path / "valannot" / "val_002.png", values)
    (path / "test").rename(path / "gone")
    problems = check_dataset("camvid", tmp_path, progress=False)
    expected = [
        "train_001.png has no mask",
        "train_000.png cannot be read",
        "val_000.png is 16x16",
        "val_002.png holds the values [200]",
        "camvid/test is missing",
    ]
    assert len(problems) == len(expected)
    for words in expected:
        assert sum(words in problem for problem in problems) == 1, words


def test_check_of_a_missing_set_says_how_to_get_it(tmp_path):
    (problem,) = check_dataset("camvid", tmp_path, progress=False)
    assert 'run "course data get camvid"' in problem


# Resizing


def test_resizing_agrees_with_pil(tmp_path):
    image = Image.open(save_image(tmp_path / "a.png", 40, 56))
    values = np.random.default_rng(0).integers(0, 11, (40, 56))
    sample = make_sample(
        read_image(tmp_path / "a.png"),
        torch.from_numpy(values),
        "a",
        torch.tensor([[7.0, 10, 28, 40]]),
        torch.tensor([1]),
    )
    for size in ((20, 28), (16, 24), (64, 48)):  # no pixel centre falls between two pixels
        resized = resize_sample(sample, size)
        pil = np.array(image.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resized.image.permute(1, 2, 0).numpy().astype(int) - pil).max() <= 1
        mask = Image.fromarray(values.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        assert (resized.labels.numpy() == np.array(mask)).all()
        assert resized.labels.dtype == torch.int64
        assert resized.boxes.canvas_size == size
        expected = torch.tensor([[7 / 56, 10 / 40, 28 / 56, 1]]) * torch.tensor([size[1], size[0]]).repeat(2)
        torch.testing.assert_close(resized.boxes.as_subclass(Tensor), expected)


def test_size_at_load(tmp_path):
    make_camvid(tmp_path)
    sample = CamVidObjects("train", tmp_path, size=(12, 16))[0]
    assert sample.image.shape == (3, 12, 16)
    assert sample.boxes.tolist() == [[4, 2, 5.5, 8], [8, 6, 13, 10]]
    with pytest.raises(DataError, match="size must be"):
        CamVid("train", tmp_path, size=(0, 16))
