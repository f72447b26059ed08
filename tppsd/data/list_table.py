"""Tables with one row per sequence and lists in the columns of times and marks: the EasyTPP layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tppsd.data.arrow import (
    first_true,
    is_list,
    list_lengths,
    plain,
    shown,
    to_floats,
    to_objects,
    to_positive_integers,
)
from tppsd.data.marks import bin_names, read_marks
from tppsd.data.options import SEQUENCE_COLUMNS, Context, resolve_columns
from tppsd.data.sequence_table import SequenceTable, Vocabulary, no_ticks
from tppsd.data.timestamps import read_ticks, read_time_column

STAMPS, CENSORED = "timestamps", "censored_start"  # columns of a canonical file beside those of EasyTPP
NAMES, UNIT, ORIGIN = "mark_names", "time_unit", "time_origin"  # the same in every row
FILE_KEY = b"tppsd"  # in the metadata of an Arrow file, which has these three once, as JSON (tppsd.data.arrow_file)


def from_sequence_rows(source: str, table: Any, context: Context) -> SequenceTable | None:
    """Read a table with one row per sequence; None where obstacles leave nothing to go on with."""
    chosen, obstacles = context.options.column_map, context.obstacles
    if "time" not in chosen and STAMPS in table.column_names and own_vocabulary(table).time_origin is not None:
        chosen["time"] = STAMPS
    columns = resolve_columns(source, table.schema, chosen, SEQUENCE_COLUMNS, obstacles, optional=("sequence",))
    if "time" not in columns:
        return None
    return obstacles.tried(_from_columns, source, table, columns, context)


def _from_columns(source: str, table: Any, columns: dict[str, str], context: Context) -> SequenceTable | None:
    import pyarrow.compute as pc

    table.keep({*columns.values(), CENSORED, NAMES, UNIT, ORIGIN})
    lengths = _check_lengths(source, table, columns)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def read_lists(field: str, read: Callable[..., Any], *args: Any) -> Any:
        """Read the values of all lists of a column, which the table lets go; None where an obstacle is noted."""
        name = columns[field]

        def place(event: int) -> str:
            row = int(np.searchsorted(offsets, event, side="right")) - 1
            return f"{source}, row {row}: {name}[{event - offsets[row]}]"

        values = pc.list_flatten(table[name])
        if list(columns.values()).count(name) == 1:
            table.keep(set(table.column_names) - {name})
        return obstacles.tried(read, values, place, *args)

    options, obstacles = context.options, context.obstacles
    times = read_lists("time", read_time_column, context, context.noter(f"{source}, {columns['time']}"))
    marks = read_lists("mark", read_marks, options) if "mark" in columns else None
    inter_times = None
    if times is None:
        return None
    if options.sort:
        order = np.lexsort((times, np.repeat(np.arange(len(lengths)), lengths)))
        times, marks = times[order], None if marks is None else marks.take(order)
        columns = {field: name for field, name in columns.items() if field != "inter_time"}
    if "inter_time" in columns and times.dtype.kind != "M":  # of timestamps the differences are exact
        inter_times = read_lists("inter_time", to_floats)
    ids = to_objects(table[columns["sequence"]]) if "sequence" in columns else None
    windows: dict[str, Any] = {}
    for field in ("t_start", "t_end", "score_start"):
        found = obstacles.tried(window_column, source, table, columns, field, times, context)
        windows[field] = no_ticks(times, table.num_rows) if found is None else found
    num_marks = obstacles.tried(declared_num_marks, source, table, columns)
    own = own_vocabulary(table)
    return SequenceTable(
        source=source,
        columns=columns,
        event_times=times,
        marks=marks,
        offsets=offsets,
        inter_times=inter_times,
        **windows,
        num_marks=num_marks,
        rows=range(table.num_rows),
        one_row_each=True,
        sequence_ids=ids,
        is_cut=_cut_starts(table),
        own=own if options.mark_bins is None else replace(own, mark_names=bin_names(options.mark_bins)),
    )


def _cut_starts(table: Any) -> np.ndarray:
    """Return the column `censored_start` of a canonical file, bool (num_rows,); False without one."""
    if CENSORED not in table.column_names or str(table[CENSORED].type) != "bool":
        return np.zeros(table.num_rows, dtype=bool)
    return np.array(plain(table[CENSORED]).fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def own_vocabulary(table: Any) -> Vocabulary:
    """Return what the first row of a canonical file or of samples says in mark_names, time_unit and time_origin.

    An Arrow file says it in its metadata.
    """
    metadata = table.schema.metadata or {}

    def first(name: str) -> Any:
        if FILE_KEY in metadata:
            return json.loads(metadata.get(name.encode(), b"null"))
        return table[name][0].as_py() if name in table.column_names and table.num_rows else None

    names, unit, origin = (first(name) for name in (NAMES, UNIT, ORIGIN))
    return Vocabulary(
        tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None,
        unit if isinstance(unit, str) else None,
        origin if isinstance(origin, str) else None,
    )


def _check_lengths(source: str, table: Any, columns: dict[str, str]) -> np.ndarray:
    """Return the common length of each row's lists, int64 (num_sequences,)."""
    lengths = {}
    for field in ("time", "mark", "inter_time"):
        if field in columns:
            name, kind = columns[field], "integers or strings" if field == "mark" else "numbers"
            if not is_list(table[name].type):
                raise ValueError(
                    f"{source}, row 0: {name} = {shown(table[name], 0)} has type {table[name].type}; "
                    f"it must be a list of {kind} "
                    "(a table with one row per event names its sequences with columns={'sequence': ...})"
                )
            lengths[name] = list_lengths(table[name], source, name, kind)
    if "length" in columns:
        name = columns["length"]
        lengths[name] = to_positive_integers(table[name], lambda row: f"{source}, row {row}: {name}", minimum=0)
    first = next(iter(lengths))
    for name, values in lengths.items():
        if (row := first_true(values != lengths[first])) is not None:
            says = f"says {values[row]}" if name == columns.get("length") else f"has {values[row]}"
            raise ValueError(
                f"{source}, row {row}: {first} has {lengths[first][row]} values and {name} {says}; "
                "the lengths of a row must agree"
            )
    return lengths[first]


