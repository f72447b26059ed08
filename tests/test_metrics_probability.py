"""Scores of probabilities, and the bootstrap over sequences: against scipy, definitions and wrong implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from tppsd.metrics.functional import (
    auroc,
    binary_log_score,
    bootstrap_interval,
    brier_decomposition,
    brier_score,
    reliability_bins,
)


def cases(num_cases: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities with many ties and outcomes that follow their squares: skilled, not calibrated."""
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.rand(num_cases, generator=generator, dtype=torch.float64) * 20).round() / 20
    return probs, torch.rand(num_cases, generator=generator, dtype=torch.float64) < probs**2


def test_scores_are_means_over_cases_of_any_shape() -> None:
    probs, outcomes = cases()
    assert float(brier_score(probs, outcomes)) == pytest.approx(
        sum((p - o) ** 2 for p, o in zip(probs.tolist(), outcomes.tolist(), strict=True)) / 400
    )
    safe = probs.clamp(0.01, 0.99)
    terms = [math.log(p if o else 1 - p) for p, o in zip(safe.tolist(), outcomes.tolist(), strict=True)]
    assert float(binary_log_score(safe, outcomes)) == pytest.approx(-sum(terms) / 400)
    shaped = (safe.view(100, 2, 2), outcomes.view(100, 2, 2))  # cases, marks, horizons
    for score in (brier_score, binary_log_score):
        by_mark_and_horizon = score(*shaped)
        assert by_mark_and_horizon.shape == (2, 2)
        torch.testing.assert_close(by_mark_and_horizon[1, 0], score(shaped[0][:, 1, 0], shaped[1][:, 1, 0]))
    certain = torch.tensor([1.0, 0.0])
    assert binary_log_score(certain, torch.tensor([True, False])) == 0
    assert binary_log_score(certain, torch.tensor([False, False])) == math.inf
    with pytest.raises(ValueError, match=r"lie between 0 and 1\.5; they must be in \[0, 1\]"):
        brier_score(torch.tensor([0.0, 1.5]), torch.tensor([0, 1]))


def test_the_brier_score_is_proper_and_a_linear_score_is_not() -> None:
    """In expectation the truth scores best; the mutant |p - o| prefers certainty."""
    truth, grid = 0.3, torch.linspace(0, 1, 101, dtype=torch.float64)

    def best(score: Callable[[Tensor, bool], Tensor]) -> float:
        expected = [truth * score(p, True) + (1 - truth) * score(p, False) for p in grid]
        return float(grid[int(torch.stack(expected).argmin())])

    def scored(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, bool], Tensor]:
        return lambda p, o: function(p.view(1), torch.tensor([o]))

    assert best(scored(brier_score)) == best(scored(binary_log_score)) == pytest.approx(0.3)
    assert best(lambda p, o: (p - float(o)).abs()) == 0.0


