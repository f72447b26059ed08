"""`model.intensity`: the hazard of the next event, per mark and unit of time."""

from __future__ import annotations

import pytest
import torch
from small_models import ENCODERS, random_sequence, small_model

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.transformer_tpp import TransformerTPP


@pytest.fixture(params=ENCODERS)
def model(request: pytest.FixtureRequest) -> TransformerTPP:
    return small_model(request.param)


def log_silence(model: TransformerTPP, sequence: EventSequence, time: float) -> float:
    """log-likelihood of the events before `time` on a window that ends there."""
    num_events = int((sequence.event_times < time).sum())
    return float(model.log_likelihood(EventBatch.from_sequences([sequence.prefix(num_events, t_end=time)]))[0].detach())


@pytest.mark.parametrize("given", [False, True])
def test_the_sum_over_marks_is_the_rate_at_which_the_survival_falls(model: TransformerTPP, given: bool) -> None:
    sequence = random_sequence(5, given=given)
    start, end = sequence.window_start, sequence.window_end
    times = torch.linspace(start + 0.01, end, 40, dtype=torch.float64)
    step = 1e-5
    times = times[(times.unsqueeze(1) - sequence.event_times).abs().amin(1) > 2 * step]
    intensity = model.intensity(sequence, times)
    assert intensity.shape == (len(times), 3)
    slopes = [
        (log_silence(model, sequence, t - step) - log_silence(model, sequence, t + step)) / (2 * step)
        for t in times.tolist()
    ]
    torch.testing.assert_close(intensity.sum(1), torch.tensor(slopes, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_each_marks_share_is_its_probability_at_that_time(model: TransformerTPP) -> None:
    sequence = random_sequence(3)
    tau = 0.4
    intensity = model.intensity(sequence, sequence.event_times[-1:] + tau)[0]
    distribution = model(EventBatch.from_sequences([sequence]))[0, -1]
    shares = distribution.mark_log_probs(torch.tensor(tau, dtype=torch.float64)).exp().detach()
    torch.testing.assert_close(intensity / intensity.sum(), shares)


def test_it_gives_the_log_likelihood_of_a_point_process(model: TransformerTPP) -> None:
    """log L = sum_i log lambda_{k_i}(t_i) - integral of sum_k lambda_k over the window (Daley and Vere-Jones, 7.2)."""
    sequence = random_sequence(4)
    at_events = model.intensity(sequence, sequence.event_times).gather(1, sequence.marks.unsqueeze(1))
    knots = torch.cat(
        [torch.tensor([2.0]).double(), sequence.event_times, torch.tensor([sequence.window_end]).double()]
    )
    compensator = 0.0
    for before, after in zip(knots[:-1].tolist(), knots[1:].tolist(), strict=True):
        tau = torch.logspace(-9, 0, 4001, dtype=torch.float64) * (after - before)
        total = model.intensity(sequence, before + tau).sum(1)
        compensator += float(torch.trapezoid(total, tau))
    expected = model.log_likelihood(EventBatch.from_sequences([sequence]))
    assert float(at_events.log().sum()) - compensator == pytest.approx(float(expected.detach()), abs=1e-4)


def test_it_is_finite_at_the_windows_start_at_an_event_and_in_an_empty_window(model: TransformerTPP) -> None:
    sequence = random_sequence(2)
    empty = EventSequence.of([], [], t_start=0.0, t_end=1.0)
    for row, times in [(sequence, [2.0, *sequence.event_times.tolist()]), (empty, [0.0, 0.5, 1.0])]:
        assert torch.isfinite(model.intensity(row, torch.tensor(times))).all()
    assert model.intensity(empty, torch.zeros(0)).shape == (0, 3)


def test_an_unmarked_model_has_one_column() -> None:
    assert small_model(num_marks=1).intensity(random_sequence(3, num_marks=1), torch.tensor([3.0, 4.0])).shape == (2, 1)


@pytest.mark.parametrize("times", [[1.9], [float("nan")]])
def test_times_outside_are_refused(model: TransformerTPP, times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"times must be finite and not before the window's start 2\.0"):
        model.intensity(random_sequence(3), torch.tensor(times))
