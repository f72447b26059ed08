"""One case for every torchmetrics class: how to build it and how to feed it a share of the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from tppsd.data.sequences import EventSequence
from tppsd.metrics import (
    InterTimeCalibration,
    InterTimeCRPS,
    InterTimeRMSE,
    MarkAccuracy,
    MarkCalibrationError,
    NegativeLogLikelihood,
    TimeRescalingKS,
    UnusableMeans,
)
from tppsd.metrics.functional import SequenceResiduals
from tppsd.models.mixture import LogNormalMixture

NUM_ITEMS = 300  # sequences, draws or events, according to the class
NUM_MARKS = 4


def residuals(num_sequences: int = 40) -> list[SequenceResiduals]:
    g = torch.Generator().manual_seed(0)
    rows = []
    for i in range(num_sequences):
        n = int(torch.randint(0, 6, (), generator=g))
        gaps = torch.empty(n, dtype=torch.float64).exponential_(generator=g)
        leftover = float(torch.rand((), generator=g))
        rows.append(SequenceResiduals(i, gaps, leftover, torch.rand(n, dtype=torch.float64, generator=g)))
    return rows


class Items(NamedTuple):
    """What item i brings to one class or another, (NUM_ITEMS, ...)."""

    distribution: LogNormalMixture
    inter_times: Tensor
    forecasts: Tensor
    mark_probs: Tensor
    marks: Tensor
    log_likelihoods: Tensor
    num_events: Tensor


def items() -> Items:
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(NUM_ITEMS, *shape, dtype=torch.float64, generator=g)

    distribution = LogNormalMixture(torch.log_softmax(normal(3), -1), normal(3), 0.3 * normal(3), 0.2, 1.1)
    marks = torch.randint(NUM_MARKS, (NUM_ITEMS,), generator=g)
    return Items(
        distribution,
        normal().exp(),
        normal().exp(),
        torch.softmax(2 * normal(NUM_MARKS), -1),
        marks,
        normal(),
        torch.randint(1, 9, (NUM_ITEMS,), generator=g),
    )


def sequences(seed: int) -> list[EventSequence]:
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(40):
        n = int(torch.randint(6, (), generator=g))
        times = (5 * torch.rand(n, dtype=torch.float64, generator=g)).sort().values
        rows.append(EventSequence(times, torch.randint(NUM_MARKS, (n,), generator=g), 0.0, 5.0, i))
    return rows


HORIZON = 1.5  # short, so that some means lie beyond it
ITEMS, RESIDUALS, SEQUENCES = items(), residuals(NUM_ITEMS), (sequences(1), sequences(2))


def feed_residuals(metric: Any, chosen: Tensor) -> None:
    metric.update(RESIDUALS[i] for i in chosen.tolist())


def feed_columns(*names: str) -> Callable[[Any, Tensor], None]:
    return lambda metric, chosen: metric.update(*(getattr(ITEMS, name)[chosen] for name in names))


CASES: dict[str, tuple[Callable[[], Metric], Callable[[Any, Tensor], None]]] = {
    "time_rescaling": (TimeRescalingKS, feed_residuals),
    "calibration": (InterTimeCalibration, feed_residuals),
    "nll": (NegativeLogLikelihood, feed_columns("log_likelihoods", "num_events")),
    "rmse": (InterTimeRMSE, feed_columns("forecasts", "inter_times")),
    "crps": (InterTimeCRPS, feed_columns("distribution", "inter_times")),
    "mean_unusable": (UnusableMeans, lambda metric, chosen: metric.update(ITEMS.distribution[chosen], HORIZON)),
    "accuracy": (MarkAccuracy, feed_columns("mark_probs", "marks")),
    "ece": (MarkCalibrationError, feed_columns("mark_probs", "marks")),
}


def fed(name: str, *batches: Tensor) -> Metric:
    """A metric of the class that has seen `batches` of items, int64 (any number,)."""
    build, feed = CASES[name]
    metric = build()
    for batch in batches:
        feed(metric, batch)
    return metric


def numbers(result: Any) -> list[float]:
    """What a `compute` has returned, as a flat list."""
    if isinstance(result, Sequence):
        return [number for part in result for number in numbers(part)]
    return torch.as_tensor(result, dtype=torch.float64).flatten().tolist()


def results(rank: int, world_size: int) -> dict[str, list[float]]:
    """Return the values of every class over all processes, each of which feeds every `world_size`-th item."""
    share = torch.arange(rank, NUM_ITEMS, world_size)
    return {name: numbers(fed(name, share[:100], share[100:]).compute()) for name in CASES}
