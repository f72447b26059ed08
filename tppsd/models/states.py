"""Models that sum up the past in a state, whose cache holds the state after every token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tppsd.models.cache import RowCache
from tppsd.models.protocol import EventTokens
from tppsd.models.tree import NO_PARENT, levels


def extend_states(
    cache: RowCache,
    tokens: EventTokens,
    parents: tuple[int, ...] | None,
    start: Tensor,
    advance: Callable[[EventTokens, Tensor], Tensor],
) -> Tensor:
    """Write and return the states (batch, q, size) after q tokens, a chain or nodes of a tree.

    Args:
        start: (batch, size), the state of an empty row.
        advance: (chains of tokens (n, length), states (n, size) before them) -> states (n, length, size) after each
            token.
    """
    rows = torch.arange(len(cache.lengths), device=start.device)
    newest = cache.tensors[0][rows, (cache.lengths - 1).clamp_min(0)] if cache.capacity else start
    before = torch.where((cache.lengths > 0).unsqueeze(1), newest, start)
    states = advance(tokens, before) if parents is None else _tree_states(cache, tokens, parents, before, advance)
    cache.begin(tokens.ids.shape[1])
    cache.write(0, states)
    cache.end(parents)
    return states


def _tree_states(
    cache: RowCache,
    tokens: EventTokens,
    parents: tuple[int, ...],
    before: Tensor,
    advance: Callable[[EventTokens, Tensor], Tensor],
) -> Tensor:
    """Compute states level by level, each node's from the state of its parent, (batch, nodes, size)."""
    (num_rows, size), num_old, tree = before.shape, len(cache.parents), cache.parents + parents
    states = before.new_zeros(num_rows, len(tree), size)
    if num_old:
        old = cache.lengths.unsqueeze(1) + torch.arange(num_old, device=before.device)
        states[:, :num_old] = cache.tensors[0][torch.arange(num_rows, device=before.device).unsqueeze(1), old]
    for level in levels(tree, num_old):
        if tree[level[0]] == NO_PARENT:
            parent_states = before.unsqueeze(1).expand(-1, len(level), -1)
        else:
            parent_states = states[:, [tree[i] for i in level]]
        newest = [i - num_old for i in level]
        new = tokens.map(lambda field, newest=newest: field[:, newest].reshape(-1, 1))
        states[:, level] = advance(new, parent_states.reshape(-1, size)).view(num_rows, len(level), size)
    return states[:, num_old:]
