"""Left-truncated distributions: what is left of a distribution when nothing happened for a while."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from tppsd.models.mixture import LogNormalMixture

DEEP = 1e9  # the survival of `narrow()` there is exp(-1e4) and less: it underflows


def narrow() -> LogNormalMixture:
    """Three distributions of four components, none wider than a factor of e^0.5 in tau."""
    log_weights = torch.log_softmax(torch.randn(3, 4, dtype=torch.float64), -1)
    return LogNormalMixture(
        log_weights, torch.randn(3, 4, dtype=torch.float64), torch.full_like(log_weights, -2.0), -0.5, 1.5
    )


def elapsed_rows(value: float) -> torch.Tensor:
    return torch.full((3,), value, dtype=torch.float64)


@pytest.mark.parametrize("elapsed", [1e-9, 0.1, 1.0, 30.0])
def test_truncation_divides_the_density_by_the_survival(elapsed: float) -> None:
    distribution = narrow()
    truncated = distribution.truncated(elapsed_rows(elapsed))
    tau = elapsed * torch.tensor([[1.0001], [1.5], [4.0]], dtype=torch.float64)
    torch.testing.assert_close(
        truncated.log_prob(tau), distribution.log_prob(tau) - distribution.log_survival(elapsed_rows(elapsed))
    )
    for below in (elapsed, 0.5 * elapsed, 0.0):
        assert (truncated.log_prob(elapsed_rows(below)) == -math.inf).all()
        assert (truncated.log_survival(elapsed_rows(below)) == 0).all()
        assert (truncated.cdf(elapsed_rows(below)) == 0).all()


@pytest.mark.parametrize("elapsed", [1e-9, 0.1, 1.0, 30.0, DEEP])
def test_the_truncated_density_integrates_to_one_minus_its_survival(elapsed: float) -> None:
    truncated = narrow().truncated(elapsed_rows(elapsed))
    start = max(math.log(elapsed), -12.0)  # nothing lies below e^-12
    step = 2.0 if elapsed == DEEP else 8.0
    x = torch.linspace(start, start + step, 400_001, dtype=torch.float64)[1:].unsqueeze(1)
    mass = torch.trapezoid((truncated.log_prob(x.exp()) + x).exp(), x, dim=0)
    torch.testing.assert_close(mass, truncated.cdf(x[-1].exp()) - truncated.cdf(x[0].exp()), rtol=0, atol=1e-6)
    if elapsed > 1e-9:
        assert mass.min() > 0.5, "the quadrature must have met the mass"


def test_rows_with_nothing_elapsed_are_untouched() -> None:
    distribution = narrow()
    mixed = distribution.truncated(torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
    rows = torch.tensor([0, 2])
    uniforms = torch.rand(2000, 3, 2, dtype=torch.float64)
    tau = torch.logspace(-9, 9, 50, dtype=torch.float64).unsqueeze(1)
    p = torch.cat(
        [torch.logspace(-200, -1, 20, dtype=torch.float64), torch.linspace(0.1, 0.99, 20, dtype=torch.float64)]
    ).unsqueeze(1)
    for ours, plain in [
        (mixed.log_prob(tau), distribution.log_prob(tau)),
        (mixed.log_survival(tau), distribution.log_survival(tau)),
        (mixed.cdf(tau), distribution.cdf(tau)),
        (mixed.icdf(p), distribution.icdf(p)),
        (mixed.mean, distribution.mean),
        (mixed.median, distribution.median),
        (mixed.sample(uniforms), distribution.sample(uniforms)),
    ]:
        assert torch.equal(ours[..., rows], plain[..., rows])
        assert not torch.equal(ours[..., 1], plain[..., 1])


@pytest.mark.parametrize("elapsed", [0.1, 1.0, 30.0, DEEP])
def test_quantiles_lie_beyond_the_silence_and_invert_the_survival(elapsed: float) -> None:
    truncated = narrow().truncated(elapsed_rows(elapsed))
    p = torch.cat(
        [torch.logspace(-300, -1, 20, dtype=torch.float64), 1 - torch.logspace(-0.1, -15, 20, dtype=torch.float64)]
    ).unsqueeze(1)
    quantiles = truncated.icdf(p)
    assert (quantiles >= elapsed).all()
    torch.testing.assert_close(truncated.log_survival(quantiles), torch.log1p(-p).expand(-1, 3), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("elapsed", [0.1, 1.0, 30.0, DEEP])
def test_the_truncated_mean_is_the_silence_plus_the_integral_of_the_survival(elapsed: float) -> None:
    truncated = narrow().truncated(elapsed_rows(elapsed))
    x = torch.linspace(math.log(elapsed), math.log(elapsed) + 12, 400_001, dtype=torch.float64).unsqueeze(1)
    integral = torch.trapezoid((truncated.log_survival(x.exp()) + x).exp(), x, dim=0)
    torch.testing.assert_close(elapsed + integral, truncated.mean, rtol=1e-6, atol=0)


@pytest.mark.parametrize("elapsed", [1e-3, 1.0, 30.0, DEEP, 1e17])
def test_samples_lie_beyond_the_silence_and_have_the_truncated_distribution(elapsed: float) -> None:
    truncated = narrow().truncated(elapsed_rows(elapsed))
    samples = truncated.sample(torch.rand(20_000, 3, 2, dtype=torch.float64))
    assert (samples > elapsed).all()
    assert torch.isfinite(truncated.log_prob(samples)).all()
    residuals = -truncated.log_survival(samples)
    assert min(stats.kstest(residuals[:, i].numpy(), "expon").pvalue for i in range(3)) > 1e-3


def test_the_survival_of_the_deep_case_underflows() -> None:
    assert (narrow().log_survival(elapsed_rows(DEEP)) < -1000).all()
