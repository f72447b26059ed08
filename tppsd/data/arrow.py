"""Conversion of Arrow columns to flat arrays; a message names the place of the first value of a wrong type."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from tppsd.data.obstacles import quoted
from tppsd.data.units import as_number

Place = Callable[[int], str]  # position of a value -> words that say where it stands
EXACT = 2**53  # float64 holds every integer up to here
DATE_OR_CLOCK = re.compile(r"\d[-/.]\d+[-/.]\d|\d:\d\d")


class OpenTable:
    """Is an Arrow table whose columns are let go when they have been read, so that none is in memory twice for long.

    Args:
        table: a pyarrow.Table, which nobody else should hold.

    Attributes:
        num_rows: number of rows.
    """

    def __init__(self, table: Any) -> None:
        self._table, self.num_rows = table, int(table.num_rows)
        release_unused()  # what reading took

    @property
    def schema(self) -> Any:
        """The names and types of the columns that are left."""
        return self._table.schema

    @property
    def column_names(self) -> list[str]:
        """The names of the columns that are left."""
        return list(self._table.column_names)

    def __getitem__(self, name: str) -> Any:
        """Return a column, a pyarrow.ChunkedArray."""
        return self._table[name]

    def take(self, rows: np.ndarray) -> Any:
        """Return some rows of all columns, a pyarrow.Table."""
        return self._table.take(rows)

    def keep(self, names: Collection[str]) -> None:
        """Let go of all columns but these, for good."""
        self._table = self._table.select([i for i, name in enumerate(self.column_names) if name in names])
        release_unused()


def release_unused() -> None:
    """Give the memory of columns that are gone back to the system: Arrow would keep it for others."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def is_list(kind: Any) -> bool:
    """Say whether an Arrow type is one of lists."""
    from pyarrow import types

    return any(
        test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
    )


def list_lengths(column: Any, source: str, name: str, kind: str) -> np.ndarray:
    """Return the length of each row's list, int64 (num_rows,)."""
    import pyarrow.compute as pc

    if column.null_count:
        raise ValueError(f"{source}, row {first_null(column)}: {name} is missing; it must be a list of {kind}")
    lengths: np.ndarray = pc.list_value_length(column).to_numpy().astype(np.int64)
    return lengths


def to_objects(column: Any) -> np.ndarray:
    """Return the values of a column as objects; dates outside of the years 1 to 9999, which Python has not, as text."""
    try:
        return objects(column.to_pylist())
    except (OverflowError, ValueError):
        return objects(column.cast("string").to_pylist())


