"""What is given has no share: in moments, rates, frequencies, counts, baselines, losses and scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import random_sequence, small_model
from windows import OF_FLAT_SEQUENCES, cut_in_two, places_to_cut, tiled

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.lightning.baseline import poisson_log_likelihood
from tppsd.metrics.functional import (
    event_counts,
    lag1_correlation,
    mark_totals,
    model_residuals,
    transport_distance,
)
from tppsd.models.likelihood import scored_events
from tppsd.models.renewal import fit_renewal
from tppsd.processes import PRESETS, Process

every_process = pytest.mark.parametrize("process", [p.process for p in PRESETS.values()], ids=PRESETS)

# --- a window that was cut where something was going on ---------------------------------------------------------------


def lookback(times: list[float], marks: list[int], **arguments: Any) -> EventSequence:
    """[1, 6) of a stream with one unit of it before."""
    return EventSequence.of(times, marks, t_start=0.0, t_end=6.0, score_start=1.0, censored_start=True, **arguments)


QUIET = lookback([1.5, 2.0, 4.0], [0, 2, 1])  # no event in the lookback
BUSY = lookback([0.25, 0.5, 2.0, 4.0], [0, 2, 1, 1])
EMPTY = lookback([], [])


@torch.no_grad()
def test_an_inter_time_from_the_beginning_of_a_lookback_is_none() -> None:
    """Not in the score of a quiet lookback's window: the first event there is given, as one without a t_start is."""
    model = small_model()
    batch = EventBatch.from_sequences([QUIET, BUSY, EMPTY])
    distribution = model(batch)
    got, quiet, busy = model.log_likelihood(batch), distribution[0], distribution[1]
    tau, marks = batch.inter_times, batch.marks
    expected = quiet[1:3].log_prob(tau[0, 1:3], marks[0, 1:3]).sum() + quiet[3].log_survival(torch.tensor(2.0))
    assert float(got[0]) == pytest.approx(float(expected), abs=1e-12)
    expected = busy[2:4].log_prob(tau[1, 2:4], marks[1, 2:4]).sum() + busy[4].log_survival(torch.tensor(2.0))
    expected = expected - busy[2].log_survival(torch.tensor(0.5))
    assert float(got[1]) == pytest.approx(float(expected), abs=1e-12)
    assert float(got[2]) == 0.0 and model.num_scored(batch).tolist() == [2, 2, 0]
    assert torch.equal(scored_events(batch, "benchmark"), batch.scored)  # an event is given wherever one is scored
    residuals = model_residuals(model, [replace(s, index=i) for i, s in enumerate([QUIET, BUSY, EMPTY])])
    assert [len(r.gaps) for r in residuals] == [2, 2, 0] and residuals[2].leftover == 0.0
    assert float(residuals[0].gaps[0]) == pytest.approx(-float(quiet[1].log_survival(tau[0, 1])), abs=1e-12)


def test_it_is_no_moment_either() -> None:
    statistics = DataStatistics.of([QUIET, BUSY, EMPTY], num_marks=3)
    assert statistics.num_events == 4 and statistics.duration == 4.5 + 5.0
    assert statistics.time_scale == pytest.approx((0.5 + 2.0 + 1.5 + 2.0) / 4)
    assert statistics.mark_counts == (0, 3, 1)


@every_process
def test_a_process_has_no_term_for_it(process: Process) -> None:
    unmarked = [replace(s, marks=torch.zeros_like(s.marks)) for s in (QUIET, BUSY, EMPTY)]
    gaps = [process.residuals(s) for s in unmarked]
    assert [len(g) for g, _ in gaps] == [2, 2, 0] and gaps[2][1] == pytest.approx(0.0, abs=1e-12)
    assert process.log_likelihood(unmarked[2]) == pytest.approx(0.0, abs=1e-12)
    scored_later = replace(unmarked[0], score_start=1.75, censored_start=False)  # the same events scored
    elapsed = process.compensator(unmarked[0], torch.tensor([1.5, 1.75], dtype=torch.float64)).diff()
    difference = process.log_likelihood(scored_later) - process.log_likelihood(unmarked[0])
    assert difference == pytest.approx(float(elapsed), rel=1e-8)


# --- moments, frequencies, baselines ----------------------------------------------------------------------------------


