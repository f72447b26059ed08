"""The protocols of distributions: who satisfies them, for mypy and at run time, and that selections are what they say.

mypy reads this file too (pyproject.toml): the annotated assignments below are its part of the test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tppsd
from tppsd.backends.cpp.distribution import CompiledDistribution
from tppsd.certification.closed_form import ClosedFormTPP
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import DraftDistribution, EventDistribution, EventModel, EventTokens
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.processes import Hawkes, ProcessModel
from tppsd.processes.event_model import ProcessDistribution
from tppsd.sampling.drafters.poisson import PoissonDistribution

ROWS, LENGTH, MARKS = 2, 4, 3

# what mypy is to accept: instances of each class where a protocol is wanted
_models: tuple[type[EventModel], ...] = (TransformerTPP, ClosedFormTPP, ProcessModel, Hawkes)
_events: tuple[type[EventDistribution], ...] = (NextEventDistribution, CompiledDistribution, ProcessDistribution)
_drafts: tuple[type[DraftDistribution], ...] = (PoissonDistribution, *_events)


def after_events(model: EventModel) -> EventDistribution:
    """The model's distributions after each of a few events, (ROWS, LENGTH)."""
    generator = torch.Generator().manual_seed(3)
    inter_times = 0.1 + torch.rand(ROWS, LENGTH, dtype=torch.float64, generator=generator)
    ids = 1 + torch.randint(MARKS, (ROWS, LENGTH), generator=generator)
    tokens = EventTokens(ids, inter_times.cumsum(1), inter_times)
    with torch.no_grad():
        return model.distribution(model.extend(tokens, model.new_cache(ROWS, LENGTH)))


def transformer() -> TransformerTPP:
    """A small untrained model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TransformerTPP(MARKS, "thp", 16, 2, 1, 4).eval()


def hawkes() -> Hawkes:
    """A process whose intensity depends on its history."""
    return Hawkes(mu=[0.5] * MARKS, alpha=[[0.3] * MARKS] * MARKS, beta=2.0)


MODELS: dict[str, Callable[[], EventModel]] = {
    "transformer": transformer,
    "compiled": lambda: tppsd.compile(transformer()),
    "closed form": lambda: ClosedFormTPP.random(MARKS, seed=1),
    "process": lambda: ProcessModel(hawkes()),
    "hawkes": hawkes,
}


def poisson() -> PoissonDistribution:
    """Distributions (ROWS, LENGTH) whose elapsed times differ."""
    elapsed = torch.linspace(0.0, 0.7, ROWS * LENGTH, dtype=torch.float64).view(ROWS, LENGTH)
    return PoissonDistribution(elapsed, 0.3, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log())


@pytest.mark.parametrize("name", MODELS)
def test_distributions_of_models_are_event_distributions(name: str) -> None:
    found = after_events(MODELS[name]())
    assert isinstance(found, EventDistribution) and found.batch_shape == (ROWS, LENGTH)


def test_the_poisson_drafter_has_a_draft_distribution_and_no_more() -> None:
    assert isinstance(poisson(), DraftDistribution)
    assert not isinstance(poisson(), EventDistribution)  # it knows no `at`: it can be no target


def events(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inter-times and marks that have a density under all distributions above."""
    inter_times = 0.8 + torch.arange(ROWS * LENGTH, dtype=torch.float64).view(ROWS, LENGTH) / 10
    marks = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % MARKS
    assert inter_times.shape == shape
    return inter_times, marks


@pytest.mark.parametrize("name", [*MODELS, "poisson"])
def test_selecting_distributions_selects_their_densities(name: str) -> None:
    own: DraftDistribution = poisson() if name == "poisson" else after_events(MODELS[name]())
    tau, marks = events((ROWS, LENGTH))
    whole = own.log_prob(tau, marks)
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([3, 0, 1])
    torch.testing.assert_close(own[:, 1:].log_prob(tau[:, 1:], marks[:, 1:]), whole[:, 1:])
    torch.testing.assert_close(
        own[rows, columns].log_prob(tau[rows, columns], marks[rows, columns]), whole[rows, columns]
    )
    several = own.unsqueeze(1).log_prob(tau.unsqueeze(1), marks.unsqueeze(1))
    torch.testing.assert_close(several.squeeze(1), whole)


@pytest.mark.parametrize("name", MODELS)
def test_positions_and_joins_of_event_distributions(name: str) -> None:
    own = after_events(MODELS[name]())
    tau, marks = events((ROWS, LENGTH))
    whole, positions = own.log_prob(tau, marks), torch.tensor([[3, 0], [1, 2]])
    picked = own.at(positions).log_prob(tau.gather(1, positions), marks.gather(1, positions))
    torch.testing.assert_close(picked, whole.gather(1, positions))
    joined = type(own).cat([own[:, 2:], own[:, :2]], 1)
    torch.testing.assert_close(joined.log_prob(tau.roll(2, 1), marks.roll(2, 1)), whole.roll(2, 1))


@pytest.mark.parametrize("name", MODELS)
def test_a_truncated_event_distribution_is_the_conditional_one(name: str) -> None:
    own, elapsed = after_events(MODELS[name]()), torch.full((ROWS, LENGTH), 0.4, dtype=torch.float64)
    tau, marks = events((ROWS, LENGTH))
    expected = own.log_prob(tau, marks) - own.log_survival(elapsed)
    torch.testing.assert_close(own.truncated(elapsed).log_prob(tau, marks), expected)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_distribution_draws_is_at_no_distance_from_its_noise(name: str) -> None:
    own = after_events(MODELS[name]())
    uniforms = torch.rand(ROWS, LENGTH, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    drawn, _ = own.sample(uniforms)
    assert (own.noise_distance(drawn, uniforms) == 0).all()
    assert (own.noise_distance(1.5 * drawn, uniforms) > 0).all()
