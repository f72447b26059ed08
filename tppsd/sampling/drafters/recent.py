"""The target's distributions after the latest event of each mark."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventDistribution


class RecentDistributions:
    """Holds per row the target's distribution after the latest event of each mark, and its latest of all.

    Args:
        num_rows: rows.
        num_marks: marks of the target.
        device: where the rows are.

    Attributes:
        table: distributions (rows, num_marks + 1), by mark and then the latest; None before the first.
        is_known: bool (rows, num_marks + 1), what of the table is of use.
    """

    def __init__(self, num_rows: int, num_marks: int, device: torch.device) -> None:
        self.table: EventDistribution | None = None
        self.is_known = torch.zeros(num_rows, num_marks + 1, dtype=torch.bool, device=device)
        self.slots = torch.arange(num_marks + 1, device=device)

    def update(self, distributions: EventDistribution, marks: Tensor, num: Tensor) -> None:
        """Take in the first `num` (rows,) of the distributions (rows, n).

        They follow events of `marks` int64 (rows, n); -1 is none.
        """
        positions = torch.arange(marks.shape[1], device=marks.device)
        follows = (marks.unsqueeze(2) == self.slots[:-1]) & (positions < num.unsqueeze(1)).unsqueeze(
            2
        )  # (rows, n, marks)
        newest = torch.where(follows, positions.unsqueeze(1), -1).amax(1)
        source = torch.cat([newest, num.unsqueeze(1) - 1], 1)
        distributions, table = distributions.whole(), self.table
        if table is None:
            self.table = distributions.at(source.clamp_min(0))
        elif isinstance(table, NextEventDistribution) and isinstance(distributions, NextEventDistribution):
            # only what changes is written: a table of many marks is large
            rows, slots = (source >= 0).nonzero(as_tuple=True)
            parameters = table.parameters
            parameters[rows, slots] = distributions.parameters[rows, source[rows, slots]].to(parameters.dtype)
            self.table = table.of(parameters)
        else:
            kept = marks.shape[1] + self.slots
            self.table = type(distributions).cat([distributions, table], 1).at(torch.where(source >= 0, source, kept))
        self.is_known = self.is_known | (source >= 0)

    def take_over(self, other: RecentDistributions, source: Tensor, rows: Tensor) -> None:
        """Begin `rows` int64 (n,) with what rows `source` (n,) of `other` know."""
        self.is_known[rows] = other.is_known[source]
        if other.table is None:
            return
        if self.table is None:
            self.table = other.table[
                torch.zeros_like(self.is_known[:, 0], dtype=torch.int64).index_copy(0, rows, source)
            ]
        else:
            where = torch.arange(len(self.is_known), device=rows.device).index_copy(
                0, rows, len(self.is_known) + source
            )
            self.table = type(self.table).cat([self.table, other.table], 0)[where]

    def after_marks(self) -> EventDistribution:
        """Return distributions (rows, num_marks) to draft from after an event of each mark, as `after`."""
        return self.after(self.slots[:-1].expand(len(self.is_known), -1))

    def after(self, marks: Tensor) -> EventDistribution:
        """Return distributions (rows, n) to draft from after events of `marks` int64 (rows, n).

        It is the latest of all where none has followed that mark yet.
        """
        assert self.table is not None
        return self.table.at(torch.where(self.is_known.gather(1, marks), marks, len(self.slots) - 1))

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.is_known = self.is_known[rows]
        if self.table is not None:
            self.table = self.table[rows]
