"""Per-row caches with rollback by length: nothing is copied when a drafted event is rejected.

A tree of tokens is written behind the committed entries, one entry per node; `keep_path` then gathers one path of it into place.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RowCache:
    """Tensors with a row in dimension 0, filled at each row's own length along a dimension of their own.

    Entries past a row's length are dead: readers mask them and the next write replaces them, so rolling back is assigning
    smaller `lengths`. Allocate one per sampling call (a tensor made in inference mode cannot serve a later backward).

    Attributes:
        parents: of the tree's nodes written since the lengths were last assigned (tppsd.models.tree); they do not count as live.

    Args:
        tensors: with rows in dimension 0.
        capacity_dims: per tensor, the dimension of the entries; None = dimension 1 of all.
    """

    def __init__(self, tensors: list[Tensor], capacity_dims: list[int] | None = None) -> None:
        self.tensors = tensors
        self.capacity_dims = capacity_dims or [1] * len(tensors)
        self.lengths = torch.zeros(tensors[0].shape[0], dtype=torch.int64, device=tensors[0].device)

    @property
    def lengths(self) -> Tensor:
        """int64 (rows,): number of live entries per row."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self._lengths = lengths
        self.parents: tuple[int, ...] = ()
        low, high = torch.aminmax(lengths) if len(lengths) else (lengths.new_zeros(()), lengths.new_zeros(()))
        self.min_length, self.max_length = int(low), int(high)  # the one host sync of a rollback

    @property
    def capacity(self) -> int:
        return self.tensors[0].shape[self.capacity_dims[0]]

    def grow(self, capacity: int) -> None:
        """Enlarge to at least `capacity` entries per row, by doubling; live entries keep their place."""
        if capacity <= self.capacity:
            return
        for i, (old, dim) in enumerate(zip(self.tensors, self.capacity_dims, strict=True)):
            shape = list(old.shape)
            shape[dim] = max(capacity, 2 * shape[dim])
            self.tensors[i] = old.new_zeros(shape)
            used = self.max_length + len(self.parents)
            self.tensors[i].narrow(dim, 0, used).copy_(old.narrow(dim, 0, used))

    def begin(self, num_new: int) -> None:
        """Make room for `num_new` entries per row and fix where they go: behind the live ones and the tree's."""
        self._first_new = self.max_length + len(self.parents)
        self.grow(self._first_new + num_new)
        self._num_new = num_new
        self._where: tuple[Tensor, Tensor] | None = None
        if self.min_length != self.max_length:
            rows = torch.arange(len(self.lengths), device=self.lengths.device).unsqueeze(1)
            new = len(self.parents) + torch.arange(num_new, device=self.lengths.device)
            self._where = (rows, self.lengths.unsqueeze(1) + new)

    def write(self, which: int, values: Tensor) -> Tensor:
        """Put (rows, num_new, ...) where `begin` said; returns the tensor up to the last entry of any row."""
        tensor, dim = self.tensors[which], self.capacity_dims[which]
        if self._where is None:
            tensor.narrow(dim, self._first_new, self._num_new).copy_(values if dim == 1 else values.movedim(1, dim))
        else:
            rows, entries = self._where
            tensor.movedim(dim, 1)[rows, entries] = values.to(tensor.dtype)
        return tensor.narrow(dim, 0, self._first_new + self._num_new)

    def end(self, parents: tuple[int, ...] | None = None) -> None:
        """Advance every row by the entries begun; with `parents`, they join the tree instead."""
        if parents is not None:
            self.parents = self.parents + parents
            return
        self._lengths = self._lengths + self._num_new
        self.min_length += self._num_new
        self.max_length += self._num_new

    def keep_path(self, nodes: Tensor, num_kept: Tensor) -> None:
        """Commit the first `num_kept` (rows,) of the tree's `nodes` int64 (rows, n), a path; the rest of the tree is dropped."""
        places = torch.arange(nodes.shape[1], device=nodes.device)
        rows, which = ((nodes != places) & (places < num_kept.unsqueeze(1))).nonzero(as_tuple=True)
        if len(rows):
            first = self.lengths[rows]
            source, place = first + nodes[rows, which], first + which
            for tensor, dim in zip(self.tensors, self.capacity_dims, strict=True):
                entries = tensor.movedim(dim, 1)
                entries[rows, place] = entries[rows, source]  # all are read before any is written
        self.lengths = self.lengths + num_kept

    def copy_rows(self, source: RowCache, source_rows: Tensor, rows: Tensor) -> None:
        """Copy whole rows of `source` into `rows` of this cache (a history encoded once, shared by its paths)."""
        self.grow(source.max_length)
        for mine, theirs, dim in zip(self.tensors, source.tensors, self.capacity_dims, strict=True):
            mine.narrow(dim, 0, source.max_length)[rows] = theirs.narrow(dim, 0, source.max_length)[source_rows]
        self.lengths = self.lengths.index_copy(0, rows, source.lengths[source_rows])

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row but `rows` (finished rows leave)."""
        self.tensors = [tensor[rows] for tensor in self.tensors]
        self.lengths = self.lengths[rows]


class KVCache(RowCache):
    """Keys and values of every layer, laid out for one query against many keys: keys (rows, heads, head_dim, capacity), values
    (rows, heads, capacity, head_dim). Against (rows, capacity, heads, head_dim) a query of 8 heads over 2,000 keys takes half
    the time on a CPU.
    """

    def __init__(self, num_layers: int, num_rows: int, capacity: int, num_heads: int, head_dim: int, like: Tensor) -> None:
        self.num_heads = num_heads
        tensors = []
        for _ in range(num_layers):
            tensors += [
                like.new_zeros(num_rows, num_heads, head_dim, capacity),
                like.new_zeros(num_rows, num_heads, capacity, head_dim),
            ]
        super().__init__(tensors, [3, 2] * num_layers)
