"""Acceptance rules that test one event after the other, and how the event after a rejection is drawn. Each is exact.

Everything is in log space and float64. The adjusted distribution norm(max(0, target - draft)) is drawn by rejection
from the target, without a cap: a loop is entered with probability TV and needs about 1 / TV proposals, one per position
on average. Sources: Leviathan et al. 2023; Chen et al. 2023; TPP-SD (arXiv 2507.09252), whose Algorithm 1 as printed is
biased for marks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.distribution import log_density_ratio, pick_mark, sample_mark, sample_with_ratio
from tppsd.models.protocol import DraftDistribution, EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import Purpose, RowNoise, Streams, address

MAX_PROPOSALS = 10**9
_AT_ONCE = 4096  # proposals evaluated together over all rows; changes no result

# What an event of a chain may need: three uniforms to draft it, two to accept it, three to draw it from the target.
ADDRESSES = [
    int(address(0, purpose, draw))
    for purpose, draw in (
        (Purpose.DRAFT, 0),
        (Purpose.DRAFT, 1),
        (Purpose.TEST, 0),
        (Purpose.TARGET, 0),
        (Purpose.TARGET, 1),
    )
]
_FOR_DRAFT, _FOR_ACCEPT, _FOR_TARGET = slice(0, 3), slice(4, 6), slice(6, 9)

Propose = Callable[
    [DraftDistribution, DraftDistribution, Tensor], tuple[Tensor, Tensor, Tensor]
]  # target, draft, uniforms -> taus, marks, Delta


class RoundUniforms(NamedTuple):
    """Holds the uniforms of one round, n events drafted.

    Fields:
        draft: (rows, n or nodes, 3).
        accept: (rows, n or levels, 2).
        target: (rows, n + 1, 3), of which those at the position of the bonus event are used.
    """

    draft: Tensor
    accept: Tensor
    target: Tensor


class Acceptance(NamedTuple):
    """Says what a rule has accepted.

    Fields:
        draft: the chain, or the path that was taken through a tree.
        target: the distributions after the token before it and after each of its events, (rows, n + 1).
        num_accepted: int64 (rows,), length of the accepted prefix.
        detail: what the rule itself wants to know when it resamples.
    """

    draft: Draft
    target: EventDistribution
    num_accepted: Tensor
    detail: Any = None


class Rejected(NamedTuple):
    """Holds the rows whose draft was rejected, each at its own position.

    Fields:
        rows, positions: int64 (n,).
        draft: of the whole round.
        target: its distributions, (rows, draft_length + 1).
    """

    rows: Tensor
    positions: Tensor
    draft: Draft
    target: EventDistribution

    def distributions(self) -> tuple[EventDistribution, DraftDistribution]:
        """Return the distributions of target and draft at the rejected events, batch shape (n,)."""
        return self.target[self.rows, self.positions], self.draft.drafted_distributions[self.rows, self.positions]

    def events(self) -> tuple[Tensor, Tensor]:
        """Return the rejected inter-times and marks, (n,)."""
        return self.draft.inter_times[self.rows, self.positions], self.draft.marks[self.rows, self.positions]

    def select(self, which: Tensor) -> Rejected:
        """Select some of the rows."""
        return self._replace(rows=self.rows[which], positions=self.positions[which])


class Recovered(NamedTuple):
    """Says what follows a rejection: the accepted prefix and one new event.

    Fields:
        num_accepted, inter_times, marks: (n,).
    """

    num_accepted: Tensor
    inter_times: Tensor
    marks: Tensor


class Rule(Protocol):
    """Decides what of a draft is accepted, and draws the event that follows a rejection.

    Attributes:
        addresses: what an event of a chain, or a round over a tree, needs of the noise.
        num_nodes: nodes of the tree that is drafted; 0 for a chain.
    """

    addresses: list[int]
    num_nodes: int

    def uniforms(self, noise: RowNoise, draft_length: int) -> RoundUniforms:
        """Return the uniforms of each row's next events, or of its next tree."""

    def consume(self, noise: RowNoise, num_events: Tensor, draft_length: int) -> None:
        """Use up the uniforms of a round that gave `num_events` (rows,)."""

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """Accept a prefix of the draft, or of a path through a tree.

        Args:
            draft: at least one event of some row.
            target: the distributions after the token before the draft and after each drafted event.
            uniforms: of the round.
            running: bool (rows,), the row works on a request.
            noise: for loops that need an amount that nobody knows beforehand.
        """

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """Draw the event that takes the place of the first rejected one."""


