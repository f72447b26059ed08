"""Counter-based noise: every draw is a function of what it is for, never of when it is drawn.

Philox 4x32-10 (Salmon et al., SC 2011) in int64 arithmetic, so that it runs on any device. A sequence therefore does
not depend on batch size, batch composition, rank or number of ranks, and the global RNG is never read or advanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tppsd.models.protocol import NoiseStreams

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_POSITION = 16  # first bit of an address's position


class Purpose(IntEnum):
    """Names what a draw is for: one field of the counter, so that no two uses share a number."""

    FIRST_MARK = 1
    DRAFT = 2
    TEST = 3
    PROPOSAL = 4
    PROPOSAL_COIN = 5
    FRESH_MARK = 6
    TARGET = 7
    TRIAL = 8  # of the rules for several candidates: proposals, fresh draft draws and coins of their loops
    TRIAL_DRAFT = 9
    TRIAL_COIN = 10
    FRESH_DRAFT = 11
    STOP_COIN = 12


def philox(even: Tensor, odd: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return four 32-bit words per element, two and two as they came, int64.

    Args:
        even, odd: (2, ...), words 0 and 2 of the counter, words 1 and 3. Only `even` must have empty upper halves:
            those of the others are masked away.
        key: (2, ...), its two words.
    """
    multipliers, weyl = (
        _constant(pair, even.device).view(2, *[1] * (even.dim() - 1)) for pair in (_MULTIPLIERS, _WEYL)
    )
    for _ in range(_ROUNDS):
        products = (even * multipliers).flip(0)  # wraps modulo 2^64: both halves are right
        even, odd = ((products >> 32) ^ odd ^ key) & _MASK, products
        key = key + weyl
    return even, odd & _MASK


