"""The draft backlog: committed events that a draft model has not been shown yet."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens


class DraftBacklog:
    """Holds tokens (rows, n) of which the first `num` int64 (rows,) of each row are real.

    A draft model is shown nothing in rounds that draft nothing, and never the event that ends a round.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.tokens: EventTokens | None = None  # before the first round
        self.num = torch.ones(num_rows, dtype=torch.int64, device=device)

    def begin(self, newest: EventTokens) -> EventTokens:
        """Return the tokens; before the first draft of all, the newest of every row (rows, 1)."""
        if self.tokens is None:
            self.tokens = newest
        return self.tokens

    def prefill(self, rows: Tensor, newest: EventTokens) -> None:
        """Hold the newest token alone of new requests in `rows`."""
        if self.tokens is not None:
            self.num[rows] = 1
            for mine, theirs in zip(self.tokens, newest, strict=True):
                mine[rows, 0] = theirs[rows, 0]

    def replace(self, events: EventTokens, num_kept: Tensor, newest: EventTokens) -> None:
        """Hold from now on the first `num_kept` (rows,) of `events`, then `newest` (rows, 1)."""
        most = int(num_kept.max())
        self.tokens, self.num = behind(events.map(lambda field: field[:, :most]), num_kept, newest), num_kept + 1

    def add(self, newest: EventTokens) -> None:
        """Add `newest` (rows, 1)."""
        assert self.tokens is not None
        self.tokens, self.num = behind(self.tokens, self.num, newest), self.num + 1

    def clear(self) -> None:
        """Forget all tokens: they were shown."""
        assert self.tokens is not None
        self.tokens, self.num = self.tokens.map(lambda field: field[:, :0]), torch.zeros_like(self.num)

    def followed_by(self, drafted: EventTokens) -> EventTokens:
        """Return each row's own unseen tokens, the drafted ones behind them without a gap, and dead ones."""
        assert self.tokens is not None
        num, width = self.num.unsqueeze(1), self.tokens.ids.shape[1]
        both = self.tokens.cat(drafted)
        length = both.ids.shape[1]
        places = torch.arange(length, device=num.device)
        source = torch.where(places < num, places, places + width - num).clamp_max(length - 1)
        return both.map(lambda field: field.gather(1, source))

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.num = self.num[rows]
        if self.tokens is not None:
            self.tokens = self.tokens.map(lambda field: field[rows])


def behind(tokens: EventTokens, num: Tensor, newest: EventTokens) -> EventTokens:
    """Return tokens (rows, n + 1) with `newest` (rows, 1) after the first `num` (rows,) of each row."""
    return tokens.map(
        lambda old, new: torch.cat([old, torch.zeros_like(new)], 1).scatter(1, num.unsqueeze(1), new), newest
    )
