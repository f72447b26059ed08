"""What a distribution may depend on: all of its past, nothing of its future, nothing of the padding."""

from __future__ import annotations

import pytest
import torch
from small_models import (
    DTYPES,
    ENCODERS,
    TOLERANCE,
    assert_same_distribution,
    random_batch,
    random_sequence,
    small_model,
)

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.transformer_tpp import TransformerTPP

TAU = torch.ones((), dtype=torch.float64)


@pytest.fixture(params=ENCODERS)
def model(request: pytest.FixtureRequest) -> TransformerTPP:
    return small_model(request.param)


def densities(model: TransformerTPP, sequence: EventSequence) -> torch.Tensor:
    """(length + 1, num_marks): log density of the next event after one unit of time, after each context."""
    distribution = model(EventBatch.from_sequences([sequence]))[0]
    tau = TAU.expand(distribution.batch_shape)
    return (distribution.inter_time.log_prob(tau).unsqueeze(-1) + distribution.mark_log_probs(tau)).detach()


def moved(sequence: EventSequence, i: int, by: float) -> EventSequence:
    times = sequence.event_times.clone()
    times[i] += by
    return EventSequence(times, sequence.marks, sequence.t_start, sequence.t_end, sequence.index)


def remarked(sequence: EventSequence, i: int) -> EventSequence:
    marks = sequence.marks.clone()
    marks[i] = (marks[i] + 1) % 3
    return EventSequence(sequence.event_times, marks, sequence.t_start, sequence.t_end, sequence.index)


def test_moving_the_newest_event_changes_the_next_distribution(model: TransformerTPP) -> None:
    sequence = random_sequence(6)
    change = densities(model, moved(sequence, 5, 0.3)) - densities(model, sequence)
    assert change[6].abs().max() > 1e-3


def test_the_newest_mark_changes_the_next_distribution(model: TransformerTPP) -> None:
    sequence = random_sequence(6)
    change = densities(model, remarked(sequence, 5)) - densities(model, sequence)
    assert change[6].abs().max() > 1e-3


def test_every_past_event_matters(model: TransformerTPP) -> None:
    sequence = random_sequence(6)
    for i in range(6):
        change = densities(model, remarked(sequence, i)) - densities(model, sequence)
        assert (change[i + 1 :].abs().amax(-1) > 1e-6).all()


def test_moving_a_future_event_changes_nothing_before_it(model: TransformerTPP) -> None:
    sequence = random_sequence(6)
    before = densities(model, sequence)
    for i in range(6):
        gap = 0.5 * float(sequence.inter_times[i + 1] if i < 5 else 0.2)
        for changed in (moved(sequence, i, gap), remarked(sequence, i)):
            assert torch.equal(densities(model, changed)[: i + 1], before[: i + 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_changes_nothing(encoder: str, dtype: torch.dtype) -> None:
    """A row's distributions and likelihood are those it has alone, whatever the length of its neighbours."""
    model, lengths = small_model(encoder, dtype=dtype), [3, 12, 0, 7]
    batch = random_batch(lengths)
    distribution, likelihood = model(batch), model.log_likelihood(batch)
    for i, length in enumerate(lengths):
        alone = EventBatch.from_sequences([batch.sequence(i)])
        assert_same_distribution(distribution[i, : length + 1], model(alone)[0], 10 * TOLERANCE[dtype])
        torch.testing.assert_close(
            likelihood[i], model.log_likelihood(alone)[0], rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6
        )


def test_padded_values_are_never_read(model: TransformerTPP) -> None:
    batch = random_batch([3, 8])
    padding = ~batch.mask
    junk = batch._replace(
        event_times=batch.event_times.masked_fill(padding, 1e9),
        inter_times=batch.inter_times.masked_fill(padding, 1e-9),
        marks=batch.marks.masked_fill(padding, 2),
    )
    for convention in ("window", "benchmark"):
        assert torch.equal(model.log_likelihood(junk, convention), model.log_likelihood(batch, convention))


def test_a_given_first_events_mark_enters_through_the_start_token(model: TransformerTPP) -> None:
    given = random_sequence(4, given=True)
    batch = EventBatch.from_sequences([given])
    assert batch.mask.shape == (1, 3) and batch.start_marks.tolist() == [int(given.marks[0])]
    assert (densities(model, remarked(given, 0)) - densities(model, given)).abs().amax(-1).min() > 1e-6
    unstarted = EventSequence.of(given.event_times[1:], given.marks[1:], float(given.event_times[0]), given.t_end)
    assert (densities(model, unstarted) - densities(model, given)).abs().amax(-1).min() > 1e-6


def test_only_the_time_since_the_window_start_counts(model: TransformerTPP) -> None:
    """Times are differenced in float64: at 2^30, where float32 is spaced by 128, nothing is lost."""
    sequence = EventSequence.of([1.0, 1.5, 4.25], [0, 2, 1], t_start=0.5, t_end=5.0)
    shift = 2.0**30
    shifted = EventSequence.of(sequence.event_times + shift, sequence.marks, t_start=0.5 + shift, t_end=5.0 + shift)
    assert torch.equal(densities(model, shifted), densities(model, sequence))


def test_a_tie_is_encoded_at_the_declared_floor(model: TransformerTPP) -> None:
    """An inter-time of 0 reads like one of half the floor, not like a mean inter-time."""
    model.set_statistics(DataStatistics(3, min_inter_time=0.01))
    tie, nearly = (EventSequence.of([1.0, 1.0 + gap, 2.0], [0, 1, 2], t_start=0.0) for gap in (0.0, 0.005))
    later = EventSequence.of([1.0, 2.0, 3.0], [0, 1, 2], t_start=0.0)
    difference = densities(model, tie)[2] - densities(model, nearly)[2]
    assert difference.abs().max() < 0.1 * (densities(model, tie)[2] - densities(model, later)[2]).abs().max()


def test_a_tie_without_a_floor_leaves_the_distributions_finite(model: TransformerTPP) -> None:
    assert torch.isfinite(densities(model, EventSequence.of([1.0, 1.0, 2.0], [0, 1, 2], t_start=0.0))).all()


def test_dropout_is_for_training_only() -> None:
    for encoder in ENCODERS:
        model, sequence = small_model(encoder, dropout=0.5), random_sequence(6)
        assert torch.equal(densities(model, sequence), densities(model, sequence))
        model.train()
        assert not torch.equal(densities(model, sequence), densities(model, sequence))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_casting_the_weights_there_and_back_changes_no_distribution_of_late_events(encoder: str) -> None:
    """The sinusoids' frequencies stay float64: rounded to float32, they would turn a phase of 1e7 by half a radian."""
    model, sequence = (
        TransformerTPP(3, encoder, embed_dim=16).eval(),
        EventSequence.of([1e7, 2e7 + 0.3], [0, 1], t_start=0.0),
    )
    expected = densities(model, sequence)
    assert torch.equal(densities(model.float(), sequence), expected)
    assert torch.equal(densities(model.double().float(), sequence), expected)


def test_a_start_token_has_no_inter_time(model: TransformerTPP) -> None:
    """In units of the training split, the first distribution is the same whatever that split's inter-times were."""
    first = model(random_batch([2]))[:, 0]
    model.set_statistics(DataStatistics(3, log_mean=5.0, log_std=0.1, time_scale=9.0))
    other = model(random_batch([2]))[:, 0]
    for name in ("log_weights", "means", "log_stds"):
        assert torch.equal(getattr(other.inter_time, name), getattr(first.inter_time, name))
