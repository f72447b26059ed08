"""Parallel fixed-point sampling: with the noise of every event given, events are iterated until they no longer change.

With its noise fixed, a sequence is a deterministic function of it, and autoregressive sampling is the forward
substitution of x_i = F(x_1, ..., x_{i-1}; noise_i). Jacobi iteration solves for a window of events at once: one target
pass over the window, then every event anew from its new distribution with the same noise (Song et al., ICML 2021). It
is the speculative round with "the previous iterate" as drafter and "unchanged" as rule.
"""

from __future__ import annotations

from torch import Tensor

from tppsd.models.distribution import sample_mark
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import RowNoise, Streams
from tppsd.sampling.rules import Acceptance, ChainRule, Recovered, Rejected, RoundUniforms, prefix_length


class UnchangedRule(ChainRule):
    """Accepts the leading events that the new distributions draw again; the first changed one gets its new value.

    Every event kept is the draw, given its own past, of a noise within `tolerance` of the given one; with tolerance 0
    it is the exact draw. Until the first mark or component whose noise lies that near a boundary, the sequence is the
    one that autoregressive sampling draws with the same seed.

    Args:
        tolerance: largest change, in standard deviations of an event's log-normal component, that counts as none.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def uniforms(self, noise: RowNoise, draft_length: int) -> RoundUniforms:
        """Return the noise with which autoregressive sampling draws the same events, for drafts as well."""
        uniforms = super().uniforms(noise, draft_length)
        return uniforms._replace(draft=uniforms.target[:, :-1])

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """See Rule."""
        ahead, own = target[:, :-1], uniforms.draft[:, : draft.draft_length]
        is_same = ahead.noise_distance(draft.inter_times, own) <= self.tolerance
        is_same &= sample_mark(ahead.mark_log_probs(draft.inter_times), own[..., 2]) == draft.marks
        return Acceptance(draft, target, prefix_length(is_same, draft))

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """Draw the first changed event from its new distribution with its own noise."""
        ahead = rejected.target[rejected.rows, rejected.positions]
        return Recovered(rejected.positions, *ahead.sample(uniforms.target[rejected.rows, rejected.positions]))
