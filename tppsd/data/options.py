"""The options of reading a source: the same in Python, YAML and on the command line; and the choice of columns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from tppsd.data.arrow import is_list
from tppsd.data.obstacles import DataError, Obstacles, shortened
from tppsd.data.units import formats_of

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
                f"{shortened(', '.join(present))}: say which one it is with "
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


FRACTIONS = (0.8, 0.1, 0.1)
LAST = "last"  # t_end: the last time of the log


@dataclass(frozen=True)
class ReadOptions:
    """Says how a source becomes sequences.

    Args:
        columns: field -> column name, for the fields time, mark, sequence, inter_time, length, num_marks, t_start,
            t_end; null for a field that is not read.
        fractions: shares of train, validation and test, cut in the order of the file, where the data come in one piece.
        split_times: start of validation and of test (timestamps or times): each sequence is cut there, and what comes
            before is given. Three times: the first is the start of training.
        window: length of the windows into which a stream is cut, in units of time or as 12h, 7d.
        lookback: how far the given events before each window reach, likewise.
        t_start: start of observation of every sequence (a time or a timestamp); without one (and no such column) the
            first event is given.
        t_end: end of observation of every sequence: a time, a timestamp, the name of a column, or "last", the last time
            of the log; without one the window ends at the last event.
        observed: intervals [start, end] in which every sequence was observed, one window each, instead of t_start and
            t_end.
        time_format: s, ms, us or ns (numbers since 1970), number, ISO8601, or a format such as '%d/%m/%Y'; several are
            tried in turn.
        time_unit: unit of time; of timestamps one of ns, us, ms, s, min, h, d (default: the largest in which the median
            positive inter-time is at least 1).
        origin: timestamp that is time 0 (default: the midnight before the first event).
        sort: sort the events of each sequence by time; rows of the same time keep their order.
        drop_duplicates: keep one of the rows that are equal in all columns.
        missing_mark: name of the mark that missing ones become.
        min_mark_count: marks with fewer events in the training split become "other", as do marks that it lacks.
        mark_bins: edges that make marks of numbers: [1, 2, 5] makes the marks [1, 2), [2, 5) and [5, inf).
        mark_names: names of the marks 0, 1, ..., such as those that a model was trained with (default: the sorted types
            of the training split); if the last is "other", it takes all that have no mark of their own.
        delimiter: of a CSV file (default: a comma; a tab in .tsv).
    """

    columns: ColumnMap | None = None
    fractions: Sequence[float] = FRACTIONS
    split_times: Sequence[float | str] | None = None
    window: float | str | None = None
    lookback: float | str | None = None
    t_start: float | str | None = None
    t_end: float | str | None = None
    observed: Sequence[Sequence[float | str]] | None = None
    time_format: str | Sequence[str] | None = None
    time_unit: str | None = None
    origin: str | None = None
    sort: bool = False
    drop_duplicates: bool = False
    missing_mark: str | None = None
    min_mark_count: int | None = None
    mark_bins: Sequence[float] | None = None
    mark_names: Sequence[str] | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        check_column_map(self.columns)
        formats_of(self.time_format)
        if self.lookback is not None and self.window is None:
            raise DataError(f"lookback = {self.lookback} reaches back from a window; give window as well")
        if self.split_times is not None and len(self.split_times) not in (2, 3):
            raise DataError(
                f"split_times = {list(self.split_times)} must be the start of validation and the start of test "
                "(or three times: of training, validation and test)"
            )
        if self.observed is not None and (self.t_start is not None or self.t_end is not None):
            raise DataError("observed says where each window starts and ends; leave out t_start and t_end")
        if self.observed is not None and self.window is not None:
            raise DataError("observed and window both cut sequences into windows; give one of them")
        if self.min_mark_count is not None and self.min_mark_count < 1:
            raise DataError(f"min_mark_count = {self.min_mark_count} must be at least 1")
        if self.mark_bins is not None and any(b <= a for a, b in pairwise(self.mark_bins)):
            raise DataError(f"mark_bins = {list(self.mark_bins)} must be edges that increase")
        if self.mark_names is not None and (
            self.min_mark_count is not None or len(set(self.mark_names)) < len(self.mark_names)
        ):
            raise DataError(
                "mark_names names each mark once, and leaves nothing to min_mark_count; leave one of them out"
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or not self.delimiter.isascii()):
            raise DataError(f"delimiter = {self.delimiter!r} must be one ASCII character")

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            option.name: value for option in fields(self) if (value := getattr(self, option.name)) != option.default
        }

    def with_options(self, others: dict[str, Any]) -> ReadOptions:
        """Return these options and others beside them; the fields of `columns` are put together."""
        columns = {**(self.columns or {}), **others.get("columns", {})}
        return replace(self, **{**others, "columns": columns or None})

    @property
    def column_map(self) -> dict[str, str | None]:
        """`columns` as a dict; the command line spells None as a word."""
        return {name: None if column in ("null", "None") else column for name, column in (self.columns or {}).items()}

    @property
    def formats(self) -> tuple[str, ...]:
        """`time_format` as a tuple."""
        return formats_of(self.time_format)


READING = tuple(option.name for option in fields(ReadOptions))


@dataclass
class Context:
    """Holds what reading one source needs everywhere: its options, what is in the way, and notes for the user."""

    options: ReadOptions
    obstacles: Obstacles = dataclasses.field(default_factory=Obstacles)
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, source: str, text: str) -> None:
        """Add a note on a source, once."""
        if (line := f"{source}: {text}") not in self.notes:
            self.notes.append(line)

    def noter(self, place: str) -> Callable[[str], None]:
        """Return a function that adds notes on `place`."""
        return lambda text: self.note(place, text)
