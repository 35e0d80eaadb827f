"""One progress bar for everything that takes more than two seconds."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item],
    description: str,
    *,
    total: int | None = None,
    initial: int = 0,
    show: bool = True,
    delay: float = 1.0,
) -> "tqdm[Item]":
    """Return a tqdm bar on stderr that appears after `delay` seconds.

    It is a text bar, so that an executed notebook keeps one line and no widget.
    """
    return tqdm(
        items,
        description,
        total=total,
        initial=initial,
        disable=not show,
        delay=delay,
        mininterval=0.5,
        file=sys.stderr,
        ncols=88,
    )
