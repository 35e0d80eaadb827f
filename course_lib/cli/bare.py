"""`course evidence` where typer cannot read its options: `python -m course_lib.cli.bare --minutes 60`.

Of what `course pack` takes along, typer asks for a compiled package that fits one Python only. This reads the same
options with the standard library, and calls the same function.
"""

import argparse
import inspect
import sys

import typer

from course_lib.cli.evidence import evidence

TYPES = {"minutes": float, "jobs": int, "gpus": int}


def main(arguments: list[str]) -> int:
    """Call `evidence` with options of the command line; return its exit code."""
    parser = argparse.ArgumentParser("course evidence", description=inspect.getdoc(evidence).splitlines()[0])
    for name, option in inspect.signature(evidence).parameters.items():
        names = [f"--{name.replace('_', '-')}", *(["-j"] if name == "jobs" else [])]
        if option.default is False:
            parser.add_argument(*names, action="store_true")
        elif name == "slurm":
            parser.add_argument(*names, action="append", metavar="KEY=VALUE")
        else:
            parser.add_argument(*names, type=TYPES.get(name, str), default=option.default)
    try:
        evidence(**vars(parser.parse_args(arguments)))
    except typer.Exit as found:
        return found.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
