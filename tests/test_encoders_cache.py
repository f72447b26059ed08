"""The cached pass equals the full pass, for every encoder, whatever was appended, rolled back, grown, copied or
dropped."""

from __future__ import annotations

import pytest
import torch
from small_models import DTYPES, ENCODERS, TOLERANCE, cut, random_batch, small_model, tokens_of

from tppsd.models.attention import CausalPass
from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.models.transformer_tpp import TransformerTPP

LENGTHS = [9, 9, 9]


CASES = [(e, d, None) for e in ENCODERS for d in DTYPES] + [(e, torch.float64, 3) for e in ENCODERS]


@pytest.fixture(params=CASES, ids=lambda p: f"{p[0]}-{str(p[1])[6:]}" + (f"-context of {p[2]}" if p[2] else ""))
def model(request: pytest.FixtureRequest) -> TransformerTPP:
    encoder, dtype, max_context = request.param
    return small_model(encoder, dtype=dtype, num_layers=3, max_context=max_context)


@pytest.fixture
def tokens() -> EventTokens:
    """(3, 10): three rows of a start token and nine events."""
    return tokens_of(random_batch(LENGTHS))


def full_pass(model: TransformerTPP, tokens: EventTokens) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(tokens, CausalPass(model.max_context))


@torch.no_grad()
def extend_to(model: TransformerTPP, cache: RowCache, tokens: EventTokens, num_new: int) -> torch.Tensor:
    """Append to each row its next `num_new` tokens."""
    positions = getattr(cache, "num_tokens", cache.lengths).unsqueeze(1) + torch.arange(num_new)
    return model.extend(EventTokens(*(field.gather(1, positions) for field in tokens)), cache)


