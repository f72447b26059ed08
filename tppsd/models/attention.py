"""Causal attention in two modes with equal results: a full pass (training) and a cached pass (sampling)."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tppsd.models.cache import KVCache
from tppsd.models.shared_histories import SharedAttention
from tppsd.models.tree import depths_on, is_ancestor


class Attention(Enum):
    """Names the two ways in which scores f become weights of values.

    SOFTMAX: softmax(Q K^T / sqrt(d)) V (Vaswani et al., 2017). ONE_PLUS_SUM: sum_j f_j v_j / (1 + sum_j f_j) with f_j =
    exp(q . k_j / sqrt(d)) (AttNHP, Mei et al. 2022, eq. 5). The 1 is exp(0): softmax with one more key whose score and
    value are zero.
    """

    SOFTMAX = 1
    ONE_PLUS_SUM = 2


class AttentionPass(Protocol):
    """Provides what an encoder needs to attend: positions of its tokens, and attention over them and their past."""

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        """Return how many tokens come before each token, int64 (num_tokens,) or (batch, num_tokens)."""

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        """Map fused queries, keys and values of tokens (batch, q, 3 dim) to (batch, q, dim)."""


class CausalPass:
    """Attends from every token at once, without a cache. Padding is on the right: a causal mask is all that is needed.

    Args:
        max_context: how many tokens a token looks at, itself included; None = all before it.
    """

    def __init__(self, max_context: int | None = None) -> None:
        self.max_context = max_context

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        """Return 0, 1, 2, ..., int64 (num_tokens,)."""
        return torch.arange(num_tokens, device=device)

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        """Attend within the sequence: (batch, length, 3 dim) -> (batch, length, dim)."""
        q, k, v = rearrange(
            qkv, "batch length (three heads dim) -> three batch heads length dim", three=3, heads=num_heads
        )
        length, context = q.shape[2], self.max_context
        if context is None or length <= context:
            attended = _attend(q, k, v, kind, None)
        else:  # blocks of queries, each against the keys that it can see: the work grows with length * context
            blocks = [
                (slice(i, i + context), slice(max(0, i - context + 1), i + context)) for i in range(0, length, context)
            ]
            attended = torch.cat(
                [_attend(q[:, :, new], k[:, :, old], v[:, :, old], kind, context) for new, old in blocks], 2
            )
        return rearrange(attended, "batch heads length dim -> batch length (heads dim)")


def _attend(q: Tensor, k: Tensor, v: Tensor, kind: Attention, context: int | None) -> Tensor:
    """Attend from the newest tokens of a stretch to the keys that each may see: (batch, heads, queries, dim).

    Args:
        q: the newest queries, (batch, heads, queries, dim).
        k: keys of the whole stretch, (batch, heads, keys, dim).
        v: values, as `k`.
        kind: how scores become weights.
        context: how many tokens a token looks at, itself included; None = all before it.
    """
    if kind is Attention.SOFTMAX and context is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    num_queries, num_keys = q.shape[2], k.shape[2]
    newest = torch.arange(num_keys - num_queries, num_keys, device=q.device).unsqueeze(1)
    key = torch.arange(num_keys, device=q.device)
    allowed = key <= newest
    if context is not None:
        allowed &= key > newest - context
    if kind is Attention.ONE_PLUS_SUM:
        allowed, k, v = F.pad(allowed, (1, 0), value=True), F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


class CachedPass:
    """Attends from the newest q tokens of each row to the row's cache and to each other.

    The mask is built once, not per layer. With `parents` the tokens are nodes of a tree: each attends to the committed
    tokens, its ancestors and itself.
    """

    def __init__(
        self, cache: KVCache, num_new: int, dtype: torch.dtype, parents: tuple[int, ...] | None = None
    ) -> None:
        self.cache, self.parents = cache, parents
        cache.begin(num_new)
        self.mask, self.beta = cache.tensors[0].new_zeros(()), 0
        if parents is not None or num_new > 1 or cache.min_length != cache.max_length:  # there is something to mask
            self.mask, self.beta = self._mask(num_new, dtype), 1
        self.shared: SharedAttention | None = None
        if cache.shared is not None and bool(cache.shared.lengths.any()):
            own = cache.lengths.unsqueeze(1) + self._depth(num_new, cache.lengths.device)
            self.shared = SharedAttention(cache.shared, own, cache.max_context, dtype)

    def _mask(self, num_new: int, dtype: torch.dtype) -> Tensor:
        """Return (rows * heads or 1, q, used): 0 where a token looks, -inf elsewhere."""
        cache, tree = self.cache, self.cache.parents + (self.parents or ())
        device, is_ragged = cache.lengths.device, cache.min_length != cache.max_length
        used = torch.arange(cache.first_used, cache.max_length + (len(tree) or num_new), device=device)
        # among the tokens not yet committed, (rows or 1, 1, used): negative for those that are
        place = used - (cache.lengths if is_ragged else cache.lengths[:1]).view(-1, 1, 1)
        if self.parents is None:
            order, newest = place, torch.arange(num_new, device=device).unsqueeze(1)
            is_seen = place <= newest
        else:
            depth = depths_on(tree, device)
            order, newest = (
                torch.where(place < 0, place, depth[place.clamp(0, len(tree) - 1)]),
                depth[-num_new:].unsqueeze(1),
            )
            seen = F.pad(is_ancestor(tree, device)[-num_new:], (1, 1))  # committed tokens, nodes, dead entries
            seen[:, :1].fill_(True)
            is_seen = seen[:, (place[:, 0] + 1).clamp(0, len(tree) + 1)].transpose(0, 1)
        if cache.max_context is not None:
            is_seen = is_seen & (order > newest - cache.max_context)
        mask = torch.zeros(is_seen.shape, dtype=dtype, device=device).masked_fill_(~is_seen, -torch.inf)
        return mask.repeat_interleave(cache.num_heads, 0) if is_ragged else mask

    def _depth(self, num_new: int, device: torch.device) -> Tensor:
        """Return how many tokens lie between each new one and the committed ones, int64 (num_new,)."""
        if self.parents is None:
            return torch.arange(num_new, device=device)
        return depths_on(self.cache.parents + self.parents, device)[-num_new:]

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        """Return how many tokens come before each new one, int64 (rows, num_tokens)."""
        return self.cache.num_tokens.unsqueeze(1) + self._depth(num_tokens, device)

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        """Write the tokens' keys and values to the cache and attend: (rows, num_new, 3 dim) -> (rows, num_new, dim)."""
        rows, num_new, width = qkv.shape
        fused = qkv.view(rows, num_new, 3, num_heads, width // (3 * num_heads))
        keys, values = self.cache.write_layer(layer, fused[:, :, 1:])
        queries = fused[:, :, 0]
        q = queries.transpose(1, 2).flatten(0, 1)
        scale = queries.shape[3] ** -0.5
        scores = torch.baddbmm(self.mask, q, keys, beta=self.beta, alpha=scale)  # (rows * heads, q, used)
        if self.shared is None:
            attended = torch.bmm(_softmax(scores, kind), values)
        else:  # the history's keys come before the row's own
            before = self.shared.scores(layer, queries)
            weights = _softmax(torch.cat([before, scores], 2), kind)
            of_history, own = weights.split([before.shape[2], scores.shape[2]], 2)
            attended = torch.bmm(own, values) + self.shared.weighted(layer, of_history, num_heads)
        if num_new > 1:
            attended = attended.view(rows, num_heads, num_new, -1).transpose(1, 2)
        return attended.reshape(rows, num_new, -1)


def _softmax(scores: Tensor, kind: Attention) -> Tensor:
    """Return weights over the last dimension of scores; for ONE_PLUS_SUM one more score of 0 joins each sum."""
    if kind is Attention.ONE_PLUS_SUM:
        return torch.softmax(F.pad(scores, (1, 0)), -1)[..., 1:]
    return torch.softmax(scores, -1)
