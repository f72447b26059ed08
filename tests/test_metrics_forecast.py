"""Forecasts of the next event: scores against quadrature and closed forms, calibration against histograms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from metric_oracles import crps_by_quadrature
from scipy import stats
from small_models import random_batch, random_sequence, small_model
from stubs import StubMarks
from torch import Tensor

from tppsd.metrics.functional import (
    capped_mean,
    confidence_bins,
    crps,
    distribution_residuals,
    expected_calibration_error,
    marginal_mark_probs,
    mark_accuracy,
    mean_share_beyond,
    model_residuals,
    pit_calibration,
    quantiles,
    rmse,
)
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture

EXTREMES = torch.tensor([1e-9, 1e9], dtype=torch.float64)


def mixture(
    num_events: int, num_components: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> LogNormalMixture:
    g = torch.Generator().manual_seed(seed)
    log_weights, means, log_stds = torch.randn(3, num_events, num_components, dtype=torch.float64, generator=g)
    distribution = torch.log_softmax(log_weights, -1), means, 0.5 * log_stds - 0.5
    return LogNormalMixture(*(parameter.to(dtype) for parameter in distribution), shift=-0.3, scale=1.4)


def single(mean: float, std: float, num_events: int = 1) -> LogNormalMixture:
    """One log-normal."""
    column = torch.ones(num_events, 1, dtype=torch.float64)
    return LogNormalMixture(0 * column, mean * column, math.log(std) * column)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- CRPS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1e-9, 0.02, 0.7, 5.0, 1e3, 1e9])
def test_crps_is_its_integral(tau: float) -> None:
    distribution = mixture(6)
    for i, value in enumerate(crps(distribution, torch.full((6,), tau))):
        assert float(value) == pytest.approx(crps_by_quadrature(distribution[i], tau), rel=1e-7)


@pytest.mark.parametrize("std", [0.003, 0.5, 3.0])
def test_crps_of_one_component_is_the_known_closed_form(std: float) -> None:
    """Baran and Lerch (2015)."""
    mean, tau = 0.4, tensor(1e-9, 0.3, 1.5, 1.6, 40.0, 1e9)
    z = (tau.log() - mean) / std
    bracket = torch.special.ndtr(z - std) + stats.norm.cdf(std / math.sqrt(2)) - 1
    expected = tau * (2 * torch.special.ndtr(z) - 1) - 2 * math.exp(mean + std**2 / 2) * bracket
    torch.testing.assert_close(crps(single(mean, std, 6), tau), expected, rtol=1e-9, atol=1e-12)


def test_crps_of_an_exact_forecast_vanishes_and_of_a_far_one_is_the_distance() -> None:
    distribution = single(0.0, 1e-6, 2)
    torch.testing.assert_close(crps(distribution, tensor(1.0, 4.0)), tensor(0.0, 3.0), rtol=0, atol=1e-5)


def test_crps_survives_a_tail_whose_mean_is_absurd() -> None:
    """E|X - tau| - E|X - X'| / 2 would subtract 1e+36 from 1e+36 to get 0.5."""
    distribution = LogNormalMixture(
        tensor(1.0, 1e-12).log()[None], tensor(0.0, 0.0)[None], tensor(0.5, 15.0).log()[None]
    )
    assert float(distribution.mean) > 1e36
    value = float(crps(distribution, tensor(2.0)))
    assert value == pytest.approx(crps_by_quadrature(distribution[0], 2.0, 100_001), rel=1e-9)


