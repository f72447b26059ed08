"""Event tables: one row per event (sequence id, time, type), grouped into sequences and put in order."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tppsd.data.arrow import first_null, first_true, is_list, plain, release_unused, shown, to_objects
from tppsd.data.list_table import declared_num_marks, window_column
from tppsd.data.marks import bin_names, read_marks
from tppsd.data.obstacles import DataError, quoted
from tppsd.data.options import EVENT_COLUMNS, ColumnMap, Context, resolve_columns
from tppsd.data.sequence_table import SequenceTable, Vocabulary, missing, no_ticks
from tppsd.data.timestamps import read_time_column
from tppsd.data.units import to_text


def in_order(
    source: str,
    table: Any,
    columns: dict[str, str],
    times: np.ndarray,
    codes: np.ndarray,
    ids: np.ndarray,
    context: Context,
) -> tuple[np.ndarray | None, int]:
    """Sort rows by sequence and, if `sort` is set, by time; note the first row that goes back if it is not.

    Args:
        source, table, columns: the source's name, its Arrow table, and field -> column name.
        times, codes: of each row its time (ticks) and the number of its sequence.
        ids: the id of each sequence.
        context: takes the obstacle; sorted rows are returned all the same.

    Returns:
        rows: int64, sequence after sequence; without the duplicates where those are dropped. None: all, as they are.
        num_duplicates: rows that are equal to an earlier one in all columns.
    """
    rows = None if (codes[1:] >= codes[:-1]).all() else np.argsort(codes, kind="stable")
    if _goes_back(_taken(times, rows), _taken(codes, rows)).any():
        if not context.options.sort:
            grouped = np.arange(len(times)) if rows is None else rows
            context.obstacles.add(_unsorted(source, columns, times, codes, ids, grouped))
        rows = np.lexsort((times, codes))
    is_duplicate = _duplicates(table, times, codes, rows)
    num_duplicates = int(is_duplicate.sum())
    if num_duplicates and context.options.drop_duplicates:
        rows = np.flatnonzero(~is_duplicate) if rows is None else rows[~is_duplicate[rows]]
        context.note(source, f"dropped {num_duplicates:,} rows that were exact copies of others")
    elif num_duplicates:
        context.note(
            source,
            f"{num_duplicates:,} of {table.num_rows:,} rows are exact copies of others, and are kept as events; "
            "drop_duplicates: true drops them",
        )
    return rows, num_duplicates


def _taken(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Return the values of `rows`; None: all, not copied."""
    return values if rows is None else values[rows]


