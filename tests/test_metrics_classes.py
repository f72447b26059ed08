"""torchmetrics classes: many batches on two ranks give what the functions give on everything at once."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchmetrics import Metric

from tppsd.metrics import AcceptanceStatistics, MarkPIT, NegativeLogLikelihood, TimeRescalingKS
from tppsd.metrics.functional import SequenceResiduals, acceptance_rate, carry_over, events_per_round, step_acceptance


def residuals(num_sequences: int = 40) -> list[SequenceResiduals]:
    g = torch.Generator().manual_seed(0)
    rows = []
    for i in range(num_sequences):
        n = int(torch.randint(0, 6, (), generator=g))
        gaps = torch.empty(n, dtype=torch.float64).exponential_(generator=g)
        leftover = float(torch.rand((), generator=g))
        rows.append(SequenceResiduals(i, gaps, leftover, torch.rand(n, dtype=torch.float64, generator=g)))
    return rows


def synced(ranks: list[Metric]) -> list[Any]:
    """What `compute` returns on every rank, each a thread with torchmetrics' own synchronisation over a shared list."""
    barrier, box, results = threading.Barrier(len(ranks)), {}, {}

    def gather(rank: int, value: Tensor) -> list[Tensor]:
        box[rank] = value
        barrier.wait(30)
        gathered = [box[r] for r in range(len(ranks))]
        barrier.wait(30)
        assert len({(v.dtype, v.dim()) for v in gathered}) == 1  # what a collective demands
        return gathered

    def run(rank: int, metric: Metric) -> None:
        metric.dist_sync_fn = lambda value, group=None: gather(rank, value)
        metric.distributed_available_fn = lambda: True
        results[rank] = metric.compute()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [results[rank] for rank in range(len(ranks))]


def merged(ranks: list[Metric]) -> list[Any]:
    for other in ranks[1:]:
        ranks[0].merge_state(other)
    return [ranks[0].compute()]


BOTH_WAYS = pytest.mark.parametrize("reduce", [synced, merged])


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


@BOTH_WAYS
def test_mark_pit_over_ranks(reduce: Any) -> None:
    rows = residuals()
    ranks: list[Metric] = [MarkPIT(), MarkPIT()]
    ranks[0].update(rows[::2])
    ranks[1].update(rows[1::2] + rows[:3])
    reference = stats.kstest(torch.cat([row.mark_uniforms for row in rows]).numpy(), "uniform")
    for result in reduce(ranks):
        assert math.isclose(result.statistic, reference.statistic, rel_tol=1e-12)
        assert math.isclose(result.p_value, reference.pvalue, rel_tol=1e-9)


NO_UPDATE = pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics on a rank without data


@NO_UPDATE
@pytest.mark.parametrize("cls", [TimeRescalingKS, MarkPIT])
def test_a_rank_without_data(cls: Any) -> None:
    alone, busy = cls(), cls()
    alone.update(residuals())
    busy.update(residuals())
    assert synced([cls(), busy]) == [alone.compute()] * 2


@NO_UPDATE
@pytest.mark.parametrize("cls", [TimeRescalingKS, MarkPIT])
def test_no_data_at_all(cls: Any) -> None:
    assert cls().compute().num_events == 0


@BOTH_WAYS
def test_acceptance_over_ranks(reduce: Any) -> None:
    g = torch.Generator().manual_seed(1)
    small, large = torch.randint(9, (4, 4), generator=g).tril(), torch.randint(9, (9, 9), generator=g).tril()
    ranks: list[Metric] = [AcceptanceStatistics(8), AcceptanceStatistics(8)]
    ranks[0].update(small)
    ranks[1].update(large)
    ranks[1].update(small)
    total = large.clone()
    total[:4, :4] += 2 * small
    expected = {
        "acceptance_rate": acceptance_rate(total),
        "step_acceptance": step_acceptance(total),
        "events_per_round": events_per_round(total),
    }
    assert all(result == expected for result in reduce(ranks))


def test_longer_drafts_than_announced_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_draft_length = 4 allows at most \(5, 5\)"):
        AcceptanceStatistics(4).update(torch.zeros(6, 6, dtype=torch.int64))


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


@pytest.mark.parametrize("cls", [TimeRescalingKS, MarkPIT])
def test_reset_forgets(cls: Any) -> None:
    metric = cls()
    metric.update(residuals())
    before = metric.compute()
    metric.reset()
    metric.update(residuals())
    assert metric.compute() == before
