"""Where sequences end: at a time, after a horizon, by their number of events, whichever comes first."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from stubs import StubTPP

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

MODEL = StubTPP.random(3, seed=0)
METHODS: dict[str, dict[str, Any]] = {
    "autoregressive": {},
    "joint": {"draft": MODEL.moved(1, times=0.5, marks=0.5), "rule": "joint", "draft_length": 5},
    "factorised": {"draft": MODEL.moved(1, times=0.5, marks=0.5), "rule": "factorised", "draft_length": 2},
    "self": {"method": "speculative", "draft_length": 3},
}
HISTORY = EventSequence.of([1.0, 2.0], [0, 2], t_start=0.5, t_end=2.5)
every_method = pytest.mark.parametrize("method", METHODS)


def draw(method: str, model: Any = MODEL, num_sequences: int = 12, **arguments: Any) -> SampledSequences:
    return sample(model, num_sequences=num_sequences, seed=6, batch_size=5, **METHODS[method], **arguments)


def assert_prefix(short: SampledSequences, long: SampledSequences, i: int, length: int) -> None:
    assert len(short.event_times[i]) == length
    torch.testing.assert_close(short.event_times[i], long.event_times[i][:length], rtol=1e-9, atol=0)
    assert torch.equal(short.marks[i], long.marks[i][:length])


@every_method
def test_t_end_keeps_the_events_until_then_and_no_other(method: str) -> None:
    """The same sequences as with a later end, cut: an end is not part of the draws."""
    long = draw(method, t_end=30.0)
    assert not long.truncated.any() and long.ends.tolist() == [30.0] * 12
    for t_end in (0.0, 0.4, 11.0, 29.0):
        short = draw(method, t_end=t_end)
        for i in range(12):
            assert_prefix(short, long, i, int((long.event_times[i] <= t_end).sum()))
            assert (short[i].t_start, short[i].t_end) == (0.0, t_end)


@every_method
def test_num_events_keeps_the_first_ones(method: str) -> None:
    long = draw(method, num_events=25)
    assert [len(s) for s in long] == [25] * 12
    assert all(s.t_end is None for s in long) and long.ends.isnan().all()
    for num_events in (1, 6, 24):
        short = draw(method, num_events=num_events)
        for i in range(12):
            assert_prefix(short, long, i, num_events)


@every_method
def test_the_first_of_several_ends_counts(method: str) -> None:
    long = draw(method, num_events=60)
    both = draw(method, num_events=10, t_end=5.0, horizon=6.0)
    by_number = [bool((times[:10] <= 5.0).all()) for times in long.event_times]
    assert 0 < sum(by_number) < 12, "both ends must occur"
    for i in range(12):
        assert_prefix(both, long, i, min(10, int((long.event_times[i] <= 5.0).sum())))
        assert both[i].t_end == (None if by_number[i] else 5.0)
    assert both.ends.isnan().tolist() == by_number


@every_method
def test_every_sequence_may_have_its_own_ends(method: str) -> None:
    long = draw(method, num_events=60)
    t_ends, numbers = [0.5 * i for i in range(12)], torch.arange(1, 13)
    mixed = draw(method, t_end=t_ends, num_events=numbers)
    for i in range(12):
        assert_prefix(mixed, long, i, min(i + 1, int((long.event_times[i] <= t_ends[i]).sum())))
    horizons = draw(method, horizon=torch.tensor(t_ends), t_start=[10.0] * 12)
    for i in range(12):
        torch.testing.assert_close(horizons.event_times[i], 10.0 + draw(method, t_end=t_ends).event_times[i])
        assert (horizons[i].t_start, horizons[i].t_end) == (10.0, 10.0 + t_ends[i])


@every_method
def test_a_horizon_counts_from_where_the_history_was_observed(method: str) -> None:
    continued = draw(method, history=HISTORY, horizon=4.0)
    absolute = draw(method, history=HISTORY, t_end=6.5)
    torch.testing.assert_close(continued.flat_event_times, absolute.flat_event_times, rtol=1e-9, atol=0)
    for sequence in continued:
        assert (sequence.t_start, sequence.t_end) == (2.5, 6.5)
        assert ((sequence.event_times > 2.5) & (sequence.event_times <= 6.5)).all()


@every_method
def test_empty_windows_have_no_events(method: str) -> None:
    for samples in (
        draw(method, horizon=0.0),
        draw(method, t_start=3.0, t_end=3.0),
        draw(method, history=HISTORY, t_end=2.5),
        draw(method, t_end=1e-9),
    ):
        assert len(samples) == 12 and len(samples.flat_event_times) == 0
        assert all(len(s) == 0 and s.t_end is not None for s in samples)
        assert samples.offsets.tolist() == [0] * 13 and not samples.truncated.any()
        assert [len(s) for s in samples.with_history()] == samples.num_given


@every_method
def test_max_events_truncates_and_says_so(method: str) -> None:
    free = draw(method, t_end=10.0)
    counts = [len(times) for times in free.event_times]
    bound = sorted(counts)[6]
    with pytest.warns(UserWarning, match=rf"of 12 sequences reached max_events = {bound} before their end"):
        bounded = draw(method, t_end=10.0, max_events=bound)
    for i in range(12):
        assert_prefix(bounded, free, i, min(bound, counts[i]))
        assert bool(bounded.truncated[i]) == (counts[i] >= bound)
        assert bounded[i].t_end == (None if bounded.truncated[i] else 10.0)


@every_method
def test_a_sequence_that_gets_all_events_it_asked_for_is_not_truncated(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not draw(method, num_events=7, max_events=7).truncated.any()
    with pytest.warns(UserWarning, match="12 of 12 sequences"):
        bounded = draw(method, num_events=8, max_events=7)
    assert bounded.truncated.all() and [len(s) for s in bounded] == [7] * 12


@every_method
def test_an_infinite_end_is_no_end(method: str) -> None:
    with pytest.warns(UserWarning, match="reached max_events = 20"):
        endless = draw(method, t_end=math.inf, max_events=20)
    assert endless.truncated.all() and endless.ends.isnan().all()
    assert all(s.t_end is None for s in draw(method, horizon=math.inf, num_events=3))


@every_method
def test_a_given_first_event_is_one_of_num_events(method: str) -> None:
    model = StubTPP.random(3, seed=0)
    object.__setattr__(model, "statistics", DataStatistics(3, first_is_given=True, first_mark_counts=(1, 2, 0)))
    for num_events in (1, 2, 9):
        samples = draw(method, model, num_events=num_events, t_start=4.0)
        assert [len(s) for s in samples] == [num_events] * 12
        assert all(s.first_is_given and s.t_end is None and s.event_times[0] == 4.0 for s in samples)
    for num_events, bound in ((6, 5), (9, 1)):
        with pytest.warns(UserWarning, match=f"12 of 12 sequences reached max_events = {bound}"):
            bounded = draw(method, model, num_events=num_events, max_events=bound)
        assert [len(s) for s in bounded] == [bound] * 12 and bounded.truncated.all()
    windows = draw(method, model, t_end=9.0)
    assert all(s.t_start is None and s.window_start == 0.0 and s.t_end == 9.0 for s in windows)
    assert [len(s) for s in windows] == [int(n) + 1 for n in windows.offsets.diff()]
    continued = draw(method, model, history=HISTORY, num_events=4)  # a continuation draws no first event
    assert [len(s) for s in continued] == [4] * 12
