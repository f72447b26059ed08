"""Trees of tokens: the parent of each, and what follows from it.

`parents[i]` is the position, among the tokens written since the committed ones, of the token that token i follows; -1:
the newest committed token. A parent comes before its children. Tuples, so that what follows from them is computed once
and kept.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

NO_PARENT = -1


@lru_cache(maxsize=256)
def depths(parents: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many tokens of the tree lie between each token and the newest committed one."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent == NO_PARENT else 1 + found[parent])
    return tuple(found)


@lru_cache(maxsize=256)
def depths_on(parents: tuple[int, ...], device: torch.device) -> Tensor:
    """Return `depths` as int64 (n,) on a device; kept, because a device is waited for when they are sent there."""
    with torch.inference_mode(False):
        return torch.tensor(depths(parents), device=device)


@lru_cache(maxsize=256)
def is_ancestor(parents: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a bool matrix (n, n): [i, j] says that token j is token i or one of its ancestors."""
    with torch.inference_mode(False):
        matrix = torch.eye(len(parents), dtype=torch.bool)
        for i, parent in enumerate(parents):
            if parent != NO_PARENT:
                matrix[i] |= matrix[parent]
        return matrix.to(device)


def levels(parents: tuple[int, ...], first: int) -> list[list[int]]:
    """Group tokens from number `first` on by depth: a token's parent is in the level before, or before `first`."""
    found: dict[int, list[int]] = {}
    for i, depth in enumerate(depths(parents)):
        if i >= first:
            found.setdefault(depth, []).append(i)
    return [found[depth] for depth in sorted(found)]
