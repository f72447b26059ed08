"""A progress bar for whatever takes more than a few seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress(console: Any, text: str, total: int, is_shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a bar that goes when all is done; the yielded function advances it, by one or by as many as it is told.

    Args:
        console: of rich; None = standard output.
    """
    if not is_shown:
        yield lambda num=1: None
        return
    from rich.progress import Progress

    with Progress(
        console=console, transient=True, refresh_per_second=2
    ) as bar:  # drawing takes time from what is timed
        task = bar.add_task(text, total=total)
        yield lambda num=1: bar.advance(task, num)
