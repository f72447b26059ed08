"""Checks of an EventSequence; every message names the sequence, the field, the value and what would be right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tppsd.data.sequences import EventSequence


def check_fields(sequence: EventSequence) -> None:
    """Refuse times, marks and carried inter-times that do not belong together, and no window at all."""
    where, times, marks = f"sequence {sequence.index}", sequence.event_times, sequence.marks
    if times.shape != marks.shape or times.dim() != 1:
        raise ValueError(
            f"{where}: event_times has shape {tuple(times.shape)} and marks {tuple(marks.shape)}; both must be "
            "(length,) "
            "with the same length"
        )
    if marks.dtype != torch.int64:
        raise TypeError(f"{where}: marks are {marks.dtype}; they must be torch.int64, as EventSequence.of makes them")
    if len(times) == 0 and sequence.t_start is None:
        raise ValueError(f"{where}: has no events and no t_start; an empty window needs a t_start")
    if sequence.inter_times is not None:
        _check_inter_times(where, sequence.inter_times, len(times))


def _check_inter_times(where: str, inter_times: Tensor, num_events: int) -> None:
    if inter_times.shape != (num_events,):
        raise ValueError(
            f"{where}: inter_times has shape {tuple(inter_times.shape)}; it must have one entry for each of the "
            f"{num_events} events"
        )
    if (i := _first(~(torch.isfinite(inter_times) & (inter_times >= 0)))) is not None:
        raise ValueError(
            f"{where}: inter_times[{i}] = {inter_times[i].item()}; it must be a finite number of at least 0"
        )


def check_values(sequence: EventSequence) -> None:
    """Refuse times, windows and marks that cannot be."""
    where = f"sequence {sequence.index}"
    _check_times(where, sequence.event_times)
    _check_window(where, sequence)
    if (i := _first(sequence.marks < 0)) is not None:
        raise ValueError(f"{where}: marks[{i}] = {int(sequence.marks[i])} is negative; marks are 0..num_marks-1")


def _check_times(where: str, times: Tensor) -> None:
    if (i := _first(~torch.isfinite(times))) is not None:
        raise ValueError(f"{where}: event_times[{i}] is {times[i].item()}, not a finite number")
    if (i := _first(torch.diff(times) < 0)) is not None:
        before, after = times[i].item(), times[i + 1].item()
        raise ValueError(f"{where}: event_times[{i + 1}] = {after} comes before event_times[{i}] = {before}")


def _check_window(where: str, sequence: EventSequence) -> None:
    times, t_start, t_end = sequence.event_times, sequence.t_start, sequence.t_end
    first, last = (times[0].item(), times[-1].item()) if len(times) else (math.inf, -math.inf)
    if t_start is not None and (not math.isfinite(t_start) or first < t_start):
        raise ValueError(f"{where}: t_start = {t_start} must be finite and not after the first event at {first}")
    lowest = max(last, t_start if t_start is not None else last)
    if t_end is not None and (not math.isfinite(t_end) or t_end < lowest):
        raise ValueError(f"{where}: t_end = {t_end} must be finite and not before {lowest}")
    if sequence.score_start is not None and not math.isfinite(sequence.score_start):
        raise ValueError(f"{where}: score_start = {sequence.score_start} must be a finite number")
    if sequence.censored_start and t_start is None:
        raise ValueError(f"{where}: censored_start says that the window was cut at its t_start, but t_start is None")


def _first(wrong: Tensor) -> int | None:
    return int(wrong.nonzero()[0]) if wrong.any() else None
