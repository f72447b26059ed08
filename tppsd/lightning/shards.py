"""The files of a sampling job, one per chunk: how they are named, written and checked.

It knows no Lightning.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tppsd.sampling.columns import write_parquet

if TYPE_CHECKING:
    from tppsd.sampling.results import SampledSequences

_NAME = re.compile(r"train-(\d{5,})-of-(\d{5,})\.parquet")
_LEFT_OVER = re.compile(r"\.{1,2}(train-\d+-of-\d+\.parquet|job\.json|manifest\.json)\.\d+(\.\d+)?")
_JOB_KEY = b"tppsd.job"  # of the metadata of a file: the fingerprint of its job


class Shard(NamedTuple):
    """Says what a file must hold: the sequences with indices first ... first + rows - 1."""

    name: str
    first: int
    rows: int


class ForeignShardError(ValueError):
    """Says that a file is of another job, which must not be replaced."""


def shard_name(chunk: int, num_chunks: int) -> str:
    """Return the file name of a chunk; names sort by index."""
    return f"train-{chunk:05d}-of-{num_chunks:05d}.parquet"


def parse_name(name: str) -> tuple[int, int] | None:
    """Return chunk and number of chunks of a file name; None for other names."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def fingerprint(job: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of a job's plain values."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def write_shard(samples: SampledSequences, path: Path, job: dict[str, Any]) -> None:
    """Write the samples of a chunk with the fingerprint of their job; the file appears when all of it is on the disk.

    Raises:
        OSError: it cannot be written; names the file.
    """
    try:
        write_parquet(samples.to_columns(), path, {_JOB_KEY: fingerprint(job).encode()})
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot be written: {error}", str(path)) from error


def fault(folder: Path, shard: Shard, job: dict[str, Any], sha256: str | None = None) -> str | None:
    """Return what is wrong with a file, in a few words; None: it holds what it must.

    All of it is read, with the checksums of its pages, and its indices are compared.

    Args:
        sha256: that of the file's bytes, where a manifest has it.

    Raises:
        ForeignShardError: an intact file of another job.
    """
    path = folder / shard.name
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is a folder"
    if sha256 is not None and file_hash(path) != sha256:
        return "is damaged: its SHA-256 is not that of the manifest"
    try:
        indices, owner, columns = _read(path)
    except Exception as error:  # whatever the reader meets in a damaged file
        return f"is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    wrong = [name for name, values in columns.items() if values - {job.get(name)}]
    if owner not in (None, fingerprint(job)) or wrong:
        raise ForeignShardError(f"{path} holds samples of another job; move it away, or delete it")
    if indices != list(range(shard.first, shard.first + shard.rows)):
        found = f"{len(indices)} sequences from {indices[0]}" if indices else "no sequences"
        return f"holds {found}, not {shard.rows} from {shard.first}"
    return None


def _read(path: Path) -> tuple[list[int], str | None, dict[str, set[Any]]]:
    """Return indices, fingerprint of the job, and the values that say whose samples they are.

    Files from before there were fingerprints have these values.
    """
    import pyarrow.parquet as pq

    indices: list[int] = []
    columns: dict[str, set[Any]] = {"seed": set()}
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        owner = (file.schema_arrow.metadata or {}).get(_JOB_KEY)
        for batch in file.iter_batches():
            indices += batch.column("seq_idx").to_pylist()
            for name, values in columns.items():
                values |= set(batch.column(name).to_pylist())
    return indices, None if owner is None else owner.decode(), columns


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_left_overs(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; nobody may be writing meanwhile."""
    for path in folder.glob(".*"):
        if _LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
