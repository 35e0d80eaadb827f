"""Trainings that the checks make once: what is loaded is what would have been trained, bit for bit."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from training_helpers import street_recipe

from course_lib.cvae import CVAEObjective
from course_lib.data.scenes import Street
from course_lib.data.transforms import train_transform
from course_lib.experiments.runs import train_or_load
from course_lib.experiments.table import resolve
from course_lib.experiments.tasks import self_correction
from course_lib.losses import pixel_objective
from course_lib.models.fcn import FCN
from course_lib.plumbing import auto_precision, devices, reuse
from course_lib.plumbing.auto_precision import BF16, FP32
from course_lib.plumbing.devices import make_fabric
from course_lib.plumbing.precision import kept_in_fp32
from course_lib.plumbing.reuse import Fingerprint, NotComparable
from course_lib.train import Checkpoints, Checks, fit

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = street_recipe(
    profile="quick",
    steps=3,
    batch_size=2,
    precision="32-true",
    dataset_options={"train_length": 6, "val_length": 3},
    model_options={"width": 4, "fc_channels": 8, "norm": True, "padding": "same"},
)
CHANGES_ALONE = {"seconds", "peak_memory_mib", "date"}
"""Fields of a record that say when and how long, not what."""


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder where trainings are kept; reuse is on."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setenv("COURSE_REUSE", "1")
    return tmp_path / "reused"


def network() -> FCN:
    torch.manual_seed(0)
    return FCN(11, stride=16, width=4, fc_channels=8, norm=True, padding="same")


def train(model: nn.Module, dataset: object = None, **options: object):
    usual = {"steps": 3, "batch_size": 2, "show_progress": False}
    return fit(model, dataset or Street(4, (32, 48), seed=0), **(usual | options))


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_is_loaded_is_what_would_have_been_trained(kept, monkeypatch):
    monkeypatch.delenv("COURSE_REUSE")
    trained, record = train_or_load(RECIPE, show_progress=False)
    after = torch.rand(3)
    assert not kept.exists()
    monkeypatch.setenv("COURSE_REUSE", "1")
    train_or_load(RECIPE, show_progress=False)
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_, **__: pytest.fail("it was trained again"))
    loaded, again = train_or_load(RECIPE, show_progress=False)
    assert same_bits(trained, loaded)
    assert torch.equal(after, torch.rand(3))  # what is drawn next is the same as well
    assert {**vars(record), **dict.fromkeys(CHANGES_ALONE)} == {**vars(again), **dict.fromkeys(CHANGES_ALONE)}


def test_what_a_measure_of_the_library_finds_is_loaded_too(kept, monkeypatch):
    sizes = {"dataset_options": {"train_length": 12, "val_length": 3}, "steps": 6, "batch_size": 4, "warmup_steps": 1}
    recipe = replace(resolve("self_correction", "linear_50", "quick"), full_length=4, **sizes)
    monkeypatch.setattr(self_correction, "IN_MEMORY", {})
    trained, record = train_or_load(recipe, show_progress=False)
    assert len(list(kept.iterdir())) == 2  # the ancillary network's and its own
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_, **__: pytest.fail("it was trained again"))
    loaded, again = train_or_load(recipe, show_progress=False)
    assert same_bits(trained, loaded)
    assert record.evaluations == again.evaluations
    assert 0 <= record.evaluations[-1]["target_mean_iou"] <= 1


@pytest.mark.parametrize("way", [FP32, BF16])
def test_what_is_loaded_computes_in_the_precision_that_was_chosen(kept, monkeypatch, way):
    in_fp32 = [] if way == FP32 else ["stages.0.0"]
    monkeypatch.setattr(devices, "best_precision", lambda _: "auto")
    monkeypatch.setattr(auto_precision, "_plan", lambda *_: (way, in_fp32, []))
    found = []
    for _ in range(2):
        model, fabric = network(), make_fabric("auto", accelerator="cpu")
        train(model, fabric=fabric)
        found.append((str(fabric._precision.precision), kept_in_fp32(model)))
    assert len(list(kept.iterdir())) == 1
    assert found == [("32-true" if way == FP32 else "bf16-mixed", in_fp32)] * 2


def test_history_mode_and_memory_format_are_those_of_a_training(kept):
    first, second = network(), network().eval()
    history = train(first, transform=train_transform(), checks=Checks(Street(2, (32, 48), seed=9)))
    loaded = train(second.train(), transform=train_transform(), checks=Checks(Street(2, (32, 48), seed=9)))
    assert loaded == history
    assert len(list(kept.iterdir())) == 1
    assert same_bits(first, second)
    assert [part.training for part in first.modules()] == [part.training for part in second.modules()]
    strides = [[weight.stride() for weight in model.parameters()] for model in (first, second)]
    assert strides[0] == strides[1]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"learning_rate": 2e-3},
        {"seed": 1},
        {"objective": pixel_objective(torch.linspace(1, 2, 11))},
        {"objective": CVAEObjective},
        {"transform": train_transform(flip=True)},
        {"dataset": Street(4, (32, 48), seed=1)},
        {"checks": Checks(Street(2, (32, 48), seed=9))},
    ],
    ids=lambda change: "-".join(change),
)
def test_whatever_changes_the_result_has_a_place_of_its_own(kept, change):
    place = partial(reuse._place, fit.__wrapped__, network())
    streets = Street(4, (32, 48), seed=0)
    options = {"steps": 3, "batch_size": 2}
    assert place(streets, options) == place(Street(4, (32, 48), seed=0), {**options, "description": "other"})
    dataset = change.get("dataset", streets)
    changed = {**options, **{name: value for name, value in change.items() if name != "dataset"}}
    assert place(dataset, changed) != place(streets, options)


def test_other_weights_other_threads_and_another_library_are_another_training(kept, monkeypatch):
    streets, options = Street(4, (32, 48), seed=0), {"steps": 3}
    place = partial(reuse._place, fit.__wrapped__, dataset=streets, options=options)
    model, found = network(), {str(place(network()))}
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    found.add(str(place(model)))
    torch.set_num_threads(2)
    found.add(str(place(network())))
    torch.set_num_threads(1)
    monkeypatch.setattr(reuse, "library", lambda: "another")
    found.add(str(place(network())))
    assert len(found) == 4
    monkeypatch.undo()
    assert reuse.library() == reuse.library.__wrapped__()


@pytest.mark.parametrize("name", ["checkpoints", "checks", "on_step", "should_stop"])
def test_a_training_that_is_watched_is_always_made(kept, tmp_path, name):
    watching = {
        "checkpoints": Checkpoints(tmp_path / "one.safetensors"),
        "checks": Checks(Street(2, (32, 48)), measure=lambda _: {}),
        "on_step": lambda *_: None,
        "should_stop": lambda: False,
    }
    train(network(), **{name: watching[name]})
    assert not kept.exists()


def test_the_code_of_a_notebook_counts_not_its_names():
    def defined(source: str) -> object:
        names = {"__name__": "__main__", "torch": torch, "nn": nn}
        exec(source, names)
        return names["found"]

    def of(source: str) -> str:
        return str(Fingerprint(defined(source)))

    function = "scale = 2\ndef found(x):\n    return [scale * y for y in x]"
    assert of(function) == of("# the same\n" + function)
    assert of(function) != of(function.replace("scale * y", "scale + y"))
    assert of(function) != of(function.replace("scale = 2", "scale = 3"))
    net = "class found(nn.Module):\n    width = 3\n    def forward(self, x):\n        return x * self.width"
    assert of(net) == of(net)
    assert of(net) != of(net.replace("width = 3", "width = 4"))
    assert of(net) != of(net.replace("x * self", "x + self"))
    assert of(net + "\nfound = found()") != of(net.replace("x * self", "x + self") + "\nfound = found()")
    recursive = "def found(n):\n    return n and found(n - 1)"
    assert of(recursive) == of(recursive)


def test_what_has_no_content_to_compare_is_refused(kept, tmp_path, caplog):
    with pytest.raises(NotComparable, match="a generator cannot be compared"):
        Fingerprint(x for x in "ab")
    streets = Street(2, (32, 48), seed=0)
    assert reuse._place(fit.__wrapped__, network(), streets, {"transform": (x for x in "ab")}) is None
    assert "is made although COURSE_REUSE is set" in caplog.text


def test_values_of_another_type_or_order_are_others():
    pairs = [(1, 1.0), ([1, 2], [2, 1]), ("1", 1), (torch.ones(2), torch.ones(2, 1)), ({1: 2}, {2: 1})]
    assert [str(Fingerprint(one)) == str(Fingerprint(other)) for one, other in pairs] == [False] * len(pairs)
    assert str(Fingerprint(replace(RECIPE))) == str(Fingerprint(RECIPE))
