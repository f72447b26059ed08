"""Many event sequences in flat storage, of which each is built when it is asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from tppsd.data.sequence_table import block_edges
from tppsd.data.sequences import EventSequence

BLOCK = 2**20  # events that are looked at together where all of a split is; statistics depend on it in the last bit


@dataclass(frozen=True, eq=False)
class FlatSequences(Sequence[EventSequence]):
    """Holds sequences one after the other, and is a sequence of EventSequence.

    A million short sequences take here what their numbers take; as a million objects they would take 30 times that.
    An item is built, on memory of its own (a view would be pickled with the whole storage), each time it is asked for;
    it is not checked again.

    Attributes:
        event_times, inter_times: float64 (num_events,).
        marks: int64 (num_events,).
        offsets: int64 (num_sequences + 1,); sequence i holds the events offsets[i]:offsets[i + 1].
        t_start, t_end, score_start: float64 (num_sequences,), NaN where there is none.
        censored_start: bool (num_sequences,).
        index: int64 (num_sequences,), as of EventSequence.
        ids: of the sequences, (num_sequences,), or None where there are none.
        timestamps: int64 (num_events,), or None.
    """

    event_times: Tensor
    inter_times: Tensor
    marks: Tensor
    offsets: Tensor
    t_start: Tensor
    t_end: Tensor
    score_start: Tensor
    censored_start: Tensor
    index: Tensor  # type: ignore[assignment]  # hides Sequence.index: no sequence equals another
    ids: Sequence[Any] | None = None
    timestamps: Tensor | None = None

    @classmethod
    def of(cls, sequences: Iterable[EventSequence]) -> FlatSequences:
        """Return `sequences` in flat storage: as they are, if they lie in one already."""
        if isinstance(sequences, FlatSequences):
            return sequences
        rows = list(sequences)
        lengths = torch.tensor([0, *map(len, rows)])
        none = torch.zeros(0, dtype=torch.float64)

        def edges(name: str) -> Tensor:
            values = [getattr(row, name) for row in rows]
            return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)

        return cls(
            torch.cat([none, *(row.event_times for row in rows)]),
            torch.cat([none, *(row.inter_times for row in rows)]),
            torch.cat([none.long(), *(row.marks for row in rows)]),
            lengths.cumsum(0),
            edges("t_start"),
            edges("t_end"),
            edges("score_start"),
            torch.tensor([row.censored_start for row in rows], dtype=torch.bool),
            torch.tensor([row.index for row in rows], dtype=torch.int64),
            [row.id for row in rows],
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, position: int) -> EventSequence: ...

    @overload
    def __getitem__(self, position: slice) -> list[EventSequence]: ...

    def __getitem__(self, position: int | slice) -> EventSequence | list[EventSequence]:
        """Build one sequence, or those of a slice as a list."""
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        self._check()
        i = range(len(self))[position]  # an IndexError ends a loop over all
        own = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return EventSequence.unchecked(
            event_times=self.event_times[own].clone(),
            marks=self.marks[own].clone(),
            t_start=_finite_or_none(self.t_start[i]),
            t_end=_finite_or_none(self.t_end[i]),
            index=int(self.index[i]),
            inter_times=self.inter_times[own].clone(),
            score_start=_finite_or_none(self.score_start[i]),
            censored_start=bool(self.censored_start[i]),
            id=None if self.ids is None else self.ids[i],
            timestamps=None if self.timestamps is None else self.timestamps[own].clone(),
        )

    def part(self, start: int, stop: int) -> FlatSequences:
        """Return the sequences start:stop, on the memory of these."""
        self._check()
        first, own = int(self.offsets[start]), slice(start, stop)
        events = slice(first, int(self.offsets[stop]))
        return FlatSequences(
            self.event_times[events],
            self.inter_times[events],
            self.marks[events],
            self.offsets[start : stop + 1] - first,
            self.t_start[own],
            self.t_end[own],
            self.score_start[own],
            self.censored_start[own],
            self.index[own],
            None if self.ids is None else self.ids[own],
            None if self.timestamps is None else self.timestamps[events],
        )

    def blocks(self, num_events: int = BLOCK) -> Iterator[FlatSequences]:
        """Yield all sequences in order, in parts of at most `num_events` sequences and events, or of one sequence.

        What is computed of each part in turn takes no memory that grows with the split.
        """
        for edges in block_edges(self.offsets.numpy(), num_events):
            yield self.part(*edges)

    def _check(self) -> None:
        """Raise where their memory cannot be read any longer; that of a mapped file may be gone."""

    def __repr__(self) -> str:
        return f"FlatSequences({len(self):,} sequences of {len(self.event_times):,} events)"

    @property
    def lengths(self) -> Tensor:
        """Number of events of each sequence, int64 (num_sequences,)."""
        return self.offsets.diff()

    @property
    def first_is_given(self) -> Tensor:
        """EventSequence.first_is_given of each, bool (num_sequences,)."""
        return self.t_start.isnan()

    @property
    def window_start(self) -> Tensor:
        """EventSequence.window_start of each, float64 (num_sequences,)."""
        return torch.where(self.first_is_given, self._time_at(0), self.t_start)

    @property
    def window_end(self) -> Tensor:
        """EventSequence.window_end of each, float64 (num_sequences,)."""
        last = torch.where(self.lengths > 0, self._time_at(self.lengths - 1), self.window_start)
        return torch.where(self.t_end.isnan(), last, self.t_end)

    @cached_property
    def num_given(self) -> Tensor:
        """EventSequence.num_given of each, int64 (num_sequences,)."""
        counts = [torch.zeros(0, dtype=torch.int64), *(_num_before_score_start(block) for block in self.blocks())]
        is_first_given = (self.first_is_given | self.censored_start) & (self.lengths > 0)
        return torch.maximum(torch.cat(counts), is_first_given.long())

    @property
    def num_scored(self) -> Tensor:
        """EventSequence.num_scored of each, int64 (num_sequences,)."""
        return self.lengths - self.num_given

    @property
    def is_scored(self) -> Tensor:
        """A mask of the events that have a likelihood term, bool (num_events,)."""
        place = torch.arange(len(self.event_times))
        return place >= (self.offsets[:-1] + self.num_given).repeat_interleave(self.lengths)

    def of_scored(self, values: Tensor) -> Tensor:
        """Return the `values` (num_events,) of events with a likelihood term; of a split, ask each of its `blocks`."""
        return values[self.is_scored] if bool(self.num_given.any()) else values

    @property
    def scored_from(self) -> Tensor:
        """EventSequence.scored_from of each, float64 (num_sequences,)."""
        window_start, window_end, num_given = self.window_start, self.window_end, self.num_given
        start = torch.where(self.score_start.isnan(), window_start, torch.minimum(self.score_start, window_end))
        last_given = torch.where(num_given > 0, self._time_at(num_given - 1), window_start)
        start = torch.maximum(start, last_given)
        return torch.where(self.censored_start & (self.lengths == 0), window_end, start)

    def _time_at(self, place: Tensor | int) -> Tensor:
        """Return the time of an event of each sequence, any value where it has no such event."""
        if len(self.event_times) == 0:
            return torch.full_like(self.t_start, math.nan)
        return self.event_times[(self.offsets[:-1] + place).clamp(0, len(self.event_times) - 1)]


def _num_before_score_start(flat: FlatSequences) -> Tensor:
    """Return how many events of each sequence come before its score_start, 0 where there is none."""
    if bool(flat.score_start.isnan().all()):
        return torch.zeros_like(flat.index)
    is_before = flat.event_times < flat.score_start.repeat_interleave(flat.lengths)
    counts = torch.nn.functional.pad(is_before.cumsum(0), (1, 0))
    return counts[flat.offsets[1:]] - counts[flat.offsets[:-1]]


def tensor_on(values: np.ndarray) -> Tensor:
    """Return a tensor on the memory of an array that may be read-only, as those of Arrow are: nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


def _finite_or_none(value: Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
