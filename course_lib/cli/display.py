"""What `course run` and `course reproduce` show while they work: bars in a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Sequence
from typing import Self

from rich.console import Console


def open_console() -> Console:
    """Return the terminal's console, or one that folds no paths where the output is a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


class Bars:
    """A bar for each task while the block lasts, where `console` is a terminal.

    Attributes:
        bars: rich's progress; a task needs the field `status`.
        live: Whether the bars are seen; elsewhere subclasses print lines with `say`.
        width: Of the longest of `names`.
    """

    def __init__(self, console: Console, names: Iterable[str], unit: str = "") -> None:
        from rich import progress

        self.console, self.live = console, console.is_terminal
        self.width = max(map(len, names), default=0)
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.completed:.0f}/{task.total:.0f}" + unit),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not self.live,
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def count_statuses(statuses: Sequence[str], known: Iterable[str]) -> str:
    """Return how often each of the `known` statuses occurs, such as "3 ok, 1 failed"."""
    return ", ".join(f"{statuses.count(status)} {status}" for status in known if status in statuses)
