"""Event tables: one row per event (sequence id, time, type), grouped into sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from tppsd.data.arrow import first_null, is_list, plain, to_floats, to_marks
from tppsd.data.columns import EVENT_COLUMNS, ColumnMap, resolve_columns
from tppsd.data.sequence_table import SequenceTable, declared_num_marks, window_column


def is_event_table(table: Any, column_map: ColumnMap) -> bool:
    """True unless a column holds lists, or the only time column is that of the one-row-per-sequence layout."""
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


def from_event_rows(source: str, table: Any, column_map: ColumnMap) -> SequenceTable:
    """Read an event table; sequences come in the order of their first event, events in the order of their rows."""
    columns = resolve_columns(source, table.column_names, column_map, EVENT_COLUMNS)

    def place(field: str, row: int) -> str:
        return f"{source}, row {row}: {columns[field]}"

    times = to_floats(table[columns["time"]], lambda row: place("time", row))
    marks = to_marks(table[columns["mark"]], lambda row: place("mark", row)) if "mark" in columns else None
    codes, ids = _sequence_codes(source, table[columns["sequence"]], columns["sequence"])
    rows = np.argsort(codes, kind="stable")
    lengths = np.bincount(codes, minlength=len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    t_start, t_end = (
        _constant_in_sequence(
            source, columns.get(field), window_column(source, table, columns, field), codes, rows[offsets[:-1]]
        )
        for field in ("t_start", "t_end")
    )
    return SequenceTable(
        source=source,
        columns=columns,
        event_times=times[rows],
        marks=None if marks is None else marks.take(rows),
        offsets=offsets,
        inter_times=None,
        t_start=t_start,
        t_end=t_end,
        num_marks=declared_num_marks(source, table, columns),
        rows=rows,
        sequence_ids=ids,
    )


def _sequence_codes(source: str, column: Any, name: str) -> tuple[np.ndarray, list[Any]]:
    """int64 (num_rows,) codes 0, 1, ... in the order of first appearance, and the id of each code."""
    if column.null_count:
        raise ValueError(
            f"{source}, row {first_null(column)}: {name} is missing; every event needs the id of its sequence"
        )
    encoded = plain(column).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _constant_in_sequence(
    source: str, name: str | None, values: np.ndarray, codes: np.ndarray, first_rows: np.ndarray
) -> np.ndarray:
    """float64 (num_sequences,): the value of each sequence's first event, which all its events must share."""
    per_sequence = values[first_rows]
    expected = per_sequence[codes]
    different = (values != expected) & ~(np.isnan(values) & np.isnan(expected))
    if different.any():
        row = int(different.nonzero()[0][0])
        raise ValueError(
            f"{source}, row {row}: {name} = {values[row]}, but row {first_rows[codes[row]]} of the same sequence has "
            f"{expected[row]}; "
            "a sequence has one window"
        )
    return per_sequence
