"""The other statistics: acceptance, independence, permutation, likelihood and serial correlation."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import (
    acceptance_by_position,
    acceptance_rate,
    event_counts,
    events_per_round,
    lag1_correlation,
    lag1_independence,
    likelihood_discrepancy,
    mark_totals,
    model_nll,
    nll_per_event,
    permutation_test,
    process_nll,
    step_acceptance,
    time_counts,
)
from tppsd.models.renewal import RenewalTPP
from tppsd.processes import preset


def rejections(p_values: list[float], level: float = 0.05) -> float:
    """p-value of the number of rejections at `level` under a test of that level."""
    return float(stats.binomtest(sum(p < level for p in p_values), len(p_values), level).pvalue)


def poisson(
    num_sequences: int, rate: float, seed: int, num_marks: int = 2, bunching: float = 0.0
) -> list[EventSequence]:
    """Windows of length 4; with `bunching`, the rate of a window is doubled or (nearly) zero with that probability."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(num_sequences):
        scale = 1.0
        if torch.rand((), generator=g) < bunching:
            scale = 2.0 if torch.rand((), generator=g) < 0.5 else 0.01
        times = torch.empty(60, dtype=torch.float64).exponential_(rate * scale, generator=g).cumsum(0)
        times = times[times <= 4.0]
        marks = torch.randint(num_marks, (len(times),), generator=g)
        rows.append(EventSequence(times, marks, 0.0, 4.0, i))
    return rows


# --- acceptance ------------------------------------------------------------------------------------------------------


def counts_of(rounds: list[tuple[int, int]], size: int = 5) -> Tensor:
    counts = torch.zeros(size, size, dtype=torch.int64)
    for drafted, accepted in rounds:
        counts[drafted, accepted] += 1
    return counts


def test_acceptance_of_a_few_rounds() -> None:
    rounds = [(4, 4), (4, 2), (4, 0), (2, 2), (2, 1), (0, 0)]
    counts = counts_of(rounds)
    assert acceptance_rate(counts) == 9 / 16
    tested = sum(min(accepted + 1, drafted) for drafted, accepted in rounds)
    assert step_acceptance(counts) == 9 / tested
    assert events_per_round(counts) == (9 + 6) / 6
    # position 1: of the 5 rounds that drafted, 4 accepted; 2: 3 of 4; 3: 1 of 2 (the round (2, 2) did not draft it); 4:
    # 1 of 1
    torch.testing.assert_close(
        acceptance_by_position(counts), torch.tensor([4 / 5, 3 / 4, 1 / 2, 1.0], dtype=torch.float64)
    )


def test_geometric_rounds_have_their_step_acceptance() -> None:
    """With per-step acceptance a, alpha is sum_j a^j / gamma: 0.64 at a = 0.9, gamma = 8."""
    a, gamma = 0.9, 8
    coins = torch.rand(200_000, gamma, generator=torch.Generator().manual_seed(0)) < a
    accepted = coins.long().cumprod(1).sum(1)
    counts = torch.zeros(gamma + 1, gamma + 1, dtype=torch.int64)
    counts[gamma] = torch.bincount(accepted, minlength=gamma + 1)
    assert abs(step_acceptance(counts) - a) < 0.002
    assert abs(acceptance_rate(counts) - sum(a**j for j in range(1, gamma + 1)) / gamma) < 0.003
    assert torch.allclose(acceptance_by_position(counts), torch.full((gamma,), a, dtype=torch.float64), atol=0.005)


def test_nothing_drafted_has_no_rate() -> None:
    counts = counts_of([(0, 0)] * 3)
    assert math.isnan(acceptance_rate(counts)) and math.isnan(step_acceptance(counts)) and events_per_round(counts) == 1
    assert acceptance_by_position(counts).isnan().all()


def test_more_accepted_than_drafted_is_refused() -> None:
    with pytest.raises(ValueError, match="accepts more than it drafts"):
        acceptance_rate(counts_of([(1, 2)]))


# --- independence ----------------------------------------------------------------------------------------------------


def chain(n: int, dependence: float, seed: int) -> Tensor:
    """Uniforms whose normal scores are an AR(1) process."""
    noise = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = [noise[0]]
    for e in noise[1:]:
        x.append(dependence * x[-1] + math.sqrt(1 - dependence**2) * e)
    return torch.special.ndtr(torch.stack(x))


