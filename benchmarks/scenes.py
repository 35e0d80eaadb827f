"""Generated pictures a second on one core, at the quick profile's size."""

import json
import os
import subprocess
import sys
import time

from benchmarks.measure import Result, in_turn
from course_lib.plumbing.paths import ROOT

PICTURES, SIZE = 40, (96, 128)
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def measure() -> list[Result]:
    """In a process of its own, because the number of threads is settled when numpy is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scenes"],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        check=True,
        capture_output=True,
        text=True,
    )
    rates = json.loads(done.stdout)
    return [
        Result(f"generated scenes, {family}, 96x128", rate, "pictures/s on one core", 300, {})
        for family, rate in rates.items()
    ]


def rates() -> dict[str, float]:
    """Pictures per second of processor time: what other programs do meanwhile does not count."""
    from course_lib.data.scenes import Objects, Street

    sets = {"street": Street(PICTURES, SIZE), "objects": Objects(PICTURES, SIZE)}
    calls = {name: lambda scenes=scenes: [scenes[index] for index in range(PICTURES)] for name, scenes in sets.items()}
    seconds = in_turn(calls, repeats=7, clock=time.process_time)
    return {name: PICTURES / value for name, value in seconds.items()}


if __name__ == "__main__":
    print(json.dumps(rates()))
