"""From a log that is larger than the memory to a canonical Arrow file: block by block, in two passes over the source.

The first pass finds what holds for the whole log (its splits, marks, unit and origin), the second writes. In memory are
one block of rows, and what there is of each sequence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tppsd.data.arrow_file import FileFacts, SplitColumns, columns_of_splits, write_splits
from tppsd.data.event_table import is_event_table
from tppsd.data.files import format_of, row_blocks
from tppsd.data.log import clock_of, flatten, own_options, tick_gaps
from tppsd.data.marks import MarkVocabulary
from tppsd.data.observation import observed_until, with_window
from tppsd.data.obstacles import Obstacles
from tppsd.data.options import EVENT_COLUMNS, Context, ReadOptions, resolve_columns
from tppsd.data.paths import for_arrow, is_url
from tppsd.data.sequence_table import SequenceTable, check_values, missing
from tppsd.data.splits import cut
from tppsd.data.tables import SPLITS, split_files
from tppsd.data.units import NANOSECONDS, Clock, to_text

_OF_ALL_ROWS = ("split_times", "window", "lookback", "observed", "min_mark_count")  # options that see the whole log
_FORMATS = (".parquet", ".csv", ".tsv")


class Unstreamable(Exception):
    """Says why a source must be read as a whole."""


@dataclass(frozen=True)
class Block:
    """Holds some whole sequences of a source.

    Attributes:
        split: that the source says they belong to, or None.
        table: their events.
    """

    split: str | None
    table: SequenceTable


class Blocks:
    """Is a source that can be read block by block, as often as one likes.

    Args:
        source: one file, or a folder of split files; Parquet, CSV or TSV.
        options: how it is read.

    Raises:
        Unstreamable: the source or an option needs all rows at once.
    """

    def __init__(self, source: str, options: ReadOptions) -> None:
        self.context = Context(options)
        for name in _OF_ALL_ROWS:
            if getattr(options, name) is not None:
                raise Unstreamable(f"{name} needs all of it")
        path = Path(source)
        if is_url(source) or not path.exists():
            raise Unstreamable("it is no local file")
        self.files: dict[str | None, list[Path]] = {None: [path]}
        if path.is_dir():
            self.files = dict(split_files(path, self.context).items())
        if list(self.files) == ["train"]:
            self.files = {None: self.files["train"]}
        others = [
            file for files in self.files.values() for file in files if format_of(str(file)).suffix not in _FORMATS
        ]
        if others:
            raise Unstreamable(f"{others[0].name} is not one of {', '.join(_FORMATS)}")

    def __iter__(self) -> Iterator[Block]:
        for split, files in self.files.items():
            for file in files:
                yield from self._of_file(split, file)

    def _of_file(self, split: str | None, file: Path) -> Iterator[Block]:
        tables = row_blocks(file, self.context)
        first = next(tables, None)
        if first is None or first.num_rows == 0:
            return
        rows = 0
        for table in self._whole_sequences(file, first, tables):
            source = f"{file}{f', from row {rows:,}' if rows else ''}"
            for own_split, part in _by_column(split, table):
                yield Block(own_split, self._flat(source, part))
            rows += table.num_rows

    def _flat(self, source: str, table: Any) -> SequenceTable:
        context = replace(self.context, obstacles=Obstacles())
        flat = None
        with context.obstacles.noted():
            flat = flatten(source, table, context)
            if flat is not None:
                check_values(flat)
        context.obstacles.raise_all(source)
        assert flat is not None  # else there was an obstacle
        return flat

    def _whole_sequences(self, file: Path, first: Any, others: Iterator[Any]) -> Iterator[Any]:
        """Yield tables that end where a sequence ends: rows of the last one wait for the next table."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not is_event_table(first, self.context.options.column_map):
            yield first
            yield from others
            return
        columns = resolve_columns(
            str(file), first.schema, self.context.options.column_map, EVENT_COLUMNS, Obstacles(), ("sequence",)
        )
        if "sequence" not in columns:
            raise Unstreamable("it is one stream")
        waiting = first
        while (table := _next(others)) is not None:
            ids = waiting[columns["sequence"]]
            others_of_it = np.flatnonzero(~np.asarray(pc.equal(ids, ids[-1]).fill_null(False)))
            end = int(others_of_it[-1]) + 1 if len(others_of_it) else 0
            if end:
                yield waiting.slice(0, end)
            waiting = pa.concat_tables([waiting.slice(end), table])
        yield waiting


def _next(tables: Iterator[Any]) -> Any:
    """Return the next table with rows, or None."""
    import pyarrow as pa

    try:
        return next((table for table in tables if table.num_rows), None)
    except ValueError as error:
        if isinstance(error.__cause__, pa.ArrowInvalid) and "CSV conversion error" in str(error):
            raise Unstreamable("a column has other values further down than at its beginning") from error
        raise


