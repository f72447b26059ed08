"""Ties: inter-times of 0, which no log-normal density can score, and the floor that is declared for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence

Splits = Mapping[str, Sequence[EventSequence]]


def scored_inter_times(sequences: Sequence[EventSequence]) -> Tensor:
    """Return the inter-times with a likelihood term, float64 (num_scored,)."""
    return torch.cat([sequence.inter_times[sequence.num_given :] for sequence in sequences])


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
    if not any((scored_inter_times(sequences) == 0).any() for sequences in splits.values()):
        return 0.0
    train = scored_inter_times(splits["train"])
    positive = train[train > 0]
    return float(positive.min()) / 2 if len(positive) else 0.0


def describe_ties(name: str, splits: Splits, floor: float, declared: bool, num_marks: int = 1) -> str | None:
    """Return one sentence that counts the ties of each split, inter-times not above the floor; None without any."""
    counts = {split: int((scored_inter_times(sequences) <= floor).sum()) for split, sequences in splits.items()}
    tied, total = sum(counts.values()), sum(len(scored_inter_times(sequences)) for sequences in splits.values())
    if tied == 0:
        return None
    per_split = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    if floor == 0:
        return (
            f"{name}: {tied:,} of {total:,} inter-times are 0 ({per_split}); min_inter_time = 0 leaves them without a "
            "density"
        )
    origin = "as declared" if declared else "half the smallest positive inter-time of the training split"
    found = f"{name}: {tied:,} of {total:,} inter-times are ties ({per_split})"
    order = (
        ""
        if num_marks == 1
        else "; events of a tie keep the order of the data, on which the score of their marks depends"
    )
    return f"{found}, floored at {floor:.6g} in training and scoring: {origin}{order}"
