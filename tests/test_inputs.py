"""Pictures, masks, lists and folders as people bring them: read right, or refused in words that name the file."""

import os
import shutil
import struct
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from data_helpers import camvid_mask, make_camvid, make_cityscapes, make_voc, save_image, save_mask
from PIL import Image
from typer.testing import CliRunner

import data_scripts
from course_lib.cli import app
from course_lib.data import registry
from course_lib.data.camvid import CamVid
from course_lib.data.cityscapes import Cityscapes
from course_lib.data.images import Pictures, pair_folders, read_image, read_values
from course_lib.data.sample import IGNORE, DataError
from course_lib.data.voc import VOC2012
from data_scripts import camvid

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


def png(path, bits, kind, rows):
    """A PNG of any depth, by hand: `rows` (H, W * channels) are packed bytes or big-endian numbers."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    height, width = len(rows), rows.shape[1] * rows.itemsize * 8 // bits // channels
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


# Pictures


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_picture_is_turned_as_its_tag_says(tag, tmp_path):
    turn = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[tag]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = Image.fromarray(np.ascontiguousarray(turn(COLOUR)))
    stored.save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png").permute(1, 2, 0).numpy() == COLOUR).all()
    Image.fromarray(np.ascontiguousarray(turn(GREY))).save(tmp_path / "m.png", exif=exif)
    assert (read_values(tmp_path / "m.png") == GREY).all()


def saved(kind, folder):
    """Return a picture file of the kind, and the pixels it should be read as; None where it is to be refused."""
    image, grey = Image.fromarray(COLOUR), Image.fromarray(GREY)
    path = folder / f"{kind.partition(' ')[0]}.png"
    in_three = GREY[..., None].repeat(3, 2)
    match kind:
        case "grey":
            grey.save(path)
            return path, in_three
        case "one_bit":
            grey.convert("1").save(path)
            return path, np.asarray(grey.convert("1"))[..., None].repeat(3, 2) * 255
        case "grey_alpha" | "grey_transparent":
            both = grey.copy()
            both.putalpha(255 if kind == "grey_alpha" else 200)
            both.save(path)
            return path, in_three if kind == "grey_alpha" else None
        case "alpha" | "transparent":
            image.putalpha(255)
            if kind == "transparent":
                image.putpixel((3, 3), (1, 2, 3, 0))
            image.save(path)
            return path, COLOUR if kind == "alpha" else None
        case "palette" | "palette_transparent" | "palette_transparent_unused":
            few = Image.fromarray(GREY // 60)
            few.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, 7, 7, 7])
            index = {"palette": None, "palette_transparent": 1, "palette_transparent_unused": 4}[kind]
            few.save(path, **({} if index is None else {"transparency": index}))
            return path, None if kind == "palette_transparent" else np.asarray(few.convert("RGB"))
        case "colour_key":
            image.save(path, transparency=tuple(COLOUR[0, 0].tolist()))
            return path, None
        case "grey16" | "colour16":
            rows = np.linspace(200, 4095, 48).reshape(6, 8).astype(">u2")
            return png(path, 16, 0, rows) if kind == "grey16" else png(path, 16, 2, rows.repeat(3, 1)), None
        case "float" | "int32":
            path = path.with_suffix(".tif")
            Image.fromarray(GREY.astype({"float": np.float32, "int32": np.int32}[kind])).save(path)
            return path, None
        case "cmyk":
            path = path.with_suffix(".tif")
            image.convert("CMYK").save(path)
            return path, COLOUR
        case "pages":
            path = path.with_suffix(".tif")
            image.save(path, save_all=True, append_images=[image])
            return path, None
        case "progressive":
            path = path.with_suffix(".jpg")
            image.save(path, progressive=True, quality=90)
            return path, np.asarray(Image.open(path))
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("grey", "one_bit", "grey_alpha", "alpha", "palette", "palette_transparent_unused", "cmyk", "progressive"),
        *("grey_transparent", "transparent", "palette_transparent", "colour_key", "grey16", "colour16", "float"),
        *("int32", "pages"),
    ],
)
def test_a_picture_of_any_kind_is_read_right_or_refused_by_name(kind, tmp_path):
    path, pixels = saved(kind, tmp_path)
    if pixels is None:
        with pytest.raises(DataError, match=rf"{path.name} .*(save|lay)"):
            read_image(path)
    else:
        assert (read_image(path).permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("fill", [False, True])
def test_a_cut_jpeg_is_refused_also_where_its_room_was_reserved(part, fill, progressive, tmp_path):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, progressive=progressive)
    data = path.read_bytes()
    kept = data[: int(part * len(data))]
    path.write_bytes(kept + bytes(len(data) - len(kept)) * fill)
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        read_image(path)


def test_a_link_to_nothing_says_where_it_leads(tmp_path):
    (tmp_path / "a.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"a\.png is missing; it is a link to gone\.png"):
        read_image(tmp_path / "a.png")


# Masks


def test_masks_of_few_bits_hold_their_numbers(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "one.png")
    assert (read_values(tmp_path / "one.png") == (GREY > 100)).all()
    packed = np.array([[0b00011011, 0b11100100]], np.uint8)
    assert read_values(png(tmp_path / "two.png", 2, 0, packed)).tolist() == [[0, 1, 2, 3, 3, 2, 1, 0]]
    packed = np.array([[0x0A, 0x5F]], np.uint8)
    assert read_values(png(tmp_path / "four.png", 4, 0, packed)).tolist() == [[0, 10, 5, 15]]
    wide = np.array([[0, 26001]], ">u2")
    assert read_values(png(tmp_path / "sixteen.png", 16, 0, wide)).tolist() == [[0, 26001]]


@pytest.mark.parametrize("kind", ["jpeg", "float", "colours", "alpha"])
def test_a_mask_that_is_no_map_of_numbers_is_refused(kind, tmp_path):
    path = tmp_path / "m.tif"
    values = Image.fromarray(GREY)
    if kind == "alpha":
        values.putalpha(255)
    picture = {"float": Image.fromarray(GREY.astype(np.float32)), "colours": Image.fromarray(COLOUR)}.get(kind, values)
    picture.save(path, "JPEG" if kind == "jpeg" else "TIFF")
    words = {"jpeg": "with a loss", "float": "fractions"}.get(kind, "course data convert NAME FOLDER")
    with pytest.raises(DataError, match=rf"m\.tif .*{words}"):
        read_values(path)


def test_a_loss_hidden_in_a_tiff_is_seen(tmp_path):
    Image.fromarray(GREY % 7).save(tmp_path / "m.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"m\.tif .*with a loss"):
        read_values(tmp_path / "m.tif")
    for name, options in (("m.tif", {"compression": "tiff_lzw"}), ("m.bmp", {})):
        Image.fromarray(GREY % 7).save(tmp_path / name, **options)
        assert (read_values(tmp_path / name) == GREY % 7).all()


class Roofs(Pictures):
    """A set of one's own, as the README says it."""

    title, folder, get, size_on_disk = "Roofs", "roofs", "course data get roofs", "drawn by hand"
    splits, classes = ("train", "val"), ("ground", "roof")
    palette, background = torch.tensor([[0, 0, 0], [255, 0, 0]], dtype=torch.uint8), 0
    values = {0: 0, 1: 1, IGNORE: IGNORE}  # noqa: RUF012
    void_colours = ((255, 255, 255),)

    def find(self, path, split):
        return pair_folders(path / split, path / f"{split}annot")