def _by_column(split: str | None, table: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield a table, or its parts by the column `split` of a canonical file."""
    import pyarrow.compute as pc

    if split is not None or "split" not in table.column_names or "time_since_start" not in table.column_names:
        yield split, table
        return
    found = pc.unique(table["split"]).to_pylist()
    if not set(found) <= set(SPLITS):
        yield split, table
        return
    for name in (name for name in SPLITS if name in found):
        yield name, table.filter(pc.equal(table["split"], name))


class Scan:
    """Finds what holds for a whole source, block by block."""

    def __init__(self) -> None:
        self.first: SequenceTable | None = None
        self.num_sequences: Counter[str | None] = Counter()
        self.first_seen: dict[tuple[str | None, Any], int] = {}  # (split, type) -> the sequence with its first event
        self.ticks: list[Any] = []  # the earliest of each block
        self.last: Any = None
        self.gaps = GapCounts()
        self.num_duplicates = 0
        self._ids: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        """Take up a block.

        Raises:
            Unstreamable: its columns are of other kinds than those of the first.
        """
        table = block.table
        self.first = table if self.first is None else self.first
        if _kind(table) != _kind(self.first):
            raise Unstreamable("its columns change their kind on the way")
        if table.marks is not None:
            self._see(block)
        if table.has_dates:
            ticks = np.concatenate([table.event_times, table.t_start])
            self.ticks.append(ticks[~missing(ticks)].min())
            self.gaps.add(tick_gaps(table))
        last = observed_until(table).max()
        self.last = last if self.last is None else max(self.last, last)
        self.num_sequences[block.split] += len(table)
        self.num_duplicates += table.num_duplicates
        if not table.one_row_each:
            self._ids.append(_hashes(block.split, table.sequence_ids))

    def _see(self, block: Block) -> None:
        codes = block.table.marks.dictionary_encode()
        first = np.unique(codes.indices.to_numpy(), return_index=True)[1]
        sequences = np.searchsorted(block.table.offsets, first, side="right") - 1 + self.num_sequences[block.split]
        for kind, sequence in zip(codes.dictionary.to_pylist(), sequences.tolist(), strict=True):
            self.first_seen.setdefault((block.split, kind), sequence)

    def edges(self, options: ReadOptions) -> dict[str, tuple[int, int]]:
        """Return split -> the range of its sequences.

        Raises:
            Unstreamable: the rows of a sequence do not stand together.
            ValueError: a split is empty.
        """
        assert self.first is not None
        ids = np.concatenate(self._ids) if self._ids else np.zeros(0)
        if len(np.unique(ids)) < len(ids):
            raise Unstreamable("the rows of a sequence do not stand together (sort them by sequence and time)")
        if None in self.num_sequences:
            return cut(self.num_sequences[None], options.fractions, self.first.source)
        if "train" not in self.num_sequences:
            raise ValueError(f"{self.first.source}: there is no train split; vocabulary and moments come from it")
        return {split: (0, self.num_sequences[split]) for split in SPLITS if split in self.num_sequences}

    def understood(self, options: ReadOptions, num_train: int) -> tuple[Clock, MarkVocabulary]:
        """Return clock and vocabulary of the whole log: those of a table that has what they depend on, and no more."""
        import pyarrow as pa

        assert self.first is not None
        brief = self.first
        if brief.marks is not None:
            kinds = [
                kind
                for (split, kind), sequence in self.first_seen.items()
                if split == "train" or (split is None and sequence < num_train)
            ]
            brief = replace(brief, marks=pa.array(kinds, brief.marks.type))
        if brief.has_dates:
            times = np.array([min(self.ticks), min(self.ticks) + self.gaps.typical()])
            brief = replace(brief, event_times=times, offsets=np.array([0, 2]), t_start=times[:1])
        return clock_of([brief], options), MarkVocabulary.of(brief, None, options.mark_names)


def _kind(table: SequenceTable) -> tuple[Any, ...]:
    marks = None if table.marks is None else str(table.marks.type)
    return table.has_dates, table.one_row_each, marks, table.num_marks, table.own, table.columns


def _hashes(split: str | None, ids: np.ndarray | None) -> np.ndarray:
    """Return a number of 64 bits for each id in a split: 10^7 of them agree by chance once in 400,000 times."""
    import pandas

    names = np.array([f"{split} {one}" for one in (() if ids is None else ids)], dtype=object)
    hashes: np.ndarray = pandas.util.hash_array(names)
    return hashes


class GapCounts:
    """Counts what the unit of a log depends on, its median positive gap in nanoseconds, without keeping the gaps."""

    def __init__(self) -> None:
        self.total = 0
        self.below = dict.fromkeys(NANOSECONDS, 0)
        self.largest_below = dict.fromkeys(NANOSECONDS, 0)
        self.smallest_from = dict.fromkeys(NANOSECONDS, 2**63 - 1)

    def add(self, gaps: np.ndarray) -> None:
        """Count the gaps of a block, int64 nanoseconds."""
        positive = gaps[gaps > 0]
        self.total += len(positive)
        for unit, length in NANOSECONDS.items():
            is_below = positive < length
            self.below[unit] += int(is_below.sum())
            self.largest_below[unit] = max(self.largest_below[unit], int(positive[is_below].max(initial=0)))
            self.smallest_from[unit] = min(self.smallest_from[unit], int(positive[~is_below].min(initial=2**63 - 1)))

    def typical(self) -> np.timedelta64:
        """Return the length of the largest unit that is not above the median, 0 without gaps."""
        fitting = [length for unit, length in NANOSECONDS.items() if self._median_reaches(unit)]
        return np.timedelta64(max(fitting, default=0), "ns")

    def _median_reaches(self, unit: str) -> bool:
        if 2 * self.below[unit] == self.total:  # the median lies between the two in the middle
            return self.total > 0 and self.largest_below[unit] + self.smallest_from[unit] >= 2 * NANOSECONDS[unit]
        return 2 * self.below[unit] < self.total


def stream_to_arrow(source: str, path: str | Path, options: ReadOptions) -> tuple[FileFacts, tuple[str, ...]]:
    """Write the canonical Arrow file of a source that is never in memory as a whole.

    Args:
        source: a Parquet, CSV or TSV file, or a folder of such split files. Of a table with one row per event, the rows
            of a sequence stand together.
        path: of the file to write; beside it, the columns lie in a folder until it is done.
        options: how the source is read.

    Returns:
        What the file holds, and notes for the user.

    Raises:
        Unstreamable: the source or an option needs all rows at once.
        ValueError: what stands in the way.
    """
    blocks, scan = Blocks(source, options), Scan()
    for block in blocks:
        scan.add(block)
    if scan.first is None:
        raise Unstreamable("it has no rows")
    if options.missing_mark is not None and str(getattr(scan.first.marks, "type", "string")) != "string":
        raise Unstreamable("missing_mark makes names of numbers")
    edges = scan.edges(options)
    clock, vocabulary = scan.understood(options, edges["train"][1])
    path = for_arrow(path)
    facts = FileFacts(
        vocabulary.num_marks,
        mark_names=vocabulary.names,
        time_unit=clock.unit,
        time_origin=_origin(clock, scan.first),
    )
    with columns_of_splits(path) as make:
        columns = {split: make(split) for split in edges}
        position: Counter[str | None] = Counter()
        for block in blocks:
            table = with_window(block.table, own_options(options, block.table), clock, scan.last)
            check_values(table)
            _add(columns, edges, block.split, position[block.split], table, vocabulary.encode(table), clock)
            position[block.split] += len(table)
        facts = write_splits(path, columns, facts)
    return facts, _notes(blocks.context, scan)


def _notes(context: Context, scan: Scan) -> tuple[str, ...]:
    """Return what was noted of the blocks, once; copies are counted over all of them."""
    notes: dict[str, str] = {}
    for note in context.notes:
        if "exact copies" not in note:
            notes.setdefault(re.sub(r", from row [0-9]+(,[0-9]{3})*|[0-9]+", "", note), note)
    if scan.num_duplicates and scan.first is not None:
        what = "dropped" if context.options.drop_duplicates else "kept as events; drop_duplicates: true drops them"
        notes["copies"] = (
            f"{scan.first.source}: {scan.num_duplicates:,} rows are exact copies of others, and are {what}"
        )
    return tuple(notes.values())


def _add(
    columns: dict[str, SplitColumns],
    edges: dict[str, tuple[int, int]],
    split: str | None,
    position: int,
    table: SequenceTable,
    marks: np.ndarray,
    clock: Clock,
) -> None:
    """Add a block, whose first sequence has the number `position`, to the splits that it belongs to."""
    for name in edges if split is None else [split]:
        low, high = (min(max(edge - position, 0), len(table)) for edge in edges[name])
        if low < high:
            events = slice(int(table.offsets[low]), int(table.offsets[high]))
            columns[name].add(table.part(low, high), marks[events], clock)


def _origin(clock: Clock, first: SequenceTable) -> str | None:
    if clock.origin is not None:
        return to_text(clock.origin)
    return None if first.own is None else first.own.time_origin
