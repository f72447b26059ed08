"""Acceptance rules that test one event after the other, and the adjusted laws that follow a rejection. Each is exact.

Everything is in log space and float64. The adjusted law norm(max(0, target - draft)) is drawn by rejection from the
target,
without a cap: a loop is entered with probability TV and needs about 1 / TV proposals, one per position on average.
Sources: Leviathan et al. 2023; Chen et al. 2023; TPP-SD (arXiv 2507.09252), whose Algorithm 1 as printed is biased for
    marks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.models.law import log_density_ratio, pick_mark, sample_mark, sample_with_ratio
from tppsd.sampling.drafters import Draft
from tppsd.sampling.noise import Purpose

MAX_PROPOSALS = 10**9
_AT_ONCE = 4096  # proposals evaluated together over all rows; changes no result

Attempts = Callable[..., Tensor]  # Streams.attempts
Propose = Callable[
    [Any, Any, Tensor], tuple[Tensor, Tensor, Tensor]
]  # target, draft, uniforms -> inter_times, marks, Delta


class Verdict(NamedTuple):
    """Fields: num_accepted int64 (rows,): length of the accepted prefix; time_rejected bool (rows,): at the first
    rejection it was the inter-time that failed (always True under `joint`); log_block float64 (rows, draft_length):
    under `block`, log P_i, and num_accepted then only says whether all or not all were accepted."""

    num_accepted: Tensor
    time_rejected: Tensor
    log_block: Tensor | None = None


class Rejected(NamedTuple):
    """The rows whose draft was rejected, each at its own position.

    Fields: rows, positions int64 (n,); draft: of the whole round; target: its laws, (rows in flight, draft_length + 1).
    """

    rows: Tensor
    positions: Tensor
    draft: Draft
    target: Any

    def laws(self) -> tuple[Any, Any]:
        """Of target and draft at the rejected events, batch shape (n,)."""
        return self.target[self.rows, self.positions], self.draft.laws[self.rows, self.positions]

    def events(self) -> tuple[Tensor, Tensor]:
        """The rejected inter-times and marks, (n,)."""
        return self.draft.inter_times[self.rows, self.positions], self.draft.marks[self.rows, self.positions]

    def select(self, which: Tensor) -> Rejected:
        return self._replace(rows=self.rows[which], positions=self.positions[which])


class Corrected(NamedTuple):
    """What follows a rejection: the accepted prefix and one new event. Fields: num_accepted, inter_times, marks
    (n,)."""

    num_accepted: Tensor
    inter_times: Tensor
    marks: Tensor


class Rule(NamedTuple):
    """accept: (draft, laws at the drafted positions, coins) -> Verdict.
    adjusted: (rejected, verdict, attempts) -> Corrected.
    adjusted_at_once: (rejected, verdict, attempts, num) -> (bool (n,), Corrected): the same without asking how often it
    must be tried, for those rows for which about `num` proposals are enough; of the others anything."""

    accept: Callable[[Draft, Any, Tensor], Verdict]
    adjusted: Callable[[Rejected, Verdict, Attempts], Corrected]
    adjusted_at_once: Callable[[Rejected, Verdict, Attempts, int], tuple[Tensor, Corrected]]


def log_ratio(draft: Draft, laws: Any) -> Tensor:
    """Delta at the drafted events, (rows, draft_length)."""
    return log_density_ratio(laws, draft.laws, draft.inter_times, draft.marks)


def accept_joint(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
    """Accept (tau, k) iff log U <= Delta; acceptance 1 - TV, the optimum for one candidate.

    Args:
        laws: the target's at the drafted positions, batch shape (rows, draft_length).
        coins: float64 uniforms (rows, draft_length, 2), of which the first decides.
    """
    num_accepted = (coins[..., 0].log() <= log_ratio(draft, laws)).long().cumprod(1).sum(1)
    return Verdict(num_accepted, torch.ones_like(num_accepted, dtype=torch.bool))


def accept_factorised(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
    """Test tau with g_T / g_D, then k with f_T / f_D (the paper's rule): two coins per event."""
    tau, marks = draft.inter_times, draft.marks
    time_delta = laws.inter_time.log_prob(tau) - draft.laws.inter_time.log_prob(tau)
    mark_delta = pick_mark(laws.mark_log_probs(tau), marks) - pick_mark(draft.laws.mark_log_probs(tau), marks)
    log_coins = coins.log()
    time_passes = log_coins[..., 0] <= time_delta
    num_accepted = (time_passes & (log_coins[..., 1] <= mark_delta)).long().cumprod(1).sum(1)
    first_rejected = num_accepted.clamp_max(tau.shape[1] - 1).unsqueeze(1)
    return Verdict(num_accepted, ~time_passes.gather(1, first_rejected).squeeze(1))


def adjusted_joint(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> Corrected:
    """(tau, k) ~ norm(max(0, g_T f_T - g_D f_D)): propose from the target, keep with probability 1 - e^-Delta."""

    return Corrected(rejected.positions, *reject_until_kept(rejected, attempts, sample_with_ratio))


def adjusted_joint_at_once(
    rejected: Rejected, verdict: Verdict, attempts: Attempts, num: int
) -> tuple[Tensor, Corrected]:
    turn = one_turn(rejected, attempts, sample_with_ratio, 0, num)
    return turn.found, Corrected(rejected.positions, turn.inter_times, turn.marks)


def adjusted_factorised(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> Corrected:
    """tau rejected: tau ~ norm(max(0, g_T - g_D)) and k afresh from f_T(. | tau), of which nothing was learnt.
    Only k rejected: keep tau, k ~ norm(max(0, f_T - f_D)) at that tau."""
    inter_times, is_time = rejected.events()[0], verdict.time_rejected[rejected.rows]
    if is_time.any():
        part = rejected.select(is_time.nonzero().squeeze(1))
        inter_times[is_time] = reject_until_kept(part, attempts, _propose_time)[0]
    return _with_mark(rejected, is_time, inter_times, attempts)


def adjusted_factorised_at_once(
    rejected: Rejected, verdict: Verdict, attempts: Attempts, num: int
) -> tuple[Tensor, Corrected]:
    turn, is_time = one_turn(rejected, attempts, _propose_time, 0, num), verdict.time_rejected[rejected.rows]
    inter_times = torch.where(is_time, turn.inter_times, rejected.events()[0])
    return turn.found | ~is_time, _with_mark(rejected, is_time, inter_times, attempts)


def _propose_time(target: Any, draft: Any, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tau = target.inter_time.sample(uniforms[..., :2])
    return (
        tau,
        torch.zeros_like(tau, dtype=torch.int64),
        target.inter_time.log_prob(tau) - draft.inter_time.log_prob(tau),
    )


def _with_mark(rejected: Rejected, is_time: Tensor, inter_times: Tensor, attempts: Attempts) -> Corrected:
    """The mark that goes with each of these inter-times."""
    coins = attempts(rejected.rows, rejected.positions, Purpose.FRESH_MARK, 0, 1, 1)[:, 0, 0]
    target, draft = rejected.laws()
    log_target = target.mark_log_probs(inter_times)
    excess = (log_target.exp() - draft.mark_log_probs(inter_times).exp()).clamp_min(0.0)
    # no excess at all can only be rounding: the drafted mark then stands
    is_rounding = ~is_time & (excess.sum(-1) <= 0)
    law = torch.where(is_time.unsqueeze(-1), log_target, excess.log())
    return Corrected(
        rejected.positions, inter_times, torch.where(is_rounding, rejected.events()[1], sample_mark(law, coins))
    )


def proposals_per_row(num_rows: int, largest: int = 24) -> int:
    """With few rows 24 cost little more than one, and nine times out of ten one of them is kept."""
    return max(8, min(largest, _AT_ONCE // max(1, num_rows)))


class Turn(NamedTuple):
    """Some proposals for each row. Fields: found bool (n,): one was kept; inter_times, marks (n,): the first kept one;
    delta (n, proposals)."""

    found: Tensor
    inter_times: Tensor
    marks: Tensor
    delta: Tensor


def one_turn(
    rejected: Rejected, attempts: Attempts, propose: Propose, first: int, num: int, log_scale: Tensor | None = None
) -> Turn:
    """Proposals first..first+num-1 of every row, as `reject_until_kept` makes them."""
    uniforms = attempts(rejected.rows, rejected.positions, Purpose.PROPOSAL, first, num, 2, Purpose.PROPOSAL_COIN)
    target, draft = rejected.laws()
    inter_times, marks, delta = propose(target.unsqueeze(1), draft.unsqueeze(1), uniforms)
    if log_scale is not None:
        delta = delta - log_scale.unsqueeze(1)
    is_kept = uniforms[..., 4] < -torch.expm1(-delta)
    which = is_kept.long().argmax(1, keepdim=True)
    inter_times, marks = (proposed.gather(1, which).squeeze(1) for proposed in (inter_times, marks))
    return Turn(is_kept.any(1), inter_times, marks, delta)


def reject_until_kept(
    rejected: Rejected,
    attempts: Attempts,
    propose: Propose,
    log_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """For every row the first proposal kept, with probability 1 - e^-Delta where Delta > 0. No cap, no fall-back.

    Args:
        log_scale: (n,), subtracted from Delta: max(0, target - scale draft) instead of max(0, target - draft).
    """
    waiting = torch.arange(len(rejected.rows), device=rejected.rows.device)
    inter_times, marks = torch.zeros_like(waiting, dtype=torch.float64), torch.zeros_like(waiting)
    first, num, part, scale = 0, proposals_per_row(len(waiting)), rejected, log_scale
    while len(waiting):
        if len(waiting) < len(rejected.rows):
            part, scale = rejected.select(waiting), None if log_scale is None else log_scale[waiting]
        turn = one_turn(part, attempts, propose, first, num, scale)
        for kept, proposed in ((inter_times, turn.inter_times), (marks, turn.marks)):
            kept.index_copy_(0, waiting, proposed)  # of rows without one, it is replaced by a later turn's
        waiting = waiting[~turn.found]
        first += num
        num = min(4 * num, proposals_per_row(len(waiting), largest=4096))
        if first > MAX_PROPOSALS or (len(waiting) and torch.isnan(turn.delta).all(1).any()):
            raise RuntimeError(
                f"no proposal of {first} was kept for {len(waiting)} rows: target and draft laws are not densities"
            )
    return inter_times, marks


JOINT = Rule(accept_joint, adjusted_joint, adjusted_joint_at_once)
FACTORISED = Rule(accept_factorised, adjusted_factorised, adjusted_factorised_at_once)
