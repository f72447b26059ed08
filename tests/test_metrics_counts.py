"""Scores of forecast counts: against definitions written out, and with wrong implementations that must be caught."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import (
    central_interval,
    crps_of_counts,
    horizon_counts,
    ks_uniform,
    log_score,
    log_score_of_counts,
    number_test,
    pit_coverage,
    randomised_pit,
)

MEANS = torch.tensor([0.3, 2.0, 11.0], dtype=torch.float64)  # of Poisson counts: marks or horizons


def poisson(num_paths: int, num_cases: int, seed: int, means: Tensor = MEANS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(means.expand(num_paths, num_cases, len(means)), generator=generator)


def uniforms(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_crps(mean: float, observed: int) -> float:
    values = torch.arange(200)
    cdf = torch.from_numpy(stats.poisson(mean).cdf(values.numpy()))
    return float((cdf - (values >= observed).double()).square().sum())


def test_horizon_counts_by_mark_and_horizon() -> None:
    sequence = EventSequence.of([1.0, 2.0, 2.5, 3.0, 7.0], [0, 1, 0, 1, 1], 0.0, 9.0)
    counts = horizon_counts(sequence, 2.0, [0.5, 1.0, 5.0], 3)
    assert counts.tolist() == [[1, 1, 1], [0, 1, 2], [0, 0, 0]]  # (2, 2 + h]: the event at 2 belongs to the history


def test_the_fair_crps_is_its_definition_and_keeps_the_shape_of_cases() -> None:
    samples, observed = poisson(7, 4, 0), poisson(1, 4, 1)[0]
    scores = crps_of_counts(samples, observed)
    assert scores.shape == (4, 3)
    for place in ((0, 0), (3, 2)):
        x, y = samples[:, place[0], place[1]], observed[place]
        pairs = sum(abs(float(a - b)) for a in x for b in x)
        assert float(scores[place]) == pytest.approx(float((x - y).abs().mean()) - pairs / (2 * 7 * 6), abs=1e-12)
    with pytest.raises(ValueError, match="at least 2 paths; got 1"):
        crps_of_counts(samples[:1], observed)


def plugin_crps(samples: Tensor, observed: Tensor) -> Tensor:
    """The mutant: the score of the paths' own distribution, which is too large by their spread / (2 S)."""
    pairs = (samples.unsqueeze(0) - samples.unsqueeze(1)).abs().mean((0, 1)) / 2
    return (samples - observed).abs().mean(0) - pairs


@pytest.mark.parametrize(("score", "is_right"), [(crps_of_counts, True), (plugin_crps, False)])
def test_the_crps_of_three_paths_has_the_expectation_of_infinitely_many(
    score: Callable[[Tensor, Tensor], Tensor], is_right: bool
) -> None:
    """4 standard errors, three means: a false alarm in 5,000 runs."""
    num_cases, observed = 20_000, torch.tensor([0.0, 3.0, 9.0], dtype=torch.float64)
    scores = score(poisson(3, num_cases, 2), observed.expand(num_cases, 3))
    expected = torch.tensor([exact_crps(float(m), int(y)) for m, y in zip(MEANS, observed, strict=True)])
    deviation = (scores.mean(0) - expected).abs() / (scores.std(0) / math.sqrt(num_cases))
    assert (deviation < 4).all() if is_right else (deviation > 8).all()


def test_log_scores_are_of_probabilities_that_sum_to_one() -> None:
    samples = poisson(50, 1, 3)
    values = torch.arange(3000, dtype=torch.float64).view(-1, 1, 1)
    scores = torch.cat([log_score_of_counts(samples, value.expand(1, 3)) for value in values])
    torch.testing.assert_close((-scores).exp().sum(0), torch.ones(3, dtype=torch.float64), rtol=1e-9, atol=0)
    assert scores.isfinite().all()  # a count that no path has costs much, but not everything
    m, hits = (float(samples[:, 0, 1].sum()) + 1) / 50, int((samples[:, 0, 1] == 1).sum())
    assert float(scores[1, 1]) == pytest.approx(-math.log((hits + m / (1 + m) ** 2) / 51))
    none = log_score_of_counts(torch.zeros(50, 2), torch.tensor([0, 3]))  # no path has an event
    assert none[0] < 1e-3 < none[1] < 20


