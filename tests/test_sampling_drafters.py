"""Drafters that need no model change the speed and not the distribution.

Each p-value of a right sampler is Bonferroni-corrected and is below 1e-4 for one seed in 10,000: with the 15 cells
here, a right sampler fails this file for one seed in 600. Mutants must fall below 1e-6.
"""

import math
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from goodness import judge
from sampling import sample_with
from stubs import StubTPP, lively_transformer

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture
from tppsd.models.protocol import EventTokens
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.drafters import own as own_module
from tppsd.sampling.drafters.base import Committed, Draft
from tppsd.sampling.drafters.own import JacobiDrafter, RecentDistributions, SelfDrafter
from tppsd.sampling.drafters.poisson import PoissonDistribution, PoissonDrafter
from tppsd.sampling.requests import Histories, Requests
from tppsd.sampling.sample import sample
from tppsd.sampling.state import BatchState

HISTORY = EventSequence.of([0.7, 1.1, 2.6], [0, 1, 0], t_start=0.0, t_end=3.1)
PATHS, EVENTS = 10_000, 7


def requests_of(histories: list[int]) -> Requests:
    """Endless requests of at most nine events, one per history."""
    which, zeros = torch.tensor(histories), torch.zeros(len(histories), dtype=torch.int64)
    ends = torch.full((len(histories),), math.inf, dtype=torch.float64)
    return Requests(which, which, which, zeros, ends, zeros + 9, zeros.bool())


def with_statistics(model):
    """A StubTPP that carries the frequencies of a training split, none of them its own."""
    model = replace(model)
    counts = tuple(range(1, model.num_marks + 1))
    object.__setattr__(
        model, "statistics", DataStatistics(model.num_marks, num_events=200, duration=250.0, mark_counts=counts)
    )
    return model


def own(kind):
    """What makes a drafter of that kind."""
    return lambda target: kind(target, len(target.cache.lengths), stops_at_end=True)


def drawn(model, draft, rule, history=HISTORY, **arguments):
    size = {"num_sequences": PATHS, "num_events": EVENTS, "batch_size": 5000, "draft_length": 3, "seed": 5} | arguments
    return sample_with(model, draft, history=history, rule=rule, **size)


@pytest.mark.parametrize("draft", ["self", "jacobi", "poisson"])
@pytest.mark.parametrize("rule", ["joint", "factorised"])
@pytest.mark.parametrize("num_marks", [1, 3])
def test_samples_follow_the_target(draft, rule, num_marks):
    model = with_statistics(StubTPP.random(num_marks, seed=5, strength=2.0))
    history = HISTORY if num_marks > 1 else EventSequence.of([0.7, 1.1, 2.6], t_start=0.0, t_end=3.1)
    samples = drawn(model, draft, rule, history)
    assert samples.stats.drafter == draft
    assert 0.2 < samples.stats.step_acceptance < 0.95, "a cell without rejections tests nothing"
    assert judge(model, history, samples) > 1e-4


@pytest.mark.parametrize("draft", [None, "jacobi"])
def test_a_transformer_drafts_for_itself(draft):
    model = lively_transformer(3, "attnhp", seed=1)
    samples = drawn(model, draft, None, method="speculative", num_sequences=8000)
    assert samples.stats.drafter == (draft or "self")
    assert judge(model, HISTORY, samples) > 1e-4


def test_distributions_of_the_round_before_are_nearer_than_distributions_held_fixed():
    model = lively_transformer(3, "thp", seed=1)
    accepted = {
        draft: drawn(model, draft, "joint", draft_length=16, num_events=60, num_sequences=200).stats.step_acceptance
        for draft in ("self", "jacobi")
    }
    assert accepted["jacobi"] > accepted["self"] + 0.02


def test_the_distribution_of_the_round_before_is_used_only_after_the_same_mark():
    """Row 0: one event of three was accepted, and the new event is of mark 1. Distributions 2 and 3 followed drafted
    events of marks 1 and 0; then come the distributions of the table, which followed committed events."""
    drafter = JacobiDrafter(nothing_encoded(num_marks=2), 1)
    drafted = Draft(*[torch.zeros(1, 3)] * 3, None)
    distributions = marked_distributions([[10.0, 11.0, 12.0, 13.0]])
    drafter.commit(Committed(drafted, torch.tensor([1]), None, distributions, torch.tensor([[0, 1, 1, 0]])))
    for mark, means in ((1, [12.0, 13.0, 10.0]), (0, [10.0, 13.0, 10.0])):
        state = BatchState(1, torch.device("cpu"))
        state.last_token = state.last_token._replace(ids=torch.tensor([[mark + 1]]))
        draft = drafter.propose(state, torch.full((1, 3, 3), 0.5, dtype=torch.float64))
        assert draft.distributions.inter_time.means[0, :, 0].tolist() == means


