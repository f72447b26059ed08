"""Log-likelihoods of sequences: their terms, the two conventions, units, and that they are a probability
distribution."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_models import ENCODERS, random_batch, random_sequence, small_model

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import model_nll, nll_by_time, process_nll
from tppsd.processes.presets import InhomogeneousPoisson, preset


@torch.no_grad()
def by_hand(model, sequence: EventSequence, convention: str) -> float:
    """Term by term, each from the distribution of its own position."""
    distribution = model(EventBatch.from_sequences([sequence]))[0]
    given = int(sequence.first_is_given)
    times, marks = sequence.event_times, sequence.marks
    total = 0.0
    for i in range(given, len(sequence)):
        if convention == "benchmark" and i == 0:
            continue
        previous = times[i - 1] if i else torch.tensor(sequence.window_start, dtype=torch.float64)
        total += float(distribution[i - given].log_prob(times[i] - previous, marks[i]))
    if convention == "window" and sequence.t_end is not None:
        last = times[-1] if len(times) else torch.tensor(sequence.window_start, dtype=torch.float64)
        total += float(distribution[-1].log_survival(sequence.t_end - last))
    return total


SEQUENCES = {
    "whole window": random_sequence(5),
    "given first event": random_sequence(5, given=True),
    "without an end": EventSequence.of([0.5, 1.5, 1.75], [0, 2, 1], t_start=0.0),
    "given first event, without an end": EventSequence.of([0.5, 1.5, 1.75], [0, 2, 1]),
    "one event": random_sequence(1),
    "only a given first event": random_sequence(1, given=True),
    "no event": EventSequence.of([], [], t_start=1.0, t_end=3.0),
}


@pytest.mark.parametrize("convention", ["window", "benchmark"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_it_is_the_sum_of_the_terms_of_its_convention(name: str, convention: str) -> None:
    """Window: every event with an inter-time, and the survival term where there is an end. Benchmark: events 2..N."""
    model, sequence = small_model(), SEQUENCES[name]
    got = model.log_likelihood(EventBatch.from_sequences([sequence]), convention).detach()
    assert got.shape == (1,)
    assert float(got) == pytest.approx(by_hand(model, sequence, convention), abs=1e-10)


def test_the_number_of_scored_events_follows_the_convention() -> None:
    batch, model = EventBatch.from_sequences(SEQUENCES.values()), small_model()
    assert model.num_scored(batch).tolist() == [5, 4, 3, 2, 1, 0, 0]
    assert model.num_scored(batch, "benchmark").tolist() == [4, 4, 2, 2, 0, 0, 0]


def test_the_parts_add_up_and_each_counts() -> None:
    batch, model = random_batch([5, 3]), small_model()
    parts = model.log_likelihood_parts(batch)
    assert torch.equal(parts.time + parts.mark + parts.survival, model.log_likelihood(batch))
    assert (parts.mark < 0).all() and (parts.survival < 0).all()
    assert (model.log_likelihood_parts(batch, "benchmark").survival == 0).all()
    unmarked = small_model(num_marks=1)
    assert (unmarked.log_likelihood_parts(random_batch([5, 3], num_marks=1)).mark == 0).all()


def test_a_batch_of_empty_windows_is_scored_by_its_silence() -> None:
    batch, model = random_batch([0, 0]), small_model()
    expected = model(batch)[:, 0].log_survival(batch.t_end - batch.t_start)
    assert torch.equal(model.log_likelihood(batch), expected)
    assert torch.equal(model.log_likelihood(batch, "benchmark"), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("source", ["model", "process"])
def test_stretches_of_a_window_add_up_to_the_whole(source: str) -> None:
    process = preset("multivariate_hawkes").process
    sequences = process.simulate(4, t_end=12.0)
    nll = (
        partial(process_nll, process)
        if source == "process"
        else partial(model_nll, small_model("thp", num_marks=2).double())
    )
    edges = [3.0, 4.0, 12.0]
    in_stretch = [
        sum(int(((s.event_times > a) & (s.event_times <= b)).sum()) for s in sequences)
        for a, b in pairwise([0, *edges])
    ]
    stretches = nll_by_time(nll, sequences, edges)
    total = sum(n * value for n, value in zip(in_stretch, stretches, strict=True))
    assert total / sum(in_stretch) == pytest.approx(nll(sequences), rel=1e-6)
    first = [s.prefix(int((s.event_times <= 3.0).sum()), t_end=3.0) for s in sequences]
    assert stretches[0] == pytest.approx(nll(first), rel=1e-12)
    assert len(set(stretches)) == 3


def test_the_stretches_of_a_poisson_process_are_known() -> None:
    """Rate r, n events in time d: (r d - n log r) / n per event, whatever came before."""
    sequences = [EventSequence.of([0.5, 1.5, 1.75, 3.5], t_start=0.0, t_end=5.0)]
    process = InhomogeneousPoisson(scale=2.0, base=1.0, frequency=0.0)  # 2 (1 + sin 0)
    expected = [(2 * d - n * math.log(2)) / n for n, d in ((1, 1.0), (2, 1.0), (1, 3.0))]
    assert nll_by_time(partial(process_nll, process), sequences, [1.0, 2.0, 5.0]) == pytest.approx(expected, rel=1e-9)


def test_stretches_that_say_nothing_are_refused() -> None:
    sequences = [EventSequence.of([0.5, 1.5], t_start=0.0, t_end=5.0)]
    nll = partial(process_nll, preset("hawkes").process)
    with pytest.raises(ValueError, match=r"the latest edge is 6, but a sequence is observed until 5 only"):
        nll_by_time(nll, sequences, [2.0, 6.0])
    with pytest.raises(ValueError, match=r"no event comes in the stretch that ends at 4"):
        nll_by_time(nll, sequences, [1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match=r"edges = \[2\.0, 1\.0\] must ascend"):
        nll_by_time(nll, sequences, [2.0, 1.0])


def test_an_unknown_convention_is_named() -> None:
    with pytest.raises(ValueError, match="convention = 'easytpp' is unknown; choose 'window' or 'benchmark'"):
        small_model().log_likelihood(random_batch([2]), "easytpp")  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [1 / 3600, 86_400.0])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_change_of_unit_costs_its_logarithm_per_scored_event(encoder: str, unit: float) -> None:
    """Statistics are recomputed in the new unit; the weights stay."""
    sequences = [random_sequence(n, seed=n, given=n == 4) for n in (6, 4, 9)]
    scaled = [
        EventSequence.of(
            s.event_times * unit,
            s.marks,
            None if s.t_start is None else s.t_start * unit,
            None if s.t_end is None else s.t_end * unit,
        )
        for s in sequences
    ]
    model = small_model(encoder)
    for convention in ("window", "benchmark"):
        values = []
        for rows, floor in ((sequences, 0.01), (scaled, 0.01 * unit)):
            model.set_statistics(DataStatistics.of(rows, num_marks=3, min_inter_time=floor))
            values.append(model.log_likelihood(EventBatch.from_sequences(rows), convention))
        num_scored = model.num_scored(EventBatch.from_sequences(sequences), convention)
        torch.testing.assert_close(values[1], values[0] - num_scored.double() * math.log(unit), rtol=0, atol=1e-8)


def test_ties_are_scored_at_the_declared_floor() -> None:
    tie, at_floor = (EventSequence.of([1.0, 1.0 + gap], [0, 1], t_start=0.0) for gap in (0.0, 0.01))
    model = small_model()
    batches = [EventBatch.from_sequences([s]) for s in (tie, at_floor)]
    assert model.log_likelihood(batches[0]) == -torch.inf, "no floor is declared: a log-normal gives 0 no density"
    model.set_statistics(DataStatistics(3, min_inter_time=0.01))
    torch.testing.assert_close(model.log_likelihood(batches[0]), model.log_likelihood(batches[1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_probabilities_of_no_one_and_more_events_in_a_window_sum_to_one(encoder: str) -> None:
    """exp L(no event) + integral of exp L(one event) + P(at least two) = 1 on [0, T], marks summed.

    P(at least two) is the integral of the first two events' density without a survival term. Gauss-Legendre in
    log tau_1 and log tau_2, on the triangle tau_1 + tau_2 < T.
    """
    model, t_end, num_nodes = small_model(encoder, num_marks=2), 1.5, 48
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(num_nodes))

    def logarithmic(upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes and weights of an integral over (upper e^-18, upper): (..., num_nodes)."""
        points = upper.unsqueeze(-1) * torch.exp(9 * (nodes - 1))
        return points, 9 * weights * points

    first, first_weights = logarithmic(torch.tensor(t_end, dtype=torch.float64))
    second, second_weights = logarithmic(t_end - first)  # (num_nodes, num_nodes)
    marks = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    with torch.no_grad():
        none = model.log_likelihood(EventBatch.from_sequences([EventSequence.of([], [], 0.0, t_end)])).exp()[0]
        one = sum(
            (
                model.log_likelihood(_batch(first.unsqueeze(1), torch.full((num_nodes, 1), k), t_end)).exp()
                * first_weights
            ).sum()
            for k in range(2)
        )
        times = torch.stack([first.unsqueeze(1).expand_as(second), first.unsqueeze(1) + second], -1).flatten(0, 1)
        two = 0.0
        for pair in marks:
            parts = model.log_likelihood_parts(_batch(times, pair.expand(len(times), 2), t_end))
            density = (parts.time + parts.mark).exp().view_as(second)
            two += (density * second_weights).sum(1) @ first_weights
    assert min(none, one, two) > 0.01
    assert float(none + one + two) == pytest.approx(1, abs=1e-6)


def _batch(event_times: torch.Tensor, marks: torch.Tensor, t_end: float) -> EventBatch:
    """Rows of equally many events on [0, t_end]."""
    rows, length = event_times.shape
    inter_times = event_times.diff(dim=1, prepend=event_times.new_zeros(rows, 1))
    start = torch.zeros(rows, dtype=torch.float64)
    return EventBatch(
        event_times, inter_times, marks, torch.ones(rows, length, dtype=torch.bool), start, start + t_end,
        torch.full((rows,), -1), torch.arange(rows), start, torch.zeros(rows, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_are_finite_with_extreme_inter_times_and_padding(encoder: str) -> None:
    model = small_model(encoder, dtype=torch.float32).train()
    extreme = EventSequence.of([1e-9, 1e-9 + 1e9, 2e9], [0, 1, 2], t_start=0.0, t_end=1e12)
    model.log_likelihood(EventBatch.from_sequences([extreme, random_sequence(7), random_sequence(0)])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
