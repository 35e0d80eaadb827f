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


def report_of(results: list[Result]) -> dict:
    report = command.report(results)
    return json.loads(json.dumps(report | {"machine": {"cpu": "a processor", "cores": 2, "gpu": ""}}))


def test_predictions_as_a_table(monkeypatch):
    def predicted(name: str, ms: float) -> Result:
        details = {"ms": ms, "images/s": 2000 / ms, "times as many a second": 500 / ms}
        details |= {"multiply-adds (10^9)": 1.25, "parameters (10^6)": 0.5}
        return Result(
            f"{inference.SECONDS}{name} at 360x480 on cpu, FCN-8s's time over its own", 500 / ms, "", 0, details
        )

    networks = {"enet": inference.NETWORKS["enet"]}
    monkeypatch.setattr(inference, "times", lambda of: [predicted("fcn8s", 500.0), predicted("enet", 40.0)])
    monkeypatch.setattr(inference, "NETWORKS", inference.NETWORKS | networks)
    results = list(inference.measure())
    assert all(0.85 < one.value < 1.2 for one in results if "over those published" in one.name)
    text = inference.with_tables(
        "before\n<!-- begin inference -->\nold\n<!-- end inference -->\nafter", report_of(results)
    )
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith(("| enet | 4", "| fcn8s"))]
    assert rows == ["| enet | 40 | 12.5 | 50 | 12.5 | 1.25 | 0.5 |", "| fcn8s | 500 | 1 | 4 | 1 | 1.25 | 0.5 |"]
    assert "| enet | 10^6 parameters | 11 | 0.3638 | 0.3505 |" in text
    assert "| hrnet | 10^9 multiply-adds | 19 | 747.5 | 747.3 | 1024x2048; the paper |" in text
    assert len(lines) == 2 + 2 + 2 + 4 + 1 + 2 + len(inference.PUBLISHED) + len(inference.PUBLISHED_PARAMETERS)


def test_the_tables_of_predictions_are_those_of_the_file():
    text = inference.README.read_text()
    if not inference.KEPT.exists():
        assert f"{inference.BEGIN}\nNot measured yet" in text
        return
    report = json.loads(inference.KEPT.read_text())
    assert inference.with_tables(text, report) == text
    timed = {inference._name(one) for one in report["results"] if one["name"].startswith(inference.SECONDS)}
    assert timed == set(inference.NETWORKS)
