"""What runs measure besides the confusion matrix, and the objective and augmentation that U-Net's rows use."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from course_lib import losses
from course_lib.data.sample import IGNORE, make_sample
from course_lib.data.scenes import Cells
from course_lib.data.transforms import normalise, to_batch
from course_lib.experiments import measures
from course_lib.experiments.building import Sitting
from course_lib.experiments.measures import MEASURES, measure
from course_lib.experiments.recipe import RecipeError
from course_lib.experiments.runs import make
from course_lib.experiments.table import resolve
from course_lib.experiments.tasks import train as task
from course_lib.losses import boundary_objective, boundary_weights, connected_regions, cross_entropy, pixel_objective
from course_lib.metrics import ConfusionMatrix

QUIET = Sitting(show_progress=False)

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**changes):
    """The quick recipe of the EM table, made smaller still."""
    recipe = resolve("unet_isbi", "full", "quick")
    usual = {
        "steps": 3,
        "batch_size": 2,
        "height": 48,
        "width": 64,
        "dataset_options": {"train_length": 3, "val_length": 2},
        "model_options": {"width": 4, "depth": 3, "padding": "same"},
    }
    return dataclasses.replace(recipe, **{**usual, **changes})


class Oracle(nn.Module):
    """Answers with labels that it was given, picture after picture."""

    def __init__(self, answers: list[Tensor]):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answers, self.asked = answers, 0

    def forward(self, images: Tensor) -> Tensor:
        labels = self.answers[self.asked]
        self.asked += 1
        return nn.functional.one_hot(labels, 2).movedim(-1, 0)[None].float()


# -- measures ---------------------------------------------------------------------------------------


def test_a_record_holds_what_its_recipe_measures():
    _, record = make(small(), QUIET)
    assert set(record.metrics) == {*ConfusionMatrix(2).summary(), "pixel_error", "rand_error"}
    error = 1 - record.metrics["overall_accuracy"]
    assert record.metrics["pixel_error"] == pytest.approx(error, abs=1e-6)
    assert 0 <= record.metrics["rand_error"] <= 1
    _, plain = make(small(measures=[]), QUIET)
    assert set(plain.metrics) == set(ConfusionMatrix(2).summary())


def test_an_unknown_measure_is_refused_before_anything_is_trained():
    with pytest.raises(RecipeError, match=r"'membrans' is unknown \(did you mean 'membranes'"):
        make(small(measures=["membrans"], dataset="no-such-set"), QUIET)


def test_measures_join_one_another(monkeypatch):
    monkeypatch.setitem(MEASURES, "code", lambda model, validation, recipe: {"a": 1.0})
    monkeypatch.setitem(MEASURES, "membranes", lambda model, validation, recipe: {"b": float(recipe.seed)})
    recipe = dataclasses.replace(small(seed=7), measures=["code", "membranes"])
    assert measure(nn.Identity(), Cells(1), recipe) == {"a": 1.0, "b": 7.0}


def test_the_mirror_image_is_asked_about_too():
    """A network that sees only what is left of the middle is certain there, and without an opinion elsewhere."""

    class LeftHalf(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            left = torch.arange(images.shape[-1]) < images.shape[-1] // 2
            wrong = torch.stack([20.0 * left, 0.1 * ~left]).expand(*images.shape[:1], images.shape[2], 2, -1)
            return wrong.movedim(2, 1)

    zeros = torch.zeros(1, 4, 6, dtype=torch.int64)
    asked = measures.WithFlipped(LeftHalf())(torch.zeros(1, 3, 4, 6))
    assert torch.equal(asked, asked.flip(-1))
    torch.testing.assert_close(asked.exp().sum(1), torch.ones(1, 4, 6))
    assert torch.equal(asked.argmax(1), zeros)
    picture = [make_sample(torch.zeros(3, 4, 6, dtype=torch.uint8), zeros[0], "a")]
    picture = type("One", (list,), {"classes": ("a", "b")})(picture)
    assert measures.flipped(LeftHalf(), picture, small()) == {"flipped_mean_iou": 1.0}


def test_errors_of_membranes_by_hand():
    """The truth costs nothing; a membrane with a hole costs one pixel, and the Rand score a cell."""
    cells = Cells(2, (48, 64), seed=1)
    truths = [cells[index].labels.as_subclass(Tensor) for index in range(2)]
    assert measures.membranes(Oracle(truths), cells, small()) == {"pixel_error": 0, "rand_error": 0}

    wall = torch.ones(20, 21, dtype=torch.int64)
    wall[:, 10] = 0
    hole = wall.clone()
    hole[9, 10] = 1

    class Wall(list):
        classes = cells.classes

    one_picture = Wall([make_sample(torch.zeros(3, 20, 21, dtype=torch.uint8), wall, "wall")])
    found = measures.membranes(Oracle([hole]), one_picture, small())
    assert found["pixel_error"] == pytest.approx(1 / 420)
    assert found["rand_error"] == pytest.approx(1 - 2 / 3, abs=0.01)  # two halves merged


# -- the objective ----------------------------------------------------------------------------------


def batch() -> tuple[nn.Module, Tensor, Tensor]:
    cells = Cells(2, (40, 48), seed=3)
    labels = torch.stack([cells[index].labels.as_subclass(Tensor) for index in range(2)])
    labels[1, :10] = IGNORE
    images = torch.stack([normalise(cells[index].image) for index in range(2)])
    return nn.Conv2d(3, 2, 3, padding=1), images, labels


def test_the_boundary_objective_is_the_papers_equation():
    model, images, labels = batch()
    of_class = torch.tensor([3.0, 0.5])
    logits = model(images).detach().double()
    total, counted = 0.0, 0
    for one, truth in zip(logits, labels, strict=True):
        borders = boundary_weights(connected_regions(truth), w0=7.0, sigma=5.0)
        for row in range(truth.shape[0]):
            for column in range(truth.shape[1]):
                label = int(truth[row, column])
                if label != IGNORE:
                    weight = float(of_class[label]) + float(borders[row, column])
                    total -= weight * float(one[:, row, column].log_softmax(0)[label])
                    counted += 1
    loss = boundary_objective(of_class, 7.0)(model, images, labels).item()
    assert loss == pytest.approx(total / counted, rel=1e-4)
    assert borders.max() > 1


def test_without_weights_it_is_plain_cross_entropy():
    model, images, labels = batch()
    plain = pixel_objective()(model, images, labels).item()
    unweighted = boundary_objective(None, 0.0)(model, images, labels).item()
    assert unweighted == pytest.approx(plain)
    assert boundary_objective()(model, images, labels).item() > 1.2 * plain
    assert cross_entropy(model(images), labels).item() == pytest.approx(plain)


def test_border_weights_come_with_the_batch_or_are_made_for_it(monkeypatch):
    cells = [Cells(2, (40, 48), seed=3)[index] for index in range(2)]
    objective, model = boundary_objective(None, 7.0, 4.0), nn.Conv2d(3, 2, 3, padding=1)
    images, labels, borders = objective.collate(cells)
    expected = objective(model, images, labels)
    monkeypatch.setattr(losses, "boundary_weights", None)
    assert torch.equal(objective(model, images, labels, borders), expected)
    assert borders.shape == labels.shape


def test_a_run_has_its_border_weights_made_with_its_batches(monkeypatch):
    """So that the processes that load pictures make them, where there are any."""
    kinds, usual = [], task.fit
    monkeypatch.setattr(
        task, "fit", lambda *told, **options: kinds.append(options["collate"]) or usual(*told, **options)
    )
    make(small(), QUIET)
    make(small(boundary_weight=0.0), QUIET)
    assert [kind.func if isinstance(kind, partial) else kind for kind in kinds] == [losses.boundary_batch, to_batch]
    assert kinds[0].keywords["w0"] == small().boundary_weight


@pytest.mark.parametrize("change", [{"boundary_weight": 0.0}, {"elastic": 0.0}])
def test_the_recipe_reaches_the_training(change):
    _, usual = make(small(), QUIET)
    _, other = make(small(**change), QUIET)
    assert usual.losses != other.losses
