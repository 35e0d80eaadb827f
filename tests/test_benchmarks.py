"""The benchmarks' own machinery; what they measure is measured by hand."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import gpu, inference, widgets
from benchmarks.measure import Result
from course_lib.data.scenes import Street
from course_lib.models.fcn import FCN
from course_lib.plumbing.devices import make_fabric
from course_lib.plumbing.paths import ROOT


def test_results_go_where_they_are_told(monkeypatch, tmp_path):
    one = SimpleNamespace(measure=lambda: [Result("a ratio", 2.0, "times", 1.5, {})])
    monkeypatch.setattr(command, "SUBJECTS", ("one",))
    monkeypatch.setitem(sys.modules, "benchmarks.one", one)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "one", "--out", str(tmp_path / "found.json")])
    assert command.main() == 0
    assert json.loads((tmp_path / "found.json").read_text())["results"][0]["ok"]


def test_the_explorers_are_as_fast_as_they_should_be():
    """In the run that is committed."""
    path = ROOT / "benchmarks" / "widgets_2_cores.json"
    results = {one["name"]: one for one in json.loads(path.read_text(encoding="utf-8"))["results"]}
    for name, (_, _, target) in widgets.SUBJECTS.items():
        assert results[f"slider to picture: {name}"]["value"] <= target
    pages = {name.replace("_", " "): name for name in widgets.ON_PAGES}
    measured = {name.removeprefix("on a page: ") for name in results if name.startswith("on a page: ")}
    assert measured == {f"{name} explorer" for name in pages} | {"refining a code"}
    assert all(one["ok"] and one["target"] <= widgets.REFINEMENT for one in results.values())
    assert results["on a page: refining a code"]["details"]["slowest (ms)"] <= widgets.REFINEMENT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_card_nothing_of_it_is_measured():
    assert list(gpu.measure()) == []


def test_the_first_round_does_not_count_and_the_median_does():
    rates = iter([1000.0, 3.0, 1.0, 2.0])
    assert gpu.in_rounds({"a": lambda: next(rates)}) == {"a": 2.0}


def test_tried_and_guessed_kernels_are_kept_apart():
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    seen = set()
    for tried in (True, False):
        with gpu.kernels(tried):
            assert cudnn.benchmark == tried
            seen.add(cudnn.conv.fp32_precision)
        assert (cudnn.benchmark, cudnn.conv.fp32_precision) == before
    assert len(seen) == 2


def test_every_contestant_runs_on_a_cpu_too(monkeypatch):
    """One tiny round of each, so that a mistake is not found on a rented card."""
    small = {"SIZE": (40, 56), "CROP": (32, 48), "BATCH": 2, "STEPS": 1, "ROUNDS": 1, "UNTIMED": 1, "TIMED": 2}
    for name, value in small.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "CHANGES", gpu.train_transform(crop=(32, 48), scale=(0.7, 2.0), jitter=0.3))
    make = partial(FCN, 11, stride=16, width=4, fc_channels=8, norm=True, padding="same")
    tiny = dict.fromkeys(gpu.FITTED, (make, 1.3))
    monkeypatch.setattr(gpu, "NETWORKS", tiny)
    fabric, pictures = make_fabric("32-true", accelerator="cpu"), Street(4, (40, 56))
    results = [result for name in tiny for result in gpu.stepping(fabric, name, pictures)]
    results += [gpu.evaluating(fabric, pictures), gpu.streaming(fabric, pictures)]
    assert len(results) == 2 * len(tiny) + 2
    assert all(result.value > 0 for result in results)


def test_a_network_is_compared_with_fcn(monkeypatch):
    monkeypatch.setattr(inference, "SIZE", (32, 48))
    monkeypatch.setattr(inference, "BASE", "small")
    make = partial(FCN, stride=16, width=4, fc_channels=8, padding="same")
    small, other = inference.times({"small": make, "other": make})
    assert small.value == 1
    assert other.details["parameters (10^6)"] == small.details["parameters (10^6)"]
    assert set(inference.FASTER) | {"fcn8s", "unet"} <= set(inference.NETWORKS)


def test_the_tables_of_predictions_are_those_of_the_file():
    text, report = inference.README.read_text(), json.loads(inference.KEPT.read_text())
    assert inference.with_tables(text, report) == text
    timed = {inference._name(one): one for one in report["results"] if one["name"].startswith(inference.SECONDS)}
    assert set(timed) == set(inference.NETWORKS)
    for name, one in timed.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} | {one['details']['ms']:.0f} |"))
        assert row.split(" | ")[2] == f"{timed['fcn8s']['details']['ms'] / one['details']['ms']:.3g}"
    counted = {one["name"]: one["value"] for one in report["results"] if "over those published" in one["name"]}
    assert set(counted) == {
        *(f"parameters of {name} over those published" for name in inference.PUBLISHED_PARAMETERS),
        *(f"multiply-adds of {name} over those published" for name in inference.PUBLISHED),
    }
    assert all(0.85 < value < 1.2 for value in counted.values())
