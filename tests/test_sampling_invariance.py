"""A sequence depends on its seed, index and options only: not on the batch, nor on the other requests of a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import ENCODERS
from stubs import StubTPP, lively_transformer

from tppsd.data.sequences import EventSequence
from tppsd.sampling.options import RULES
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

METHODS: dict[str, dict[str, Any]] = {
    "autoregressive": {"method": "autoregressive"},
    "joint": {"rule": "joint", "draft_length": 4},
    "factorised": {"rule": "factorised", "draft_length": 4},
    "block": {"rule": "block", "draft_length": 4},
    "self": {"method": "speculative", "draft_length": 4},
}
# different lengths, silences and starts: rows of one batch have little in common
HISTORIES = [
    EventSequence.of(
        [0.5 * i for i in range(1, n + 1)], [i % 3 for i in range(n)], t_start=0.0, t_end=0.5 * n + silence
    )
    for n, silence in ((0, 0.0), (1, 0.7), (2, 0.0), (30, 0.0), (0, 2.0), (11, 5.0))
] + [EventSequence.of([4.0, 4.5], [2, 1]), EventSequence.of([7.0], [0], t_end=8.0)]


def draw(
    target: Any, draft: Any, method: str, batch_size: int, num_sequences: int = 2, **arguments: Any
) -> SampledSequences:
    """Paths of all histories until their number of events or the end of their window, which differ among the rows."""
    if method not in RULES:
        draft = None
    ends = {"num_events": [5 + i % 20 for i in range(len(HISTORIES) * num_sequences)], "horizon": 12.0}
    settings = (
        {"history": HISTORIES, "num_sequences": num_sequences, "batch_size": batch_size, "seed": 3} | ends | arguments
    )
    return sample(target, draft, **METHODS[method], **settings)


def assert_same(first: SampledSequences, second: SampledSequences, first_from: int = 0) -> None:
    """Sequences first_from, first_from + 1, ... of `first` are those of `second`: equal marks, and times to
    rounding."""
    for i, b in enumerate(second):
        a = first[first_from + i]
        assert torch.equal(a.marks, b.marks)
        torch.testing.assert_close(a.inter_times, b.inter_times, rtol=1e-9, atol=0)
        torch.testing.assert_close(a.event_times, b.event_times, rtol=1e-9, atol=0)
        assert (a.t_start, a.t_end) == (b.t_start, b.t_end)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("encoder", ["stub", *ENCODERS])
def test_batch_size_changes_nothing(encoder: str, method: str) -> None:
    """Float64; with 16 requests in batches of 1, 7 and 64, so that rows leave and are refilled in different company."""
    if encoder == "stub":
        target: Any = StubTPP.swinging(3, seed=0)
        draft: Any = target.moved(1, times=0.5, marks=0.5)
    else:
        target, draft = lively_transformer(3, encoder, seed=0), lively_transformer(3, "thp", seed=1, num_layers=1)
    whole = draw(target, draft, method, 64)
    assert len(whole.flat_event_times) > 60
    for batch_size in (1, 7):
        assert_same(draw(target, draft, method, batch_size), whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_subset_of_the_histories_in_any_order_gives_the_same_paths(method: str) -> None:
    """Paths that share a history share its encoding; alone, in another call, they are the same."""
    target = lively_transformer(3, "thp", seed=0)
    draft = lively_transformer(3, "sahp", seed=1, num_layers=1)
    ends = {"num_events": 9, "horizon": 12.0}
    whole = draw(target, draft, method, 64, **ends)
    for h in (5, 0, 3, 7, 1):
        alone = draw(target, draft, method, 64, history=HISTORIES[h], first_index=h, **ends)
        assert alone.index.tolist() == [2 * h, 2 * h + 1]
        assert alone.history_index.tolist() == [h] * 2 and alone.path_index.tolist() == [0, 1]
        assert_same(whole, alone, first_from=2 * h)
        first_path = draw(target, draft, method, 64, history=HISTORIES[h], first_index=h, num_sequences=1, **ends)
        assert_same(whole, first_path, first_from=2 * h)


@pytest.mark.parametrize("method", METHODS)
def test_sequences_from_scratch_depend_on_their_index(method: str) -> None:
    target = lively_transformer(3, "attnhp", seed=0)
    draft = target if method in RULES else None
    arguments = {"t_end": 8.0, "seed": 5, "batch_size": 4} | METHODS[method]
    whole = sample(target, draft, num_sequences=10, **arguments)
    for first, num in ((7, 3), (0, 2), (4, 1)):
        part = sample(target, draft, num_sequences=num, first_index=first, **arguments)
        assert part.index.tolist() == list(range(first, first + num))
        assert_same(whole, part, first_from=first)
    assert not torch.equal(whole[0].event_times[:3], whole[1].event_times[:3])


def test_equal_calls_are_equal_and_other_seeds_are_not() -> None:
    target = lively_transformer(3, "thp", seed=0)
    draft = target.float()
    size = {"method": "speculative", "num_sequences": 4, "num_events": 9}
    first, again, other = (sample(target, draft, seed=seed, **size) for seed in (8, 8, 9))
    assert torch.equal(first.flat_inter_times, again.flat_inter_times) and torch.equal(
        first.flat_marks, again.flat_marks
    )
    assert len(torch.cat([first.flat_inter_times, other.flat_inter_times]).unique()) == 2 * len(first.flat_inter_times)


def test_the_options_of_a_result_replay_it() -> None:
    target = StubTPP.random(3, seed=0)
    draft = target.moved(1, times=0.5)
    first = sample(target, draft, num_sequences=4, num_events=9, rule="factorised")
    assert first.options.to_dict() == {
        "method": "speculative",
        "draft_length": 8,
        "rule": "factorised",
        "drafter": "model",
    }
    replayed = sample(target, draft, num_sequences=4, num_events=9, options=first.options)
    assert torch.equal(replayed.flat_inter_times, first.flat_inter_times)


@pytest.mark.parametrize("method", ["autoregressive", "joint"])
def test_float32_sequences_hardly_ever_depend_on_the_batch(method: str) -> None:
    """A matrix product of another shape rounds differently. The error in the inter-times grows along a sequence (from
    1e-7 to about 1e-4 here), and near a boundary between two marks or components it gives another draw: at most one in
    200 sequences."""
    target = lively_transformer(3, "thp", seed=0).float()
    draft = lively_transformer(3, "sahp", seed=1, num_layers=1).float()
    one, many = (draw(target, draft, method, batch_size, num_sequences=25) for batch_size in (16, 200))
    other_draws = 0
    for a, b in zip(one, many, strict=True):
        same = torch.equal(a.marks, b.marks) and torch.allclose(a.inter_times, b.inter_times, rtol=1e-2, atol=0)
        other_draws += not same
    assert other_draws <= 1
