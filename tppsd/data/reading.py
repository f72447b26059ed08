"""Read a data set of event sequences from files, from the hub or from memory, and build its sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tppsd.data.log import EventLog, inter_times, read_log
from tppsd.data.options import FRACTIONS, options_of
from tppsd.data.sequence_table import SequenceTable
from tppsd.data.sequences import EventSequence
from tppsd.data.splits import cut
from tppsd.data.tables import split_name
from tppsd.data.units import Clock

__all__ = ["FRACTIONS", "EventDataset", "cut", "read_dataset"]


@dataclass(frozen=True)
class EventDataset:
    """Holds a data set in splits; `index` of a sequence is its position in its split.

    Attributes:
        name: short name of the data set.
        splits: split -> sequences; "train" is always there.
        num_marks: size of the mark vocabulary (1 = unmarked).
        mark_names: string types of the data in the order of the marks, or None.
        notes: what a user should be told (files that were ignored).
        time_unit: name of the unit of the times, or None.
        time_origin: the timestamp (ISO 8601, UTC) that is time 0, or None where times are numbers.
        window, lookback: length of the windows and of the history before each, in units of time, or None.
    """

    name: str
    splits: dict[str, list[EventSequence]]
    num_marks: int
    mark_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    time_unit: str | None = None
    time_origin: str | None = None
    window: float | None = None
    lookback: float | None = None

    def sequences(self, split: str) -> list[EventSequence]:
        """Return the sequences of train, validation (val, valid, dev) or test."""
        name = split_name(split)
        if name not in self.splits:
            raise ValueError(f"{self.name}: there is no {name} split; there is {', '.join(self.splits)}")
        return self.splits[name]


def read_dataset(path: Any, **options: Any) -> EventDataset:
    """Read the data set at `path`.

    Args:
        path: folder of split files or of `DatasetDict.save_to_disk`, one file (Parquet, CSV, TSV, JSON, JSON lines or
            Feather, also as .gz, .bz2, .xz or .zst), a hub id, an fsspec URL; or what is in memory: a table (pandas,
            polars, Arrow, `datasets`), a list of EventSequence, or a dict of them by split.
        options: of `tppsd.data.options.ReadOptions`.

    Raises:
        FileNotFoundError, TypeError: there is nothing that could be read.
        ValueError: what stands in the way, all of it, each with the option that mends it.
    """
    return to_dataset(read_log(path, options_of(options)))


def to_dataset(log: EventLog) -> EventDataset:
    """Build the sequences of a log."""
    vocabulary, clock = log.vocabulary, log.clock
    return EventDataset(
        log.name,
        {split: _sequences(part, log.marks[split], clock) for split, part in log.parts.items()},
        vocabulary.num_marks,
        vocabulary.names,
        log.notes,
        clock.unit,
        log.time_origin,
        log.window,
        log.lookback,
    )


def _sequences(table: SequenceTable, marks: np.ndarray, clock: Clock) -> list[EventSequence]:
    """Build one EventSequence per sequence, on memory of its own (a view would be pickled with its whole table)."""
    lengths = table.lengths.tolist()
    times = clock.times(table.event_times)
    flat = [torch.from_numpy(values).split(lengths) for values in (times, marks, inter_times(table, clock))]
    stamps: Any = [None] * len(table)
    if clock.has_dates:
        stamps = torch.from_numpy(table.event_times.astype(np.int64)).split(lengths)
    edges = [clock.times(ticks).tolist() for ticks in (table.t_start, table.t_end)]
    score_start = [math.nan] * len(table) if table.score_start is None else clock.times(table.score_start).tolist()
    is_cut = [False] * len(table) if table.is_cut is None else table.is_cut.tolist()
    ids = [None] * len(table) if table.sequence_ids is None else table.sequence_ids.tolist()
    rows = zip(*flat, *edges, score_start, is_cut, ids, stamps, strict=True)
    return [
        EventSequence(
            event_times.clone(),
            row_marks.clone(),
            _finite_or_none(start),
            _finite_or_none(end),
            index,
            row_inter_times.clone(),
            _finite_or_none(scored),
            cut_off,
            name,
            None if row_stamps is None else row_stamps.clone(),
        )
        for index, (
            event_times,
            row_marks,
            row_inter_times,
            start,
            end,
            scored,
            cut_off,
            name,
            row_stamps,
        ) in enumerate(rows)
    ]


def _finite_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
