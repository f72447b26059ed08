"""What must not matter: the unit of time, the origin of time, the future; and what an observed silence means."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import DTYPES, ENCODERS, random_sequence, small_model
from stubs import lively_transformer

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import nll_per_event
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes import PRESETS
from tppsd.sampling.sample import sample

HOUR = 3600.0
BILLION = 1e9


def moved(sequence: EventSequence, factor: float = 1.0, shift: float = 0.0) -> EventSequence:
    """The same events with every time t as factor * t + shift."""

    def time(value: float | None) -> float | None:
        return None if value is None else factor * value + shift

    return replace(
        sequence,
        event_times=factor * sequence.event_times + shift,
        inter_times=factor * sequence.inter_times,
        t_start=time(sequence.t_start),
        t_end=time(sequence.t_end),
        score_start=time(sequence.score_start),
    )


def dyadic(sequence: EventSequence) -> EventSequence:
    """On multiples of 1/1024, which float64 holds without rounding at 10^9 as well."""
    times = (1024 * sequence.event_times).round() / 1024
    end = None if sequence.t_end is None else math.ceil(1024 * sequence.t_end) / 1024
    return replace(sequence, event_times=times, inter_times=None, t_end=end)


# --- the unit of time ------------------------------------------------------------------------------------------------


def trained(sequences: list[EventSequence], num_steps: int = 12) -> tuple[TransformerTPP, float]:
    """A model after a few steps from one seed, and its NLL per scored event."""
    torch.manual_seed(0)
    model = TransformerTPP(3, "rotary", embed_dim=8, num_heads=2, num_layers=1, num_components=4, dropout=0.1).double()
    model.set_statistics(DataStatistics.of(sequences, num_marks=3))
    batch, optimizer = EventBatch.from_sequences(sequences), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(num_steps):
        optimizer.zero_grad()
        nll_per_event(model.log_likelihood(batch), batch.num_scored).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return model, float(nll_per_event(model.log_likelihood(batch), batch.num_scored))


def some_windows() -> list[EventSequence]:
    rows = [random_sequence(n, seed=n, given=n == 7) for n in (5, 7, 9)]
    return [*rows, replace(random_sequence(8), score_start=3.5)]


@pytest.fixture(scope="module")
def in_seconds_and_hours() -> dict[str, Any]:
    rows = some_windows()
    return {"hours": trained(rows), "seconds": trained([moved(row, HOUR) for row in rows])}


def test_a_unit_moves_the_nll_of_what_is_learnt_by_its_logarithm(in_seconds_and_hours: dict[str, Any]) -> None:
    """log 3600 = 8.189 per event, after training with dropout from the same seed."""
    (_, hours), (_, seconds) = in_seconds_and_hours["hours"], in_seconds_and_hours["seconds"]
    assert seconds - hours == pytest.approx(math.log(HOUR), abs=1e-6)
    assert hours < trained(some_windows(), num_steps=0)[1] - 0.05  # something was learnt


@pytest.mark.parametrize("method", ["autoregressive", "speculative"])
def test_a_unit_moves_samples_by_its_factor(in_seconds_and_hours: dict[str, Any], method: str) -> None:
    history = EventSequence.of([0.5, 1.25], [0, 2], t_start=0.0, t_end=1.75)
    draws = []
    for unit, factor in (("hours", 1.0), ("seconds", HOUR)):
        model = in_seconds_and_hours[unit][0]
        draft = model if method == "speculative" else None
        draws.append(
            sample(
                model,
                draft,
                method=method,
                history=moved(history, factor),
                num_sequences=20,
                horizon=6.0 * factor,
                seed=3,
            )
        )
    assert len(draws[0].flat_marks) > 50
    assert torch.equal(draws[0].flat_marks, draws[1].flat_marks)
    torch.testing.assert_close(draws[1].flat_event_times, HOUR * draws[0].flat_event_times, rtol=1e-6, atol=0)
    torch.testing.assert_close(draws[1].ends, HOUR * draws[0].ends, rtol=1e-12, atol=0)


# --- the origin of time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_billion_units_later_everything_is_the_same(encoder: str, given: bool) -> None:
    """Bit for bit: statistics, log-likelihoods, and samples but for their times."""
    rows = [dyadic(random_sequence(n, seed=n, given=given)) for n in (4, 9)]
    rows[1] = replace(rows[1], score_start=3.0)
    late = [moved(row, shift=BILLION) for row in rows]
    statistics = DataStatistics.of(rows, num_marks=3)
    assert DataStatistics.of(late, num_marks=3) == statistics
    model = small_model(encoder)
    model.set_statistics(statistics)
    now, then = EventBatch.from_sequences(rows), EventBatch.from_sequences(late)
    for convention in ("window", "benchmark"):
        assert torch.equal(model.log_likelihood(now, convention), model.log_likelihood(then, convention))
    draws = [sample(model, method="autoregressive", history=h, num_events=5, seed=1) for h in (rows, late)]
    assert torch.equal(draws[0].flat_inter_times, draws[1].flat_inter_times)
    assert torch.equal(draws[0].flat_marks, draws[1].flat_marks)
    torch.testing.assert_close(draws[1].flat_event_times - BILLION, draws[0].flat_event_times, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "poisson"])
def test_a_stationary_process_does_not_know_when_it_is(name: str) -> None:
    process = PRESETS[name].process
    sequence = dyadic(process.simulate(1, t_end=4.0, seed=2)[0])
    late = moved(sequence, shift=BILLION)
    assert process.log_likelihood(late) == pytest.approx(process.log_likelihood(sequence), rel=1e-12)


# --- silence ---------------------------------------------------------------------------------------------------------


def test_nothing_happens_in_an_observed_silence_and_the_rest_is_truncated() -> None:
    """A history whose last event is at 11, observed until 20: P(first <= 21) = 1 - S(10) / S(9).

    4,000 paths; the share is within four standard errors (false alarm 6e-5), and neither the distribution that forgets
    the silence nor the one that starts afresh at 20 is.
    """
    model = lively_transformer(3, "thp", seed=1)
    model.statistics = replace(model.statistics, log_mean=math.log(6.0), log_std=1.0)
    history = EventSequence.of([3.0, 7.5, 11.0], [0, 2, 1], t_start=0.0, t_end=20.0)
    with torch.no_grad():
        distribution = model(EventBatch.from_sequences([history]))[0, -1].double()
        s9, s10, s1 = (
            float(distribution.log_survival(torch.tensor(tau, dtype=torch.float64)).exp()) for tau in (9.0, 10.0, 1.0)
        )
    expected = 1 - s10 / s9
    truncated = distribution.truncated(torch.tensor(9.0, dtype=torch.float64)).inter_time
    assert float(truncated.cdf(torch.tensor(10.0, dtype=torch.float64))) == pytest.approx(expected, rel=1e-9)
    samples = sample(model, method="autoregressive", history=history, num_sequences=4000, t_end=21.0, seed=5)
    first = [float(times[0]) for times in samples.event_times if len(times)]
    assert min(first) > 20.0 and max(first) <= 21.0
    share, error = len(first) / 4000, math.sqrt(expected * (1 - expected) / 4000)
    assert abs(share - expected) < 4 * error
    for wrong in (1 - s10, 1 - s1):
        assert abs(share - wrong) > 8 * error


@pytest.mark.parametrize("method", ["autoregressive", "speculative"])
def test_a_history_is_all_given_whatever_of_it_would_be_scored(method: str) -> None:
    """Samples of a history with a `score_start` are those of the history without one, bit for bit; an event at w is in
    it."""
    model = lively_transformer(3, "sahp", seed=1)
    history = random_sequence(6, seed=2)
    history = replace(history, t_end=float(history.event_times[-1]))
    partly = [replace(history, score_start=float(history.event_times[i])) for i in (1, 5)]
    partly.append(replace(history, censored_start=True))
    draft = lively_transformer(3, "thp", seed=4, num_layers=1) if method == "speculative" else None
    whole, *others = (
        sample(model, draft, method=method, history=h, num_sequences=3, num_events=6, seed=2)
        for h in (history, *partly)
    )
    for other in others:
        assert torch.equal(other.flat_inter_times, whole.flat_inter_times)
        assert torch.equal(other.flat_marks, whole.flat_marks)
        assert other.num_given == whole.num_given and other.observed_until == whole.observed_until


# --- the future ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decoder", ["time_conditional", "independent"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_another_future_changes_no_distribution_before_it(encoder: str, decoder: str, dtype: torch.dtype) -> None:
    """Bit for bit, and it changes those after it: another future is other times, marks, end and scored part."""
    model = small_model(encoder, dtype=dtype, mark_decoder=decoder)
    one, two = random_sequence(8, seed=1), random_sequence(8, seed=2)
    for num_past in range(9):
        last = float(one.event_times[num_past - 1]) if num_past else 2.0
        later = last + two.event_times[num_past:] - 2.0
        other = EventSequence.of(
            torch.cat([one.event_times[:num_past], later]),
            torch.cat([one.marks[:num_past], two.marks[num_past:]]),
            2.0,
            30.0,
            score_start=3.0,
        )
        with torch.no_grad():
            first, second = (model(EventBatch.from_sequences([s]))[0] for s in (one, other))
        past = slice(0, num_past + 1)
        assert torch.equal(first[past].parameters, second[past].parameters)
        if num_past < 8:
            assert not torch.equal(first.parameters, second.parameters)
