"""The canonical Arrow file, which is mapped into memory and not read: its layout, and how it is written.

It is an uncompressed Arrow IPC file with one record batch for each split, so that every column of a split lies in one
piece. Its columns are those of the canonical Parquet file but for the names of the marks, the unit and the origin,
which stand once, in the metadata of its schema, beside a checksum of every split.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tppsd.data.arrow import ids_column, text_column
from tppsd.data.list_table import CENSORED, FILE_KEY, NAMES, ORIGIN, STAMPS, UNIT
from tppsd.data.log import EventLog, inter_times
from tppsd.data.paths import for_arrow, local_path
from tppsd.data.sequence_table import SequenceTable
from tppsd.data.units import Clock
from tppsd.data.whole_files import named_file, whole_or_absent

VERSION = 1
SUFFIX = ".arrow"
PIECE = 2**24  # bytes that a checksum takes up at once
TIMES, GAPS, MARKS = "time_since_start", "time_since_last_event", "type_event"


@dataclass(frozen=True)
class FileFacts:
    """Says what an Arrow file holds; it stands as JSON in the metadata of the schema.

    Attributes:
        num_marks: size of the mark vocabulary (1 = unmarked).
        splits: split -> numbers of sequences and events, and the CRC-32 of its columns; in the order of the batches.
        mark_names, time_unit, time_origin, window, lookback: as of `tppsd.data.reading.EventDataset`.
        version: of the layout.
    """

    num_marks: int
    splits: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    mark_names: tuple[str, ...] | None = None
    time_unit: str | None = None
    time_origin: str | None = None
    window: float | None = None
    lookback: float | None = None
    version: int = VERSION

    @classmethod
    def of(cls, log: EventLog) -> FileFacts:
        """Return what a log says of its marks and times."""
        vocabulary, clock = log.vocabulary, log.clock
        return cls(
            vocabulary.num_marks,
            mark_names=vocabulary.names,
            time_unit=clock.unit,
            time_origin=log.time_origin,
            window=log.window,
            lookback=log.lookback,
        )

    def metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of the schema: one entry for the file, with a checksum, and those that readers share."""
        text = json.dumps(asdict(self)).encode()
        shared = {NAMES: self.mark_names, UNIT: self.time_unit, ORIGIN: self.time_origin}
        return {
            FILE_KEY: b"%08x" % zlib.crc32(text) + text,
            **{name.encode(): json.dumps(value).encode() for name, value in shared.items() if value is not None},
        }

    @classmethod
    def parse(cls, metadata: bytes) -> FileFacts:
        """Read the entry of `metadata`.

        Raises:
            ValueError, TypeError: it is damaged, or of a later version.
        """
        checksum, text = metadata[:8], metadata[8:]
        if int(checksum, 16) != zlib.crc32(text):
            raise ValueError("its description is not what was written")
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError(f"its layout has the version {values['version']}, and this package reads {VERSION}")
        names = values["mark_names"]
        values["mark_names"] = None if names is None else tuple(names)
        values["splits"] = {split: tuple(numbers) for split, numbers in values["splits"].items()}
        return cls(**values)


def checksum(batch: Any) -> int:
    """Return the CRC-32 of all columns of a record batch, taken up piece by piece."""
    found = 0
    for column in batch.columns:
        for buffer in column.buffers():
            for start in range(0, 0 if buffer is None else buffer.size, PIECE):
                found = zlib.crc32(memoryview(buffer)[start : start + PIECE], found)
    return found


