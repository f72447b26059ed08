"""Autoregressive sampling: one target pass per event. The oracle, and the baseline of every speed-up."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.engine import Advance
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.requests import Requests
from tppsd.sampling.runner import ModelRunner
from tppsd.sampling.state import BatchState, Events

ADDRESSES = [int(address(0, Purpose.TARGET, draw)) for draw in range(2)]
# events that one native call draws: of all rows together, but of each so many that its cache stays near
_AT_ONCE, _FEWEST = 64, 16


def autoregressive_step(state: BatchState, target: ModelRunner, uniforms: Tensor) -> tuple[Events, EventDistribution]:
    """Draw and commit the next event of every row.

    Args:
        state: the running sequences.
        target: runs the target, whose pass is over their last token.
        uniforms: float64 (rows, 1, at least 3).

    Returns:
        The events (rows, 1), and the distributions (rows, 1) that they were drawn from.
    """
    distribution = given_elapsed(target.extend(state.last_token), state)
    inter_times, marks = distribution.sample(uniforms[..., :3])
    events = Events.of(inter_times, state.last_times.unsqueeze(1) + inter_times, marks)
    state.commit(events, torch.ones_like(state.counts))
    return events, distribution


def given_elapsed(distributions: EventDistribution, state: BatchState) -> EventDistribution:
    """Truncate distributions (rows, n) after the last token and later ones by the elapsed time of each row.

    Only the first of each row is given that nothing happened for that time.
    """
    if not state.is_truncated_start:
        return distributions
    num_later = distributions.batch_shape[1] - 1
    return distributions.truncated(torch.nn.functional.pad(state.elapsed.unsqueeze(1), (0, num_later)))


class Autoregressive:
    """Samples one event per pass; where the model can decode, many events per call."""

    def __init__(self, target: ModelRunner, noise: RowNoise, keeps_distributions: bool = False) -> None:
        self.target, self.noise, self.keeps_distributions = target, noise, keeps_distributions

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests."""
        self.target.prefill(rows, requests)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.target.compact(rows)

    def advance(self, state: BatchState) -> Advance:
        """Advance every row by an event or, by one call, by several."""
        if self.target.can_decode:
            return self._several(state)
        events, distribution = autoregressive_step(state, self.target, self.noise.window(1))
        self.noise.advance(1, 1)
        return Advance(1, events, distribution)

    def _several(self, state: BatchState) -> Advance:
        """Draw about as many events as it takes until one of the rows reaches its end; the later ones do not count."""
        distribution = given_elapsed(self.target.extend(state.last_token), state)
        wanted = state.limit - state.counts
        num = min(max(_FEWEST, _AT_ONCE // len(state)), int(wanted[state.active].max()))
        ends = torch.where(state.active, state.end, torch.inf)
        limits = torch.where(state.active, wanted, num)
        window = self.noise.window(num)
        decoded, distributions = self.target.decode(
            distribution, state.last_times, window, self.keeps_distributions, ends, limits, state.stop_marks
        )
        self.noise.advance(decoded.num, num)
        events = Events.of(decoded.inter_times, decoded.times, decoded.marks)
        state.commit(events, decoded.num)
        return Advance(decoded.num, events, distributions)
