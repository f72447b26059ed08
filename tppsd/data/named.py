"""Histories and times in the words of a model's data: mark names and timestamps become its marks and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tppsd.data.log import read_log
from tppsd.data.obstacles import DataError
from tppsd.data.options import EVENT_COLUMNS, LIKELY, ReadOptions
from tppsd.data.reading import to_dataset
from tppsd.data.sequences import EventSequence
from tppsd.data.stamps import as_trained, clock_of_model
from tppsd.data.statistics import DataStatistics
from tppsd.data.tables import to_arrow
from tppsd.data.units import check_time_unit

_LIBRARIES = ("pandas", "polars", "pyarrow", "datasets")
_ONE = "sequence"  # the column of ids that a table of one history gets


def is_table(source: Any) -> bool:
    """Say whether an object is a table of pandas, polars, Arrow or datasets."""
    is_known = type(source).__module__.split(".")[0] in _LIBRARIES
    return hasattr(source, "__arrow_c_stream__") or (is_known and hasattr(source, "columns"))


def read_histories(source: Any, target: Any, **options: Any) -> list[EventSequence]:
    """Read histories in the words of a model's data: names become its marks, timestamps times on its clock.

    A history and its numbers are the same to the last bit, however it is given. A table without a column of sequences
    is one history.

    Args:
        source: what `EventDataModule` reads: a table of pandas, polars, Arrow or datasets with the columns sequence,
            time and mark (or as `columns` says), a file, a folder, a hub id or a URL.
        target: the model, or the DataStatistics of its data.
        options: of reading, as of EventDataModule; `t_end` says until when the histories were observed (default: until
            their last events).

    Returns:
        The histories, in the order of their first rows, with their ids.

    Raises:
        ValueError: a mark or a unit is not one of the model's, or something else stands in the way; the sentence says
            what, and the nearest names.
    """
    statistics = target if isinstance(target, DataStatistics) else getattr(target, "statistics", None)
    clock, has_id = clock_of_model(statistics), True
    if is_table(source):
        source, has_id = _with_ids(to_arrow(source), options.get("columns") or {})
    if statistics is not None:
        check_time_unit(statistics.time_unit, options.get("time_unit"), "the model")
        options = as_trained(statistics, {"window": None} | options)  # a history is whole
    try:
        log = read_log(source, ReadOptions(**options), is_split=False)
    except DataError as error:
        if clock.has_dates and str(error).startswith("origin = "):
            raise ValueError(
                f"the history's times are numbers, and the model's are timestamps (in {clock.unit} since "
                f"{statistics.time_origin if statistics is not None else None}); give timestamps, or say with "
                "time_format how the numbers count"
            ) from None
        raise
    if statistics is not None and log.clock.has_dates and not clock.has_dates:
        raise ValueError(
            "the history has timestamps, and the times of the model's data are numbers "
            f"(unit: {statistics.time_unit or 'not known'}); give numbers"
        )
    found = to_dataset(log).sequences("train")
    return list(found) if has_id else [replace(one, id=None) for one in found]


def named_history(
    target: Any,
    times: Sequence[Any],
    marks: Sequence[Any] | None = None,
    t_start: float | str | None = None,
    t_end: float | str | None = None,
    id: Any = None,
) -> EventSequence:
    """Return one history of a model, from lists of times and marks by name.

    Args:
        target: the model, or the DataStatistics of its data.
        times: timestamps, as text in ISO 8601 or as objects, or numbers where the model's data have numbers.
        marks: names; None = unmarked.
        t_start: start of its window; without one the first event is given.
        t_end: until when it was observed (default: until the last event).
        id: what its owner calls it.

    Raises:
        ValueError: as `read_histories`.
    """
    import pyarrow

    columns: dict[str, Any] = {"time": pyarrow.array(list(times))}
    if marks is not None:
        columns["mark"] = pyarrow.array(list(marks))
    unmarked = {} if marks is not None else {"columns": {"mark": None}}
    (found,) = read_histories(pyarrow.table(columns), target, t_start=t_start, t_end=t_end, **unmarked)
    return replace(found, id=id)


def _with_ids(table: Any, columns: dict[str, str | None]) -> tuple[Any, bool]:
    """Return a table with a column of sequences, and whether it is its own; without one all rows are one history.

    A column by another name that may well be one is left for its owner to name.
    """
    import pyarrow

    names = {name.lower() for name in table.column_names}
    known = {*EVENT_COLUMNS["sequence"], *LIKELY["sequence"]}
    is_sequence_rows = any(pyarrow.types.is_nested(field.type) for field in table.schema)
    if "sequence" in columns or names & known or is_sequence_rows:
        return table, True
    return table.append_column(_ONE, pyarrow.array(np.zeros(table.num_rows, dtype=np.int64))), False
