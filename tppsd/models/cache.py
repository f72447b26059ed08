"""Caches of running sequences with rollback by length: nothing is copied when a drafted event is rejected.

A tree of tokens is written behind the committed entries, one entry per node; `keep_path` then gathers one path of it
into place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens
from tppsd.models.shared_histories import SharedHistories
from tppsd.models.tree import NO_PARENT, levels

_LARGEST_PASS = 512  # tokens for which a cache of bounded context has room beside them


def multiple(number: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `number`."""
    return number + -number % step


def bounded_capacity(capacity: int, max_context: int | None) -> int:
    """Return the entries per row that a cache begins with, given `capacity` for a model that looks at all tokens.

    With `max_context` the cache drops old entries, so that two contexts and the tokens of one pass suffice.
    """
    return capacity if max_context is None else min(capacity, 2 * max_context + _LARGEST_PASS)


class RowCache:
    """Holds tensors with a dimension of rows, filled at each row's own length along a dimension of entries.

    Entries past a row's length are dead: readers mask them and the next write replaces them, so rolling back only
    changes `lengths`. Allocate one per sampling call (a tensor made in inference mode cannot serve a later backward).

    Attributes:
        parents: parents of the tree's nodes written since the lengths were last assigned (tppsd.models.tree). Nodes do
            not count as live.
        min_length, max_length: the smallest and largest length of all rows.

    Args:
        tensors: what is stored.
        capacity_dims: per tensor, the dimension of the entries; None = dimension 1 of all.
        row_dim: the dimension of the rows, of all tensors.
        step: capacities stay multiples of it.
    """

    def __init__(
        self, tensors: list[Tensor], capacity_dims: list[int] | None = None, row_dim: int = 0, step: int = 1
    ) -> None:
        self.tensors = tensors
        self.capacity_dims = capacity_dims or [1] * len(tensors)
        self.row_dim, self.step = row_dim, step
        self.lengths = torch.zeros(tensors[0].shape[row_dim], dtype=torch.int64, device=tensors[0].device)

    @property
    def lengths(self) -> Tensor:
        """Number of live entries per row, int64 (rows,)."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self._lengths = lengths
        self.parents: tuple[int, ...] = ()
        low, high = torch.aminmax(lengths) if len(lengths) else (lengths.new_zeros(()), lengths.new_zeros(()))
        self.min_length, self.max_length = torch.stack([low, high]).tolist()  # on a device, one wait

    @property
    def capacity(self) -> int:
        """Entries per row that there is room for."""
        return self.tensors[0].shape[self.capacity_dims[0]]

    def grow(self, capacity: int) -> None:
        """Enlarge to at least `capacity` entries per row, by doubling; live entries keep their place."""
        if capacity <= self.capacity:
            return
        for i, (old, dim) in enumerate(zip(self.tensors, self.capacity_dims, strict=True)):
            shape = list(old.shape)
            shape[dim] = multiple(max(capacity, 2 * shape[dim]), self.step)
            self.tensors[i] = old.new_zeros(shape)
            used = self.max_length + len(self.parents)
            self.tensors[i].narrow(dim, 0, used).copy_(old.narrow(dim, 0, used))

    def make_room(self, num_new: int) -> None:
        """Make room for `num_new` more entries per row, in one pass or in several."""
        self.grow(self.max_length + len(self.parents) + num_new)

    def announce(self, num_new: int) -> None:
        """Make room for `num_new` entries per row behind the live ones and the tree's; `end` makes them count."""
        self.make_room(num_new)
        self._first_new = self.max_length + len(self.parents)
        self._num_new = num_new

    def begin(self, num_new: int) -> None:
        """Announce `num_new` entries per row and fix where `write` puts them."""
        self.announce(num_new)
        self._where: tuple[Tensor, Tensor] | None = None
        if self.min_length != self.max_length:
            rows = torch.arange(len(self.lengths), device=self.lengths.device).unsqueeze(1)
            new = len(self.parents) + torch.arange(num_new, device=self.lengths.device)
            self._where = (rows, self.lengths.unsqueeze(1) + new)

    def write(self, which: int, values: Tensor) -> None:
        """Write values (rows, num_new, ...) of tensor number `which` to the entries that `begin` has fixed."""
        entries = self._entries(which)
        if self._where is None:
            entries.narrow(1, self._first_new, self._num_new).copy_(values)
        else:
            entries[self._where] = values.to(entries.dtype)

    def _entries(self, which: int) -> Tensor:
        """Return a view (rows, capacity, ...) of tensor number `which`."""
        return self.tensors[which].movedim((self.row_dim, self.capacity_dims[which]), (0, 1))

    def end(self, parents: tuple[int, ...] | None = None) -> None:
        """Advance every row by the entries begun; with `parents`, they join the tree instead."""
        if parents is not None:
            self.parents = self.parents + parents
            return
        self._lengths = self._lengths + self._num_new
        self.min_length += self._num_new
        self.max_length += self._num_new

    def roll_back(self, num: Tensor | int) -> None:
        """Drop the newest `num` (rows,) entries of each row, of those written since `make_room`, and the tree."""
        self.lengths = self.lengths - num

    def keep_path(self, nodes: Tensor, num_kept: Tensor) -> None:
        """Commit a path of the tree and drop the rest of it.

        Args:
            nodes: int64 (rows, n), the nodes of a path per row.
            num_kept: int64 (rows,), how many of them are committed.
        """
        places = torch.arange(nodes.shape[1], device=nodes.device)
        rows, which = ((nodes != places) & (places < num_kept.unsqueeze(1))).nonzero(as_tuple=True)
        if rows.numel():
            first, from_nodes = self.lengths[rows], nodes[rows, which]
            for tensor in range(len(self.tensors)):
                entries = self._entries(tensor)
                entries[rows, first + which] = entries[rows, first + from_nodes]  # all are read before any is written
        self.lengths = self.lengths + num_kept

    def continue_rows(self, source: RowCache, source_rows: Tensor, rows: Tensor) -> None:
        """Begin `rows` int64 (n,) of this cache with the entries of rows `source_rows` (n,) of another one."""
        self.grow(source.max_length)
        for which in range(len(self.tensors)):
            self._entries(which)[rows, : source.max_length] = source._entries(which)[source_rows, : source.max_length]
        self.lengths = self.lengths.index_copy(0, rows, source.lengths[source_rows])

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only `rows` int64 (n,), in that order (finished rows leave)."""
        self.tensors = [tensor.index_select(self.row_dim, rows) for tensor in self.tensors]
        self.lengths = self.lengths[rows]


class KVCache(RowCache):
    """Holds keys and values of all layers in one tensor (layers, 2, rows, heads, head_dim, capacity).

    One copy per layer writes both, and both are read along the tokens. Against tokens before heads, 8 heads over 2,000
    keys take half the time on a CPU. `begin` cuts the views of every layer at once: a view per layer and pass costs as
    much as a small matrix product.

    Attributes:
        max_context: how many tokens a token looks at, itself included; None = all. Older ones are dropped when room is
            needed, so that a row takes up about twice as much, however long its sequence.
        dropped: int64 (rows,), how many of a row's own tokens have been dropped.
        shared: the histories that rows continue, whose entries come before their own; None = there are none.
    """

    def __init__(
        self, num_layers: int, num_rows: int, capacity: int, num_heads: int, head_dim: int, like: Tensor,
        max_context: int | None = None, step: int = 1,
    ) -> None:  # fmt: skip
        self.num_heads, self.max_context = num_heads, max_context
        shape = [num_layers, 2, num_rows, num_heads, head_dim, multiple(capacity, step)]
        super().__init__([like.new_zeros(shape)], [5], row_dim=2, step=step)
        self.dropped = torch.zeros_like(self.lengths)
        self.shared: SharedHistories | None = None

    @property
    def num_tokens(self) -> Tensor:
        """Committed tokens per row, int64 (rows,), those of the history and those dropped included."""
        own = self.lengths + self.dropped
        return own if self.shared is None else own + self.shared.num_tokens

    def make_room(self, num_new: int) -> None:
        """Make room for `num_new` more entries per row; with `max_context`, drop old entries first where that helps."""
        is_full = self.max_length + num_new > self.capacity and not self.parents
        if self.max_context is not None and is_full and self.capacity >= 2 * self.max_context + num_new:
            self._drop(self.max_context)
        super().make_room(num_new)

    def begin(self, num_new: int) -> None:
        """Announce `num_new` entries per row and cut the views of every layer that `write_layer` uses."""
        super().begin(num_new)
        used = self._first_new + num_new
        self.first_used = 0 if self.max_context is None else max(0, self.min_length - self.max_context + 1)
        in_use = self.tensors[0].narrow(5, self.first_used, used - self.first_used).flatten(2, 3)
        # per layer, from the first entry that any row looks at to the last of any row
        self._keys, self._values = in_use[:, 0].unbind(0), in_use[:, 1].transpose(2, 3).unbind(0)
        by_row = self._entries(0).movedim(2, 0)  # (layers, rows, capacity, 2, heads, head_dim)
        if self._where is None:
            by_row = by_row.narrow(2, self._first_new, num_new)
        self._new = by_row.unbind(0)

    def write_layer(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values, and return all that the pass looks at.

        Args:
            layer: number of the layer.
            keys_values: (rows, num_new, 2, heads, head_dim).

        Returns:
            The layer's keys (rows * heads, head_dim, used) and values (rows * heads, used, head_dim), new ones
                included.
        """
        if self._where is None:
            self._new[layer].copy_(keys_values)
        else:
            self._new[layer][self._where] = keys_values.to(self._new[layer].dtype)
        return self._keys[layer], self._values[layer]

    def _drop(self, num_kept: int) -> None:
        """Move the newest `num_kept` entries of each row to its front."""
        num_dropped = (self.lengths - num_kept).clamp_min(0)
        rows = torch.arange(len(num_dropped), device=num_dropped.device).unsqueeze(1)
        newest = num_dropped.unsqueeze(1) + torch.arange(num_kept, device=num_dropped.device)
        entries = self._entries(0)
        entries[:, :num_kept] = entries[rows, newest]
        self.lengths, self.dropped = self.lengths - num_dropped, self.dropped + num_dropped

    def continue_rows(self, source: RowCache, source_rows: Tensor, rows: Tensor) -> None:
        """Begin `rows` behind the histories in rows `source_rows` of `source`, which are shared and not copied."""
        assert isinstance(source, KVCache)
        if self.shared is None and source.max_length:
            self.shared = SharedHistories(len(self.lengths), self.lengths.device)
        if self.shared is not None:
            self.shared.start(source, source_rows, rows)
        self.lengths = self.lengths.index_fill(0, rows, 0)
        self.dropped = self.dropped.index_fill(0, rows, 0)

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only `rows` int64 (n,), in that order, with their histories."""
        super().keep_rows(rows)
        self.dropped = self.dropped[rows]
        if self.shared is not None:
            self.shared.compact(rows)


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
