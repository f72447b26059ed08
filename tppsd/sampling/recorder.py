"""The record of a job beside its events: densities, and the distributions that the events were drawn from."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tppsd.models.law import NextEventLaw
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.state import Events, RowStore, ragged


class Steps(NamedTuple):
    """Holds the steps that the rows have made: an event each, or the one that came too late and only ends its row.

    Fields:
        request: int64 (rows,), number of the request that each row works on.
        starts: float64 (rows, n), time of the event before, since the window's start.
        events: (rows, n).
        laws: the target's distributions of them, (rows, n); the first of a row is given the time without events before.
        num_steps: int64 (rows,): so many of the n are steps, the leading ones; 0 for a row that works on nothing.
        num_events: int64 (rows,): so many of these are events of the sequence; the one more, if any, came too late.
    """

    request: Tensor
    starts: Tensor
    events: Events
    laws: EventDistribution
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
        laws: record the parameters of distributions.
        accumulator: takes sums over the steps of every path.
    """

    def __init__(self, log_probs: bool = False, laws: bool = False, accumulator: Accumulator | None = None) -> None:
        self.log_probs, self.laws, self.accumulator = log_probs, laws, accumulator
        self._example: NextEventLaw | None = None
        self._store: RowStore | None = None

    @property
    def wants_laws(self) -> bool:
        """Whether the distribution of every event is of use."""
        return self.log_probs or self.laws or self.accumulator is not None

    def start(self) -> None:
        """Begin with a new batch."""
        self._store = None

    def record(self, lengths: Tensor, events: Events, laws: EventDistribution | None) -> None:
        """Store what is wanted of `events` (rows, n), which follow the first `lengths` (rows,) of each row.

        Args:
            lengths: int64 (rows,).
            events: committed ones.
            laws: the target's distributions of them, (rows, n).
        """
        if not (self.log_probs or self.laws):
            return
        assert laws is not None
        columns = []
        if self.log_probs:
            columns.append(laws.log_prob(events.inter_times, events.marks).unsqueeze(0))
        if self.laws:
            if not isinstance(laws, NextEventLaw):
                name = type(laws).__name__
                raise TypeError(f"return_laws = True needs a target whose laws are NextEventLaw; these are {name}")
            if self._example is None:
                self._example = _apart(laws)
            columns.append(laws.parameters.movedim(-1, 0))
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
    ) -> tuple[Tensor | None, list[NextEventLaw] | None]:
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
        laws = []
        with torch.inference_mode(False):  # they may serve a later backward
            for row, size in zip(rows.tolist(), sizes, strict=True):
                own = values[self.log_probs :, row, :size].cpu()
                laws.append(example.of(own.t().clone(memory_format=torch.contiguous_format)))
        return log_probs, laws


def _apart(law: NextEventLaw) -> NextEventLaw:
    """Return an ordinary distribution on the CPU that shares nothing with its model, which may change or be gone."""
    decoder = law.mark_decoder
    if isinstance(decoder, nn.Module):
        with torch.inference_mode(False):
            decoder = copy.deepcopy(decoder).cpu().requires_grad_(False)
    return law.with_parts(mark_decoder=decoder)


def after_elapsed(laws: NextEventLaw | None, elapsed: float) -> NextEventLaw:
    """Truncate the first distribution of a sequence (n,) by `elapsed`, the time without an event before it."""
    assert laws is not None
    if elapsed == 0:
        return laws
    of_each = torch.zeros(laws.batch_shape, dtype=torch.float64)
    of_each[0] = elapsed
    return laws.truncated(of_each)
