"""Sessions: a history that grows event by event says at any time what the whole of it says."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from small_models import attentive_model, random_sequence

import tppsd
from tppsd.data.lookback import Windows
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting.session import Session
from tppsd.processes import Hawkes

MODEL = attentive_model("thp", num_marks=3)
PROCESS = Hawkes([0.5, 0.3, 0.1], 0.2, 1.5)
HISTORY = random_sequence(5, 3)
LATER = ((HISTORY.window_end + 0.4, 2), (HISTORY.window_end + 0.9, 0), (HISTORY.window_end + 2.5, 1))


def whole(num_new: int, t_end: float) -> EventSequence:
    """The history and the first later events."""
    times = torch.cat([HISTORY.event_times, torch.tensor([t for t, _ in LATER[:num_new]], dtype=torch.float64)])
    marks = torch.cat([HISTORY.marks, torch.tensor([k for _, k in LATER[:num_new]], dtype=torch.int64)])
    return EventSequence.of(times, marks, HISTORY.t_start, t_end)


@pytest.mark.parametrize("compile", ["auto", False])
@pytest.mark.parametrize("target", [MODEL, PROCESS, attentive_model("attnhp", num_marks=3, max_context=4)])
def test_a_session_knows_what_its_history_says(target: Any, compile: Any) -> None:
    session = Session(target, HISTORY, compile)
    at = torch.tensor([0.3, 2.0], dtype=torch.float64)
    for num_new in range(len(LATER) + 1):
        if num_new:
            session.observe(*LATER[num_new - 1])
        session.elapse(session.observed_until + 0.05)
        expected = tppsd.forecast(target, whole(num_new, session.observed_until), 1.0).next_time()
        found = session.forecast(1.0).next_time()
        torch.testing.assert_close(found.survival(at), expected.survival(at), rtol=1e-5, atol=1e-6)
        inter_times = (at + session.observed_until - float(session.history.event_times[-1])).view(-1, 1)
        with torch.inference_mode():
            own = session.distribution.unsqueeze(0).log_survival(inter_times).exp()
        torch.testing.assert_close(own, expected.survival(at).t(), rtol=1e-5, atol=1e-6)
    assert len(session.history) == len(HISTORY) + len(LATER)


@pytest.mark.parametrize("target", [MODEL, PROCESS])
def test_the_intensity_of_the_present_is_the_one_until_the_next_event(target: Any) -> None:
    """A distribution that is truncated at the present has no density there, and would say 0."""
    session = Session(target, HISTORY, False)
    session.elapse(now := HISTORY.window_end + 0.5)
    expected = target.intensity(whole(0, now), torch.tensor([now, now + 1.0], dtype=torch.float64))
    torch.testing.assert_close(session.intensity([now, now + 1.0]), expected, rtol=1e-5, atol=1e-7)
    assert float(expected.min()) > 0


def test_no_token_is_encoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(MODEL, HISTORY, False)
    passed: list[int] = []
    right = session.model.extend

    def extend(tokens: Any, *rest: Any) -> Any:
        passed.append(tokens.ids.shape[1])
        return right(tokens, *rest)

    monkeypatch.setattr(session.model, "extend", extend)
    for time, mark in LATER:
        assert session.distribution.batch_shape == session.distribution.batch_shape == (1,)
        session.elapse(time - 0.01)
        assert float(session.distribution.elapsed) > 0
        session.observe(time, mark)
    assert passed == [1, 1, 1]


def test_the_intensity_is_that_of_the_process() -> None:
    session = Session(PROCESS, HISTORY)
    at = torch.tensor([HISTORY.window_end + 0.2, HISTORY.window_end + 1.0], dtype=torch.float64)
    torch.testing.assert_close(session.intensity(at), PROCESS.intensity(HISTORY, at))


def test_samples_and_forecasts_begin_at_what_is_known() -> None:
    session = Session(MODEL, HISTORY)
    session.observe(*LATER[0])
    again = tppsd.sample(MODEL, history=whole(1, LATER[0][0]), num_sequences=5, horizon=2.0, seed=3)
    torch.testing.assert_close(
        session.sample(num_sequences=5, horizon=2.0, seed=3).flat_event_times, again.flat_event_times
    )
    assert session.forecast(1.0, num_paths=20).probability().value.shape == (1, 4)


@pytest.mark.parametrize("source", [copy.deepcopy(MODEL), copy.deepcopy(MODEL).train(), copy.deepcopy(PROCESS)])
def test_the_weights_of_a_session_do_not_change(source: Any) -> None:
    """Half of an answer would come from a cache of the old weights, half from the new ones."""
    session, asked_before = (Session(source, HISTORY, False) for _ in range(2))
    at = torch.tensor([1.0], dtype=torch.float64)
    expected, samples = asked_before.distribution.log_survival(at), session.sample(horizon=20.0)
    with torch.no_grad():
        for weights in source.parameters() if isinstance(source, torch.nn.Module) else (source.mu,):
            weights.mul_(0.5)
    assert torch.equal(session.distribution.log_survival(at), expected)
    assert torch.equal(session.sample(horizon=20.0).flat_event_times, samples.flat_event_times)


@pytest.mark.parametrize("compile", ["auto", False])
def test_samples_and_forecasts_are_compiled_as_the_session_says(compile: Any) -> None:
    session, other = Session(MODEL, HISTORY, compile), {"auto": False, False: "auto"}[compile]
    assert session.sample(horizon=1.0).options.compile == compile
    assert session.sample(horizon=1.0, compile=other).options.compile == other
    assert session.sample(horizon=1.0, options=tppsd.SamplingOptions(compile=other)).options.compile == other
    assert session.forecast(1.0, num_paths=10).paths.options.compile == compile
    found = session.forecast(1.0, num_paths=10, options=tppsd.SamplingOptions(compile=other))
    assert found.paths.options.compile == other


def test_a_session_begins_anew_where_it_outgrows_the_windows_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It then says what a window with the lookback says, and knows all events; one that forgets this says other."""
    target = attentive_model("thp", num_marks=3)
    target.set_statistics(dataclasses.replace(target.statistics, window=6.0, lookback=4.0))
    generator = torch.Generator().manual_seed(0)
    times = (0.2 + torch.rand(60, generator=generator, dtype=torch.float64)).cumsum(0)
    marks = torch.randint(3, (60,), generator=generator)
    first = EventSequence.of(times[:30], marks[:30], 0.0)  # longer than the windows from the start

    def followed() -> tuple[Session, list[float], list[float]]:
        session, starts, found = Session(target, first, False), [], []
        for time, mark in zip(times[30:].tolist(), marks[30:].tolist(), strict=True):
            session.observe(time, mark)
            session.elapse(time + 0.1)
            starts.append(session._start)
            found.append(float(session.distribution.log_survival(torch.tensor([1.0], dtype=torch.float64))))
        return session, starts, found

    session, starts, found = followed()
    assert len(session.history) == 60 and torch.equal(session.history.event_times, times)
    torch.testing.assert_close(session.history.inter_times[1:], times.diff())
    distinct = list(dict.fromkeys(starts))
    assert 2 < len(distinct) < 10  # begins anew when it is outgrown, not at every event
    for i in range(0, 30, 3):
        own = times[(times >= starts[i]) & (times <= times[30 + i])]
        kept = EventSequence.of(own, marks[31 + i - len(own) : 31 + i], starts[i], float(times[30 + i]) + 0.1)
        assert 4.0 - 1e-9 <= kept.window_end - starts[i] <= 10.0 + 1e-6
        fresh = Session(target, kept, False).distribution
        expected = float(fresh.log_survival(torch.tensor([1.0], dtype=torch.float64)))
        assert found[i] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    later = session.forecast(0.5, num_paths=20).next_time().survival([0.9])
    torch.testing.assert_close(
        later, Session(target, kept_of(session), False).forecast(0.5).next_time().survival([0.9])
    )
    session.elapse(session.observed_until + 50.0)  # nothing of what the model sees is an event
    assert session.observed_until - session._start == pytest.approx(4.0) and session.distribution is not None
    session.observe(session.observed_until + 1.0, 1)
    assert float(session.history.inter_times[-1]) > 50

    monkeypatch.setattr(Session, "_shorten", lambda self: None)
    monkeypatch.setattr(Windows, "shortened", lambda self, history: history)
    assert max(abs(a - b) for a, b in zip(followed()[2], found, strict=True)) > 1e-2


def kept_of(session: Session) -> EventSequence:
    """What the model sees of a session, taken from its history."""
    history = session.history
    is_seen = history.event_times >= session._start
    own = history.event_times[is_seen]
    return EventSequence.of(own, history.marks[is_seen], session._start, session.observed_until, censored_start=True)


def test_mistakes_are_named() -> None:
    model = attentive_model("thp", num_marks=3)
    model.set_statistics(DataStatistics(3, mark_names=("a", "b", "c")))
    session = Session(model, HISTORY)
    session.observe(LATER[0][0], "c")
    assert session.history.marks[-1] == 2
    with pytest.raises(ValueError, match="until which the sequence is known already"):
        session.observe(LATER[0][0] - 0.1, 0)
    with pytest.raises(ValueError, match="is not later than the last event"):
        session.observe(LATER[0][0], 0)
    with pytest.raises(ValueError, match="until which the sequence is known already"):
        session.elapse(0.0)
    for wrong in (LATER[0][0] - 0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"must be finite and not before the last event, at "):
            session.intensity([wrong])
    with pytest.raises(ValueError, match="'d' is not a mark of the target"):
        session.observe(LATER[1][0], "d")
