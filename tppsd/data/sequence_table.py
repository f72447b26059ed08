"""The events of one table in flat form, before they become sequences: one layout for every file format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tppsd.data.arrow import is_list, list_lengths, list_values, to_floats, to_marks, to_positive_integers
from tppsd.data.columns import SEQUENCE_COLUMNS, ColumnMap, resolve_columns


@dataclass(frozen=True)
class SequenceTable:
    """Sequences one after the other.

    Attributes:
        source: file or split, for messages.
        columns: field -> name of its column.
        event_times: float64 (num_events,).
        marks: Arrow array (num_events,) of int64 or strings, or None for unmarked events.
        offsets: int64 (num_sequences + 1,); sequence i holds the events offsets[i]:offsets[i+1].
        inter_times: float64 (num_events,), or None.
        t_start, t_end: float64 (num_sequences,) with NaN where there is none.
        num_marks: declared size of the mark vocabulary, or None.
        rows: row in the source of each sequence or, in an event table, of each event.
        sequence_ids: in an event table the ids, (num_sequences,).
    """

    source: str
    columns: dict[str, str]
    event_times: np.ndarray
    marks: Any
    offsets: np.ndarray
    inter_times: np.ndarray | None
    t_start: np.ndarray
    t_end: np.ndarray
    num_marks: int | None
    rows: np.ndarray
    sequence_ids: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (num_sequences,)."""
        return np.diff(self.offsets)

    def sequence_place(self, sequence: int) -> str:
        """Where a sequence stands, to begin a message with."""
        if self.sequence_ids is None:
            return f"{self.source}, row {self.rows[sequence]}"
        return f"{self.source}, sequence {self.sequence_ids[sequence]!r}"

    def event_place(self, event: int, field: str) -> str:
        """Where the value of `field` of an event stands, to begin a message with."""
        sequence = int(np.searchsorted(self.offsets, event, side="right")) - 1
        if self.sequence_ids is None:
            return f"{self.sequence_place(sequence)}: {self.columns[field]}[{event - self.offsets[sequence]}]"
        return (
            f"{self.source}, row {self.rows[event]} (sequence {self.sequence_ids[sequence]!r}): {self.columns[field]}"
        )

    def part(self, start: int, stop: int) -> SequenceTable:
        """The sequences start:stop."""
        events, sequences = slice(int(self.offsets[start]), int(self.offsets[stop])), slice(start, stop)
        return replace(
            self,
            event_times=self.event_times[events],
            marks=None if self.marks is None else self.marks[events],
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            inter_times=None if self.inter_times is None else self.inter_times[events],
            t_start=self.t_start[sequences],
            t_end=self.t_end[sequences],
            rows=self.rows[sequences] if self.sequence_ids is None else self.rows[events],
            sequence_ids=None if self.sequence_ids is None else self.sequence_ids[sequences],
        )


def from_sequence_rows(source: str, table: Any, column_map: ColumnMap) -> SequenceTable:
    """Read a table with one row per sequence and lists in the columns of times and marks."""
    columns = resolve_columns(source, table.column_names, column_map, SEQUENCE_COLUMNS)
    lengths = _check_lengths(source, table, columns)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def event_place(field: str, event: int) -> str:
        row = int(np.searchsorted(offsets, event, side="right")) - 1
        return f"{source}, row {row}: {columns[field]}[{event - offsets[row]}]"

    def floats(field: str) -> np.ndarray | None:
        if field not in columns:
            return None
        return to_floats(list_values(table[columns[field]]), lambda event: event_place(field, event))

    times = floats("time")
    assert times is not None  # a required column
    marks = None
    if "mark" in columns:
        marks = to_marks(list_values(table[columns["mark"]]), lambda event: event_place("mark", event))
    return SequenceTable(
        source=source,
        columns=columns,
        event_times=times,
        marks=marks,
        offsets=offsets,
        inter_times=floats("inter_time"),
        t_start=window_column(source, table, columns, "t_start"),
        t_end=window_column(source, table, columns, "t_end"),
        num_marks=declared_num_marks(source, table, columns),
        rows=np.arange(table.num_rows),
    )


def _check_lengths(source: str, table: Any, columns: dict[str, str]) -> np.ndarray:
    """int64 (num_sequences,): the common length of each row's lists."""
    lengths = {}
    for field in ("time", "mark", "inter_time"):
        if field in columns:
            name, kind = columns[field], "integers or strings" if field == "mark" else "numbers"
            if not is_list(table[name].type):
                raise ValueError(
                    f"{source}, row 0: {name} = {table[name][0].as_py()!r} has type {table[name].type}; "
                    f"it must be a list of {kind} "
                    "(a table with one row per event names its sequences with columns={'sequence': ...})"
                )
            lengths[name] = list_lengths(table[name], source, name, kind)
    if "length" in columns:
        name = columns["length"]
        lengths[name] = to_positive_integers(table[name], lambda row: f"{source}, row {row}: {name}", minimum=0)
    first = next(iter(lengths))
    for name, values in lengths.items():
        if (values != lengths[first]).any():
            row = int((values != lengths[first]).nonzero()[0][0])
            says = f"says {values[row]}" if name == columns.get("length") else f"has {values[row]}"
            raise ValueError(
                f"{source}, row {row}: {first} has {lengths[first][row]} values and {name} {says}; "
                "the lengths of a row must agree"
            )
    return lengths[first]


def window_column(source: str, table: Any, columns: dict[str, str], field: str) -> np.ndarray:
    """float64 (num_rows,): a column of window starts or ends, NaN where there is none."""
    if field not in columns:
        return np.full(table.num_rows, np.nan)
    name = columns[field]
    values = to_floats(table[name], lambda row: f"{source}, row {row}: {name}", missing=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.nonzero()[0][0])
        raise ValueError(
            f"{source}, row {row}: {name} is {values[row]}; it must be a finite number, or empty where the window is not known"
        )
    return values


def declared_num_marks(source: str, table: Any, columns: dict[str, str]) -> int | None:
    """The one value of the column that declares the number of marks."""
    name = columns.get("num_marks")
    if name is None or table[name].null_count == table.num_rows:
        return None
    values = to_positive_integers(table[name], lambda row: f"{source}, row {row}: {name}", minimum=1)
    if (values != values[0]).any():
        row = int((values != values[0]).nonzero()[0][0])
        raise ValueError(
            f"{source}, row {row}: {name} = {values[row]}, but row 0 has {values[0]}; "
            "every row must have the same number of marks"
        )
    return int(values[0])
