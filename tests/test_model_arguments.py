"""What a model refuses, in which words, and how events become tokens."""

from __future__ import annotations

import pytest
import torch
from small_models import random_batch, random_sequence, small_model

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.protocol import EventTokens
from tppsd.models.transformer_tpp import TransformerTPP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feedforward_dim": 0}, r"feedforward_dim = 0 must be at least 2, or None for 4 \* embed_dim"),
        ({"feedforward_dim": 1}, "feedforward_dim = 1 must be at least 2"),
        ({"num_marks": 0}, r"num_marks = 0 must be at least 1 \(1 = unmarked\)"),
        ({"encoder": "rnn"}, r"encoder = 'rnn' is unknown; choose one of \['attnhp', 'rotary', 'sahp', 'thp'\]"),
        ({"embed_dim": 30, "num_heads": 4}, r"embed_dim = 30 must be positive, even and a multiple of num_heads = 4"),
        ({"embed_dim": 9, "num_heads": 3}, r"embed_dim = 9 must be positive, even and a multiple of num_heads = 3"),
        ({"embed_dim": 0}, r"embed_dim = 0 must be positive, even and a multiple of num_heads = 4"),
        ({"embed_dim": 10**9}, r"embed_dim = 1000000000 must be at most 65,536"),
        ({"num_layers": 10**9}, r"num_layers = 1000000000 must be at most 1,000"),
        ({"dropout": 1.5}, r"dropout = 1.5 must be at least 0 and less than 1"),
        ({"dropout": -0.1}, r"dropout = -0.1 must be at least 0 and less than 1"),
        ({"num_heads": 0}, r"num_heads = 0, num_layers = 2 and num_components = 64 must be at least 1"),
        ({"num_layers": 0}, r"num_heads = 4, num_layers = 0 and num_components = 64 must be at least 1"),
        ({"num_components": 0}, r"num_heads = 4, num_layers = 2 and num_components = 0 must be at least 1"),
    ],
)
def test_impossible_sizes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerTPP(**{"num_marks": 3} | arguments)


def test_statistics_of_other_marks_are_refused() -> None:
    with pytest.raises(ValueError, match="the data have num_marks = 4 but the model was built for 3"):
        small_model().set_statistics(DataStatistics(4))


@pytest.mark.parametrize("num_marks", [1, 2])
def test_an_event_of_a_mark_that_the_model_does_not_have_is_refused(num_marks: int) -> None:
    model = small_model(num_marks=num_marks)
    for sequence in (EventSequence.of([1.0], [3], t_start=0.0), EventSequence.of([1.0, 2.0], [3, 0])):
        with pytest.raises(
            ValueError, match=rf"the batch has an event of mark 3 but the model's marks are 0\.\.{num_marks - 1}"
        ):
            model.log_likelihood(EventBatch.from_sequences([sequence]))


def test_tokens_are_the_start_and_then_the_events() -> None:
    rows = [EventSequence.of([5.0, 7.5], [2, 0], t_start=4.0), EventSequence.of([5.0, 7.5], [2, 0])]
    tokens = EventTokens.from_batch(EventBatch.from_sequences(rows), num_marks=3)
    assert tokens.ids[0].tolist() == [0, 3, 1]
    assert tokens.times[0].tolist() == [0.0, 1.0, 3.5] and tokens.inter_times[0].tolist() == [0.0, 1.0, 2.5]
    assert tokens.ids[1, :2].tolist() == [6, 1], "a given first event of mark 2 is the start token K + 1 + 2"
    assert tokens.times[1, :2].tolist() == [0.0, 2.5] and tokens.inter_times[1, :2].tolist() == [0.0, 2.5]


def test_the_distributions_follow_the_start_token_and_each_event() -> None:
    distribution = small_model()(random_batch([4, 2]))
    assert distribution.batch_shape == (2, 5)
    assert small_model()(EventBatch.from_sequences([random_sequence(1, given=True)])).batch_shape == (1, 1)


def test_the_configuration_rebuilds_the_model() -> None:
    model = small_model("sahp", mark_decoder="independent")
    twin = TransformerTPP(**model.config).double()
    twin.load_state_dict(model.state_dict())
    batch = random_batch([4, 2])
    assert torch.equal(twin.eval().log_likelihood(batch), model.log_likelihood(batch))
