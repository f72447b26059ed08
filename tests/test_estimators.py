"""Control variates, plain means and Wilson intervals: unbiased, with honest standard errors, never worse than plain."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hawkes_truth import expected_counts
from scipy import stats
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.forecasting.estimators import (
    Estimate,
    control_variate_estimate,
    mean_estimate,
    step_sum_estimate,
    wilson_interval,
)
from tppsd.processes import Hawkes


def skewed(num_paths: int, num_replications: int, seed: int) -> tuple[Tensor, Tensor]:
    """Y (paths, replications) of mean 2 and a martingale M, skewed and not linear in each other."""
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(num_paths, num_replications, generator=generator, dtype=torch.float64)
    exponential = -uniforms.log()
    return exponential.square(), (exponential - 1).unsqueeze(-1)


def in_sample(outcomes: Tensor, martingales: Tensor) -> Estimate:
    """The mutant: the coefficient is fitted to the paths that it corrects."""
    centred = martingales - martingales.mean(0)
    beta = (centred * outcomes.unsqueeze(-1)).sum(0) / centred.square().sum(0)
    return mean_estimate(outcomes - (beta * martingales).sum(-1))


def other_sign(outcomes: Tensor, martingales: Tensor) -> Estimate:
    """The mutant that adds what should be taken away: unbiased, and worse than plain."""
    estimate = control_variate_estimate(outcomes, martingales)
    return Estimate(2 * outcomes.mean(0) - estimate.value, estimate.standard_error)


@pytest.mark.parametrize(("estimator", "is_right"), [(control_variate_estimate, True), (in_sample, False)])
def test_it_is_unbiased_at_20_paths(estimator: Callable[[Tensor, Tensor], Estimate], is_right: bool) -> None:
    """The mean of 40,000 replications within 4 standard errors of the truth: a false alarm in 16,000 runs."""
    value = estimator(*skewed(20, 40_000, 0)).value
    score = abs(float((value.mean() - 2.0) / (value.std() / math.sqrt(len(value)))))
    assert score < 4 if is_right else score > 10


def test_standard_errors_are_those_of_replications_and_the_variance_falls() -> None:
    outcomes, martingales = skewed(400, 4000, 1)
    plain, controlled = mean_estimate(outcomes), control_variate_estimate(outcomes, martingales)
    for estimate in (plain, controlled):
        assert float(estimate.standard_error.square().mean().sqrt()) == pytest.approx(
            float(estimate.value.std()), rel=0.1
        )
    # corr(E^2, E)^2 = 16 / 20: a fifth of the variance is left
    assert float(controlled.value.var() / plain.value.var()) == pytest.approx(0.2, rel=0.2)
    assert float(other_sign(outcomes, martingales).value.var()) > 2 * float(plain.value.var())


@pytest.mark.parametrize(("share", "low"), [(1.0, 0.94), (0.05, 0.93)])
def test_intervals_cover_where_few_paths_make_the_variance(share: float, low: float) -> None:
    """This share of 500 paths is exponential and 0 else; the mutant takes 1.96 standard errors."""
    generator = torch.Generator().manual_seed(7)
    sizes = -torch.rand(500, 4000, generator=generator, dtype=torch.float64).log()
    found = mean_estimate(sizes * (torch.rand(500, 4000, generator=generator) < share))
    lower, upper = found.interval()
    assert low < float(((lower < share) & (share < upper)).double().mean()) < 0.965
    mutant = float(((found.value - share).abs() < 1.96 * found.standard_error).double().mean())
    assert mutant < 0.92 if share < 1 else mutant > 0.94


def test_normal_paths_have_as_many_degrees_of_freedom_as_there_are() -> None:
    normal = torch.randn(1000, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    freedom = mean_estimate(normal).degrees_of_freedom
    assert freedom is not None and float(freedom.mean()) > 950
    none = mean_estimate(torch.ones(10))  # no variance
    assert [float(end) for end in none.interval()] == [1.0, 1.0]


def nearly_certain(num_paths: int, num_replications: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fifteen steps of chance 0.3 each, until the first hit: Y of mean 1 - 0.7^15 = 0.995, and twice sum p_i."""
    generator = torch.Generator().manual_seed(seed)
    hits = torch.rand(15, num_paths, num_replications, generator=generator) < 0.3
    first = torch.where(hits.any(0), hits.double().argmax(0) + 1, 15)
    return hits.any(0).double(), 0.3 * first.double(), 0.3 * first.double()


