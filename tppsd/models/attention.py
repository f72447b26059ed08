"""Causal attention in two modes with equal results: a full pass (training) and a cached pass (sampling)."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tppsd.models.cache import KVCache
from tppsd.models.tree import depths, is_ancestor


class Attention(Enum):
    """SOFTMAX: softmax(Q K^T / sqrt(d)) V (Vaswani et al., 2017). ONE_PLUS_SUM: sum_j f_j v_j / (1 + sum_j f_j) with
    f_j = exp(q . k_j / sqrt(d)) (AttNHP, Mei et al. 2022, eq. 5). The 1 is exp(0): softmax with one more key whose score and
    value are zero."""

    SOFTMAX = 1
    ONE_PLUS_SUM = 2


class AttentionPass(Protocol):
    """What an encoder needs to attend: positions of its tokens, and attention over them and their past."""

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        """int64 (num_tokens,) or (batch, num_tokens): how many tokens come before each."""

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        """Tokens' fused queries, keys and values (batch, q, 3 dim) -> (batch, q, dim)."""


class CausalPass:
    """Every token at once. Padding is on the right, so a causal mask is all that is needed."""

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        return torch.arange(num_tokens, device=device)

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        q, k, v = rearrange(qkv, "batch length (three heads dim) -> three batch heads length dim", three=3, heads=num_heads)
        if kind is Attention.SOFTMAX:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            length = q.shape[2]
            allowed = torch.ones(length, length + 1, dtype=torch.bool, device=q.device).tril(1)
            k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return rearrange(attended, "batch heads length dim -> batch length (heads dim)")


class CachedPass:
    """The newest q tokens of each row, against the row's cache. The mask is built once, not per layer.

    With `parents` the tokens are nodes of a tree: each attends to the committed tokens, its ancestors and itself.
    """

    def __init__(self, cache: KVCache, num_new: int, dtype: torch.dtype, parents: tuple[int, ...] | None = None) -> None:
        self.cache, self.parents = cache, parents
        cache.begin(num_new)
        self.mask, self.beta = cache.tensors[0].new_zeros(()), 0  # nothing to mask
        if parents is not None:
            self.mask, self.beta = self._tree_mask(cache.parents + parents, num_new, dtype), 1
        elif num_new > 1 or cache.min_length != cache.max_length:
            used = torch.arange(cache.max_length + num_new, device=cache.lengths.device)
            is_ragged = cache.min_length != cache.max_length
            starts = cache.lengths.repeat_interleave(cache.num_heads) if is_ragged else cache.lengths[:1]
            newest = starts.view(-1, 1, 1) + torch.arange(num_new, device=used.device).view(-1, 1)
            mask = torch.zeros(newest.shape[0], num_new, len(used), dtype=dtype, device=used.device)
            self.mask, self.beta = mask.masked_fill_(used > newest, -torch.inf), 1  # (rows * heads or 1, q, used)

    def _tree_mask(self, parents: tuple[int, ...], num_new: int, dtype: torch.dtype) -> Tensor:
        """(rows * heads or 1, q, used): 0 where a node may look, -inf elsewhere."""
        cache = self.cache
        device = cache.lengths.device
        allowed = is_ancestor(parents)[-num_new:].to(device)
        table = torch.full((num_new, len(parents) + 2), -torch.inf, dtype=dtype, device=device)  # committed, nodes, dead
        table[:, 0] = 0.0
        table[:, 1:-1].masked_fill_(allowed, 0.0)
        lengths = cache.lengths if cache.min_length != cache.max_length else cache.lengths[:1]
        used = torch.arange(cache.max_length + len(parents), device=device)
        place = (used - lengths.unsqueeze(1) + 1).clamp(0, len(parents) + 1)
        mask = table[:, place].transpose(0, 1)
        return mask if len(lengths) == 1 else mask.repeat_interleave(cache.num_heads, 0)

    def positions(self, num_tokens: int, device: torch.device) -> Tensor:
        if self.parents is None:
            return self.cache.lengths.unsqueeze(1) + torch.arange(num_tokens, device=device)
        new = torch.tensor(depths(self.cache.parents + self.parents)[-num_tokens:], device=device)
        return self.cache.lengths.unsqueeze(1) + new

    def attend(self, layer: int, qkv: Tensor, num_heads: int, kind: Attention) -> Tensor:
        rows, num_new, width = qkv.shape
        head_dim = width // (3 * num_heads)
        queries, *keys_values = qkv.view(rows, num_new, 3, num_heads, head_dim).unbind(2)
        keys, values = self.cache.write_layer(layer, *keys_values)
        q = queries.transpose(1, 2).flatten(0, 1)
        scores = torch.baddbmm(self.mask, q, keys, beta=self.beta, alpha=head_dim**-0.5)  # (rows * heads, q, used)
        has_one = kind is Attention.ONE_PLUS_SUM
        weights = torch.softmax(F.pad(scores, (1, 0)), -1)[..., 1:] if has_one else torch.softmax(scores, -1)
        attended = torch.bmm(weights, values)
        if num_new > 1:
            attended = attended.view(rows, num_heads, num_new, head_dim).transpose(1, 2)
        return attended.reshape(rows, num_new, -1)
