"""The log-normal mixture against scipy and quadrature, far into both tails."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from tppsd.models.mixture import LOG_STD_RANGE, LogNormalMixture, log_ndtri

SHIFT, SCALE = -1.2, 1.7


@pytest.fixture
def distribution() -> LogNormalMixture:
    """Four distributions of five components, among them the narrowest and the widest that the decoder allows."""
    log_stds = torch.randn(4, 5, dtype=torch.float64).clamp(-2, 1)
    log_stds[0, 0], log_stds[1, 0] = LOG_STD_RANGE
    means = 2 * torch.randn(4, 5, dtype=torch.float64)
    log_weights = torch.log_softmax(torch.randn(4, 5, dtype=torch.float64), -1)
    return LogNormalMixture(log_weights, means, log_stds, SHIFT, SCALE)


@pytest.fixture
def inter_times() -> torch.Tensor:
    """(181, 1): from 1e-9 to 1e9."""
    return torch.logspace(-9, 9, 181, dtype=torch.float64).unsqueeze(1)


def components(distribution: LogNormalMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log weights, and mean and standard deviation of log tau, each (batch, num_components)."""
    return (
        distribution.log_weights.numpy(),
        (SHIFT + SCALE * distribution.means).numpy(),
        (SCALE * distribution.log_stds.exp()).numpy(),
    )


