"""The options of `tppsd demo`, in a module of their own that all of its parts can import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Settings:
    """Holds the options of the demo.

    Attributes:
        data: folder or file of events, hub id, or process preset.
        columns: pairs of a field and the column that it is read from, where that is not the usual one.
        unmarked: the events have no marks, or theirs are left aside.
        output: folder of all results.
        target_seconds, draft_seconds: training times.
        num_sequences: how many sequences are sampled.
        seed: of data, training and sampling.
        threads: of training; None = torch's choice.
        reading: options of `tppsd.data.options.ReadOptions` that were given.
    """

    data: str
    columns: list[tuple[str, str]]
    unmarked: bool
    output: Path
    target_seconds: float
    draft_seconds: float
    num_sequences: int
    seed: int
    threads: int | None
    reading: dict[str, Any]
