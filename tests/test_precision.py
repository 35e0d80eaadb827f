"""Each layer's bfloat16 is compared with float32, and a wrong layer computes in float32."""

import copy
import pickle

import pytest
import torch
from precision_helpers import WrongConv, network
from torch import nn
from torch.nn.utils import parametrizations

from course_lib.models.blocks import PointwiseConv
from course_lib.plumbing import precision
from course_lib.plumbing.paths import ROOT
from course_lib.plumbing.precision import (
    PARTS,
    call_of,
    errors,
    findings,
    is_wrong,
    keep_in_fp32,
    layer_calls,
    release,
    wrong_layers,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))


def call(layer: nn.Module, *sizes: int, channels_last: bool = True) -> precision.Call:
    x = torch.randn(sizes)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x
    layer = layer.to(memory_format=torch.channels_last) if channels_last else layer
    with torch.no_grad():
        return call_of(layer, (x,), layer(x))


# -- one layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 12, 16)),
        (nn.Conv2d(1, 1, 1), (1, 1, 1, 1)),
        (nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16), (2, 16, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 4, stride=2), (2, 4, 5, 6)),
        (PointwiseConv(16, 32, stride=2), (2, 16, 9, 9)),
        (nn.Linear(1, 1), (1, 1)),
        (nn.Linear(40, 3), (5, 40)),
    ],
    ids=str,
)
def test_right_layers_differ_by_rounding(layer, sizes):
    before = copy.deepcopy(layer.state_dict())
    for seed in range(3):
        found = errors(call(layer, *sizes), torch.bfloat16, seed=seed)
        assert len(found) == len(PARTS)
        assert max(found) < 0.01, found
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_wrong_part_is_found(part):
    found = errors(call(WrongConv(8, 8, part), 2, 8, 10, 10), torch.bfloat16)
    assert [not error <= precision.WRONG for error in found] == [index == part for index in range(3)]
    assert is_wrong(found)
    assert PARTS[part] in precision.describe_errors(found)


def test_zero_weights_hide_nothing():
    """FCN's scores start at zero, where every gradient of the input is zero, wrong or not."""
    layer = WrongConv(8, 8, 1)
    nn.init.zeros_(layer.weight)
    assert is_wrong(errors(call(layer, 1, 8, 6, 6), torch.bfloat16))


def test_a_layer_is_tried_at_its_own_shape_but_on_few_pictures_where_it_is_large():
    large = call(nn.Conv2d(16, 32, 3, padding=1), 4, 16, 300, 400)
    assert precision._pictures(large) == 1
    assert precision._pictures(call(nn.Conv2d(16, 32, 3), 4, 16, 30, 40)) == 4


def test_calls_have_all_that_decides_the_kernel():
    layer = nn.Conv2d(8, 8, 3, padding=1)
    others = [
        call(nn.Conv2d(8, 8, 3, padding=2, dilation=2), 2, 8, 9, 9),
        call(nn.Conv2d(8, 8, 3, padding=1, groups=2), 2, 8, 9, 9),
        call(copy.deepcopy(layer), 1, 8, 9, 9),
        call(copy.deepcopy(layer), 2, 8, 9, 10),
        call(copy.deepcopy(layer), 2, 8, 9, 9, channels_last=False),
        call(WrongConv(8, 8, 1), 2, 8, 9, 9),
    ]
    names = {str(one) for one in [*others, call(layer, 2, 8, 9, 9)]}
    assert len(names) == 7
    assert str(call(nn.Conv2d(8, 8, 3, padding=1), 2, 8, 9, 9)) in names


