"""Inter-times as a deterministic function of uniforms."""

from __future__ import annotations

import torch
from scipy import stats

from tppsd.models.mixture import LogNormalMixture


def some_distribution(dtype: torch.dtype = torch.float64) -> LogNormalMixture:
    log_weights = torch.log_softmax(torch.randn(3, 6, dtype=dtype), -1)
    return LogNormalMixture(
        log_weights, torch.randn(3, 6, dtype=dtype), 0.5 * torch.randn(3, 6, dtype=dtype), -0.5, 1.5
    )


def test_samples_have_the_distribution() -> None:
    distribution = some_distribution()
    levels = distribution.cdf(distribution.sample(torch.rand(20_000, 3, 2, dtype=torch.float64)))
    assert min(stats.kstest(levels[:, i].numpy(), "uniform").pvalue for i in range(3)) > 1e-3


def test_the_first_uniform_picks_the_component_with_its_weight() -> None:
    """At level 1/2 a sample is its component's median; equally spaced picks meet each component as often as its weight
    says."""
    distribution = some_distribution()
    picks = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    uniforms = torch.stack([picks, torch.full_like(picks, 0.5)], -1).unsqueeze(1).expand(-1, 3, -1)
    medians = (distribution.shift + distribution.scale * distribution.means).exp()
    hits = torch.isclose(distribution.sample(uniforms).unsqueeze(-1), medians, rtol=1e-12, atol=0).double().mean(0)
    torch.testing.assert_close(hits, distribution.log_weights.exp(), rtol=0, atol=2e-4)


def test_a_higher_survival_level_is_an_earlier_event() -> None:
    distribution = some_distribution()
    levels = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    uniforms = torch.stack([torch.full_like(levels, 0.3), levels], -1).unsqueeze(1).expand(-1, 3, -1)
    assert (distribution.sample(uniforms).diff(dim=0) < 0).all()


def test_the_same_uniforms_give_the_same_sample_in_any_company() -> None:
    distribution = some_distribution()
    uniforms = torch.rand(7, 3, 2, dtype=torch.float64)
    together = distribution.sample(uniforms)
    assert together.shape == (7, 3)
    for i in range(3):
        torch.testing.assert_close(distribution[i].sample(uniforms[4, i]), together[4, i], rtol=1e-14, atol=0)


def test_the_extreme_uniforms_give_positive_finite_float64_inter_times() -> None:
    distribution = some_distribution(torch.float32)
    smallest, largest = 2.0**-54, 1 - 2.0**-53
    corners = (
        torch.cartesian_prod(*2 * [torch.tensor([smallest, largest], dtype=torch.float64)])
        .unsqueeze(1)
        .expand(-1, 3, -1)
    )
    for elapsed in ([0.0, 0.0, 0.0], [0.0, 1.0, 1e9], [1e12, 1e17, 1e18]):
        beyond = torch.tensor(elapsed, dtype=torch.float64)
        for inter_times in (distribution.sample(corners), distribution.truncated(beyond).sample(corners) - beyond):
            assert inter_times.dtype == torch.float64
            assert (torch.isfinite(inter_times) & (inter_times > 0)).all()