def test_log_prob_is_scipys(distribution: LogNormalMixture, inter_times: torch.Tensor) -> None:
    log_weights, mean, std = components(distribution)
    log_tau = inter_times.log().numpy()[:, :, None]
    expected = special.logsumexp(log_weights + stats.norm.logpdf(log_tau, mean, std), -1) - log_tau[..., 0]
    np.testing.assert_allclose(distribution.log_prob(inter_times).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_log_survival_is_scipys_even_where_the_survival_underflows(
    distribution: LogNormalMixture, inter_times: torch.Tensor
) -> None:
    tau = torch.cat([inter_times, torch.tensor([[1e30], [1e100], [1e300]], dtype=torch.float64)])
    log_weights, mean, std = components(distribution)
    expected = special.logsumexp(log_weights + stats.norm.logsf(tau.log().numpy()[:, :, None], mean, std), -1)
    assert expected.min() < -1e3, "exp of it must be 0 for the test to say anything"
    np.testing.assert_allclose(distribution.log_survival(tau).numpy(), expected, rtol=1e-12, atol=1e-13)


def test_cdf_is_scipys_with_all_its_digits_in_the_left_tail(
    distribution: LogNormalMixture, inter_times: torch.Tensor
) -> None:
    tau = torch.cat([torch.logspace(-40, -9, 32, dtype=torch.float64).unsqueeze(1), inter_times])
    log_weights, mean, std = components(distribution)
    expected = (np.exp(log_weights) * stats.norm.cdf(tau.log().numpy()[:, :, None], mean, std)).sum(-1)
    assert ((expected > 1e-300) & (expected < 1e-30)).any()
    np.testing.assert_allclose(distribution.cdf(tau).numpy(), expected, rtol=1e-11, atol=1e-300)


def test_cdf_and_survival_sum_to_one(distribution: LogNormalMixture, inter_times: torch.Tensor) -> None:
    total = distribution.cdf(inter_times) + distribution.log_survival(inter_times).exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


def test_zero_is_outside_the_support(distribution: LogNormalMixture) -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    assert (distribution.log_prob(zero) == -math.inf).all()
    assert (distribution.log_survival(zero) == 0).all()
    assert (distribution.cdf(zero) == 0).all()


def test_density_integrates_to_the_cdf_and_to_one(distribution: LogNormalMixture) -> None:
    """Substituting x = log tau; knots at the components, because one of them is very narrow."""
    _, mean, std = components(distribution)
    for i in range(4):

        def density(x: float, row: LogNormalMixture = distribution[i]) -> float:
            return float((row.log_prob(torch.tensor(math.exp(x), dtype=torch.float64)) + x).exp())

        knots = np.unique(np.concatenate([mean[i] + k * std[i] for k in (-12, -6, -2, 0, 2, 6, 12)]))
        pieces = np.array([integrate.quad(density, a, b)[0] for a, b in pairwise(knots)])
        at_knots = distribution[i].cdf(torch.from_numpy(knots[1:]).exp()).numpy()
        np.testing.assert_allclose(pieces.cumsum(), at_knots, atol=1e-8)
        assert pieces.sum() == pytest.approx(1, abs=1e-8)


def test_icdf_inverts_the_cdf_on_the_left_and_the_survival_on_the_right(distribution: LogNormalMixture) -> None:
    left = torch.logspace(-300, math.log10(0.5), 60, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(distribution.cdf(distribution.icdf(left)), left.expand(-1, 4), rtol=1e-11, atol=0)
    right = 1 - torch.logspace(math.log10(0.5), -15, 60, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(
        distribution.log_survival(distribution.icdf(right)), torch.log1p(-right).expand(-1, 4), rtol=1e-11, atol=0
    )
    assert (distribution.icdf(torch.linspace(0.01, 0.99, 99, dtype=torch.float64).unsqueeze(1)).diff(dim=0) > 0).all()


def test_the_median_halves_the_distribution(distribution: LogNormalMixture) -> None:
    torch.testing.assert_close(
        distribution.cdf(distribution.median), torch.full((4,), 0.5, dtype=torch.float64), rtol=0, atol=1e-13
    )


def test_the_mean_is_scipys(distribution: LogNormalMixture) -> None:
    log_weights, mean, std = components(distribution)
    expected = (np.exp(log_weights) * stats.lognorm.mean(std, scale=np.exp(mean))).sum(-1)
    np.testing.assert_allclose(distribution.mean.numpy(), expected, rtol=1e-12)


def test_the_mean_is_the_integral_of_the_survival(distribution: LogNormalMixture) -> None:
    """E[tau] = integral of S over tau = integral of S e^x over x = log tau, for distributions that are not extremely
    wide."""
    distribution = LogNormalMixture(
        distribution.log_weights, distribution.means, distribution.log_stds.clamp(-2, 0), SHIFT, SCALE
    )
    x = torch.linspace(-60, 60, 200_001, dtype=torch.float64).unsqueeze(1)
    integral = torch.trapezoid((distribution.log_survival(x.exp()) + x).exp(), x, dim=0)
    torch.testing.assert_close(integral, distribution.mean, rtol=1e-8, atol=0)


def test_the_slope_of_log_survival_is_minus_the_hazard_and_stays_finite(
    distribution: LogNormalMixture, inter_times: torch.Tensor
) -> None:
    tau = inter_times.expand(-1, 4).clone().requires_grad_()
    distribution.log_survival(tau).sum().backward()
    assert tau.grad is not None
    hazard = (distribution.log_prob(inter_times) - distribution.log_survival(inter_times)).exp()
    torch.testing.assert_close(-tau.grad, hazard, rtol=1e-9, atol=1e-300)


def test_gradients_of_the_parameters_are_finite_in_the_tails(inter_times: torch.Tensor) -> None:
    parameters = [torch.randn(5, dtype=torch.float32, requires_grad=True) for _ in range(3)]
    distribution = LogNormalMixture(
        torch.log_softmax(parameters[0], -1), parameters[1], parameters[2].clamp(*LOG_STD_RANGE), SHIFT, SCALE
    )
    (distribution.log_prob(inter_times[:, 0]) + distribution.log_survival(inter_times[:, 0])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)


def test_float32_parameters_give_the_density_of_the_same_distribution_in_float64(
    distribution: LogNormalMixture,
) -> None:
    single = LogNormalMixture(
        distribution.log_weights.float(),
        distribution.means.float(),
        distribution.log_stds.float().clamp_min(-3),
        SHIFT,
        SCALE,
    )
    tau = torch.logspace(-3, 2, 50, dtype=torch.float64).unsqueeze(1)
    assert single.log_prob(tau).dtype == torch.float32
    torch.testing.assert_close(single.log_prob(tau).double(), single.double().log_prob(tau), rtol=2e-6, atol=1e-4)
    torch.testing.assert_close(
        single.log_survival(tau).double(), single.double().log_survival(tau), rtol=2e-5, atol=1e-5
    )


def test_a_change_of_unit_moves_the_density_by_its_logarithm(
    distribution: LogNormalMixture, inter_times: torch.Tensor
) -> None:
    unit = 3600.0
    scaled = LogNormalMixture(
        distribution.log_weights, distribution.means, distribution.log_stds, SHIFT + math.log(unit), SCALE
    )
    torch.testing.assert_close(
        scaled.log_prob(unit * inter_times) + math.log(unit), distribution.log_prob(inter_times), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(scaled.median, unit * distribution.median, rtol=1e-12, atol=0)


def test_log_ndtri_inverts_the_normal_log_cdf_where_the_cdf_underflows() -> None:
    log_p = -torch.logspace(-3, 14, 500, dtype=torch.float64)
    np.testing.assert_allclose(log_ndtri(log_p).numpy(), special.ndtri_exp(log_p.numpy()), rtol=1e-12, atol=1e-12)
