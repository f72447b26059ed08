"""Fixed-point sampling draws what autoregressive sampling draws from the same noise, up to its tolerance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from goodness import judge
from small_models import ENCODERS
from stubs import StubTPP, lively_transformer

from tppsd.data.sequences import EventSequence
from tppsd.models.mixture import LogNormalMixture
from tppsd.processes import ProcessModel, preset
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

HISTORY = EventSequence.of([0.7, 1.1, 2.6], [0, 1, 0], t_start=0.0, t_end=3.1)


def both(model: Any, **arguments: Any) -> tuple[SampledSequences, SampledSequences]:
    """(autoregressive, fixed point) of the same seed."""
    shared = {"num_sequences": 30, "seed": 3, "batch_size": 8}
    fixed = {name: arguments.pop(name) for name in ("tolerance", "draft_length") if name in arguments}
    return (
        sample(model, method="autoregressive", **shared, **arguments),
        sample(model, method="fixed_point", **shared, **fixed, **arguments),
    )


@pytest.mark.parametrize("draft_length", [1, 5, 32])
@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_it_equals_autoregressive_sampling(tolerance: float, draft_length: int) -> None:
    model = StubTPP.random(3, seed=1)
    one, other = both(model, history=HISTORY, t_end=20.0, tolerance=tolerance, draft_length=draft_length)
    assert torch.equal(other.offsets, one.offsets) and torch.equal(other.flat_marks, one.flat_marks)
    torch.testing.assert_close(other.flat_inter_times, one.flat_inter_times, rtol=1e-4, atol=0)
    assert other.stats.exact == (tolerance == 0) and one.stats.exact


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_a_mark_that_changes_is_a_change_where_times_do_not_depend_on_the_past(tolerance: float) -> None:
    """Mutant: marks that are not looked at. Only through them does the history change what comes here."""
    model = StubTPP.random(3, seed=1, strength=2.0)
    model.from_state[: len(model.means)] = 0.0
    one, other = both(model, num_events=20, tolerance=tolerance, draft_length=8)
    assert torch.equal(other.flat_marks, one.flat_marks)
    torch.testing.assert_close(other.flat_inter_times, one.flat_inter_times, rtol=1e-12, atol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("num_marks", [1, 3])
def test_it_equals_autoregressive_sampling_of_a_transformer(encoder: str, num_marks: int) -> None:
    model = lively_transformer(num_marks, encoder, seed=2)
    one, other = both(model, num_events=25, draft_length=8, tolerance=1e-6)
    assert torch.equal(other.flat_marks, one.flat_marks)
    torch.testing.assert_close(other.flat_inter_times, one.flat_inter_times, rtol=1e-4, atol=0)
    assert other.stats.events_per_round > 1.2


def test_it_equals_autoregressive_sampling_of_a_ground_truth_process() -> None:
    one, other = both(ProcessModel(preset("hawkes").process), t_end=10.0, tolerance=1e-9)
    torch.testing.assert_close(other.flat_event_times, one.flat_event_times, rtol=1e-6, atol=0)


def test_a_large_tolerance_is_another_distribution() -> None:
    """The test of the distribution is one: within a tolerance of nearly a standard deviation most changes count as
    none."""
    model = StubTPP.swinging(3, seed=3)
    arguments = {"history": HISTORY, "num_sequences": 12000, "num_events": 6, "batch_size": 3000, "draft_length": 5}
    assert judge(model, HISTORY, sample(model, method="fixed_point", tolerance=1e-6, **arguments)) > 1e-4
    assert judge(model, HISTORY, sample(model, method="fixed_point", tolerance=0.99, **arguments)) < 1e-6


def test_noise_distance_is_in_standard_deviations_of_the_component() -> None:
    weights, means, log_stds = torch.tensor([[0.5, 0.5], [-3.0, 3.0], [0.0, 1.0]], dtype=torch.float64)
    distribution = LogNormalMixture(
        *torch.stack([weights.log(), means, log_stds]).unsqueeze(1).expand(-1, 2, -1), shift=0.2, scale=2.0
    )
    uniforms = torch.tensor([[0.2, 0.3], [0.9, 0.6]], dtype=torch.float64)
    drawn = distribution.sample(uniforms)
    assert distribution.noise_distance(drawn, uniforms).tolist() == [0.0, 0.0]
    std = torch.tensor([2.0, 2.0 * torch.e], dtype=torch.float64)
    moved = drawn * (0.1 * std).exp()
    torch.testing.assert_close(distribution.noise_distance(moved, uniforms), torch.full((2,), 0.1, dtype=torch.float64))
