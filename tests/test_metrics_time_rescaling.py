"""Time rescaling with censored windows: the carry-over makes the gaps exactly Exp(1), and nothing less does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from tppsd.metrics.functional import KSResult, SequenceResiduals, carry_over, ks_band, ks_exponential, ks_uniform
from tppsd.metrics.functional.time_rescaling import carried_forecasts


def gap(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def windows(
    generator: torch.Generator, num_sequences: int = 150, compensator: float = 4.0, num_events: int | None = None
) -> list[SequenceResiduals]:
    """Unit-rate Poisson windows of a total compensator around `compensator`, or shorter where they reach
    `num_events`."""
    draws = torch.empty(num_sequences, 40, dtype=torch.float64).exponential_(1.0, generator=generator)
    ends = compensator * (0.5 + torch.rand(num_sequences, dtype=torch.float64, generator=generator))
    inside = (draws.cumsum(1) <= ends.unsqueeze(1)).sum(1).tolist()
    rows = []
    for i, n in enumerate(inside):
        if num_events is not None and n >= num_events:
            rows.append(SequenceResiduals(i, draws[i, :num_events], 0.0))
        else:
            rows.append(SequenceResiduals(i, draws[i, :n], float(ends[i] - draws[i, :n].sum())))
    return rows


def naive(rows: list[SequenceResiduals]) -> Tensor:
    return torch.cat([row.gaps for row in rows])


def ordered_by_length(rows: list[SequenceResiduals]) -> Tensor:
    ranked = sorted(rows, key=lambda row: len(row.gaps))
    return carry_over(SequenceResiduals(i, row.gaps, row.leftover) for i, row in enumerate(ranked))


def carried_by_rows_that_ended_by_count(rows: list[SequenceResiduals]) -> Tensor:
    """As if what follows the last event of such a row had been seen."""
    return carry_over(SequenceResiduals(r.index, r.gaps, r.leftover or 1.0) for r in rows)


def p_values(gaps_of: Callable[[list[SequenceResiduals]], Tensor], replications: int, **settings: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    samples = (windows(generator, **settings) for _ in range(replications))
    return torch.tensor([ks_exponential(gaps_of(rows)).p_value for rows in samples])


@pytest.mark.parametrize("num_events", [None, 3], ids=["until t_end", "until t_end or 3 events"])
def test_p_values_are_uniform(num_events: int | None) -> None:
    p = p_values(carry_over, 400, num_events=num_events)
    assert stats.binomtest(int((p < 0.05).sum()), len(p), 0.05).pvalue > 0.01
    assert ks_uniform(p).p_value > 0.01


@pytest.mark.parametrize(
    ("mutant", "settings"),
    [
        (naive, {}),
        (ordered_by_length, {"num_sequences": 500, "compensator": 1.0}),
        (carried_by_rows_that_ended_by_count, {"num_events": 3}),
    ],
)
def test_other_ways_reject_the_truth(
    mutant: Callable[[list[SequenceResiduals]], Tensor], settings: dict[str, Any]
) -> None:
    assert (p_values(mutant, 50, **settings) < 0.05).double().mean() > 0.8


def test_carried_over_by_hand() -> None:
    rows = [
        SequenceResiduals(4, gap(1.0), 0.0),  # ended by its number of events: carries nothing
        SequenceResiduals(1, gap(), 3.0),  # no event: passes its whole compensator on, with what it received
        SequenceResiduals(0, gap(0.1, 0.2), 0.5),
        SequenceResiduals(5, gap(2.0), 9.0),  # the last one: dropped
        SequenceResiduals(3, gap(0.3, 0.4), 0.7),
    ]
    torch.testing.assert_close(carry_over(rows), gap(0.1, 0.2, 0.3 + 0.5 + 3.0, 0.4, 1.0 + 0.7, 2.0))


def test_a_carried_gap_has_the_forecast_of_the_window_in_which_it_began() -> None:
    """However many empty windows follow: a later forecast would tell that the gap was cut."""

    def row(index: int, num_events: int, leftover: float, *expected_times: float) -> SequenceResiduals:
        return SequenceResiduals(index, torch.ones(num_events), leftover, expected_times=gap(*expected_times))

    rows = [
        row(0, 0, 0.5, 10.0),  # empty from the start: the first gap begins here
        row(1, 0, 0.5, 11.0),
        row(2, 1, 0.5, 12.0, 13.0),
        row(3, 0, 0.5, 14.0),
        row(4, 0, 0.0, 15.0),  # a window in which nothing was scored
        row(5, 0, 0.5, 16.0),
        row(6, 2, 0.0, 17.0, 18.0, 19.0),  # ended by its number of events: its last gap is whole
        row(7, 1, 0.5, 20.0, 21.0),
    ]
    assert carried_forecasts(reversed(rows)).tolist() == [10.0, 13.0, 18.0, 20.0]
    assert carried_forecasts([]).tolist() == carried_forecasts(rows[:2]).tolist() == []


def test_total_compensator_is_kept() -> None:
    rows = windows(torch.Generator().manual_seed(0), compensator=0.5)  # most windows are empty
    last = next(i for i in reversed(range(len(rows))) if len(rows[i].gaps))
    expected = sum(float(row.gaps.sum()) for row in rows) + sum(row.leftover for row in rows[:last])
    assert math.isclose(float(carry_over(rows).sum()), expected)


@pytest.mark.parametrize("rows", [[], [SequenceResiduals(0, gap(), 2.0)]], ids=["no sequence", "no event"])
def test_nothing_to_test(rows: list[SequenceResiduals]) -> None:
    result = ks_exponential(carry_over(rows))
    assert result.num_events == 0 and math.isnan(result.statistic) and math.isnan(result.p_value)


def test_same_index_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="index 7 occurs twice"):
        carry_over([SequenceResiduals(7, gap(1.0), 0.0), SequenceResiduals(7, gap(1.0), 0.0)])


@pytest.mark.parametrize("wrong", [math.nan, -0.1, math.inf])
@pytest.mark.parametrize("leftover", [True, False])
def test_residuals_that_cannot_be_are_refused(wrong: float, leftover: bool) -> None:
    row = SequenceResiduals(3, gap(1.0), wrong) if leftover else SequenceResiduals(3, gap(1.0, wrong), 0.0)
    with pytest.raises(ValueError, match="sequence 3: a residual is"):
        carry_over([SequenceResiduals(2, gap(1.0), 1.0), row])


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 20_000])
@pytest.mark.parametrize("rate", [1.0, 1.1])
def test_agrees_with_scipy(n: int, rate: float) -> None:
    gaps = torch.empty(n, dtype=torch.float64).exponential_(rate, generator=torch.Generator().manual_seed(n))
    for result, reference in (
        (ks_exponential(gaps), stats.kstest(gaps.numpy(), "expon")),
        (ks_uniform(gaps / (1 + gaps)), stats.kstest((gaps / (1 + gaps)).numpy(), "uniform")),
    ):
        assert result.num_events == n
        assert math.isclose(result.statistic, reference.statistic, rel_tol=1e-12)
        assert math.isclose(result.p_value, reference.pvalue, rel_tol=1e-9)


def test_uniforms_outside_the_unit_interval_are_refused() -> None:
    for wrong in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match="must be a number in"):
            ks_uniform(gap(0.5, wrong))


@pytest.mark.parametrize("n", [20, 5000])
def test_band_is_where_the_test_rejects(n: int) -> None:
    band = ks_band(n)
    assert math.isclose(stats.kstwo.sf(band, n), 0.05, rel_tol=1e-6)
    assert abs(band * n**0.5 - 1.358) < 0.06


def test_result_has_the_names_of_the_summary() -> None:
    assert KSResult(0.1, 0.2, 3)._asdict() == {"statistic": 0.1, "p_value": 0.2, "num_events": 3}
