"""The canonical Parquet file of a log: EasyTPP columns, windows, ids and the vocabulary, as it reads back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tppsd.data.clocks import inter_times
from tppsd.data.list_table import CENSORED, NAMES, ORIGIN, STAMPS, UNIT
from tppsd.data.log import EventLog
from tppsd.data.paths import for_arrow, local_path
from tppsd.data.sequence_table import SequenceTable, no_ticks


def write_parquet(log: EventLog, path: str | Path) -> Path:
    """Write all splits of a log to one Parquet file (zstd); an interrupted write leaves nothing behind.

    Columns: those of EasyTPP (dim_process, seq_idx, seq_len, time_since_start, time_since_last_event, type_event),
    split, sequence (the id), t_start, t_end, score_start, censored_start, timestamps (where times are), and in every
    row mark_names, time_unit and time_origin. t_start, t_end and score_start are timestamps where the times are.

    Raises:
        ValueError: the path does not end in .parquet.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    path = local_path(path)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path}: the canonical file is Parquet; give a name that ends in .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parquet.write_table(
            pyarrow.concat_tables(to_table(log, split) for split in log.parts), for_arrow(temporary), compression="zstd"
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def to_table(log: EventLog, split: str) -> Any:
    """Return the Arrow table of a split, one row per sequence."""
    import pyarrow as pa

    part, clock, names = log.parts[split], log.clock, log.vocabulary.names
    offsets, num_rows = pa.array(part.offsets, pa.int64()), len(part)

    def lists(values: Any) -> Any:
        return pa.LargeListArray.from_arrays(offsets, values)

    columns = {
        "split": pa.array([split] * num_rows).dictionary_encode(),
        "dim_process": np.full(num_rows, log.vocabulary.num_marks),
        "seq_idx": np.arange(num_rows),
        "seq_len": part.lengths,
        "time_since_start": lists(pa.array(clock.times(part.event_times))),
        "time_since_last_event": lists(pa.array(inter_times(part, clock))),
        "type_event": lists(pa.array(log.marks[split])),
        "t_start": _ticks(part.t_start),
        "t_end": _ticks(part.t_end),
        "score_start": _ticks(no_ticks(part.event_times, num_rows) if part.score_start is None else part.score_start),
        CENSORED: np.zeros(num_rows, dtype=bool) if part.is_cut is None else part.is_cut,
        NAMES: _constant(None if names is None else list(names), pa.list_(pa.string()), num_rows),
        UNIT: _constant(clock.unit, pa.string(), num_rows),
        ORIGIN: _constant(log.time_origin, pa.string(), num_rows),
    }
    if part.sequence_ids is not None:
        columns["sequence"] = _ids(part)
    if clock.has_dates:
        columns[STAMPS] = lists(_ticks(part.event_times))
    return pa.table(columns)


def _ticks(ticks: np.ndarray) -> Any:
    """Return an Arrow array of times: timestamps in UTC or numbers, null where there is none."""
    import pyarrow as pa

    if ticks.dtype.kind == "M":
        return pa.array(ticks).cast(pa.timestamp("ns")).cast(pa.timestamp("ns", "UTC"))
    return pa.array(ticks, from_pandas=True)


def _constant(value: Any, kind: Any, num_rows: int) -> Any:
    import pyarrow as pa

    return (
        pa.nulls(num_rows, kind)
        if value is None
        else pa.array([value], kind).take(pa.array(np.zeros(num_rows, dtype=np.int64)))
    )


def _ids(part: SequenceTable) -> Any:
    """Return the ids as they are where all have one type, else as text."""
    import pyarrow as pa

    assert part.sequence_ids is not None
    try:
        return pa.array(part.sequence_ids.tolist())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(list(map(str, part.sequence_ids)))
