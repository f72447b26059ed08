"""Gaps between the timestamps of a log, and the unit of time that fits them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tppsd.data.sequence_table import SequenceTable
from tppsd.data.units import NANOSECONDS


def fitting_unit(tables: Iterable[SequenceTable]) -> str:
    """Return the largest unit in which the median of the positive gaps is at least 1."""
    gaps = GapCounts()
    for table in tables:
        for block in table.blocks():
            gaps.add(tick_gaps(block))
    return gaps.fitting_unit()


def tick_gaps(table: SequenceTable) -> np.ndarray:
    """Return nanoseconds between consecutive events of the same sequence, int64."""
    gaps = np.diff(table.event_times).astype("timedelta64[ns]").astype(np.int64)
    is_first = np.zeros(len(table.event_times) + 1, dtype=bool)
    is_first[table.offsets[:-1]] = True
    return gaps[~is_first[1:-1]]


class GapCounts:
    """Counts what the unit of a log depends on, its median positive gap in nanoseconds, without keeping the gaps."""

    def __init__(self) -> None:
        self.total = 0
        self.below = dict.fromkeys(NANOSECONDS, 0)
        self.largest_below = dict.fromkeys(NANOSECONDS, 0)
        self.smallest_from = dict.fromkeys(NANOSECONDS, 2**63 - 1)

    def add(self, gaps: np.ndarray) -> None:
        """Count the gaps of a block, int64 nanoseconds."""
        positive = gaps[gaps > 0]
        self.total += len(positive)
        for unit, length in NANOSECONDS.items():
            is_below = positive < length
            self.below[unit] += int(is_below.sum())
            self.largest_below[unit] = max(self.largest_below[unit], int(positive[is_below].max(initial=0)))
            self.smallest_from[unit] = min(self.smallest_from[unit], int(positive[~is_below].min(initial=2**63 - 1)))

    def fitting_unit(self) -> str:
        """Return the largest unit that is not above the median; s without gaps."""
        return next((unit for unit in reversed(NANOSECONDS) if self._median_reaches(unit)), "s")

    def typical(self) -> int:
        """Return the length of that unit, 0 without gaps."""
        return NANOSECONDS[self.fitting_unit()] if self.total else 0

    def _median_reaches(self, unit: str) -> bool:
        if 2 * self.below[unit] == self.total:  # the median lies between the two in the middle
            return self.total > 0 and self.largest_below[unit] + self.smallest_from[unit] >= 2 * NANOSECONDS[unit]
        return 2 * self.below[unit] < self.total
