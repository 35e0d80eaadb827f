"""Taxonomies: what the classes of one data set are in the words of another, and how a network learns from both.

J. Lambert, Z. Liu, O. Sener, J. Hays, V. Koltun, "MSeg: A Composite Dataset for Multi-domain Semantic Segmentation",
CVPR 2020 (arXiv 2112.13762): one universal list of classes, every source class merged into one of them, split into
several or dropped, one softmax over the universal classes, and a fixed 0/1 matrix after it where a test set has other
classes.

Here a class of a data set is the set of universal classes that its pixels may have. One: it is translated, and several
classes of a set may become the same one (merge). Several: it would have to be split, which no table can do, since
only the image tells which pixel is which. None: it is dropped, its pixels are ignored. A taxonomy is a TOML file::

    classes = ["sky", "building", "fence", "person"]

    [sets.town]
    sky = "sky"
    construction = ["building", "fence"]
    graffiti = []

    [sets.people]
    pedestrian = "person"
    background = { all_but = "person" }

Departures from the paper

* "Sum of children" is not MSeg's: it asks that the classes of a split together be likely, and costs no people.
* The paper relabels, pixel by pixel where a class is split, a part of its images; generated streets are relabelled
  by their generator.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.data.sample import IGNORE, Sample, SegmentationDataset, make_sample
from course_lib.losses import Objective, strange_labels
from course_lib.plumbing.suggest import did_you_mean

TAXONOMIES = Path(__file__).parent / "taxonomies"


class TaxonomyError(ValueError):
    """A taxonomy that makes no sense. The message names the set, the class and the reason."""


class LabelSets(NamedTuple):
    """Labels that stand for sets of universal classes.

    Attributes:
        classes: What each label may be, in words: "building or fence".
        members: (labels, universal classes), 1 where a label may be a class: for `set_cross_entropy`.
        tables: {data set: (256,) int64, the label of each of its labels}: for `Translated`.
    """

    classes: tuple[str, ...]
    members: Tensor
    tables: dict[str, Tensor]


@dataclass(frozen=True)
class Taxonomy:
    """Universal classes, and what the classes of each data set are in them.

    Attributes:
        classes: The universal classes, in the order of the network's outputs.
        sets: {set: {class of the set, in the order of its labels: the universal classes it may be}}.

    Raises:
        TaxonomyError: For a universal class that is named twice or is none.
    """

    classes: tuple[str, ...]
    sets: Mapping[str, Mapping[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise TaxonomyError(f"a universal class is named twice: {', '.join(self.classes)}")
        for name, entries in self.sets.items():
            for source, children in entries.items():
                for child in children:
                    if child not in self.classes:
                        hint = did_you_mean(child, self.classes)
                        raise TaxonomyError(f"{name}: {source} becomes {child!r}, which is no universal class{hint}")

    @classmethod
    def from_toml(cls, text: str) -> "Taxonomy":
        """Return the taxonomy that a TOML file describes (see the top of this module).

        Raises:
            TaxonomyError: For what is no such description.
        """
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TaxonomyError(str(error)) from error
        if not isinstance(content.get("classes"), list) or not isinstance(content.get("sets"), dict):
            raise TaxonomyError("a taxonomy has a list `classes` and a table [sets.NAME] for each data set")
        classes = tuple(content["classes"])
        sets = {}
        for name, entries in content["sets"].items():
            sets[name] = {source: _children(name, source, value, classes) for source, value in entries.items()}
        return cls(classes, sets)

    @classmethod
    def read(cls, name: str) -> "Taxonomy":
        """Return a taxonomy of the course, such as "streets"."""
        return cls.from_toml((TAXONOMIES / f"{name}.toml").read_text(encoding="utf-8"))

    def members(self, name: str) -> Tensor:
        """Return which universal classes each class of a set may be: (classes of the set, universal classes), 0 or 1.

        This is the matrix P of the test: with the universal probabilities p, P p are those of the set's classes.

        Raises:
            TaxonomyError: For an unknown set.
        """
        entries = self._entries(name)
        matrix = torch.zeros(len(entries), len(self.classes))
        for row, children in enumerate(entries.values()):
            matrix[row, [self.classes.index(child) for child in children]] = 1
        return matrix

    def table(self, name: str, split: Literal["ignore", "first"] = "ignore") -> Tensor:
        """Return the universal label of each label of a set, (256,) int64.

        Args:
            name: The set.
            split: What becomes of a class that may be several: "ignore" (255), or the "first" of them, as MSeg does
                where nobody has relabelled.
        """
        table = torch.full((256,), IGNORE)
        for label, children in enumerate(self._entries(name).values()):
            if len(children) == 1 or (children and split == "first"):
                table[label] = self.classes.index(children[0])
        return table

    def label_sets(self, names: Sequence[str]) -> "LabelSets":
        """Return one list of labels for several sets, in which a label is a set of universal classes.

        Classes of different sets that may be the same universal classes get one label. Dropped classes are ignored.
        """
        entries = {name: self._entries(name) for name in names}
        rows = list(dict.fromkeys(children for of in entries.values() for children in of.values() if children))
        members = torch.tensor([[float(name in row) for name in self.classes] for row in rows])
        tables = {name: torch.full((256,), IGNORE) for name in names}
        for name, of in entries.items():
            for label, children in enumerate(of.values()):
                if children:
                    tables[name][label] = rows.index(children)
        return LabelSets(tuple(" or ".join(row) for row in rows), members, tables)

    def _entries(self, name: str) -> Mapping[str, tuple[str, ...]]:
        if name not in self.sets:
            raise TaxonomyError(f"no set {name!r}{did_you_mean(name, self.sets)}: there are {', '.join(self.sets)}")
        return self.sets[name]


def _children(name: str, source: str, value: object, classes: Sequence[str]) -> tuple[str, ...]:
    """Return what a TOML value names: a class, a list of classes, or {all_but = the classes that it is not}."""
    if isinstance(value, dict) and set(value) == {"all_but"}:
        left_out = _children(name, source, value["all_but"], classes)
        if strange := [child for child in left_out if child not in classes]:
            raise TaxonomyError(f"{name}: {source} is not {strange[0]!r}, which is no universal class")
        return tuple(child for child in classes if child not in left_out)
    named = (value,) if isinstance(value, str) else value
    if not isinstance(named, list | tuple) or not all(isinstance(child, str) for child in named):
        raise TaxonomyError(
            f'{name}: {source} is {value!r}, but must be a class, a list of classes or {{ all_but = "" }}'
        )
    return tuple(named)


def naive_mix(sets: Mapping[str, Sequence[str]]) -> Taxonomy:
    """Return the taxonomy that joins classes by their spelling alone, in lower case.

    Args:
        sets: {name: its classes}. The universal classes are in the order in which they first occur.
    """
    spelt = {name: [source.lower() for source in classes] for name, classes in sets.items()}
    union = tuple(dict.fromkeys(word for words in spelt.values() for word in words))
    return Taxonomy(union, {n: {c: (c.lower(),) for c in classes} for n, classes in sets.items()})


class Translated:
    """`dataset` with its labels looked up in a `table` (256,), in the classes that come out of it. No boxes are kept.

    Args:
        table: The new label of each label: `Taxonomy.table`, or one of your own; 255 stays 255.
        classes: Of the new labels.
        palette: Their colours, (len(classes), 3) uint8.
    """

    def __init__(self, dataset: SegmentationDataset, table: Tensor, classes: Sequence[str], palette: Tensor) -> None:
        if len(table) != IGNORE + 1 or int(table[IGNORE]) != IGNORE:
            raise ValueError(f"a table has 256 labels, and the last, {IGNORE}, stays: not {tuple(table.shape)}")
        if len(palette) != len(classes):
            raise ValueError(f"{len(palette)} colours for {len(classes)} classes")
        self.dataset, self.lookup = dataset, table
        self.classes, self.palette, self.background = tuple(classes), palette, None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return make_sample(sample.image, self.lookup[sample.labels.as_subclass(Tensor)], sample.name)


def set_cross_entropy(logits: Tensor, labels: Tensor, members: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Return the mean over the counted pixels of -log(sum of the probabilities of the classes that a label may be).

    With one class a label it is the cross-entropy, with all but one -log(1 - p), with all of them 0.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64: a row of `members`, or `ignore_index`.
        members: (L, C), not 0 where label l may be class c; every row has at least one class.
        ignore_index: Label of the pixels that do not count.

    Raises:
        ValueError: On a CPU for a label without a row, and for members of another number of classes.
    """
    if members.ndim != 2 or members.shape[1] != logits.shape[1]:
        raise ValueError(f"members are (labels, {logits.shape[1]}), not {tuple(members.shape)}")
    counted = labels != ignore_index
    logits = logits.float()
    try:
        may_be = (members.to(logits.device) != 0)[labels * counted]  # (N, H, W, C)
    except IndexError:
        raise strange_labels(labels, len(members), ignore_index) from None
    inside = logits.movedim(1, -1).masked_fill(~may_be, -torch.inf).logsumexp(-1)  # (N, H, W)
    per_pixel = torch.where(counted, logits.logsumexp(1) - inside, 0)
    total = counted.sum()
    return per_pixel.sum() / torch.where(total > 0, total, 1)


