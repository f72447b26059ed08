"""Wrong samplers, for tests of the tests: each differs from the right one in one mistake that is easily made.

`mutant(name)` is a context manager under which `sample` makes that mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from tppsd.sampling.rows import Events, ModelRows, Progress, Rows

from tppsd.models.law import sample_mark
from tppsd.models.protocol import EventTokens
from tppsd.sampling import block, rules, speculative
from tppsd.sampling.autoregressive import Autoregressive
from tppsd.sampling.drafters import Draft, ModelDrafter
from tppsd.sampling.noise import Purpose, RowNoise
from tppsd.sampling.rules import Attempts, Corrected, Rejected, Verdict
from tppsd.sampling.speculative import RoundNoise, Speculative, at_positions, new_events

Mutant = Callable[[], Any]  # makes a patch
MUTANTS: dict[str, Mutant] = {}


@contextmanager
def mutant(name: str) -> Iterator[None]:
    with MUTANTS[name]():
        yield


def register(mutant: Mutant) -> Mutant:
    MUTANTS[mutant.__name__] = mutant
    return mutant


def with_rule(rule: str, accept: Any = None, adjusted: Any = None) -> Any:
    """`adjusted` returns (inter_times, marks) of the event after the accepted prefix."""
    right = speculative.RULES[rule]

    def corrected(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> Corrected:
        return Corrected(rejected.positions, *adjusted(rejected, verdict, attempts))

    wrong = right._replace(accept=accept or right.accept, adjusted=corrected if adjusted else right.adjusted)
    return patch.dict(speculative.RULES, {rule: wrong})


# --- the tests of drafted events ---------------------------------------------------------------------------------


def accept_times_only(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
    delta = laws.inter_time.log_prob(draft.inter_times) - draft.laws.inter_time.log_prob(draft.inter_times)
    num_accepted = (coins[..., 0].log() <= delta).long().cumprod(1).sum(1)
    return Verdict(num_accepted, torch.ones_like(num_accepted, dtype=torch.bool))


@register
def marks_untested_joint() -> Any:
    return with_rule("joint", accept=accept_times_only)


@register
def marks_untested_factorised() -> Any:
    """The paper's released code."""
    return with_rule("factorised", accept=accept_times_only)


