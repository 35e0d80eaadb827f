"""What `import course_lib` costs a program that has imported torch."""

import statistics
import subprocess
import sys

from benchmarks.measure import Result

PROGRAM = """
import time, torch
began = time.perf_counter()
import course_lib
print(time.perf_counter() - began)
"""


def measure() -> list[Result]:
    """The median over new processes of the time between the two imports."""
    times = [
        float(subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    name = "import course_lib after import torch"
    return [Result(name, statistics.median(times), "s", 0.1, {"slowest (s)": max(times)}, True)]
