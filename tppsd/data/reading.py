"""Read a data set of event sequences from files, from the hub or from memory, and build its sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tppsd.data.arrow import release_unused
from tppsd.data.files import format_of
from tppsd.data.flat_sequences import FlatSequences, tensor_on
from tppsd.data.log import EventLog, inter_times, read_log
from tppsd.data.mapped import MappedFile, open_mapped
from tppsd.data.memory import memory_for
from tppsd.data.options import ReadOptions
from tppsd.data.sequence_table import BLOCK, SequenceTable
from tppsd.data.sequences import EventSequence
from tppsd.data.tables import split_name
from tppsd.data.units import Clock


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
    splits: Mapping[str, Sequence[EventSequence]]
    num_marks: int
    mark_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    time_unit: str | None = None
    time_origin: str | None = None
    window: float | None = None
    lookback: float | None = None

    def sequences(self, split: str) -> Sequence[EventSequence]:
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

    An .arrow file of `tppsd convert` is mapped: its events stay on the disk.

    Raises:
        FileNotFoundError, TypeError: there is nothing that could be read.
        ValueError: what stands in the way, all of it, each with the option that mends it.
    """
    read = ReadOptions(**options)
    file, note = open_mapped(path, read)
    if file is not None:
        return _of_mapped(format_of(str(path)).stem, file)
    with memory_for(path):
        dataset = to_dataset(read_log(path, read))
    release_unused()
    return dataset if note is None else replace(dataset, notes=(*dataset.notes, note))


def _of_mapped(name: str, file: MappedFile) -> EventDataset:
    facts = file.facts
    return EventDataset(
        name,
        {split: file.sequences(split) for split in facts.splits},
        facts.num_marks,
        facts.mark_names,
        (),
        facts.time_unit,
        facts.time_origin,
        facts.window,
        facts.lookback,
    )


def to_dataset(log: EventLog) -> EventDataset:
    """Return the sequences of a log, each of which is built when it is asked for."""
    vocabulary, clock = log.vocabulary, log.clock
    return EventDataset(
        log.name,
        {split: _flat(part, log.marks[split], clock) for split, part in log.parts.items()},
        vocabulary.num_marks,
        vocabulary.names,
        log.notes,
        clock.unit,
        log.time_origin,
        log.window,
        log.lookback,
    )


def _flat(table: SequenceTable, marks: np.ndarray, clock: Clock) -> FlatSequences:
    """Return the sequences of a table, whose values have been checked, with times in units since the origin."""
    return FlatSequences(
        tensor_on(_times(table.event_times, clock)),
        tensor_on(inter_times(table, clock)),
        tensor_on(marks),
        tensor_on(table.offsets),
        tensor_on(clock.times(table.t_start)),
        tensor_on(clock.times(table.t_end)),
        tensor_on(clock.times(table.score_start)),
        tensor_on(table.is_cut),
        torch.arange(len(table)),
        None if table.sequence_ids is None else table.sequence_ids.tolist(),
        tensor_on(table.event_times.view(np.int64)) if clock.has_dates else None,
    )


def _times(ticks: np.ndarray, clock: Clock) -> np.ndarray:
    """Return the ticks of events as numbers of units, block by block."""
    if not clock.has_dates:
        return ticks
    times = np.empty(len(ticks))
    for start in range(0, len(ticks), BLOCK):
        times[start : start + BLOCK] = clock.times(ticks[start : start + BLOCK])
    return times
