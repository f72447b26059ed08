"""How to sample where the caller leaves it open: fixed rules without a clock, and said."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
import torch
from small_models import small_model
from stubs import StubTPP, lively_transformer

import tppsd
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling import auto
from tppsd.sampling.auto import choose_default
from tppsd.sampling.method import Models
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.sample import sample

TARGET, DRAFT = lively_transformer(3, "thp", seed=0, num_layers=16), lively_transformer(3, "sahp", seed=1, num_layers=1)
RESOLVED = SamplingOptions("speculative", 8, "joint", "model")


def chosen_length(target: Any, draft: Any, num_rows: int) -> int:
    """0 where the draft is left out."""
    options = choose_default(Models(target, draft), RESOLVED, num_rows).options
    if options.method == "autoregressive":
        return 0
    assert options.method == "speculative" and isinstance(options.draft_length, int)
    return options.draft_length


@pytest.mark.parametrize(
    ("num_layers", "num_rows", "length"),
    [
        (2, 1, 16),
        (2, 2, 0),
        (8, 2, 8),
        (8, 3, 0),
        (16, 1, 16),
        (16, 16, 8),
        (16, 17, 4),
        (16, 256, 4),
        (16, 257, 0),
    ],
)
def test_eager_passes_over_drafts_pay_with_few_rows_or_deep_targets(
    num_layers: int, num_rows: int, length: int
) -> None:
    target = small_model("thp", num_layers=num_layers, embed_dim=4)
    assert chosen_length(target, DRAFT, num_rows) == length


def compilable(embed_dim: int, num_layers: int, encoder: str = "thp") -> TransformerTPP:
    return TransformerTPP(3, encoder, embed_dim, 4, num_layers, 4).eval()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_compiled_drafts_pay_under_large_targets(num_threads: int) -> None:
    """From 400,000 weights on, eight times as many as the draft has; whatever the number of rows."""
    small, large, draft = (tppsd.compile(compilable(*size)) for size in ((64, 2), (128, 3), (32, 1)))
    weights = [auto.num_weights(model) for model in (small, large, draft)]
    assert weights[0] < auto._LARGE <= weights[1] and auto._SMALLER * weights[2] <= weights[1]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for num_rows in (1, 64, 1000):
            assert chosen_length(large, draft, num_rows) == (8 if num_threads > 1 else 4)
            assert chosen_length(small, draft, num_rows) == 0
            assert chosen_length(large, large, num_rows) == 0
        assert chosen_length(large, compilable(32, 1), 1) == 0, "a draft that is not compiled"
    finally:
        torch.set_num_threads(before)


class OwnEncoder(torch.nn.Module):
    """An encoder of one's own: native code does not know it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: Any) -> Any:
        return self.inner(*arguments)


def with_own_encoder(num_layers: int) -> TransformerTPP:
    model = compilable(16, num_layers)
    model.encoder = OwnEncoder(model.encoder)
    return model


@pytest.mark.parametrize(("num_rows", "length"), [(1, 16), (2, 8), (16, 4), (17, 0)])
def test_compiled_drafts_pay_under_passes_of_ones_own(num_rows: int, length: int) -> None:
    target, draft = tppsd.compile(with_own_encoder(2)), tppsd.compile(compilable(16, 1))
    assert chosen_length(target, draft, num_rows) == length


def test_no_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> float:
        raise AssertionError("a clock was read")

    for name in ("perf_counter", "time", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, forbidden)
    assert chosen_length(TARGET, DRAFT, 16) == 8


def test_a_seed_gives_the_same_sequences_and_the_options_replay_them() -> None:
    arguments: dict[str, Any] = {"num_sequences": 4, "num_events": 9, "seed": 3}
    first, again = (sample(TARGET, DRAFT, **arguments) for _ in range(2))
    assert first.options == again.options == SamplingOptions("speculative", 8, "joint", "model")
    replayed = sample(TARGET, DRAFT, options=first.options, **arguments)
    for other in (again, replayed):
        assert torch.equal(first.flat_event_times, other.flat_event_times)
        assert torch.equal(first.stats.accepted_counts, other.stats.accepted_counts)
    assert first.draft_hash == DRAFT.content_hash()


def test_what_was_chosen_is_recorded() -> None:
    used, left_out = (sample(TARGET, DRAFT, num_sequences=n, num_events=2, batch_size=n) for n in (2, 257))
    assert used.stats.choice == "the draft proposes 8 events per round" and used.stats.num_drafted > 0
    assert left_out.stats.choice is not None and left_out.stats.choice.startswith("the draft is not used: ")
    assert left_out.options == SamplingOptions("autoregressive") and left_out.stats.method == "autoregressive"
    assert left_out.draft_hash is None
    assert left_out.stats.to_dict()["choice"] == left_out.stats.choice == left_out.to_columns()["choice"][0]
    assert json.loads(left_out.to_columns()["options"][0]) == {"method": "autoregressive"}
    alone = sample(TARGET, num_sequences=257, num_events=2, batch_size=257)
    assert torch.equal(alone.flat_event_times, left_out.flat_event_times) and alone.stats.choice is None


def test_a_draft_that_is_not_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tppsd"):
        samples = sample(StubTPP.random(3, seed=0), StubTPP.random(3, seed=1), num_sequences=2, num_events=2)
        assert samples.stats.choice in caplog.messages and "is not used" in (samples.stats.choice or "")
        caplog.clear()
        sample(TARGET, DRAFT, num_sequences=2, num_events=2)
        assert not [message for message in caplog.messages if "draft is not used" in message]


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "speculative"},
        {"draft_length": 3},
        {"draft_passes": 2},
        {"rule": "block"},
        {"candidates": (2, 1)},
        {"drafter": "model"},
    ],
    ids=str,
)
def test_whoever_asks_for_drafts_gets_them(asked: dict[str, Any]) -> None:
    target, draft = StubTPP.random(3, seed=0), StubTPP.random(3, seed=1)
    samples = sample(target, draft, num_sequences=3, num_events=4, **asked)
    assert samples.options.method == "speculative" and samples.options.drafter == "model"
    assert samples.stats.num_drafted > 0 and samples.stats.choice is None


def test_the_names_of_drafters_still_ask_for_drafts() -> None:
    samples = sample(StubTPP.random(3, seed=0), "self", num_sequences=3, num_events=4)
    assert samples.options.drafter == "self" and samples.stats.num_drafted > 0


def test_a_draft_that_does_not_fit_is_refused_although_it_would_be_left_out() -> None:
    with pytest.raises(ValueError, match="draft has num_marks = 2, the target 3"):
        sample(StubTPP.random(3, seed=0), StubTPP.random(2, seed=0), num_sequences=9, num_events=2)


def test_how_passes_are_computed_is_kept_when_the_draft_is_left_out() -> None:
    samples = sample(lively_transformer(3, "thp", seed=0), DRAFT, num_sequences=9, num_events=2, compile=False)
    assert samples.options == SamplingOptions("autoregressive", compile=False)
