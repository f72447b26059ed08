"""Two ranks without processes: torchmetrics' own synchronisation between threads, and its merging of states."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from torch import Tensor
from torchmetrics import Metric


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
NO_UPDATE = pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics on a rank without data
