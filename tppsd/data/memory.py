"""Memory: what reading a file takes of it, what is free, and what to do where it is not enough."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PER_BYTE = {
    ".csv": 3,
    ".tsv": 3,
    ".json": 10,
    ".jsonl": 10,
}  # bytes of memory per byte of text: 3 measured, 10 guessed
_PER_CELL = 28  # bytes of memory per cell of Parquet, a row of a column; measured: 21 in rows of numbers, 27 with text
_PER_PARQUET_BYTE = 3.2  # likewise per byte before compression, which counts where cells are lists; 3.1 measured
_LARGE = 0.5  # of the free memory


def wanted(file: Path) -> int | None:
    """Return how many bytes of memory reading a local file takes at its peak, about; None where nothing tells.

    10^6 sequences of eight events took 3 bytes per byte of CSV (218 MB), 21 to 27 per cell of Parquet with a row per
    event, and 3.1 per byte with lists. What is known of single columns is not asked for: Arrow ends the process where
    that is damaged.
    """
    import pyarrow.parquet as parquet

    suffix = file.suffix.lower()
    if suffix == ".parquet" and file.is_file():
        metadata: Any = parquet.ParquetFile(file.absolute()).metadata
        num_bytes = sum(int(metadata.row_group(i).total_byte_size) for i in range(metadata.num_row_groups))
        num_cells = int(metadata.num_rows) * int(metadata.num_columns)
        return max(_PER_CELL * num_cells, int(_PER_PARQUET_BYTE * num_bytes))
    return _PER_BYTE[suffix] * file.stat().st_size if suffix in _PER_BYTE else None


def free() -> int | None:
    """Return how many bytes of memory this process may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    import resource

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    return min([available, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def warn_of_size(file: Path) -> None:
    """Warn before a file is read that may take more than half of the free memory."""
    needed, available = wanted(file), free()
    if needed is not None and available is not None and needed > _LARGE * available:
        warnings.warn(
            f"{file}: reading it takes about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; "
            f"{_way_out(file)}",
            stacklevel=2,
        )


@contextlib.contextmanager
def memory_for(source: Any) -> Iterator[None]:
    """Say in a sentence that the memory did not suffice to read a source, and what to do.

    Raises:
        ValueError: it did not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = source if isinstance(source, str | Path) else type(source).__name__
        raise ValueError(f"{where}: there is not enough memory to read it as a whole; {_way_out(where)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory was asked for and not given, as Python, NumPy, Arrow and torch say it."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error)


def _way_out(source: str | Path) -> str:
    command = shlex.join(["tppsd", "convert", str(source), f"{Path(source).stem}.arrow"])
    return (
        f"`{command}` writes a file whose events stay on the disk while a model is trained (Parquet, CSV and TSV are "
        "read block by block for it)"
    )
