"""Sampled sequences as a table: the EasyTPP columns, the window, and where each row comes from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tppsd.sampling.samples import SampledSequences


def to_columns(samples: SampledSequences) -> dict[str, list[Any]]:
    """One row per sequence of new events.

    Columns: dim_process, seq_idx, seq_len, time_since_start, time_since_last_event, type_event (EasyTPP; times on the
    data's own clock); mark_names (of marks 0, 1, ...; null where the target's data had numbers); t_start and t_end
    (null where the first event is given, or where the sequence ended by its number of events); history_index,
    path_index, truncated, target_hash, draft_hash, seed, options (JSON), batch_size (rows in flight: together with the
    options it gives the same sequences again); choice (what method = "auto" chose and why; null for others).
    """
    sequences = list(samples)
    provenance = {
        "target_hash": samples.target_hash,
        "draft_hash": samples.draft_hash,
        "seed": samples.seed,
        "options": json.dumps(samples.options.to_dict(), sort_keys=True),
        "batch_size": samples.batch_size,
        "choice": samples.stats.choice,
    }
    return {
        "dim_process": [samples.num_marks] * len(sequences),
        "seq_idx": samples.index.tolist(),
        "seq_len": [len(s) for s in sequences],
        "time_since_start": [s.event_times.tolist() for s in sequences],
        "time_since_last_event": [s.inter_times.tolist() for s in sequences],
        "type_event": [s.marks.tolist() for s in sequences],
        "mark_names": [None if samples.mark_names is None else list(samples.mark_names)] * len(sequences),
        "t_start": [s.t_start for s in sequences],
        "t_end": [s.t_end for s in sequences],
        "history_index": samples.history_index.tolist(),
        "path_index": samples.path_index.tolist(),
        "truncated": samples.truncated.tolist(),
        **{name: [value] * len(sequences) for name, value in provenance.items()},
    }


def write_parquet(samples: SampledSequences, path: str | Path) -> Path:
    """Write the columns to one Parquet file, through a temporary name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, marks = pa.list_(pa.float64()), pa.list_(pa.int64())
    types = {
        "dim_process": pa.int64(), "seq_idx": pa.int64(), "seq_len": pa.int64(), "time_since_start": times,
        "time_since_last_event": times, "type_event": marks, "mark_names": pa.list_(pa.string()), "t_start": pa.float64(),
        "t_end": pa.float64(),
        "history_index": pa.int64(), "path_index": pa.int64(), "truncated": pa.bool_(), "target_hash": pa.string(),
        "draft_hash": pa.string(), "seed": pa.int64(), "options": pa.string(), "batch_size": pa.int64(),
        "choice": pa.string(),
    }  # fmt: skip
    table = pa.table(to_columns(samples), schema=pa.schema(list(types.items())))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
