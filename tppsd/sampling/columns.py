"""The Parquet columns of sampled sequences: those of EasyTPP, the window, and where each row comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tppsd.data.whole_files import whole_or_absent


def write_parquet(columns: dict[str, list[Any]], path: str | Path, metadata: dict[bytes, bytes] | None = None) -> Path:
    """Write the columns of `SampledSequences.to_columns` to one Parquet file, with a checksum of every page.

    The file appears under its name when all of it is on the disk.

    Args:
        columns: one value per sequence in each.
        path: of the file; its folder is made where there is none.
        metadata: kept in the file's schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, marks = pa.list_(pa.float64()), pa.list_(pa.int64())
    types = {
        "dim_process": pa.int64(), "seq_idx": pa.int64(), "seq_len": pa.int64(), "time_since_start": times,
        "time_since_last_event": times, "type_event": marks, "mark_names": pa.list_(pa.string()),
        "t_start": pa.float64(),
        "t_end": pa.float64(),
        "history_index": pa.int64(), "path_index": pa.int64(), "truncated": pa.bool_(), "stopped": pa.bool_(),
        "target_hash": pa.string(),
        "draft_hash": pa.string(), "seed": pa.int64(), "options": pa.string(), "batch_size": pa.int64(),
        "choice": pa.string(),
    }  # fmt: skip
    table = pa.table(columns, schema=pa.schema(list(types.items()), metadata=metadata))
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
