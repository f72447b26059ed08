"""The fitted Hawkes process as a yardstick: what it scores, and the sentence that compares."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.lightning.hawkes_baseline import compare, score_hawkes
from tppsd.metrics.functional import process_nll
from tppsd.processes import Hawkes, hawkes_bounded

TRUTH = Hawkes(mu=(0.5, 0.3), alpha=((0.8, 0.6), (0.1, 0.9)), beta=2.0)


def test_on_a_hawkes_process_it_comes_close_to_the_truth() -> None:
    """Within 0.01 nats per event on 3,000 test events, where a Poisson process loses 0.15."""
    train, test = (TRUTH.simulate(n, t_end=50.0, seed=n) for n in (60, 20))
    statistics = DataStatistics.of(train, 2)
    score, truth = score_hawkes(train, test, statistics), process_nll(TRUTH, test)
    assert score is not None and score.num_events == statistics.num_events
    counts = torch.tensor(statistics.mark_counts, dtype=torch.float64)
    poisson = process_nll(Hawkes(counts / statistics.duration, 0.0, 1.0), test)
    assert truth - 0.01 < score.nll < truth + 0.01 < poisson - 0.15
    assert score.branching_ratio == pytest.approx(TRUTH.branching_ratio, abs=0.1)


def test_marks_unseen_in_training_cost_much_but_not_everything() -> None:
    train = TRUTH.simulate(5, t_end=20.0, seed=0)
    test = [EventSequence.of([1.0], [2], 0.0, 5.0)]
    assert 3 < score_hawkes(train, test, DataStatistics.of(train, 3)).nll < math.inf


def test_ties_are_scored_at_the_floor() -> None:
    """Ties move the score by what the floor says: with inter-times of at least the floor nothing changes."""
    floor = 0.05
    times = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 3.0, 3.5], dtype=torch.float64)
    tied = [EventSequence.of(times + i, None, None, 6.0 + i, index=i) for i in range(5)]
    statistics = DataStatistics.of(tied, 1, floor)

    def spread(sequence: EventSequence) -> EventSequence:
        inter_times = sequence.inter_times.clamp_min(floor)
        inter_times[0] = 0.0
        return replace(sequence, inter_times=inter_times)

    spread_out = [spread(s) for s in tied]
    assert score_hawkes(tied, tied, statistics) == score_hawkes(spread_out, spread_out, statistics)
    without = replace(statistics, min_inter_time=0.0)
    assert score_hawkes(tied, tied, statistics).nll != score_hawkes(tied, tied, without).nll


def test_what_does_not_fit_into_half_a_minute_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (TRUTH.simulate(n, t_end=50.0, seed=n) for n in (60, 20))
    statistics = DataStatistics.of(train, 2)
    whole = score_hawkes(train, test, statistics)
    monkeypatch.setattr(hawkes_bounded, "_MAX_NUMBERS", 2 * 5000)  # two marks: few of the events
    some = score_hawkes(train, test, statistics)
    monkeypatch.setattr(hawkes_bounded, "_MAX_WORK", 1e6)  # and few decays
    fewer = score_hawkes(train, test, statistics)
    assert whole is not None and some is not None and fewer is not None
    assert some.num_events < 5000 / some.num_decays < whole.num_events
    assert 1 <= fewer.num_decays < some.num_decays == whole.num_decays
    assert whole.nll < some.nll < whole.nll + 0.1
    monkeypatch.setattr(hawkes_bounded, "_MAX_WORK", 1.0)
    assert score_hawkes(train, test, statistics) is None


@pytest.mark.parametrize(("num_marks", "least", "most"), [(2, 7, 7), (100, 2, 6), (250, 1, 2), (1000, 0, 0)])
def test_many_marks_get_fewer_decays_and_a_thousand_none(num_marks: int, least: int, most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.rand(4000, generator=generator, dtype=torch.float64).sort().values * 100
    train = [EventSequence.of(times, torch.randint(0, num_marks, (4000,), generator=generator), 0.0, 100.0)]
    statistics = DataStatistics.of(train, num_marks)
    planned = [n for n in range(1, 8) if hawkes_bounded._work(4000, statistics, n) <= hawkes_bounded._MAX_WORK]
    assert planned == list(range(1, len(planned) + 1)) and least <= len(planned) <= most


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({"A": 1.0, "B": 0.9, "C": 0.8}, "0.5000 nats per event beats A (1.0000), B (0.9000) and C (0.8000)"),
        ({"A": 1.0, "B": 0.4, "C": 0.3}, "beats A (1.0000), but does not beat B (0.4000) and C (0.3000)"),
        ({"A": 0.5, "B": math.nan}, "nats per event does not beat A (0.5000) and B (nan)"),
    ],
)
def test_the_sentence_names_who_is_beaten(scores: dict[str, float], sentence: str) -> None:
    assert compare(0.5, scores).endswith(sentence)
