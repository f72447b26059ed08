"""Remarks on a data set before training: sequences without a scored event, and how sequences end."""

from __future__ import annotations

import numpy as np

from tppsd.data.reading import EventDataset
from tppsd.data.ties import scored_inter_times
from tppsd.data.units import to_text

MIDDLE = (0.1, 0.9)  # the quantiles of the last events between which ...
COARSE = 1e-3  # of the median inter-time: a wider spacing of float64 at the latest time is said
MANY_GAPS = 10  # ... so many median inter-times must lie for sequences to "end at very different times"


def remarks(dataset: EventDataset) -> list[str]:
    """Return sentences about a data set, for the one who is about to train on it."""
    train = dataset.sequences("train")
    unscored = {split: sum(one.num_scored == 0 for one in part) for split, part in dataset.splits.items()}
    has_events = [one for one in train if len(one)]
    ends = describe_ends(
        dataset.name,
        np.array([float(one.event_times[-1]) for one in has_events]),
        np.array([one.t_end is not None for one in has_events]),
        scored_inter_times(train).numpy(),
        dataset.time_unit,
        dataset.time_origin,
    )
    total = sum(map(len, dataset.splits.values()))
    first_is_given = any(one.first_is_given for one in train)
    found = describe_unscored(dataset.name, unscored, total, first_is_given)
    latest = max((abs(float(one.event_times[-1])) for one in has_events), default=0.0)
    spacing = None
    if dataset.time_origin is None:  # inter-times of timestamps are exact
        spacing = describe_spacing(dataset.name, latest, scored_inter_times(train).numpy())
    said = (found, None if dataset.window is not None else ends, spacing)
    return [remark for remark in said if remark is not None]


def describe_spacing(name: str, latest: float, gaps: np.ndarray) -> str | None:
    """Say that float64 hardly tells neighbouring events apart at the latest time; None where it does.

    Args:
        name: of the data set.
        latest: the largest absolute value of a time.
        gaps: float64 (num_scored,), scored inter-times.
    """
    positive = gaps[gaps > 0]
    spacing = float(np.spacing(latest))
    if len(positive) == 0 or spacing <= COARSE * np.median(positive):
        return None
    return (
        f"{name}: near the time {latest:.6g} float64 numbers are {spacing:.3g} apart, which is "
        f"{spacing / np.median(positive):.1%} of the median inter-time, so that inter-times are rounded and events "
        "may become ties: subtract an origin from the times"
    )


def describe_unscored(name: str, counts: dict[str, int], total: int, first_is_given: bool) -> str | None:
    """Say how many sequences of each split, of `total`, have no event with a likelihood term; None if all have one."""
    if not any(counts.values()):
        return None
    why = ": of one event, the first, which is given (t_start says since when sequences are observed)"
    per_split = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return (
        f"{name}: {sum(counts.values()):,} of {total:,} sequences have no event that is scored ({per_split})"
        f"{why if first_is_given else ''}"
    )


def describe_ends(
    name: str,
    last_times: np.ndarray,
    has_end: np.ndarray,
    gaps: np.ndarray,
    unit: str | None = None,
    origin: str | None = None,
) -> str | None:
    """Say what it means that no end of observation is given although sequences end at very different times.

    None if all is well.

    Args:
        name: of the data set.
        last_times: float64 (num_sequences,), time of the last event of each sequence that has one.
        has_end: bool (num_sequences,), the sequence has a t_end.
        gaps: float64 (num_scored,), scored inter-times.
        unit, origin: of the times, where known; with an origin times are shown as timestamps.
    """
    positive = gaps[gaps > 0]
    without = last_times[~has_end]
    if len(without) < 2 or 2 * len(without) <= len(last_times) or len(positive) == 0:
        return None
    low, high = np.quantile(without, MIDDLE)
    if high - low <= MANY_GAPS * np.median(positive):
        return None
    first, last = (_time_in_words(edge, unit, origin) for edge in (low, high))
    return (
        f"{name}: no end of observation is given, and the sequences end at very different times (80 % of their last "
        "events "
        f"lie between {first} and {last}). Each is taken as observed until its last event only, so that the model "
        "learns "
        "nothing of the silence after it, and samples go on after a sequence that is over. If they were observed "
        "longer, say "
        "so: t_end: last (all until the last time of the log), a time, or the name of a column"
    )


def _time_in_words(time: float, unit: str | None, origin: str | None) -> str:
    from tppsd.data.units import NANOSECONDS

    if origin is None or unit not in NANOSECONDS:
        return f"{time:.6g}{f' {unit}' if unit else ''}"
    nanoseconds = np.timedelta64(round(time * NANOSECONDS[unit]), "ns")
    return to_text((np.datetime64(origin, "ns") + nanoseconds).astype("datetime64[s]"))
