"""The choice of the column that holds each field: default names, the user's column map, and errors for missing ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tppsd.data.arrow import is_list
from tppsd.data.obstacles import DataError, Obstacles, shortened

# One row per sequence (the EasyTPP columns, with an optional window).
SEQUENCE_COLUMNS = {
    "time": ("time_since_start",),
    "mark": ("type_event",),
    "inter_time": ("time_since_last_event",),
    "length": ("seq_len",),
    "num_marks": ("dim_process",),
    "t_start": ("t_start",),
    "t_end": ("t_end",),
    "score_start": ("score_start",),
    "sequence": ("sequence",),
}
# One row per event.
EVENT_COLUMNS = {
    "sequence": ("sequence", "sequence_id", "seq_id", "seq_idx"),
    "time": ("time", "event_time", "time_since_start"),
    "mark": ("mark", "type", "event_type", "type_event"),
    "num_marks": ("dim_process",),
    "t_start": ("t_start",),
    "t_end": ("t_end",),
}
REQUIRED = ("sequence", "time", "mark")
FIELDS = tuple(dict.fromkeys([*SEQUENCE_COLUMNS, *EVENT_COLUMNS]))
# Usual names beside the defaults: they are never taken, only offered in the message for a column that is missing.
LIKELY = {
    "sequence": ("case", "user", "customer", "patient", "machine", "device", "session", "account", "item", "ticket"),
    "time": ("timestamp", "date", "datetime", "created", "start", "day", "hour", "seconds", "when", "t"),
    "mark": ("activity", "action", "event", "kind", "label", "category", "status", "error", "code", "class"),
}
ALTERNATIVES = {
    "sequence": ", or cut one stream of events into windows with window=..., such as window='7d'",
    "mark": ", or declare unmarked events with columns={'mark': None}",
    "time": "",
}

ColumnMap = Mapping[str, str | None]


def check_column_map(columns: ColumnMap | None) -> dict[str, str | None]:
    """Return the column map as a dict; None as a column's name means "do not read this field"."""
    unknown = [field for field in columns or {} if field not in FIELDS]
    if unknown:
        raise ValueError(f"columns has the unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    return dict(columns or {})


def candidate_names(columns: ColumnMap) -> set[str]:
    """Return every column name that could matter; others (provenance, say) may hold anything."""
    defaults = {name for table in (SEQUENCE_COLUMNS, EVENT_COLUMNS) for names in table.values() for name in names}
    return defaults | {name for name in columns.values() if name is not None}


def resolve_columns(
    source: str,
    schema: Any,
    columns: ColumnMap,
    defaults: Mapping[str, tuple[str, ...]],
    obstacles: Obstacles,
    optional: Iterable[str] = (),
) -> dict[str, str]:
    """Return field -> name of the column that holds it, for every field that the table `source` has.

    A required column that is missing becomes an obstacle; where a likely column is there, it stands in so that reading
    can go on and find the other obstacles.

    Args:
        source: for messages.
        schema: Arrow schema of the table.
        columns: the user's choice.
        defaults: field -> usual names.
        obstacles: takes what is wrong.
        optional: required fields that may be absent here.
    """
    present = list(schema.names)
    resolved: dict[str, str] = {}
    settled = set(optional)
    for field, default_names in defaults.items():
        try:
            name = _find(source, present, columns, field, default_names)
        except DataError as error:
            obstacles.add(error)
            name = error.options.get("columns", {}).get(field)
            settled.add(field)
        if name is not None:
            resolved[field] = name
    for field in (field for field in REQUIRED if field in defaults and field not in {*resolved, *settled}):
        if columns.get(field, "") is None or (field == "mark" and set(present) <= set(resolved.values())):
            continue  # left out on purpose, or no column is left that could hold marks
        guess = _likely(schema, field, set(resolved.values()), needs_list="length" in defaults)
        obstacles.add(
            DataError(
                f"{source}: the column {' or '.join(defaults[field])} is missing; the columns are "
                f"{shortened(', '.join(present))}: "
                "say which one it is with "
                f"columns={{{field!r}: {'...' if guess is None else repr(guess)}}}{ALTERNATIVES[field]}",
                **({} if guess is None else {"columns": {field: guess}}),
            )
        )
        if guess is not None:
            resolved[field] = guess
    return resolved


def _find(
    source: str, present: list[str], columns: ColumnMap, field: str, default_names: tuple[str, ...]
) -> str | None:
    """Return the column of one field, or None where there is none."""
    if field in columns:
        name = columns[field]
        if name is not None and name not in present:
            shown = shortened(", ".join(present))
            raise DataError(f"{source}: columns names {name!r} for {field!r}, but the columns are {shown}")
        found = [] if name is None else [name]
    else:
        found = [name for name in default_names if name in present]
    if len(found) > 1:
        raise DataError(
            f"{source}: both {found[0]} and {found[1]} could hold {field!r}; choose with columns={{{field!r}: ...}}",
            columns={field: found[0]},
        )
    if found and present.count(found[0]) > 1:
        raise DataError(
            f"{source}: {present.count(found[0])} columns have the name {found[0]}; "
            f"the column that holds {field!r} needs a name of its own"
        )
    return found[0] if found else None


def _likely(schema: Any, field: str, taken: set[str], needs_list: bool) -> str | None:
    """Return the column that most likely holds a field, by its name or type; None where nothing speaks for one."""
    from pyarrow import types

    free = [
        column
        for column in schema
        if column.name not in taken and schema.names.count(column.name) == 1 and is_list(column.type) == needs_list
    ]
    named: dict[str, str] = {
        re.sub(r"[^a-z]", "", column.name.lower()): column.name for column in free
    }  # "Case ID" is caseid
    for word in LIKELY[field]:
        for letters, name in named.items():
            if letters in (word, f"{word}s", f"{word}id", f"{word}name", f"{word}type"):
                return name
    if field == "time":
        dates = [column.name for column in free if types.is_timestamp(column.type) or types.is_date(column.type)]
        return dates[0] if len(dates) == 1 else None
    return None
