"""Files that take their name when all of them is written, so that an interrupted write leaves nothing behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = "make room on the disk, or write elsewhere"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit of the size of a file (`ulimit -f`), or write elsewhere",
}


class UnwritableError(OSError):
    """Says in one sentence which file cannot be written, why, and what to do.

    Args:
        number: the error of the operating system, or None.
        reason: why, where the number does not tell.
        path: of the file; None = it is not known.
    """

    def __init__(self, number: int | None, reason: str, path: str | Path | None = None) -> None:
        super().__init__(number, os.strerror(number) if number else reason, None if path is None else str(path))

    def __str__(self) -> str:
        place = "what is printed or logged" if self.filename is None else f"{self.filename}:"
        return f"{place} cannot be written ({self.strerror}); {_ADVICE.get(self.errno or 0, 'write elsewhere')}"


def is_full(error: OSError) -> bool:
    """Say whether a disk or a quota is full, or a file as large as files may be."""
    return error.errno in _ADVICE


@contextmanager
def named_file(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an error of the operating system name the file that cannot be written.

    Args:
        path: of the file.
        temporary: the name that it has while it is written.

    Raises:
        UnwritableError: it cannot be written.
    """
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        if error.filename not in (None, str(path), str(temporary)):
            raise
        raise UnwritableError(error.errno, str(error), path) from error


@contextmanager
def whole_or_absent(path: str | Path, is_synced: bool = False) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`, which takes its name at the end, and is gone after an error.

    Args:
        path: of the file; its folder is made where there is none.
        is_synced: have all of it on the disk before it takes its name, and its name on the disk at the end.

    Raises:
        UnwritableError: it cannot be written, as on a full disk.
        ValueError: the path is a URL, has no name of a file, or is something else than a file, such as /dev/null.
    """
    from tppsd.data.paths import for_arrow, local_path  # sampling, which writes nothing, does without

    path = local_path(path)
    if not path.name:
        raise ValueError(f"'{path}' is a folder, not a file to write; name a file")
    if path.exists() and not path.is_file():  # root would put a file in the place of a device
        what = "a folder" if path.is_dir() else "a device or a pipe"
        raise ValueError(f"'{path}' is {what}, not a file to write; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = for_arrow(path.with_name(f".{path.name}.{os.getpid()}"))
    try:
        with named_file(path, temporary):
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
