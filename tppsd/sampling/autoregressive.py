"""Autoregressive sampling: one target pass per event. The oracle, and the baseline of every speed-up."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.rows import Events, ModelRows, Request, Rows

ADDRESSES = [int(address(0, Purpose.TARGET, draw)) for draw in range(2)]


def draw_event(law: Any, uniforms: Tensor, rows: Rows, with_log_probs: bool) -> Events:
    """The next event (rows, 1) from laws (rows, 1) and uniforms (rows, 1, 4)."""
    inter_times, marks = law.sample(uniforms[..., :3])
    events = Events.of(inter_times, rows.last_times.unsqueeze(1) + inter_times, marks)
    return events.with_log_probs(law) if with_log_probs else events


class Autoregressive:
    """One event per round and row."""

    def __init__(self, target: ModelRows, noise: RowNoise, with_log_probs: bool) -> None:
        self.target, self.noise = target, noise
        self.with_log_probs = with_log_probs

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.target.admit(rows, requests)

    def keep_rows(self, rows: Tensor) -> None:
        self.target.keep_rows(rows)

    def round(self, rows: Rows) -> Tensor:
        """Extend the target by the newest event, draw the next, commit it; returns bool (rows,): reached its end."""
        law = self.target.extend(rows.pending)
        if rows.is_truncated_start:
            law = law.truncated(rows.elapsed.unsqueeze(1))
        events = draw_event(law, self.noise.window(1), rows, self.with_log_probs)
        self.noise.advance(1, 1)
        return rows.commit(events, rows.counts.new_ones(len(rows)))
