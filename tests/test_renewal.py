"""The history-free model: one distribution for every position, and a fit that finds it."""

from __future__ import annotations

import pytest
import torch
from small_models import assert_same_distribution, random_batch

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.renewal import RenewalTPP, fit_renewal

SHAPE = 4.0  # of the gamma gaps: much more regular than a Poisson process


def gamma_sequences(num_sequences: int, seed: int) -> list[EventSequence]:
    """Gamma gaps of mean 1; after a long gap the event is of mark 1, after a short one of mark 0."""
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(num_sequences, 40, 2 * int(SHAPE), generator=generator, dtype=torch.float64)
    gaps = normals.square().sum(-1) / (2 * SHAPE)  # chi-square with 2 SHAPE degrees of freedom
    return [
        EventSequence.of(row.cumsum(0), (row > 1).long(), t_start=0.0, t_end=float(row.sum()) + 0.1, index=i)
        for i, row in enumerate(gaps)
    ]


@pytest.fixture(scope="module")
def fitted() -> tuple[RenewalTPP, DataStatistics]:
    train = gamma_sequences(60, seed=1)
    statistics = DataStatistics.of(train, num_marks=2)
    return fit_renewal(train, statistics, num_steps=80, batch_events=1000), statistics


def per_event(model: RenewalTPP, sequences: list[EventSequence]) -> float:
    with torch.no_grad():
        return float(model.log_likelihood(EventBatch.from_sequences(sequences)).sum()) / sum(len(s) for s in sequences)


def test_every_position_has_the_same_distribution() -> None:
    distribution = RenewalTPP(3, num_components=4)(random_batch([4, 2]))
    assert distribution.batch_shape == (2, 5)
    assert_same_distribution(distribution[0, 0].expand((2, 5)), distribution)


def test_the_fit_improves_on_its_start_and_on_a_poisson_process(fitted: tuple[RenewalTPP, DataStatistics]) -> None:
    model, statistics = fitted
    test = gamma_sequences(40, seed=2)
    start = RenewalTPP(2)
    start.statistics = statistics
    rate = torch.tensor(statistics.num_events / statistics.duration)
    shares = torch.tensor(statistics.mark_counts) / statistics.num_events
    poisson = sum(
        float(len(s) * rate.log() - rate * (s.window_end - s.window_start) + shares.log()[s.marks].sum()) for s in test
    ) / sum(len(s) for s in test)
    assert per_event(model, test) > per_event(start, test) + 0.1
    assert per_event(model, test) > poisson + 0.5


def test_the_fit_is_close_to_the_true_distribution(fitted: tuple[RenewalTPP, DataStatistics]) -> None:
    """The gamma density and the certain mark, without the survival term."""
    test = gamma_sequences(40, seed=2)
    gaps = torch.cat([s.inter_times for s in test])
    true = torch.distributions.Gamma(torch.tensor(SHAPE).double(), torch.tensor(SHAPE).double()).log_prob(gaps).mean()
    with torch.no_grad():
        parts = fitted[0].log_likelihood_parts(EventBatch.from_sequences(test))
    assert float(parts.time.sum()) / len(gaps) > float(true) - 0.05
    assert float(parts.mark.sum()) / len(gaps) > -0.25


def test_few_events_are_not_learnt_by_heart() -> None:
    """48 i.i.d. events: 300 steps on them make the model worse than its start, unless a validation split tells when to
    stop."""
    train, validation, test = (
        [s.prefix(12) for s in gamma_sequences(n, seed)] for n, seed in ((4, 5), (4, 6), (40, 7))
    )  # fmt: skip
    statistics = DataStatistics.of(train, num_marks=2)
    start, alone = (fit_renewal(train, statistics, num_steps) for num_steps in (1, 300))
    stopped = fit_renewal(train, statistics, 300, validation=validation)
    assert per_event(alone, test) < per_event(start, test) < per_event(stopped, test)
    assert per_event(stopped, validation) >= max(per_event(alone, validation), per_event(start, validation))


def test_a_validation_split_changes_what_is_kept_and_not_the_steps() -> None:
    train = gamma_sequences(60, seed=1)
    statistics = DataStatistics.of(train, num_marks=2)
    alone, judged = (
        fit_renewal(train, statistics, 20, validation=split) for split in ((), gamma_sequences(40, seed=2))
    )
    assert per_event(alone, train) == per_event(judged, train)  # of many events the last step is the best


def test_fitting_leaves_the_global_generator_alone_and_repeats_itself() -> None:
    train = gamma_sequences(5, seed=3)
    statistics = DataStatistics.of(train, num_marks=2)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    steps: list[int] = []
    first = fit_renewal(train, statistics, num_steps=3, advance=lambda: steps.append(1))
    assert torch.equal(torch.get_rng_state(), before) and len(steps) == 3
    torch.rand(7)
    second = fit_renewal(train, statistics, num_steps=3)
    assert per_event(first, train) == per_event(second, train)
    assert not first.training and first.statistics == statistics


@pytest.mark.gpu
def test_fitting_leaves_the_device_generator_alone() -> None:
    train = gamma_sequences(5, seed=3)
    before = torch.cuda.get_rng_state()
    fit_renewal(train, DataStatistics.of(train, num_marks=2), num_steps=1, seed=99)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_an_unmarked_fit_has_no_mark_term() -> None:
    train = [EventSequence.of(s.event_times, t_start=0.0, t_end=s.t_end) for s in gamma_sequences(5, seed=3)]
    model = fit_renewal(train, DataStatistics.of(train, num_marks=1), num_steps=3)
    assert model.decoder.marks is None
    assert (model.log_likelihood_parts(EventBatch.from_sequences(train)).mark == 0).all()
