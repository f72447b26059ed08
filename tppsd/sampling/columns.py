"""The Parquet columns of sampled sequences: those of EasyTPP, the window, and where each row comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.data.whole_files import whole_or_absent

if TYPE_CHECKING:
    import pyarrow


def to_table(columns: dict[str, list[Any]]) -> pyarrow.Table:
    """Return the columns of `SampledSequences.to_columns` as an Arrow table; one value per sequence in each."""
    import pyarrow as pa

    times, marks = pa.list_(pa.float64()), pa.list_(pa.int64())
    types = {
        "dim_process": pa.int64(), "seq_idx": pa.int64(), "seq_len": pa.int64(), "time_since_start": times,
        "time_since_last_event": times, "type_event": marks, "mark_names": pa.list_(pa.string()),
        "t_start": pa.float64(),
        "t_end": pa.float64(),
        "history_index": pa.int64(), "path_index": pa.int64(), "truncated": pa.bool_(), "stopped": pa.bool_(),
        "history_id": pa.string(),
        "target_hash": pa.string(),
        "draft_hash": pa.string(), "seed": pa.int64(), "options": pa.string(), "batch_size": pa.int64(),
        "choice": pa.string(), "time_unit": pa.string(), "time_origin": pa.string(),
    }  # fmt: skip
    return pa.table(columns, schema=pa.schema(list(types.items())))


def write_durably(table: pyarrow.Table, path: str | Path) -> Path:
    """Write a table to one Parquet file, with a checksum of every page.

    The file appears under its name when all of it is on the disk; its folder is made where there is none.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    with whole_or_absent(path, is_synced=True) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Have a rename in `folder` survive a loss of power, where the system can promise that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor can every network file system
        pass
    finally:
        os.close(descriptor)