class ChainRule:
    """Gives the rules for chains their noise, which belongs to the event that it is for.

    What was drawn for events after the first rejection has decided nothing yet, and drafts those events again in the
    next round, from other distributions.
    """

    addresses = ADDRESSES
    num_nodes = 0

    def uniforms(self, noise: RowNoise, draft_length: int) -> RoundUniforms:
        """See Rule."""
        window = noise.window(draft_length + 1)
        return RoundUniforms(window[:, :-1, _FOR_DRAFT], window[:, :-1, _FOR_ACCEPT], window[..., _FOR_TARGET])

    def consume(self, noise: RowNoise, num_events: Tensor, draft_length: int) -> None:
        """See Rule."""
        noise.advance(num_events, draft_length + 1)


class JointRule(ChainRule):
    """Accepts (tau, k) iff log U <= Delta: acceptance 1 - TV, the optimum for one candidate.

    After a rejection (tau, k) ~ norm(max(0, g_T f_T - g_D f_D)): propose from the target, keep with probability 1 -
    e^-Delta.
    """

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """See Rule."""
        passes = first_uniform(draft, uniforms).log() <= log_ratio(draft, target[:, :-1])
        return Acceptance(draft, target, prefix_length(passes, draft))

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """See Rule."""
        return Recovered(rejected.positions, *reject_until_kept(rejected, noise, sample_with_ratio))


class FactorisedRule(ChainRule):
    """Tests tau with g_T / g_D, then k with f_T / f_D (the paper's rule): two uniforms per event.

    tau rejected: tau ~ norm(max(0, g_T - g_D)) and k afresh from f_T(. | tau), of which nothing was learnt. Only k
    rejected: keep tau, k ~ norm(max(0, f_T - f_D)) at that tau.
    """

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """See Rule; the detail, bool (rows,), says whether it was the inter-time that failed."""
        tau, ahead = draft.inter_times, target[:, :-1]
        time_delta = ahead.inter_time.log_prob(tau) - draft.drafted_distributions.inter_time.log_prob(tau)
        log_marks = (
            pick_mark(distribution.mark_log_probs(tau), draft.marks)
            for distribution in (ahead, draft.drafted_distributions)
        )
        log_uniforms = uniforms.accept[:, : draft.draft_length].log()
        time_passes = log_uniforms[..., 0] <= time_delta
        mark_passes = log_uniforms[..., 1] <= torch.sub(*log_marks)
        num_accepted = prefix_length(time_passes & mark_passes, draft)
        first_rejected = num_accepted.clamp_max(draft.draft_length - 1).unsqueeze(1)
        return Acceptance(draft, target, num_accepted, ~time_passes.gather(1, first_rejected).squeeze(1))

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """See Rule."""
        inter_times, is_time = rejected.events()[0], accepted.detail[rejected.rows]
        if is_time.any():
            part = rejected.select(is_time.nonzero().squeeze(1))
            inter_times[is_time] = reject_until_kept(part, noise, _propose_time)[0]
        marks = self.fresh_marks(rejected, is_time, inter_times, noise)
        return Recovered(rejected.positions, inter_times, marks)

    def fresh_marks(self, rejected: Rejected, is_time: Tensor, inter_times: Tensor, noise: Streams) -> Tensor:
        """Draw the mark that goes with each of these inter-times, int64 (n,)."""
        uniforms = noise.loop(rejected.rows, rejected.positions, [(Purpose.FRESH_MARK, 1)], 0)[:, 0]
        target, draft = rejected.distributions()
        log_target = target.mark_log_probs(inter_times)
        excess = (log_target.exp() - draft.mark_log_probs(inter_times).exp()).clamp_min(0.0)
        # no excess at all can only be rounding: the drafted mark then stands
        is_rounding = ~is_time & (excess.sum(-1) <= 0)
        log_marks = torch.where(is_time.unsqueeze(-1), log_target, excess.log())
        return torch.where(is_rounding, rejected.events()[1], sample_mark(log_marks, uniforms))