def test_independence_level_and_power() -> None:
    g = torch.Generator().manual_seed(2)
    p = [lag1_independence(torch.rand(2000, generator=g)).p_value for _ in range(400)]
    assert rejections(p) > 0.01
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert lag1_independence(chain(3000, 0.3, seed=0)).p_value < 1e-6


def test_independence_agrees_with_scipy() -> None:
    u = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = lag1_independence(u, num_bins=4)
    bins = (u * 4).long()
    table = torch.zeros(4, 4).index_put_((bins[:-1], bins[1:]), torch.ones(999), accumulate=True)
    reference = stats.chi2_contingency(table.numpy(), correction=False)
    assert (result.dof, result.num_pairs) == (9, 999)
    assert math.isclose(result.statistic, reference.statistic, rel_tol=1e-9)
    assert math.isclose(result.p_value, reference.pvalue, rel_tol=1e-9)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"319 pairs are too few for a 8 x 8 grid; it needs at least 320"):
        lag1_independence(torch.rand(320))


@pytest.mark.parametrize("wrong", [math.nan, 1.5, -0.1])
def test_residuals_that_are_no_uniforms_are_refused(wrong: float) -> None:
    uniforms = torch.rand(400, generator=torch.Generator().manual_seed(0))
    uniforms[7] = wrong
    with pytest.raises(ValueError, match=r"a residual is .*; they must be numbers in \[0, 1\]"):
        lag1_independence(uniforms)


def test_values_of_one_bin_alone_test_nothing() -> None:
    result = lag1_independence(torch.full((400,), 0.3))
    assert result.dof == 0 and math.isnan(result.p_value)
    halves = (torch.arange(1000) % 2).double() * 0.9  # two bins of eight, one after the other
    assert lag1_independence(halves).dof == 1 and lag1_independence(halves).p_value < 1e-9


# --- permutation of sequences ----------------------------------------------------------------------------------------


def features(sequences: list[EventSequence]) -> dict[str, Tensor]:
    return {
        "counts": event_counts(sequences),
        "marks": mark_totals(sequences, 2),
        "times": time_counts(sequences, torch.linspace(0, 4, 9)),
    }


def test_features_of_a_sequence() -> None:
    given = EventSequence.of([0.5, 1.0, 2.0, 2.5], [0, 1, 1, 2])
    whole = EventSequence.of([1.0, 3.0], [2, 2], t_start=0.0, t_end=4.0)
    assert event_counts([given, whole]).tolist() == [[3], [2]]
    assert mark_totals([given, whole], 4).tolist() == [[0, 2, 1, 0], [0, 0, 2, 0]]
    assert time_counts([given, whole], torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist() == [[1, 1, 1], [1, 0, 1]]


def test_permutation_level() -> None:
    p: dict[str, list[float]] = {"counts": [], "marks": [], "times": []}
    for replication in range(150):
        first = features(poisson(30, 1.0, seed=2 * replication, bunching=0.5))
        second = features(poisson(20, 1.0, seed=2 * replication + 1, bunching=0.5))
        for feature, values in p.items():
            values.append(
                permutation_test(first[feature], second[feature], num_permutations=99, seed=replication).p_value
            )
    assert all(rejections(values) > 0.01 for values in p.values())


@pytest.mark.parametrize("feature", ["counts", "marks", "times"])
def test_permutation_power(feature: str) -> None:
    first = features(poisson(300, 1.0, seed=0))[feature]
    faster = features(poisson(300, 1.3, seed=1))[feature]
    assert permutation_test(first, faster).p_value == 1 / 1000


def test_permutation_sees_spread_at_equal_means() -> None:
    first, second = event_counts(poisson(300, 1.0, seed=0)), event_counts(poisson(300, 1.0, seed=1, bunching=1.0))
    assert abs(float(first.mean() - second.mean())) < 0.4
    assert permutation_test(first, second).p_value == 1 / 1000


def test_permutation_statistic_agrees_with_scipy() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(40, generator=g).double(), torch.randn(25, generator=g).double() + 0.2
    n, m = len(first), len(second)
    # scipy's T is n m / (n + m)^2 times the sum of squared differences at the pooled values
    expected = stats.cramervonmises_2samp(first.numpy(), second.numpy()).statistic * (n + m) / (n * m)
    assert math.isclose(permutation_test(first, second, 9).statistic, expected, rel_tol=1e-9)


def test_permutation_of_equal_samples_and_of_its_seed() -> None:
    same = torch.ones(10)
    assert permutation_test(same, same).p_value == 1.0
    first, second = torch.arange(20.0), torch.arange(15.0) + 2
    assert permutation_test(first, second, seed=4) == permutation_test(first, second, seed=4)
    assert permutation_test(first, second, seed=4).p_value != permutation_test(first, second, seed=5).p_value


def test_permutation_refuses_unlike_samples() -> None:
    for second in (torch.ones(4, 2), torch.ones(0, 3)):
        with pytest.raises(ValueError, match="both need rows and as many columns"):
            permutation_test(torch.ones(5, 3), second)
    with pytest.raises(ValueError, match="a statistic of a sequence is NaN"):
        permutation_test(torch.full((5,), math.nan), torch.arange(5.0))


def test_features_of_no_sequences_and_of_foreign_marks() -> None:
    assert mark_totals([], 3).shape == (0, 3) and time_counts([], torch.tensor([0.0, 1.0, 2.0])).shape == (0, 2)
    with pytest.raises(ValueError, match=r"sequence 4: has mark 3; marks are 0\.\.2"):
        mark_totals([EventSequence.of([1.0], [3], t_start=0.0, index=4)], 3)


# --- likelihood ------------------------------------------------------------------------------------------------------


def test_nll_is_a_ratio_of_sums() -> None:
    assert float(nll_per_event(torch.tensor([-1.0, -8.0]), torch.tensor([1, 2]))) == 3.0
    assert math.isnan(
        nll_per_event(torch.tensor([-1.0]), torch.tensor([0]))
    )  # a silent window: a survival term, no event


def test_nll_of_nothing_is_not_a_number() -> None:
    assert math.isnan(process_nll(preset("hawkes").process, []))
    assert math.isnan(process_nll(preset("hawkes").process, [EventSequence.of([], t_start=0.0, t_end=1.0)]))
    assert math.isnan(model_nll(RenewalTPP(1), []))


def test_likelihood_discrepancy() -> None:
    assert likelihood_discrepancy(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0])) == 3.0


