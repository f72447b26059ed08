"""The mark vocabulary: made from the training split, applied to every split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np

from tppsd.data.arrow import Place, first_null, first_true, plain, to_floats, to_marks
from tppsd.data.obstacles import DataError, brief, nearest, quoted
from tppsd.data.options import ReadOptions
from tppsd.data.sequence_table import SequenceTable
from tppsd.data.statistics import MOST_MARKS

LARGE, SPARSE = 1000, 20  # integers are taken for IDs if they make more than 1000 marks and 20 times those that occur
SHOWN = 6  # names in a message
OTHER = "other"  # the mark of all rare ones


def read_marks(values: Any, place: Place, options: ReadOptions) -> Any:
    """Return a column of marks as an Arrow array of int64 or strings.

    Missing ones become `missing_mark`, numbers become `mark_bins`.

    Raises:
        ValueError: a mark is missing and nothing is said of it, or the column holds no marks; the row is named.
    """
    values, missing_mark = plain(values), options.missing_mark
    if options.mark_bins is not None:
        return bin_marks(values, place, options.mark_bins)
    if values.null_count == 0 or len(values) == 0:
        return to_marks(values, place)
    if missing_mark is None:
        many = f", {values.null_count:,} of {len(values):,} are missing" if values.null_count > 1 else ""
        raise DataError(
            f"{place(first_null(values))} is missing; every event needs a mark{many}: missing_mark: NAME makes it a "
            "mark of its own",
            missing_mark="missing",
        )
    present = values.drop_null()
    if str(present.type) in ("double", "float") and bool((np.asarray(present) == np.rint(np.asarray(present))).all()):
        values, present = values.cast("int64"), present.cast("int64")  # what pandas makes of integers with gaps
    to_marks(present, lambda i: place(int(np.flatnonzero(np.asarray(values.is_valid()))[i])))  # refuses what is no mark
    return values.cast("string").fill_null(missing_mark)


def bin_marks(values: Any, place: Place, edges: Sequence[float]) -> Any:
    """Return the bin [edges[k], edges[k + 1]) of each number, an Arrow array of int64; the last has no upper edge.

    Raises:
        ValueError: a value is missing, no number, or below the first edge; the row is named.
    """
    import pyarrow

    numbers = to_floats(values, place)
    marks = np.searchsorted(np.asarray(edges, dtype=np.float64), numbers, side="right") - 1
    if (i := first_true((marks < 0) | ~np.isfinite(numbers))) is not None:
        raise DataError(f"{place(i)} = {numbers[i]} lies in none of mark_bins, which begin at {edges[0]:g}")
    return pyarrow.array(marks)


def bin_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Return the names of the bins, such as "[1, 1.5)" and "[1.5, inf)"."""
    return tuple(f"[{low:g}, {high:g})" for low, high in pairwise([*edges, float("inf")]))


def lower_edges(names: Sequence[str] | None) -> tuple[float, ...] | None:
    """Return the lower edges of marks that are the bins of `bin_names`, by their names; None: they are something else.

    An edge is known to the six digits of its name.
    """
    try:
        edges = tuple(float(name.removeprefix("[").split(",")[0]) for name in names or ())
    except ValueError:  # no number
        return None
    return edges if edges and bin_names(edges) == tuple(names or ()) else None


