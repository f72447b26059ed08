"""Whether two data sets are the same, however they were read."""

from __future__ import annotations

import torch

from tppsd.data.reading import EventDataset


def same(one: EventDataset, other: EventDataset) -> bool:
    """Whether two data sets have the same sequences, down to the last bit, and the same words for them."""
    assert (one.num_marks, one.mark_names, one.time_unit, one.time_origin) == (
        other.num_marks, other.mark_names, other.time_unit, other.time_origin)  # fmt: skip
    assert list(one.splits) == list(other.splits)
    for split, part in one.splits.items():
        for a, b in zip(part, other.splits[split], strict=True):
            assert (a.id, a.index, a.t_start, a.t_end, a.score_start, a.censored_start) == (
                b.id, b.index, b.t_start, b.t_end, b.score_start, b.censored_start)  # fmt: skip
            for x, y in ((a.event_times, b.event_times), (a.inter_times, b.inter_times), (a.marks, b.marks)):
                assert torch.equal(x, y)
            assert (a.timestamps is None) == (b.timestamps is None)
            assert a.timestamps is None or b.timestamps is None or torch.equal(a.timestamps, b.timestamps)
    return True
