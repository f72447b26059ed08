"""What is said while a long history is encoded: how far the work is, and how much longer it takes."""

from __future__ import annotations

import logging
import time

LONG_HISTORY = 20_000  # events: from here on encoding one takes more than seconds (docs/guides/size.md)
EVERY = 10.0  # seconds between two lines
_LOG = logging.getLogger("tppsd")


class EncodingReport:
    """Says every ten seconds how much of a history is encoded; the clock decides what is said, and nothing else.

    Args:
        num_events: of the history.
        max_context: how many events each looks at; None = all before it, so that the work grows with the square.
    """

    def __init__(self, num_events: int, max_context: int | None) -> None:
        self.num_events, self.max_context = num_events, max_context
        self.started = self.said = time.monotonic()

    def encoded(self, num_events: int) -> None:
        """Take note that the first `num_events` are encoded."""
        now = time.monotonic()
        if now - self.said < EVERY or num_events >= self.num_events:
            return
        self.said = now
        share = self.work(num_events) / self.work(self.num_events)
        _LOG.warning(
            "encoding a history: %s of %s events after %.0f s, about %.0f s to go",
            f"{num_events:,}",
            f"{self.num_events:,}",
            now - self.started,
            (now - self.started) * (1 / share - 1),
        )

    def work(self, num_events: int) -> float:
        """Count the pairs of events that look at each other among the first `num_events`."""
        reach = num_events if self.max_context is None else min(num_events, self.max_context)
        return reach**2 / 2 + (num_events - reach) * reach
