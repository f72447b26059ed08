"""Wrong samplers, for tests of the tests: each differs from the right one in one mistake that is easily made.

Where the mistake is one of a rule or of a drafter, it is a wrong object that is passed in; elsewhere it is a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from sampling import MakeDrafter, model_drafter, sample_with
from torch import Tensor

from tppsd.models.distribution import sample_mark, sample_with_ratio
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.sampling import method, rules, speculative
from tppsd.sampling.autoregressive import ModelRunner, WithoutMarks
from tppsd.sampling.block import BlockRule
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.engine import Advance
from tppsd.sampling.noise import Purpose, RowNoise, Streams
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.rules import (
    Acceptance,
    FactorisedRule,
    JointRule,
    Recovered,
    Rejected,
    RoundUniforms,
    Rule,
    first_uniform,
    log_ratio,
    proposal_uniforms,
    reject_until_kept,
)
from tppsd.sampling.speculative import Speculative
from tppsd.sampling.state import BatchState, Events

Patch = Callable[[], AbstractContextManager[Any]]


class Mutant(NamedTuple):
    """A wrong sampler. Fields: rule, drafter (of the draft model): that are passed in; patch: of anything else."""

    rule: Callable[[], Rule] | None = None
    drafter: Callable[[EventModel], MakeDrafter] | None = None
    patch: Patch = nullcontext

    def samples(self, target: Any, draft: Any, **arguments: Any) -> SampledSequences:
        """As of `sample_with`."""
        with self.patch():
            drafter = None if self.drafter is None else self.drafter(draft)
            return sample_with(target, draft, own_rule=self.rule and self.rule(), own_drafter=drafter, **arguments)


# --- the tests of drafted events -------------------------------------------------------------------------------------


def accept_times_only(draft: Draft, target: Any, uniforms: RoundUniforms) -> Acceptance:
    delta = target[:, :-1].inter_time.log_prob(draft.inter_times) - draft.distributions.inter_time.log_prob(
        draft.inter_times
    )
    num_accepted = (first_uniform(draft, uniforms).log() <= delta).long().cumprod(1).sum(1)
    return Acceptance(draft, target, num_accepted, torch.ones_like(num_accepted, dtype=torch.bool))


class MarksUntestedJoint(JointRule):
    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        return accept_times_only(draft, target, uniforms)


class MarksUntestedFactorised(FactorisedRule):
    """The paper's released code."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        return accept_times_only(draft, target, uniforms)


class OneCoinForTimeAndMark(FactorisedRule):
    """Accepts both with the smaller of the two probabilities instead of with their product."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        one = uniforms.accept[..., :1].expand_as(uniforms.accept)
        return super().accept(draft, target, uniforms._replace(accept=one), running, noise)


class AcceptsBeyondTheFirstRejection(JointRule):
    """Counts the accepted events instead of the leading ones."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        passes = first_uniform(draft, uniforms).log() <= log_ratio(draft, target[:, :-1])
        return Acceptance(draft, target, passes.long().sum(1))


# --- the event after a rejection -------------------------------------------------------------------------------------


def fresh_of_target(rejected: Rejected, noise: Streams) -> Tensor:
    """Uniforms (n, 3) for an event of the target."""
    return noise.loop(rejected.rows, rejected.positions, [(Purpose.PROPOSAL, 2)], 0)[:, :3]


def excess_marks(rejected: Rejected, inter_times: Tensor, noise: Streams) -> Tensor:
    """k ~ norm(max(0, f_T - f_D)) at the given times."""
    uniforms = noise.loop(rejected.rows, rejected.positions, [(Purpose.FRESH_MARK, 1)], 0)[:, 0]
    target, draft = (distribution.mark_log_probs(inter_times) for distribution in rejected.distributions())
    return sample_mark((target.exp() - draft.exp()).clamp_min(1e-300).log(), uniforms)


def as_if_times_had_failed(accepted: Acceptance) -> Acceptance:
    """The rule `factorised` then draws tau ~ norm(max(0, g_T - g_D)) for every rejected row."""
    return accepted._replace(detail=torch.ones_like(accepted.detail))


