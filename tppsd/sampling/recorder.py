"""The record of a job beside its events: densities, and the distributions that the events were drawn from."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.state import Events, RowStore, ragged


class Steps(NamedTuple):
    """Holds the steps that the rows have made: an event each, or the one that came too late and only ends its row.

    Fields:
        request: int64 (rows,), number of the request that each row works on.
        starts: float64 (rows, n), time of the event before, since the window's start.
        events: (rows, n).
        distributions: the target's distributions of them, (rows, n); the first of a row is given the time without
            events before.
        num_steps: int64 (rows,): so many of the n are steps, the leading ones; 0 for a row that works on nothing.
        num_events: int64 (rows,): so many of these are events of the sequence; the one more, if any, came too late.
    """

    request: Tensor
    starts: Tensor
    events: Events
    distributions: EventDistribution
    num_steps: Tensor
    num_events: Tensor


class Accumulator(Protocol):
    """Adds up the steps of every path while paths are sampled, so that no distribution is stored."""

    def add(self, steps: Steps) -> None:
        """Add the steps of one call of a method; each path's come in order."""


class Recorder:
    """Records columns beside the events of every row, and hands them out with the finished ones.

    Args:
        log_probs: record log-densities.
        distributions: record the parameters of distributions.
        accumulator: takes sums over the steps of every path.
    """

    def __init__(
        self, log_probs: bool = False, distributions: bool = False, accumulator: Accumulator | None = None
    ) -> None:
        self.log_probs, self.distributions, self.accumulator = log_probs, distributions, accumulator
        self._example: NextEventDistribution | None = None
        self._store: RowStore | None = None

    @property
    def returns_columns(self) -> bool:
        """Whether densities or distributions are recorded for the caller."""
        return self.log_probs or self.distributions

    @property
    def wants_distributions(self) -> bool:
        """Whether the distribution of every event is of use."""
        return self.returns_columns or self.accumulator is not None

    def record(self, lengths: Tensor, events: Events, distributions: EventDistribution | None) -> None:
        """Store what is wanted of `events` (rows, n), which follow the first `lengths` (rows,) of each row.

        Args:
            lengths: int64 (rows,).
            events: committed ones.
            distributions: the target's distributions of them, (rows, n).
        """
        if not self.returns_columns:
            return
        assert distributions is not None
        columns = []
        if self.log_probs:
            columns.append(distributions.log_prob(events.inter_times, events.marks).unsqueeze(0))
        if self.distributions:
            if not isinstance(distributions, NextEventDistribution):
                name = type(distributions).__name__
                raise TypeError(
                    "return_distributions = True needs a target whose distributions are NextEventDistribution; these "
                    f"are {name}"
                )
            if self._example is None:
                self._example = _apart(distributions)
            columns.append(distributions.parameters.movedim(-1, 0))
        joined = torch.cat(columns)
        if self._store is None:
            self._store = RowStore(len(joined), len(lengths), joined.device)
        self._store.append(lengths, joined)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        if self._store is not None:
            self._store.compact(rows)

    def take(
        self, rows: Tensor, counts: Tensor, ended_by_event: Tensor
    ) -> tuple[Tensor | None, list[NextEventDistribution] | None]:
        """Return log-densities (1, events) and distributions of finished rows.

        That of the event that came too late is one of the distributions.

        Args:
            rows: int64 (n,).
            counts: int64 (n,), their events.
            ended_by_event: bool (n,), by the number of their events, or by the mark of the last.
        """
        if self._store is None:
            return None, None
        values = self._store.values
        log_probs = ragged(values[:1], rows, counts) if self.log_probs else None
        if (example := self._example) is None:
            return log_probs, None
        sizes = (counts + (~ended_by_event).long()).tolist()
        distributions = []
        with torch.inference_mode(False):  # they may serve a later backward
            for row, size in zip(rows.tolist(), sizes, strict=True):
                own = values[self.log_probs :, row, :size].cpu()
                distributions.append(example.of(own.t().clone(memory_format=torch.contiguous_format)))
        return log_probs, distributions


def _apart(distribution: NextEventDistribution) -> NextEventDistribution:
    """Return an ordinary distribution on the CPU that shares nothing with its model, which may change or be gone."""
    decoder = distribution.mark_decoder
    if isinstance(decoder, nn.Module):
        with torch.inference_mode(False):
            decoder = copy.deepcopy(decoder).cpu().requires_grad_(False)
    return distribution.with_parts(mark_decoder=decoder)


def after_elapsed(distributions: NextEventDistribution | None, elapsed: float) -> NextEventDistribution:
    """Truncate the first distribution of a sequence (n,) by `elapsed`, the time without an event before it."""
    assert distributions is not None
    if elapsed == 0:
        return distributions
    of_each = torch.zeros(distributions.batch_shape, dtype=torch.float64)
    of_each[0] = elapsed
    return distributions.truncated(of_each)