def test_log_score_of_probabilities() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert log_score(probs, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(4), 0.0])
    assert log_score(probs, torch.tensor([7, 1])).tolist() == [math.inf, math.inf]


def unrandomised(samples: Tensor, observed: Tensor, _: Tensor) -> Tensor:
    """The mutant: F(y), as for continuous values."""
    return (samples <= observed).double().mean(0)


@pytest.mark.parametrize(("pit", "is_right"), [(randomised_pit, True), (unrandomised, False)])
def test_the_pit_of_a_right_forecast_is_uniform_at_any_number_of_paths(
    pit: Callable[[Tensor, Tensor, Tensor], Tensor], is_right: bool
) -> None:
    num_cases = 4000
    samples, observed = poisson(9, num_cases, 4), poisson(1, num_cases, 5)[0]
    pits = pit(samples, observed, uniforms(num_cases, 3))
    p_values = [ks_uniform(pits[:, i]).p_value for i in range(3)]
    levels = (0.5, 0.8, 0.95)
    coverage = pit_coverage(pits, levels)
    assert coverage.shape == (3, 3)
    errors = (coverage - torch.tensor(levels).unsqueeze(1)).abs() / math.sqrt(0.25 / num_cases)
    if is_right:
        assert min(p_values) > 1e-4 and errors.max() < 4.5
    else:
        assert max(p_values) < 1e-6 and errors.max() > 10


def test_a_wrong_forecast_shows_in_its_pit_and_coverage() -> None:
    samples, observed = poisson(99, 4000, 6), poisson(1, 4000, 7, MEANS * 1.5)[0]
    pits = randomised_pit(samples, observed, uniforms(4000, 3))
    assert max(ks_uniform(pits[:, i]).p_value for i in range(3)) < 1e-6
    assert (pits.mean(0) > 0.52).all()
    assert (pit_coverage(pits, (0.5,)) < 0.48)[0, 2]


def test_central_intervals_cover_what_they_promise() -> None:
    """Continuous values exactly, counts at least; a type 7 quantile of 19 paths covers 5 points too few."""
    num_cases = 20_000
    generator = torch.Generator().manual_seed(8)
    samples, observed = torch.randn(19, num_cases, generator=generator), torch.randn(num_cases, generator=generator)
    lower, upper = central_interval(samples, 0.8)
    share = float(((lower <= observed) & (observed <= upper)).double().mean())
    assert abs(share - 0.8) < 4 * math.sqrt(0.16 / num_cases)
    lower, upper = samples.quantile(0.1, 0), samples.quantile(0.9, 0)  # the mutant
    assert float(((lower <= observed) & (observed <= upper)).double().mean()) < 0.77
    counts, came = poisson(99, 5000, 9), poisson(1, 5000, 10)[0]
    lower, upper = central_interval(counts, 0.8)
    assert (((lower <= came) & (came <= upper)).double().mean(0) > 0.78).all()
    with pytest.raises(ValueError, match=r"level 0\.95 needs more than 19 paths"):
        central_interval(samples, 0.95)
    with pytest.raises(ValueError, match="level = 1 must lie between 0 and 1"):
        central_interval(samples, 1)


def test_the_number_test_counts_ties_on_both_sides() -> None:
    samples = torch.tensor([0, 1, 2, 2, 5]).unsqueeze(1)
    result = number_test(samples, torch.tensor([2]))
    assert result.delta_1.tolist() == [0.6] and result.delta_2.tolist() == [0.8]
    num_cases = 2000
    right = number_test(poisson(999, num_cases, 11), poisson(1, num_cases, 12)[0])
    for delta in right:  # of a right forecast below 0.025 at most so often, up to 4 standard errors
        assert ((delta <= 0.025).double().mean(0) < 0.025 + 4 * math.sqrt(0.025 / num_cases)).all()
    low = number_test(poisson(999, num_cases, 13), poisson(1, num_cases, 14, MEANS * 2)[0])
    assert (low.delta_1 <= 0.025).double().mean(0)[2] > 0.7
