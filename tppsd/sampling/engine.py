"""Continuous batching: finished rows leave, waiting requests take their place, and the batch stays full.

The engine owns the clock, the counters, the statistics of draft lengths and the records; a method advances the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.requests import Histories, Requests
from tppsd.sampling.state import BatchState, Events, ragged

if TYPE_CHECKING:
    from tppsd.sampling.draft_length import DraftLength
    from tppsd.sampling.recorder import Recorder


class NotANumberError(RuntimeError):
    """Says that the time of an event is not a number."""


class Advance(NamedTuple):
    """Says what one call of a method has done.

    Fields:
        num_passes: target passes of every row, or int64 (rows,).
        events: (rows, n), those that were committed, then anything.
        distributions: the target's distributions of them, or None.
        num_drafted, num_accepted, num_used: int64 (m,), of every round of every active row, the events drafted,
            accepted, and of these the ones that their row had use for; None: nothing is ever drafted.
        num_rounds: rounds of the batch.
        nodes: int64, of a tree, those that were accepted.
    """

    num_passes: int | Tensor
    events: Events
    distributions: EventDistribution | None
    num_drafted: Tensor | None = None
    num_accepted: Tensor | None = None
    num_used: Tensor | None = None
    num_rounds: int = 1
    nodes: Tensor | None = None


class Method(Protocol):
    """Is a way to advance every row by at least one event."""

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> Advance | None:
        """Begin new requests in `rows`; where that draws and commits their first events, say so as `advance` does."""

    def advance(self, state: BatchState) -> Advance:
        """Advance every row, and commit its events."""

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""


@dataclass(frozen=True, eq=False)
class Finished:
    """Holds completed requests, one after the other, on the CPU.

    Attributes:
        which: int64 (n,), their numbers in the job.
        counts: int64 (n,), their events.
        ended_by_count, stopped: bool (n,), they ended by the number of these, or by the mark of the last.
        columns: float64 (3 or 4, events), inter-times, times since t_start and marks of all, and log-densities where
            they were recorded.
        distributions: the recorded distributions of each, or None.
    """

    which: Tensor
    counts: Tensor
    ended_by_count: Tensor
    stopped: Tensor
    columns: Tensor
    distributions: list[NextEventDistribution] | None

    def __len__(self) -> int:
        return len(self.which)

    @classmethod
    def cat(cls, parts: Sequence[Finished]) -> Finished:
        """Join several, one after the other."""
        names = ("which", "counts", "ended_by_count", "stopped")
        flags = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        columns = torch.cat([part.columns for part in parts], 1)
        recorded = [distribution for part in parts for distribution in part.distributions or ()]
        return cls(**flags, columns=columns, distributions=None if parts[0].distributions is None else recorded)

    def select(self, order: Tensor) -> Finished:
        """Return the requests at int64 `order` (m,), in that order."""
        counts, firsts = self.counts[order], (self.counts.cumsum(0) - self.counts)[order]
        within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        events = firsts.repeat_interleave(counts) + within
        distributions = None if self.distributions is None else [self.distributions[i] for i in order.tolist()]
        flags = (self.ended_by_count[order], self.stopped[order])
        return Finished(self.which[order], counts, *flags, self.columns[:, events], distributions)


class Counters:
    """Adds up the rounds of a job.

    Attributes:
        num_rounds: target passes summed over rows.
        num_passes: target passes of the whole batch.
        accepted_counts: int64 (longest + 1, longest + 1), rounds by (drafted, accepted).
        node_counts: int64 (num_nodes,), rounds in which each node of a tree was accepted.
    """

    def __init__(self, longest_draft: int, num_nodes: int, device: torch.device) -> None:
        self.num_rounds = self.num_passes = 0
        self.accepted_counts = torch.zeros(longest_draft + 1, longest_draft + 1, dtype=torch.int64, device=device)
        self.node_counts = torch.zeros(num_nodes, dtype=torch.int64, device=device)

    def add(self, done: Advance, active: Tensor) -> None:
        """Count one call of a method, on the rows that were active."""
        if isinstance(done.num_passes, int):
            self.num_rounds += done.num_passes * int(active.sum())
            self.num_passes += done.num_passes
        else:
            self.num_rounds += int(done.num_passes[active].sum())
            self.num_passes += int(done.num_passes.max())
        if done.num_drafted is not None and done.num_accepted is not None:
            cells = done.num_drafted * len(self.accepted_counts) + done.num_accepted
            self.accepted_counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
        if done.nodes is not None:
            self.node_counts.index_add_(0, done.nodes, torch.ones_like(done.nodes))


class Engine:
    """Runs a method over requests, `len(state)` of them at a time.

    Args:
        method: advances the rows.
        state: of the rows.
        noise: of the rows.
        requests: in index order.
        histories: that they continue.
        counters: of the job.
        recorder: of more than the events; None: of nothing more.
        draft_length: what is told how long rounds take and what they accept; None: nothing is drafted.
    """

    def __init__(
        self,
        method: Method,
        state: BatchState,
        noise: RowNoise,
        requests: Requests,
        histories: Histories,
        counters: Counters,
        recorder: Recorder | None,
        draft_length: DraftLength | None = None,
    ) -> None:
        self.method, self.state, self.noise = method, state, noise
        self.requests, self.histories = requests, histories
        self.counters, self.recorder, self.draft_length = counters, recorder, draft_length
        self.next_request = self.num_active = 0

    def run(self) -> Iterator[Finished]:
        """Yield every request once, in the order of completion, those of one call together."""
        self.schedule()
        while self.num_active:
            if not self.state.reached_end.any():  # a request can be over once it has begun
                self.step()
            if self.state.reached_end.any():
                done = self.state.reached_end.nonzero().squeeze(1)
                finished = self._collect(done)
                self.state.free(done)
                self.num_active -= len(done)
                self.schedule()
                yield finished

    def step(self) -> None:
        """Advance every row once, and take note of what that took and gave."""
        started = time.perf_counter()
        active, before, last_times = self.state.active, self.state.counts, self.state.last_times
        done = self.method.advance(self.state)
        self._record(done, active, before, last_times)
        self.counters.add(done, active)
        num_drafted, num_used = done.num_drafted, done.num_used
        if self.draft_length is None or num_drafted is None or num_used is None or not len(num_drafted):
            return
        longest, seconds = int(num_drafted.max()), time.perf_counter() - started
        self.draft_length.record(longest, num_used, num_drafted == longest, seconds, done.num_rounds)

    def _record(self, done: Advance, active: Tensor, counts: Tensor, last_times: Tensor) -> None:
        """Record what a call of the method has done, step by step, from what the state was before it."""
        if (recorder := self.recorder) is None:
            return
        recorder.record(counts, done.events, done.distributions)
        if recorder.accumulator is None:
            return
        from tppsd.sampling.recorder import Steps

        state = self.state
        assert done.distributions is not None
        num_events = torch.where(active, torch.minimum(state.counts, state.limit) - counts, 0)
        is_late = state.reached_end & ~state.stopped & (state.counts < state.limit)
        starts = torch.cat([last_times.unsqueeze(1), done.events.times[:, :-1]], 1)
        num_steps = num_events + is_late.long()
        recorder.accumulator.add(Steps(state.request, starts, done.events, done.distributions, num_steps, num_events))

    def schedule(self) -> None:
        """Fill free rows with waiting requests once an eighth is free; drop free rows when nobody waits."""
        state, num_waiting = self.state, len(self.requests) - self.next_request
        free = (~state.active).nonzero().squeeze(1)
        if num_waiting > 0 and len(free) >= max(1, len(state) // 8):
            free = free[:num_waiting]
            self._prefill(free, self.requests[self.next_request : self.next_request + len(free)])
        elif num_waiting == 0 and 0 < len(state) - len(free) <= 0.75 * len(state):
            kept = state.active.nonzero().squeeze(1)
            for part in (state, self.noise, self.method):
                part.compact(kept)
            if self.recorder is not None:
                self.recorder.compact(kept)

    def _prefill(self, rows: Tensor, requests: Requests) -> None:
        which = torch.arange(self.next_request, self.next_request + len(rows), device=rows.device)
        self.next_request += len(requests)
        self.num_active += len(requests)
        state = self.state
        state.prefill(rows, which, requests, self.histories)
        self.noise.start(rows, requests.history_index.to(rows.device), requests.path_index.to(rows.device))
        before, last_times = state.counts, state.last_times
        if (begun := self.method.prefill(rows, requests, state)) is not None:
            self._record(begun, torch.zeros_like(state.active).index_fill(0, rows, True), before, last_times)

    def _collect(self, done: Tensor) -> Finished:
        state = self.state
        if torch.isnan(state.last_times[done]).any():
            raise NotANumberError(
                "the target's distribution of a next event is not a number: the weights or the event times overflow"
            )
        counts, by_count = torch.minimum(state.counts, state.limit)[done], (state.counts >= state.limit)[done]
        stopped = state.stopped[done]
        columns = ragged(state.events.values, done, counts)
        log_probs, distributions = None, None
        if self.recorder is not None:
            log_probs, distributions = self.recorder.take(done, counts, by_count | stopped)
        if log_probs is not None:
            columns = torch.cat([columns, log_probs])
        which = state.request[done].cpu()
        return Finished(which, counts.cpu(), by_count.cpu(), stopped.cpu(), columns.cpu(), distributions)
