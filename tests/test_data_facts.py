"""The facts of a log: they agree with what its sequences give one by one, and see leaks and drift between splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tppsd import DataStatistics
from tppsd.data.facts import LogFacts
from tppsd.data.log import read_log
from tppsd.data.options import ReadOptions
from tppsd.data.reading import to_dataset


def log_table(num_sequences: int = 30, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = [
        (f"s{i}", float(t), "abc"[rng.integers(3)])
        for i in range(num_sequences)
        for t in np.sort(np.round(rng.uniform(0, 50, rng.integers(1, 20)), 1))
    ]
    return pa.table(dict(zip(("sequence", "time", "mark"), map(list, zip(*rows, strict=True)), strict=True)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"t_start": 0, "t_end": "last"},
        {"split_times": (20, 35)},
        {"split_times": (20, 35), "window": 6.0, "lookback": 9.0, "t_end": 50},
        {"window": 6.0, "lookback": 9.0, "t_start": 0},
        {"window": 6.0},
    ],
)
def test_facts_agree_with_the_statistics_of_the_sequences(options: dict[str, Any]) -> None:
    """A mutant that takes given events for scored ones, or the whole window for the scored part, fails."""
    log = read_log(log_table(), ReadOptions(**options))
    facts, dataset = LogFacts.of(log), to_dataset(log)
    for split, part in dataset.splits.items():
        own = facts.splits[split]
        statistics = DataStatistics.of(part, dataset.num_marks, min_inter_time=0.01)
        assert own.num_scored == statistics.num_events and own.num_sequences == len(part)
        scored = sum(sequence.window_end - sequence.scored_from for sequence in part)
        assert own.duration == pytest.approx(scored) and statistics.duration == pytest.approx(scored)
        assert tuple(own.mark_counts(dataset.num_marks)) == statistics.mark_counts
        assert own.scored_lengths.tolist() == [sequence.num_scored for sequence in part]
        gaps = torch.cat([sequence.inter_times[sequence.num_given :] for sequence in part])
        assert own.scored_gaps.tolist() == gaps.tolist()
        pairs = torch.zeros(3, 3, dtype=torch.int64)
        for sequence in part:
            for i in range(max(sequence.num_given, 1), len(sequence)):
                pairs[sequence.marks[i - 1], sequence.marks[i]] += 1
        assert own.transitions(3).tolist() == pairs.tolist()


def test_ids_and_copies_that_splits_share() -> None:
    train, test = log_table(seed=1), log_table(seed=2)
    leaked = train.slice(0, 60)
    ids = [f"t{name}" for name in test["sequence"].to_pylist()]
    others = {"time": test["time"].to_pylist() + leaked["time"].to_pylist(),
              "mark": test["mark"].to_pylist() + leaked["mark"].to_pylist()}  # fmt: skip
    copied = pa.table({"sequence": ids + [f"x{name}" for name in leaked["sequence"].to_pylist()], **others})
    facts = LogFacts.of(read_log({"train": train, "validation": test, "test": copied}, ReadOptions()))
    whole = len({*leaked["sequence"].to_pylist()} - {leaked["sequence"][-1].as_py()})
    assert facts.shared_ids() == {("train", "validation"): 30, ("train", "test"): 0, ("validation", "test"): 0}
    copies = facts.copies()
    assert copies["train", "validation"] == 0 and copies["validation", "test"] > 20
    assert whole - 2 <= copies["train", "test"] <= whole + 1, "all but the shortest and the one that was cut"


def test_drift_and_silences() -> None:
    table = pa.table({"sequence": list("aaabbbccc"), "time": [0.0, 1, 2, 0, 1, 2, 0, 1, 9], "mark": list("xxyxxyxyy")})
    facts = LogFacts.of(read_log(table, ReadOptions(fractions=(1 / 3, 1 / 3, 1 / 3))))
    assert facts.mark_drift("validation") == 0 and facts.mark_drift("test") == pytest.approx(0.5)
    assert facts.longest_silences(1) == [(2.0, 9.0)]