def test_the_statistics_of_tiles_are_those_of_the_window() -> None:
    """No event, no inter-time and no stretch of time counts twice."""
    sequence = random_sequence(40, seed=6)
    edges = torch.linspace(2.0, sequence.window_end, 7, dtype=torch.float64).tolist()
    tiles = tiled(sequence, edges)
    assert_same_statistics(tiles, sequence)
    with OF_FLAT_SEQUENCES["given events scored"](), pytest.raises(AssertionError):
        assert_same_statistics(tiles, sequence)
    with OF_FLAT_SEQUENCES["scored from the window's start"](), pytest.raises(AssertionError):
        assert_same_statistics(tiles, sequence)


def assert_same_statistics(tiles: list[EventSequence], sequence: EventSequence) -> None:
    parts, whole = (DataStatistics.of(rows, num_marks=3).to_dict() for rows in (tiles, [sequence]))
    for name, value in whole.items():
        assert parts[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


def test_first_marks_are_of_events_that_are_not_given_by_a_score_start() -> None:
    rows = [
        EventSequence.of([1.0, 2.0], [0, 1]),
        EventSequence.of([1.0, 2.0], [2, 1], score_start=1.0),
        EventSequence.of([1.0, 2.0], [1, 1], score_start=1.5),
    ]
    assert DataStatistics.of(rows, num_marks=3).first_mark_counts == (1, 0, 1)


def test_the_poisson_baseline_adds_up_and_scores_no_given_event() -> None:
    sequence = random_sequence(12, seed=7)
    statistics = DataStatistics.of([sequence], num_marks=3)

    def total(rows: list[EventSequence]) -> float:
        return float(poisson_log_likelihood(EventBatch.from_sequences(rows), statistics).sum())

    for s in places_to_cut(sequence):
        assert total(cut_in_two(sequence, s)) == pytest.approx(total([sequence]), abs=1e-10)
    rate = statistics.num_events / statistics.duration
    assert total([EMPTY]) == 0.0 and total([replace(EMPTY, censored_start=False)]) == pytest.approx(-5.0 * rate)


def test_a_renewal_model_is_fitted_to_scored_events() -> None:
    """The given half of each sequence comes from another distribution: what is fitted does not depend on it."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(60):
        slow, fast = torch.rand(2, 10, dtype=torch.float64, generator=generator) * torch.tensor([[9.0], [0.1]])
        times = torch.cat([slow, fast]).cumsum(0)
        rows.append(EventSequence.of(times, None, 0.0, float(times[-1]) + 0.01, i, score_start=float(times[9]) + 1e-9))
    statistics = DataStatistics.of(rows, num_marks=1)
    late = [EventSequence.of(r.event_times[9:], None, None, r.t_end, r.index) for r in rows]
    fits = [fit_renewal(sequences, statistics, 40, 200, validation=sequences) for sequences in (rows, late)]
    batch = EventBatch.from_sequences(late)
    with torch.no_grad():
        nlls = [-float(f.log_likelihood(batch).sum() / batch.num_scored.sum()) for f in fits]
    assert nlls[0] == pytest.approx(nlls[1], abs=1e-4) and nlls[0] < 0


def test_counts_correlations_and_distances_are_of_scored_events() -> None:
    sequence = random_sequence(9, seed=8)
    second = cut_in_two(sequence, float(sequence.event_times[4]))[1]
    alone = EventSequence.of(sequence.event_times[4:], sequence.marks[4:], 0.0, sequence.t_end)
    assert event_counts([second]).tolist() == [[5.0]]
    assert torch.equal(mark_totals([second], 3), mark_totals([alone], 3))
    assert transport_distance(second, alone).tolist() == [0.0] * 7
    pairs = lag1_correlation([second, replace(second, index=0)])
    assert pairs.num_pairs == 8


@torch.no_grad()
def test_the_benchmark_convention_scores_what_is_not_given_and_leaves_out_a_first_event_of_nothing() -> None:
    rows = [
        random_sequence(5),
        replace(random_sequence(5), score_start=2.0),
        cut_in_two(random_sequence(5), 3.0)[1],
        random_sequence(5, given=True),
    ]
    batch = EventBatch.from_sequences(rows)
    scored, model = scored_events(batch, "benchmark"), small_model()
    given = int(batch.num_given[2])
    assert 0 < given < 5
    assert scored.sum(1).tolist() == [4, 4, 5 - given, 4] == model.num_scored(batch, "benchmark").tolist()
    parts = model.log_likelihood_parts(batch, "benchmark")
    distribution = model(batch)[2]
    expected = distribution[given:5].inter_time.log_prob(batch.inter_times[2, given:])
    assert float(parts.time[2]) == pytest.approx(float(expected.sum()), abs=1e-12)  # whole distributions, no truncation
    assert parts.survival.tolist() == [0.0] * 4
