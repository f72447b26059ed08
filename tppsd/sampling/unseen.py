"""Committed events that a draft model has not been shown yet."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens


class Unseen:
    """Tokens (rows, n) of which the first `num` int64 (rows,) of each row are real.

    A draft model is shown nothing in rounds that draft nothing, and never the event that ends a round.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.tokens: EventTokens | None = None  # before the first round
        self.num = torch.ones(num_rows, dtype=torch.int64, device=device)
        self._most: int | None = None

    def begin(self, newest: EventTokens) -> EventTokens:
        """The tokens: in the first round of all, the newest of every row (rows, 1)."""
        if self.tokens is None:
            self.tokens = newest
        return self.tokens

    def admit(self, rows: Tensor, newest: EventTokens) -> None:
        """New requests in `rows`: their newest token alone."""
        if self.tokens is not None:
            self.num[rows] = 1
            for mine, theirs in zip(self.tokens, newest, strict=True):
                mine[rows, 0] = theirs[rows, 0]

    def tell(self, most: int) -> None:
        """The next `replace` keeps no more of several events; a device would be waited for."""
        self._most = most

    def replace(self, events: EventTokens, num_kept: Tensor, newest: EventTokens) -> None:
        """From now on the first `num_kept` (rows,) of `events`, then `newest` (rows, 1)."""
        most = events.ids.shape[1]
        if self._most is None:
            most = int(num_kept.max())
        elif most > 1:  # one token more is not worth passes of another shape
            most = self._most
        self.tokens, self.num = behind(events.map(lambda field: field[:, :most]), num_kept, newest), num_kept + 1

    def add(self, newest: EventTokens) -> None:
        """`newest` (rows, 1) as well."""
        assert self.tokens is not None
        self.tokens, self.num = behind(self.tokens, self.num, newest), self.num + 1

    def clear(self) -> None:
        """All were shown."""
        assert self.tokens is not None
        self.tokens, self.num = self.tokens.map(lambda field: field[:, :0]), torch.zeros_like(self.num)

    def followed_by(self, drafted: EventTokens) -> EventTokens:
        """Each row's own unseen tokens, the drafted ones behind them without a gap, and dead ones."""
        assert self.tokens is not None
        num, width = self.num.unsqueeze(1), self.tokens.ids.shape[1]
        both = self.tokens.cat(drafted)
        length = both.ids.shape[1]
        places = torch.arange(length, device=num.device)
        source = torch.where(places < num, places, places + width - num).clamp_max(length - 1)
        return both.map(lambda field: field.gather(1, source))

    def keep_rows(self, rows: Tensor) -> None:
        self.num = self.num[rows]
        if self.tokens is not None:
            self.tokens = self.tokens.map(lambda field: field[rows])


def behind(tokens: EventTokens, num: Tensor, newest: EventTokens) -> EventTokens:
    """Tokens (rows, n + 1) with `newest` (rows, 1) after the first `num` (rows,) of each row."""
    return tokens.map(
        lambda old, new: torch.cat([old, torch.zeros_like(new)], 1).scatter(1, num.unsqueeze(1), new), newest
    )
