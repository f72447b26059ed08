"""Continuous batching: finished rows leave, waiting requests take their place, and the batch stays full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.law import NextEventLaw
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.rows import Histories, Request, Rows


class Method(Protocol):
    """A way to advance every row by at least one event. A round says which rows have reached their ends, bool (rows,),
    perhaps on the CPU.

    Attributes:
        steps: target passes of the latest round, all rows' or int64 (rows,).
    """

    steps: int | Tensor

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None: ...

    def round(self, rows: Rows) -> Tensor: ...

    def keep_rows(self, rows: Tensor) -> None: ...


class Finished(NamedTuple):
    """A completed request: its number in the call, its events on the CPU, what was recorded of them, and whether it
    ended by their number."""

    which: int
    inter_times: Tensor
    times: Tensor
    marks: Tensor
    log_probs: Tensor | None
    laws: NextEventLaw | None
    ended_by_count: bool


class Engine:
    """Runs a method over requests, `len(rows)` of them at a time.

    Attributes:
        num_rounds: target passes summed over rows; num_passes: of the whole batch.
    """

    def __init__(
        self,
        method: Method,
        recorder: Recorder,
        rows: Rows,
        noise: RowNoise,
        requests: Sequence[Request],
        histories: Histories,
    ) -> None:
        self.method, self.recorder, self.rows, self.noise = method, recorder, rows, noise
        self.requests, self.histories = requests, histories
        self.next_request = self.num_active = 0
        self.num_rounds = self.num_passes = 0

    def run(self) -> Iterator[list[Finished]]:
        """Yield every request once, in the order of completion, those of one pass together."""
        self.refill()
        while self.num_active:
            reached_end = self.method.round(self.rows)
            steps = self.method.steps
            self.num_rounds += steps * self.num_active if isinstance(steps, int) else int(steps[self.rows.active].sum())
            self.num_passes += steps if isinstance(steps, int) else int(steps.max())
            if reached_end.any():
                done = reached_end.nonzero().squeeze(1).to(self.rows.device)
                finished = self._collect(done)
                self.rows.release(done)
                self.num_active -= len(done)
                self.refill()
                yield finished

    def refill(self) -> None:
        """Admit waiting requests once an eighth of the rows is free; drop free rows when nobody waits."""
        rows, num_waiting = self.rows, len(self.requests) - self.next_request
        free = (~rows.active).nonzero().squeeze(1)
        if num_waiting > 0 and len(free) >= max(1, len(rows) // 8):
            free = free[:num_waiting]
            which = torch.arange(self.next_request, self.next_request + len(free), device=free.device)
            self._admit(free, which, list(self.requests[self.next_request : self.next_request + len(free)]))
        elif num_waiting == 0 and 0 < len(rows) - len(free) <= 0.75 * len(rows):
            kept = rows.active.nonzero().squeeze(1)
            for part in (rows, self.noise, self.method):
                part.keep_rows(kept)

    def _admit(self, rows: Tensor, which: Tensor, requests: list[Request]) -> None:
        self.next_request += len(requests)
        self.num_active += len(requests)
        self.rows.admit(rows, which, requests, self.histories)
        self.method.admit(rows, requests, self.rows)
        history_index = torch.tensor([r.history_index for r in requests], device=rows.device)
        path_index = torch.tensor([r.path_index for r in requests], device=rows.device)
        self.noise.admit(rows, history_index, path_index)

    def _collect(self, done: Tensor) -> list[Finished]:
        if torch.isnan(self.rows.last_times[done]).any():
            raise RuntimeError(
                "the target's law of a next event is not a number: the weights or the event times overflow"
            )
        counts = torch.minimum(self.rows.counts, self.rows.limit)[done].cpu().tolist()
        which = self.rows.request[done].cpu().tolist()
        by_count = (self.rows.counts >= self.rows.limit)[done].cpu().tolist()
        columns = self.rows.store[:, done, : max(counts) + 1].cpu()
        finished = []
        for i, n in enumerate(counts):
            inter_times, times, marks = (column[i, :n].clone() for column in columns[:3])
            recorded = self.recorder.take(columns[:, i], n, by_count[i])
            finished.append(Finished(which[i], inter_times, times, marks.to(torch.int64), *recorded, by_count[i]))
        return finished