def objects(values: Sequence[Any]) -> np.ndarray:
    """Return an array of objects, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def ids_column(ids: Sequence[Any]) -> Any:
    """Return ids as an Arrow array: as they are where all have one type, else as text; None is null."""
    import pyarrow

    try:
        return pyarrow.array(ids)
    except (pyarrow.ArrowException, OverflowError):  # of several types, or integers beyond int64
        return text_column(ids)


def text_column(values: Sequence[Any]) -> Any:
    """Return values as an Arrow array of strings; None is null."""
    import pyarrow

    return pyarrow.array([None if one is None else str(one) for one in values], pyarrow.string())


def check_no_truth_values(values: Sequence[Any], kind: Any, place: Place) -> None:
    """Refuse true and false among numbers, of which Arrow makes 1 and 0.

    Args:
        values: of a column, numbers or lists of them.
        kind: the Arrow type that was found for them.
        place: of a row.
    """
    from pyarrow import types

    inner = kind.value_type if is_list(kind) else kind
    if not (types.is_integer(inner) or types.is_floating(inner)):
        return
    for row, value in enumerate(values):
        for i, one in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(one, bool):
                which = f"[{i}]" if isinstance(value, list) else ""
                raise ValueError(f"{place(row)}{which} = {str(one).lower()} stands among numbers; it must be a number")


def to_floats(values: Any, place: Place, missing: float | None = None) -> np.ndarray:
    """Return a float64 array; a missing value is an error unless `missing` says what it becomes."""
    from pyarrow import types

    values = plain(values)
    kind = values.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)):
        raise not_a_number(values, place)
    if values.null_count and missing is None:
        raise ValueError(f"{place(first_null(values))} is missing; it must be a finite number")
    if types.is_integer(kind):
        _check_exact(values, place)
    values = values.cast("float64")
    floats: np.ndarray = (values.fill_null(missing) if values.null_count else values).to_numpy()
    return floats


def not_a_number(values: Any, place: Place) -> ValueError:
    """Return the error for the first value of a column that holds no numbers."""
    from pyarrow import types

    kind = values.type
    if types.is_temporal(kind):
        values = values.cast("string")  # as_py() of nanoseconds needs pandas
    present = [(i, value) for i, value in enumerate(values.to_pylist()) if value is not None] or [(0, None)]
    i, value = next((pair for pair in present if as_number(pair[1]) is None), present[0])
    is_date = types.is_temporal(kind) or (isinstance(value, str) and DATE_OR_CLOCK.search(value))
    hint = (
        ", or a timestamp in ISO 8601 (another format is named by time_format, such as '%d %B %Y')" if is_date else ""
    )
    return ValueError(f"{place(i)} = {quoted(value)} has type {kind}; it must be a number{hint}")


def _check_exact(integers: Any, place: Place) -> None:
    numbers = integers.fill_null(0).to_numpy(zero_copy_only=False)
    if (i := first_true((numbers > EXACT) | (numbers < -EXACT))) is not None:
        raise ValueError(
            f"{place(i)} = {numbers[i]} is beyond 2^53, where float64 loses digits; subtract an origin, "
            "use a coarser unit, or say with time_format in which unit it counts from 1970"
        )


def shown(values: Any, i: int) -> str:
    """Return entry i to be quoted in a sentence; dates may lie beyond the years that Python knows."""
    from pyarrow import types

    entry = values.slice(i, 1)
    try:
        return quoted((entry.cast("string") if types.is_temporal(values.type) else entry)[0].as_py())
    except OverflowError:  # a date within a list or a struct
        return quoted(" ".join(entry.to_string().split()))


def to_marks(values: Any, place: Place) -> Any:
    """Return an Arrow array of int64 or strings."""
    from pyarrow import types

    values = plain(values)
    kind = values.type
    if values.null_count:
        raise ValueError(f"{place(first_null(values))} is missing; every event needs a mark")
    if types.is_string(kind) or types.is_large_string(kind):
        return values.cast("string")
    if not (types.is_integer(kind) or types.is_null(kind)):
        numbers = values.to_pylist() if types.is_floating(kind) else []
        i = next((i for i, value in enumerate(numbers) if not value.is_integer()), 0)
        raise ValueError(
            f"{place(i)} = {shown(values, i)} has type {kind}; marks must be integers 0..num_marks-1, "
            f"or strings{' (mark_bins makes marks of numbers)' if types.is_floating(kind) else ''}"
        )
    if types.is_uint64(kind) and (large := first_true(values.to_numpy(zero_copy_only=False) >= 2**63)) is not None:
        raise ValueError(
            f"{place(large)} = {values[large].as_py()} is out of range; marks must be integers 0..num_marks-1, or "
            "strings"
        )
    return values.cast("int64")


def to_positive_integers(values: Any, place: Place, minimum: int) -> np.ndarray:
    """Return an int64 array of integers that are at least `minimum`."""
    from pyarrow import types

    values = plain(values)
    if not types.is_integer(values.type):
        raise ValueError(f"{place(0)} = {shown(values, 0)} has type {values.type}; it must be an integer")
    if values.null_count:
        raise ValueError(f"{place(first_null(values))} is missing; it must be an integer")
    numbers: np.ndarray = values.to_numpy(zero_copy_only=False).astype(np.int64)
    if (i := first_true(numbers < minimum)) is not None:
        raise ValueError(f"{place(i)} = {numbers[i]}; it must be at least {minimum}")
    return numbers


def plain(values: Any) -> Any:
    """Return a column as one contiguous array, dictionary encoding (pandas categories) undone.

    That of a ChunkedArray has memory of its own; an Array that is plain is returned as it is.
    """
    import pyarrow

    kind = values.type.value_type if pyarrow.types.is_dictionary(values.type) else values.type
    kind = pyarrow.large_string() if str(kind) == "string_view" else kind
    if isinstance(values, pyarrow.Array) and values.type == kind:
        return values
    chunks = values.chunks if isinstance(values, pyarrow.ChunkedArray) else [values]
    return pyarrow.concat_arrays([chunk.cast(kind) for chunk in chunks]) if chunks else pyarrow.array([], kind)


def without_views(table: Any) -> Any:
    """Return a table whose texts lie one behind another: polars gives views of them, which few functions of Arrow know.

    Args:
        table: a pyarrow.Table.
    """
    import pyarrow

    text = pyarrow.large_string()

    def read(chunk: Any) -> Any:
        if pyarrow.types.is_dictionary(chunk.type):
            return pyarrow.DictionaryArray.from_arrays(chunk.indices, read(chunk.dictionary)).dictionary_decode()
        try:
            return chunk.cast(text)
        except pyarrow.ArrowNotImplementedError:  # in early versions with views
            return pyarrow.array(chunk.to_pylist(), text)

    for place, field in enumerate(table.schema):
        if "string_view" in str(field.type) and not is_list(field.type):
            column = pyarrow.chunked_array([read(chunk) for chunk in table[place].chunks], text)
            table = table.set_column(place, field.name, column)
    return table


def first_true(wrong: np.ndarray) -> int | None:
    """Return the position of the first entry that is true, None where none is."""
    return int(wrong.argmax()) if wrong.any() else None


def first_null(values: Any) -> int:
    """Return the position of the first missing value."""
    return int(np.asarray(values.is_null()).argmax())
