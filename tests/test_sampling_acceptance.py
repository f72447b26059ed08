"""How often drafted events are accepted: always if the distributions are equal, and elsewhere as often as quadrature
says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from goodness import distribution_after, overlap_factorised, overlap_joint
from small_models import ENCODERS
from stubs import StubTPP, lively_transformer

from tppsd.data.sequences import EventSequence
from tppsd.processes.event_model import ProcessModel
from tppsd.processes.hawkes import Hawkes
from tppsd.sampling import block
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.sample import sample
from tppsd.sampling.state import BatchState
from tppsd.sampling.stats import SamplingStats

RULES = (
    "joint",
    "factorised",
)  # those that test one event after the other: acceptance is the overlap of two distributions
HISTORIES = [
    EventSequence.of([0.3, 0.9, 1.0], [0, 1, 1], t_start=0.0, t_end=1.4),
    EventSequence.of([], t_start=2.0),
    EventSequence.of([5.0, 5.5], [1, 0]),  # a given first event
    EventSequence.of([0.1 * i for i in range(1, 21)], [i % 2 for i in range(20)], t_start=0.0),
]


def unmarked(history: EventSequence) -> EventSequence:
    return EventSequence(history.event_times, torch.zeros_like(history.marks), history.t_start, history.t_end)


def standard_errors(stats: SamplingStats, expected: float) -> float:
    """(accepted - p tested) / sqrt(p (1 - p) tested): every test of a drafted event is a trial with probability p,
    whatever came
    before, so this is a martingale over its standard deviation: beyond 4 with probability 6e-5."""
    assert 0 < expected < 1 and stats.num_tested > 1000
    return (stats.num_accepted - expected * stats.num_tested) / math.sqrt(expected * (1 - expected) * stats.num_tested)


@pytest.mark.parametrize("rule", [*RULES, "block"])
@pytest.mark.parametrize("num_marks", [1, 5])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_draft_equal_to_the_target_is_always_accepted(encoder: str, num_marks: int, rule: Any) -> None:
    """In float64, whatever the rows' lengths: a cache that is not what it should be, in either model, would show
    here."""
    model = lively_transformer(num_marks, encoder, seed=1)
    histories = HISTORIES if num_marks > 1 else [unmarked(h) for h in HISTORIES]
    for draft_length, batch_size in ((1, 3), (4, 5), (4, 64)):
        samples = sample(
            model, model, history=histories, num_sequences=3, num_events=[7, 12, 30] * 4, rule=rule,
            draft_length=draft_length, batch_size=batch_size,
        )  # fmt: skip
        assert samples.stats.num_accepted == samples.stats.num_drafted >= 100
        assert samples.stats.step_acceptance == samples.stats.acceptance_rate == 1.0


@pytest.mark.parametrize("rule", [*RULES, "block"])
def test_distributions_with_nothing_in_common_are_never_accepted(rule: Any) -> None:
    target, draft = StubTPP.constant(0.0, 1.0, [0.5, 0.5]), StubTPP.constant(100.0, 1.0, [0.5, 0.5])
    stats = sample(target, draft, num_sequences=20, num_events=10, draft_length=3, rule=rule).stats
    assert stats.num_accepted == 0
    assert stats.num_events == stats.num_rounds == stats.num_tested == 200
    # three per round, but no more than the row still wants; block verification looks at whole drafts
    assert stats.num_drafted == (600 if rule == "block" else 20 * (8 * 3 + 2 + 1))


CONSTANT_PAIRS = [
    (StubTPP.constant(0.0, 1.0, [1.0]), StubTPP.constant(0.5, 1.0, [1.0])),
    (StubTPP.constant(0.0, 1.0, [1.0]), StubTPP.constant(0.0, 0.3, [1.0])),
    (StubTPP.constant(0.0, 1.0, [0.5, 0.3, 0.2]), StubTPP.constant(0.0, 1.0, [0.2, 0.2, 0.6])),
    (StubTPP.constant(0.0, 1.0, [0.6, 0.4], [2.0, -2.0]), StubTPP.constant(0.4, 1.3, [0.5, 0.5], [-1.0, 1.0])),
    (StubTPP.constant(0.0, 1.0, [0.999999, 1e-6]), StubTPP.constant(2.0, 1.0, [1e-6, 0.999999])),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("target", "draft"), CONSTANT_PAIRS)
def test_step_acceptance_is_the_overlap_of_the_distributions(target: StubTPP, draft: StubTPP, rule: Any) -> None:
    """joint: 1 - TV(g f); factorised: the integral of min(g) (1 - TV(f | tau)), never more. False alarms 6e-5 each."""
    empty = EventSequence.of([], t_start=0.0)
    distributions = distribution_after(target, empty), distribution_after(draft, empty)
    joint, factorised = overlap_joint(*distributions), overlap_factorised(*distributions)
    assert factorised <= joint + 1e-7
    size = {"num_sequences": 600, "num_events": 12, "batch_size": 600}
    stats = sample(target, draft, history=empty, draft_length=4, rule=rule, **size).stats
    if joint > 1e-4:
        assert abs(standard_errors(stats, joint if rule == "joint" else factorised)) < 4
    else:
        assert stats.step_acceptance < 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_step_acceptance_of_exponential_distributions_is_the_closed_form(rule: Any) -> None:
    """Exp(a) and Exp(b), a < b, cross at t = log(b / a) / (b - a): TV = exp(-a t) - exp(-b t). False alarms 6e-5
    each."""
    a, b = 1.0, 3.0
    t = math.log(b / a) / (b - a)
    expected = 1 - (math.exp(-a * t) - math.exp(-b * t))
    for target, draft in ((a, b), (b, a)):
        models = [ProcessModel(Hawkes(rate, 0.0, 1.0)) for rate in (target, draft)]
        stats = sample(*models, num_sequences=400, num_events=10, draft_length=3, rule=rule, batch_size=400).stats
        assert abs(standard_errors(stats, expected)) < 4


@pytest.mark.parametrize(("rule", "expected"), [("joint", 10 / 9), ("block", 11 / 9)])
def test_block_verification_accepts_more_than_event_by_event(rule: Any, expected: float) -> None:
    """The motivating example of Sun et al. (arXiv 2403.10444), two drafts of two marks: 11/9 events are accepted on
    average and not 10/9. The standard deviation is at most 1, so four standard errors are 4 / sqrt(rounds): false
    alarms 6e-5 each."""
    target, draft = StubTPP.constant(0.0, 1.0, [1 / 3, 2 / 3]), StubTPP.constant(0.0, 1.0, [2 / 3, 1 / 3])
    stats = sample(target, draft, num_sequences=2000, num_events=20, draft_length=2, rule=rule, batch_size=2000).stats
    assert stats.num_rounds > 17_000
    assert abs(stats.num_accepted / stats.num_rounds - expected) < 4 / math.sqrt(stats.num_rounds)


def test_races_end_alike_however_many_attempts_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The races of block verification go on from the rightmost that has not failed. Mutant: from the rightmost that has
    succeeded, which leaves out those still open."""
    target = StubTPP.random(3, seed=0)
    draft, runs = target.moved(1, times=0.7, marks=0.7), []
    for num in (1, 2, 16):
        monkeypatch.setattr(block, "proposals_per_row", lambda num_rows, largest, num=num: num)
        monkeypatch.setattr(block, "more_proposals", lambda num, num_rows: num)
        runs.append(sample(target, draft, num_sequences=100, num_events=20, draft_length=6, rule="block"))
    for run in runs[1:]:
        assert torch.equal(run.offsets, runs[0].offsets) and torch.equal(run.flat_marks, runs[0].flat_marks)
        torch.testing.assert_close(run.flat_event_times, runs[0].flat_event_times, rtol=1e-12, atol=0)


