"""The folders that compiled libraries are kept in: nobody else may write there, and one process at a time does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_WAIT = 120.0  # seconds for another process that compiles: ten times as long as that takes


class UntrustedFolderError(OSError):
    """Says that somebody else could put files into a folder, which would be run."""


def candidates() -> Iterator[Path]:
    """Yield folders where libraries may be kept, the best first; in the last one a library is lost with the process."""
    with contextlib.suppress(RuntimeError):  # there is no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tppsd"
    with contextlib.suppress(OSError):  # there is no folder for temporary files
        yield Path(tempfile.gettempdir()) / f"tppsd-{os.geteuid()}"
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def prepared(folder: Path) -> Path:
    """Make a folder where there is none, and return it without symbolic links once it is known to be private.

    Raises:
        UntrustedFolderError: somebody else owns the folder or can write to it, or to a folder above it, so that it
            could be replaced. Folders above it may be those of root, and may be writable where their sticky bit is set.
        OSError: it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    if missing:
        _check_chain(missing[-1].parent.resolve(), is_end=False)
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process has just made it
                place.mkdir(mode=0o700)
    folder = folder.resolve()
    _check_chain(folder, is_end=True)
    return folder


def is_whole(path: Path, digest: str) -> bool:
    """Say whether a file is this user's alone and has that SHA-256 digest."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            is_private = about.st_uid == os.geteuid() and not about.st_mode & _WRITABLE_BY_OTHERS
            return stat.S_ISREG(about.st_mode) and is_private and digest_of(path) == digest
    except OSError:
        return False


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Wait until no other process has locked the folder, and lock it.

    Yields whether it is locked: some file systems know no locks, and a process that has been stopped is not waited for
    longer than two minutes. Whoever goes on without the lock repeats work that is done elsewhere, which does no harm.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)  # which unlocks it


def _lock(descriptor: int) -> bool:
    import fcntl  # not on Windows, where nothing is compiled

    end = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            return False
    return False


def _check_chain(folder: Path, is_end: bool) -> None:
    """Check a folder and all above it.

    Args:
        is_end: libraries lie in the folder itself, not further down.
    """
    own = os.geteuid()
    for place in (folder, *folder.parents):
        about, is_kept_in = place.stat(), is_end and place == folder
        if about.st_uid != own and (is_kept_in or about.st_uid != 0):
            raise UntrustedFolderError(f"{place} belongs to another user (number {about.st_uid})")
        if about.st_mode & _WRITABLE_BY_OTHERS and (is_kept_in or not about.st_mode & stat.S_ISVTX):
            mode = stat.S_IMODE(about.st_mode)
            raise UntrustedFolderError(f"others can write to {place} (mode {mode:o}); `chmod go-w {place}` mends that")
