"""The files of a job, one per chunk: how they are named, written and checked.

It knows no Lightning.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tppsd.data.paths import for_arrow
from tppsd.data.whole_files import whole_or_absent
from tppsd.lightning.job_kinds import PREDICT, JobKind, kind_of
from tppsd.sampling.columns import write_durably

if TYPE_CHECKING:
    import pyarrow

_NAME = r"{}-(\d{{5,}})-of-(\d{{5,}})\.parquet"
_LEFT_OVER = r"\.{{1,2}}({}-\d+-of-\d+\.parquet|job\.json|manifest\.json|{})\.\d+(\.\d+)?"
_LEFT_OVER_ATTACHED = r"\..+\.csv\.\d+"
_JOB_KEY = b"tppsd.job"  # of the metadata of a file: the fingerprint of its job,
_ATTACHED_KEY = b"tppsd.attached"  # and the SHA-256 of each file that belongs to it, as JSON


class Shard(NamedTuple):
    """Says what a file must hold: the items (of predict: sequences) with indices first ... first + rows - 1."""

    name: str
    first: int
    rows: int


class ForeignShardError(ValueError):
    """Says that a file is of another job, which must not be replaced."""


def shard_name(chunk: int, num_chunks: int, kind: JobKind = PREDICT) -> str:
    """Return the file name of a chunk, as seen from the job's folder; names sort by index."""
    return f"{kind.folder}{kind.prefix}-{chunk:05d}-of-{num_chunks:05d}.parquet"


def parse_name(name: str, kind: JobKind = PREDICT) -> tuple[int, int] | None:
    """Return chunk and number of chunks of a file name; None for other names."""
    match = re.fullmatch(_NAME.format(kind.prefix), name)
    return None if match is None else (int(match[1]), int(match[2]))


def fingerprint(job: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of a job's plain values."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def with_attached(table: pyarrow.Table, hashes: Mapping[str, str]) -> pyarrow.Table:
    """Return the rows of a chunk with the SHA-256 of each file that belongs to them, by its name."""
    if not hashes:
        return table
    metadata = {**(table.schema.metadata or {}), _ATTACHED_KEY: json.dumps(dict(hashes)).encode()}
    return table.replace_schema_metadata(metadata)


def write_shard(table: pyarrow.Table, path: Path, job: dict[str, Any]) -> None:
    """Write the rows of a chunk with the fingerprint of their job; the file appears when all of it is on the disk.

    Raises:
        UnwritableError: it cannot be written.
    """
    metadata = {**(table.schema.metadata or {}), _JOB_KEY: fingerprint(job).encode()}
    write_durably(table.replace_schema_metadata(metadata), path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file takes its own, of `path`, when all of it is on the disk.

    Raises:
        UnwritableError: it cannot be written.
    """
    with whole_or_absent(path, is_synced=True) as temporary:
        yield temporary


def fault(folder: Path, shard: Shard, job: dict[str, Any], sha256: str | None = None) -> str | None:
    """Return what is wrong with a file, in a few words; None: it holds what it must.

    All of it is read, with the checksums of its pages, and its indices are compared.

    Args:
        sha256: that of the file's bytes, where a manifest has it.

    Raises:
        ForeignShardError: an intact file of another job.
    """
    path, kind = folder / shard.name, kind_of(job)
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is a folder"
    if sha256 is not None and file_hash(path) != sha256:
        return "is damaged: its SHA-256 is not that of the manifest"
    try:
        indices, owner, columns = _read(path, kind)
    except Exception as error:  # whatever the reader meets in a damaged file
        return f"is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    wrong = [name for name, values in columns.items() if values - {job.get(name)}]
    if owner not in (None, fingerprint(job)) or wrong:
        raise ForeignShardError(f"{path} holds {kind.content} of another job; move it away, or delete it")
    if indices != list(range(shard.first, shard.first + shard.rows)):
        what = "sequences" if kind is PREDICT else "items"
        found = f"{len(indices)} {what} from {indices[0]}" if indices else f"no {what}"
        return f"holds {found}, not {shard.rows} from {shard.first}"
    return None


def attached_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that belongs to a shard, by its name as seen from the job's folder."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(for_arrow(path)).metadata or {}
    return {str(name): str(own) for name, own in json.loads(metadata.get(_ATTACHED_KEY, b"{}")).items()}


def faults(folder: Path, shard: Shard, job: dict[str, Any], sha256: str | None = None) -> list[tuple[str, str]]:
    """Return what is wrong with a shard, or with the files that belong to it: their names, each with a few words.

    Args, raises: as of `fault`.
    """
    if (found := fault(folder, shard, job, sha256)) is not None:
        return [(shard.name, found)]
    try:
        attached = attached_files(folder / shard.name)
    except Exception as error:  # the footer has no checksum
        return [(shard.name, f"is damaged ({type(error).__name__})")]
    if "format" in job and len(attached) != shard.rows:
        return [(shard.name, f"is damaged: it names {len(attached)} of the {shard.rows} files that belong to it")]
    wrong = []
    for name, own in attached.items():
        if not (folder / name).is_file():
            wrong.append((name, "is missing"))
        elif file_hash(folder / name) != own:
            wrong.append((name, f"is damaged: its SHA-256 is not that of {shard.name}"))
    return wrong


def _read(path: Path, kind: JobKind) -> tuple[list[int], str | None, dict[str, set[Any]]]:
    """Return indices, fingerprint of the job, and the values that say whose samples they are.

    Samples from before there were fingerprints have these values. Rows of one item stand together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    indices: list[int] = []
    columns: dict[str, set[Any]] = {"seed": set()} if kind is PREDICT else {}
    with pq.ParquetFile(for_arrow(path), page_checksum_verification=True) as file:
        owner = (file.schema_arrow.metadata or {}).get(_JOB_KEY)
        twice = (file.metadata.metadata or {}).get(b"ARROW:schema")  # the footer has no checksum, but its names twice
        if twice and pa.ipc.read_schema(pa.py_buffer(base64.b64decode(twice))).names != file.schema_arrow.names:
            raise ValueError("its footer has two names for one column")
        for batch in file.iter_batches():
            indices += batch.column(kind.item_column).to_pylist()
            for name, values in columns.items():
                values |= set(batch.column(name).to_pylist())
    if not kind.is_unique:
        indices = [index for index, _ in groupby(indices)]
    return indices, None if owner is None else owner.decode(), columns


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_left_overs(folder: Path, kind: JobKind = PREDICT) -> None:
    """Remove the temporary files of writers that were killed; nobody may be writing meanwhile."""
    pattern = re.compile(_LEFT_OVER.format(kind.prefix, "|".join(map(re.escape, kind.results)) or "-"))
    for place in {folder, folder / kind.folder}:
        for path in place.glob(".*"):
            if pattern.fullmatch(path.name):
                path.unlink(missing_ok=True)
    for path in (folder / kind.attached).glob(".*") if kind.attached else ():
        if re.fullmatch(_LEFT_OVER_ATTACHED, path.name):
            path.unlink(missing_ok=True)