@register
def one_coin_for_time_and_mark() -> Any:
    """Accepts both with the smaller of the two probabilities instead of with their product."""
    right = rules.accept_factorised

    def accept(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
        return right(draft, laws, coins[..., :1].expand_as(coins))

    return with_rule("factorised", accept=accept)


@register
def accepts_beyond_the_first_rejection() -> Any:
    """Counts the accepted events instead of the leading ones."""

    def accept(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
        delta = laws.log_prob(draft.inter_times, draft.marks) - draft.laws.log_prob(draft.inter_times, draft.marks)
        num_accepted = (coins[..., 0].log() <= delta).long().sum(1)
        return Verdict(num_accepted, torch.ones_like(num_accepted, dtype=torch.bool))

    return with_rule("joint", accept=accept)


# --- the event after a rejection ---------------------------------------------------------------------------------


def adjusted_times(rejected: Rejected, attempts: Attempts) -> Tensor:
    """tau ~ norm(max(0, g_T - g_D)) for every rejected row."""
    everywhere = Verdict(rejected.positions, torch.ones(int(rejected.rows.max()) + 1, dtype=torch.bool))
    return rules.adjusted_factorised(rejected, everywhere, attempts).inter_times


def excess_marks(rejected: Rejected, inter_times: Tensor, attempts: Attempts) -> Tensor:
    """k ~ norm(max(0, f_T - f_D)) at the given times."""
    coins = attempts(rejected.rows, rejected.positions, Purpose.FRESH_MARK, 0, 1, 1)[:, 0, 0]
    target, draft = (law.mark_log_probs(inter_times) for law in rejected.laws())
    return sample_mark((target.exp() - draft.exp()).clamp_min(1e-300).log(), coins)


@register
def adjusted_is_target_joint() -> Any:
    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        uniforms = attempts(rejected.rows, rejected.positions, Purpose.PROPOSAL, 0, 1, 2)[:, 0, :3]
        return rejected.laws()[0].sample(uniforms)

    return with_rule("joint", adjusted=adjusted)


@register
def adjusted_is_target_factorised() -> Any:
    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        uniforms = attempts(rejected.rows, rejected.positions, Purpose.PROPOSAL, 0, 1, 2)[:, 0, :3]
        target = rejected.laws()[0]
        fresh = target.inter_time.sample(uniforms[:, :2])
        inter_times = torch.where(verdict.time_rejected[rejected.rows], fresh, rejected.events()[0])
        return inter_times, sample_mark(target.mark_log_probs(inter_times), uniforms[:, 2])

    return with_rule("factorised", adjusted=adjusted)


@register
def mark_from_adjusted_after_time_was_rejected() -> Any:
    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        _, inter_times, _ = rules.adjusted_factorised(rejected, verdict, attempts)
        return inter_times, excess_marks(rejected, inter_times, attempts)

    return with_rule("factorised", adjusted=adjusted)


@register
def mark_kept_after_time_was_rejected() -> Any:
    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        _, inter_times, marks = rules.adjusted_factorised(rejected, verdict, attempts)
        return inter_times, torch.where(verdict.time_rejected[rejected.rows], rejected.events()[1], marks)

    return with_rule("factorised", adjusted=adjusted)


@register
def both_redrawn_from_adjusted() -> Any:
    """The paper's Algorithm 1 as printed."""

    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        inter_times = adjusted_times(rejected, attempts)
        return inter_times, excess_marks(rejected, inter_times, attempts)

    return with_rule("factorised", adjusted=adjusted)


@register
def time_redrawn_after_mark_was_rejected() -> Any:
    def adjusted(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> tuple[Tensor, Tensor]:
        everywhere = verdict._replace(time_rejected=torch.ones_like(verdict.time_rejected))
        return rules.adjusted_factorised(rejected, everywhere, attempts)[1:]

    return with_rule("factorised", adjusted=adjusted)


def capped_loop(rejected: Rejected, attempts: Attempts, propose: Any, cap: int = 2) -> tuple[Tensor, Tensor]:
    uniforms = attempts(rejected.rows, rejected.positions, Purpose.PROPOSAL, 0, cap, 2)
    coins = attempts(rejected.rows, rejected.positions, Purpose.PROPOSAL_COIN, 0, cap, 1)[..., 0]
    tau, marks, delta = propose(*(law.unsqueeze(1) for law in rejected.laws()), uniforms)
    is_kept = coins < -torch.expm1(-delta)
    is_kept[:, -1] = True
    which = is_kept.long().argmax(1, keepdim=True)
    return tau.gather(1, which).squeeze(1), marks.gather(1, which).squeeze(1)


@register
def loop_with_a_cap() -> Any:
    """After two tries the last proposal is taken as it is; both rules use this loop."""
    return patch.object(rules, "reject_until_kept", capped_loop)


@register
def loop_coin_is_the_proposal() -> Any:
    """The uniform that picks the proposed mark decides on the proposal as well."""
    right = RowNoise.attempts

    def attempts(self: RowNoise, *arguments: Any) -> Tensor:
        uniforms = right(self, *arguments)
        if arguments[-1] == Purpose.PROPOSAL_COIN:
            uniforms[..., 4] = uniforms[..., 2]
        return uniforms

    return patch.object(RowNoise, "attempts", attempts)


@register
def adjusted_law_of_the_next_position() -> Any:
    right = Speculative.correct

    def correct(
        self: Speculative, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, noise: RoundNoise
    ) -> tuple[Verdict, Tensor, Tensor]:
        draft_length = draft.marks.shape[1]
        later = torch.arange(1, draft_length + 2).clamp_max(draft_length)
        return right(self, rows, draft, laws[:, later], verdict, noise)

    return patch.object(Speculative, "correct", correct)


@register
def bonus_from_the_draft() -> Any:
    """The bonus event follows the draft's own law after its last drafted event."""
    right = Speculative.correct

    def correct(
        self: Speculative, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, noise: RoundNoise
    ) -> tuple[Verdict, Tensor, Tensor]:
        verdict, inter_times, marks = right(self, rows, draft, laws, verdict, noise)
        assert isinstance(self.drafter, ModelDrafter)
        cache = self.drafter.rows.cache
        lengths = cache.lengths
        law = self.drafter.rows.extend(EventTokens(*(field[:, -1:] for field in draft.tokens)))
        cache.lengths = lengths
        draft_length = draft.marks.shape[1]
        bonus_times, bonus_marks = law[:, 0].sample(noise.target[:, draft_length])
        is_bonus = verdict.num_accepted == draft_length
        return verdict, torch.where(is_bonus, bonus_times, inter_times), torch.where(is_bonus, bonus_marks, marks)

    return patch.object(Speculative, "correct", correct)


# --- draft lengths that look ahead -------------------------------------------------------------------------------


@register
def length_cut_by_the_verdict() -> Any:
    """A draft ends before its first rejected event, as if no more had been wanted: a bonus event follows."""
    right = Speculative.judge

    def judge(self: Speculative, rows: Rows, draft: Draft, laws: Any, noise: RoundNoise) -> tuple[Draft, Any, Verdict]:
        draft, laws, verdict = right(self, rows, draft, laws, noise)
        return draft._replace(lengths=verdict.num_accepted), laws, verdict

    return patch.object(Speculative, "judge", judge)


@register
@contextmanager
def length_chosen_by_coins_to_come() -> Iterator[None]:
    """What is told of a round counts events that pass behind the first rejected one: the next round tests with their
    coins."""
    passing: list[Tensor] = []

    def accept(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
        passing[:] = [(coins[..., 0].log() <= rules.log_ratio(draft, laws)).sum(1)]
        return rules.accept_joint(draft, laws, coins)

    def used(self: Progress, num_accepted: Tensor, counts: Tensor) -> Tensor:
        return passing.pop() if passing else num_accepted

    with with_rule("joint", accept=accept), patch.object(Progress, "used", used):
        yield


# --- block verification ------------------------------------------------------------------------------------------


@register
def block_probs_above_one() -> Any:
    """P_i = r_1 ... r_i without the minimum with 1."""
    return patch.object(block, "log_block_probs", lambda draft, laws: rules.log_ratio(draft, laws).cumsum(1))


def with_races(changed: Callable[[Any, Tensor, Tensor, int, Attempts], tuple[Any, ...]]) -> Any:
    """Races whose arguments (race, log_block, first, num, attempts) are `changed`."""
    right = block._race
    return patch.object(block, "_race", lambda *arguments: right(*changed(*arguments)))


@register
def block_corrects_as_joint_does() -> Any:
    """The law after the prefix is adjusted by r instead of by P_i r; nothing fails."""
    return with_races(lambda race, log_block, *rest: (race, torch.zeros_like(log_block), *rest))


@register
def block_of_the_next_prefix() -> Any:
    """The race at i runs with P_{i-1}."""

    def changed(race: Any, log_block: Tensor, *rest: Any) -> tuple[Any, ...]:
        before = race.positions.clamp_min(1) - 1
        probs = block.log_block_probs(race.draft, race.target[:, :-1])
        probs = torch.cat([torch.zeros_like(probs[:, :1]), probs], 1)
        return race, probs[race.rows, before], *rest

    return with_races(changed)


# --- which law, which cache, which noise -------------------------------------------------------------------------


def with_laws_of(positions: Callable[[int], Tensor]) -> Any:
    right = Speculative.verify

    def verify(self: Speculative, rows: Rows, draft: Draft) -> Any:
        return right(self, rows, draft)[:, positions(draft.marks.shape[1])]

    return patch.object(Speculative, "verify", verify)


@register
def law_of_the_event_before() -> Any:
    """A stale context."""
    return with_laws_of(lambda g: torch.arange(-1, g).clamp_min(0))


@register
def law_of_the_event_after() -> Any:
    """An off-by-one context."""
    return with_laws_of(lambda g: torch.arange(1, g + 2).clamp_max(g))


def with_target_length(wrong: Callable[[int, Verdict], Tensor]) -> Any:
    """The target's cache is `wrong` entries longer than it should be."""
    right = Speculative.commit

    def commit(self: Speculative, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, events: Events) -> Tensor:
        reached_end = right(self, rows, draft, laws, verdict, events)
        self.target.cache.lengths = self.target.cache.lengths + wrong(draft.marks.shape[1], verdict)
        return reached_end

    return patch.object(Speculative, "commit", commit)


@register
def wrong_rollback_after_full_acceptance() -> Any:
    """The target's cache loses the last accepted event."""
    return with_target_length(lambda draft_length, verdict: -(verdict.num_accepted == draft_length).long())


@register
def no_rollback_after_rejection() -> Any:
    """Rejected events stay in the target's cache."""
    return with_target_length(lambda draft_length, verdict: draft_length - verdict.num_accepted)


@register
def row_reads_its_neighbours_cache() -> Any:
    right = Speculative.verify

    def verify(self: Speculative, rows: Rows, draft: Draft) -> Any:
        cache = self.target.cache
        own, lengths = cache.tensors, cache.lengths
        cache.tensors = [tensor.roll(1, cache.row_dim) for tensor in own]
        laws = right(self, rows, draft)
        cache.tensors, cache.lengths = own, lengths
        right(self, rows, draft)  # writes its own entries all the same
        return laws

    return patch.object(Speculative, "verify", verify)


@register
def accepted_prefix_dropped() -> Any:
    """After a rejection only the corrected event is committed."""
    right = Speculative.commit

    def commit(self: Speculative, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, events: Events) -> Tensor:
        kept = torch.where(verdict.num_accepted == draft.marks.shape[1], verdict.num_accepted, 0)
        inter_times, _, marks = at_positions(events.columns.movedim(0, 2), verdict.num_accepted).unbind(1)
        alone = new_events(rows.last_times, draft, kept, inter_times, marks)
        return right(self, rows, draft, laws, verdict._replace(num_accepted=kept), alone)

    return patch.object(Speculative, "commit", commit)


@register
def noise_of_the_round_before() -> Any:
    """Every second round gets the numbers of the one before it."""
    right = RowNoise.window
    latest: list[Tensor] = []

    def window(self: RowNoise, num: int) -> Tensor:
        noise = right(self, num)
        if latest and latest[0].shape == noise.shape:
            return latest.pop()
        latest[:] = [noise]
        return noise

    return patch.object(RowNoise, "window", window)


@register
def noise_of_the_rejected_event_again() -> Any:
    """The event after a rejected one is drafted with the numbers that the rejected one had."""
    right = RowNoise.advance

    def advance(self: RowNoise, num: Any, at_most: int) -> None:
        right(self, num if isinstance(num, int) else torch.where(num < at_most, num - 1, num), at_most)

    return patch.object(RowNoise, "advance", advance)


@register
def silence_ignored() -> Any:
    """A continuation that does not know that nothing happened since the last event."""
    right = Rows.admit

    def admit(self: Rows, *arguments: Any) -> None:
        right(self, *arguments)
        self.elapsed, self.is_truncated_start = torch.zeros_like(self.elapsed), False

    return patch.object(Rows, "admit", admit)


@register
def silence_ignored_by_the_target() -> Any:
    """Only the draft knows of the silence: every first event is later than it, but not by the right law."""
    right = Speculative.verify

    def verify(self: Speculative, rows: Rows, draft: Draft) -> Any:
        known, rows.is_truncated_start = rows.is_truncated_start, False
        laws = right(self, rows, draft)
        rows.is_truncated_start = known
        return laws

    return patch.object(Speculative, "verify", verify)


@register
def autoregressive_stale_context() -> Any:
    """Autoregressive sampling that feeds each event one round late."""
    right = Autoregressive.round
    before: list[EventTokens] = []

    def round(self: Autoregressive, rows: Rows) -> Tensor:
        newest = rows.pending
        last = before.pop() if before else newest
        late = last if len(last.ids) == len(newest.ids) else newest
        before.append(newest)
        extend = ModelRows.extend
        with patch.object(ModelRows, "extend", lambda self, tokens: extend(self, late)):
            return right(self, rows)

    return patch.object(Autoregressive, "round", round)


# --- ends of windows ---------------------------------------------------------------------------------------------


@register
def round_that_crosses_the_end_is_dropped() -> Any:
    """All events of the last round go, not only those beyond the end."""
    right = Rows.commit

    def commit(self: Rows, events: Events, num_events: Tensor) -> Tensor:
        before = self.counts
        reached_end = right(self, events, num_events)
        crosses = (events.times > self.end.unsqueeze(1)) & (
            torch.arange(events.times.shape[1]) < num_events.unsqueeze(1)
        )
        self.counts = torch.where(crosses.any(1), before, self.counts)
        return reached_end

    return patch.object(Rows, "commit", commit)
