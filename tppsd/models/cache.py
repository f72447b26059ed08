"""Per-row caches with rollback by length: nothing is copied when a drafted event is rejected."""

from __future__ import annotations

import torch
from torch import Tensor


class RowCache:
    """Tensors of layout (rows, capacity, ...) filled at each row's own length.

    Entries past a row's length are dead: readers mask them and the next write replaces them, so rolling back is assigning
    smaller `lengths`. Allocate one per sampling call (a tensor made in inference mode cannot serve a later backward).
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.lengths = torch.zeros(tensors[0].shape[0], dtype=torch.int64, device=tensors[0].device)

    @property
    def lengths(self) -> Tensor:
        """int64 (rows,): number of live entries per row."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self._lengths = lengths
        low, high = torch.aminmax(lengths) if len(lengths) else (lengths.new_zeros(()), lengths.new_zeros(()))
        self.min_length, self.max_length = int(low), int(high)  # the one host sync of a rollback

    @property
    def capacity(self) -> int:
        return self.tensors[0].shape[1]

    def grow(self, capacity: int) -> None:
        """Enlarge to at least `capacity` entries per row, by doubling; live entries keep their place."""
        if capacity <= self.capacity:
            return
        new_capacity = max(capacity, 2 * self.capacity)
        for i, old in enumerate(self.tensors):
            new = old.new_zeros(old.shape[0], new_capacity, *old.shape[2:])
            new[:, : self.max_length] = old[:, : self.max_length]
            self.tensors[i] = new

    def begin(self, num_new: int) -> None:
        """Make room for `num_new` entries per row and fix where they go."""
        self.grow(self.max_length + num_new)
        self._num_new = num_new
        self._flat_index = None
        if self.min_length != self.max_length:
            rows = torch.arange(len(self.lengths), device=self.lengths.device) * self.capacity
            offsets = torch.arange(num_new, device=self.lengths.device)
            self._flat_index = ((rows + self.lengths).unsqueeze(1) + offsets).reshape(-1)

    def write(self, which: int, values: Tensor) -> Tensor:
        """Put (rows, num_new, ...) at each row's length; returns the used part (rows, max_length + num_new, ...)."""
        tensor = self.tensors[which]
        if self._flat_index is None:
            tensor[:, self.max_length : self.max_length + self._num_new] = values
        else:
            tensor.flatten(0, 1).index_copy_(0, self._flat_index, values.flatten(0, 1).to(tensor.dtype))
        return tensor[:, : self.max_length + self._num_new]

    def end(self) -> None:
        """Advance every row by the entries begun."""
        self._lengths = self._lengths + self._num_new
        self.min_length += self._num_new
        self.max_length += self._num_new

    def copy_rows(self, source: RowCache, source_rows: Tensor, rows: Tensor) -> None:
        """Copy whole rows of `source` into `rows` of this cache (a history encoded once, shared by its paths)."""
        self.grow(source.max_length)
        for mine, theirs in zip(self.tensors, source.tensors, strict=True):
            mine[rows, : source.max_length] = theirs[source_rows, : source.max_length]
        self.lengths = self.lengths.index_copy(0, rows, source.lengths[source_rows])

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row but `rows` (finished rows leave)."""
        self.tensors = [tensor[rows] for tensor in self.tensors]
        self.lengths = self.lengths[rows]
