"""What a machine is good at: rates from counted operations and a clock."""

import itertools

import pytest
import torch

from course_lib.plumbing import machine


def test_the_seconds_of_a_call_leave_out_the_first_two():
    ticks, calls = itertools.count(), []
    assert machine.seconds_of(lambda: calls.append(1), lambda: None, most=3, clock=lambda: next(ticks)) == 3 / 12
    assert len(calls) == 2 + 12


def test_rates_are_operations_over_seconds(monkeypatch):
    """Every call is said to take a microsecond: what remains is the number of multiplications and additions."""
    seen = []

    def a_microsecond(call, wait, most):
        seen.append((call().dtype, torch.is_autocast_enabled("cpu")))
        return 1e-6

    monkeypatch.setattr(machine, "seconds_of", a_microsecond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rates = machine.speeds(torch.device("cpu"), size=64)
    assert list(rates) == ["bf16", "TF32", "fp32"]
    for of in rates.values():
        assert of["product"] == pytest.approx(64 * 64 * (64 + 64) / 1e6)
        assert of["convolution"] == pytest.approx(16 * 56 * 56 * 4 * 2 * (4 * 9) / 1e6)
    assert [dtype for dtype, _ in seen] == [torch.bfloat16] * 2 + [torch.float32] * 4
    assert not any(autocast for _, autocast in seen)


def test_a_package_without_metadata_stops_no_record(monkeypatch):
    def version(name):
        if name == "lightning-fabric":
            raise machine.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(machine.metadata, "version", version)
    assert machine.versions()["lightning-fabric"] == "unknown"
    assert machine.versions()["torch"] == "1"