@pytest.mark.parametrize("draft_length", [2, 5, 10])
def test_block_verification_never_accepts_less(draft_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same histories and with the same drafts: means of 8,000 first rounds, at most four standard errors
    below."""
    monkeypatch.setattr(
        BatchState, "want_more", lambda self, times, num: torch.ones_like(times, dtype=torch.bool)
    )  # whole drafts
    target = StubTPP.random(3, seed=0)
    draft, empty = target.moved(1, times=0.7, marks=0.7), EventSequence.of([], t_start=0.0)
    means = []
    for rule in ("joint", "block"):
        arguments = {"num_sequences": 8000, "num_events": 1, "draft_length": draft_length, "batch_size": 8000}
        counts = (
            sample(target, draft, history=empty, rule=rule, **arguments).stats.accepted_counts[draft_length].double()
        )
        accepted = torch.arange(draft_length + 1).double()
        mean = float(counts @ accepted / counts.sum())
        means.append((mean, float(counts @ (accepted - mean) ** 2) / float(counts.sum()) ** 2))
    (joint, joint_variance), (block, block_variance) = means
    assert block > joint - 4 * math.sqrt(joint_variance + block_variance)
    assert draft_length == 2 or block > joint


def test_step_acceptance_after_a_silence_is_the_overlap_of_the_truncated_distributions() -> None:
    """False alarms 6e-5."""
    target, draft = StubTPP.constant(0.0, 1.0, [0.5, 0.5]), StubTPP.constant(0.8, 0.5, [0.7, 0.3])
    history = EventSequence.of([1.0], [0], t_start=0.0, t_end=4.0)
    expected = overlap_joint(distribution_after(target, history), distribution_after(draft, history), elapsed=3.0)
    assert abs(expected - overlap_joint(distribution_after(target, history), distribution_after(draft, history))) > 0.05
    stats = sample(
        target, draft, history=history, num_sequences=4000, num_events=1, draft_length=1, batch_size=4000, seed=3
    ).stats
    assert abs(standard_errors(stats, expected)) < 4


@pytest.mark.parametrize("rule", [*RULES, "block"])
def test_counters_agree_with_one_another(rule: Any) -> None:
    target = StubTPP.random(3, seed=0)
    draft = target.moved(1, times=0.5, marks=0.5)
    samples = sample(target, draft, num_sequences=40, t_end=10.0, draft_length=5, rule=rule, batch_size=2)
    stats, counts = samples.stats, samples.stats.accepted_counts
    drafted, accepted = torch.arange(6).unsqueeze(1), torch.arange(6)
    assert counts.shape == (6, 6) and counts.triu(1).sum() == counts[0].sum() == 0
    assert (rule == "block") == (counts[:5].sum() == 0), "other rules draft no more than a row can use"
    assert stats.num_rounds == int(counts.sum())
    assert stats.num_drafted == int((counts * drafted).sum())
    assert stats.num_accepted == int((counts * accepted).sum())
    assert stats.num_tested == int((counts * torch.minimum(accepted + 1, drafted)).sum())
    assert stats.num_events == len(samples.flat_event_times)
    assert stats.num_events <= stats.num_accepted + stats.num_rounds  # those beyond t_end are not returned
    assert stats.acceptance_rate == stats.num_accepted / stats.num_drafted
    assert stats.step_acceptance == stats["step_acceptance"] == stats.num_accepted / stats.num_tested
    assert stats.to_dict()["accepted_counts"] == counts.tolist()
    assert (stats.method, stats.rule, stats.draft_length, stats.drafter, stats.exact) == (
        "speculative",
        rule,
        5,
        "model",
        True,
    )
    assert stats.seconds > 0 and stats.events_per_round > 1


def test_autoregressive_sampling_counts_events_only() -> None:
    stats = sample(StubTPP.random(2, seed=0), num_sequences=5, num_events=4).stats
    assert (stats.method, stats.rule, stats.draft_length, stats.drafter) == ("autoregressive", None, None, None)
    assert stats.num_events == stats.num_rounds == 20 and stats.num_target_passes == 4
    assert stats.num_drafted == stats.num_tested == stats.num_accepted == 0
    assert math.isnan(stats.acceptance_rate) and math.isnan(stats.step_acceptance)


def test_an_event_that_the_draft_forgot_costs_acceptance_but_not_exactness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft's cache must be right for speed; this is what the test for equal models sees when it is not."""
    right = ModelDrafter.commit

    def forgetful(self: ModelDrafter, *arguments: Any) -> None:
        right(self, *arguments)
        self.runner.cache.lengths = (self.runner.cache.lengths - 1).clamp_min(0)

    monkeypatch.setattr(ModelDrafter, "commit", forgetful)
    model = StubTPP.swinging(3, seed=0)
    assert sample(model, model, num_sequences=20, num_events=20, draft_length=2).stats.step_acceptance < 0.95
