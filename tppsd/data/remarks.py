"""What a user should know of a data set before training: sequences without a scored event, and how sequences end."""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.data.reading import EventDataset
from tppsd.data.ties import scored_inter_times

MIDDLE = (0.1, 0.9)  # the quantiles of the last events between which ...
MANY_GAPS = 10  # ... so many median inter-times must lie for sequences to "end at very different times"


def remarks(dataset: EventDataset) -> list[str]:
    """Sentences about the training split."""
    return [remark for remark in (describe_unscored(dataset), describe_ends(dataset)) if remark is not None]


def describe_unscored(dataset: EventDataset) -> str | None:
    """How many sequences of each split have no event with a likelihood term; None if all have one."""
    counts = {split: sum(one.num_scored == 0 for one in part) for split, part in dataset.splits.items()}
    if not any(counts.values()):
        return None
    total = sum(map(len, dataset.splits.values()))
    is_given = any(one.first_is_given and one.num_scored == 0 for one in dataset.sequences("train"))
    why = ": their only event is given (t_start would say since when they are observed)" if is_given else ""
    per_split = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return f"{dataset.name}: {sum(counts.values()):,} of {total:,} sequences have no event that is scored ({per_split}){why}"


def describe_ends(dataset: EventDataset) -> str | None:
    """What it means that no end of observation is given although sequences end at very different times, or None."""
    train = [one for one in dataset.sequences("train") if len(one)]
    without = [one for one in train if one.t_end is None]
    if dataset.window is not None or 2 * len(without) <= len(train):
        return None
    spread = end_spread(torch.stack([one.event_times[-1] for one in without]), scored_inter_times(train))
    if spread is None:
        return None
    first, last = (f"{edge:.4g}" for edge in spread)
    unit = f" {dataset.time_unit}" if dataset.time_unit else ""
    return (
        f"{dataset.name}: no end of observation is given, and the sequences end at very different times (80 % of their last "
        f"events lie between {first} and {last}{unit}). Each is taken as observed until its last event only, so that the model "
        "learns nothing of the silence after it, and forecasts go on after a sequence that is over. If they were observed "
        "longer, say so: t_end: last (all until the last time of the log), a time, or the name of a column"
    )


def end_spread(last_times: Tensor, inter_times: Tensor) -> tuple[float, float] | None:
    """The times between which 80 % of the last events lie, if that is many inter-times; else None."""
    positive = inter_times[inter_times > 0]
    if len(last_times) < 2 or len(positive) == 0:
        return None
    low, high = torch.quantile(last_times, last_times.new_tensor(MIDDLE)).tolist()
    return (low, high) if high - low > MANY_GAPS * float(positive.median()) else None
