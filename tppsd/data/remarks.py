"""What to know of a data set before training: ties and their floor, unscored sequences, their ends, and its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
from torch import Tensor

from tppsd.data.flat_sequences import BLOCK, FlatSequences
from tppsd.data.reading import EventDataset
from tppsd.data.sequences import EventSequence
from tppsd.data.units import to_text

Splits = Mapping[str, Sequence[EventSequence]]


def scored_inter_times(sequences: Sequence[EventSequence]) -> Iterator[Tensor]:
    """Yield the inter-times with a likelihood term, float64 (num_scored,), of one block of sequences after another."""
    for block in FlatSequences.of(sequences).blocks():
        yield block.of_scored(block.inter_times)


def typical_inter_times(flat: FlatSequences) -> np.ndarray:
    """Return inter-times with a likelihood term, float64: all, or about BLOCK of them from all over a larger split."""
    share = max(1, math.ceil(len(flat.event_times) / BLOCK))
    pieces = [own[: math.ceil(len(own) / share)].clone() for own in scored_inter_times(flat)]
    return np.concatenate([np.zeros(0), *(piece.numpy() for piece in pieces)])


def check_floor(min_inter_time: float | None) -> None:
    """Refuse a floor that is negative or not finite.

    Raises:
        ValueError: the floor is one.
    """
    if min_inter_time is not None and not (math.isfinite(min_inter_time) and min_inter_time >= 0):
        raise ValueError(
            f"min_inter_time = {min_inter_time} must be a finite number of at least 0, in the unit of the data"
        )


def default_floor(splits: Splits) -> float:
    """Return half the smallest positive inter-time of the training split if any split has ties, else 0 (no floor).

    Times of resolution r are multiples of r, so the smallest positive inter-time is r and a tie hides a true inter-time
    between 0 and r. Half of r lies in that range and below every positive inter-time of the training split: only ties
    move.
    """
    if not any((own == 0).any() for sequences in splits.values() for own in scored_inter_times(sequences)):
        return 0.0
    positive = (own[own > 0] for own in scored_inter_times(splits["train"]))
    return min((float(own.min()) for own in positive if len(own)), default=0.0) / 2


def describe_ties(
    name: str, splits: Splits, floor: float, declared: bool, num_marks: int = 1, unit: str | None = None
) -> str | None:
    """Return one sentence that counts the ties of each split, inter-times not above the floor; None without any."""
    counts, total = dict.fromkeys(splits, 0), 0
    for split, sequences in splits.items():
        for own in scored_inter_times(sequences):
            counts[split] += int((own <= floor).sum())
            total += len(own)
    tied = sum(counts.values())
    if tied == 0:
        return None
    per_split = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    if floor == 0:
        return (
            f"{name}: {tied:,} of {total:,} inter-times are 0 ({per_split}); min_inter_time = 0 leaves them without a "
            "density"
        )
    origin = "as min_inter_time says" if declared else "half the smallest positive inter-time of the training split"
    found = f"{name}: {tied:,} of {total:,} inter-times are ties ({per_split})"
    order = (
        ""
        if num_marks == 1
        else "; events of a tie keep the order of the data, on which the score of their marks depends"
    )
    return f"{found}, floored at {floor:.4g}{f' {unit}' if unit else ''} in training and scoring: {origin}{order}"


MIDDLE = (0.1, 0.9)  # the quantiles of the last events between which ...
COARSE = 1e-3  # of the median inter-time: a wider spacing of float64 at the latest time is said
MANY_GAPS = 10  # ... so many median inter-times must lie for sequences to "end at very different times"


def remarks(dataset: EventDataset) -> list[str]:
    """Return sentences about a data set, for the one who is about to train on it."""
    splits = {split: FlatSequences.of(part) for split, part in dataset.splits.items()}
    unscored = {split: int((part.num_scored == 0).sum()) for split, part in splits.items()}
    train = splits["train"]
    has_events = train.lengths > 0
    last_times, gaps = train.event_times[train.offsets[1:][has_events] - 1].numpy(), typical_inter_times(train)
    ends = describe_ends(
        dataset.name,
        last_times,
        (~train.t_end.isnan())[has_events].numpy(),
        gaps,
        dataset.time_unit,
        dataset.time_origin,
    )
    total = sum(map(len, dataset.splits.values()))
    first_is_given = bool(train.first_is_given.any())
    found = describe_unscored(dataset.name, unscored, total, first_is_given)
    latest = float(np.abs(last_times).max(initial=0.0))
    spacing = None
    if dataset.time_origin is None:  # inter-times of timestamps are exact
        spacing = describe_spacing(dataset.name, latest, gaps)
    said = (found, None if dataset.window is not None else ends, spacing)
    return [remark for remark in said if remark is not None]


def describe_spacing(name: str, latest: float, gaps: np.ndarray) -> str | None:
    """Say that float64 hardly tells neighbouring events apart at the latest time; None where it does.

    Args:
        name: of the data set.
        latest: the largest absolute value of a time.
        gaps: float64, scored inter-times, or many of them.
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
        gaps: float64, scored inter-times, or many of them.
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
        f"events lie between {first} and {last}). Each is taken as observed until its last event only, so that the "
        "model learns nothing of the silence after it, and samples go on after a sequence that is over. If they were "
        "observed longer, say so: t_end: last (all until the last time of the log), a time, or the name of a column"
    )


def _time_in_words(time: float, unit: str | None, origin: str | None) -> str:
    from tppsd.data.units import NANOSECONDS

    if origin is None or unit not in NANOSECONDS:
        return f"{time:.6g}{f' {unit}' if unit else ''}"
    nanoseconds = np.timedelta64(round(time * NANOSECONDS[unit]), "ns")
    return to_text((np.datetime64(origin, "ns") + nanoseconds).astype("datetime64[s]"))


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
