"""The facts of a log, in numbers: per split, per mark, between splits. Nothing here needs the sequences one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.log import EventLog
from tppsd.data.reading import EventDataset, to_dataset
from tppsd.data.sequence_table import SequenceTable


@dataclass(frozen=True)
class SplitFacts:
    """Holds one split of a log.

    Attributes:
        table, flat: its sequences with times as the source has them, and with times in units.
        marks: int64 (num_events,).
        gaps: float64 (num_events,), inter-times in units of time.
        is_scored: bool (num_events,), events with a likelihood term.
        duration: total length of the scored parts of the windows, in units of time.
    """

    table: SequenceTable
    flat: FlatSequences
    marks: np.ndarray
    gaps: np.ndarray
    is_scored: np.ndarray
    duration: float

    @classmethod
    def of(cls, table: SequenceTable, flat: FlatSequences) -> SplitFacts:
        """Return the facts of a split."""
        duration = (flat.window_end - flat.scored_from).clamp_min(0).sum()
        inter_times, is_scored = flat.inter_times.numpy(), flat.is_scored.numpy()
        return cls(table, flat, flat.marks.numpy(), inter_times, is_scored, float(duration))

    @property
    def num_sequences(self) -> int:
        """Number of sequences or windows."""
        return len(self.table)

    @property
    def num_scored(self) -> int:
        """Number of events with a likelihood term."""
        return int(self.is_scored.sum())

    @property
    def num_given(self) -> int:
        """Number of events without a likelihood term."""
        return len(self.is_scored) - self.num_scored

    @cached_property
    def scored_gaps(self) -> np.ndarray:
        """Inter-times with a likelihood term, float64 (num_scored,)."""
        gaps: np.ndarray = self.gaps[self.is_scored]
        return gaps

    @cached_property
    def scored_lengths(self) -> np.ndarray:
        """Scored events of each sequence, int64 (num_sequences,)."""
        lengths: np.ndarray = self.flat.num_scored.numpy()
        return lengths

    @property
    def num_ties(self) -> int:
        """Number of scored inter-times of 0."""
        return int((self.scored_gaps == 0).sum())

    @property
    def rate(self) -> float:
        """Scored events per unit of time; NaN without time."""
        return self.num_scored / self.duration if self.duration > 0 else float("nan")

    @property
    def median_gap(self) -> float:
        """Median positive inter-time; NaN if there is none."""
        positive = self.scored_gaps[self.scored_gaps > 0]
        return float(np.median(positive)) if len(positive) else float("nan")

    def mark_counts(self, num_marks: int) -> np.ndarray:
        """Count the scored events of each mark, int64 (num_marks,)."""
        return np.bincount(self.marks[self.is_scored], minlength=num_marks)

    def transitions(self, num_marks: int) -> np.ndarray:
        """Count how often a mark (row) is followed by another (column) in the same sequence.

        Returns:
            int64 (num_marks, num_marks).
        """
        follows = np.ones(len(self.marks), dtype=bool)
        follows[self.table.offsets[:-1][self.table.lengths > 0]] = False
        after = np.flatnonzero(follows & self.is_scored)
        pairs = self.marks[after - 1] * num_marks + self.marks[after]
        return np.bincount(pairs, minlength=num_marks**2).reshape(num_marks, num_marks)


@dataclass(frozen=True)
class LogFacts:
    """Holds a log as it was understood, its sequences, and the facts of each of its splits."""

    log: EventLog
    dataset: EventDataset
    splits: dict[str, SplitFacts]

    @classmethod
    def of(cls, log: EventLog) -> LogFacts:
        """Return the facts of a log."""
        dataset = to_dataset(log)
        flat = {split: FlatSequences.of(part) for split, part in dataset.splits.items()}
        return cls(log, dataset, {split: SplitFacts.of(log.parts[split], part) for split, part in flat.items()})

    @property
    def train(self) -> SplitFacts:
        """The facts of the training split."""
        return self.splits["train"]

    def mark_name(self, mark: int) -> str:
        """Return the name of a mark, its number if it has none."""
        names = self.log.vocabulary.names
        return str(mark) if names is None else names[mark]

    def shared_ids(self) -> dict[tuple[str, str], int]:
        """Return (split, split) -> how many ids of sequences occur in both.

        Parts of one sequence that were cut by time share its id.
        """
        ids = {
            split: set() if facts.table.sequence_ids is None else {*map(str, facts.table.sequence_ids)} - {"None"}
            for split, facts in self.splits.items()
        }
        return {pair: len(ids[pair[0]] & ids[pair[1]]) for pair in combinations(self.splits, 2)}

    def copies(self) -> dict[tuple[str, str], int]:
        """Return (split, split) -> how many sequences of the second occur in the first.

        A sequence occurs again if all of its inter-times and marks do.
        """
        prints = {split: Counter(_fingerprints(facts)) for split, facts in self.splits.items()}
        return {
            (a, b): sum(count for key, count in prints[b].items() if key in prints[a])
            for a, b in combinations(prints, 2)
        }

    def mark_drift(self, split: str) -> float:
        """Return the total variation distance between the mark frequencies of training and of another split."""
        num_marks = self.log.vocabulary.num_marks
        counts = [facts.mark_counts(num_marks) for facts in (self.train, self.splits[split])]
        shares = [count / max(count.sum(), 1) for count in counts]
        return float(np.abs(shares[0] - shares[1]).sum() / 2)

    def longest_silences(self, number: int = 3) -> list[tuple[Any, Any]]:
        """Return the longest stretches of the whole log without any event: ticks (from, to), longest first."""
        ticks = np.sort(np.concatenate([table.event_times for table in self.log.whole]))
        lengths = np.diff(ticks)
        order = np.argsort(lengths, kind="stable")[::-1][:number]
        return [(ticks[i], ticks[i + 1]) for i in order]


MIN_COPIED = 3  # events: shorter sequences agree by chance


def _fingerprints(facts: SplitFacts) -> list[bytes]:
    """Return what identifies the scored part of each sequence of some length: its inter-times and marks."""
    stops = facts.table.offsets[1:]
    starts = stops - facts.scored_lengths
    both = np.stack([facts.gaps, facts.marks.astype(np.float64)], axis=1)
    return [both[a:b].tobytes() for a, b in zip(starts.tolist(), stops.tolist(), strict=True) if b - a >= MIN_COPIED]
