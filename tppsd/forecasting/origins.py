"""Origins of a backtest: from when on each sequence is forecast, what was known then, and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.data.units import Clock
from tppsd.sampling.checks import is_single, several

MOST_ORIGINS = 1_000_000  # of a backtest
_ROUNDING = 1e-9  # of a time, by which a window may seem to end before a horizon does


class Origins(NamedTuple):
    """Says from when on which sequences are forecast.

    Fields:
        sequence: int64 (num_origins,), places in the list of sequences.
        times: float64 (num_origins,), origins on the sequences' own clocks.
        num_left_out: further origins whose horizon was not observed to its end.
        num_outside: given times that lie before the scored part of a sequence or after its end.
    """

    sequence: Tensor
    times: Tensor
    num_left_out: int
    num_outside: int


def duration(value: float | str, name: str, unit: str | None) -> float:
    """Return a length of time in units of the data, from a number or from a duration such as "7d".

    Args:
        value: what a caller gave.
        name: of the argument, for messages.
        unit: of time in the data, or None.
    """
    return float(Clock(unit).duration(value, name))


def find_origins(
    sequences: Sequence[EventSequence], origins: float | str | Sequence[float], horizon: float, unit: str | None = None
) -> Origins:
    """Find the origins whose horizon lies in what was observed and scored of each sequence.

    Args:
        sequences: to be forecast.
        origins: a fraction of the scored part of each window, from 0 to below 1; "every 7" or "every 7d", from the
            start of that part on; or times on the sequences' clock, tried on each of them.
        horizon: of each forecast, in units of time.
        unit: of time, or None.

    Raises:
        ValueError: there is no such origin, there are more than MOST_ORIGINS, or `origins` is none of these.
    """
    which: list[int] = []
    times: list[float] = []
    num_left_out = num_outside = num_candidates = 0
    for i, sequence in enumerate(sequences):
        start, end = sequence.scored_from, sequence.window_end
        slack = _ROUNDING * max(abs(start), abs(end), horizon)
        candidates = _candidates(origins, start, end, unit)
        num_candidates += len(candidates)
        if num_candidates > MOST_ORIGINS:
            raise ValueError(
                f"origins = {origins!r} are {num_candidates:,} and more; a backtest has at most {MOST_ORIGINS:,}"
            )
        for time in candidates:
            if not start - slack <= time <= end:
                num_outside += 1
            elif time + horizon > end + slack:
                num_left_out += 1
            else:
                which.append(i)
                times.append(max(time, start))
    if not times:
        raise ValueError(
            f"no origin of origins = {origins!r} has a horizon of {horizon:g} that was observed to its end in any of "
            f"{len(sequences)} sequences; give a shorter horizon or earlier origins"
        )
    return Origins(torch.tensor(which), torch.tensor(times, dtype=torch.float64), num_left_out, num_outside)


def history_until(sequence: EventSequence, origin: float) -> EventSequence:
    """Return what is known of a sequence at an origin: its events up to and including it, and that no other came."""
    num_events = int(torch.searchsorted(sequence.event_times, origin, right=True))
    return sequence.prefix(num_events, origin)


def what_came(sequence: EventSequence, origin: float, horizon: float) -> EventSequence:
    """Return the events in (origin, origin + horizon], with times since the origin, on the window [0, horizon]."""
    ends = torch.tensor([origin, origin + horizon], dtype=torch.float64)
    first, last = torch.searchsorted(sequence.event_times, ends, right=True).tolist()
    times = (sequence.event_times[first:last] - origin).clamp_max(horizon)
    return EventSequence.of(times, sequence.marks[first:last], 0.0, horizon)


def _candidates(origins: float | str | Sequence[float], start: float, end: float, unit: str | None) -> list[float]:
    """Return the origins of a sequence whose scored part is [start, end]."""
    if isinstance(origins, str):
        word, _, length = origins.strip().partition(" ")
        if word == "every" and length:
            step = duration(length, "origins", unit)
            number = (end - start) / step + _ROUNDING
            if number > MOST_ORIGINS:
                raise ValueError(
                    f"origins = {origins!r} are {number:.3g} in a sequence of length {end - start:g}; a backtest has "
                    f"at most {MOST_ORIGINS:,}: give longer steps"
                )
            return [start + j * step for j in range(math.floor(number) + 1)]
        try:
            origins = float(origins)
        except ValueError:
            raise ValueError(f'origins = {origins!r} must be a fraction, "every 7", or times') from None
    times = [float(time) for time in several(origins)]
    if not is_single(origins):
        return times
    if not 0 <= times[0] < 1:
        raise ValueError(f"origins = {origins!r} must be a fraction from 0 to below 1; give times as a list")
    return [start + times[0] * (end - start)]
