"""The real data sets, where they are: other readers, published facts, boxes against masks."""

import numpy as np
import pytest
import torch
from data_helpers import needs_dataset
from PIL import Image
from torchvision.datasets import VOCSegmentation

from course_lib.data.camvid import CamVid, CamVidObjects
from course_lib.data.isbi_em import IsbiEM
from course_lib.data.penn_fudan import PennFudan
from course_lib.data.voc import VOC2012, read_names, train_f_w_names
from course_lib.data.voc_animals import VOCAnimals
from course_lib.plumbing.paths import data_root


def box_iou_with_mask(sample, index):
    """IoU of a box with the tight box of its class's pixels inside it."""
    x1, y1, x2, y2 = sample.boxes[index].round().long().tolist()
    inside = sample.labels.numpy()[y1:y2, x1:x2] == int(sample.box_labels[index])
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return 0.0
    return (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / inside.size


@needs_dataset("camvid")
def test_camvid_has_the_published_counts():
    assert len(CamVid("train")) == 367
    assert len(CamVid("val")) == 101
    assert not set(CamVid("train").names) & set(CamVid("val").names)


@needs_dataset("camvid")
def test_camvid_frequencies_are_those_of_streets():
    dataset = CamVid("train")
    counts = torch.zeros(256)
    for index in range(0, len(dataset), 12):
        sample = dataset[index]
        assert sample.image.shape == (3, 360, 480)
        counts += torch.bincount(sample.labels.flatten(), minlength=256)
    assert counts[11:255].sum() == 0
    share = dict(zip(dataset.classes, (counts[:11] / counts[:11].sum()).tolist(), strict=True))
    assert all(value > 0 for value in share.values())
    assert 0 < counts[255] / counts.sum() < 0.1
    for common in ("Road", "Building", "Sky"):
        assert 0.1 < share[common] < 0.5
    for rare in ("Pole", "SignSymbol", "Pedestrian", "Bicyclist"):
        assert share[rare] < 0.03


@needs_dataset("camvid")
def test_camvid_sky_is_up_and_road_is_down():
    sample = CamVid("train")[0]
    rows = torch.arange(360.0)[:, None].expand(360, 480)
    assert rows[sample.labels == 0].mean() < 150
    assert rows[sample.labels == 3].mean() > 220


@needs_dataset("camvid")
def test_camvid_boxes_are_tight_and_no_specks():
    dataset, plain = CamVidObjects("val"), CamVid("val")
    areas = []
    for index in range(0, 101, 10):
        sample, full = dataset[index], plain[index]
        assert 3 <= len(sample.boxes) <= 80
        assert (sample.image == full.image).all()
        assert ((sample.labels == 255) == (full.labels == 255)).all()
        for box in range(len(sample.boxes)):
            assert box_iou_with_mask(sample, box) == 1
            x1, y1, x2, y2 = sample.boxes[box].long().tolist()
            areas.append(int((sample.labels[y1:y2, x1:x2] == sample.box_labels[box]).sum()))
    assert min(areas) >= CamVidObjects.min_area


@needs_dataset("voc")
@pytest.mark.parametrize("split", ["train", "val"])
def test_voc_agrees_with_torchvision(split, full):
    ours = VOC2012(split)
    theirs = VOCSegmentation(data_root() / "voc", image_set=split, download=False)
    assert len(ours) == len(theirs)
    for index in range(0, len(ours), 5 if full else 20):
        image, mask = theirs[index]
        sample = ours[index]
        assert (sample.image.permute(1, 2, 0).numpy() == np.array(image)).all()
        assert (sample.labels.numpy() == np.array(mask)).all()


@needs_dataset("voc")
def test_voc_colours_are_those_of_the_files():
    dataset = VOC2012("train")
    with Image.open(dataset.pairs[0].mask) as mask:
        palette = np.array(mask.getpalette()).reshape(-1, 3)
    assert (dataset.palette.numpy() == palette[:21]).all()


@needs_dataset("voc")
def test_voc_boxes_fit_the_masks(full):
    dataset = VOC2012("trainval")
    fits, total = 0, 0
    for index in range(0, len(dataset), 1 if full else 5):
        sample = dataset[index]
        height, width = sample.labels.shape
        assert (sample.boxes[:, :2] >= 0).all()
        assert (sample.boxes[:, 2] <= width).all()
        assert (sample.boxes[:, 3] <= height).all()
        assert set(sample.box_labels.tolist()) >= set(np.unique(sample.labels).tolist()) - {0, 255}
        fits += sum(box_iou_with_mask(sample, box) > 0.7 for box in range(len(sample.boxes)))
        total += len(sample.boxes)
    assert fits / total > 0.9


@pytest.mark.skipif(not (data_root() / "voc_lists").is_dir(), reason='no VOC lists: run "course data get sbd"')
def test_f_and_w_have_the_published_sizes():
    f, w = train_f_w_names()
    val = set((data_root() / "voc_lists" / "val.txt").read_text().split())
    assert (len(f), len(w), len(val)) == (1464, 9118, 1449)
    assert len({*f, *w, *val}) == 10582 + 1449


@needs_dataset("voc_animals")
def test_animals_are_pictures_of_vocs_own_splits_and_all_have_boxes(full):
    for split, count in {"train": 437, "val": 445, "train_aug": 3131, "val_quarter": 112}.items():
        dataset = VOCAnimals(split)
        assert len(dataset) == count
        lists = data_root() / "voc_lists" / f"{split.removesuffix('_quarter')}.txt"
        if lists.exists():
            assert {*dataset.names} <= {*read_names(lists)}
        inside, total = 0, 0
        for index in range(0, count, 1 if full else 20):
            sample = dataset[index]
            assert max(sample.labels.shape) == 320
            assert len(sample.boxes)
            in_a_box = torch.zeros(sample.labels.shape, dtype=torch.bool)
            for x1, y1, x2, y2 in sample.boxes.long().tolist():
                in_a_box[y1:y2, x1:x2] = True
            animal = (sample.labels > 0) & (sample.labels != 255)
            inside, total = inside + int((animal & in_a_box).sum()), total + int(animal.sum())
        assert inside / total > 0.97


@needs_dataset("isbi_em")
def test_isbi_em_membranes_are_dark():
    train, val = IsbiEM("train"), IsbiEM("val")
    assert (len(train), len(val)) == (24, 6)
    sample = val[0]
    assert sample.image.shape == (3, 512, 512)
    assert (sample.image[0] == sample.image[2]).all()
    grey = sample.image[0].float()
    assert grey[sample.labels == 0].mean() + 30 < grey[sample.labels == 1].mean()
    assert 0.1 < (sample.labels == 0).float().mean() < 0.35


@needs_dataset("penn_fudan")
def test_penn_fudan_boxes_are_those_of_the_annotation():
    train, val = PennFudan("train"), PennFudan("val")
    assert len(train) + len(val) == 170
    sample = train[0]
    assert sample.name == "FudanPed00001"
    written = [[159, 180, 301, 430], [419, 170, 534, 485]]  # (160, 182) - (302, 431), ... from 1
    assert (sample.boxes - torch.tensor(written)).abs().max() <= 2
    people = sum(len(np.unique(Image.open(pair.mask))) - 1 for pair in train.pairs + val.pairs)
    assert people == 423
