"""The order of events within sequences: rows that go back in time, exact duplicates, ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tppsd.data.obstacles import DataError, quoted
from tppsd.data.options import Context
from tppsd.data.units import to_text


@dataclass(frozen=True)
class Order:
    """Holds rows of an event table, grouped by sequence and in the order of their events.

    Attributes:
        rows: int64, sequence after sequence; without the duplicates where those are dropped.
        num_duplicates: rows that are equal to an earlier one in all columns.
    """

    rows: np.ndarray
    num_duplicates: int

    @classmethod
    def of(
        cls,
        source: str,
        table: Any,
        columns: dict[str, str],
        times: np.ndarray,
        codes: np.ndarray,
        ids: np.ndarray,
        context: Context,
    ) -> Order:
        """Sort the rows by sequence and, if `sort` is set, by time; note the first row that goes back if it is not.

        Args:
            source, table, columns: the source's name, its Arrow table, and field -> column name.
            times, codes: of each row its time (ticks) and the number of its sequence.
            ids: the id of each sequence.
            context: takes the obstacle; sorted rows are returned all the same.
        """
        rows = np.argsort(codes, kind="stable")
        if _goes_back(times[rows], codes[rows]).any():
            if not context.options.sort:
                context.obstacles.add(_unsorted(source, columns, times, codes, ids, rows))
            rows = np.lexsort((times, codes))
        is_duplicate = _duplicates(table, times, codes, rows)
        num_duplicates = int(is_duplicate.sum())
        if num_duplicates and context.options.drop_duplicates:
            rows = rows[~is_duplicate[rows]]
            context.note(source, f"dropped {num_duplicates:,} rows that were exact copies of others")
        elif num_duplicates:
            context.note(
                source,
                f"{num_duplicates:,} of {table.num_rows:,} rows are exact copies of others, and are kept as events; "
                "drop_duplicates: true drops them",
            )
        return cls(rows, num_duplicates)


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


def _duplicates(table: Any, times: np.ndarray, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a mask (num_rows,) of rows that are equal to an earlier row in all columns; only ties can be."""
    is_tie = np.zeros(len(rows), dtype=bool)
    is_tie[1:] = (times[rows][1:] == times[rows][:-1]) & (codes[rows][1:] == codes[rows][:-1])
    is_tie[:-1] |= is_tie[1:].copy()  # the first of each group, too
    tied = np.sort(rows[is_tie])
    is_duplicate = np.zeros(table.num_rows, dtype=bool)
    if len(tied):
        frame = table.select(range(table.num_columns)).take(tied).to_pandas()
        frame.columns = range(table.num_columns)  # names may occur twice
        is_duplicate[tied] = frame.astype(str).duplicated().to_numpy()
    return is_duplicate
