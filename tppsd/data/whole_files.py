"""Files that take their name when all of them is written, so that an interrupted write leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_or_absent(path: str | Path, is_synced: bool = False) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`, which takes its name at the end, and is gone after an error.

    Args:
        path: of the file; its folder is made where there is none.
        is_synced: have all of it on the disk before it takes its name, and its name on the disk at the end.

    Raises:
        ValueError: the path is a URL.
    """
    from tppsd.data.paths import for_arrow, local_path  # sampling, which writes nothing, does without

    path = local_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = for_arrow(path.with_name(f".{path.name}.{os.getpid()}"))
    try:
        yield temporary
        if is_synced:
            sync_file(temporary)
        os.replace(temporary, path)
        if is_synced:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Have all of a file on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have a rename in `folder` survive a loss of power, where the system can promise that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor can every network file system
        pass
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file, whole or not at all, and return its path."""
    with whole_or_absent(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
