"""Shortening of data sets to what fits into a given time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tppsd.data.sequences import EventSequence


def shorten(
    sequences: Sequence[EventSequence], max_length: int | None = None, max_events: int | None = None
) -> tuple[list[EventSequence], str]:
    """Return the first `max_length` events of each of the first sequences, up to `max_events` events in all.

    With them comes, in words, what was cut.

    At least one sequence is kept; None is no limit.
    """
    kept, notes = list(sequences), []
    if max_length is not None and any(len(s) > max_length for s in kept):
        kept = [s if len(s) <= max_length else s.prefix(max_length) for s in kept]
        notes.append(f"sequences to their first {max_length:,} events")
    if max_events is not None:
        within = max(1, sum(total <= max_events for total in accumulate(len(s) for s in kept)))
        if within < len(kept):
            notes.append(f"{within:,} of {len(kept):,} sequences")
            kept = kept[:within]
    return kept, " and ".join(notes)
