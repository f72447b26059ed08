"""`tppsd verify FOLDER`: are the files of a job all there, and are they what was written?

It reads every file that `tppsd predict`, `forecast` or `backtest` has written in chunks, with the checksums of its
pages, and compares its rows, its indices and the SHA-256 of its bytes with the manifest of the job; catalogue forecasts
are compared with the file of the chunk that they were written with. What is missing or damaged is named, one file a
line; giving the job's command again mends that, and does nothing else again.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tppsd.commands.console import CommandParser
from tppsd.data.paths import for_arrow
from tppsd.lightning.chunks import ItemChunks
from tppsd.lightning.job_folder import JOB, MANIFEST, check_names, read_record
from tppsd.lightning.job_kinds import PREDICT, JobKind, kind_of
from tppsd.lightning.shards import ForeignShardError, Shard, faults, file_hash, parse_name, shard_name


def parser() -> CommandParser:
    """Return the parser of the command line."""
    about = (__doc__ or "").partition("\n\n")[2]
    parser = CommandParser("tppsd verify", about, ("tppsd verify outputs/samples", "tppsd verify outputs/forecast"))
    parser.add_argument(
        "folder",
        type=Path,
        help="what was given to predict as --writer.output_dir, to forecast or backtest as --output",
    )
    return parser


def main(args: list[str]) -> None:
    """Print what is wrong; exit status 1 if anything is.

    Raises:
        ValueError: not a folder of samples, or nobody knows of which job.
    """
    folder: Path = parser().parse_args(args).folder
    if not (folder / JOB).is_file():
        raise ValueError(f"{folder} is not a folder of samples, forecasts or scores: no job has left its {JOB} there")
    job = read_record(folder / JOB)
    kind = kind_of(job)
    check_names(folder, kind=kind)
    if (folder / MANIFEST).exists():
        num_files, wrong = _compared(folder, job)
    else:
        num_files, wrong = _unfinished(folder, job)
    for line in wrong:
        print(line)
    if wrong:
        print(
            f"{folder}: {len(wrong)} things are not as they must be; the same `tppsd {kind.command}` mends what is "
            "missing"
        )
        raise SystemExit(1)
    print(f"{folder}: all {num_files} files are there and as they were written")
    look = f"tppsd inspect {shlex.quote(str(folder))}, or " if kind is PREDICT else ""
    table = next((name for name in kind.results if name.endswith(".parquet")), "")  # samples: the folder itself
    print(f"Next: {look}pandas.read_parquet({str(folder / table)!r})")


def _compared(folder: Path, job: dict[str, Any]) -> tuple[int, list[str]]:
    """Number of files in the manifest, and what differs from it."""
    manifest = read_record(folder / MANIFEST)
    try:
        entries = [(Shard(s["name"], s["first_index"], s["last_index"] - s["first_index"] + 1), s["sha256"])
                   for s in manifest["shards"]]  # fmt: skip
        results = {r["name"]: r["sha256"] for r in manifest.get("results", [])}
        attached = {name for s in manifest["shards"] for name in s.get("attached", {})}
        recorded = manifest["job"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error})") from None
    wrong = [f"{JOB}: is not the job of the manifest"] if recorded != job else []
    for shard, sha256 in entries:
        wrong += _line(folder, shard, job, sha256)
    for name, sha256 in results.items():
        if not (folder / name).is_file():
            wrong.append(f"{name}: is missing")
        elif file_hash(folder / name) != sha256:
            wrong.append(f"{name}: its SHA-256 is not that of the manifest")
    known, kind = {shard.name for shard, _ in entries} | attached, kind_of(job)
    there = [kind.folder + path.name for path in (folder / kind.folder).glob("*.parquet")]
    there += [kind.attached + path.name for path in (folder / kind.attached).glob("*")] if kind.attached else []
    extra = sorted(name for name in there if name not in known)
    return len(known) + len(results), wrong + [f"{name}: is not in the manifest" for name in extra]


def _unfinished(folder: Path, job: dict[str, Any]) -> tuple[int, list[str]]:
    """Compare the files of a job without a manifest with what its record, or the files themselves, say."""
    kind = kind_of(job)
    paths = (folder / kind.folder).glob("*.parquet")
    found = sorted(number for path in paths if (number := parse_name(path.name, kind)) is not None)
    if not found:
        return 0, [f"{MANIFEST}: is missing, and so are all files: the job was never finished"]
    wrong = [f"{MANIFEST}: is missing: the job was never finished"]
    there = {chunk for chunk, _ in found}
    shards = _shards_of_samples(folder, found) if kind is PREDICT else _shards(job, kind)
    for chunk, shard in enumerate(shards):
        wrong += _line(folder, shard, job) if chunk in there else [f"{shard.name}: is missing"]
    return len(shards), wrong


def _shards(job: dict[str, Any], kind: JobKind) -> list[Shard]:
    """Return the shards that a job is to have, by its record."""
    try:
        chunks = ItemChunks(int(job["num_items"]), int(job["chunk_size"]), {})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{JOB} is damaged ({type(error).__name__}: {error})") from None
    every = ((chunk, chunks.indices(chunk)) for chunk in range(len(chunks)))
    return [Shard(shard_name(chunk, len(chunks), kind), own.start, len(own)) for chunk, own in every]


def _shards_of_samples(folder: Path, found: list[tuple[int, int]]) -> list[Shard]:
    """Return the shards of a predict job: the files say how many there are to be, and how many rows a chunk has."""
    num_chunks = found[0][1]
    there = {chunk: _num_rows(folder / shard_name(chunk, num_chunks)) for chunk, _ in found}
    full = [rows for chunk, rows in there.items() if chunk < num_chunks - 1 and rows is not None]
    usual = max(full, key=full.count, default=None)  # all chunks but the last have as many
    shards = []
    for chunk in range(num_chunks):
        rows = (there.get(chunk) or 0) if usual is None or chunk == num_chunks - 1 else usual
        shards.append(Shard(shard_name(chunk, num_chunks), chunk * (rows if usual is None else usual), rows))
    return shards


def _num_rows(path: Path) -> int | None:
    """Return what a file says that it holds; None: it cannot be read."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(for_arrow(path)).num_rows)
    except Exception:  # whatever the reader meets; `fault` will say it
        return None


def _line(folder: Path, shard: Shard, job: dict[str, Any], sha256: str | None = None) -> list[str]:
    try:
        found = faults(folder, shard, job, sha256)
    except ForeignShardError:
        found = [(shard.name, f"holds {kind_of(job).content} of another job")]
    return [f"{name}: {what}" for name, what in found]
