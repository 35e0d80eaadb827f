"""How an exercise answers: "not solved yet" until it is, and never with a traceback."""

from collections.abc import Callable


def check(name: str, *tests: Callable[[], object]) -> None:
    """Print whether an exercise is solved: every one of `tests`, called without arguments, must be true.

    A test that raises counts as not solved, and the error is shown in one line.
    """
    for number, test in enumerate(tests, start=1):
        try:
            solved = bool(test())
            reason = f"check {number} of {len(tests)} does not hold"
        except Exception as error:
            solved, reason = (False, f"check {number} of {len(tests)}: {type(error).__name__}: {error}")
        if not solved:
            print(f"{name}: not solved yet ({reason})")
            return
    print(f"{name}: solved")
