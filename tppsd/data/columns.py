"""Which column holds what: default names, the user's column map, and the errors for columns that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# One row per sequence (the EasyTPP columns, with an optional window).
SEQUENCE_COLUMNS = {
    "time": ("time_since_start",),
    "mark": ("type_event",),
    "inter_time": ("time_since_last_event",),
    "length": ("seq_len",),
    "num_marks": ("dim_process",),
    "t_start": ("t_start",),
    "t_end": ("t_end",),
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

ColumnMap = Mapping[str, str | None]


def check_column_map(columns: ColumnMap | None) -> dict[str, str | None]:
    """The column map as a dict; None as a column's name means "do not read this field"."""
    unknown = [field for field in columns or {} if field not in FIELDS]
    if unknown:
        raise ValueError(f"columns has the unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    return dict(columns or {})


def candidate_names(columns: ColumnMap) -> set[str]:
    """Every column name that could matter; all others (provenance, say) are ignored."""
    defaults = {name for table in (SEQUENCE_COLUMNS, EVENT_COLUMNS) for names in table.values() for name in names}
    return defaults | {name for name in columns.values() if name is not None}


def resolve_columns(
    source: str, names: Iterable[str], columns: ColumnMap, defaults: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Field -> name of the column that holds it, for every field that the table `source` has."""
    present = list(names)
    resolved: dict[str, str] = {}
    for field, default_names in defaults.items():
        if field in columns:
            name = columns[field]
            if name is not None and name not in present:
                raise ValueError(
                    f"{source}: columns names {name!r} for {field!r}, but the columns are {', '.join(present)}"
                )
            found = [] if name is None else [name]
        else:
            found = [name for name in default_names if name in present]
        if len(found) > 1:
            raise ValueError(
                f"{source}: both {found[0]} and {found[1]} could hold {field!r}; choose with columns={{{field!r}: ...}}"
            )
        if not found and field in REQUIRED and (field, columns.get(field, "")) != ("mark", None):
            unmarked = ", or declare unmarked events with columns={'mark': None}" if field == "mark" else ""
            raise ValueError(
                f"{source}: the column {' or '.join(default_names)} is missing; the columns are {', '.join(present)}: "
                f"say which one it is with columns={{{field!r}: ...}}{unmarked}"
            )
        if found and present.count(found[0]) > 1:
            raise ValueError(
                f"{source}: {present.count(found[0])} columns have the name {found[0]}; "
                f"the column that holds {field!r} needs a name of its own"
            )
        if found:
            resolved[field] = found[0]
    return resolved
