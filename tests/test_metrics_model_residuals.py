"""model residuals: the formula, position by position, and their verdict on right and wrong samplers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_models import ENCODERS, random_sequence, small_model
from stubs import StubTPP
from torch import Tensor

import tppsd
from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import (
    SequenceResiduals,
    carry_over,
    ks_exponential,
    ks_uniform,
    lag1_independence,
    model_residuals,
)

TARGET = StubTPP.random(3, seed=2, strength=1.0)


def silences(num_sequences: int, seed: int = 0, longest: float = 3.0) -> list[EventSequence]:
    """Histories of 0 to 3 events, half of them observed beyond the last one."""
    generator = torch.Generator().manual_seed(seed)
    rows = [random_sequence(i % 4, seed=i) for i in range(num_sequences)]
    last = [float(r.event_times[-1]) if len(r) else r.window_start for r in rows]
    ends = [t + max(0.0, longest * (2 * float(torch.rand((), generator=generator)) - 1)) for t in last]
    return [
        EventSequence(r.event_times, r.marks, r.t_start, end, i)
        for i, (r, end) in enumerate(zip(rows, ends, strict=True))
    ]


def continued(model: Any, histories: list[EventSequence], horizon: float, lag: int = 0) -> list[EventSequence]:
    """Continue every history for `horizon`, an event at a time, by full passes; from the distribution of `lag` events
    before."""
    generator = torch.Generator().manual_seed(1)
    rows, ends = list(histories), [h.window_end + horizon for h in histories]
    last = [float(h.event_times[-1]) if len(h) else h.window_start for h in histories]
    elapsed = torch.tensor([h.window_end - t for h, t in zip(histories, last, strict=True)], dtype=torch.float64)
    active = list(range(len(histories)))
    while active:
        batch = EventBatch.from_sequences([rows[i] for i in active])
        distribution = model(batch).at((batch.lengths - lag).clamp_min(0)).truncated(elapsed)
        inter_times, marks = distribution.sample(torch.rand(len(active), 3, dtype=torch.float64, generator=generator))
        times = batch.last_times + inter_times
        grown = []
        for i, time, mark, inter_time in zip(active, times, marks, inter_times, strict=True):
            if time <= ends[i]:
                old = rows[i]
                columns = [(old.event_times, time), (old.marks, mark), (old.inter_times, inter_time)]
                event_times, new_marks, new_inter_times = (torch.cat([a, b.reshape(1)]) for a, b in columns)
                rows[i] = EventSequence(event_times, new_marks, old.t_start, None, i, new_inter_times)
                grown.append(i)
        elapsed, active = torch.zeros(len(grown), dtype=torch.float64), grown
    return [
        EventSequence(r.event_times, r.marks, r.t_start, end, r.index, r.inter_times)
        for r, end in zip(rows, ends, strict=True)
    ]


def verdict(
    histories: list[EventSequence], sequences: list[EventSequence], silence_known: bool = True
) -> list[SequenceResiduals]:
    observed = [h.window_end for h in histories] if silence_known else None
    return model_residuals(TARGET, sequences, [len(h) for h in histories], observed)


def marks_of(residuals: list[SequenceResiduals]) -> Tensor:
    return torch.cat([r.mark_uniforms for r in residuals])


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("given", [False, True])
def test_every_residual_is_that_of_its_own_prefix(encoder: str, given: bool) -> None:
    model = small_model(encoder, dtype=torch.float32)
    double = small_model(encoder, dtype=torch.float32)
    double.load_state_dict(model.state_dict())
    double.double()
    sequences = [random_sequence(n, seed=i, given=given) for i, n in enumerate([5, 1, 12, 3])]
    residuals = model_residuals(model, sequences)
    assert next(model.parameters()).dtype == torch.float32  # scored by a copy
    for sequence, residual in zip(sequences, residuals, strict=True):
        assert residual.index == sequence.index and len(residual.gaps) == sequence.num_scored
        with torch.no_grad():
            for i in range(int(given), len(sequence)):
                distribution = double(EventBatch.from_sequences([sequence.prefix(i) if i else empty(sequence)]))[0, -1]
                tau = sequence.inter_times[i]
                torch.testing.assert_close(
                    residual.gaps[i - given], -distribution.log_survival(tau), rtol=0, atol=1e-10
                )
                probs = distribution.mark_log_probs(tau).exp()
                upper = float(probs[: sequence.marks[i] + 1].sum())
                assert (
                    upper - float(probs[sequence.marks[i]]) - 1e-12
                    <= residual.mark_uniforms[i - given]
                    <= upper + 1e-12
                )
            silence = torch.tensor(sequence.window_end - float(sequence.event_times[-1]), dtype=torch.float64)
            distribution = double(EventBatch.from_sequences([sequence]))[0, -1]
            assert math.isclose(residual.leftover, -float(distribution.log_survival(silence)), abs_tol=1e-10)


def empty(sequence: EventSequence) -> EventSequence:
    return EventSequence.of([], t_start=sequence.t_start, index=sequence.index)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_company_changes_nothing(encoder: str) -> None:
    model = small_model(encoder)
    sequences = [random_sequence(n, seed=i) for i, n in enumerate([0, 30, 2, 7, 0, 15])]
    together = model_residuals(model, sequences, seed=3)
    alone = [model_residuals(model, [sequence], seed=3)[0] for sequence in sequences]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.gaps, b.gaps, rtol=0, atol=1e-10)
        torch.testing.assert_close(a.mark_uniforms, b.mark_uniforms, rtol=0, atol=1e-10)
        assert math.isclose(a.leftover, b.leftover, abs_tol=1e-10)


def test_given_part_is_not_scored_and_its_silence_is_taken_off() -> None:
    sequence = EventSequence.of([1.0, 2.5, 4.0], [0, 1, 2], t_start=0.0, t_end=6.0)
    (whole,), (rest,), (late,) = (
        model_residuals(TARGET, [sequence]),
        model_residuals(TARGET, [sequence], [1], [2.0]),
        model_residuals(TARGET, [sequence], [3], [5.0]),
    )
    distribution = TARGET(EventBatch.from_sequences([sequence]))[0]
    torch.testing.assert_close(rest.gaps[1:], whole.gaps[2:])
    torch.testing.assert_close(rest.gaps[0], whole.gaps[1] + distribution[1].log_survival(torch.tensor(1.0)))
    assert rest.leftover == whole.leftover
    assert len(late.gaps) == len(late.mark_uniforms) == 0
    assert math.isclose(late.leftover, whole.leftover + float(distribution[3].log_survival(torch.tensor(1.0))))


def test_an_end_by_number_of_events_leaves_nothing_over() -> None:
    sequence = EventSequence.of([1.0, 2.5], [0, 1], t_start=0.0)
    assert model_residuals(TARGET, [sequence])[0].leftover == 0.0


def test_mark_uniforms_depend_on_seed_and_index() -> None:
    sequences = [EventSequence.of([1.0, 2.0], [0, 1], t_start=0.0, index=i) for i in (0, 1)]
    first, second = (r.mark_uniforms for r in model_residuals(TARGET, sequences))
    (other,) = (r.mark_uniforms for r in model_residuals(TARGET, sequences[:1], seed=1))
    assert not torch.isclose(first, second).any() and not torch.isclose(first, other).any()


def test_unmarked_models_have_no_mark_uniforms() -> None:
    (residual,) = model_residuals(small_model(num_marks=1), [random_sequence(4, num_marks=1)])
    assert len(residual.gaps) == 4 and len(residual.mark_uniforms) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_given": [1]}, "num_given has 1 entries for 2 sequences"),
        ({"num_given": [1, 4]}, "sequence 1: num_given = 4 must lie between 0 and 3"),
        (
            {"num_given": [1, 2], "observed_until": [None, 0.5]},
            "sequence 1: observed_until = 0.5 is before its last given event",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_residuals(TARGET, [random_sequence(3, seed=i) for i in (0, 1)], **arguments)


def test_same_index_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="same index"):
        model_residuals(TARGET, [random_sequence(3), random_sequence(3)])


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact() -> tuple[list[EventSequence], list[EventSequence]]:
    histories = silences(900)
    return histories, continued(TARGET, histories, 3.0)


def test_exact_continuations_pass(exact: tuple[list[EventSequence], list[EventSequence]]) -> None:
    residuals = verdict(*exact)
    gaps, marks = carry_over(residuals), marks_of(residuals)
    assert len(gaps) > 1000
    assert ks_exponential(gaps).p_value > 0.01
    assert ks_uniform(marks).p_value > 0.01
    assert lag1_independence(-torch.expm1(-gaps)).p_value > 0.01
    assert lag1_independence(marks).p_value > 0.01


def test_ignored_silence_is_rejected(exact: tuple[list[EventSequence], list[EventSequence]]) -> None:
    assert ks_exponential(carry_over(verdict(*exact, silence_known=False))).p_value < 1e-6


def test_stale_context_is_rejected() -> None:
    histories = silences(900)
    residuals = verdict(histories, continued(TARGET, histories, 3.0, lag=1))
    assert ks_exponential(carry_over(residuals)).p_value < 1e-6


def test_marks_of_another_distribution_are_rejected(exact: tuple[list[EventSequence], list[EventSequence]]) -> None:
    rotated = [
        EventSequence(s.event_times, (s.marks + 1) % 3, s.t_start, s.t_end, s.index, s.inter_times) for s in exact[1]
    ]
    assert ks_uniform(marks_of(model_residuals(TARGET, rotated))).p_value < 1e-6


@pytest.mark.parametrize("method", ["autoregressive", "speculative"])
def test_samples_of_a_transformer_pass(method: str) -> None:
    """Cached float32 sampling, judged by the full float64 pass; sequences end by time or by their number of events."""
    model, draft = small_model(dtype=torch.float32), None
    if method == "speculative":
        torch.manual_seed(1)
        draft = small_model(dtype=torch.float32, num_layers=1)
    history = [
        EventSequence.of([0.5, 1.0], [0, 1], t_start=0.0, t_end=w, index=i) for i, w in enumerate((1.0, 1.4, 3.0))
    ]
    samples = tppsd.sample(
        model, draft, method=method, history=history, num_sequences=200, horizon=4.0, num_events=6, seed=4
    )
    ended_by_count = [s.t_end is None for s in samples]
    assert any(ended_by_count) and not all(ended_by_count)
    residuals = model_residuals(model, samples.with_history(), samples.num_given, samples.observed_until)
    assert [r.leftover == 0 for r in residuals] == ended_by_count
    gaps = carry_over(residuals)
    assert len(gaps) > 1000
    assert ks_exponential(gaps).p_value > 0.01 and ks_uniform(marks_of(residuals)).p_value > 0.01