@cache
def _constant(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, sent there once: it is waited for."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


def _random_words(counter: Sequence[Tensor | int], keys: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `philox` to four counter words and keys (..., 2), broadcast.

    Returns:
        Words 0 and 2, and words 1 and 3, each (2, *broadcast).
    """
    c0, c1, c2, c3 = counter
    shape = torch.broadcast_shapes(*(word.shape for word in (*counter, keys[..., 0]) if isinstance(word, Tensor)))
    even, odd, key = keys.new_empty(3, 2, *shape)
    for words, first, second in ((even, c0, c2), (odd, c1, c3), (key, keys[..., 0], keys[..., 1])):
        words[0], words[1] = first, second
    return philox(even, odd, key)


def row_keys(seed: int, history_index: Tensor, path_index: Tensor) -> Tensor:
    """Return the key of each row's stream, int64 (rows, 2).

    Distinct (history, path) pairs of one seed give distinct 128-bit blocks, of which 64 bits become the key: among 10^6
    rows the chance that any two share a stream is below 3e-8.
    """

    def halves(x: Any) -> tuple[Any, Any]:
        return x & _MASK, (x >> 32) & _MASK

    key = torch.tensor(halves(seed), dtype=torch.int64, device=history_index.device)
    even, odd = _random_words((*halves(history_index), *halves(path_index)), key)
    return torch.stack([even[0], odd[0]], -1)


def address(position: int | Tensor, purpose: Purpose, draw: int = 0) -> int | Tensor:
    """Return the counter word of (position, purpose, draw): separate bit fields of 16, 8 and 8 bits."""
    return (position << _POSITION) | (int(purpose) << 8) | draw


def uniforms(
    keys: Tensor, cursors: Tensor, addresses: Tensor, outer: Tensor | int = 0, inner: Tensor | int = 0
) -> Tensor:
    """Return two independent uniforms of 53 bits per element, float64 (*broadcast, 2) in (0, 1).

    Args:
        keys: (*broadcast, 2) from `row_keys`.
        cursors, addresses, outer, inner: int64, broadcastable: place in the row's stream, `address(...)`, outer and
            inner attempt.
    """
    even, odd = _random_words((cursors, addresses, outer, inner), keys)
    # (2 n + 1) / 2^53 with n of 52 bits: never 0, never 1
    return ((((even << 20) | (odd >> 12)).double() + 0.5) * 2.0**-52).movedim(0, -1)


class Streams:
    """Holds noise of one row each, for loops that need an amount that nobody knows beforehand.

    Attributes:
        keys: int64 (rows, 2), see `row_keys`.
        cursors: int64 (rows,), how many events of its stream each row has used up.
    """

    def __init__(self, keys: Tensor, cursors: Tensor) -> None:
        self.keys, self.cursors = keys, cursors

    def loop(
        self,
        rows: Tensor,
        positions: Tensor,
        wanted: list[tuple[Purpose, int]],
        inner: Tensor | int,
        outer: Tensor | int = 0,
    ) -> Tensor:
        """Return two uniforms for each draw of the `wanted` (purpose, number of draws).

        Args:
            rows: int64 (n,).
            positions: int64 (n,).
            wanted: purposes and numbers of draws.
            inner, outer: which attempts of a loop at the rows' cursors, (n or 1, *attempts), or one number.

        Returns:
            float64 (n, *attempts, 2 * draws).
        """
        draws = tuple(int(address(0, purpose, draw)) for purpose, number in wanted for draw in range(number))
        attempt = [x if isinstance(x, int) else x.unsqueeze(-1) for x in (outer, inner)]
        ones = [1] * (max(x.dim() if isinstance(x, Tensor) else 0 for x in attempt) - 2)  # for the attempts of a row
        addresses = _constant(draws, rows.device) | positions.reshape(-1, *ones, 1) << _POSITION
        keys, cursors = self.keys[rows].view(-1, *ones, 1, 2), self.cursors[rows].view(-1, *ones, 1)
        return uniforms(keys, cursors, addresses, *attempt).flatten(-2)


class RowNoise(Streams):
    """Holds one stream of noise per row, read in windows: what each of the row's next events needs.

    It is drawn for many events at once: a Philox call per step costs as much as a draft layer. The size of such a block
    changes no result.

    Args:
        seed: of the whole call.
        addresses: what one event needs, one entry per pair of uniforms.
        num_rows: running sequences.
        device: where the noise is.
    """

    def __init__(self, seed: int, addresses: list[int], num_rows: int, device: torch.device) -> None:
        self.seed = seed
        self.addresses = torch.tensor(addresses, dtype=torch.int64, device=device)
        super().__init__(*(torch.zeros(num_rows, *more, dtype=torch.int64, device=device) for more in ((2,), ())))
        self.block_size = max(4, min(16, 100_000 // max(1, num_rows * len(addresses))))
        self._block = torch.zeros(num_rows, 0, 2 * len(addresses), dtype=torch.float64, device=device)
        self._offsets = torch.zeros_like(self.cursors)  # of the cursors in the block
        self._bound = 0  # no offset is larger

    def draw(self, rows: Tensor | slice, num: int) -> Tensor:
        """Return noise for the next `num` events of some rows, float64 (rows, num, 2 * len(addresses)).

        It is not used up.
        """
        ahead = self.cursors[rows].unsqueeze(1) + torch.arange(num, device=self.cursors.device)
        return uniforms(self.keys[rows][:, None, None], ahead.unsqueeze(2), self.addresses).flatten(2)

    def start(self, rows: Tensor, history_index: Tensor, path_index: Tensor) -> None:
        """Start new streams in `rows`."""
        self.keys[rows] = row_keys(self.seed, history_index, path_index)
        self.cursors[rows] = 0
        if self._block.shape[1]:
            self._block[rows] = self.draw(rows, self._block.shape[1])
            self._offsets[rows] = 0

    def window(self, num: int) -> Tensor:
        """Return noise for each row's next `num` events, float64 (rows, num, 2 * len(addresses)).

        It is not used up.
        """
        if self._bound + num > self._block.shape[1]:
            self._bound = int(self._offsets.max())
            if self._bound + num > self._block.shape[1]:
                self._block = self.draw(slice(None), max(self.block_size, 2 * num))
                self._offsets, self._bound = torch.zeros_like(self.cursors), 0
        rows = torch.arange(len(self.keys), device=self.keys.device).unsqueeze(1)
        return self._block[rows, self._offsets.unsqueeze(1) + torch.arange(num, device=self.keys.device)]

    def streams(self, num: int) -> NoiseStreams:
        """Return what a model draws the noise of each row's next `num` events from by itself."""
        return NoiseStreams(self.keys, self.cursors, num)

    def advance(self, num: Tensor | int, at_most: int) -> None:
        """Use up `num` events: the same for all rows, or int64 (rows,), of which none is larger than `at_most`."""
        self.cursors = self.cursors + num
        self._offsets = self._offsets + num
        self._bound += num if isinstance(num, int) else at_most

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.keys, self.cursors = self.keys[rows], self.cursors[rows]
        self._block, self._offsets = self._block[rows], self._offsets[rows]