def _goes_back(times: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return a mask of rows that are earlier than the row before in the same sequence, for rows grouped by sequence."""
    goes_back = np.zeros(len(times), dtype=bool)
    goes_back[1:] = (times[1:] < times[:-1]) & (codes[1:] == codes[:-1])
    return goes_back


def _unsorted(
    source: str, columns: dict[str, str], times: np.ndarray, codes: np.ndarray, ids: np.ndarray, rows: np.ndarray
) -> DataError:
    """Return the obstacle of rows that go back, which names the first of them in the order of the source."""
    at = np.flatnonzero(_goes_back(times[rows], codes[rows]))
    first = at[int(rows[at].argmin())]
    row, before = int(rows[first]), int(rows[first - 1])
    name = ids[codes[row]]
    of = "" if name is None else f" (sequence {quoted(name)})"
    many = f" ({len(at):,} rows go back)" if len(at) > 1 else ""
    return DataError(
        f"{source}, row {row}{of}: {columns['time']} = {to_text(times[row])} comes before the event at "
        f"{to_text(times[before])}; the times of a sequence must not decrease{many}: sort: true sorts them",
        sort=True,
    )


def _duplicates(table: Any, times: np.ndarray, codes: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Return a mask (num_rows,) of rows that are equal to an earlier row in all columns; only ties can be."""
    is_tie = np.zeros(table.num_rows, dtype=bool)
    ordered_times, ordered_codes = _taken(times, rows), _taken(codes, rows)
    is_tie[1:] = (ordered_times[1:] == ordered_times[:-1]) & (ordered_codes[1:] == ordered_codes[:-1])
    is_tie[:-1] |= is_tie[1:].copy()  # the first of each group, too
    tied = np.flatnonzero(is_tie) if rows is None else np.sort(rows[is_tie])
    is_duplicate = np.zeros(table.num_rows, dtype=bool)
    if len(tied):
        frame = table.take(tied).to_pandas()
        frame.columns = range(frame.shape[1])  # names may occur twice
        is_duplicate[tied] = frame.astype(str).duplicated().to_numpy()
    return is_duplicate


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

    times, marks = None, None
    if "time" in columns:
        noter = context.noter(f"{source}, {columns['time']}")
        times = obstacles.tried(read_time_column, table[columns["time"]], partial(place, "time"), context, noter)
    if "mark" in columns:
        marks = obstacles.tried(read_marks, table[columns["mark"]], partial(place, "mark"), options)
    groups = obstacles.tried(_sequence_codes, source, table, columns.get("sequence"))
    num_marks = obstacles.tried(declared_num_marks, source, table, columns)
    if times is None or groups is None:
        return None
    codes, ids = groups
    rows, num_duplicates = in_order(source, table, columns, times, codes, ids, context)
    table.keep({columns[field] for field in ("t_start", "t_end") if field in columns})
    lengths = np.bincount(_taken(codes, rows), minlength=len(ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    windows: dict[str, Any] = {}
    for field in ("t_start", "t_end"):
        windows[field] = no_ticks(times, len(ids))
        if field in columns:
            values = obstacles.tried(window_column, source, table, columns, field, times, context)
            if values is not None:
                found = obstacles.tried(_constant_in_sequence, source, columns[field], values, codes)
                windows[field] = windows[field] if found is None else found
    return SequenceTable(
        source=source,
        columns=columns,
        event_times=_taken(times, rows),
        marks=marks if marks is None or rows is None else marks.take(rows),
        offsets=offsets,
        inter_times=None,
        **windows,
        num_marks=num_marks,
        rows=range(table.num_rows) if rows is None else rows,
        one_row_each=False,
        sequence_ids=ids,
        num_duplicates=num_duplicates,
        own=None if options.mark_bins is None else Vocabulary(bin_names(options.mark_bins)),
    )


def _sequence_codes(source: str, table: Any, name: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes 0, 1, ... in the order of first appearance, int32 (num_rows,), and the id of each code.

    Without a column all rows are one sequence, which has no id.
    """
    if name is None:
        return np.zeros(table.num_rows, dtype=np.int32), np.full(1, None, dtype=object)
    column = table[name]
    if column.null_count:
        raise ValueError(
            f"{source}, row {first_null(column)}: {name} is missing; every event needs the id of its sequence"
        )
    encoded = _ids(source, column, name).dictionary_encode()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    release_unused()
    return codes, to_objects(encoded.chunk(0).dictionary)


def _ids(source: str, column: Any, name: str) -> Any:
    """Return ids that can be compared with one another: those of extension types, such as UUIDs, as strings."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type) or str(column.type) == "string_view":
        column = pyarrow.chunked_array([plain(column)])
    kind = column.type
    if pyarrow.types.is_nested(kind):
        raise ValueError(
            f"{source}, row 0: {name} = {shown(column, 0)} has type {kind}; "
            "the id of a sequence must be one number, string or timestamp"
        )
    if isinstance(kind, pyarrow.BaseExtensionType):
        return pyarrow.chunked_array([pyarrow.array(map(str, column.to_pylist()))])
    return column


def _constant_in_sequence(source: str, name: str, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the value of each sequence's first row, which all its rows must share, as ticks (num_sequences,)."""
    first_rows = np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1))  # codes count up as ids appear
    per_sequence = values[first_rows]
    expected = per_sequence[codes]
    if (row := first_true((values != expected) & ~(missing(values) & missing(expected)))) is not None:
        raise ValueError(
            f"{source}, row {row}: {name} = {values[row]}, but row {first_rows[codes[row]]} of the same sequence has "
            f"{expected[row]}; a sequence has one window"
        )
    return per_sequence
