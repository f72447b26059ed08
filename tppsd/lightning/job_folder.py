"""The folder of a job: whose it is, who works in it, and what it holds when it is done.

It knows no Lightning.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tppsd.data.whole_files import named_file, sync_file, sync_folder
from tppsd.lightning.job_kinds import PREDICT, JobKind, kind_of
from tppsd.lightning.shards import Shard, attached_files, file_hash, parse_name, whole_file

JOB = ".job.json"  # these are hidden from those who read the folder as data
MANIFEST = ".manifest.json"
LOCK = ".lock"


def what_to_do(kind: JobKind) -> str:
    """Return the advice for a folder that cannot be used."""
    return f"choose another {kind.option}, or delete it to have them {kind.again}"


def check_writable(folder: Path, kind: JobKind = PREDICT) -> None:
    """Refuse what cannot become a folder or be written to, before anything is done.

    Raises:
        ValueError: the sentence says why.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(
            f"{folder} cannot be a folder of {kind.content}: {there} is a file; choose another {kind.option}"
        )
    if not os.access(there, os.W_OK):
        raise ValueError(f"{folder} cannot be written: {there} is read-only; choose another {kind.option}")


def check_names(folder: Path, num_chunks: int | None = None, kind: JobKind = PREDICT) -> None:
    """Refuse a folder with files that are not of one job, the one that has its record there.

    Raises:
        ValueError: the sentence names one of them.
    """
    names = sorted(path.name for path in (folder / kind.folder).glob("*.parquet"))
    parsed = [parse_name(name, kind) for name in names]
    is_recorded = (folder / JOB).exists()
    there = kind_of(read_record(folder / JOB)) if is_recorded else kind
    if there is not kind:
        raise ValueError(f"{folder} holds {there.content} of `tppsd {there.command}`; choose another {kind.option}")
    if names and (None in parsed or not is_recorded):
        raise ValueError(
            f"{folder / kind.folder} already holds {len(names)} Parquet files ({names[0]}, ...); {what_to_do(kind)}"
        )
    for name in (*kind.results, *filter(None, [kind.attached])):
        if not is_recorded and (folder / name).exists():
            raise ValueError(f"{folder} already holds {name}, and no record of its job; {what_to_do(kind)}")
    for name, found in zip(names, parsed, strict=True):
        if num_chunks is not None and found is not None and (found[1] != num_chunks or found[0] >= num_chunks):
            raise ValueError(
                f"{folder / kind.folder / name} is not of this job, which has {num_chunks} chunks; move it away"
            )


class Lock:
    """Locks a folder for one process, until that ends; the file names who holds it.

    On a file system without locks nobody is kept out; the job's record still keeps other jobs out.
    """

    def __init__(self, folder: Path, kind: JobKind = PREDICT) -> None:
        self.path, self._kind = folder / LOCK, kind
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, making the folder where there is none.

        Raises:
            ValueError: another process has it; the sentence names host and process.
        """
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise ValueError(
                    f"{self.path.parent} is being written by {holder}; wait for its end, or choose another "
                    f"{self._kind.option}"
                ) from None
            except OSError:  # no locks here
                os.close(descriptor)
                return
            if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                break
            os.close(descriptor)  # its holder has removed it in between
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        self._descriptor = descriptor
        with named_file(self.path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {started}\n".encode())

    def release(self) -> None:
        """Give the lock back; a folder that holds nothing else goes too."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # the folder may be gone, or another stand in its place
            if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def claim(folder: Path, job: dict[str, Any]) -> bool:
    """Leave the record of `job` in a folder that has none, or compare it with the one that is there.

    Of several that do so at the same time one leaves its record, and all others compare theirs with it.

    Returns:
        Whether the record was left now.

    Raises:
        ValueError: the folder is another job's, or its record is damaged.
    """
    path = folder / JOB
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f"{JOB}.{os.getpid()}.{time.time_ns()}")
        try:
            with named_file(path, temporary):
                temporary.write_text(_as_text(job))
                sync_file(temporary)
            _appear(temporary, path)
            sync_folder(folder)
            return True
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    there, kind = read_record(path), kind_of(job)
    for name in sorted(there.keys() | job.keys()):
        if there.get(name) != job.get(name):
            values = f"{name} is {there.get(name)!r} there and {job.get(name)!r} here"
            raise ValueError(f"{folder} holds {kind.content} of another job ({values}); {what_to_do(kind)}")
    return False


def _appear(temporary: Path, path: Path) -> None:
    """Give a file its name, unless there is one of that name by now (FileExistsError)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("x") as file, named_file(path):
            file.write(temporary.read_text())
            file.flush()


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a job's record or manifest.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it is a {type(content).__name__}")
    except (ValueError, RecursionError):  # no text, no JSON, or something else in it
        raise ValueError(
            f"{path} is damaged, so that nobody knows whose files these are; choose another folder, or delete this one"
        ) from None
    return content


def write_manifest(folder: Path, job: dict[str, Any], shards: Iterable[Shard]) -> None:
    """Say in a file what the folder of a finished job holds.

    It has the job, the versions that worked at it last, of every shard its rows, its first and last index, the SHA-256
    of its bytes and of those of each file that belongs to it, and the SHA-256 of each result that was made of them.
    """
    from tppsd import __version__

    versions = {name: version(name) for name in ("torch", "lightning", "numpy", "pyarrow")}
    versions |= {"tppsd": __version__, "python": platform.python_version()}
    files = [
        {
            "name": shard.name,
            "rows": shard.rows,
            "first_index": shard.first,
            "last_index": shard.first + shard.rows - 1,
            "sha256": file_hash(folder / shard.name),
            **({"attached": attached} if (attached := attached_files(folder / shard.name)) else {}),
        }
        for shard in shards
    ]
    content: dict[str, Any] = {"job": job, "versions": versions, "shards": files}
    if results := kind_of(job).results:
        content["results"] = [{"name": name, "sha256": file_hash(folder / name)} for name in results]
    with whole_file(folder / MANIFEST) as file:
        file.write_text(_as_text(content))


def recorded_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a job that was finished once; nothing without a manifest that can be read."""
    try:
        shards = read_record(folder / MANIFEST)["shards"]
        return {str(shard["name"]): str(shard["sha256"]) for shard in shards}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