@pytest.fixture
def roofs(data_dir, monkeypatch):
    """Return what writes a picture and its mask into both splits."""
    monkeypatch.setitem(registry.DATASETS, "roofs", registry.of_files("roofs", Roofs, "my roofs", "mine"))

    def write(name, values, bright=200):
        for split in ("train", "val"):
            (data_dir / "roofs" / split).mkdir(parents=True, exist_ok=True)
            picture = np.full((*values.shape[:2], 3), bright, np.uint8)
            Image.fromarray(picture).save(data_dir / "roofs" / split / f"{name}.png")
            save_mask(data_dir / "roofs" / f"{split}annot" / f"{name}.png", values, palette=False)

    return write


def check(name):
    done = CliRunner().invoke(app, ["data", "check", name])
    return done.exit_code, done.output


def mask(value):
    values = np.zeros((24, 32), np.uint8)
    values[4:12, 4:12] = value
    return values


def test_a_check_says_what_each_split_holds(roofs):
    roofs("a", mask(1))
    code, output = check("roofs")
    assert code == 0
    assert "train: 1 image, void 0.0%; ground 91.7%, roof 8.3%" in output
    assert "val: 1 image," in output
    assert output.endswith("Roofs: good\n")


def test_an_object_that_is_void_is_a_problem(roofs):
    roofs("a", mask(255))
    code, output = check("roofs")
    assert code == 1
    assert "train: no pixel of roof" in output
    assert "every pixel that counts is ground, and 8.3% of all are void (255): if these are roof, map" in output
    assert "course data get" not in output


