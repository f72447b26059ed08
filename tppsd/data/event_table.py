"""Event tables: one row per event (sequence id, time, type), grouped into sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from tppsd.data.arrow import first_null, is_list, plain
from tppsd.data.columns import EVENT_COLUMNS, ColumnMap, resolve_columns
from tppsd.data.list_table import declared_num_marks, window_column
from tppsd.data.marks import bin_names, read_marks
from tppsd.data.obstacles import DataError, quoted
from tppsd.data.options import Context
from tppsd.data.order import Order
from tppsd.data.sequence_table import SequenceTable, Vocabulary, missing, no_ticks
from tppsd.data.timestamps import read_time_column


def is_event_table(table: Any, column_map: ColumnMap) -> bool:
    """Say whether a table has a row per event.

    It has unless a column holds lists, or the only time column is that of the one-row-per-sequence layout.
    """
    if any(is_list(field.type) for field in table.schema):
        return False
    return "time_since_start" not in table.column_names or any(
        name in table.column_names for name in _sequence_names(column_map)
    )


def _sequence_names(column_map: ColumnMap) -> tuple[str | None, ...]:
    # seq_idx stands in both layouts and decides nothing
    if "sequence" in column_map:
        return (column_map["sequence"],)
    return tuple(name for name in EVENT_COLUMNS["sequence"] if name != "seq_idx")


def from_event_rows(source: str, table: Any, context: Context) -> SequenceTable | None:
    """Read an event table; sequences come in the order of their first event.

    Events keep the order of their rows unless `sort` is set. Without a column of sequences, all rows are one stream.
    None is returned where obstacles leave nothing to go on with.
    """
    options, obstacles = context.options, context.obstacles
    optional = () if options.window is None else ("sequence",)
    columns = resolve_columns(source, table.schema, options.column_map, EVENT_COLUMNS, obstacles, optional)
    if options.column_map.get("sequence", "") is None and options.window is None:
        obstacles.add(
            DataError(f"{source}: one stream of events is cut into windows: give window=..., such as window='7d'")
        )
    if "mark" not in columns and options.column_map.get("mark", "") is not None and not obstacles.found:
        context.note(source, "no column is left for marks; the events are unmarked")

    def place(field: str, row: int) -> str:
        return f"{source}, row {row}: {columns[field]}"

    times, marks, num_marks = None, None, None
    groups = None
    if "time" in columns:
        noter = context.noter(f"{source}, {columns['time']}")
        with obstacles.noted():
            times = read_time_column(table[columns["time"]], lambda row: place("time", row), context, noter)
    if "mark" in columns:
        with obstacles.noted():
            marks = read_marks(table[columns["mark"]], lambda row: place("mark", row), options)
    with obstacles.noted():
        groups = _sequence_codes(source, table, columns.get("sequence"))
    with obstacles.noted():
        num_marks = declared_num_marks(source, table, columns)
    if times is None or groups is None:
        return None
    codes, ids = groups
    order = Order.of(source, table, columns, times, codes, ids, context)
    rows, lengths = order.rows, np.bincount(codes[order.rows], minlength=len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    windows: dict[str, Any] = {}
    for field in ("t_start", "t_end"):
        windows[field] = no_ticks(times, len(ids))
        with obstacles.noted():
            values = window_column(source, table, columns, field, times, context)
            windows[field] = _constant_in_sequence(source, columns.get(field), values, codes)
    return SequenceTable(
        source=source,
        columns=columns,
        event_times=times[rows],
        marks=None if marks is None else marks.take(rows),
        offsets=offsets,
        inter_times=None,
        **windows,
        num_marks=num_marks,
        rows=rows,
        one_row_each=False,
        sequence_ids=ids,
        num_duplicates=order.num_duplicates,
        own=None if options.mark_bins is None else Vocabulary(bin_names(options.mark_bins)),
    )


def _sequence_codes(source: str, table: Any, name: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes 0, 1, ... in the order of first appearance, int64 (num_rows,), and the id of each code.

    Without a column all rows are one sequence, which has no id.
    """
    import pyarrow

    if name is None:
        return np.zeros(table.num_rows, dtype=np.int64), np.full(1, None, dtype=object)
    column = table[name]
    if column.null_count:
        raise ValueError(
            f"{source}, row {first_null(column)}: {name} is missing; every event needs the id of its sequence"
        )
    encoded = _ids(source, plain(column), name).dictionary_encode()
    names = encoded.dictionary
    if pyarrow.types.is_temporal(names.type):
        names = names.cast("string")  # to_pylist() knows the years 1 to 9999 only
    ids = np.empty(len(encoded.dictionary), dtype=object)
    ids[:] = names.to_pylist()
    return encoded.indices.to_numpy().astype(np.int64), ids


def _ids(source: str, column: Any, name: str) -> Any:
    """Return ids that can be compared with one another: those of extension types, such as UUIDs, as strings."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_nested(kind):
        raise ValueError(
            f"{source}, row 0: {name} = {quoted(column[0].as_py())} has type {kind}; "
            "the id of a sequence must be one number, string or timestamp"
        )
    return pyarrow.array(map(str, column.to_pylist())) if isinstance(kind, pyarrow.BaseExtensionType) else column


def _constant_in_sequence(source: str, name: str | None, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the value of each sequence's first row, which all its rows must share, as ticks (num_sequences,)."""
    first_rows = np.unique(codes, return_index=True)[1]
    per_sequence = values[first_rows]
    expected = per_sequence[codes]
    different = (values != expected) & ~(missing(values) & missing(expected))
    if different.any():
        row = int(different.nonzero()[0][0])
        raise ValueError(
            f"{source}, row {row}: {name} = {values[row]}, but row {first_rows[codes[row]]} of the same sequence has "
            f"{expected[row]}; "
            "a sequence has one window"
        )
    return per_sequence
