"""Keys and values of histories, stored once and read by all sequences that continue them.

A running sequence owns only what came after its history. Attention over a history is a matrix product of the queries of
all sequences that share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tppsd.models.cache import KVCache


class SharedHistories:
    """Holds the histories of the rows of a cache, one per slot.

    Args:
        num_rows: rows of the cache.
        device: where they are.

    Attributes:
        keys_values: (layers, 2, slots, heads, head_dim, capacity).
        slots: int64 (rows,), where the history of each row is.
        lengths: int64 (rows,), entries of that history; 0 = none.
        num_tokens: int64 (rows,), its tokens, those included that a bounded context has dropped.
    """

    keys_values: Tensor

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.slots, self.lengths, self.num_tokens = torch.zeros(3, num_rows, dtype=torch.int64, device=device).unbind(0)
        self._source: KVCache | None = None  # the latest, and where its rows were put
        self._slots_of_source = self.slots

    def start(self, source: KVCache, source_rows: Tensor, rows: Tensor) -> None:
        """Let `rows` int64 (n,) continue the rows `source_rows` (n,) of `source`; no entry is copied per row."""
        self.lengths = self.lengths.index_fill(0, rows, 0)  # their old histories are of no use any more
        if source is not self._source:
            self._add(source)
        self.slots = self.slots.index_copy(0, rows, self._slots_of_source[source_rows])
        self.lengths = self.lengths.index_copy(0, rows, source.lengths[source_rows])
        self.num_tokens = self.num_tokens.index_copy(0, rows, source.num_tokens[source_rows])

    def _add(self, source: KVCache) -> None:
        """Put all rows of a cache into slots that no row reads."""
        histories, num_new, longest = source.tensors[0], len(source.lengths), source.max_length
        used = self.slots[self.lengths > 0].unique()
        self._source = source
        if not len(used):
            self.keys_values = histories
            self._slots_of_source = torch.arange(num_new, device=self.slots.device)
            return
        num_slots, capacity = self.keys_values.shape[2], self.keys_values.shape[5]
        if num_slots < len(used) + num_new or capacity < longest:
            shape = list(self.keys_values.shape)
            shape[2], shape[5] = max(2 * num_slots, len(used) + num_new), max(capacity, histories.shape[5])
            larger = self.keys_values.new_zeros(shape)
            larger[:, :, :num_slots, ..., :capacity] = self.keys_values
            self.keys_values, num_slots = larger, shape[2]
        is_free = torch.ones(num_slots, dtype=torch.bool, device=used.device).index_fill(0, used, False)
        self._slots_of_source = is_free.nonzero().squeeze(1)[:num_new]
        self.keys_values[:, :, self._slots_of_source, ..., :longest] = histories[..., :longest]

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.slots, self.lengths, self.num_tokens = self.slots[rows], self.lengths[rows], self.num_tokens[rows]


class SharedAttention:
    """Computes attention of the newest tokens of every row over its shared history, in one pass of a model.

    Args:
        shared: the histories.
        order: int64 (rows or 1, q), how many tokens of its own each token has before it.
        max_context: how many tokens a token looks at, itself included; None = all.
        dtype: of the mask.
    """

    def __init__(self, shared: SharedHistories, order: Tensor, max_context: int | None, dtype: torch.dtype) -> None:
        self._longest = int(shared.lengths.max())
        self._entries = shared.keys_values[..., : self._longest]
        self._slots = shared.slots
        place, lengths = torch.arange(self._longest, device=order.device), shared.lengths.view(-1, 1, 1)
        is_seen = place < lengths
        if max_context is not None:
            is_seen = is_seen & (place >= lengths + order.unsqueeze(2) + 1 - max_context)
        self._mask = torch.zeros(is_seen.shape, dtype=dtype, device=order.device).masked_fill_(~is_seen, -torch.inf)
        # the rows of a history side by side: the number of each row among those of its slot
        same = self._slots.unsqueeze(1) == self._slots
        self._rank = same.tril(-1).sum(1)
        self._most = int(self._rank.max()) + 1

    def scores(self, layer: int, queries: Tensor) -> Tensor:
        """Return scaled and masked scores (rows * heads, q, longest) of queries (rows, q, heads, head_dim)."""
        rows, num_new, _, head_dim = queries.shape
        keys = self._entries[layer, 0].flatten(0, 1)  # (slots * heads, head_dim, longest)
        found = self._ungrouped(torch.bmm(self._grouped(queries.transpose(1, 2)), keys), rows, num_new)
        scale: float = head_dim**-0.5
        return (found * scale + self._mask.unsqueeze(1)).flatten(0, 1)

    def weighted(self, layer: int, weights: Tensor, heads: int) -> Tensor:
        """Return the histories' values, weighted by (rows * heads, q, longest): (rows * heads, q, head_dim)."""
        num_new = weights.shape[1]
        values = self._entries[layer, 1].flatten(0, 1).transpose(1, 2)
        grouped = self._grouped(weights.view(-1, heads, num_new, self._longest))
        return self._ungrouped(torch.bmm(grouped, values), len(self._slots), num_new).flatten(0, 1)

    def _grouped(self, of_rows: Tensor) -> Tensor:
        """Put the rows of a slot side by side: (rows, heads, q, n) -> (slots * heads, most * q, n).

        There are zeros where a slot has fewer rows.
        """
        _, heads, num_new, n = of_rows.shape
        grouped = of_rows.new_zeros(self._entries.shape[2], self._most, heads, num_new, n)
        grouped[self._slots, self._rank] = of_rows
        return grouped.transpose(1, 2).reshape(-1, self._most * num_new, n)

    def _ungrouped(self, grouped: Tensor, rows: int, num_new: int) -> Tensor:
        """Undo `_grouped`: (slots * heads, most * q, n) -> (rows, heads, q, n)."""
        by_row = grouped.view(self._entries.shape[2], -1, self._most, num_new, grouped.shape[2]).transpose(1, 2)
        return by_row[self._slots, self._rank]