def test_a_check_names_what_may_be_a_mistake(roofs):
    roofs("a", mask(1))
    roofs("empty", np.full((24, 32), 255, np.uint8))
    roofs("dark", mask(1), bright=1)
    code, output = check("roofs")
    assert code == 0
    assert "train: every pixel is void in empty" in output
    assert "train: no value above 1, black, in dark" in output


@pytest.mark.parametrize(("smooth", "found"), [(Image.Resampling.BILINEAR, True), (Image.Resampling.NEAREST, False)])
def test_a_check_sees_masks_that_were_smoothed(smooth, found, data_dir):
    path = make_camvid(data_dir)
    for file in path.glob("*annot/*.png"):
        values = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 8, np.ones((12, 12), np.uint8)))
        save_mask(file, np.asarray(values.resize((64, 64), smooth)))
        save_image(path / file.parent.name.removesuffix("annot") / file.name, 64, 64)
    assert ("resized with smoothing" in check("camvid")[1]) == found
    values = np.asarray(Image.fromarray(mask(255)).resize((48, 36), Image.Resampling.BICUBIC))
    save_mask(path / "valannot" / "val_000.png", values)
    assert ("more: has it been resized with smoothing" in check("camvid")[1]) == (len(np.unique(values)) > 9)


def test_masks_of_colours_are_converted_beside_the_set(roofs, data_dir, tmp_path):
    roofs("a", mask(1))
    for split in ("train", "val"):
        colours = np.zeros((24, 32, 3), np.uint8)
        colours[2:4], colours[8:] = (255, 0, 0), 255
        Image.fromarray(colours).save(data_dir / "roofs" / f"{split}annot" / "a.png")
    for split in ("train", "val"):
        shutil.copy(data_dir / "roofs" / split / "a.png", data_dir / "roofs" / split / "b.png")
        save_mask(data_dir / "roofs" / f"{split}annot" / "b.png", mask(1))  # holds numbers: they stay
    before = (data_dir / "roofs" / "trainannot" / "a.png").read_bytes()
    code, output = check("roofs")
    assert code == 1
    assert "course data convert NAME FOLDER" in output
    done = CliRunner().invoke(app, ["data", "convert", "roofs", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    values = read_values(tmp_path / "new" / "trainannot" / "a.png")
    assert (values[2:4] == 1).all()
    assert (values[8:] == 255).all()
    assert (read_values(tmp_path / "new" / "trainannot" / "b.png") == mask(1)).all()
    assert (data_dir / "roofs" / "trainannot" / "a.png").read_bytes() == before
    again = CliRunner().invoke(app, ["data", "convert", "roofs", str(tmp_path / "new")])
    assert again.exit_code == 1
    assert "is not empty" in again.output
    colours[0, 0] = 1, 2, 3
    Image.fromarray(colours).save(data_dir / "roofs" / "valannot" / "a.png")
    strange = CliRunner().invoke(app, ["data", "convert", "roofs", str(tmp_path / "other")])
    assert "valannot/a.png holds the colours [(1, 2, 3)]" in strange.output


def test_a_grey_mask_that_a_program_gave_a_palette_is_refused(tmp_path):
    values = np.zeros((6, 8), np.uint8)
    values[2:], values[4:] = 3, 255
    greys = np.unique(values)
    for palette, read in ((np.arange(256), True), (greys, False), (np.array([0, 128, 192]), False)):
        mask = Image.fromarray(values if read else np.searchsorted(greys, values).astype(np.uint8))
        mask.putpalette(np.repeat(palette, 3).astype(np.uint8).tobytes())
        mask.save(tmp_path / "m.png")
        if read:
            assert (read_values(tmp_path / "m.png") == values).all()
        else:
            with pytest.raises(DataError, match=r"m.png has a palette of greys that are not its numbers.*plain grey"):
                read_values(tmp_path / "m.png")


def test_a_palette_in_another_order_is_seen_and_converted(data_dir, tmp_path):
    make_voc(data_dir)
    dog, cow = 12, 10
    values = np.zeros((24, 32), np.uint8)
    values[4:9], values[12:20], values[22:] = cow, dog, 255
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(VOC2012.palette)], colours[255] = VOC2012.palette, VOC2012.void_colours[0]
    path = VOC2012("train", data_dir).pairs[0].mask
    for order in (np.arange(256), np.array([0, cow, dog, 255])):  # the second as programs write that save bytes
        mask = Image.fromarray(np.searchsorted(order, values).astype(np.uint8))
        mask.putpalette(colours[order].tobytes())
        mask.save(path)
        if len(order) == 256:
            assert (VOC2012("train", data_dir)[0].labels.numpy() == values).all()
    with pytest.raises(DataError, match=rf"{path.name} has a palette .* another order.*course data convert"):
        VOC2012("train", data_dir)[0]
    done = CliRunner().invoke(app, ["data", "convert", "voc", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert (read_values(next((tmp_path / "new").rglob(path.name))) == values).all()


@pytest.mark.parametrize("size", [96, "ab", (9.5, 8.0), (9, 8, 7), (0, 8), np.array([9, 8])])
def test_a_size_that_is_none_is_refused(size, tmp_path):
    make_camvid(tmp_path)
    with pytest.raises(DataError, match=r"size must be \(height, width\)"):
        CamVid("train", tmp_path, size=size)


# Lists


@pytest.mark.parametrize("text", ["\ufeff{}\n{}\n", "{}\r\n\r\n{}\r\n\r\n", "\n  {}  \n{}", "{}\n{}"])
def test_lists_of_other_editors_are_read(text, tmp_path):
    voc = make_voc(tmp_path)
    content = text.format("2007_000000", "2007_000001").encode()
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_bytes(content)
    assert VOC2012("train", tmp_path).names == ["2007_000000", "2007_000001"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\n/JPEGImages/2007_000000.jpg /SegmentationClass/2007_000000.png\n", r"line 2: .* is no name"),
        (b"2007_000000  1\n2007_000001 -1\n", r"line 1: '2007_000000  1' is no name"),
        (b"2007_000000\n2007_000001.jpg\n", r"line 2: .*without folder and suffix"),
        (b"2007_000000\n../../x\n", r"line 2: .* is no name"),
        (b"2007_000000\n\n2007_000000\n", r"line 3: '2007_000000' stands in line 1"),
        (b"2007_000000\n2009_999999\n", r"2009_999999\.jpg is missing \(.*train\.txt, line 2\)"),
        (b"2007_000000\t2007_000001\n", r"line 1: '2007_000000\\t2007_000001' is no name"),
        (b"2007_000000.JPG\n", r"line 1: .*without folder and suffix"),
        ("\u200b2007_000000\n".encode(), r"line 1: '\\u200b2007_000000' is no name"),
        (b"2007_000000\n\x1a", r"line 2: '\\x1a' is no name"),
        ("2007_000000".encode("utf-16"), r"it is no UTF-8 text"),
        (b"2007_000000\x00\n", r"line 1: .* is no name"),
    ],
)
def test_a_wrong_line_is_named_with_its_list(text, words, tmp_path):
    voc = make_voc(tmp_path)
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_bytes(text)
    with pytest.raises(DataError, match=rf"train\.txt.*{words}|{words}"):
        VOC2012("train", tmp_path)


def test_names_with_spaces_and_capitals_of_suffixes(tmp_path):
    voc = make_voc(tmp_path)
    for folder, new in (("JPEGImages", "my cat 1.JPG"), ("SegmentationClass", "my cat 1.PNG")):
        shutil.copy(next((voc / folder).glob("2007_000000*")), voc / folder / new)
    shutil.copy(voc / "Annotations/2007_000000.xml", voc / "Annotations/my cat 1.xml")
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("my cat 1\n2007_000000\n")
    dataset = VOC2012("train", tmp_path)
    assert dataset.names == ["my cat 1", "2007_000000"]
    assert dataset[0].labels.shape == (24, 32)


# Folders


def test_accents_are_one_name_however_they_are_written(tmp_path):
    path = make_camvid(tmp_path)
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    save_image(path / "train" / f"{composed}.JPG")
    save_mask(path / "trainannot" / f"{apart}.png", camvid_mask())
    assert composed in CamVid("train", tmp_path).names


def test_what_other_programs_leave_is_passed_over(tmp_path):
    path = make_camvid(tmp_path)
    cities = make_cityscapes(tmp_path)
    for folder in (path / "train", cities / "leftImg8bit" / "train", cities / "gtFine" / "val"):
        for stray in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "x.png"):
            (folder / stray).mkdir()
            save_image(folder / stray / "._a_leftImg8bit.png")
        for stray in ("._a.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
            (folder / stray).write_text("x")
    (cities / "leftImg8bit" / "train" / ".ipynb_checkpoints" / "b_leftImg8bit.png").write_text("x")
    assert len(CamVid("train", tmp_path)) == 3
    for split in ("train", "val"):
        assert len(Cityscapes(split, tmp_path)) == 1


def test_two_files_of_one_name_and_files_of_other_kinds_are_named(tmp_path):
    path = make_camvid(tmp_path)
    save_image(path / "train" / "train_000.JPG")
    with pytest.raises(DataError, match=r"train_000\.JPG and train_000\.png have one name"):
        CamVid("train", tmp_path)
    (path / "valannot" / "val_000.png").rename(path / "valannot" / "val_000.jpg")
    with pytest.raises(DataError, match=r"val_000\.png is missing, there is only val_000\.jpg"):
        CamVid("val", tmp_path)
    (path / "test" / "test_000.png").rename(path / "test" / "test_000.heic")
    with pytest.raises(DataError, match=r"is missing, there is only test_000\.heic"):
        CamVid("test", tmp_path)


def test_links_lead_to_pictures_and_folders(tmp_path):
    path = make_camvid(tmp_path / "real")
    (tmp_path / "camvid").symlink_to(path)
    os.rename(path / "train", path / "elsewhere")
    (path / "train").symlink_to("elsewhere")
    assert len(CamVid("train", tmp_path)) == 3


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = make_camvid(tmp_path)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{path}/train cannot be read \(Permission denied\)"):
        CamVid("train", tmp_path)


# Advice


def test_advice_for_ones_own_set_names_no_command_that_does_not_exist(roofs):
    roofs("a", mask(9))
    with pytest.raises(DataError, match=r"trainannot/a\.png holds the values \[9\].*; mend this file") as error:
        registry.open_dataset("roofs", "train")
    assert "course data" not in str(error.value)
    code, output = check("roofs")
    assert code == 1
    assert "course data get" not in output


def test_no_advice_asks_to_remove_what_is_there(tmp_path):
    path = make_camvid(tmp_path)
    (path / "trainannot" / "train_000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"move what is broken away and run .course data get camvid") as error:
        CamVid("train", tmp_path)[0]
    assert "delete" not in str(error.value)


def test_fetching_again_brings_what_is_missing_and_leaves_the_rest(tmp_path, monkeypatch, capsys):
    path = make_camvid(tmp_path)
    kept = (path / "train" / "train_001.png").read_bytes()
    (path / "train" / "train_000.png").unlink()

    def fetch(root, *, yes):
        made = make_camvid(root)
        save_image(made / "train" / "train_001.png", seed=99)

    monkeypatch.setattr(camvid, "get", fetch)
    data_scripts.get("camvid", tmp_path, yes=True)
    assert "train_000.png is back" in capsys.readouterr().out
    assert len(CamVid("train", tmp_path)) == 3
    assert (path / "train" / "train_001.png").read_bytes() == kept
    assert [folder.name for folder in tmp_path.iterdir()] == ["camvid"]


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "data").write_text("a file, where a folder should be")
    with pytest.raises(DataError, match="COURSE_DATA names another folder"):
        data_scripts.get("camvid", tmp_path / "data", yes=True)


@pytest.mark.parametrize("arguments", [["run"], ["reproduce"], ["notebooks", "check"], ["report", "--table"]])
def test_a_name_that_no_file_can_have_is_refused_in_words(arguments):
    found = CliRunner().invoke(app, [*arguments, "a" * 300], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert "no file can be called" in found.output.replace("\n", " ")
