"""The fit of a Hawkes process, against sums over all pairs of events, autograd, and the parameters of simulations."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from stubs import lively_transformer
from torch import Tensor
from windows import OF_SEQUENCES, tiled

import tppsd
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import event_counts, mark_totals, permutation_test
from tppsd.processes import Hawkes, ProcessModel, default_decays, excitation, fit_hawkes, hawkes_fit
from tppsd.processes.excitation import EventStream, decay_gradient, decayed_sums
from tppsd.processes.hawkes_fit import mixture_weights

TRUTH = Hawkes(mu=(0.5, 0.3), alpha=((0.8, 0.6), (0.1, 0.9)), beta=2.0)
SEEDS = range(4)


def simulated(seed: int, num_sequences: int = 40, t_end: float = 50.0) -> list[EventSequence]:
    return TRUTH.simulate(num_sequences, t_end=t_end, seed=seed)


def mixed(seed: int = 0) -> list[EventSequence]:
    """Windows of all kinds: with and without a start, an end and events."""
    rows = TRUTH.simulate(6, t_start=3.0, t_end=12.0, seed=seed)
    return [
        rows[0],
        EventSequence.of(rows[1].event_times, rows[1].marks, None, 12.0),
        EventSequence.of(rows[2].event_times, rows[2].marks, 3.0, None),
        EventSequence.of(rows[3].event_times, rows[3].marks, None, None),
        EventSequence.of([], [], 3.0, 7.0),
        rows[4],
    ]


def pair_log_likelihood(mu: Tensor, alpha: Tensor, decays: Tensor, sequences: list[EventSequence]) -> Tensor:
    """log L by sums over all pairs of events; alpha (decay, target, source). Differentiable."""
    total = mu.new_zeros(())
    for sequence in sequences:
        times, marks, given = sequence.event_times, sequence.marks, int(sequence.first_is_given)
        total = total - mu.sum() * (sequence.window_end - sequence.window_start)
        for i, (t, m) in enumerate(zip(times.tolist(), marks.tolist(), strict=True)):
            kernels = alpha[:, m, marks[:i]] * torch.exp(-decays.unsqueeze(1) * (t - times[:i]))
            if i >= given:
                total = total + (mu[m] + kernels.sum()).log()
            left = sequence.window_end - t
            total = total - (alpha[:, :, m].sum(1) / decays * -torch.expm1(-decays * left)).sum()
    return total


def standard_scores(fitted: Hawkes, truth: Hawkes, sequences: list[EventSequence]) -> Tensor:
    """(estimate - truth) / standard error, from the observed information, of mu and alpha of a fit with one decay."""
    stream = EventStream.of(sequences, truth.num_marks)
    design, _ = excitation.excitation(stream, torch.tensor([float(truth.beta[0, 0])], dtype=torch.float64))
    design = torch.cat([design.new_ones(len(design), 1), design.flatten(1)], 1)
    scores = []
    for mark in range(truth.num_marks):
        own = design[stream.event_marks == mark]
        parameters = torch.cat([truth.mu[mark : mark + 1], truth.alpha[mark]])
        found = torch.cat([fitted.mu[mark : mark + 1], fitted.alpha.view(truth.alpha.shape)[mark]])
        weighted = own / (own @ parameters).unsqueeze(1)
        scores.append((found - parameters) / torch.linalg.inv(weighted.T @ weighted).diagonal().sqrt())
    return torch.cat(scores)


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200, 4200])
def test_decayed_sums_follow_their_recursion(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    counts = torch.rand(3, length, 2, generator=generator, dtype=torch.float64)
    spans = torch.rand(3, length, generator=generator, dtype=torch.float64) ** 4
    spans[1, length // 2] = torch.inf  # forgets all that was before
    decays = torch.tensor([0.3, 20.0], dtype=torch.float64)
    sums, expected = counts[:, 0], [counts[:, 0]]
    for i in range(1, length):
        sums = torch.exp(-decays * spans[:, i, None]) * sums + counts[:, i]
        expected.append(sums)
    torch.testing.assert_close(decayed_sums(counts, spans, decays), torch.stack(expected, 1), rtol=1e-12, atol=1e-14)


def test_mixture_weights_are_those_of_a_long_em_and_the_gap_is_honest() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(60, 5, generator=generator, dtype=torch.float64) ** 3
    values[:, 3] = 0.0  # a component that explains nothing
    counts = torch.rand(60, generator=generator, dtype=torch.float64)

    def objective(weights: Tensor) -> float:
        return float(counts @ (values @ weights).log() - weights.sum())

    slow = torch.ones(5, dtype=torch.float64)
    for _ in range(20_000):
        slow = slow * ((counts / (values @ slow)) @ values)
    fast, gap = mixture_weights(values, counts)
    assert objective(fast) >= objective(slow) - 1e-9 * float(counts.sum())
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    rough, rough_gap = mixture_weights(values, counts, tolerance=1e-2)
    assert gap < objective(fast) - objective(rough) + 1e-6 <= rough_gap + 2e-6
    nothing, _ = mixture_weights(values, torch.zeros(60, dtype=torch.float64))
    assert not nothing.any()


def test_the_gradient_by_the_decays_is_that_of_autograd_and_does_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sequences, decays = mixed(), torch.tensor([2.0, 0.4], dtype=torch.float64, requires_grad=True)
    alpha = torch.stack([TRUTH.alpha, 0.3 * TRUTH.alpha.T])
    expected = torch.autograd.grad(pair_log_likelihood(TRUTH.mu, alpha, decays, sequences), decays)[0]
    stream, decays, by_target = EventStream.of(sequences), decays.detach(), alpha.permute(1, 2, 0)
    for block in (2**14, 7):
        monkeypatch.setattr(excitation, "_BLOCK", block)
        at_events, integral = excitation.excitation(stream, decays)
        intensities = TRUTH.mu[stream.event_marks] + (by_target[stream.event_marks] * at_events).sum((1, 2))
        log_likelihood = intensities.log().sum() - TRUTH.mu.sum() * stream.duration - (by_target * integral).sum()
        assert float(log_likelihood) == pytest.approx(
            float(pair_log_likelihood(TRUTH.mu, alpha, decays, sequences)), rel=1e-12
        )
        torch.testing.assert_close(decay_gradient(stream, decays, by_target, intensities), expected)


# --- the maximum ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the fitted Hawkes process has a branching ratio")
def test_no_direction_leads_up_from_the_fit() -> None:
    """The Karush-Kuhn-Tucker conditions of a concave problem, with a gradient that the fit does not share."""
    sequences, decays = [*simulated(9, 3, 30.0), *mixed()], torch.tensor([3.0, 0.2], dtype=torch.float64)
    fit = fit_hawkes(sequences, decays=decays)
    mu, alpha = fit.process.mu.clone().requires_grad_(), fit.process.alpha.clone().requires_grad_()
    value = pair_log_likelihood(mu, alpha, decays, sequences)
    assert fit.log_likelihood == pytest.approx(float(value.detach()), rel=1e-11)
    assert fit.log_likelihood == pytest.approx(sum(fit.process.log_likelihood(s) for s in sequences), rel=1e-11)
    assert fit.num_events == sum(s.num_scored for s in sequences) and 0 <= fit.gap <= 1e-9 * fit.num_events
    for parameter, slope in zip((mu, alpha), torch.autograd.grad(value, (mu, alpha)), strict=True):
        parameter = parameter.detach()
        assert (slope <= 1e-4).all()  # at most 1e-4 nats per unit of a rate
        assert ((parameter * slope).abs() < 1e-4).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_simulated_parameters_are_found_within_their_standard_errors(seed: int) -> None:
    """24 standard scores, none beyond 4.5: a false alarm in 6,000 runs."""
    sequences = simulated(seed)
    fit = fit_hawkes(sequences, decays=[2.0])
    assert standard_scores(fit.process, TRUTH, sequences).abs().max() < 4.5
    twice_gain = 2 * (fit.log_likelihood - sum(TRUTH.log_likelihood(s) for s in sequences))
    assert 0 < twice_gain < 28  # chi-square with 6 degrees of freedom: above 28 once in 10,000
    assert fit.branching_ratio == pytest.approx(TRUTH.branching_ratio, abs=0.15)


@pytest.mark.filterwarnings("ignore:the fitted Hawkes process has a branching ratio")
@pytest.mark.parametrize("mutant", ["no compensator", "no last interval", "decays per minute"])
def test_a_wrong_fit_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, decays = simulated(0), [2.0]
    if mutant == "decays per minute":
        decays = [2.0 * 60]
    if mutant == "no compensator":  # the integral of the kernels is that of unlimited time
        whole = excitation.excitation

        def without(stream: EventStream, decays: Tensor) -> tuple[Tensor, Tensor]:
            at_events, integral = whole(stream, decays)
            return at_events, torch.ones_like(integral)

        monkeypatch.setattr(hawkes_fit, "excitation", without)
    if mutant == "no last interval":
        sequences = [EventSequence.of(s.event_times, s.marks, 0.0) for s in simulated(0, 1000, 2.0) if len(s)]
    fit = fit_hawkes(sequences, decays=decays)
    assert standard_scores(fit.process, TRUTH, sequences).abs().max() > 6


def test_optimised_decays_are_found_from_afar() -> None:
    """One decay from a start 10 times too slow, within 20 %: of a quarter of these data, the standard deviation over 20
    seeds was 9 %."""
    sequences = simulated(1, num_sequences=160)
    fit = fit_hawkes(sequences, decays=[0.2], optimise_decays=True)
    assert fit.process.beta.unique().tolist() == pytest.approx([2.0], rel=0.2)
    fixed = fit_hawkes(sequences, decays=[2.0])
    assert fixed.log_likelihood - 1e-3 < fit.log_likelihood < fixed.log_likelihood + 8


def test_optimised_decays_leave_no_slope() -> None:
    """At most 1e-3 nats per event for a decay that is e times faster, with the slope of finite differences."""
    sequences = simulated(1, 30)
    fit = fit_hawkes(sequences, decays=[0.5, 10.0], optimise_decays=True)
    for d in range(2):
        factor = torch.ones(2, dtype=torch.float64)
        factor[d] = math.exp(0.01)
        decays = fit.process.beta[:, 0, 0]
        up, down = (fit_hawkes(sequences, decays=rates).log_likelihood for rates in (decays * factor, decays / factor))
        assert abs(up - down) / 0.02 / fit.num_events < 1e-3
        assert max(up, down) < fit.log_likelihood + 1e-4 * fit.num_events


def test_a_grid_of_decays_comes_close_to_the_truth() -> None:
    sequences = simulated(2)
    fit = fit_hawkes(sequences)
    assert fit.log_likelihood / fit.num_events > sum(TRUTH.log_likelihood(s) for s in sequences) / fit.num_events - 5e-3


def test_another_unit_of_time_changes_the_rates_accordingly() -> None:
    def in_seconds(s: EventSequence) -> EventSequence:
        return EventSequence.of(s.event_times * 3600, s.marks, 0.0, s.t_end * 3600)

    hours = simulated(3, 10)
    seconds = [in_seconds(s) for s in hours]
    torch.testing.assert_close(default_decays(seconds) * 3600, default_decays(hours))
    one, other = fit_hawkes(hours), fit_hawkes(seconds)
    assert other.log_likelihood == pytest.approx(one.log_likelihood - one.num_events * math.log(3600), rel=1e-9)
    torch.testing.assert_close(other.process.mu * 3600, one.process.mu, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(other.process.alpha * 3600, one.process.alpha, rtol=1e-2, atol=1e-3)


def test_many_sequences_alone_as_a_batch_and_in_any_order_give_one_fit() -> None:
    sequences = mixed()
    fits = [
        fit_hawkes(rows, 2, [1.0, 5.0]) for rows in (sequences, EventBatch.from_sequences(sequences), sequences[::-1])
    ]
    for fit in fits[1:]:
        assert fit.log_likelihood == pytest.approx(fits[0].log_likelihood, rel=1e-10)
    process = Hawkes.fit(sequences, 2, [1.0, 5.0])
    assert torch.equal(process.mu, fits[0].process.mu) and torch.equal(process.alpha, fits[0].process.alpha)


def test_windows_in_parts_with_all_before_given_have_the_fit_of_the_windows() -> None:
    """Given events excite and have no term; scored from their start instead, the parts have another fit."""
    windows = [*mixed(), *simulated(0, 4, 30.0)]
    parts = []
    for window in windows:
        edges = torch.linspace(window.window_start, window.window_end, 5, dtype=torch.float64).tolist()
        parts += tiled(window, edges)
    whole, fit = (fit_hawkes(rows, 2, decays=[0.5, 2.0]) for rows in (windows, parts))
    assert fit.num_events == whole.num_events == sum(part.num_scored for part in parts)
    assert fit.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-9)
    torch.testing.assert_close(fit.process.mu, whole.process.mu, rtol=1e-4, atol=1e-6)
    total = sum(fit.process.log_likelihood(part) for part in parts)
    assert total == pytest.approx(fit.log_likelihood, rel=1e-9)
    with OF_SEQUENCES["scored from the window's start"]():
        assert abs(fit_hawkes(parts, 2, decays=[0.5, 2.0]).log_likelihood - whole.log_likelihood) > 1.0


def test_pseudo_events_keep_unseen_marks_possible() -> None:
    sequences = simulated(4, 5)
    duration = sum(s.window_end - s.window_start for s in sequences)
    without, fit = (fit_hawkes(sequences, 3, [2.0], pseudo_events=n) for n in (0.0, 1.0))
    assert without.process.mu[2] == 0 and fit.process.mu[2] * duration == pytest.approx(1.0)
    assert fit.log_likelihood < without.log_likelihood
    surprise = EventSequence.of([1.0], [2], 0.0, 2.0)
    assert without.process.log_likelihood(surprise) == -math.inf < fit.process.log_likelihood(surprise)


def test_an_explosive_fit_is_said_and_can_be_used() -> None:
    explosive = Hawkes(0.5, 3.0, 2.0, is_stable=False)
    sequences = explosive.simulate(60, t_end=4.0, seed=0)
    with pytest.warns(UserWarning, match=r"branching ratio of 1\.\d+: with 1 or more"):
        fit = fit_hawkes(sequences, decays=[2.0])
    with pytest.warns(UserWarning, match="branching ratio") as caught:
        Hawkes.fit(sequences, decays=[2.0])
    assert caught[0].filename == __file__  # it points at the call
    assert fit.branching_ratio == pytest.approx(1.5, abs=0.2)
    assert fit.log_likelihood == pytest.approx(sum(fit.process.log_likelihood(s) for s in sequences), rel=1e-11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_hawkes(simulated(0, 5), decays=[2.0])  # a stable one says nothing


# --- as a model to sample ---------------------------------------------------------------------------------------------


def test_a_fit_is_a_target_and_a_draft() -> None:
    fitted = Hawkes.fit(simulated(5, 10), decays=[0.5, 2.0])
    assert isinstance(fitted, tppsd.EventModel)
    options = {"num_sequences": 30, "t_end": 5.0, "seed": 1}
    alone, wrapped = (tppsd.sample(model, **options) for model in (fitted, ProcessModel(fitted)))
    for one, other in zip(alone, wrapped, strict=True):
        assert torch.equal(one.event_times, other.event_times) and torch.equal(one.marks, other.marks)
    same = tppsd.sample(fitted, fitted, draft_length=4, **options)
    assert same.stats.acceptance_rate > 0.999
    drafted = tppsd.sample(TRUTH, fitted, num_sequences=300, t_end=5.0, draft_length=4)
    counts = torch.tensor([len(s) for s in drafted], dtype=torch.float64)
    expected = torch.tensor([len(s) for s in TRUTH.simulate(3000, t_end=5.0, seed=3)], dtype=torch.float64)
    assert 0.5 < drafted.stats.acceptance_rate < 1
    assert abs(counts.mean() - expected.mean()) < 4 * counts.std() / math.sqrt(300)


@pytest.mark.parametrize("options", [{}, {"candidates": (2, 2)}], ids=["chain", "tree"])
def test_as_the_draft_of_a_transformer_it_leaves_the_samples_distribution_alone(options: dict[str, Any]) -> None:
    """Numbers of events and mark totals against autoregressive sampling: a false alarm in 1,000 runs."""
    target = lively_transformer(3, "thp", 0)
    window = {"num_sequences": 120, "t_end": 6.0}
    alone = tppsd.sample(target, method="autoregressive", seed=1, **window)
    fitted = Hawkes.fit(list(alone), 3)
    drafted = tppsd.sample(target, fitted, draft_length=None if options else 4, seed=2, **window, **options)
    assert 0.1 < drafted.stats.acceptance_rate < 1
    for statistic in (event_counts, partial(mark_totals, num_marks=3)):
        assert permutation_test(statistic(list(alone)), statistic(list(drafted)), 9999).p_value > 2.5e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit_hawkes([]), "at least one sequence; got none"),
        (lambda: fit_hawkes([EventSequence.of([], None, 0.0, 1.0)], decays=[1.0]), "0 events .* in a total time of 1"),
        (lambda: fit_hawkes([EventSequence.of([1.0], None)], decays=[1.0]), "have 0 events .* in a total time of 0"),
        (lambda: fit_hawkes([EventSequence.of([0.0, 0.0], None, 0.0, 1.0)]), "no inter-time is positive: give"),
        (lambda: fit_hawkes(mixed(), num_marks=1), r"sequence 0: has mark 1; with num_marks = 1 they are 0\.\.0"),
        (lambda: fit_hawkes(mixed(), decays=[1.0, -1.0]), r"decays = \[1.0, -1.0\] must be positive"),
        (lambda: fit_hawkes(mixed(), decays=[]), "at least one"),
        (lambda: fit_hawkes(mixed(), decays=[1.0], pseudo_events=-1.0), "pseudo_events = -1.0 must not be negative"),
        (lambda: Hawkes((0.5, 0.5), torch.zeros(3, 2, 2), torch.ones(2)), r"beta has shape \(2, 1, 1\)"),
        (lambda: Hawkes(1.0, [[[0.5]], [[1.8]]], [1.0, 2.0]), "eigenvalue of alpha / beta is 1.4; it must be below 1"),
    ],
)  # fmt: skip
def test_errors_say_what_would_be_right(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