def test_a_density_of_another_distribution_than_the_one_drawn_from_is_caught():
    """Mutant: the density of a drafted event is that of the distribution after it."""

    class DensityOfTheNext(SelfDrafter):
        def propose(self, state, uniforms) -> Draft:
            draft = super().propose(state, uniforms)
            return (
                draft
                if draft.distributions is None
                else replace(draft, distributions=self.recent.table.at(draft.marks))
            )

    model = StubTPP.random(3, seed=3, strength=2.0)
    samples = drawn(model, "self", "joint", num_sequences=2500, own_drafter=own(DensityOfTheNext))
    assert judge(model, HISTORY, samples) < 1e-6


@pytest.mark.parametrize("draft", ["self", "jacobi"])
def test_the_first_round_after_a_history_drafts_unless_the_first_event_is_given_silence(draft):
    model = lively_transformer(3, "thp", seed=1)
    for silence, first_rounds in ((0.0, 0), (0.5, 40)):
        history = EventSequence.of([0.7, 1.1, 2.6], [0, 1, 0], t_start=0.0, t_end=2.6 + silence)
        stats = drawn(model, draft, None, history, method="speculative", num_sequences=40, batch_size=8).stats
        assert int(stats.accepted_counts[0].sum()) == first_rounds  # rounds of rows that drafted nothing


def test_recent_distributions_of_a_history_are_those_after_its_latest_event_of_each_mark():
    """Of the second history no event but the newest, which has not been encoded, is of mark 1, and none of mark 2."""
    model = lively_transformer(3, "rotary", seed=1)
    events = (([0.7, 1.1, 2.6, 3.0], [0, 2, 0, 1]), ([0.2, 0.9], [0, 1]))
    histories = [EventSequence.of(times, marks, t_start=0.0) for times, marks in events]
    batch = EventBatch.from_sequences(histories)
    tokens = EventTokens.from_batch(batch, 3)
    histories_of = Histories(tokens, batch.lengths + 1, batch.t_start, torch.zeros(2, dtype=torch.float64))
    rows = ModelRunner(model, 2, histories_of)
    with torch.inference_mode(), patch.object(ModelRunner, "PREFILL_CHUNK", 2):  # the distributions come in two passes
        rows.prefill(torch.tensor([0, 1]), requests_of([0, 1]))
        recent = rows.recent_distributions()
        full = model(batch).double().inter_time.means
    assert recent.is_known.tolist() == [[True, False, True, True], [True, False, False, True]]
    known = recent.table.inter_time.means
    for row, slot, position in ((0, 0, 3), (0, 2, 2), (0, 3, 3), (1, 0, 1), (1, 3, 1)):
        torch.testing.assert_close(known[row, slot], full[row, position], rtol=0, atol=1e-5)


def nothing_encoded(num_marks):
    """Rows of a target that continue nothing."""
    histories = SimpleNamespace(lengths=torch.ones(1, dtype=torch.int64))
    nothing = RecentDistributions(1, num_marks, torch.device("cpu"))
    return SimpleNamespace(
        model=SimpleNamespace(num_marks=num_marks), histories=histories, recent_distributions=lambda: nothing,
        encoded=lambda requests: torch.zeros(len(requests), dtype=torch.int64),
    )  # fmt: skip


def marked_distributions(values):
    """Distributions told apart by their mean."""
    means = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    return NextEventDistribution(LogNormalMixture(torch.zeros_like(means), means, torch.zeros_like(means)))


def test_the_table_keeps_the_newest_distribution_after_each_mark():
    drafter = SelfDrafter(nothing_encoded(num_marks=3), 2)
    nothing = Draft(*[torch.zeros(2, 0)] * 3, None)
    # tokens of marks 0, 1, 0, 2; the first row accepted two drafted events (its third is dead), the second row all
    # three
    distributions, marks = marked_distributions([[1.0, 2.0, 3.0, 4.0]] * 2), torch.tensor([[0, 1, 0, 2]] * 2)
    drafter.commit(Committed(nothing, torch.tensor([2, 3]), None, distributions, marks))
    assert drafter.recent.is_known.tolist() == [[True, True, False, True], [True, True, True, True]]
    assert drafter.recent.table.inter_time.means[0, [0, 1, 3], 0].tolist() == [3.0, 2.0, 3.0]
    assert drafter.recent.table.inter_time.means[1, :, 0].tolist() == [3.0, 2.0, 4.0, 4.0]
    drafter.commit(
        Committed(nothing, torch.tensor([0, 0]), None, marked_distributions([[5.0], [6.0]]), torch.tensor([[1], [-1]]))
    )
    assert drafter.recent.table.inter_time.means[0, [0, 1, 3], 0].tolist() == [3.0, 5.0, 5.0]
    assert drafter.recent.table.inter_time.means[1, :, 0].tolist() == [3.0, 2.0, 4.0, 6.0]
    drafter.prefill(torch.tensor([1]), requests_of([0]), None)
    assert drafter.recent.is_known.tolist() == [[True, True, False, True], [False] * 4]


def runs_of_many_batch_sizes(draft="self", **own_parts):
    model = lively_transformer(3, "thp", seed=2)
    job = {"num_sequences": 20, "t_end": 9.0, "seed": 4}
    return [sample_with(model, draft, batch_size=size, **job, **own_parts) for size in (1, 7, 64)]


