"""Autoregressive sampling: one target pass per event. The oracle, and the baseline of every speed-up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.rows import Events, ModelRows, Request, Rows

ADDRESSES = [int(address(0, Purpose.TARGET, draw)) for draw in range(2)]
# events that one call of compiled code draws: of all rows together, but of each so many that its cache stays near
_AT_ONCE, _FEWEST = 64, 16


def draw_event(law: Any, uniforms: Tensor, rows: Rows, recorder: Recorder) -> Events:
    """The next event (rows, 1) from laws (rows, 1) and uniforms (rows, 1, 4)."""
    inter_times, marks = law.sample(uniforms[..., :3])
    return recorder.add(Events.of(inter_times, rows.last_times.unsqueeze(1) + inter_times, marks), law)


class Autoregressive:
    """One event per round and row; several where passes are compiled."""

    steps: int | Tensor = 1

    def __init__(self, target: ModelRows, noise: RowNoise, recorder: Recorder) -> None:
        self.target, self.noise, self.recorder = target, noise, recorder

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.target.admit(rows, requests)

    def keep_rows(self, rows: Tensor) -> None:
        self.target.keep_rows(rows)

    def round(self, rows: Rows) -> Tensor:
        """Extend the target by the newest event, draw the next, commit it; returns bool (rows,): reached its end."""
        law = self.target.extend(rows.pending)
        if rows.is_truncated_start:
            law = law.truncated(rows.elapsed.unsqueeze(1))
        if self.target.can_follow(law):
            return self._several(rows, law)
        events = draw_event(law, self.noise.window(1), rows, self.recorder)
        self.noise.advance(1, 1)
        self.steps = 1
        return rows.commit(events, rows.counts.new_ones(len(rows)))

    def _several(self, rows: Rows, law: Any) -> Tensor:
        """Events in one call, about until one of the rows reaches its end: what comes after it is not counted."""
        wanted = rows.limit - rows.counts
        num = min(max(_FEWEST, _AT_ONCE // len(rows)), int(wanted[rows.active].max()))
        ends, limits = torch.where(rows.active, rows.end, torch.inf), torch.where(rows.active, wanted, num)
        drawn = self.target.follow(law, rows.last_times, self.noise.window(num), self.recorder.wants_laws, ends, limits)
        self.noise.advance(drawn.num, num)
        self.steps = drawn.num
        events = Events.of(drawn.inter_times, drawn.times, drawn.marks)
        if self.recorder.wants_laws:
            events = self.recorder.add(events, self.target.laws_of(drawn, law))
        return rows.commit(events, drawn.num)
