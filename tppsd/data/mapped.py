"""Reading of a canonical Arrow file (`tppsd.data.arrow_file`) without reading it: its columns stay on the disk."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tppsd.data.arrow_file import GAPS, MARKS, TIMES, FileFacts, checksum
from tppsd.data.flat_sequences import FlatSequences, tensor_on
from tppsd.data.list_table import CENSORED, FILE_KEY, STAMPS
from tppsd.data.options import ReadOptions
from tppsd.data.paths import for_arrow
from tppsd.data.units import Clock

_SAID = {  # option -> what a file says of it
    "mark_names": "mark_names",
    "time_unit": "time_unit",
    "origin": "time_origin",
    "window": "window",
    "lookback": "lookback",
}
_EVENTS = {TIMES: np.float64, GAPS: np.float64, MARKS: np.int64, STAMPS: np.int64}


class MappedFile:
    """Is an open Arrow file whose pages the system loads when they are looked at, and drops when it needs the memory.

    Args:
        path: of the file, which `tppsd.data.arrow_file` has written.

    Attributes:
        path: of the file, absolute.
        facts: what it holds.

    Raises:
        ValueError: it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa

        self.path = for_arrow(path)
        with self.path.open("rb") as file:
            self._state = _state(os.fstat(file.fileno()))
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with _damage_named(path):
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._memory)))
            self.facts = FileFacts.parse(reader.schema.metadata[FILE_KEY])
            self._batches = {split: reader.get_batch(i) for i, split in enumerate(self.facts.splits)}

    def check(self) -> None:
        """Refuse a file that has changed since it was opened: pages that are no longer there would end the process.

        Raises:
            ValueError: it has changed, or is gone.
        """
        try:
            is_same = _state(os.stat(self.path)) == self._state
        except OSError:
            is_same = False
        if not is_same:
            raise ValueError(
                f"{self.path}: was changed or removed while it was read from the disk; leave it as it is while a "
                "command uses it, and start the command again"
            )

    def check_sums(self) -> None:
        """Compare all columns with the checksums of the file; nothing of them is kept in memory.

        Raises:
            ValueError: they differ.
        """
        for split, (_, _, expected) in self.facts.splits.items():
            self.check()
            if checksum(self._batches[split]) != expected:
                raise _damaged(self.path, f"its {split} split is not what was written")

    def sequences(self, split: str) -> MappedSequences:
        """Return the sequences of a split, on the memory of the file."""
        batch, (num_sequences, num_events, _) = self._batches[split], self.facts.splits[split]
        names = batch.schema.names
        clock = Clock.stored(self.facts.time_unit, self.facts.time_origin) if STAMPS in names else Clock()

        def edges(name: str) -> Tensor:
            if not clock.has_dates:
                return _tensor(batch.column(name).buffers()[1], np.float64, num_sequences)
            return torch.from_numpy(clock.times(batch.column(name).to_numpy(zero_copy_only=False)))

        with _damage_named(self.path):
            events = {
                name: _tensor(batch.column(name).values.buffers()[1], kind, num_events)
                for name, kind in _EVENTS.items()
                if name in names
            }
            return MappedSequences(
                events[TIMES],
                events[GAPS],
                events[MARKS],
                _tensor(batch.column(TIMES).buffers()[1], np.int64, num_sequences + 1),
                edges("t_start"),
                edges("t_end"),
                edges("score_start"),
                torch.tensor(batch.column(CENSORED).to_numpy(zero_copy_only=False)),
                _tensor(batch.column("seq_idx").buffers()[1], np.int64, num_sequences),
                _MappedIds(batch.column("sequence")) if "sequence" in names else None,
                events.get(STAMPS),
                file=self,
                split=split,
            )


@dataclass(frozen=True, eq=False, repr=False)
class MappedSequences(FlatSequences):
    """Holds sequences whose columns lie in a mapped file; an item, and nothing else, is copied into memory.

    They are pickled as the path of the file, which is opened again.

    Attributes:
        file: of the columns.
        split: which of its splits they are.
    """

    file: MappedFile = None  # type: ignore[assignment]  # always given
    split: str = ""

    def _check(self) -> None:
        self.file.check()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.file.path, self.split)


def open_mapped(source: Any, options: ReadOptions) -> tuple[MappedFile | None, str | None]:
    """Return the canonical Arrow file that a source is, its checksums compared, or None where it is none.

    Options that change its sequences need all of them in memory: then there is no file, but a note for the user.

    Raises:
        ValueError: it is damaged.
    """
    if not isinstance(source, str | Path) or not _is_canonical(source):
        return None, None
    file = MappedFile(source)
    file.check_sums()
    given = options.given()
    others = [
        name
        for name, value in given.items()
        if name != "fractions" and (name not in _SAID or not _is_same(value, getattr(file.facts, _SAID[name])))
    ]
    if not others:
        return file, None
    return None, (
        f"{source}: is read into memory, since {', '.join(others)} may change its sequences; `tppsd convert` with "
        f"{'this option' if len(others) == 1 else 'these options'} writes a file that needs none"
    )


def _is_canonical(path: str | Path) -> bool:
    """Say whether a path is an Arrow file with the mark of this package; what cannot be read is none."""
    import pyarrow as pa

    if not Path(path).is_file():
        return False
    try:
        with pa.memory_map(str(for_arrow(path))) as file:
            return FILE_KEY in (pa.ipc.open_file(file).schema.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _is_same(value: Any, own: Any) -> bool:
    return tuple(value) == own if isinstance(own, tuple) else value == own


def _opened_again(path: Path, split: str) -> MappedSequences:
    return MappedFile(path).sequences(split)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _tensor(buffer: Any, kind: Any, length: int) -> Tensor:
    """Return a tensor on the memory of a buffer, which nobody may write to."""
    return tensor_on(np.frombuffer(buffer, kind, length))


class _MappedIds(Sequence[Any]):
    """Holds a column of ids, of which each becomes an object when it is asked for."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return _MappedIds(self._column[position])
        return self._column[position].as_py()


def _damaged(path: str | Path, why: str) -> ValueError:
    return ValueError(f"{path}: is damaged: {why}; write it again with `tppsd convert`")


@contextlib.contextmanager
def _damage_named(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged file makes of its own description into a sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise _damaged(path, " ".join(str(error).split()).rstrip(".")[:200]) from error
