"""Taxonomies: tables and matrices against examples by hand, the loss against torch's, the order of sum and arg-max."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from course_lib.data.camvid import PALETTE
from course_lib.data.sample import IGNORE, SegmentationDataset
from course_lib.data.scenes import Street
from course_lib.data.splits import Alternating
from course_lib.taxonomy import (
    TAXONOMIES,
    InClassesOf,
    Taxonomy,
    TaxonomyError,
    Translated,
    naive_mix,
    set_cross_entropy,
    set_objective,
)
from course_lib.train import evaluate, fit

TOWN = """
classes = ["sky", "building", "fence", "person"]

[sets.town]
sky = "sky"
construction = ["building", "fence"]
graffiti = []
clouds = "sky"

[sets.people]
background = { all_but = "person" }
pedestrian = "person"
"""


class Constant(nn.Module):
    """The same probabilities (C,) at every pixel."""

    def __init__(self, probabilities: list[float]):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, images):
        return self.logits.view(1, -1, 1, 1).expand(len(images), -1, *images.shape[2:])


def test_by_hand():
    """Merge, split, drop and all but one."""
    town = Taxonomy.from_toml(TOWN)
    assert town.table("town").tolist() == [0, 255, 255, 0] + 252 * [255]
    assert town.table("town", split="first")[:4].tolist() == [0, 1, 255, 0]
    assert town.members("town").tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert town.members("people").tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
    together = town.label_sets(["town", "people"])
    assert together.classes == ("sky", "building or fence", "sky or building or fence", "person")
    assert together.tables["town"][:5].tolist() == [0, 1, 255, 0, 255]
    assert together.tables["people"][:2].tolist() == [2, 3]
    assert together.members.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_the_mix_by_spelling():
    mix = naive_mix({"a": ["Sky", "Tree"], "b": ["nature", "sky"]})
    assert mix.classes == ("sky", "tree", "nature")
    assert mix.table("b")[:2].tolist() == [2, 0]
    assert mix.members("a").tolist() == [[1, 0, 0], [0, 1, 0]]  # nature is nothing in the words of a


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("classes = ['a']", "a list `classes` and a table"),
        ("classes = ['a'", "Unclosed array|end of the document"),
        ("classes = ['a', 'a']\n[sets.x]", "named twice"),
        (
            "classes = ['sky']\n[sets.x]\nb = 'skye'",
            "b becomes 'skye', which is no universal class .did you mean 'sky'",
        ),
        ("classes = ['sky']\n[sets.x]\nb = 3", "b is 3, but must be"),
        ("classes = ['sky']\n[sets.x]\nb = { all_but = 'man' }", "b is not 'man'"),
    ],
)
def test_what_makes_no_sense_is_refused(text, reason):
    with pytest.raises(TaxonomyError, match=reason):
        Taxonomy.from_toml(text)


def test_an_unknown_set_is_refused():
    with pytest.raises(TaxonomyError, match=r"no set 'tow' .did you mean 'town'"):
        Taxonomy.from_toml(TOWN).table("tow")


@pytest.mark.parametrize("file", sorted(TAXONOMIES.glob("*.toml")), ids=lambda path: path.stem)
def test_those_of_the_course_are_sound(file):
    taxonomy = Taxonomy.read(file.stem)
    for name in taxonomy.sets:
        assert (taxonomy.members(name).sum(0) <= 1).all()  # each can be a test set


def test_streets_have_the_classes_of_the_generator():
    streets = Taxonomy.read("streets")
    assert tuple(streets.sets["fine"]) == Street.classes
    assert torch.equal(streets.members("fine"), torch.eye(11))
    assert (streets.members("coarse").sum(0) == 1).all()  # every pixel has a coarse class


def test_the_loss_is_the_cross_entropy_where_labels_are_single():
    logits, labels = torch.randn(2, 4, 5, 6, requires_grad=True), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = IGNORE
    expected = functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    found = set_cross_entropy(logits, labels, torch.eye(4))
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, logits)[0])


def test_the_loss_by_hand():
    p = torch.tensor([0.3, 0.25, 0.25, 0.2])
    logits = p.log().view(1, 4, 1, 1)
    members = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    for label, likely in enumerate((0.3, 0.5, 0.8, 1.0)):
        found = set_cross_entropy(logits, torch.full((1, 1, 1), label), members)
        assert float(found) == pytest.approx(-math.log(likely), abs=1e-6)
    both = set_cross_entropy(logits.expand(1, 4, 1, 2), torch.tensor([[[1, IGNORE]]]), members)
    assert float(both) == pytest.approx(math.log(2), abs=1e-6)  # the ignored pixel is not counted
    assert float(set_cross_entropy(logits, torch.full((1, 1, 1), IGNORE), members)) == 0


def test_the_loss_stays_finite_where_a_class_is_sure_and_wrong():
    logits = torch.tensor([200.0, 0, 0]).view(1, 3, 1, 1).requires_grad_()
    loss = set_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([[0.0, 1, 1]]))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(200 - math.log(2), abs=1e-4)
    torch.testing.assert_close(slope.flatten(), torch.tensor([1.0, -0.5, -0.5]))


def test_its_gradient():
    logits = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    labels, members = torch.randint(0, 2, (1, 2, 3)), torch.tensor([[0.0, 1, 1, 0], [1, 1, 0, 1]])
    found = torch.autograd.grad(set_cross_entropy(logits, labels, members), logits)[0]
    p = logits.softmax(1)
    inside = members[labels].movedim(-1, 1).double()
    share = p * inside / (p * inside).sum(1, keepdim=True)
    torch.testing.assert_close(found, (p - share) / 6, rtol=1e-4, atol=1e-6)


def test_strange_labels_and_members_are_refused():
    with pytest.raises(ValueError, match=r"labels hold \[3\]"):
        set_cross_entropy(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1), 3), torch.eye(3))
    with pytest.raises(ValueError, match=r"members are \(labels, 3\)"):
        set_cross_entropy(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.eye(2))


def test_the_sum_comes_before_the_arg_max():
    """(.30, .25, .25, .20), the second and third are one class of the test: together they win, alone they lose."""
    members = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    network, images = Constant([0.30, 0.25, 0.25, 0.20]), torch.zeros(1, 3, 1, 1)
    mapped = InClassesOf(network, members)(images)
    torch.testing.assert_close(mapped.exp().flatten(), torch.tensor([0.3, 0.5, 0.2]))
    assert mapped.argmax(1).item() == 1
    assert members[:, network(images).argmax(1).item()].argmax().item() == 0


def test_what_no_class_of_the_test_has_is_thrown_away():
    members = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]])
    mapped = InClassesOf(Constant([0.8, 0.15, 0.05]), members)(torch.zeros(1, 3, 1, 1)).flatten()
    assert mapped.argmax() == 0
    assert mapped.isfinite().all()
    with pytest.raises(ValueError, match="belongs to two classes"):
        InClassesOf(Constant([0.5, 0.5]), torch.ones(2, 2))


def test_translated_pictures():
    streets = Street(3, (32, 48), seed=4, void_border=1)
    coarse = Translated(streets, _to_coarse(), tuple(Taxonomy.read("streets").sets["coarse"]), PALETTE[:7])
    assert isinstance(coarse, SegmentationDataset)
    sample, before = coarse[1], streets[1]
    assert torch.equal(sample.image, before.image)
    assert ((sample.labels == IGNORE) == (before.labels == IGNORE)).all()
    assert (sample.labels[before.labels == 7] == 1).all()  # a fence is construction
    assert len(coarse) == 3
    with pytest.raises(ValueError, match="256 labels"):
        Translated(streets, torch.zeros(256, dtype=torch.long), Street.classes, PALETTE)
    with pytest.raises(ValueError, match="11 colours for 2 classes"):
        Translated(streets, _to_coarse(), ("a", "b"), PALETTE)


def _to_coarse():
    table = torch.full((256,), IGNORE)
    table[:11] = Taxonomy.read("streets").members("coarse").argmax(0)
    return table


def test_two_taxonomies_train_together():
    """Coarse labels alone teach no child; together with fine ones the network ends in the universal classes."""
    streets = Taxonomy.read("streets")
    together = streets.label_sets(["fine", "coarse"])
    colours = PALETTE[torch.arange(len(together.classes)) % 11]
    fine, pictures = Street(8, (32, 48), seed=1), Street(8, (32, 48), seed=2)
    coarse = Translated(pictures, _to_coarse(), tuple(streets.sets["coarse"]), PALETTE[:7])
    parts = [
        Translated(part, together.tables[name], together.classes, colours)
        for name, part in (("fine", fine), ("coarse", coarse))
    ]
    labels = torch.stack([parts[1][i].labels.as_subclass(torch.Tensor) for i in range(8)])
    assert "building or fence" in {together.classes[label] for label in labels.unique().tolist()}
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 11, 1))
    history = fit(network, Alternating(*parts), steps=40, batch_size=4, learning_rate=1e-2,
                  objective=set_objective(together.members), show_progress=False)  # fmt: skip
    assert sum(history.losses[-5:]) < 0.8 * sum(history.losses[:5])
    mapped = evaluate(InClassesOf(network, streets.members("coarse")), coarse, show_progress=False)
    assert mapped.num_classes == 7
    assert mapped.overall_accuracy() > 0.3