class SplitColumns:
    """Collects the columns of a split, part by part: those of events in files, those of sequences in memory.

    Args:
        folder: an empty folder for the files.
        path: of the Arrow file that they are for.

    Attributes:
        ids: of the sequences so far, None where one has none.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path, self.num_events = folder, path, 0
        self._rows: dict[str, list[np.ndarray]] = {}
        self.ids: list[Any] = []

    def add(self, part: SequenceTable, marks: np.ndarray, clock: Clock) -> None:
        """Add sequences, whose values have been checked, with their marks as numbers."""
        events = {TIMES: clock.times(part.event_times), GAPS: inter_times(part, clock), MARKS: marks}
        if clock.has_dates:
            events[STAMPS] = part.event_times.astype(np.int64)
        for name, values in events.items():
            with named_file(self.path), (self.folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(values).data)  # `tofile` does not say why it fails
        self.num_events += len(marks)
        rows = {
            "seq_len": part.lengths,
            "t_start": part.t_start,
            "t_end": part.t_end,
            "score_start": part.score_start,
            CENSORED: part.is_cut,
        }
        for name, values in rows.items():
            self._rows.setdefault(name, []).append(values)
        self.ids += part.ids

    def batch(self, split: str, splits: Sequence[str], num_marks: int, ids: Any) -> Any:
        """Return all of them, one of `splits`, as one record batch on the memory of the files, which are mapped.

        Args:
            ids: the Arrow array of their ids, or None.
        """
        import pyarrow as pa

        rows = {name: np.concatenate(values) for name, values in self._rows.items()}
        lengths = rows.pop("seq_len")
        num, offsets = len(lengths), pa.array(np.concatenate([[0], np.cumsum(lengths)]))
        kinds = {TIMES: pa.float64(), GAPS: pa.float64(), MARKS: pa.int64(), STAMPS: pa.timestamp("ns", "UTC")}
        columns: dict[str, Any] = {
            "split": pa.DictionaryArray.from_arrays(np.full(num, splits.index(split), dtype=np.int8), pa.array(splits)),
            "dim_process": pa.array(np.full(num, num_marks)),
            "seq_idx": pa.array(np.arange(num)),
            "seq_len": pa.array(lengths),
        }
        for name, kind in kinds.items():
            if (self.folder / name).exists():
                values = pa.Array.from_buffers(kind, self.num_events, [None, _mapped(self.folder / name)])
                columns[name] = pa.LargeListArray.from_arrays(offsets, values)
        for name, values in rows.items():
            array = pa.array(values)  # a NaN stays one: a column without a missing value is mapped as it is
            columns[name] = array.cast(kinds[STAMPS]) if values.dtype.kind == "M" else array
        if ids is not None:
            columns["sequence"] = ids
        return pa.record_batch(columns)


def _mapped(file: Path) -> Any:
    import pyarrow as pa

    return pa.py_buffer(np.memmap(file, np.uint8, mode="r") if file.stat().st_size else b"")


def _id_columns(splits: dict[str, SplitColumns]) -> dict[str, Any]:
    """Return the Arrow array of each split's ids, all of one type; None for every split where no sequence has one."""
    import pyarrow as pa

    kind = ids_column([one for columns in splits.values() for one in columns.ids]).type
    if kind == pa.null():
        return dict.fromkeys(splits)
    if kind != pa.string():
        return {split: pa.array(columns.ids, kind) for split, columns in splits.items()}
    return {split: text_column(columns.ids).cast(pa.large_string()) for split, columns in splits.items()}


@contextmanager
def columns_of_splits(path: Path) -> Iterator[Any]:
    """Give a function that makes the `SplitColumns` of a split, in a folder beside `path` that is gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True) as folder:

        def make(split: str) -> SplitColumns:
            own = Path(folder) / split
            own.mkdir()
            return SplitColumns(own, path)

        yield make


def write_splits(path: Path, splits: dict[str, SplitColumns], facts: FileFacts) -> FileFacts:
    """Write the splits to an Arrow file, which takes its name when all of it is written; return what it holds."""
    import pyarrow as pa

    ids = _id_columns(splits)
    batches = {
        split: columns.batch(split, list(splits), facts.num_marks, ids[split]) for split, columns in splits.items()
    }
    own = {split: (batch.num_rows, splits[split].num_events, checksum(batch)) for split, batch in batches.items()}
    facts = replace(facts, splits=own)
    metadata = facts.metadata()
    schema = next(iter(batches.values())).schema.with_metadata(metadata)
    with (
        whole_or_absent(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for batch in batches.values():
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return facts


def write_arrow(log: EventLog, path: str | Path) -> FileFacts:
    """Write all splits of a log to one Arrow file, which is mapped where it is read; return what it holds.

    Columns: as of `tppsd.data.interchange.write_parquet`, with mark_names, time_unit and time_origin in the metadata.
    """
    path = for_arrow(local_path(path))
    with columns_of_splits(path) as make:
        splits = {split: make(split) for split in log.parts}
        for split, part in log.parts.items():
            splits[split].add(part, log.marks[split], log.clock)
        return write_splits(path, splits, FileFacts.of(log))
