"""The Parquet columns of sampled sequences: those of EasyTPP, the window, and where each row comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tppsd.data.whole_files import whole_or_absent

if TYPE_CHECKING:
    import pyarrow

    from tppsd.sampling.results import SampledSequences


def to_table(samples: SampledSequences) -> pyarrow.Table:
    """Return one row per sequence of new events, with the columns of `SampledSequences.to_columns`."""
    import pyarrow as pa

    flat, num = samples.flat(), len(samples)
    offsets = pa.array(flat.offsets.numpy(), pa.int32())

    def lists(values: Tensor) -> Any:
        return pa.ListArray.from_arrays(offsets, pa.array(values.numpy()))

    def same(value: Any, kind: Any) -> Any:
        return pa.nulls(num, kind) if value is None else pa.repeat(pa.scalar(value, kind), num)

    text = pa.string()
    history_ids = [None if one.id is None else str(one.id) for one in samples.histories]
    return pa.table(
        {
            "dim_process": same(samples.num_marks, pa.int64()),
            "seq_idx": pa.array(samples.index.numpy()),
            "seq_len": pa.array(flat.lengths.numpy()),
            "time_since_start": lists(flat.event_times),
            "time_since_last_event": lists(flat.inter_times),
            "type_event": lists(flat.marks),
            "mark_names": same(None if samples.mark_names is None else list(samples.mark_names), pa.list_(text)),
            "t_start": pa.array(flat.t_start.numpy(), from_pandas=True),
            "t_end": pa.array(flat.t_end.numpy(), from_pandas=True),
            "history_index": pa.array(samples.history_index.numpy()),
            "path_index": pa.array(samples.path_index.numpy()),
            "truncated": pa.array(samples.truncated.numpy()),
            "stopped": pa.array(samples.stopped.numpy()),
            "history_id": pa.array(history_ids, text),
            "target_hash": same(samples.target_hash, text),
            "draft_hash": same(samples.draft_hash, text),
            "seed": same(samples.seed, pa.int64()),
            "options": same(json.dumps(samples.options.to_dict(), sort_keys=True), text),
            "batch_size": same(samples.batch_size, pa.int64()),
            "choice": same(samples.stats.choice, text),
            "time_unit": same(samples.time_unit, text),
            "time_origin": same(samples.time_origin, text),
        }
    )


def write_durably(table: pyarrow.Table, path: str | Path) -> Path:
    """Write a table to one Parquet file, with a checksum of every page.

    The file appears under its name when all of it is on the disk; its folder is made where there is none.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    with whole_or_absent(path, is_synced=True) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return path