@pytest.mark.parametrize("num_bins", [1, 7, 10])
def test_the_decomposition_adds_up_and_its_parts_are_known(num_bins: int) -> None:
    probs, outcomes = cases()
    parts = brier_decomposition(probs, outcomes, num_bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    torch.testing.assert_close(total, brier_score(probs, outcomes))
    without = parts.reliability - parts.resolution + parts.uncertainty  # the mutant: Murphy's three terms
    assert abs(float(without - brier_score(probs, outcomes))) > 1e-4
    at_four = (torch.arange(400) % 4).double() / 4  # one value in each bin: Murphy's three terms are exact
    exact = brier_decomposition(at_four, outcomes, 10)
    assert abs(float(exact.within_bins)) < 1e-15
    calibrated = torch.rand(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    came = torch.rand(100_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < calibrated
    assert (
        brier_decomposition(calibrated, came).reliability
        < 1e-4
        < 0.07
        < brier_decomposition(calibrated, came).resolution
    )


def test_reliability_bins_sum_cases_probabilities_and_outcomes() -> None:
    probs = torch.tensor([0.0, 0.05, 0.1, 0.95, 1.0], dtype=torch.float64)
    bins = reliability_bins(probs, torch.tensor([0, 1, 1, 0, 1]), 10)
    assert bins[0].tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins[1].tolist() == pytest.approx([0.05, 0.1, 0, 0, 0, 0, 0, 0, 0, 1.95])
    assert bins[2].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 1.0])
    repeated = reliability_bins(probs[[0, 0, 2, 3, 4]], torch.tensor([0, 0, 1, 0, 1]), 10)
    assert torch.equal(reliability_bins(probs, torch.tensor([0, 1, 1, 0, 1]), 10, weights), repeated)


def first_wins(probs: Tensor, outcomes: Tensor) -> float:
    """The mutant: ranks without care for ties."""
    ranks = probs.argsort(stable=True).argsort(stable=True).double()
    positive = outcomes.bool()
    return float((ranks[positive].unsqueeze(1) > ranks[~positive]).double().mean())


def test_auroc_is_the_mann_whitney_statistic_with_ties() -> None:
    probs, outcomes = cases()
    positive, negative = probs[outcomes].numpy(), probs[~outcomes].numpy()
    expected = stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert float(auroc(probs, outcomes)) == pytest.approx(expected, abs=1e-12)
    assert abs(first_wins(probs, outcomes) - expected) > 5e-4
    assert float(auroc(probs.exp(), outcomes)) == pytest.approx(expected)
    assert auroc(torch.full((4,), 0.2), torch.tensor([1, 0, 0, 1])) == 0.5
    assert auroc(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])).isnan()
    weights = torch.randint(0, 4, (400,), generator=torch.Generator().manual_seed(3))
    repeated = torch.arange(400).repeat_interleave(weights)
    torch.testing.assert_close(auroc(probs, outcomes, weights), auroc(probs[repeated], outcomes[repeated]))
    torch.testing.assert_close(brier_score(probs, outcomes, weights), brier_score(probs[repeated], outcomes[repeated]))


def clustered(num_sequences: int, seed: int, per_sequence: int = 8) -> Tensor:
    """Scores of mean 0 that share a part within a sequence, (num_sequences, per_sequence)."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(num_sequences, 1, generator=generator, dtype=torch.float64)
    return shared + 0.5 * torch.randn(num_sequences, per_sequence, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("unit", ["sequences", "events"])
def test_bootstrap_intervals_cover_if_whole_sequences_are_drawn(unit: str) -> None:
    """150 samples of 60 sequences: a nominal 90 % covers in 87 % of them up to 4 standard errors; the mutant, which
    draws events one by one, in half."""
    num_covered = 0
    for seed in range(150):
        values = clustered(60, seed)
        rows = values if unit == "sequences" else values.reshape(-1, 1)
        sums, numbers = rows.sum(1), torch.full((len(rows),), float(rows.shape[1]), dtype=torch.float64)
        found = bootstrap_interval(
            lambda w, sums=sums, numbers=numbers: (w @ sums) / (w @ numbers),
            len(rows),
            0.9,
            num_resamples=200,
            seed=seed,
        )
        assert float(found.value) == pytest.approx(float(values.mean()))
        num_covered += int(found.lower <= 0 <= found.upper)
    assert (num_covered > 150 * 0.77) == (unit == "sequences")


def test_bootstrap_of_several_statistics_repeats_itself_and_leaves_nan_replicates_out() -> None:
    probs, outcomes = torch.tensor([0.9, 0.2, 0.3, 0.1]), torch.tensor([1, 0, 0, 0])

    def both(weights: Tensor) -> Tensor:
        return torch.stack([auroc(probs, outcomes, weights), brier_score(probs, outcomes, weights)])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = bootstrap_interval(both, 4), bootstrap_interval(both, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert one.value.shape == one.standard_error.shape == (2,) and not torch.cat(list(one)).isnan().any()
    assert one.lower[0] == one.upper[0] == 1.0
    with pytest.raises(ValueError, match="at least 2 of them; got 1"):
        bootstrap_interval(both, 1)
