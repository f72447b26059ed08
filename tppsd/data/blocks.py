"""Sources that are read block by block: whole sequences at a time, in memory only one block of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tppsd.data.arrow import OpenTable
from tppsd.data.event_table import is_event_table
from tppsd.data.files import format_of, row_blocks
from tppsd.data.log import flatten
from tppsd.data.obstacles import Obstacles
from tppsd.data.options import EVENT_COLUMNS, Context, ReadOptions, resolve_columns
from tppsd.data.paths import is_url
from tppsd.data.sequence_table import SequenceTable
from tppsd.data.tables import parts_by_column, split_files

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
            parts = parts_by_column(table) if split is None else {}
            for own_split, part in parts.items() or [(split, table)]:
                yield Block(own_split, self._flat(source, part))
            rows += table.num_rows

    def _flat(self, source: str, table: Any) -> SequenceTable:
        context = replace(self.context, obstacles=Obstacles())
        flat = context.obstacles.tried(flatten, source, OpenTable(table), context)
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
