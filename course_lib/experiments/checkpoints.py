"""Make the committed checkpoints again: `python -m course_lib.experiments.checkpoints`.

Each is the half-precision copy of a recorded run on generated pictures, so anyone can repeat it.
"""

from course_lib.experiments.recipes import read_table, resolve
from course_lib.experiments.reproduce import make_checkpoint

if __name__ == "__main__":
    for row in read_table("fcn_street")["rows"]:
        path = make_checkpoint(resolve("fcn_street", row, "laptop"), f"{row}-street")
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
