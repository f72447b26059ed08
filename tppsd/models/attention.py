"""Causal attention in two modes with equal results: a full pass (training) and a cached pass (sampling)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tppsd.models.cache import RowCache

# (queries, keys, values (batch, heads, length, head_dim), additive mask or None = causal) -> (batch, heads, length, head_dim)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def softmax_kernel(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V (Vaswani et al., 2017)."""
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)


def one_plus_sum_kernel(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """sum_j f_j v_j / (1 + sum_j f_j), f_j = exp(q . k_j / sqrt(d)) (AttNHP, Mei et al. 2022, eq. 5).

    The 1 is exp(0): softmax attention with one more key, whose key and value are zero.
    """
    keys, values = F.pad(keys, (0, 0, 1, 0)), F.pad(values, (0, 0, 1, 0))
    if causal:
        length = queries.shape[-2]
        mask = torch.ones(length, length + 1, dtype=torch.bool, device=queries.device).tril(1)
    elif mask is not None:
        mask = F.pad(mask, (1, 0))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


class AttentionPass(Protocol):
    """What an encoder needs to attend: positions of its tokens, and attention over them and their past."""

    @property
    def first_positions(self) -> Tensor | None:
        """int64 (batch,): position of each row's first token; None = 0."""

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor, num_heads: int, kernel: Kernel) -> Tensor:
        """Tokens' queries (batch, q, dim) and fused keys and values (batch, q, 2 dim) -> (batch, q, dim)."""


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, length, heads * head_dim) -> (batch, heads, length, head_dim); fused keys and values count as 2 * heads."""
    return x.view(x.shape[0], x.shape[1], num_heads, -1).transpose(1, 2)


class CausalPass:
    """Every token at once. Padding is on the right, so a causal mask is all that is needed."""

    first_positions = None

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor, num_heads: int, kernel: Kernel) -> Tensor:
        k, v = _heads(keys_values, 2 * num_heads).chunk(2, 1)
        q = _heads(queries, num_heads)
        return kernel(q, k, v, None, q.shape[2] > 1).transpose(1, 2).flatten(2)


class CachedPass:
    """The newest q tokens of each row, against the row's cache. The mask is built once, not per layer."""

    def __init__(self, cache: RowCache, num_new: int, dtype: torch.dtype) -> None:
        self.cache = cache
        self.first_positions = cache.lengths
        cache.begin(num_new)
        self.mask = None
        if num_new > 1 or cache.min_length != cache.max_length:
            used = torch.arange(cache.max_length + num_new, device=cache.lengths.device)
            starts = cache.lengths if cache.min_length != cache.max_length else cache.lengths[:1]
            newest = starts.view(-1, 1, 1) + torch.arange(num_new, device=used.device).view(-1, 1)
            mask = torch.zeros(newest.shape[0], num_new, len(used), dtype=dtype, device=used.device)
            self.mask = mask.masked_fill_(used > newest, -torch.inf).unsqueeze(1)  # (batch or 1, 1, q, used)

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor, num_heads: int, kernel: Kernel) -> Tensor:
        k, v = _heads(self.cache.write(layer, keys_values), 2 * num_heads).chunk(2, 1)
        return kernel(_heads(queries, num_heads), k, v, self.mask, False).transpose(1, 2).flatten(2)
