"""Data in memory: tables of pandas, polars, Arrow and `datasets`, and lists of EventSequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tppsd.data.sequence_table import SequenceTable
from tppsd.data.sequences import EventSequence

TABLES = "a table of pandas, polars, Arrow or datasets, a list of EventSequence, or a dict of them by split"


def is_sequences(source: Any) -> bool:
    """Say whether an object is a list or tuple of EventSequence."""
    return isinstance(source, Sequence) and bool(source) and all(isinstance(one, EventSequence) for one in source)


def is_mapping(source: Any) -> bool:
    """Say whether an object is a dict of splits, such as a `datasets.DatasetDict`."""
    return isinstance(source, Mapping)


def name_of(source: Any) -> str:
    """Return what messages call an object in memory."""
    return type(source).__name__


def to_arrow(source: Any) -> Any:
    """Return an Arrow table of an object in memory.

    Raises:
        TypeError: it is no table.
    """
    import pyarrow

    if isinstance(source, pyarrow.Table):
        return source
    module = type(source).__module__.split(".")[0]
    if module == "datasets":
        return source.with_format("arrow")[:]
    if module == "pandas":
        keeps_index = source.index.name is not None or str(source.index.dtype).startswith("datetime")
        return pyarrow.Table.from_pandas(source.reset_index() if keeps_index else source, preserve_index=False)
    if hasattr(source, "__arrow_c_stream__"):
        return pyarrow.table(source)
    raise TypeError(f"cannot read a {type(source).__name__}; give a path, a hub id, {TABLES}")


def from_sequences(source: str, sequences: Sequence[EventSequence]) -> SequenceTable:
    """Return the table of sequences that are in memory already; their own windows, ids and given events are kept."""
    import pyarrow

    lengths = np.array([len(one) for one in sequences])
    score_start = [np.nan if one.score_start is None else one.score_start for one in sequences]
    ids = [one.id for one in sequences] if any(one.id is not None for one in sequences) else []
    is_cut = np.array([one.censored_start for one in sequences])
    return SequenceTable(
        source=source,
        columns={"time": "event_times", "mark": "marks"},
        event_times=np.concatenate([one.event_times.double().numpy() for one in sequences]),
        marks=pyarrow.array(np.concatenate([one.marks.numpy() for one in sequences])),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        inter_times=np.concatenate([one.inter_times.double().numpy() for one in sequences]),
        t_start=np.array([np.nan if one.t_start is None else one.t_start for one in sequences]),
        t_end=np.array([np.nan if one.t_end is None else one.t_end for one in sequences]),
        num_marks=None,
        rows=np.arange(len(sequences)),
        one_row_each=True,
        sequence_ids=None if not ids else _objects(ids),
        score_start=np.array(score_start) if not np.isnan(score_start).all() else None,
        is_cut=is_cut if is_cut.any() else None,
    )


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Return an array of objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
