"""Parallel fixed-point sampling: the noise of every event is given, and the events are iterated until they no longer
change.

With its noise fixed, a sequence is a deterministic function of it, and autoregressive sampling is the forward
substitution of x_i = F(x_1, ..., x_{i-1}; noise_i). Jacobi iteration solves for a window of events at once: one target
pass over the window, then every event anew from its new law with the same noise (Song et al., ICML 2021; DESIGN: the
round of speculative sampling with "the previous iterate" as draft and "unchanged" as acceptance test).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tppsd.models.law import sample_mark
from tppsd.sampling.draft_length import DraftLength
from tppsd.sampling.drafters import Draft
from tppsd.sampling.jacobi_drafter import JacobiDrafter
from tppsd.sampling.noise import RowNoise
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.rows import ModelRows, Rows
from tppsd.sampling.rules import Verdict
from tppsd.sampling.speculative import RoundNoise, Speculative, at_positions


class FixedPoint(Speculative):
    """Rounds that keep the leading unchanged events, as the pass has seen them, and the first changed one with its new
    value.

    Every event kept is the draw, given its own past, of a noise within `tolerance` of the given one; with tolerance 0
    it is the exact draw. Until the first mark or component whose noise lies that near a boundary, the sequence is the
    one that autoregressive sampling draws with the same seed.

    Args:
        target: model rows of the target.
        drafter: proposes the previous iterate.
        draft_length: chooses how many events the window of each round has, `longest` at most.
        tolerance: largest change, in standard deviations of an event's log-normal component, that counts as none.
        noise: of the rows.
        recorder: of more than the events.
    """

    def __init__(
        self,
        target: ModelRows,
        drafter: JacobiDrafter,
        draft_length: DraftLength,
        longest: int,
        tolerance: float,
        noise: RowNoise,
        recorder: Recorder,
    ) -> None:
        super().__init__(target, drafter, draft_length, longest, "joint", noise, recorder)
        self.tolerance = tolerance

    def draw(self, draft_length: int) -> RoundNoise:
        """The noise with which autoregressive sampling draws the same events, for drafts as well."""
        noise = super().draw(draft_length)
        return noise._replace(draft=noise.target[:, :-1])

    def accept_drafted(self, draft: Draft, laws: Any, noise: RoundNoise) -> Verdict:
        """The leading events that the new laws draw again."""
        num_accepted = num_unchanged(draft, laws, noise.draft, self.tolerance)
        return Verdict(num_accepted, num_accepted == 0)

    def correct(
        self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, noise: RoundNoise
    ) -> tuple[Verdict, Tensor, Tensor]:
        """The first changed event (rows,), from its new law with its own noise."""
        position = verdict.num_accepted
        inter_times, marks = laws.at(position).sample(at_positions(noise.target, position))
        return verdict, inter_times, marks


def num_unchanged(draft: Draft, laws: Any, uniforms: Tensor, tolerance: float) -> Tensor:
    """int64 (rows,): how many leading events the laws (rows, n) draw again from the uniforms (rows, n, 3)."""
    is_same = laws.noise_distance(draft.inter_times, uniforms) <= tolerance
    is_same &= sample_mark(laws.mark_log_probs(draft.inter_times), uniforms[..., 2]) == draft.marks
    return is_same.long().cumprod(1).sum(1)
