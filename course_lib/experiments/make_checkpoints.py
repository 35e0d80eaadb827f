"""Make the committed checkpoints again: `python -m course_lib.experiments.make_checkpoints`.

Each is the half-precision copy of a recorded run on generated pictures, so anyone can repeat it.
"""

from course_lib.experiments.recipes import read_table, resolve
from course_lib.experiments.reproduce import make_checkpoint

STREET_TABLES = ("fcn_street", "drn_street")
"""Row `a_b` of one of these becomes the checkpoint `a-b-street`."""

OTHERS = {
    "fcn-alexnet-objects": ("receptive_objects", "fcn_alexnet"),
    "deeplab-explicit-street": ("implicit_street", "explicit"),
    "deeplab-implicit-street": ("implicit_street", "implicit"),
    "deeplab-scribe-street": ("implicit_street", "scribe"),
    "cvae-ambiguous-objects": ("cvae_ambiguity", "codes"),
    "cvae-street": ("cvae_street", "product"),
    "cvae-street-concat": ("cvae_street", "concat"),
}
"""The checkpoints with names of their own, and the table and row that each is made from."""

if __name__ == "__main__":
    for name, (table, row) in OTHERS.items():
        path = make_checkpoint(resolve(table, row, "laptop"), name)
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    for table in STREET_TABLES:
        for row in read_table(table)["rows"]:
            name = row.replace("_", "-") + "-street"
            path = make_checkpoint(resolve(table, row, "laptop"), name)
            print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
