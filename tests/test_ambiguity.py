"""Whether codes show both labelings of a picture: a network that knows both, one that knows one."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.ambiguity import energy_distance, mode_coverage, told_half
from course_lib.data.registry import VAL_SEED_OFFSET
from course_lib.data.sample import IGNORE
from course_lib.data.scenes import Objects, Street
from course_lib.data.transforms import normalise
from course_lib.experiments.building import Sitting
from course_lib.experiments.runs import make
from course_lib.experiments.table import resolve
from course_lib.models.cvae import CVAE

QUIET = Sitting(show_progress=False)

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (32, 48)


class Coin(nn.Module):
    """Knows both labelings of each picture; `use` says whether its one-number code chooses between them."""

    code_size = 1
    conditioning = "product"

    def __init__(self, scenes: Objects, use: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.use = use
        self.truth = {}
        for index in range(len(scenes)):
            key = normalise(scenes[index].image).sum().item()
            both = torch.stack([one.as_subclass(Tensor) for one in scenes.both_labelings(index)])
            both[both == IGNORE] = 0
            self.truth[key] = functional.one_hot(both, 9).movedim(-1, 1).float()  # (2, C, H, W)

    def condition(self, images: Tensor) -> list[Tensor]:
        return [self.truth[images[0].sum().item()][None]]

    def encode(self, labels: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        raise AssertionError("nothing here asks for the code of a labeling")

    def decode(self, code: Tensor, features: list[Tensor]) -> Tensor:
        first, second = features[0][0]
        sway = 5 * code[:, :, None, None] * (first - second) if self.use else 0
        return (first + second)[None] + 0.1 * first + sway  # without a sway: the first one


@pytest.fixture(scope="module")
def ambiguous() -> Objects:
    return Objects(40, (32, 40), seed=3, ambiguity=1.0, context=0.0)


def test_codes_that_choose_show_both_labelings(ambiguous):
    found = mode_coverage(Coin(ambiguous), ambiguous, codes=64, show_progress=False)
    assert found["codes_show_both"] == 1
    assert found["codes_show_one"] > 0.95
    assert 0.4 < found["codes_show_first"] < 0.6
    assert (found["zero_shows_first"], found["zero_shows_second"]) == (1, 0)
    assert abs(found["codes_ged"]) < 0.05
    assert found["zero_ged"] == pytest.approx(0.5)


def test_codes_that_change_nothing_show_one(ambiguous):
    found = mode_coverage(Coin(ambiguous, use=False), ambiguous, codes=8, show_progress=False)
    assert found["codes_show_both"] == 0
    assert found["codes_show_first"] == found["zero_shows_first"] == 1
    assert found["codes_ged"] == found["zero_ged"] == pytest.approx(0.5)


class HalfCoin(Coin):
    """Its code chooses in the lower half of what is in dispute alone."""

    def decode(self, code: Tensor, features: list[Tensor]) -> Tensor:
        first, second = features[0][0]
        rows = (first != second).any(0).any(1).nonzero()[:, 0]
        below = torch.arange(first.shape[1]) >= (int(rows[0]) + int(rows[-1]) + 1) // 2
        still = Coin.decode(self, 0 * code, features)
        return torch.where(below[:, None], super().decode(code, features), still)


@pytest.mark.parametrize("use", [True, False])
def test_one_half_decides_the_other_where_the_code_holds_the_coin(ambiguous, use):
    found = told_half(Coin(ambiguous, use=use), ambiguous, prior_weight=0.01, show_progress=False)
    assert found["half_zero_right"] == pytest.approx(0.5)  # always the first labeling
    assert found["half_refined_right"] == pytest.approx(1 if use else 0.5)
    assert found["half_other_right"] == pytest.approx(0 if use else 0.5)
    still = told_half(HalfCoin(ambiguous, use=use), ambiguous, prior_weight=0.01, show_progress=False)
    assert still["half_refined_right"] < 0.6
    with pytest.raises(ValueError, match="no image has an ambiguous thing"):
        told_half(Coin(ambiguous), Objects(2, (32, 40), seed=3, ambiguity=0.0), show_progress=False)


def test_the_table_of_halves_measures_them():
    recipe = resolve("cvae_halves", "concat", "quick")
    options = {**recipe.dataset_options, "train_length": 8, "val_length": 6}
    _, record = make(dataclasses.replace(recipe, steps=2, dataset_options=options), QUIET)
    names = ("half_zero_right", "half_refined_right", "half_other_right", "b_auroc_zero", "entropy_auroc_encoded")
    assert all(0 <= record.metrics[name] <= 1 for name in names)


def test_the_table_of_ambiguity_measures_it():
    recipe = resolve("cvae_ambiguity", "codes", "quick")
    options = {**recipe.dataset_options, "train_length": 8, "val_length": 6}
    tiny = dataclasses.replace(recipe, steps=2, dataset_options=options, measures=["both_labelings"])
    model, record = make(tiny, QUIET)
    knobs = {key: value for key, value in options.items() if not key.endswith("_length")}
    scenes = Objects(6, (48, 64), seed=VAL_SEED_OFFSET, **knobs)
    expected = mode_coverage(model, scenes, show_progress=False)
    assert {key: record.metrics[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_pictures_that_are_not_ambiguous_are_refused():
    model = CVAE(11, width=4, code_size=6, code_channels=4, size=SIZE)
    with pytest.raises(ValueError, match="no image is ambiguous: open the scenes with ambiguity"):
        mode_coverage(model, Street(2, SIZE), show_progress=False)
    with pytest.raises(ValueError, match="list has no both_labelings"):
        mode_coverage(model, [])


def test_the_energy_distance_is_zero_in_the_mean_for_maps_drawn_from_the_labelings():
    """And with one pixel it is what the formula gives by hand."""
    labelings = torch.tensor([[0], [1]])
    assert energy_distance(torch.tensor([[0], [0]]), labelings) == pytest.approx(2 * 0.5 - 0 - 0.5)
    assert energy_distance(torch.tensor([[0], [1]]), labelings) == pytest.approx(2 * 0.5 - 1 - 0.5)
    truth = torch.stack([torch.zeros(30, dtype=torch.int64), torch.ones(30, dtype=torch.int64)])
    drawn = truth[torch.randint(2, (400, 4), generator=torch.Generator().manual_seed(0))]
    found = [energy_distance(maps, truth) for maps in drawn]
    assert abs(sum(found) / len(found)) < 0.05
    assert energy_distance(truth[[0, 0, 0]], truth) == pytest.approx(0.5)