def test_each_distinct_call_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(precision, "errors", lambda call, dtype, seed=0: tried.append(str(call)) or [0.0, 0.0, 0.0])
    same = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]
    model = nn.Sequential(*same, nn.MaxPool2d(2), same[0])
    calls = layer_calls(model, lambda: model(torch.randn(1, 4, 8, 8)))
    assert {name: len(found) for name, found in calls.items()} == {"0": 2, "1": 1, "2": 1}
    known: dict[str, object] = {}
    assert wrong_layers(calls, torch.bfloat16, known) == {}
    assert len(tried) == len(known) == 2
    wrong_layers(calls, torch.bfloat16, known)
    assert len(tried) == 2
    assert not any(layer._forward_hooks for layer in model.modules())


class Upwards(nn.Module):
    """It calls a layer as some networks do: by the names of its arguments."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 5, 3, stride=2)

    def forward(self, x):
        return self.up(output_size=(18, 18), input=x)


class Alone(nn.Sequential):
    """It calls its layers with one picture at a time."""

    def forward(self, x):
        return torch.stack([super(Alone, self).forward(picture) for picture in x])


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_layer_is_tried_as_the_layer_it_is(norm):
    model = nn.Sequential(norm(nn.Conv2d(3, 6, 3)), norm(WrongConv(6, 4, 1)))
    names = list(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        calls = layer_calls(model, lambda: model(x))
        assert list(wrong_layers(calls, torch.bfloat16, {})) == ["1"]
        assert type(calls["0"][0].layer) is nn.Conv2d
        assert list(model.state_dict()) == names
    assert model[0].weight.shape == (6, 3, 3, 3)


@pytest.mark.parametrize("model", [Upwards(), Alone(nn.Conv2d(3, 6, 3), nn.Flatten(0), nn.Linear(216, 7))])
def test_layers_are_tried_as_they_are_called(model):
    calls = layer_calls(model, lambda: model(torch.randn(2, 3, 8, 8)))
    assert calls
    assert wrong_layers(calls, torch.bfloat16, {}) == {}


# -- a layer in float32 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_layer_that_is_kept_in_float32(copied):
    model = network(part=1)
    names = list(model.state_dict())
    keep_in_fp32(model[2])
    model = copied(model)
    assert list(model.state_dict()) == names
    types = {}
    for index in (0, 2, 4):
        model[index].register_forward_hook(lambda _, __, output, index=index: types.update({index: output.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(2, 3, 16, 20)).mean().backward()
    assert types == {0: torch.bfloat16, 2: torch.float32, 4: torch.bfloat16}
    with torch.no_grad():
        model[2].weight.zero_()
    assert not model[2](torch.randn(1, 8, 4, 4)).any()  # it reads its own weights, not those of the original
    release(model)
    assert "forward" not in vars(model[2])


def test_nothing_is_kept_of_a_trial_that_broke():
    def broken() -> None:
        with findings(CPU) as known:
            known["one"] = 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    with findings(CPU) as known:
        assert known == {}


# -- this processor's kernels ---------------------------------------------------------------------------------------


def test_a_scan_names_what_is_wrong():
    layers = [(WrongConv(8, 8, 1), (1, 8, 6, 6)), (nn.Conv2d(8, 8, 3), (1, 8, 6, 6))]
    found = precision.scan(layers, torch.bfloat16)
    wrong = {name: precision.describe_errors(one) for name, one in found.items() if is_wrong(one)}
    assert list(wrong) == ["WrongConv 8 -> 8, kernel 3x3, stride 1"]
    assert "input's gradient off by 2" in wrong["WrongConv 8 -> 8, kernel 3x3, stride 1"]
    assert len(found) == 2


def test_the_short_scan_has_the_kernels_that_are_known_to_be_wrong():
    names = [precision.describe(call_of(layer, (), layer.weight)) for layer, _ in precision.common_layers()]
    assert len(set(names)) == len(names) == 40
    assert "Conv2d 12 -> 16, kernel 8x8, stride 2" in names
    assert "ConvTranspose2d 12 -> 12, kernel 16x16, stride 8" in names


def test_the_program_of_the_report_runs(capsys):
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    exec(program, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.count("%") == 3 for line in lines[1:])