@dataclass(frozen=True)
class MarkVocabulary:
    """Holds `num_marks` marks.

    With `names`, mark k is the type names[k], otherwise marks are the integers of the data.

    `declared` says that the data themselves declare `num_marks`; otherwise it is what the training split has.
    `has_other` says that the last mark is "other", which takes every type that has no mark of its own; `is_fixed`, that
    the names come from the option `mark_names`.
    """

    num_marks: int
    names: tuple[str, ...] | None = None
    declared: bool = False
    has_other: bool = False
    is_fixed: bool = False

    @classmethod
    def of(
        cls, train: SequenceTable, min_mark_count: int | None = None, mark_names: Sequence[str] | None = None
    ) -> MarkVocabulary:
        """Return the vocabulary of the training split.

        It has the sorted string types; for integers the declared number of marks, or the largest mark + 1. With
        `min_mark_count`, types are those with so many events or more, and "other"; with `mark_names`, these.
        """
        if train.marks is None:
            return cls(1, declared=True)
        if mark_names is not None:
            if not mark_names:
                raise DataError("mark_names is empty; name the marks, or leave it out")
            return cls(len(mark_names), tuple(mark_names), has_other=mark_names[-1] == OTHER, is_fixed=True)
        names = None if train.own is None else train.own.mark_names
        if names is not None and str(train.marks.type) == "int64" and min_mark_count is None:
            return cls(len(names), names, declared=True)
        if min_mark_count is not None:
            frequent = _frequent_types(train, min_mark_count)
            return cls(len(frequent) + 1, (*frequent, OTHER), has_other=True)
        if str(train.marks.type) == "string":
            names = tuple(sorted(train.marks.unique().to_pylist()))
            return cls(len(names), names)
        if train.num_marks is not None:
            if train.num_marks > MOST_MARKS:
                raise ValueError(
                    f"{train.source}: {train.columns['num_marks']} = {train.num_marks:,}; "
                    f"there must be at most {MOST_MARKS:,} marks"
                )
            return cls(train.num_marks, declared=True)
        num_marks = int(np.max(train.marks.to_numpy(), initial=0)) + 1
        if num_marks > LARGE:
            _check_not_ids(train, num_marks)
        return cls(num_marks)

    def encode(self, table: SequenceTable) -> np.ndarray:
        """Return the marks of `table`, 0..num_marks-1, int64 (num_events,)."""
        if table.marks is None:
            return np.zeros(len(table.event_times), dtype=np.int64)
        if self.declared and table.num_marks not in (None, self.num_marks):
            name = table.columns["num_marks"]
            raise ValueError(
                f"{table.source}: {name} = {table.num_marks}, but the training split has {self.num_marks}; they must "
                "be equal"
            )
        is_own = self.declared and self.names is not None  # of a canonical file: integers that have names
        return self._encode_integers(table) if self.names is None or is_own else self._encode_names(table)

    def _encode_names(self, table: SequenceTable) -> np.ndarray:
        import pyarrow
        import pyarrow.compute as pc

        types = types_of(table)
        codes = pc.index_in(types, value_set=pyarrow.array(self.names))
        if self.has_other:
            codes = codes.fill_null(self.num_marks - 1)
        if codes.null_count:
            i = first_null(codes)
            if self.is_fixed:
                raise DataError(
                    f"{table.event_place(i, 'mark')} = {quoted(types[i].as_py())} is none of mark_names, which are "
                    f"{_shown(self.names or ())}{nearest(types[i].as_py(), self.names or ())}"
                )
            raise DataError(
                f"{table.event_place(i, 'mark')} = {quoted(types[i].as_py())} does not occur in the training split; it "
                f"must be one of {_shown(self.names or ())}, or the training split must have "
                f"it; min_mark_count: 1 reads it as {OTHER!r}",
                min_mark_count=1,
            )
        encoded: np.ndarray = codes.to_numpy().astype(np.int64)
        return encoded

    def _encode_integers(self, table: SequenceTable) -> np.ndarray:
        if str(table.marks.type) == "string":
            raise ValueError(
                f"{table.event_place(0, 'mark')} = {quoted(table.marks[0].as_py())} is a string, but the training "
                "split has integer marks"
            )
        marks: np.ndarray = table.marks.to_numpy()
        if (i := first_true((marks < 0) | (marks >= self.num_marks))) is not None:
            origin = "" if self.declared else " (from the training split; a column dim_process would declare more)"
            raise ValueError(
                f"{table.event_place(i, 'mark')} = {marks[i]} is out of range; marks must be "
                f"0..{self.num_marks - 1}{origin}"
            )
        return marks


def types_of(table: SequenceTable) -> Any:
    """Return the marks of a table by their names, an Arrow array of strings (num_events,)."""
    import pyarrow

    names = None if table.own is None else table.own.mark_names
    if names is None or str(table.marks.type) != "int64":
        return table.marks.cast("string")
    return pyarrow.array(names).take(table.marks)


def _frequent_types(train: SequenceTable, min_mark_count: int) -> list[str]:
    """Return the sorted types with at least `min_mark_count` events of the training split that are not given."""
    import pyarrow

    own = ~(train.event_times < np.repeat(train.score_start, train.lengths))
    counts = types_of(train).filter(pyarrow.array(own)).value_counts()
    return sorted(
        count["values"].as_py()
        for count in counts
        if count["counts"].as_py() >= min_mark_count and count["values"].as_py() != OTHER
    )


def check_mark_names(known: tuple[str, ...] | None, found: tuple[str, ...] | None, whose: str) -> None:
    """Refuse data whose mark names are not those that a model (`whose`) knows.

    Without names there is nothing to compare.
    """
    if known is None or found is None or known == found:
        return
    first_difference = next(i for i, names in enumerate(zip_longest(known, found)) if names[0] != names[1])
    start = max(0, first_difference + 1 - SHOWN)
    raise ValueError(
        f"{whose} was trained with the marks {_shown(known, start)}, but the data have {_shown(found, start)}; "
        "a model knows the marks of its training split, in their order"
    )


def _check_not_ids(train: SequenceTable, num_marks: int) -> None:
    """Refuse integers that are IDs.

    A model with a mark for every integer up to the largest ID would exhaust the memory.
    """
    marks = train.marks.to_numpy()
    num_distinct = len(np.unique(marks))
    if num_marks > SPARSE * num_distinct:
        largest = num_marks - 1
        raise ValueError(
            f"{train.event_place(int(marks.argmax()), 'mark')} = {largest} is the largest of {num_distinct} distinct "
            "marks and "
            f"would make {num_marks} of them; give IDs as strings such as 'id{largest}', which are numbered by type, "
            "or declare the number of marks in a column dim_process"
        )


def _shown(names: tuple[str, ...], start: int = 0) -> str:
    """Return at most SHOWN names from `start`, for a message."""
    stop = start + SHOWN
    return ", ".join([*["..."] * (start > 0), *map(brief, names[start:stop]), *["..."] * (len(names) > stop)])
