"""KL and acceptance of two distributions: against quadrature, without bias at few draws, with gradients for the draft
alone."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import random_batch, small_model
from torch import Tensor

from tppsd import TransformerTPP
from tppsd.metrics.functional import overlap, stratified_inter_times
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture


def models(num_marks: int) -> tuple[TransformerTPP, TransformerTPP]:
    """A target and a smaller draft with other weights; one decoder sees the inter-time, the other does not."""
    torch.manual_seed(0)
    return small_model("thp", num_marks), small_model("sahp", num_marks, num_layers=1, mark_decoder="independent")


def distributions(num_marks: int) -> tuple[NextEventDistribution, NextEventDistribution]:
    """In five contexts of one sequence."""
    batch = random_batch([4], num_marks)
    with torch.no_grad():
        return tuple(model(batch)[0] for model in models(num_marks))  # type: ignore[return-value]


def uniforms(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_density(distribution: NextEventDistribution, tau: Tensor) -> Tensor:
    """log g(tau) + log f(k | tau), (contexts, len(tau), num_marks)."""
    with torch.no_grad():
        return distribution.inter_time.log_prob(tau).unsqueeze(-1) + distribution.mark_log_probs(tau.unsqueeze(0))


def by_quadrature(target: NextEventDistribution, draft: NextEventDistribution) -> tuple[Tensor, Tensor]:
    """KL and 1 - TV, each (contexts,): the trapezoidal rule in log tau, summed over marks."""
    log_tau = torch.linspace(-40.0, 40.0, 40_001, dtype=torch.float64)
    tau = log_tau.exp()
    log_p, log_q = (
        log_density(distribution.unsqueeze(1), tau) + log_tau.unsqueeze(-1) for distribution in (target, draft)
    )
    kl = torch.where(log_p > -700, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
    return torch.trapezoid(kl, log_tau), torch.trapezoid(torch.minimum(log_p, log_q).exp().sum(-1), log_tau)


@pytest.mark.parametrize("num_marks", [1, 3])
def test_it_equals_quadrature(num_marks: int) -> None:
    target, draft = distributions(num_marks)
    kl, acceptance = by_quadrature(target, draft)
    assert (kl > 0.05).all() and (acceptance < 0.9).all()
    estimate = overlap(target, draft, uniforms(5, 4096))
    torch.testing.assert_close(estimate.kl, kl, rtol=0, atol=3e-3)
    torch.testing.assert_close(estimate.acceptance, acceptance, rtol=0, atol=3e-3)


@pytest.mark.parametrize("num_draws", [1, 4])
def test_few_draws_are_without_bias(num_draws: int) -> None:
    """Over 20,000 repetitions, within four standard errors; and strata pay, even with an untrained mixture's equal
    weights."""
    target, draft = (distribution[2:3].expand((20_000,)) for distribution in distributions(3))
    with torch.no_grad():
        one, estimate = (overlap(target, draft, uniforms(20_000, n)) for n in (1, num_draws))
    for values, expected, single in zip(estimate, by_quadrature(*distributions(3)), one, strict=True):
        standard_error = float(values.std()) / math.sqrt(20_000)
        assert abs(float(values.mean() - expected[2])) < 4 * standard_error
        assert num_draws == 1 or float(values.std()) < 0.95 * float(single.std()) / math.sqrt(num_draws)


@pytest.mark.parametrize("num_marks", [1, 3])
def test_a_draft_equal_to_its_target(num_marks: int) -> None:
    target, _ = distributions(num_marks)
    estimate = overlap(target, target, uniforms(5, 8))
    assert estimate.kl.abs().max() < 1e-12 and (1 - estimate.acceptance).abs().max() < 1e-12


def test_disjoint_distributions_are_never_accepted() -> None:
    """And nothing overflows in float32: the log-ratio is about -10^6."""
    at = [
        LogNormalMixture(torch.zeros(1, 1), torch.full((1, 1), mean), torch.full((1, 1), -5.0)) for mean in (-5.0, 5.0)
    ]
    estimate = overlap(NextEventDistribution(at[0]), NextEventDistribution(at[1]), uniforms(1, 8))
    assert float(estimate.acceptance) == 0 and 1e5 < float(estimate.kl) < math.inf


def test_gradients_reach_the_draft_only() -> None:
    target, draft = models(3)
    batch = random_batch([4, 2])
    estimate = overlap(target(batch), draft(batch), uniforms(2, 5, 2))
    (estimate.kl.sum() - estimate.acceptance.sum()).backward()
    assert all(p.grad is None for p in target.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in draft.decoder.parameters())


def test_stratified_inter_times_follow_the_distribution() -> None:
    """One component: draw s is in the s-th of its strata. Several: components get their shares, and all are of the
    distribution."""
    single = LogNormalMixture(torch.zeros(7, 1), torch.randn(7, 1), torch.randn(7, 1), shift=0.3, scale=1.2)
    levels = single.double().cdf(stratified_inter_times(single, uniforms(7, 10)).T)
    assert torch.equal((10 * levels).long(), torch.arange(10).unsqueeze(1).expand(10, 7))
    target, _ = distributions(1)
    tau = stratified_inter_times(target.inter_time, uniforms(5, 5000))
    levels = target.unsqueeze(1).inter_time.cdf(tau).sort(-1).values
    assert (
        levels - torch.arange(5000) / 5000
    ).abs().max() < 0.01  # a KS statistic; 0.02 has p = 0.04 for independent draws
    with pytest.raises(ValueError, match="without truncation"):
        stratified_inter_times(target.inter_time.truncated(torch.ones(5)), uniforms(5, 2))