def assert_close(model: TransformerTPP, contexts: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(contexts, expected, rtol=0, atol=TOLERANCE[expected.dtype])


def windows(contexts: torch.Tensor, starts: list[int], num_new: int) -> torch.Tensor:
    """Contexts of `num_new` positions from each row's own start."""
    return torch.stack([row[start : start + num_new] for row, start in zip(contexts, starts, strict=True)])


def test_a_transformer_tpp_is_an_event_model(model: TransformerTPP) -> None:
    assert isinstance(model, EventModel)


@pytest.mark.parametrize("steps", [[1] * 10, [10], [3, 1, 4, 2]])
def test_appending_in_any_steps_gives_the_contexts_of_the_full_pass(
    model: TransformerTPP, tokens: EventTokens, steps: list[int]
) -> None:
    cache = model.new_cache(3, 10)
    contexts = torch.cat([extend_to(model, cache, tokens, q) for q in steps], 1)
    assert_close(model, contexts, full_pass(model, tokens))
    assert cache.lengths.tolist() == [10, 10, 10]
    assert cache.min_length == cache.max_length == 10, "equal rows take the path without a scatter"


@pytest.mark.parametrize("num_new", [1, 3])
def test_rows_of_different_lengths_are_extended_at_their_own_ends(
    model: TransformerTPP, tokens: EventTokens, num_new: int
) -> None:
    cache, expected = model.new_cache(3, 10), full_pass(model, tokens)
    extend_to(model, cache, tokens, 6)
    cache.lengths = torch.tensor([6, 2, 4])
    assert_close(model, extend_to(model, cache, tokens, num_new), windows(expected, [6, 2, 4], num_new))
    assert cache.lengths.tolist() == [6 + num_new, 2 + num_new, 4 + num_new]
    assert_close(model, extend_to(model, cache, tokens, 1), windows(expected, cache.lengths.sub(1).tolist(), 1))


def test_rejected_events_leave_no_trace(model: TransformerTPP, tokens: EventTokens) -> None:
    """Drafted events other than the true ones are appended and rolled back, by another number in each row."""
    cache, expected = model.new_cache(3, 4), full_pass(model, tokens)
    drafted = EventTokens(tokens.ids.flip(0), 7 * tokens.times, 7 * tokens.inter_times)
    committed = torch.tensor([1, 1, 1])
    extend_to(model, cache, tokens, 1)
    for accepted in ([0, 2, 1], [3, 0, 1], [1, 1, 0]):
        extend_to(model, cache, drafted, 4)
        cache.lengths = committed
        num_new = max(accepted)
        contexts = extend_to(model, cache, tokens, num_new)
        assert_close(model, contexts, windows(expected, committed.tolist(), num_new))
        committed = committed + torch.tensor(accepted)
        cache.lengths = committed


def test_growing_keeps_what_was_encoded(model: TransformerTPP, tokens: EventTokens) -> None:
    cache, expected = model.new_cache(3, 1), full_pass(model, tokens)
    extend_to(model, cache, tokens, 4)
    cache.lengths = torch.tensor([4, 1, 3])
    cache.grow(50)
    assert cache.capacity >= 50
    assert_close(model, extend_to(model, cache, tokens, 6), windows(expected, [4, 1, 3], 6))


def test_capacity_grows_by_doubling(model: TransformerTPP) -> None:
    cache = model.new_cache(2, 8)
    cache.grow(7)
    assert cache.capacity == 8
    cache.grow(9)
    assert cache.capacity == 16
    cache.grow(100)
    assert cache.capacity == 100


def test_kept_rows_continue_undisturbed(model: TransformerTPP, tokens: EventTokens) -> None:
    cache, expected = model.new_cache(3, 10), full_pass(model, tokens)
    extend_to(model, cache, tokens, 6)
    cache.lengths = torch.tensor([6, 2, 4])
    cache.keep_rows(torch.tensor([2, 0]))
    assert cache.lengths.tolist() == [4, 6]
    kept = EventTokens(*(field[[2, 0]] for field in tokens))
    assert_close(model, extend_to(model, cache, kept, 3), windows(expected[[2, 0]], [4, 6], 3))
    cache.keep_rows(torch.tensor([], dtype=torch.int64))
    assert cache.lengths.tolist() == []


def test_a_given_first_event_and_late_times_pass_through_the_cache(model: TransformerTPP) -> None:
    """Start tokens with a mark, and times of 1e6 mean inter-times, whose sinusoids need float64 phases."""
    tokens = tokens_of(random_batch([5, 5]))
    tokens.ids[:, 0] = torch.tensor([4, 6])
    late = EventTokens(tokens.ids, tokens.times + 1e6 * (tokens.ids < 4), tokens.inter_times)
    cache = model.new_cache(2, 6)
    contexts = torch.cat([extend_to(model, cache, late, q) for q in (1, 2, 1, 2)], 1)
    assert_close(model, contexts, full_pass(model, late))


def test_cached_distributions_are_the_distributions_of_forward(model: TransformerTPP) -> None:
    batch = random_batch(LENGTHS)
    cache = model.new_cache(3, 10)
    tokens = tokens_of(batch)
    with torch.no_grad():
        context = torch.cat([model.extend(cut(tokens, i, i + 1), cache) for i in range(10)], 1)
        cached, whole = model.distribution(context), model(batch).double()
    inter_times, marks = torch.ones(3, 10, dtype=torch.float64), torch.zeros(3, 10, dtype=torch.int64)
    atol = 10 * TOLERANCE[context.dtype]  # the head amplifies the contexts' rounding
    torch.testing.assert_close(
        cached.log_prob(inter_times, marks), whole.log_prob(inter_times, marks), rtol=0, atol=atol
    )
    torch.testing.assert_close(cached.log_survival(inter_times), whole.log_survival(inter_times), rtol=0, atol=atol)


# --- bounded context -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_bounded_context_is_that_of_each_layer(encoder: str) -> None:
    """With contexts of 3 tokens and 2 layers, the last context depends on the newest 5 tokens and on no other."""
    model = small_model(encoder, max_context=3)
    tokens = tokens_of(random_batch([9]))
    context = full_pass(model, tokens)[0, -1]
    for changed in range(10):
        ids = tokens.ids.clone()
        ids[0, changed] = 1 + ids[0, changed] % 3
        is_same = torch.allclose(full_pass(model, tokens._replace(ids=ids))[0, -1], context, rtol=0, atol=1e-12)
        assert is_same == (changed < 5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dropping_what_no_token_looks_at_changes_nothing(encoder: str) -> None:
    """Rows that advance and roll back at their own pace, copied and kept, in a cache of bounded size."""
    model = small_model(encoder, max_context=4, num_layers=3)
    tokens = tokens_of(random_batch([80, 80, 80]))
    expected, cache, generator = full_pass(model, tokens), model.new_cache(3, 6), torch.Generator().manual_seed(0)
    at = torch.zeros(3, dtype=torch.int64)
    while int(at.max()) < 70:
        where = at.unsqueeze(1) + torch.arange(3)
        contexts = model.extend(EventTokens(*(field.gather(1, where) for field in tokens)), cache)
        assert_close(model, contexts.detach(), windows(expected, at.tolist(), 3))
        num_rejected = torch.randint(0, 3, (3,), generator=generator)
        cache.roll_back(num_rejected)
        at = at + 3 - num_rejected
        assert torch.equal(cache.num_tokens, at)
        if int(at.min()) > 30 and len(torch.unique(at)) > 1:
            order = torch.tensor([2, 0, 1])
            cache.keep_rows(order)
            at, tokens, expected = at[order], EventTokens(*(field[order] for field in tokens)), expected[order]
    assert cache.capacity <= 16 and int(cache.dropped.min()) > 20
