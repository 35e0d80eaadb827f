"""What a graded notebook runs after an answer: the value of a call, as plain JSON, in an output of its own kind."""

from collections.abc import Callable

MIME = "application/vnd.every-pixel.value+json"
MANY = 20_000
"""Numbers that a value may hold: more is no answer."""


def plain(value: object, _left: list[int] | None = None) -> object:
    """Return a value as JSON can hold it: tensors and arrays as lists, sets sorted, numbers as Python's.

    Raises:
        TypeError: It holds what is neither a number, text nor a collection of these.
        ValueError: It holds too much.
    """
    left = _left or [MANY]
    if hasattr(value, "numel" if hasattr(value, "numel") else "size") and hasattr(value, "tolist"):
        size = value.numel() if hasattr(value, "numel") else value.size
        if size > left[0]:
            raise ValueError(f"{size:,} numbers are no answer")
        value = value.tolist()
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"more than {MANY:,} values are no answer")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, dict):
        return {str(key): plain(one, left) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(one, left) for one in sorted(value)]
    if isinstance(value, list | tuple):
        return [plain(one, left) for one in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def probe(call: Callable[[], object]) -> None:
    """Show the value of a call, or its error, as an output of the kind `MIME`."""
    from IPython.display import display

    try:
        content = {"value": plain(call())}
    except Exception as error:
        content = {"error": f"{type(error).__name__}: {error}"[:300]}
    display({MIME: content}, raw=True)


def probing(call: str) -> str:
    """Return the code of a cell that probes an expression, whatever names the notebook has bound."""
    return f'__import__("course_lib.notebook_tools.probe", fromlist=["probe"]).probe(lambda: {call})'