@pytest.mark.parametrize("draft", ["self", "jacobi"])
def test_same_sequences_for_any_batch_size(draft):
    first, *others = runs_of_many_batch_sizes(draft)
    for run in others:
        assert torch.equal(run.offsets, first.offsets)
        assert torch.equal(run.flat_marks, first.flat_marks)
        torch.testing.assert_close(run.flat_event_times, first.flat_event_times, rtol=0, atol=1e-9)


def test_a_row_must_not_draft_from_the_distributions_of_the_row_before_it():
    """Mutant: a new request drafts from what its row knew. Every distribution is a valid draft, but batches would
    change sequences."""

    class RemembersTheRowBefore(SelfDrafter):
        def prefill(self, rows, requests, state) -> None:
            pass

    first, *others = runs_of_many_batch_sizes(own_drafter=own(RemembersTheRowBefore))
    assert any(run.flat_marks.tolist() != first.flat_marks.tolist() for run in others)


def test_poisson_distribution_is_a_density():
    distribution = PoissonDistribution(
        torch.tensor([0.0, 1.5], dtype=torch.float64), 0.3, torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    )
    tau = torch.linspace(0, 60, 600_001, dtype=torch.float64).unsqueeze(1)
    density = sum(distribution.log_prob(tau, torch.full_like(tau, k, dtype=torch.int64)).exp() for k in (0, 1))
    torch.testing.assert_close(
        torch.trapezoid(density, tau, dim=0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-4
    )
    uniforms = torch.rand(100_000, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inter_times, marks = distribution.sample(uniforms)
    assert bool((inter_times > distribution.elapsed).all())
    assert abs(float((inter_times - distribution.elapsed).mean()) / math.exp(-0.3) - 1) < 0.01
    assert abs(float(marks.double().mean()) - 0.75) < 0.01


def test_poisson_needs_the_statistics_of_a_training_split():
    with pytest.raises(ValueError, match="draft = 'poisson' needs a target that carries the statistics"):
        PoissonDrafter(None, torch.device("cpu"))
    with pytest.raises(ValueError, match="this one has none"):
        sample(lively_transformer(2, "thp", seed=0), "poisson", num_events=3)


@pytest.mark.parametrize("draft", ["self", "model"])
def test_nothing_is_drafted_beyond_the_end_of_a_window_and_nothing_is_lost_by_it(draft):
    """Distributions in float64 do not depend on the shape of a pass, so that the samples are the same to the last bit;
    and what a row is counted to have drafted does not depend on the rows beside it."""
    target = StubTPP.random(3, seed=0)
    job = {"history": HISTORY, "num_sequences": 12, "t_end": 6.0, "draft_length": 24, "seed": 2}
    other = target.moved(seed=1, times=0.1, marks=0.1) if draft == "model" else draft
    alone, together = (sample(target, other, batch_size=n, **job) for n in (1, 4))
    with patch.object(BatchState, "want_more", lambda self, times, num: torch.ones_like(times, dtype=torch.bool)):
        whole = sample(target, other, batch_size=4, **job)
    for samples in (alone, together):
        assert torch.equal(samples.flat_event_times, whole.flat_event_times)
        assert torch.equal(samples.flat_marks, whole.flat_marks)
    assert torch.equal(alone.stats.accepted_counts, together.stats.accepted_counts)
    assert 0 < alone.stats.num_drafted < whole.stats.num_drafted


WAYS_TO_FOLLOW = ("self", "jacobi", "two passes")


def with_most_draws(most: int, way: str, monkeypatch: pytest.MonkeyPatch):
    """Samples of a chain drawn all at once where there are at most so many draws."""
    monkeypatch.setattr(own_module, "_MOST_DRAWS", most)
    target = StubTPP.random(5, seed=0)
    draft = target.moved(seed=1, times=0.1, marks=0.1) if way == "two passes" else way
    options = {"draft_passes": 2} if way == "two passes" else {}
    return sample(target, draft, num_sequences=6, batch_size=4, num_events=40, draft_length=6, seed=3, **options)


@pytest.mark.parametrize("way", WAYS_TO_FOLLOW)
def test_events_drawn_one_after_another_are_those_drawn_all_at_once(way, monkeypatch):
    """And not if each followed the first one's mark."""
    at_once, one_by_one = (with_most_draws(most, way, monkeypatch) for most in (10**9, 0))
    assert torch.equal(at_once.flat_event_times, one_by_one.flat_event_times)
    assert torch.equal(at_once.flat_marks, one_by_one.flat_marks)
    assert torch.equal(at_once.stats.accepted_counts, one_by_one.stats.accepted_counts)
    right = own_module.RecentDistributions.after
    monkeypatch.setattr(
        own_module.RecentDistributions, "after", lambda self, marks: right(self, torch.zeros_like(marks))
    )
    wrong = with_most_draws(0, way, monkeypatch)
    assert not torch.equal(wrong.stats.accepted_counts, at_once.stats.accepted_counts)