def window_column(
    source: str, table: Any, columns: dict[str, str], field: str, times: np.ndarray, context: Context
) -> np.ndarray:
    """Return a column of window starts or ends as ticks (num_rows,), of the kind of `times`.

    A missing one is NaN or NaT.
    """
    if field not in columns:
        return no_ticks(times, table.num_rows)
    name = columns[field]
    values = read_ticks(
        table[name],
        lambda row: f"{source}, row {row}: {name}",
        context.options.formats,
        context.noter(f"{source}, {name}"),
        missing=True,
    )
    if values.dtype.kind != times.dtype.kind:
        if (~np.isfinite(values)).all():  # a column without a value has no kind
            return no_ticks(times, table.num_rows)
        kinds = {True: "timestamps", False: "numbers"}
        raise ValueError(
            f"{source}: {name} holds {kinds[values.dtype.kind == 'M']}, but {columns['time']} "
            f"{kinds[times.dtype.kind == 'M']}; a window and its events must have the same kind of times"
        )
    if values.dtype.kind != "M" and (row := first_true(np.isinf(values))) is not None:
        raise ValueError(
            f"{source}, row {row}: {name} is {values[row]}; it must be a finite number, or empty where the window is "
            "not known"
        )
    return values


def declared_num_marks(source: str, table: Any, columns: dict[str, str]) -> int | None:
    """Return the one value of the column that declares the number of marks."""
    name = columns.get("num_marks")
    if name is None or table[name].null_count == table.num_rows:
        return None
    values = to_positive_integers(table[name], lambda row: f"{source}, row {row}: {name}", minimum=1)
    if (row := first_true(values != values[0])) is not None:
        raise ValueError(
            f"{source}, row {row}: {name} = {values[row]}, but row 0 has {values[0]}; "
            "every row must have the same number of marks"
        )
    return int(values[0])
