"""Untrained models and random sequences, small enough to be tested by the hundred."""

from __future__ import annotations

from typing import Any

import torch

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

ENCODERS = ("thp", "sahp", "attnhp", "rotary")
DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # between two ways to compute the same context


def small_model(
    encoder: str = "thp", num_marks: int = 3, dtype: torch.dtype = torch.float64, **settings: Any
) -> TransformerTPP:
    """A two-layer model with statistics other than the neutral ones."""
    size = {"embed_dim": 16, "num_heads": 2, "num_layers": 2, "num_components": 5} | settings
    model = TransformerTPP(num_marks, encoder, **size)
    model.set_statistics(DataStatistics(num_marks, log_mean=-0.4, log_std=1.3, time_scale=0.8))
    return model.eval().to(dtype)


def attentive_model(encoder: str, **settings: Any) -> TransformerTPP:
    """In float32, with weights that attend, rather than those of a start."""
    model = small_model(encoder, dtype=torch.float32, **settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def random_sequence(num_events: int, num_marks: int = 3, seed: int = 0, given: bool = False) -> EventSequence:
    """Log-normal inter-times on a window that starts at 2 and ends half a unit after the last event."""
    generator = torch.Generator().manual_seed(1000 * seed + num_events)
    times = 2 + torch.randn(num_events, generator=generator, dtype=torch.float64).exp().cumsum(0)
    marks = torch.randint(num_marks, (num_events,), generator=generator)
    t_end = float(times[-1] if num_events else 2.0) + 0.5
    return EventSequence.of(times, marks, t_start=None if given else 2.0, t_end=t_end, index=seed)


def random_batch(lengths: list[int], num_marks: int = 3) -> EventBatch:
    return EventBatch.from_sequences([random_sequence(n, num_marks, seed=i) for i, n in enumerate(lengths)])


def tokens_of(batch: EventBatch, num_marks: int = 3) -> EventTokens:
    return EventTokens.from_batch(batch, num_marks)


def cut(tokens: EventTokens, start: int, stop: int) -> EventTokens:
    """Positions start..stop-1 of every row."""
    return EventTokens(*(field[:, start:stop] for field in tokens))


def assert_same_distribution(actual: NextEventDistribution, expected: NextEventDistribution, atol: float = 0.0) -> None:
    """Equal parameters of the inter-time and equal mark probabilities, at any inter-time."""
    for name in ("log_weights", "means", "log_stds"):
        torch.testing.assert_close(
            getattr(actual.inter_time, name), getattr(expected.inter_time, name), rtol=0, atol=atol
        )
    assert (actual.inter_time.shift, actual.inter_time.scale) == (expected.inter_time.shift, expected.inter_time.scale)
    for tau in (1e-3, 1.0, 20.0):
        inter_times = torch.full(actual.batch_shape, tau, dtype=torch.float64)
        torch.testing.assert_close(
            actual.mark_log_probs(inter_times), expected.mark_log_probs(inter_times), rtol=0, atol=atol
        )


def model_of_windows(**statistics: Any) -> TransformerTPP:
    """A model of three marks whose data had these statistics, such as window and lookback; the weights are the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = attentive_model("thp", num_marks=3)
    made.set_statistics(DataStatistics(3, log_std=1.0, **statistics))
    return made
