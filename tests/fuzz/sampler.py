"""Requests to `tppsd.sample` with odd values, on a small model: ends, numbers, histories and options."""

from __future__ import annotations

import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tppsd
from tests.fuzz.judge import sentence_of
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics

NUMBERS: list[Any] = [None, 0, 1, 3, -1, 2.5, 1e21, 10**9, 2**70, -(2**70), True, "3", "x", [], [1, 2], {"a": 1}]
NUMBERS += [float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, torch.tensor(3.0), torch.tensor([1.0, 2.0])]
ARGUMENTS = ("num_sequences", "t_start", "t_end", "horizon", "num_events", "batch_size", "seed", "first_index")
OPTIONS: dict[str, list[Any]] = {
    "method": ["autoregressive", "speculative", "fixed_point", "auto", "x", 3],
    "rule": ["joint", "factorised", "block", "linear", "mean", "rrs", "x", 0],
    "drafter": ["self", "jacobi", "poisson", "model", "x", 1],
    "draft_length": [0, 1, 3, -1, 10**9, 2**70, "auto", "x", [[3, 2]], [[3]], 1.5, None],
    "draft_passes": [0, 1, -1, 10**9, "x"],
    "candidates": [0, 1, 2, (2, 2), (2,) * 30, 10**9, -1, "x", (), (0,)],
    "tolerance": [0.0, 0.1, -1.0, 1.0, float("nan"), "x"],
    "compile": [False, "x", 3],
    "dtype": ["bfloat16", "float32", "x"],
    "stop_marks": [[0], {1}, [99], ["x"], "x", [-1], 3],
    "forbid_marks": [[0], {1}, [99], [0, 1, 2], "x", 3],
}


@cache
def model() -> tppsd.TransformerTPP:
    """Return a small untrained model."""
    torch.manual_seed(0)
    target = tppsd.TransformerTPP(3, embed_dim=8, num_heads=2, num_layers=1, num_components=4)
    rows = [EventSequence.of([0.5, 1.0, 2.0], [0, 1, 2], t_start=0.0, t_end=3.0)]
    target.set_statistics(DataStatistics.of(rows, 3))
    return target.eval()


def try_case(seed: int, folder: Path) -> str | None:
    """Sample a few events with one to three odd arguments."""
    rng = random.Random(f"sampler {seed}")
    given: dict[str, Any] = {"num_events": 4, "compile": False, "max_events": 50}
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            given[rng.choice(ARGUMENTS)] = rng.choice(NUMBERS)
        else:
            name = rng.choice(list(OPTIONS))
            given[name] = rng.choice(OPTIONS[name])
    if rng.random() < 0.3:
        t_end = rng.choice([None, 2.0, 5.0, 1e21])
        given["history"] = EventSequence.of([0.5, 2.0], [0, 2], t_start=0.0, t_end=t_end)

    def act() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = tppsd.sample(model(), **given)
        assert all(bool(times.isfinite().all()) for times in samples.event_times), "a time is not finite"

    try:
        return sentence_of(act, None)
    except AssertionError as error:
        raise AssertionError(f"{given}: {error}") from error
