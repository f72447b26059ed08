"""A draft model that corrects a whole draft in a few passes: another draft, the same distribution.

As in test_sampling_drafters.py a right sampler fails a cell for one seed in 10,000; mutants must fall below 1e-6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from goodness import judge
from sampling import sample_with
from stubs import StubTPP, lively_transformer
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.parallel import ParallelDrafter, but_last
from tppsd.sampling.sample import sample
from tppsd.sampling.state import BatchState

HISTORY = EventSequence.of([0.7, 1.1, 2.6], [0, 1, 0], t_start=0.0, t_end=3.1)
OTHER = {"thp": "sahp", "sahp": "attnhp", "attnhp": "thp"}


def pair(encoder: str = "thp") -> tuple[Any, Any]:
    return lively_transformer(3, encoder, seed=2), lively_transformer(
        3, OTHER[encoder], seed=3, num_layers=1, num_components=2
    )


def drawn(target: Any, draft: Any, draft_passes: int | None = 2, **arguments: Any) -> Any:
    settings = {"num_sequences": 6000, "num_events": 7, "batch_size": 2500, "draft_length": 4, "seed": 5} | arguments
    return sample_with(target, draft, history=HISTORY, draft_passes=draft_passes, **settings)


def own(kind: type[ParallelDrafter], draft: Any, num_passes: int) -> Any:
    """What makes a drafter of that kind."""

    def made(target: ModelRunner) -> ParallelDrafter:
        return kind(draft, target, len(target.cache.lengths), num_passes)

    return made


@pytest.mark.parametrize("draft_passes", [1, 3])
@pytest.mark.parametrize("rule", ["joint", "factorised", "block"])
def test_samples_follow_the_target(rule: str, draft_passes: int) -> None:
    target = StubTPP.swinging(3, seed=0)
    samples = drawn(target, target.moved(3, times=0.5, marks=1.0), draft_passes, rule=rule)
    assert 0.2 < samples.stats.step_acceptance < 0.95, "a cell without rejections tests nothing"
    assert judge(target, HISTORY, samples) > 1e-4


@pytest.mark.parametrize("encoder", OTHER)
def test_a_transformer_drafts_in_parallel(encoder: str) -> None:
    target, draft = pair(encoder)
    samples = drawn(target, draft)
    assert samples.options.draft_passes == 2 and samples.stats.step_acceptance < 0.95
    assert judge(target, HISTORY, samples) > 1e-4
    assert judge(draft, HISTORY, samples) < 1e-6


def test_the_distribution_after_the_last_pass_is_not_the_distribution_drawn_from() -> None:
    """Mutant: events are tested with the draft's distributions after the drafted events themselves, which they were not
    drawn from."""

    class TestsAnotherDistribution(ParallelDrafter):
        def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
            draft = super().propose(state, uniforms)
            if draft.distributions is None:
                return draft
            distributions = self.runner.extend(but_last(draft.tokens))
            self.runner.cache.roll_back(uniforms.shape[1] - 1)
            return replace(draft, distributions=type(distributions).cat([draft.distributions[:, :1], distributions], 1))

    target, draft = pair()
    wrong = own(TestsAnotherDistribution, draft, 1)
    assert judge(target, HISTORY, drawn(target, draft, 1, num_sequences=20_000, own_drafter=wrong)) < 1e-6


@pytest.mark.parametrize("encoder", OTHER)
def test_with_a_pass_per_event_it_drafts_as_one_by_one(encoder: str) -> None:
    """Each event is then drawn from the draft's distribution after those before it: that of a pass without a cache over
    what the target has seen."""
    target, draft = pair(encoder)
    seen: list[Any] = []

    class Watched(ParallelDrafter):
        def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
            drafted = super().propose(state, uniforms)
            if drafted.distributions is not None and state.active[0] and int(drafted.num_drafted[0]):
                stored, new = int(state.counts[0]), (drafted.inter_times, drafted.times, drafted.marks)
                columns = zip(state.events.values, new, strict=True)
                events = [torch.cat([before[0, :stored], drafted[0]]) for before, drafted in columns]
                seen.append((stored, events, drafted.distributions.log_prob(drafted.inter_times, drafted.marks)[0]))
            return drafted

    size = {"num_events": 40, "draft_length": 4, "draft_passes": 4, "seed": 1}
    sample_with(target, draft, own_drafter=own(Watched, draft, 4), **size)
    assert len(seen) > 10
    for stored, (inter_times, times, marks), recorded in seen:
        sequence = EventSequence.of(times.tolist(), marks.long().tolist(), t_start=0.0)
        with torch.no_grad():
            distribution = draft(EventBatch.from_sequences([sequence])).double()[:, stored:-1]
        expected = distribution.log_prob(inter_times[None, stored:], marks[None, stored:].long())[0]
        torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-7)


def test_every_pass_brings_the_draft_nearer_to_one_by_one() -> None:
    target = lively_transformer(3, "thp", seed=2)
    draft = lively_transformer(3, "thp", seed=2)
    accepted = [
        drawn(target, draft, passes, draft_length=12, num_events=60, num_sequences=200).stats.step_acceptance
        for passes in (1, 2, 4, 12)
    ]
    assert accepted == sorted(accepted) and accepted[0] < 0.97 and accepted[-1] == 1.0


def test_same_sequences_for_any_batch_size() -> None:
    target, draft = pair()
    first, *others = (
        sample(target, draft, num_sequences=20, t_end=9.0, batch_size=size, seed=4, draft_length=4, draft_passes=2)
        for size in (1, 7, 64)
    )
    for run in others:
        assert torch.equal(run.offsets, first.offsets) and torch.equal(run.flat_marks, first.flat_marks)
        torch.testing.assert_close(run.flat_event_times, first.flat_event_times, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_passes": 0}, "draft_passes = 0 must be a whole number between 1 and"),
        ({"draft_passes": 2, "candidates": (2, 1)}, "draft_passes = 2 is for chains"),
        ({"draft_passes": 2, "drafter": "self"}, "draft_passes = 2 is for a draft model; drafter = 'self' has none"),
        ({"draft_passes": 2, "method": "fixed_point"}, "has no meaning for method = 'fixed_point'"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(*pair(), num_events=3, **options)