# --- serial correlation ----------------------------------------------------------------------------------------------


def series(num_sequences: int, dependence: float, seed: int, length: int = 30) -> list[EventSequence]:
    rows = []
    for i in range(num_sequences):
        inter_times = chain(length, dependence, seed=1000 * seed + i) + 0.01
        rows.append(
            EventSequence(inter_times.cumsum(0), torch.zeros(length, dtype=torch.int64), 0.0, None, i, inter_times)
        )
    return rows


def test_lag1_correlation_of_one_sequence() -> None:
    times = [0.0, 1.0, 3.0, 4.5, 4.6, 7.0]
    result = lag1_correlation(
        [EventSequence.of(times), EventSequence.of([3.0]), EventSequence.of([], t_start=0.0, t_end=1.0)]
    )
    tau = [1.0, 2.0, 1.5, 0.1, 2.4]  # the first event is given
    assert math.isclose(result.correlation, stats.pearsonr(tau[:-1], tau[1:]).statistic, rel_tol=1e-9)
    assert result.num_pairs == 4 and math.isnan(result.standard_error)  # one sequence does not vary


def test_lag1_correlation_has_its_standard_error() -> None:
    """The spread over independent samples is what the bootstrap of each of them says."""
    results = [lag1_correlation(series(60, 0.4, seed)) for seed in range(40)]
    spread = torch.tensor([r.correlation for r in results]).std()
    claimed = torch.tensor([r.standard_error for r in results]).mean()
    assert 0.7 < claimed / spread < 1.4
    within = [
        abs(a.correlation - b.correlation) < 3 * math.hypot(a.standard_error, b.standard_error)
        for a, b in zip(results[::2], results[1::2], strict=True)
    ]
    assert all(within)
    memoryless = lag1_correlation(series(60, 0.0, seed=99))
    assert results[0].correlation - memoryless.correlation > 5 * math.hypot(
        results[0].standard_error, memoryless.standard_error
    )


def test_lag1_correlation_of_nothing() -> None:
    result = lag1_correlation([EventSequence.of([], t_start=0.0, t_end=1.0)])
    assert math.isnan(result.correlation) and math.isnan(result.standard_error) and result.num_pairs == 0
