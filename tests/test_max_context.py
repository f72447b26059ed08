"""Targets of bounded context: samples of any length have the distribution of the full pass, in a cache of bounded
size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import ENCODERS
from stubs import lively_transformer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.cache import KVCache
from tppsd.models.transformer_tpp import TransformerTPP
from tppsd.sampling.autoregressive import ModelRunner
from tppsd.sampling.sample import sample

CONTEXT, SMALL_PASS = 6, 24


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[KVCache]:
    """Make the caches of all calls so small that they must drop."""
    monkeypatch.setattr("tppsd.models.cache._LARGEST_PASS", SMALL_PASS)
    monkeypatch.setattr("tppsd.sampling.autoregressive.ModelRunner.PREFILL_CHUNK", SMALL_PASS)
    made: list[KVCache] = []
    right = TransformerTPP.new_cache

    def new_cache(self: TransformerTPP, batch_size: int, capacity: int) -> KVCache:
        made.append(right(self, batch_size, capacity))
        return made[-1]

    monkeypatch.setattr(TransformerTPP, "new_cache", new_cache)
    return made


def history(num_events: int, seed: int) -> EventSequence:
    generator = torch.Generator().manual_seed(seed)
    times = (0.1 + torch.rand(num_events, generator=generator, dtype=torch.float64)).cumsum(0)
    return EventSequence.of(times, torch.randint(3, (num_events,), generator=generator), t_start=0.0)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "options",
    [
        {"method": "autoregressive"},
        {"draft_length": 5},
        {"draft_length": 5, "draft_passes": 2},
        {"draft": "jacobi", "draft_length": 8},
        {"candidates": (2, 2)},
        {"method": "fixed_point", "draft_length": 6},
    ],
    ids=["autoregressive", "draft", "two passes", "jacobi", "tree", "fixed point"],
)
def test_long_samples_after_long_histories_have_the_distribution_of_the_full_pass(
    options: dict[str, Any], encoder: str, caches: list[KVCache]
) -> None:
    """Densities recorded while sampling are those of full passes over history and sample."""
    target = lively_transformer(3, encoder, seed=0, max_context=CONTEXT)
    if options.keys() & {"draft_length", "candidates"} and "draft" not in options and "method" not in options:
        options = options | {"draft": lively_transformer(3, "sahp", seed=1, num_layers=1, max_context=4)}
    histories = [history(100, 0), history(7, 1), history(0, 2)]
    samples = sample(target, history=histories, num_events=60, seed=1, batch_size=2, return_log_probs=True, **options)
    assert samples.flat_log_probs is not None
    for sequence, given, recorded in zip(
        samples.with_history(), samples.num_given, samples.flat_log_probs.split(60), strict=True
    ):
        batch = EventBatch.from_sequences([sequence])
        with torch.no_grad():
            distribution = target(batch).double()[:, given:-1]
            expected = distribution.log_prob(batch.inter_times[:, given:], batch.marks[:, given:])[0]
        torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-7)
    in_flight = max(caches, key=lambda cache: int(cache.num_tokens.max()) if len(cache.lengths) else 0)
    assert in_flight.capacity <= 3 * (2 * CONTEXT + SMALL_PASS)
    assert any(int(cache.dropped.max()) > 0 for cache in caches if len(cache.lengths))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("draft_length", [3, 8, 12])
@pytest.mark.parametrize("draft_passes", [None, 2])
def test_a_draft_that_forgets_drafts_the_same_in_any_batch(
    encoder: str, draft_length: int, draft_passes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts of more events than its context holds, whose passes come one by one and are rolled back together."""
    num_drops, right = 0, KVCache._drop

    def drop(self: KVCache, num_kept: int) -> None:
        nonlocal num_drops
        num_drops += 1
        right(self, num_kept)

    monkeypatch.setattr(KVCache, "_drop", drop)
    monkeypatch.setattr(ModelRunner, "FIRST_CAPACITY", 16)
    target = lively_transformer(3, "thp", seed=0)
    draft = lively_transformer(3, encoder, seed=1, num_layers=1, max_context=4)
    together, alone = (
        sample(
            target, draft, num_sequences=3, num_events=45, seed=5, batch_size=batch_size, draft_length=draft_length,
            draft_passes=draft_passes,
        )
        for batch_size in (3, 1)
    )  # fmt: skip
    assert torch.equal(together.flat_marks, alone.flat_marks)
    torch.testing.assert_close(together.flat_event_times, alone.flat_event_times, rtol=1e-9, atol=0)
    assert num_drops > 0


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that an operator gave."""

    num_elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


def largest_while_encoding(target: TransformerTPP, num_events: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Elements of the largest tensor while a history of so many events is encoded."""
    largest, right = Largest(), ModelRunner._encode

    def encode(self: ModelRunner, wanted: list[int]) -> None:
        with largest:
            right(self, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(ModelRunner, "_encode", encode)
        sample(target, history=history(num_events, 0), num_events=3, method="autoregressive")
    return largest.num_elements


@pytest.mark.parametrize("encoder", ENCODERS)
def test_with_a_bounded_context_a_longer_history_takes_no_larger_tensor(
    encoder: str, caches: list[KVCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = lively_transformer(3, encoder, seed=0, max_context=CONTEXT)

    def taken(num_events: int) -> tuple[int, list[int]]:
        caches.clear()
        largest = largest_while_encoding(target, num_events, monkeypatch)
        return largest, [cache.capacity for cache in caches]

    largest, capacities = taken(200)
    assert taken(600) == (largest, capacities) and max(capacities) == 2 * CONTEXT + SMALL_PASS
    monkeypatch.setattr(KVCache, "_drop", lambda *_: None)
    all_kept = taken(600)
    assert all_kept[0] > largest and max(all_kept[1]) >= 600, "a cache that keeps all must be seen"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_a_bound_no_tensor_grows_with_the_square_of_the_history(
    encoder: str, caches: list[KVCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest are the scores of one chunk against all that came before, and the cache itself."""
    target, num_events = lively_transformer(3, encoder, seed=0), 900
    largest = largest_while_encoding(target, num_events, monkeypatch)
    num_scores = caches[0].num_heads * SMALL_PASS * (num_events + 1)  # AttNHP has one key more
    assert largest <= max(num_scores, *(cache.tensors[0].numel() for cache in caches)) < num_events**2 / 10
    monkeypatch.setattr(ModelRunner, "PREFILL_CHUNK", num_events)
    assert largest_while_encoding(target, num_events, monkeypatch) >= num_events**2, "a single pass must be seen"


def test_too_small_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="max_context = 0 must be at least 1"):
        TransformerTPP(2, max_context=0)
