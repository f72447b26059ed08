"""torchmetrics classes: many batches on two ranks give what the functions give on everything at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from metric_cases import CASES, NUM_ITEMS, fed, numbers, residuals
from metric_oracles import oracles
from scipy import stats
from torchmetrics import Metric
from two_ranks import BOTH_WAYS, NO_UPDATE, synced

from tppsd.metrics import NegativeLogLikelihood, TimeRescalingKS
from tppsd.metrics.functional import carry_over


@BOTH_WAYS
def test_time_rescaling_over_ranks(reduce: Any) -> None:
    """Interleaved indices, out of order, in uneven batches; one sequence comes on both ranks, as padding does."""
    rows = residuals()
    ranks: list[Metric] = [TimeRescalingKS(), TimeRescalingKS()]
    ranks[0].update(rows[0::2][::-1])
    ranks[1].update(rows[1::2][:7])
    ranks[1].update([])
    ranks[1].update([*rows[1::2][7:], rows[0]])
    reference = stats.kstest(carry_over(rows).numpy(), "expon")
    for result in reduce(ranks):
        assert result.num_events == sum(len(row.gaps) for row in rows)
        assert math.isclose(result.statistic, reference.statistic, rel_tol=1e-12)
        assert math.isclose(result.p_value, reference.pvalue, rel_tol=1e-9)


@NO_UPDATE
def test_a_rank_without_data() -> None:
    alone, busy = TimeRescalingKS(), TimeRescalingKS()
    alone.update(residuals())
    busy.update(residuals())
    assert synced([TimeRescalingKS(), busy]) == [alone.compute()] * 2


@NO_UPDATE
def test_no_data_at_all() -> None:
    assert TimeRescalingKS().compute().num_events == 0


@BOTH_WAYS
def test_likelihood_over_ranks(reduce: Any) -> None:
    ranks: list[Metric] = [NegativeLogLikelihood(), NegativeLogLikelihood()]
    ranks[0].update(torch.tensor([-1.0, -5.0]), torch.tensor([1, 2]))
    ranks[1].update(torch.tensor([-4.0]), torch.tensor([2]))
    assert all(float(result) == 2.0 for result in reduce(ranks))


def test_many_small_terms_keep_their_digits() -> None:
    """A float32 sum would stand still at 2^24 events."""
    metric = NegativeLogLikelihood()
    metric.update(torch.tensor([-(2.0**24)]), torch.tensor([2**24]))
    for _ in range(8):
        metric.update(torch.tensor([-1.0]), torch.tensor([0]))
    assert float(metric.compute()) == (2**24 + 8) / 2**24


# --- every class -----------------------------------------------------------------------------------------------------

EVERY_CLASS = pytest.mark.parametrize("name", CASES)


@EVERY_CLASS
def test_any_split_into_batches_gives_what_all_at_once_does(name: str) -> None:
    """Shuffled, uneven, with an empty batch in the middle."""
    order = torch.randperm(NUM_ITEMS, generator=torch.Generator().manual_seed(0))
    expected = numbers(fed(name, torch.arange(NUM_ITEMS)).compute())
    assert all(math.isfinite(number) for number in expected)
    split = fed(name, *order.tensor_split([1, 90, 90, 200]))
    assert numbers(split.compute()) == pytest.approx(expected, rel=1e-12)


def test_every_class_agrees_with_scipy_or_a_loop() -> None:
    expected = oracles()
    assert expected.keys() == CASES.keys()
    for name, values in expected.items():
        found = numbers(fed(name, torch.arange(NUM_ITEMS)).compute())[: len(values)]
        assert found == pytest.approx(values, rel=1e-6 if name == "crps" else 1e-9), name


@EVERY_CLASS
@BOTH_WAYS
def test_any_split_over_ranks_gives_what_one_rank_does(name: str, reduce: Any) -> None:
    items = torch.arange(NUM_ITEMS)
    expected = numbers(fed(name, items).compute())
    for result in reduce([fed(name, items[::2]), fed(name, items[1::2])]):
        assert numbers(result) == pytest.approx(expected, rel=1e-12)


@NO_UPDATE
@EVERY_CLASS
def test_a_rank_without_items(name: str) -> None:
    items = torch.arange(NUM_ITEMS)
    expected = numbers(fed(name, items).compute())
    for result in synced([fed(name), fed(name, items)]):
        assert numbers(result) == pytest.approx(expected, rel=1e-12)


@EVERY_CLASS
def test_reset_forgets(name: str) -> None:
    items = torch.arange(NUM_ITEMS)
    expected = numbers(fed(name, items).compute())
    metric = fed(name, items[:50])
    metric.reset()
    CASES[name][1](metric, items)
    assert numbers(metric.compute()) == pytest.approx(expected, rel=1e-12)