def test_crps_of_components_whose_means_could_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The careful way to E min(X, X') is right where it is needed, and equal to the fast way where it is not."""
    distribution = LogNormalMixture(tensor(0.7, 0.3).log()[None], tensor(0.0, 1.0)[None], tensor(0.5, 30.0).log()[None])
    assert float(distribution.mean) > 1e190
    assert float(crps(distribution, tensor(2.0))) == pytest.approx(
        crps_by_quadrature(distribution[0], 2.0, 100_001), rel=1e-9
    )
    taus = torch.linspace(0.1, 9, 50, dtype=torch.float64)
    fast = crps(mixture(50), taus)
    monkeypatch.setattr("tppsd.metrics.functional.capped._LARGE", -math.inf)
    torch.testing.assert_close(crps(mixture(50), taus), fast, rtol=1e-12, atol=0)


@pytest.mark.parametrize("horizon", [0.05, 2.0, 300.0])
@pytest.mark.parametrize("num_components", [1, 4, 40])
@pytest.mark.parametrize("widest", [0.5, 12.0])
def test_crps_until_a_horizon_is_its_integral(horizon: float, num_components: int, widest: float) -> None:
    """Of light distributions, where the closed form does, and of absurd ones, it is that to 1e-4 of the capped mean."""
    distribution = mixture(3, num_components, seed=1)
    log_stds = distribution.log_stds.clone()
    log_stds[:, 0] = math.log(widest)
    distribution = replace(distribution, log_stds=log_stds)
    means = capped_mean(distribution, horizon)
    for tau in (0.01, 1.0, 1e4):
        for i, value in enumerate(crps(distribution, torch.full((3,), tau), horizon)):
            expected = crps_until(distribution[i], tau, horizon)
            assert float(value) == pytest.approx(expected, abs=2e-4 * float(means[i]) + 1e-7 * horizon)


def crps_until(distribution: LogNormalMixture, tau: float, horizon: float, num_nodes: int = 20_001) -> float:
    """integral_0^H (G - 1{x >= tau})^2 dx by the trapezoidal rule in log x, on either side of tau."""
    total = 0.0
    for low, high in ((1e-12, min(tau, horizon)), (min(tau, horizon), horizon)):
        if low < high:
            u = torch.linspace(math.log(low), math.log(high), num_nodes, dtype=torch.float64)
            is_late = low >= tau
            below = distribution.cdf(u.exp()) if not is_late else distribution.log_survival(u.exp()).exp()
            total += float(torch.trapezoid(below.square() * u.exp(), u))
    return total


def test_a_capped_mean_is_its_integral_and_the_mean_without_a_horizon() -> None:
    distribution = mixture(5, seed=2)
    torch.testing.assert_close(capped_mean(distribution, math.inf), distribution.mean, rtol=1e-12, atol=0)
    u = torch.linspace(-30, math.log(2.0), 200_001, dtype=torch.float64)
    for i, value in enumerate(capped_mean(distribution, 2.0)):
        expected = torch.trapezoid(distribution[i].log_survival(u.exp()).exp() * u.exp(), u)
        assert float(value) == pytest.approx(float(expected), rel=1e-7)
        share = 1 - float(value) / float(distribution.mean[i])
        assert float(mean_share_beyond(distribution, 2.0)[i]) == pytest.approx(share, rel=1e-9)


def test_a_mean_beyond_all_numbers_is_all_beyond_the_horizon() -> None:
    """exp(s^2 / 2) of a component 60 wide is no float64; a distribution without a tail has nothing beyond."""
    wide = LogNormalMixture(tensor(0.999, 0.001).log()[None], tensor(0.0, 0.0)[None], tensor(0.5, 60.0).log()[None])
    assert float(mean_share_beyond(wide, 100.0)) == 1.0
    assert 0.5 < float(capped_mean(wide, 100.0)) < 1.5
    assert float(mean_share_beyond(single(0.0, 0.5), 100.0)) < 1e-12


def test_crps_prefers_the_truth() -> None:
    truth = single(0.0, 1.0, 20_000)
    taus = truth.sample(torch.rand(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    best = crps(truth, taus)
    for mean, std in ((0.2, 1.0), (0.0, 0.8), (0.0, 1.3)):
        worse = crps(single(mean, std, 20_000), taus) - best
        assert float(worse.mean()) > 3 * float(worse.std()) / math.sqrt(20_000)


def test_crps_does_not_depend_on_company_or_on_the_parameters_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    distribution, taus = mixture(50, dtype=torch.float32), torch.rand(50, dtype=torch.float64)
    together = crps(distribution, taus)
    alone = torch.cat([crps(distribution[i : i + 1], taus[i : i + 1]) for i in range(50)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(crps(mixture(50), taus), together, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("tppsd.metrics.functional.capped._CHUNK", 48)
    torch.testing.assert_close(crps(distribution, taus), together, rtol=0, atol=1e-12)


def test_nothing_to_score_is_nothing() -> None:
    distribution = NextEventDistribution(mixture(0), torch.empty(0, 6, dtype=torch.float64), StubMarks())
    assert crps(distribution.inter_time, torch.empty(0)).shape == (0,)
    assert quantiles(distribution.inter_time, tensor(0.5)).shape == (1, 0)
    assert marginal_mark_probs(distribution).shape == (0, 3)
    assert rmse(torch.empty(0), torch.empty(0)).isnan()


def test_truncated_distributions_are_refused() -> None:
    truncated = single(0.0, 1.0).truncated(tensor(1.0))
    for score in (lambda: crps(truncated, tensor(2.0)), lambda: quantiles(truncated, tensor(0.5))):
        with pytest.raises(ValueError, match="the distribution is truncated"):
            score()


# --- point forecasts -------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_the_distribution() -> None:
    distribution, levels = mixture(5), tensor(0.01, 0.3, 0.5, 0.99)
    found = quantiles(distribution, levels)
    torch.testing.assert_close(distribution.cdf(found), levels.unsqueeze(1).expand(4, 5), rtol=0, atol=1e-11)
    torch.testing.assert_close(found[2], distribution.median, rtol=1e-10, atol=0)
    torch.testing.assert_close(quantiles(mixture(5, dtype=torch.float32), levels), found, rtol=1e-5, atol=0)


def test_rmse_by_hand_and_of_extremes_together() -> None:
    assert float(rmse(tensor(1.0, 5.0), tensor(4.0, 1.0))) == math.sqrt(12.5)
    assert float(rmse(EXTREMES, EXTREMES)) == 0
    assert float(rmse(EXTREMES, EXTREMES.flip(0))) == pytest.approx(1e9)


def test_a_wide_component_spoils_the_mean_and_not_the_median() -> None:
    distribution = LogNormalMixture(
        tensor(1.0, 1e-12).log()[None], tensor(0.0, 0.0)[None], tensor(0.5, 40.0).log()[None]
    )
    assert float(rmse(distribution.mean, tensor(1.0))) == math.inf
    assert float(rmse(quantiles(distribution, tensor(0.5))[0], tensor(1.0))) < 1e-6


def stub_distribution(num_events: int = 60, num_marks: int = 3, slope: float = 2.0) -> NextEventDistribution:
    features = torch.randn(num_events, 2 * num_marks, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features[:, num_marks:] *= slope
    return NextEventDistribution(mixture(num_events), features, StubMarks())


@pytest.mark.parametrize("num_nodes", [1, 4, 16])
def test_marginal_mark_probabilities_are_within_the_stated_error(num_nodes: int) -> None:
    """V_k / (2 n), with the variation taken from a fine grid of times."""
    distribution = stub_distribution()
    exact = marginal_mark_probs(distribution, 1024)
    times = torch.logspace(-6, 6, 500, dtype=torch.float64).unsqueeze(1).expand(-1, 60)
    variation = distribution.mark_log_probs(times).exp().diff(dim=0).abs().sum(0)
    probs = marginal_mark_probs(distribution, num_nodes)
    assert ((probs - exact).abs() <= variation / (2 * num_nodes) + 1e-3).all()
    torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))


def test_marginal_mark_probabilities_are_the_share_of_draws() -> None:
    distribution = stub_distribution(num_events=3)
    uniforms = torch.rand(20_000, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, marks = distribution.sample(uniforms)
    shares = torch.stack([(marks == k).double().mean(0) for k in range(3)], 1)
    assert ((marginal_mark_probs(distribution) - shares).abs() < 0.015).all()


def test_marks_that_do_not_depend_on_time_need_no_quadrature() -> None:
    distribution = stub_distribution(slope=0.0)
    torch.testing.assert_close(
        marginal_mark_probs(distribution), distribution.mark_log_probs(torch.ones(60)).exp(), rtol=0, atol=1e-15
    )


def test_mark_accuracy_by_hand_of_probabilities_and_of_their_logarithms() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0], [0.1, 0.1, 0.8]])
    marks = torch.tensor([1, 1, 2])
    assert float(mark_accuracy(probs, marks)) == float(mark_accuracy(probs.log(), marks)) == 2 / 3
    assert mark_accuracy(probs[:0], marks[:0]).isnan()


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_pit_histogram_agrees_with_numpy_and_scipy(n: int) -> None:
    u = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) ** 1.2
    result = pit_calibration(u, num_bins=8)
    counts = np.histogram(u, bins=8, range=(0, 1))[0]
    assert result.counts.tolist() == counts.tolist() and result.num_events == n
    assert result.deviation == pytest.approx(np.abs(counts / n - 1 / 8).mean(), rel=1e-12)
    assert result.ks_statistic == pytest.approx(stats.kstest(u.numpy(), "uniform").statistic, rel=1e-12)


def test_pit_of_the_ends_and_of_nothing() -> None:
    assert pit_calibration(tensor(0.0, 1.0), num_bins=4).counts.tolist() == [1, 0, 0, 1]
    nothing = pit_calibration(torch.empty(0))
    assert nothing.counts.sum() == nothing.num_events == 0
    assert math.isnan(nothing.deviation) and math.isnan(nothing.ks_statistic)
    with pytest.raises(ValueError, match=r"must be a number in \[0, 1\]"):
        pit_calibration(tensor(0.5, 1.5))


def test_pit_tells_a_right_distribution_from_a_wide_a_narrow_and_an_early_one() -> None:
    truth = single(0.0, 1.0, 4000)
    taus = truth.sample(torch.rand(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def shares(mean: float, std: float) -> Tensor:
        return pit_calibration(single(mean, std, 4000).cdf(taus), num_bins=4).counts / 4000

    assert ((shares(0.0, 1.0) - 0.25).abs() < 0.03).all()
    assert (shares(0.0, 2.0)[1:3] > 0.3).all()  # a hump
    assert (shares(0.0, 0.5)[[0, 3]] > 0.3).all()  # a valley
    assert (shares(-0.7, 1.0).diff() > 0).all()  # too early: the events come late in it


def test_confidence_bins_and_error_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [1.0, 0.0]], dtype=torch.float64)
    bins = confidence_bins(probs, torch.tensor([0, 0, 0, 1]), num_bins=2)
    assert bins.tolist() == [[0.0, 4.0], [0.0, pytest.approx(3.1)], [0.0, 2.0]]
    assert float(expected_calibration_error(bins)) == pytest.approx(abs(2 - 3.1) / 4)
    thirds = confidence_bins(probs, torch.tensor([0, 0, 0, 1]), num_bins=3)  # 0.6 lies in the second
    assert thirds.tolist() == [[0.0, 2.0, 2.0], [0.0, pytest.approx(1.2), pytest.approx(1.9)], [0.0, 1.0, 1.0]]
    assert expected_calibration_error(torch.zeros(3, 5)).isnan()


def test_too_sure_in_one_bin_and_too_modest_in_another_are_two_errors() -> None:
    """10 events of confidence 0.9, 6 right; 10 of 0.6, 9 right: on the average right, and wrong by 0.3 everywhere."""
    confidence = torch.tensor([0.9] * 10 + [0.6] * 10, dtype=torch.float64)
    marks = torch.tensor([0] * 6 + [1] * 4 + [0] * 9 + [1])
    bins = confidence_bins(torch.stack([confidence, 1 - confidence], 1), marks)
    assert float(expected_calibration_error(bins)) == pytest.approx(0.3)
    assert float((bins[2] - bins[1]).sum()) == pytest.approx(0.0)


def test_calibrated_marks_have_a_small_error_and_overconfident_ones_their_excess() -> None:
    g = torch.Generator().manual_seed(0)
    probs = torch.softmax(1.5 * torch.randn(40_000, 4, dtype=torch.float64, generator=g), -1)
    marks = torch.multinomial(probs, 1, generator=g).squeeze(1)
    error = expected_calibration_error(confidence_bins(probs, marks))
    assert error < math.sqrt(15 / 40_000)
    certain = torch.nn.functional.one_hot(probs.argmax(1), 4).double()
    excess = expected_calibration_error(confidence_bins(certain, marks))
    assert float(excess) == pytest.approx(1 - float(mark_accuracy(probs, marks)), rel=1e-9)


@pytest.mark.parametrize("given", [False, True])
def test_residuals_of_a_distribution_at_hand_are_the_model_residuals(given: bool) -> None:
    model, batch = small_model(), random_batch([4, 0, 9])
    if given:
        batch = type(batch).from_sequences([random_sequence(n, seed=i, given=True) for i, n in enumerate([4, 1, 9])])
    with torch.no_grad():
        residuals = distribution_residuals(model(batch), batch)
    expected: list[Any] = model_residuals(model, [batch.sequence(i) for i in range(3)])
    for mine, other in zip(residuals, expected, strict=True):
        assert mine.index == other.index and mine.leftover == pytest.approx(other.leftover, abs=1e-10)
        torch.testing.assert_close(mine.gaps, other.gaps, rtol=0, atol=1e-10)
