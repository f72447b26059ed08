"""The first pass over a log that is read block by block: the splits, marks, unit and origin that hold for all of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from tppsd.data.blocks import Block, Unstreamable
from tppsd.data.gaps import GapCounts, tick_gaps
from tppsd.data.log import clock_of
from tppsd.data.marks import MarkVocabulary
from tppsd.data.observation import observed_until
from tppsd.data.options import ReadOptions
from tppsd.data.sequence_table import SequenceTable, missing
from tppsd.data.splits import cut
from tppsd.data.tables import SPLITS
from tppsd.data.units import Clock


class Scan:
    """Finds what holds for a whole source, block by block."""

    def __init__(self) -> None:
        self.first: SequenceTable | None = None
        self.num_sequences: Counter[str | None] = Counter()
        self.first_seen: dict[tuple[str | None, Any], int] = {}  # (split, type) -> the sequence with its first event
        self.ticks: list[Any] = []  # the earliest of each block
        self.last: Any = None
        self.gaps = GapCounts()
        self.num_duplicates = 0
        self._ids: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        """Take up a block.

        Raises:
            Unstreamable: its columns are of other kinds than those of the first.
        """
        table = block.table
        self.first = table if self.first is None else self.first
        if _kind(table) != _kind(self.first):
            raise Unstreamable("its columns change their kind on the way")
        if table.marks is not None:
            self._see(block)
        if table.has_dates:
            ticks = np.concatenate([table.event_times, table.t_start])
            self.ticks.append(ticks[~missing(ticks)].min())
            self.gaps.add(tick_gaps(table))
        last = observed_until(table).max()
        self.last = last if self.last is None else max(self.last, last)
        self.num_sequences[block.split] += len(table)
        self.num_duplicates += table.num_duplicates
        if not table.one_row_each:
            self._ids.append(_hashes(block.split, table.sequence_ids))

    def _see(self, block: Block) -> None:
        codes = block.table.marks.dictionary_encode()
        first = np.unique(codes.indices.to_numpy(), return_index=True)[1]
        sequences = np.searchsorted(block.table.offsets, first, side="right") - 1 + self.num_sequences[block.split]
        for kind, sequence in zip(codes.dictionary.to_pylist(), sequences.tolist(), strict=True):
            self.first_seen.setdefault((block.split, kind), sequence)

    def edges(self, options: ReadOptions) -> dict[str, tuple[int, int]]:
        """Return split -> the range of its sequences.

        Raises:
            Unstreamable: the rows of a sequence do not stand together, or the split column is not that of a whole file.
            ValueError: a split is empty.
        """
        assert self.first is not None
        ids = np.concatenate(self._ids) if self._ids else np.zeros(0)
        if len(np.unique(ids)) < len(ids):
            raise Unstreamable("the rows of a sequence do not stand together (sort them by sequence and time)")
        if list(self.num_sequences) == [None]:
            return cut(self.num_sequences[None], options.fractions, self.first.source)
        if None in self.num_sequences or "train" not in self.num_sequences:
            raise Unstreamable("not all of its rows name a split, or none names train")
        return {split: (0, self.num_sequences[split]) for split in SPLITS if split in self.num_sequences}

    def understood(self, options: ReadOptions, num_train: int) -> tuple[Clock, MarkVocabulary]:
        """Return clock and vocabulary of the whole log: those of a table that has what they depend on, and no more."""
        import pyarrow as pa

        assert self.first is not None
        brief = self.first
        if brief.marks is not None:
            kinds = [
                kind
                for (split, kind), sequence in self.first_seen.items()
                if split == "train" or (split is None and sequence < num_train)
            ]
            brief = replace(brief, marks=pa.array(kinds, brief.marks.type))
        if brief.has_dates:
            times = np.array([min(self.ticks), min(self.ticks) + np.timedelta64(self.gaps.typical(), "ns")])
            brief = replace(brief, event_times=times, offsets=np.array([0, 2]), t_start=times[:1])
        return clock_of([brief], options), MarkVocabulary.of(brief, None, options.mark_names)


def _kind(table: SequenceTable) -> tuple[Any, ...]:
    marks = None if table.marks is None else str(table.marks.type)
    return table.has_dates, table.one_row_each, marks, table.num_marks, table.own, table.columns


def _hashes(split: str | None, ids: np.ndarray | None) -> np.ndarray:
    """Return a number of 64 bits for each id in a split: 10^7 of them agree by chance once in 400,000 times."""
    import pandas

    names = np.array([f"{split} {one}" for one in (() if ids is None else ids)], dtype=object)
    hashes: np.ndarray = pandas.util.hash_array(names)
    return hashes
