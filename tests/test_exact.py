"""Full float32: what is switched off inside `exact`, and back on after it."""

import pytest
import torch
from torch import nn

from course_lib.experiments.measures import MEASURES
from course_lib.plumbing import machine
from course_lib.plumbing.exact import SWITCHES, exact, tf32

CARD = ("convolutions", "recurrent layers", "products")


def state() -> dict[str, object]:
    found = {name: switch.fp32_precision for name, switch in SWITCHES.items()}
    return found | {"autocast": torch.is_autocast_enabled("cpu"), "kernels tried": torch.backends.cudnn.benchmark}


@pytest.fixture
def all_on():
    """TF32 and bfloat16 wherever torch has them, and kernels tried; afterwards as before."""
    before = state()
    for name in CARD:
        SWITCHES[name].fp32_precision = "tf32"
    SWITCHES["products of the CPU"].fp32_precision = "bf16"
    torch.backends.cudnn.benchmark = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield state()
    torch.backends.cudnn.benchmark = before["kernels tried"]
    for name, switch in SWITCHES.items():
        switch.fp32_precision = before[name]


OFF = dict.fromkeys(SWITCHES, "ieee") | {"autocast": False, "kernels tried": False}


def test_all_is_off_inside_and_back_outside(all_on):
    with exact():
        assert state() == OFF
        with exact():
            pass
        assert state() == OFF
    assert state() == all_on


def test_all_is_back_after_an_error(all_on):
    with pytest.raises(KeyError), exact():
        raise KeyError
    assert state() == all_on


def test_a_decorated_function_computes_in_float32(all_on):
    layer, images = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    assert layer(images).dtype == torch.bfloat16
    assert exact()(layer)(images).dtype == torch.float32
    assert state() == all_on


def test_the_use_of_a_code_is_measured_exactly(all_on, monkeypatch):
    seen = []
    monkeypatch.setattr("course_lib.experiments.measures.code_use", lambda *_: seen.append(state()))
    MEASURES["code"](nn.Identity(), [], None)
    assert seen == [OFF]


def test_a_record_says_what_may_use_tf32(all_on):
    assert machine.describe()["tf32"] == ", ".join(CARD) == tf32()
    with exact():
        assert machine.describe()["tf32"] == "off"
