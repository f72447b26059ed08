"""The keys that a W&B run has logged, read from the file that recorded it on this machine."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7  # bytes: of a block of the file, before each part, and at its start
WHOLE, LAST = 1, 4  # kinds of parts that end a record


def run_file(place: Path) -> Path:
    """Return the file of a run, given it or its folder.

    Raises:
        FileNotFoundError: there is none.
    """
    files = [place] if place.is_file() else sorted(place.glob("run-*.wandb")) if place.is_dir() else []
    if not files:
        raise FileNotFoundError(
            f"{place}: has no run-ID.wandb; give the folder of a run, such as outputs/wandb/latest-run"
        )
    return files[0]


def logged_keys(file: Path) -> set[str]:
    """Return the keys that a run has logged, given its file; of pictures and tables those that panels name."""
    histories = (record.history for record in records(file.read_bytes()))  # empty in a record of another kind
    return {item_key(item).removesuffix("/_type") for history in histories for item in history.item}


def item_key(item: Any) -> str:
    """Return the key of a logged value; the parts of a nested one have one name."""
    return item.key or "/".join(item.nested_key)


def records(data: bytes) -> Iterator[Any]:
    """Yield the records of a file, without one that is not written to its end.

    A file consists of blocks of parts, each after a header of checksum, length and kind.
    """
    from wandb.proto import wandb_internal_pb2

    position, parts = FILE_HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # too little room for a header: the block is padded
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        if position + HEADER + length > len(data):  # the rest is not written yet
            return
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)  # type: ignore[attr-defined]  # made when it is imported
            parts = b""
