"""The data sets of the course by name: what each is, where it lies, how to get, open and check it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from PIL import Image

from course_lib.data.cache import Cached
from course_lib.data.camvid import CamVid, CamVidObjects
from course_lib.data.cityscapes import Cityscapes, CityscapesObjects
from course_lib.data.images import Pictures
from course_lib.data.isbi_em import IsbiEM
from course_lib.data.penn_fudan import PennFudan
from course_lib.data.sample import DataError, SegmentationDataset
from course_lib.data.survey import Survey
from course_lib.data.voc import VOC2012
from course_lib.data.voc_animals import VOCAnimals
from course_lib.plumbing.files import atomic_write
from course_lib.plumbing.paths import data_root
from course_lib.plumbing.progress import progress_bar
from course_lib.plumbing.suggest import did_you_mean

VAL_SEED_OFFSET = 1_000_000
GENERATED_LENGTH = {"train": 400, "val": 100}


@dataclass(frozen=True)
class DatasetInfo:
    """What the course knows about a data set without opening it.

    Attributes:
        folder: Under the data root; "" for generated sets.
        size_on_disk: In words, unpacked.
        get: The command that fetches it; "" for generated sets.
        opener: Called with split, size and the set's own options.
        files: The class behind a set of files; None for generated sets.
    """

    name: str
    title: str
    what: str
    splits: tuple[str, ...]
    size_on_disk: str
    licence: str
    opener: Callable[..., SegmentationDataset]
    folder: str = ""
    get: str = ""
    files: type[Pictures] | None = None

    def present(self, root: Path | None = None) -> bool:
        """Return whether its folder is there (generated sets always are); `check_dataset` looks inside."""
        return not self.folder or (Path(root or data_root()) / self.folder).is_dir()


    def absent(self, split: str, root: Path | None = None) -> str:
        """Return "" where the images of `split` are here, else what is not, with the command that gets it."""
        home = Path(root or data_root()) / self.folder
        if not self.present(root):
            return f"{self.title} is not here: {self.get}"
        if self.files is None:
            return ""
        if not self.files(split, root, strict=False).pairs:
            return f'{self.title} has no images of "{split}" here: move {home} away, then {self.get}'
        try:
            self.files(split, root)
        except DataError as error:
            return str(error)
        return ""


def of_files(name: str, files: type[Pictures], what: str, licence: str) -> DatasetInfo:
    """Return the entry of a set of files; title, splits, folder, size and command stand in its class."""
    return DatasetInfo(
        name, files.title, what, files.splits, files.size_on_disk, licence,
        opener=files, folder=files.folder, get=files.get, files=files,
    )  # fmt: skip


def generated(name: str, family: str, title: str, what: str, module: str = "scenes") -> DatasetInfo:
    """Return the entry of a family of generated scenes: the class `family` of a module of `course_lib.data`."""

    def opener(split: str, size: tuple[int, int] | None = None, length: int | None = None,
               seed: int = 0, **knobs: object) -> SegmentationDataset:  # fmt: skip
        if split not in GENERATED_LENGTH:
            raise DataError(f'{title} has no split "{split}": use one of {list(GENERATED_LENGTH)}')
        if size is not None:
            knobs["size"] = size
        return getattr(import_module(f"course_lib.data.{module}"), family)(
            length=GENERATED_LENGTH[split] if length is None else length,
            seed=seed + (VAL_SEED_OFFSET if split == "val" else 0),
            **knobs,
        )

    return DatasetInfo(
        name, title, what, tuple(GENERATED_LENGTH), "nothing", "the course's own (MIT)", opener
    )


DATASETS = {
    info.name: info
    for info in (
        generated("street", "Street", "Generated streets", "street scenes with CamVid's eleven classes"),
        generated(
            "street_objects", "StreetObjects", "Generated things in streets",
            "the same streets, CamVid's six classes of things over a background",
        ),
        generated(
            "street_stuff", "StreetStuff", "Generated ground, houses and sky",
            "the same streets, five classes that fill images over a background",
        ),
        generated("objects", "Objects", "Generated objects", "objects over clutter, with boxes"),
        generated(
            "surroundings", "Surroundings", "Generated surroundings", "things that only what is around them tells apart"
        ),
        generated(
            "textures", "Textures", "Generated textures", "blobs that their pattern alone tells apart", module="textures"
        ),
        generated("cells", "Cells", "Generated cells", "grey cells, dark membranes between them"),
        of_files(
            "camvid", CamVid, "street scenes, 11 classes, 367 / 101 / 233 frames of 480x360",
            "research, non-commercial; cite Brostow et al. 2009",
        ),
        of_files(
            "camvid_objects", CamVidObjects, "CamVid's six classes of things, with boxes",
            "research, non-commercial; cite Brostow et al. 2009",
        ),
        of_files(
            "voc", VOC2012, "photographs, 20 classes and background, boxes, 1464 / 1449 images",
            "the images are Flickr's; cite Everingham et al. 2010",
        ),
        of_files(
            "voc_animals", VOCAnimals, "photographs of five animals over a background, boxes, 437 (3131) / 445 images",
            "the images are Flickr's; cite Everingham et al. 2010, Hariharan et al. 2011",
        ),
        of_files(
            "cityscapes", Cityscapes, "street scenes, 19 classes, 2975 / 500 frames of 2048x1024",
            "non-commercial, needs an account; cite Cordts et al. 2016",
        ),
        of_files(
            "cityscapes_objects", CityscapesObjects, "Cityscapes' eleven classes of things, with boxes",
            "non-commercial, needs an account; cite Cordts et al. 2016",
        ),
        of_files(
            "isbi_em", IsbiEM, "cell membranes, 30 slices of 512x512",
            "non-commercial research; cite Arganda-Carreras et al. 2015",
        ),
        of_files(
            "penn_fudan", PennFudan, "pedestrians with boxes, 170 images",
            "cite Wang et al. 2007",
        ),
    )
}  # fmt: skip


def dataset_info(name: str) -> DatasetInfo:
    """Return the entry of a data set.

    Raises:
        DataError: That suggests names for an unknown one.
    """
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}{did_you_mean(name, DATASETS)}: there are {', '.join(DATASETS)}")
    return DATASETS[name]


def open_dataset(
    name: str, split: str, size: tuple[int, int] | None = None, cache: bool = True, **options: object
) -> SegmentationDataset:
    """Open a split of a data set at `size` = (H, W), or at its own size.

    With `cache` it is read into memory at once (`Cached`). `options` go to the set: `root` for sets of files; `length`,
    `seed` and the knobs of `course_lib.data.scenes` for generated ones, whose "val" never shares a scene with "train"
    (its seed is 1,000,000 higher).

    Raises:
        DataError: For an unknown name or split, for data that is missing (with the command that gets it) and for a
            cache that does not fit into memory.
    """
    dataset = dataset_info(name).opener(split=split, size=size, **options)
    about = [name, split, size, options, str(data_root())]
    return Cached(dataset, about=about) if cache else dataset


def check_dataset(
    name: str, root: Path | None = None, progress: bool = True, say: Callable[[str], None] | None = None
) -> list[str]:
    """Open every file of a data set; return every problem as a sentence naming the file.

    `say` is called with what each split holds, class by class, and with what looks strange in it.
    """
    info = dataset_info(name)
    if info.files is None:
        return []
    problems: list[str] = []
    checked: set[Path] = set()
    folder = Path(root or data_root()) / info.folder
    for split in info.files.splits_to_check(folder):
        try:
            dataset = info.files(split, root, strict=False)
        except DataError as error:
            return [str(error)]
        problems += dataset.problems
        survey = Survey(dataset, split)
        pairs = [pair for pair in dataset.pairs if pair.mask not in checked]
        for pair in progress_bar(pairs, f"{name} {split}", show=progress, delay=2):
            checked.add(pair.mask)
            try:
                survey.see(dataset.read(pair))
            except DataError as error:
                problems.append(str(error))
        problems += survey.problems()
        for line in [survey.shares(), *survey.remarks()] if say and survey.pictures else ():
            say(line)
    return list(dict.fromkeys(problems))


def convert_masks(name: str, out: Path, root: Path | None = None) -> int:
    """Write the masks of a set that hold colours as masks of numbers into the folder `out`; return how many.

    A pixel gets the value of the class whose colour it has. Nothing is changed in the set.

    Raises:
        DataError: For a colour that no class has, a folder that is not empty and a mask that cannot be read.
    """
    info = dataset_info(name)
    if info.files is None:
        raise DataError(f"{info.title} has no files")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: name a new folder")
    written: set[Path] = set()
    for split in info.files.splits:
        dataset = info.files(split, root, strict=False)
        for pair in dataset.pairs:
            place = out / pair.mask.relative_to(dataset.path).with_suffix(".png")
            if place not in written:
                values = dataset.numbers_of_colours(pair.mask)
                with atomic_write(place) as temporary:
                    Image.fromarray(values).save(temporary, format="PNG")
                written.add(place)
    return len(written)