def log_ratio(draft: Draft, distributions: EventDistribution) -> Tensor:
    """Return Delta at the drafted events, (rows, draft_length), from the target's distributions of them."""
    return log_density_ratio(distributions, draft.drafted_distributions, draft.inter_times, draft.marks)


def first_uniform(draft: Draft, uniforms: RoundUniforms) -> Tensor:
    """Return the first accept uniform of every drafted event, (rows, draft_length)."""
    return uniforms.accept[:, : draft.draft_length, 0]


def prefix_length(passes: Tensor, draft: Draft) -> Tensor:
    """Count how many leading events pass, of those that each row has drafted, int64 (rows,)."""
    num = passes.long().cumprod(1).sum(1)
    return num if draft.lengths is None else torch.minimum(num, draft.lengths)


def _propose_time(
    target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tau = target.inter_time.sample(uniforms[..., :2])
    delta = target.inter_time.log_prob(tau) - draft.inter_time.log_prob(tau)
    return tau, torch.zeros_like(tau, dtype=torch.int64), delta


# --- the rejection loop ----------------------------------------------------------------------------------------------


def proposals_per_row(num_rows: int, largest: int = 24) -> int:
    """Return how many proposals to make together.

    With few rows 24 cost little more than one, and nine times out of ten one of them is kept.
    """
    return max(8, min(largest, _AT_ONCE // max(1, num_rows)))


def more_proposals(num: int, num_rows: int, largest: int = 4096) -> int:
    """Return how many to make next, after `num` that were in vain for `num_rows` rows."""
    return min(4 * num, proposals_per_row(num_rows, largest))


def proposal_uniforms(rejected: Rejected, noise: Streams, first: Tensor | int, num: int, num_fresh: int = 0) -> Tensor:
    """Return uniforms of proposals first..first+num-1, float64 (n, num, 6 + 4 num_fresh).

    There are four to draw each, two to keep it, and four for each of `num_fresh` events from the draft.
    """
    wanted = [(Purpose.PROPOSAL, 2), (Purpose.PROPOSAL_COIN, 1), (Purpose.FRESH_DRAFT, 2 * num_fresh)]
    number = torch.as_tensor(first, device=rejected.rows.device).view(-1, 1)  # of all rows, or of each
    proposals = number + torch.arange(num, device=rejected.rows.device)
    return noise.loop(rejected.rows, rejected.positions, wanted, proposals)


def reject_until_kept(
    rejected: Rejected,
    noise: Streams,
    propose: Propose,
    log_scale: Tensor | None = None,
    num_fresh: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the first proposal of every row that is kept, with probability 1 - e^-Delta where Delta > 0.

    There is no cap and no fall-back.

    Args:
        rejected: n rows and where they are.
        noise: of the running sequences.
        propose: draws proposals and their Delta.
        log_scale: (n,), subtracted from Delta: max(0, target - scale draft) instead of max(0, target - draft).
        num_fresh: events from the draft that `propose` draws beside each proposal.

    Raises:
        RuntimeError: target and draft are no densities.
    """
    waiting = torch.arange(len(rejected.rows), device=rejected.rows.device)
    inter_times, marks = torch.zeros_like(waiting, dtype=torch.float64), torch.zeros_like(waiting)
    first, num = 0, proposals_per_row(len(waiting))
    while len(waiting):
        part = rejected.select(waiting)
        uniforms = proposal_uniforms(part, noise, first, num, num_fresh)
        target, draft = (distribution.unsqueeze(1) for distribution in part.distributions())
        tau, mark, delta = propose(target, draft, uniforms)
        if log_scale is not None:
            delta = delta - log_scale[waiting].unsqueeze(1)
        is_kept = uniforms[..., 4] < -torch.expm1(-delta)
        which, found = is_kept.long().argmax(1, keepdim=True), is_kept.any(1)
        inter_times[waiting], marks[waiting] = (x.gather(1, which).squeeze(1) for x in (tau, mark))
        waiting, first = waiting[~found], first + num  # a row without one is overwritten by a later block
        num = more_proposals(num, len(waiting))
        if first > MAX_PROPOSALS or (len(waiting) and torch.isnan(delta[~found]).all(1).any()):
            raise RuntimeError(
                f"no proposal of {first} was kept for {len(waiting)} rows: target and draft are not densities"
            )
    return inter_times, marks
