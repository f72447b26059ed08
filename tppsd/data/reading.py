"""Read a data set of event sequences from files or from the hub: open, group, check, encode marks, build sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tppsd.data.checks import check_values
from tppsd.data.columns import ColumnMap, candidate_names, check_column_map
from tppsd.data.event_table import from_event_rows, is_event_table
from tppsd.data.marks import MarkVocabulary
from tppsd.data.sequence_table import SequenceTable, from_sequence_rows
from tppsd.data.sequences import EventSequence
from tppsd.data.tables import SPLITS, open_tables, split_name

FRACTIONS = (0.8, 0.1, 0.1)
ROUNDING = (
    4 * torch.finfo(torch.float64).eps
)  # relative to the time: how far a given inter-time may lie from the difference


@dataclass(frozen=True)
class EventDataset:
    """A data set in splits; `index` of a sequence is its position in its split.

    Attributes:
        name: short name of the data set.
        splits: split -> sequences; "train" is always there.
        num_marks: size of the mark vocabulary (1 = unmarked).
        mark_names: string types of the data in the order of the marks, or None.
        notes: what a user should be told (files that were ignored).
    """

    name: str
    splits: dict[str, list[EventSequence]]
    num_marks: int
    mark_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def sequences(self, split: str) -> list[EventSequence]:
        """The sequences of train, validation (val, valid, dev) or test."""
        name = split_name(split)
        if name not in self.splits:
            raise ValueError(f"{self.name}: there is no {name} split; there is {', '.join(self.splits)}")
        return self.splits[name]


def read_dataset(
    path: str | Path,
    *,
    columns: ColumnMap | None = None,
    fractions: Sequence[float] = FRACTIONS,
    t_start: float | None = None,
    t_end: float | None = None,
) -> EventDataset:
    """Read the data set at `path`.

    Args:
        path: folder of split files or of `DatasetDict.save_to_disk`, one file (Parquet, JSON, JSON lines, CSV), or a
            hub id.
        columns: field -> column name where names are not the default ones (`tppsd.data.columns`); None = do not read
            it.
        fractions: shares of train, validation and test, cut in file order, where there is only one table.
        t_start, t_end: window of every sequence where the data have no columns for it.
    """
    column_map = check_column_map(columns)
    opened = open_tables(path, candidate_names(column_map))
    tables = {}
    for split, (source, table) in opened.tables.items():
        tables[split] = _with_window(_flatten(source, table, column_map), t_start, t_end)
        check_values(tables[split])
    whole = tables.get(None)
    if whole is None:
        parts = {split: tables[split] for split in SPLITS if split in tables}
    else:
        parts = {split: whole.part(*edges) for split, edges in cut(len(whole), fractions, whole.source).items()}
    vocabulary = MarkVocabulary.of(parts["train"])
    splits = {split: _sequences(part, vocabulary.encode(part)) for split, part in parts.items()}
    return EventDataset(opened.name, splits, vocabulary.num_marks, vocabulary.names, opened.notes)


def cut(num_sequences: int, fractions: Sequence[float], source: str) -> dict[str, tuple[int, int]]:
    """split -> (start, stop) of `num_sequences` sequences cut in order; none may be empty."""
    if (
        len(fractions) != 3
        or not all(0 < share < 1 for share in fractions)
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            f"fractions = {tuple(fractions)} must be three positive shares of train, validation and test that sum to 1"
        )
    edges = [0, *(round(num_sequences * share) for share in (fractions[0], fractions[0] + fractions[1])), num_sequences]
    splits = dict(zip(SPLITS, pairwise(edges), strict=True))
    for split, (start, stop) in splits.items():
        if start == stop:
            raise ValueError(
                f"{source}: fractions = {tuple(fractions)} of {num_sequences} sequences leave the {split} split empty; "
                "a split needs at least one"
            )
    return splits


def _flatten(source: str, table: Any, column_map: ColumnMap) -> SequenceTable:
    if table.num_rows == 0:
        raise ValueError(f"{source}: has no rows; a split needs at least one sequence")
    return (from_event_rows if is_event_table(table, column_map) else from_sequence_rows)(source, table, column_map)


def _with_window(table: SequenceTable, t_start: float | None, t_end: float | None) -> SequenceTable:
    """Set the window of every sequence; data that have their own keep it, and both at once is an error."""
    for field, value in (("t_start", t_start), ("t_end", t_end)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{field} = {value} must be a finite number")
        if value is not None and field in table.columns:
            raise ValueError(
                f"{table.source}: has a column {table.columns[field]} and the option {field} = {value} is given; "
                f"leave out the option, or the column with columns={{{field!r}: None}}"
            )
    starts = table.t_start if t_start is None else np.full(len(table), float(t_start))
    ends = table.t_end if t_end is None else np.full(len(table), float(t_end))
    return replace(table, t_start=starts, t_end=ends)


def _sequences(table: SequenceTable, marks: np.ndarray) -> list[EventSequence]:
    """One EventSequence per sequence, on memory of its own (a view would be pickled with its whole table)."""
    inter_times = torch.from_numpy(_inter_times(table))
    lengths = table.lengths.tolist()
    flat = (torch.from_numpy(table.event_times), torch.from_numpy(marks), inter_times)
    rows = zip(*(values.split(lengths) for values in flat), table.t_start.tolist(), table.t_end.tolist(), strict=True)
    return [
        EventSequence(
            event_times.clone(),
            row_marks.clone(),
            _finite_or_none(start),
            _finite_or_none(end),
            index,
            row_inter_times.clone(),
        )
        for index, (event_times, row_marks, row_inter_times, start, end) in enumerate(rows)
    ]


def _inter_times(table: SequenceTable) -> np.ndarray:
    """float64 (num_events,): differences of the times or, where it agrees with them up to rounding, the finer value of
    the " "data."""
    times, first = table.event_times, table.offsets[:-1][table.lengths > 0]
    inter_times = np.diff(times, prepend=0.0)
    window_start = table.t_start[table.lengths > 0]
    inter_times[first] = np.where(np.isnan(window_start), 0.0, times[first] - window_start)
    if table.inter_times is None:
        return inter_times
    agrees = np.abs(table.inter_times - inter_times) <= ROUNDING * np.abs(times)
    return np.where(agrees, table.inter_times, inter_times)


def _finite_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
