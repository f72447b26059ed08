"""`tppsd verify FOLDER`: are the files of a sampling job all there, and are they what was written?

It reads every file that `tppsd predict` has written, with the checksums of its pages, and compares its rows, its
indices and the SHA-256 of its bytes with the manifest of the job. What is missing or damaged is named, one file a line;
giving the job's `tppsd predict` again samples that, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tppsd.commands.console import CommandParser
from tppsd.lightning.job_folder import JOB, MANIFEST, check_names, read_record
from tppsd.lightning.shards import ForeignShardError, Shard, fault, parse_name, shard_name


def parser() -> CommandParser:
    """Return the parser of the command line."""
    about = (__doc__ or "").partition("\n\n")[2]
    parser = CommandParser("tppsd verify", about, ("tppsd verify outputs/samples",))
    parser.add_argument("folder", type=Path, help="what was given to predict as --writer.output_dir")
    return parser


def main(args: list[str]) -> None:
    """Print what is wrong; exit status 1 if anything is.

    Raises:
        ValueError: not a folder of samples, or nobody knows of which job.
    """
    folder: Path = parser().parse_args(args).folder
    if not (folder / JOB).is_file():
        raise ValueError(f"{folder} is not a folder of samples: `tppsd predict` has left no {JOB} there")
    job = read_record(folder / JOB)
    check_names(folder)
    if (folder / MANIFEST).exists():
        num_files, wrong = _compared(folder, job)
    else:
        num_files, wrong = _unfinished(folder, job)
    for line in wrong:
        print(line)
    if wrong:
        print(f"{folder}: {len(wrong)} things are not as they must be; the same `tppsd predict` mends what is missing")
        raise SystemExit(1)
    print(f"{folder}: all {num_files} files are there and as they were written")
    print(f"Next: tppsd inspect {folder}, or pandas.read_parquet({str(folder)!r})")


def _compared(folder: Path, job: dict[str, Any]) -> tuple[int, list[str]]:
    """Number of files in the manifest, and what differs from it."""
    manifest = read_record(folder / MANIFEST)
    try:
        entries = [(Shard(s["name"], s["first_index"], s["rows"]), s["sha256"]) for s in manifest["shards"]]
        recorded = manifest["job"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error})") from None
    wrong = [f"{JOB}: is not the job of the manifest"] if recorded != job else []
    for shard, sha256 in entries:
        wrong += _line(folder, shard, job, sha256)
    known = {shard.name for shard, _ in entries}
    extra = sorted(path.name for path in folder.glob("*.parquet") if path.name not in known)
    return len(entries), wrong + [f"{name}: is not in the manifest" for name in extra]


def _unfinished(folder: Path, job: dict[str, Any]) -> tuple[int, list[str]]:
    """Compare the files of a job without a manifest: they say how many there are to be, and what was written before."""
    found = sorted(number for path in folder.glob("*.parquet") if (number := parse_name(path.name)) is not None)
    if not found:
        return 0, [f"{MANIFEST}: is missing, and so are all files: the job was never finished"]
    num_chunks, wrong = found[0][1], [f"{MANIFEST}: is missing: the job was never finished"]
    there = {chunk: _num_rows(folder / shard_name(chunk, num_chunks)) for chunk, _ in found}
    full = [rows for chunk, rows in there.items() if chunk < num_chunks - 1 and rows is not None]
    usual = max(full, key=full.count, default=None)  # all chunks but the last have as many
    for chunk in range(num_chunks):
        name = shard_name(chunk, num_chunks)
        if chunk not in there:
            wrong.append(f"{name}: is missing")
            continue
        rows = (there[chunk] or 0) if usual is None or chunk == num_chunks - 1 else usual
        wrong += _line(folder, Shard(name, chunk * (rows if usual is None else usual), rows), job)
    return num_chunks, wrong


def _num_rows(path: Path) -> int | None:
    """Return what a file says that it holds; None: it cannot be read."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except Exception:  # whatever the reader meets; `fault` will say it
        return None


def _line(folder: Path, shard: Shard, job: dict[str, Any], sha256: str | None = None) -> list[str]:
    try:
        found = fault(folder, shard, job, sha256)
    except ForeignShardError:
        found = "holds samples of another job"
    return [] if found is None else [f"{shard.name}: {found}"]
