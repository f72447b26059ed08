"""What a W&B run that was recorded on this machine holds, read from its file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7  # bytes: of a block of the file, before each part, and at its start
WHOLE, LAST = 1, 4  # kinds of parts that end a record


@dataclass
class RecordedRun:
    """Holds what a run has recorded.

    Attributes:
        project: its name.
        config: by the names of its sections.
        history: key -> its values in order, as they were logged; of pictures and tables what describes them.
        summary: key -> its last value.
        artifacts: (name, type, whether it was used rather than made, metadata) of each.
    """

    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, str, bool, dict[str, Any]]] = field(default_factory=list)

    @property
    def keys(self) -> set[str]:
        """The keys that were logged; of pictures and tables those that panels name."""
        return {key.removesuffix("/_type") for key in self.history}


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


def read_recorded_run(file: Path) -> RecordedRun:
    """Read the file of a run; what was not written to its end is left out."""
    run = RecordedRun()
    for record in _records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.project = record.run.project
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "config":
            run.config.update({item.key: json.loads(item.value_json) for item in record.config.update if item.key})
        elif kind == "history":
            for key, value in _items(record.history.item):
                run.history.setdefault(key, []).append(value)
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
        elif kind == "artifact":
            made = record.artifact
            about = json.loads(made.metadata or "{}")
            run.artifacts.append((made.name, made.type, made.use_after_commit, about))
    return run


def _items(items: Any) -> Iterator[tuple[str, Any]]:
    for item in items:
        yield item.key or "/".join(item.nested_key), json.loads(item.value_json)


def _records(data: bytes) -> Iterator[Any]:
    """Yield the records of a file: blocks of parts, each after a header of checksum, length and kind."""
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