def set_objective(members: Tensor) -> Objective:
    """Return `set_cross_entropy` as an objective of `fit`; `members` (L, C) as there."""

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return set_cross_entropy(model(images), labels, members)

    objective.weight = lambda labels: (labels != IGNORE).sum()
    return objective


class InClassesOf(nn.Module):
    """A network's answer in the classes of a test set: images (N, 3, H, W) -> log-probabilities (N, T, H, W).

    The softmax comes first, then the fixed matrix: the probabilities of universal classes that are one test class add
    up, and what no test class has is thrown away.

    Args:
        model: Images -> logits (N, C, H, W).
        members: P, (T, C), 0 or 1, from `Taxonomy.members`.

    Raises:
        ValueError: Where a universal class is in two test classes: it would count twice.
    """

    def __init__(self, model: nn.Module, members: Tensor) -> None:
        super().__init__()
        if (members.sum(0) > 1).any():
            raise ValueError(f"universal class {int(members.sum(0).argmax())} belongs to two classes of the test set")
        self.model = model
        self.register_buffer("members", members)

    def forward(self, images: Tensor) -> Tensor:
        probabilities = self.model(images).float().softmax(1)
        mapped = torch.einsum("tc,nchw->nthw", self.members, probabilities)
        return mapped.clamp(min=torch.finfo(mapped.dtype).tiny).log()