class AdjustedIsTargetJoint(JointRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        return Recovered(rejected.positions, *rejected.distributions()[0].sample(fresh_of_target(rejected, noise)))


class AdjustedIsTargetFactorised(FactorisedRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        own, target = fresh_of_target(rejected, noise), rejected.distributions()[0]
        fresh = target.inter_time.sample(own[:, :2])
        inter_times = torch.where(accepted.detail[rejected.rows], fresh, rejected.events()[0])
        return Recovered(rejected.positions, inter_times, sample_mark(target.mark_log_probs(inter_times), own[:, 2]))


class MarkFromAdjustedAfterTimeWasRejected(FactorisedRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        right = super().resample(rejected, accepted, uniforms, noise)
        return right._replace(marks=excess_marks(rejected, right.inter_times, noise))


class MarkKeptAfterTimeWasRejected(FactorisedRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        right = super().resample(rejected, accepted, uniforms, noise)
        return right._replace(marks=torch.where(accepted.detail[rejected.rows], rejected.events()[1], right.marks))


class BothRedrawnFromAdjusted(FactorisedRule):
    """The paper's Algorithm 1 as printed."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        right = super().resample(rejected, as_if_times_had_failed(accepted), uniforms, noise)
        return right._replace(marks=excess_marks(rejected, right.inter_times, noise))


class TimeRedrawnAfterMarkWasRejected(FactorisedRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        return super().resample(rejected, as_if_times_had_failed(accepted), uniforms, noise)


class LoopWithACap(JointRule):
    """After two tries the last proposal is taken as it is."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        own = proposal_uniforms(rejected, noise, 0, 2)
        tau, marks, delta = sample_with_ratio(
            *(distribution.unsqueeze(1) for distribution in rejected.distributions()), own
        )
        is_kept = own[..., 4] < -torch.expm1(-delta)
        is_kept[:, -1] = True
        which = is_kept.long().argmax(1, keepdim=True)
        return Recovered(rejected.positions, tau.gather(1, which).squeeze(1), marks.gather(1, which).squeeze(1))


def keep_by_the_proposal(*arguments: Any) -> Tensor:
    uniforms = proposal_uniforms(*arguments)
    uniforms[..., 4] = uniforms[..., 2]
    return uniforms


class LoopCoinIsTheProposal(JointRule):
    """The uniform that picks the proposed mark decides on the proposal as well."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        with patch.object(rules, "proposal_uniforms", keep_by_the_proposal):
            return Recovered(rejected.positions, *reject_until_kept(rejected, noise, sample_with_ratio))


def later(distributions: Any) -> Any:
    """Return the distributions of the next positions, (rows, n + 1) as they came; the last stays."""
    n = distributions.batch_shape[1] - 1
    return distributions[:, torch.arange(1, n + 2).clamp_max(n)]


class AdjustedDistributionOfTheNextPosition(JointRule):
    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        return super().resample(rejected._replace(target=later(rejected.target)), accepted, uniforms, noise)


@dataclass(frozen=True, eq=False)
class DraftAndWhatFollows(Draft):
    """A chain that knows the draft's own distribution (rows, 1) after its last event."""

    after: Any = None


class LooksAhead(ModelDrafter):
    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        draft = super().propose(state, uniforms)
        lengths = self.runner.cache.lengths
        after = self.runner.extend(draft.tokens.map(lambda field: field[:, -1:]))
        self.runner.cache.lengths = lengths
        return DraftAndWhatFollows(**vars(draft), after=after)


class BonusFromTheDraft(JointRule):
    """The bonus event follows the draft's own distribution after its last drafted event."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        assert isinstance(draft, DraftAndWhatFollows)
        right = super().accept(draft, target, uniforms, running, noise)
        return right._replace(target=type(target).cat([target[:, :-1], draft.after], 1))


# --- draft lengths that look ahead -----------------------------------------------------------------------------------


class LengthCutByTheVerdict(JointRule):
    """A draft ends before its first rejected event, as if no more had been wanted: a bonus event follows."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        right = super().accept(draft, target, uniforms, running, noise)
        return right._replace(draft=replace(draft, lengths=right.num_accepted))


class KnowsWhatWillPass(JointRule):
    """Remembers how many of the drafted events would pass, those behind the first rejected one included."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        self.passing = (first_uniform(draft, uniforms).log() <= log_ratio(draft, target[:, :-1])).sum(1)
        return super().accept(draft, target, uniforms, running, noise)


def told_of_uniforms_to_come() -> AbstractContextManager[Any]:
    """What is told of a round counts these: the next round tests with their uniforms."""
    right = Speculative.advance

    def advance(self: Speculative, state: BatchState) -> Advance:
        done = right(self, state)
        assert isinstance(self.rule, KnowsWhatWillPass) and done.num_drafted is not None
        return done._replace(num_used=self.rule.passing) if done.num_drafted.any() else done

    return patch.object(Speculative, "advance", advance)


# --- block verification ----------------------------------------------------------------------------------------------


class BlockProbsAboveOne(BlockRule):
    """P_i = r_1 ... r_i without the minimum with 1."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        log_block = log_ratio(draft, target[:, :-1]).cumsum(1)
        last = draft.num_drafted.unsqueeze(1) - 1
        accepted = first_uniform(draft, uniforms).gather(1, last).log() <= log_block.gather(1, last)
        return Acceptance(draft, target, (last + accepted.long()).squeeze(1), log_block)


class BlockCorrectsAsJointDoes(BlockRule):
    """The distribution after the prefix is adjusted by r instead of by P_i r; nothing fails."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        return super().resample(rejected, accepted._replace(detail=0 * accepted.detail), uniforms, noise)


class BlockOfTheNextPrefix(BlockRule):
    """The race at i runs with P_{i-1}."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        before = torch.nn.functional.pad(accepted.detail[:, :-1], (1, 0))
        return super().resample(rejected, accepted._replace(detail=before), uniforms, noise)


# --- which distribution, which cache, which noise --------------------------------------------------------------------


class DistributionOfTheEventBefore(JointRule):
    """A stale context."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        stale = target[:, torch.arange(-1, draft.draft_length).clamp_min(0)]
        return super().accept(draft, stale, uniforms, running, noise)


class DistributionOfTheEventAfter(JointRule):
    """An off-by-one context."""

    def accept(self, draft: Draft, target: Any, uniforms: RoundUniforms, running: Tensor, noise: Streams) -> Acceptance:
        return super().accept(draft, later(target), uniforms, running, noise)


def with_target_length(wrong: Callable[[Tensor, int], Tensor]) -> Patch:
    """The target's cache is `wrong` (num_kept, num_cached) entries longer than it should be."""
    right = Draft.keep_in

    def keep_in(self: Draft, cache: Any, num_kept: Tensor, num_cached: int, num_before: int) -> None:
        right(self, cache, num_kept, num_cached, num_before)
        if num_before:  # of the target
            cache.lengths = cache.lengths + wrong(num_kept, num_cached)

    return lambda: patch.object(Draft, "keep_in", keep_in)


class NeighboursCache(ModelRunner):
    """Every row of the target reads the cache of the row before it."""

    def extend(self, tokens: EventTokens, parents: tuple[int, ...] | None = None) -> Any:
        own, lengths = self.cache.tensors, self.cache.lengths
        self.cache.tensors = [tensor.roll(1, self.cache.row_dim) for tensor in own]
        distributions = super().extend(tokens, parents)
        self.cache.tensors, self.cache.lengths = own, lengths
        super().extend(tokens, parents)  # writes its own entries all the same
        return distributions


class AcceptedPrefixDropped(JointRule):
    """After a rejection only the event that replaces the rejected one is committed."""

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        right = super().resample(rejected, accepted, uniforms, noise)
        return right._replace(num_accepted=torch.zeros_like(right.num_accepted))


class NoiseOfTheRoundBefore(JointRule):
    """Every second round gets the numbers of the one before it."""

    def __init__(self) -> None:
        self._latest: RoundUniforms | None = None

    def uniforms(self, noise: RowNoise, draft_length: int) -> RoundUniforms:
        own, latest = super().uniforms(noise, draft_length), self._latest
        if latest is not None and latest.target.shape == own.target.shape:
            self._latest = None
            return latest
        self._latest = own
        return own


class NoiseOfTheRejectedEventAgain(JointRule):
    """The event after a rejected one is drafted with the numbers that the rejected one had."""

    def consume(self, noise: RowNoise, num_events: Tensor, draft_length: int) -> None:
        fewer = torch.where(num_events < draft_length + 1, num_events - 1, num_events)
        super().consume(noise, fewer, draft_length)


def silence_ignored() -> AbstractContextManager[Any]:
    """A continuation that does not know that nothing happened since the last event."""
    right = BatchState.prefill

    def prefill(self: BatchState, *arguments: Any) -> None:
        right(self, *arguments)
        self.elapsed, self.is_truncated_start = torch.zeros_like(self.elapsed), False

    return patch.object(BatchState, "prefill", prefill)


def silence_ignored_by_the_target() -> AbstractContextManager[Any]:
    """Only the draft knows of the silence: every first event is later than it, but not by the right distribution."""
    return patch.object(speculative, "given_elapsed", lambda distributions, state: distributions)


class StaleContext(ModelRunner):
    """Every event is fed to the target one pass late."""

    before: EventTokens | None = None

    def extend(self, tokens: EventTokens, parents: tuple[int, ...] | None = None) -> Any:
        is_there = self.before is not None and len(self.before.ids) == len(tokens.ids)
        late, self.before = self.before if is_there else tokens, tokens
        assert late is not None
        return super().extend(late, parents)


def with_target_runner(kind: type[ModelRunner]) -> Patch:
    return lambda: patch.object(method, "ModelRunner", kind)


# --- ends of windows -------------------------------------------------------------------------------------------------


def round_that_crosses_the_end_is_dropped() -> AbstractContextManager[Any]:
    """All events of the last round go, not only those beyond the end."""
    right = BatchState.commit

    def commit(self: BatchState, events: Events, num_events: Tensor) -> None:
        before = self.counts
        right(self, events, num_events)
        is_new = torch.arange(events.times.shape[1]) < num_events.unsqueeze(1)
        crosses = (events.times > self.end.unsqueeze(1)) & is_new
        self.counts = torch.where(crosses.any(1), before, self.counts)

    return patch.object(BatchState, "commit", commit)


# --- stop marks -------------------------------------------------------------------------------------------------------


def stop_dropped(state: BatchState, marks: Tensor, num_counted: Tensor) -> Tensor:
    """A sequence ends before the event that stops it."""
    right = RIGHT_STOP(state, marks, num_counted)
    return right - state.stopped.long()


def kept_behind_the_stop(state: BatchState, marks: Tensor, num_counted: Tensor) -> Tensor:
    """The other events of the round stay."""
    RIGHT_STOP(state, marks, num_counted)
    return num_counted


def looks_past_what_is_committed(state: BatchState, marks: Tensor, num_counted: Tensor) -> Tensor:
    """A drafted event of such a mark, that was rejected or lies behind a rejection, is taken for a stop."""
    return torch.minimum(RIGHT_STOP(state, marks, torch.full_like(num_counted, marks.shape[1])), num_counted)


def drafted_until_before_the_stop(draft: Draft, state: BatchState) -> Draft:
    """A draft ends before its event of such a mark: a bonus event comes in its place."""
    right = RIGHT_NEEDED(draft, state)
    num_before = (~state.is_stop(right.marks)).long().cumprod(1).sum(1)
    return replace(right, lengths=torch.minimum(right.num_drafted, num_before))


RIGHT_STOP, RIGHT_NEEDED = BatchState._stop, Draft.needed


def with_stop(wrong: Callable[[BatchState, Tensor, Tensor], Tensor]) -> Mutant:
    return Mutant(patch=lambda: patch.object(BatchState, "_stop", wrong))


STOP_MUTANTS = {
    "stop_dropped": with_stop(stop_dropped),
    "kept_behind_the_stop": with_stop(kept_behind_the_stop),
    "looks_past_what_is_committed": with_stop(looks_past_what_is_committed),
    "drafted_until_before_the_stop": Mutant(
        patch=lambda: patch.object(Draft, "needed", drafted_until_before_the_stop)
    ),
}  # fmt: skip


# --- forbidden marks --------------------------------------------------------------------------------------------------


def time_stands_still() -> AbstractContextManager[Any]:
    """A candidate that is dropped does not let time go on: the next event given that it is of another mark."""
    return patch.object(
        WithoutMarks, "_candidates", staticmethod(lambda distribution, elapsed, uniforms: distribution.sample(uniforms))
    )


class DroppedAfterwards(Mutant):
    """Forbidden marks are taken out of finished samples, in which they have moved the events behind them."""

    def samples(self, target: Any, draft: Any, **arguments: Any) -> SampledSequences:
        forbidden = arguments.pop("forbid_marks")
        whole = sample_with(target, draft, **arguments)
        is_kept = ~torch.isin(whole.flat_marks, torch.tensor(forbidden))
        counts = torch.stack([part.sum() for part in is_kept.split(whole.offsets.diff().tolist())])
        inter_times, since = whole.flat_inter_times.tolist(), 0.0
        starts = set(whole.offsets.tolist())
        for i, stays in enumerate(is_kept.tolist()):
            since = inter_times[i] + (0.0 if i in starts else since)
            inter_times[i], since = since, 0.0 if stays else since
        return replace(
            whole,
            flat_event_times=whole.flat_event_times[is_kept],
            flat_inter_times=torch.tensor(inter_times, dtype=torch.float64)[is_kept],
            flat_marks=whole.flat_marks[is_kept],
            offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
            options=whole.options.with_overrides(forbid_marks=forbidden),
        )


FORBID_MUTANTS = {
    "time_stands_still": Mutant(patch=time_stands_still),
    "dropped_afterwards": DroppedAfterwards(),
}

MUTANTS = {
    "marks_untested_joint": Mutant(MarksUntestedJoint),
    "marks_untested_factorised": Mutant(MarksUntestedFactorised),
    "one_coin_for_time_and_mark": Mutant(OneCoinForTimeAndMark),
    "accepts_beyond_the_first_rejection": Mutant(AcceptsBeyondTheFirstRejection),
    "adjusted_is_target_joint": Mutant(AdjustedIsTargetJoint),
    "adjusted_is_target_factorised": Mutant(AdjustedIsTargetFactorised),
    "mark_from_adjusted_after_time_was_rejected": Mutant(MarkFromAdjustedAfterTimeWasRejected),
    "mark_kept_after_time_was_rejected": Mutant(MarkKeptAfterTimeWasRejected),
    "both_redrawn_from_adjusted": Mutant(BothRedrawnFromAdjusted),
    "time_redrawn_after_mark_was_rejected": Mutant(TimeRedrawnAfterMarkWasRejected),
    "loop_with_a_cap": Mutant(LoopWithACap),
    "loop_coin_is_the_proposal": Mutant(LoopCoinIsTheProposal),
    "adjusted_distribution_of_the_next_position": Mutant(AdjustedDistributionOfTheNextPosition),
    "bonus_from_the_draft": Mutant(BonusFromTheDraft, lambda draft: model_drafter(LooksAhead, draft)),
    "length_cut_by_the_verdict": Mutant(LengthCutByTheVerdict),
    "length_chosen_by_coins_to_come": Mutant(KnowsWhatWillPass, patch=told_of_uniforms_to_come),
    "block_probs_above_one": Mutant(BlockProbsAboveOne),
    "block_corrects_as_joint_does": Mutant(BlockCorrectsAsJointDoes),
    "block_of_the_next_prefix": Mutant(BlockOfTheNextPrefix),
    "distribution_of_the_event_before": Mutant(DistributionOfTheEventBefore),
    "distribution_of_the_event_after": Mutant(DistributionOfTheEventAfter),
    # the target's cache loses the last accepted event
    "wrong_rollback_after_full_acceptance": Mutant(
        patch=with_target_length(lambda kept, drafted: -(kept == drafted).long())
    ),
    # rejected events stay in the target's cache
    "no_rollback_after_rejection": Mutant(patch=with_target_length(lambda kept, drafted: drafted - kept)),
    "row_reads_its_neighbours_cache": Mutant(patch=with_target_runner(NeighboursCache)),
    "accepted_prefix_dropped": Mutant(AcceptedPrefixDropped),
    "noise_of_the_round_before": Mutant(NoiseOfTheRoundBefore),
    "noise_of_the_rejected_event_again": Mutant(NoiseOfTheRejectedEventAgain),
    "silence_ignored": Mutant(patch=silence_ignored),
    "silence_ignored_by_the_target": Mutant(patch=silence_ignored_by_the_target),
    "autoregressive_stale_context": Mutant(patch=with_target_runner(StaleContext)),
    "round_that_crosses_the_end_is_dropped": Mutant(patch=round_that_crosses_the_end_is_dropped),
}  # fmt: skip