def test_what_is_nearly_certain_is_no_worse_than_its_share() -> None:
    """sum p_i has 170 times the variance of Y here, and 2 or 3 of 500 paths have no event: nothing to fit to.

    The step sum alone is the mutant. 4,000 replications: means within 4 standard errors of the truth.
    """
    outcomes, sums, hazards = nearly_certain(500, 4000, 3)
    found, plain, mutant = (
        step_sum_estimate(outcomes, sums, hazards, True),
        mean_estimate(outcomes),
        mean_estimate(sums),
    )
    for estimate in (found, plain, mutant):
        score = (estimate.value.mean() - (1 - 0.7**15)) / (estimate.value.std() / math.sqrt(4000))
        assert abs(float(score)) < 4
    assert float(found.value.var() / plain.value.var()) < 1.05 < float(mutant.value.var() / plain.value.var())
    assert float(found.standard_error.min()) > 0.0015 > float(plain.standard_error.min())  # where all have an event
    same = torch.full_like(sums, 0.995)  # of a first step that nothing can follow
    assert float(step_sum_estimate(outcomes, same, hazards, True).value.var()) < 1e-20


def test_what_is_rare_is_corrected_by_more_controls_and_not_by_a_fit_to_its_events() -> None:
    """5 events in 400 paths; what makes them probable is half a control. 2,000 replications: means within 4 standard
    errors of the truth. The mutant fits a coefficient to the few events."""
    generator = torch.Generator().manual_seed(8)
    controls, noise = (torch.rand(400, 2000, 1, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    sums = 0.0125 * (1 + (controls + noise).squeeze(-1))
    outcomes = (torch.rand(400, 2000, generator=generator, dtype=torch.float64) < sums).double()
    found = step_sum_estimate(outcomes, sums, sums, True, controls)
    mutant = control_variate_estimate(outcomes, torch.cat([(outcomes - sums).unsqueeze(-1), controls], -1))
    for estimate in (found, mutant):
        assert abs(float((estimate.value.mean() - 0.0125) / (estimate.value.std() / math.sqrt(2000)))) < 4
    ratio = float(found.value.var() / mean_estimate(sums).value.var())
    assert ratio == pytest.approx(0.5, rel=0.15)
    assert float(found.standard_error.square().mean() / found.value.var()) == pytest.approx(1.0, rel=0.1)
    assert float(mutant.value.var()) > 10 * float(found.value.var())


def test_more_controls_do_not_take_the_place_of_what_the_paths_cannot_tell_from_them() -> None:
    """Whether anything happens has a known chance, 0.7, and is all but once in 1,000 times the event asked for: in half
    of 600 paths always. One fit of all control variates, the mutant, then believes 0.7 and says it is sure."""
    generator = torch.Generator().manual_seed(1)
    anything = (torch.rand(600, 1000, generator=generator) < 0.7).double()
    outcomes = anything * (torch.rand(600, 1000, generator=generator) < 0.999)
    sums = torch.full_like(outcomes, 0.6993)
    controls = (anything - 0.7).unsqueeze(-1)
    found = step_sum_estimate(outcomes, sums, sums, True, controls)
    assert float((found.value - 0.6993).abs().max()) < 1e-9
    both = torch.cat([(outcomes - sums).unsqueeze(-1), controls], -1)
    mutant = control_variate_estimate(outcomes, both)
    is_far = (mutant.value - 0.6993).abs() > 4 * mutant.standard_error.clamp_min(1e-9)
    assert float(is_far.double().mean()) > 0.3


def test_it_is_never_worse_than_plain_beyond_the_error_of_its_coefficients() -> None:
    """Three martingales that have nothing to do with the outcome cost a factor of 1.042 of the variance at 100 paths,
    with a standard deviation of 0.007 over 20 seeds of this test."""
    outcomes, _ = skewed(100, 4000, 2)
    noise = torch.randn(100, 4000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ratio = control_variate_estimate(outcomes, noise).value.var() / outcomes.mean(0).var()
    assert 1.0 < float(ratio) < 1.08


def test_counts_of_a_hawkes_process_with_their_compensator() -> None:
    """The count less the integrated intensity is a martingale. 3,000 paths: 4 standard errors off once in 16,000 runs.
    In a window of a fifth of the process's memory, as here, it explains more than nine tenths of the variance."""
    process, t_end = Hawkes(0.5, 0.8, 1.0), 0.2
    truth = expected_counts(process, EventSequence.of([], None, 0.0, 0.0), [t_end])[0, 0]
    paths = process.simulate(3000, t_end=t_end, seed=0)
    counts = torch.tensor([len(path) for path in paths], dtype=torch.float64)
    martingale = counts - torch.stack([process.compensator(path)[-1] for path in paths])
    plain, controlled = mean_estimate(counts), control_variate_estimate(counts, martingale.unsqueeze(-1))
    assert abs(float(controlled.value - truth)) < 4 * float(controlled.standard_error)
    assert float(controlled.standard_error) ** 2 < 0.1 * float(plain.standard_error) ** 2
    no_stop = counts - float(process.mu.sum()) * t_end  # the mutant: an integral that forgets the excitation
    biased = control_variate_estimate(counts, no_stop.unsqueeze(-1))
    assert abs(float(biased.value - truth)) > 5 * float(controlled.standard_error)


def test_useless_martingales_change_nothing() -> None:
    outcomes, martingales = skewed(50, 3, 4)
    silent = torch.zeros(50, 3, 2, dtype=torch.float64)
    for estimate, plain in zip(
        control_variate_estimate(outcomes, silent)[:2], mean_estimate(outcomes)[:2], strict=True
    ):
        torch.testing.assert_close(estimate, plain)
    twice = torch.cat([martingales, 3 * martingales, silent], -1)  # combinations of others
    for one, other in zip(
        control_variate_estimate(outcomes, twice)[:2], control_variate_estimate(outcomes, martingales)[:2], strict=True
    ):
        torch.testing.assert_close(one, other)


def test_units_do_not_matter_and_a_perfect_martingale_leaves_no_error() -> None:
    outcomes, martingales = skewed(60, 2, 5)
    units = torch.tensor([1e-9, 1e9], dtype=torch.float64)
    both = torch.cat([martingales, martingales.square() - 1], -1)
    for one, other in zip(
        control_variate_estimate(outcomes, both * units)[:2], control_variate_estimate(outcomes, both)[:2], strict=True
    ):
        torch.testing.assert_close(one, other)
    perfect = control_variate_estimate(outcomes, (outcomes - 2.0).unsqueeze(-1))
    torch.testing.assert_close(perfect.value, torch.full((2,), 2.0, dtype=torch.float64))
    assert (perfect.standard_error < 1e-12).all()


def test_one_question_without_a_batch() -> None:
    outcomes, martingales = skewed(30, 1, 6)
    alone = control_variate_estimate(outcomes[:, 0], martingales[:, 0])
    assert alone.value.shape == ()
    torch.testing.assert_close(alone.value, control_variate_estimate(outcomes, martingales).value[0])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_intervals_are_those_of_scipy(level: float) -> None:
    successes = torch.tensor([0, 1, 7, 40])
    lower, upper = wilson_interval(successes, 40, level)
    for i, k in enumerate(successes.tolist()):
        expected = stats.binomtest(k, 40).proportion_ci(level, "wilson")
        assert (float(lower[i]), float(upper[i])) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert lower[0] == 0.0 and upper[0] > 0.0 and lower[3] < 1.0 and upper[3] == pytest.approx(1.0)


def test_wilson_intervals_cover_rare_events_where_the_normal_ones_do_not() -> None:
    """P = 2 %, 100 paths, exactly: the sum of the binomial distribution over counts whose interval holds P."""
    counts = torch.arange(101)
    distribution = torch.from_numpy(stats.binom(100, 0.02).pmf(counts.numpy()))
    lower, upper = wilson_interval(counts, 100)
    assert 0.93 < float(distribution[(lower <= 0.02) & (upper >= 0.02)].sum()) < 0.99
    p = counts / 100
    half = 1.96 * (p * (1 - p) / 100).sqrt()
    assert float(distribution[(p - half <= 0.02) & (p + half >= 0.02)].sum()) < 0.90


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mean_estimate(torch.ones(1)), "at least 2 paths; got 1"),
        (lambda: control_variate_estimate(torch.ones(5), torch.ones(5)), r"\(5,\); with outcomes \(5,\) it must be"),
        (lambda: control_variate_estimate(torch.ones(5), torch.ones(5, 1), 6), "num_folds = 6 must be 2 to the number"),
        (lambda: wilson_interval(torch.ones(1), 0), "num_trials = 0 must be at least 1"),
    ],
)  # fmt: skip
def test_errors_say_what_would_be_right(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
