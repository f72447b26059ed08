"""Paths of what is read and written: URLs may be read, and results are local files."""

from __future__ import annotations

import re
from pathlib import Path

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # of two letters at least: one is a drive


def is_url(path: str | Path) -> bool:
    """Say whether a path is a URL of any protocol of fsspec, such as s3://bucket/log.parquet or https://..."""
    return "://" in str(path)


def local_path(path: str | Path, option: str = "the output") -> Path:
    """Return the path of something to write; `exp:1` is a legal name, while a URL would become a folder `s3:`.

    It is known for one also where it has been a Path, which makes s3:/bucket of s3://bucket.

    Args:
        path: what a user gave.
        option: by which it was given.

    Raises:
        ValueError: it is a URL.
    """
    is_collapsed = isinstance(path, Path) and len(path.parts) > 1 and _PROTOCOL.fullmatch(path.parts[0])
    if is_url(path) or is_collapsed:
        raise ValueError(f"{option} {path} is a URL, and results are written to local files; give a path, and copy it")
    return Path(path)


def for_arrow(path: str | Path) -> Path:
    """Return an absolute path: Arrow takes a relative one with a colon, `exp:1/log.parquet`, for a URL."""
    return Path(path).absolute()
