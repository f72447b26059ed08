"""Sampling of the process without some marks: candidates of these marks are dropped, and time goes on (thinning).

The intensities of all other marks, given what has happened, stay what they are. A dropped candidate is a step, with
noise of its own, and no token: the next one is drawn from the same distribution, given that it comes later.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.autoregressive import Autoregressive, ModelRunner, given_elapsed
from tppsd.sampling.engine import Advance
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.requests import Requests
from tppsd.sampling.state import BatchState, Events


class WithoutMarks(Autoregressive):
    """Samples one event per pass of the target with the intensity of some marks set to zero.

    Args:
        target: runs the target.
        noise: of the rows.
        forbidden: bool (num_marks,).
        max_steps: candidates of a row, dropped ones included, after which it ends without a further event.
    """

    def __init__(self, target: ModelRunner, noise: RowNoise, forbidden: Tensor, max_steps: int) -> None:
        super().__init__(target, noise)
        self.forbidden, self.max_steps = forbidden, max_steps
        self.num_steps = torch.zeros(len(noise.keys), dtype=torch.int64, device=forbidden.device)

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests."""
        super().prefill(rows, requests, state)
        self.num_steps[rows] = 0

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().compact(rows)
        self.num_steps = self.num_steps[rows]

    @staticmethod
    def _candidates(distribution: EventDistribution, elapsed: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the next candidates (rows, 1), later than those that were dropped."""
        inter_times, marks = distribution.truncated(elapsed).sample(uniforms)
        return inter_times, marks

    def advance(self, state: BatchState) -> Advance:
        """Draw candidates of every row until one is kept, comes too late, or is the last one allowed."""
        distribution = given_elapsed(self.target.extend(state.last_token), state)
        elapsed = state.elapsed.unsqueeze(1)
        inter_times, marks = torch.full_like(elapsed, torch.inf), torch.zeros_like(elapsed, dtype=torch.int64)
        drawing = state.active.unsqueeze(1)
        while drawing.any():
            taus, candidates = self._candidates(distribution, elapsed, self.noise.window(1)[..., :3])
            self.noise.advance(drawing.squeeze(1).long(), 1)
            self.num_steps += drawing.squeeze(1)
            is_late = ~(state.last_times.unsqueeze(1) + taus <= state.end.unsqueeze(1))
            is_kept = drawing & (is_late | ~self.forbidden[candidates])
            inter_times, marks = torch.where(is_kept, taus, inter_times), torch.where(is_kept, candidates, marks)
            elapsed = torch.where(drawing, taus, elapsed)
            drawing = drawing & ~is_kept
            is_exhausted = drawing & (self.num_steps >= self.max_steps).unsqueeze(1)
            state.limit = torch.where(is_exhausted.squeeze(1), state.counts, state.limit)
            drawing = drawing & ~is_exhausted
        events = Events.of(inter_times, state.last_times.unsqueeze(1) + inter_times, marks)
        state.commit(events, torch.ones_like(state.counts))
        return Advance(1, events, distribution)
