"""`forbid_marks`: samples of the target with the intensity of some marks set to zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mutants import FORBID_MUTANTS
from small_models import attentive_model, random_sequence

from tppsd.data.sequences import EventSequence
from tppsd.metrics.calibration import SequenceResiduals
from tppsd.metrics.functional import carry_over, ks_exponential
from tppsd.processes import Hawkes
from tppsd.sampling.sample import sample

ALPHA = [[0.3, 1.2, 0.1], [0.5, 0.2, 0.0], [0.2, 0.3, 0.3]]
PROCESS = Hawkes([0.4, 0.8, 0.3], ALPHA, 2.5)
# the same without mark 1: its events of the history still excite the others
WITHOUT = Hawkes([0.4, 0.0, 0.3], [ALPHA[0], [0.0, 0.0, 0.0], ALPHA[2]], 2.5)
HISTORY = EventSequence.of([0.5, 1.0, 1.4, 1.5], [0, 1, 1, 2], t_start=0.0, t_end=1.8)
FALSE_ALARM, REJECTED = 1e-4, 1e-6


def draw(**arguments: Any) -> list[EventSequence]:
    """Continuations of the history, with it, scored after it."""
    samples = sample(PROCESS, history=HISTORY, num_sequences=1500, horizon=4.0, seed=2, batch_size=500, **arguments)
    return samples.with_history()


def p_value(sequences: list[EventSequence]) -> float:
    """Return the p-value of the time rescaling of all windows, by the compensator of the process without the mark."""
    residuals = []
    for s in sequences:
        is_kept = (s.marks != 1) | (s.event_times <= HISTORY.window_end)
        scored = EventSequence.of(
            s.event_times[is_kept], s.marks[is_kept], s.t_start, s.t_end, s.index, score_start=HISTORY.window_end
        )
        residuals.append(SequenceResiduals(s.index, *WITHOUT.residuals(scored)))
    return ks_exponential(carry_over(residuals)).p_value


def test_samples_are_those_of_the_process_without_the_mark() -> None:
    sequences = draw(forbid_marks=[1])
    new = torch.cat([s.marks[len(HISTORY) :] for s in sequences])
    assert (torch.bincount(new, minlength=3) > 0).tolist() == [True, False, True]
    assert p_value(sequences) > FALSE_ALARM


def test_numbers_of_events_are_those_of_a_poisson_process() -> None:
    poisson = Hawkes([0.4, 2.0, 0.6], 0.0, 1.0)
    samples = sample(poisson, num_sequences=2000, horizon=3.0, batch_size=2000, forbid_marks=(1,))
    counts = samples.offsets.diff().double()
    assert abs(float(counts.mean()) - 3.0) < 4.9 * (3.0 / 2000) ** 0.5
    assert abs(float(counts.var()) - 3.0) < 4.9 * ((3.0 + 2 * 9.0) / 2000) ** 0.5
    share = float((samples.flat_marks == 2).double().mean())
    assert abs(share - 0.6) < 4.9 * (0.24 / len(samples.flat_marks)) ** 0.5


@pytest.mark.parametrize("history", [None, random_sequence(6, 4)], ids=["from scratch", "after a history"])
def test_compiled_and_eager_samples_agree(history: Any) -> None:
    model = attentive_model("thp", num_marks=4)
    size: dict[str, Any] = {"history": history, "num_sequences": 30, "horizon": 4.0, "forbid_marks": {0, 2}}
    compiled, eager = (sample(model, compile=compile, **size) for compile in ("auto", False))
    small = sample(model, batch_size=3, **size)
    for other in (eager, small):
        assert torch.equal(compiled.flat_marks, other.flat_marks)
        torch.testing.assert_close(compiled.flat_event_times, other.flat_event_times, rtol=1e-4, atol=1e-6)
    assert set(compiled.flat_marks.tolist()) == {1, 3}
    free = sample(model, history=history, num_sequences=30, horizon=4.0, method="autoregressive")
    none_dropped = [i for i in range(30) if not torch.isin(free.marks[i], torch.tensor([0, 2])).any()]
    assert none_dropped, "some sequence has none of the marks on its own"
    for i in none_dropped:
        torch.testing.assert_close(free.event_times[i], compiled.event_times[i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoder", ["thp", "attnhp"])
def test_rows_that_waited_are_filled_again(encoder: str) -> None:
    """A free row goes through the passes of the others; what it leaves in its cache must not spoil its next one."""
    model = attentive_model(encoder, num_marks=4)
    size: dict[str, Any] = {"num_sequences": 100, "horizon": 16.0, "forbid_marks": [0], "compile": False}
    few, all_at_once = (sample(model, batch_size=rows, **size) for rows in (16, 100))
    assert torch.equal(few.flat_marks, all_at_once.flat_marks)
    torch.testing.assert_close(few.flat_event_times, all_at_once.flat_event_times, rtol=1e-4, atol=1e-6)


def test_max_events_bounds_candidates() -> None:
    """A sequence whose last candidates were dropped is as truncated as one with too many events."""
    only_that = Hawkes([1.0, 1e-9], 0.0, 1.0)
    with pytest.warns(UserWarning, match="3 of 3 sequences reached max_events = 20"):
        samples = sample(only_that, num_sequences=3, num_events=5, max_events=20, forbid_marks=[0])
    assert samples.truncated.all() and samples.offsets.tolist() == [0, 0, 0, 0] and samples.ends.isnan().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "speculative"}, "forbid_marks = .0. is for method = 'autoregressive' alone"),
        ({"draft": PROCESS}, "forbid_marks = .0. is for method = 'autoregressive' alone; leave out the draft"),
        ({"return_log_probs": True}, "no distributions and densities are returned"),
    ],
)
def test_what_does_not_go_with_it_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(PROCESS, horizon=1.0, forbid_marks=[0], **arguments)


# --- wrong ways -------------------------------------------------------------------------------------------------------


def test_a_candidate_that_does_not_let_time_go_on_is_found_out() -> None:
    with FORBID_MUTANTS["time_stands_still"].patch():
        assert p_value(draw(forbid_marks=[1])) < REJECTED


def test_dropped_candidates_that_go_on_exciting_are_found_out() -> None:
    """What is left of the whole process."""
    assert p_value(draw()) < REJECTED
