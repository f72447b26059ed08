"""The two attentions against their definitions, written out for one query, head and past event at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tppsd.models.attention import Attention, CachedPass, CausalPass
from tppsd.models.cache import KVCache

ROWS, LENGTH, HEADS, HEAD_DIM = 2, 5, 3, 4
DIM = HEADS * HEAD_DIM


def softmax_weights(scores: torch.Tensor) -> torch.Tensor:
    return scores.exp() / scores.exp().sum()


def one_plus_sum_weights(scores: torch.Tensor) -> torch.Tensor:
    """AttNHP: un-normalised, 1 + the sum in the denominator, so that little attention gives little."""
    return scores.exp() / (1 + scores.exp().sum())


def by_definition(queries: torch.Tensor, keys_values: torch.Tensor, weights_of: Callable) -> torch.Tensor:
    """(ROWS, LENGTH, DIM): each event attends to itself and to those before it."""
    attended = torch.zeros_like(queries)
    for row in range(ROWS):
        for i in range(LENGTH):
            for head in range(HEADS):
                own = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                keys = keys_values[row, : i + 1, :DIM][:, own]
                values = keys_values[row, : i + 1, DIM:][:, own]
                attended[row, i, own] = weights_of(keys @ queries[row, i, own] / math.sqrt(HEAD_DIM)) @ values
    return attended


@pytest.fixture
def queries() -> torch.Tensor:
    return torch.randn(ROWS, LENGTH, DIM, dtype=torch.float64)


@pytest.fixture
def keys_values() -> torch.Tensor:
    return torch.randn(ROWS, LENGTH, 2 * DIM, dtype=torch.float64)


KERNELS = pytest.mark.parametrize(
    ("kind", "weights_of"), [(Attention.SOFTMAX, softmax_weights), (Attention.ONE_PLUS_SUM, one_plus_sum_weights)]
)


@KERNELS
def test_the_full_pass_is_the_definition(
    queries: torch.Tensor, keys_values: torch.Tensor, kind: Attention, weights_of: Callable
) -> None:
    attended = CausalPass().attend(0, torch.cat([queries, keys_values], -1), HEADS, kind)
    torch.testing.assert_close(attended, by_definition(queries, keys_values, weights_of), rtol=0, atol=1e-12)


@KERNELS
def test_the_cached_pass_is_the_definition(
    queries: torch.Tensor, keys_values: torch.Tensor, kind: Attention, weights_of: Callable
) -> None:
    qkv = torch.cat([queries, keys_values], -1)
    cache, parts = KVCache(1, ROWS, LENGTH, HEADS, HEAD_DIM, like=queries), []
    for new in (slice(0, 1), slice(1, 4), slice(4, 5)):
        step = CachedPass(cache, new.stop - new.start, torch.float64)
        parts.append(step.attend(0, qkv[:, new], HEADS, kind))
        cache.end()
    expected = by_definition(queries, keys_values, weights_of)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-12)


@KERNELS
def test_scores_whose_exponential_overflows_do_no_harm(
    queries: torch.Tensor, keys_values: torch.Tensor, kind: Attention, weights_of: Callable
) -> None:
    """The largest score is taken out: the attended value is that of the best key."""
    attended = CausalPass().attend(0, torch.cat([1e4 * queries, keys_values], -1).float(), HEADS, kind)
    assert torch.isfinite(attended).all()


def test_scores_far_below_zero_leave_an_attnhp_event_without_attention(queries: torch.Tensor) -> None:
    qkv = torch.cat([queries, -100 * queries, torch.ones_like(queries)], -1)
    alone = CausalPass().attend(0, qkv[:, :1], HEADS, Attention.ONE_PLUS_SUM)
    assert alone.abs().max() < 1e-6
